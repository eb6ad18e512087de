//! Tokens and key sets: whatever the words are, nothing counts that is not signed, in time, by the
//! issuer and clear; no key verifies that was not in the set.

use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use agent_model::authentication::{Authentication, JwtRule, KeySource};
use agent_policy::jwt::{Authenticator, Cache, Carrier, KeySet, Refusal};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

pub(super) const WORDS: &[&str] = &[
    "\n",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\u0000",
    "\"alg\":\"EdDSA\"",
    "\"alg\":\"none\"",
    "\"alg\":\"HS256\"",
    "\"crit\":[]",
    "\"kid\":\"k\"",
    "\"iss\":\"i\"",
    "\"sub\":\"s\"",
    "\"aud\":\"a\"",
    "\"aud\":[\"a\",7]",
    "\"exp\":1800000000",
    "\"nbf\":1800000000",
    "1e400",
    "-1",
    "null",
    "true",
    "0.5",
];

pub(super) const KEY_WORDS: &[&str] = &[
    "{\"keys\":[",
    "]}",
    ",",
    "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"",
    "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw",
    "\"}",
    "\"kty\":\"RSA\"",
    "\"kty\":\"EC\"",
    "\"kty\":\"oct\"",
    "\"crv\":\"P-256\"",
    "\"use\":\"sig\"",
    "\"use\":\"enc\"",
    "\"alg\":\"EdDSA\"",
    "\"d\":\"AA\"",
    "\"n\":\"",
    "\"e\":\"AQAB\"",
    "\"key_ops\":[\"verify\"]",
];

const NOW: u64 = 1_800_000_000;

/// The first line is the header, the rest the claims; they are signed as they are. The bytes are
/// tried as a token of their own as well.
pub(super) fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(
        look(&keys(), Some("a"), &text).is_err(),
        "nobody signed this"
    );
    let (header, claims) = text.split_once('\n').unwrap_or((&text, ""));
    let token = sign(header, claims);
    let accepted = look(&keys(), Some("a"), &token);
    if accepted.is_ok() {
        is_clear(header, claims);
    }
    let (signed, _) = token.rsplit_once('.').expect("three parts");
    let zeros = BASE64_URL_SAFE_NO_PAD.encode([0; 64]);
    for forged in [
        format!("{signed}.{zeros}"),
        format!("{signed}."),
        format!("{token}."),
    ] {
        assert!(
            look(&keys(), Some("a"), &forged).is_err(),
            "{header} {claims}"
        );
    }
}

/// The bytes are a key set: a token counts only where its signer's key is written in it.
pub(super) fn key_set(bytes: &[u8]) {
    let Ok(set) = KeySet::parse(bytes) else {
        return;
    };
    let parsed: Value = serde_json::from_slice(bytes).expect("a key set is JSON");
    let entries = parsed["keys"].as_array().expect("a key set has keys").len();
    assert_eq!(set.len() + set.skipped().len(), entries);
    let text = String::from_utf8_lossy(bytes);
    let token = sign(r#"{"alg":"EdDSA"}"#, r#"{"iss":"i"}"#);
    if look(&text, None, &token).is_ok() {
        let own = public_key();
        let has_it = |key: &Value| {
            let text = |name: &str| key.get(name).and_then(Value::as_str).map(str::to_owned);
            text("x").as_ref() == Some(&own)
                && text("kty").as_deref() == Some("OKP")
                && text("use").is_none_or(|usage| usage == "sig")
                && key.get("d").is_none()
        };
        let keys = parsed["keys"].as_array().expect("a list");
        assert!(keys.iter().any(has_it), "{text}");
    }
}

/// What an accepted token has to be, by another reader of JSON.
fn is_clear(header: &str, claims: &str) {
    let header: Value = serde_json::from_str(header).expect("a header is JSON");
    assert!(
        header["alg"] == "EdDSA" || header["alg"] == "Ed25519",
        "{header}"
    );
    assert!(header.get("crit").is_none(), "{header}");
    let claims: Value = serde_json::from_str(claims).expect("claims are JSON");
    assert_eq!(claims["iss"], "i");
    let time = |name: &str| {
        let time = claims.get(name);
        time.map(|value| value.as_f64().expect("a time is a number"))
    };
    let now = 1_800_000_000.0;
    assert!(
        time("exp").is_none_or(|exp| exp >= 0.0 && exp + 60.0 >= now),
        "{claims}"
    );
    assert!(
        time("nbf").is_none_or(|nbf| nbf >= 0.0 && nbf <= now + 61.0),
        "{claims}"
    );
    let audience = match &claims["aud"] {
        Value::Array(list) => list.contains(&Value::from("a")),
        one => *one == "a",
    };
    assert!(audience, "{claims}");
}

/// Whether a request with this token passes, and has one.
fn look(keys: &str, audience: Option<&str>, token: &str) -> Result<(), Refusal> {
    let Ok(value) = HeaderValue::try_from(format!("Bearer {token}")) else {
        return Err(Refusal::Malformed("no header"));
    };
    let mut headers = HeaderMap::new();
    headers.insert("authorization", value);
    let carrier = Carrier {
        headers: &headers,
        query: None,
    };
    let (authenticator, _) = Authenticator::compile([&policy(keys, audience)]);
    let mut cache = Cache::new(2, 1024 * 1024);
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    let first = authenticator.authenticate(carrier, |_| None, &mut cache, now);
    let first = first.map(|found| found.map(|found| found.token));
    let second = authenticator.authenticate(carrier, |_| None, &mut cache, now);
    let second = second.map(|found| found.map(|found| found.token));
    assert_eq!(first, second, "what is kept says the same");
    first.map(|_| ()).map_err(|refused| refused.why)
}

fn policy(keys: &str, audience: Option<&str>) -> Authentication {
    Authentication {
        name: "p".into(),
        namespace: "n".into(),
        targets: vec![],
        rules: vec![JwtRule {
            issuer: "i".to_owned(),
            audiences: audience.map(str::to_owned).into_iter().collect(),
            keys: KeySource::Inline(keys.into()),
            from_headers: vec![],
            from_params: vec![],
            from_cookies: vec![],
            output_payload_to_header: None,
            output_claim_to_headers: vec![],
            forward_original_token: false,
            space_delimited_claims: vec![],
        }],
    }
}

fn signer() -> &'static Ed25519KeyPair {
    static SIGNER: OnceLock<Ed25519KeyPair> = OnceLock::new();
    SIGNER.get_or_init(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed"))
}

fn public_key() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(signer().public_key())
}

fn keys() -> String {
    let x = public_key();
    format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{x}"}}]}}"#)
}

fn sign(header: &str, claims: &str) -> String {
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = signer().sign(signed.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
