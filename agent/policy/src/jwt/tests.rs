//! Tokens that hold, and every way in which they do not (F-81).

mod figures;
mod issuer;
mod key_sets;
mod keys;
mod requests;
mod vectors;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_model::authentication::{Authentication, JwtRule, KeySource};
use http::{HeaderMap, HeaderValue};

use super::*;
use issuer::{Issuer, base64, issuer};

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn rule(keys: &str) -> JwtRule {
    JwtRule {
        issuer: "https://issuer".to_owned(),
        audiences: vec![],
        keys: KeySource::Inline(keys.into()),
        from_headers: vec![],
        from_params: vec![],
        from_cookies: vec![],
        output_payload_to_header: None,
        output_claim_to_headers: vec![],
        forward_original_token: false,
        space_delimited_claims: vec![],
    }
}

fn authenticator(rules: Vec<JwtRule>) -> Authenticator {
    let policy = Authentication {
        name: "tokens".into(),
        namespace: "shop".into(),
        targets: vec![],
        rules,
    };
    let (authenticator, faults) = Authenticator::compile([&policy]);
    assert_eq!(faults, []);
    authenticator
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    headers.insert("authorization", value);
    headers
}

/// The principal of a token, or why it does not count.
fn judge(rules: Vec<JwtRule>, token: &str, now: u64) -> Result<String, Refusal> {
    let authenticator = authenticator(rules);
    let headers = bearer(token);
    let carrier = Carrier {
        headers: &headers,
        query: None,
    };
    let mut cache = Cache::default();
    let judged = authenticator.authenticate(carrier, |_| None, &mut cache, at(now));
    assert_eq!(cache.is_empty(), judged.is_err(), "only what holds is kept");
    let found = judged.map_err(|refused| refused.why)?.expect("a token");
    Ok(found.token.principal().unwrap_or("-").to_owned())
}

fn check(token: &str) -> Result<String, Refusal> {
    judge(vec![rule(&issuer().key_set())], token, NOW)
}

fn claims(more: &str) -> String {
    format!(
        r#"{{"iss":"https://issuer","sub":"alice","exp":{}{more}}}"#,
        NOW + 600
    )
}

const ALICE: &str = "https://issuer/alice";

#[test]
fn every_algorithm_holds_and_its_signature_counts() {
    let issuer = issuer();
    for algorithm in Issuer::ALGORITHMS {
        let token = issuer.sign(algorithm, &claims(""));
        assert_eq!(check(&token).as_deref(), Ok(ALICE), "{algorithm}");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let mut bytes = issuer::unbase64(signature);
        bytes[3] ^= 1;
        let forged = format!("{signed}.{}", base64(&bytes));
        assert_eq!(check(&forged), Err(Refusal::Signature), "{algorithm}");
        let zeros = format!("{signed}.{}", base64(&vec![0; bytes.len()]));
        assert_eq!(check(&zeros), Err(Refusal::Signature), "{algorithm}");
        let short = format!("{signed}.{}", base64(&bytes[..bytes.len() - 1]));
        assert_eq!(check(&short), Err(Refusal::Signature), "{algorithm}");
        assert_eq!(check(&format!("{signed}.")), Err(Refusal::Signature));
        // The same signature over other claims.
        let (header, _) = signed.split_once('.').unwrap();
        let other = base64(claims(r#","admin":true"#).as_bytes());
        let swapped = format!("{header}.{other}.{signature}");
        assert_eq!(check(&swapped), Err(Refusal::Signature), "{algorithm}");
    }
}

#[test]
fn none_and_hmac_are_no_algorithms() {
    let issuer = issuer();
    let payload = base64(claims("").as_bytes());
    for algorithm in [
        "none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "RSA-OAEP", "rs256",
    ] {
        let header = base64(format!(r#"{{"alg":"{algorithm}","kid":"rsa"}}"#).as_bytes());
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{payload}.{signature}");
            assert_eq!(check(&token), Err(Refusal::Algorithm), "{algorithm}");
        }
    }
    // The classic: HMAC with the public key, in every form somebody may take for the secret.
    for secret in [issuer.rsa_modulus(), issuer.key_set().into_bytes()] {
        let token = issuer::hmac(&secret, r#"{"alg":"HS256","kid":"rsa"}"#, &claims(""));
        assert_eq!(check(&token), Err(Refusal::Algorithm));
    }
}

#[test]
fn a_key_verifies_only_what_it_is_for() {
    let issuer = issuer();
    // A header that names another algorithm than the key's.
    for (signer, header) in [
        ("RS256", r#"{"alg":"ES256","kid":"rsa"}"#),
        ("ES256", r#"{"alg":"RS256","kid":"p256"}"#),
        ("ES256", r#"{"alg":"ES384","kid":"p256"}"#),
        ("EdDSA", r#"{"alg":"ES256","kid":"ed"}"#),
    ] {
        let token = issuer.sign_with_header(signer, header, &claims(""));
        assert_eq!(check(&token), Err(Refusal::UnknownKey), "{header}");
    }
    // RS256 and PS256 are two algorithms, and a key that says one of them does not do the other.
    let pinned = issuer
        .key_set()
        .replace(r#""kid":"rsa""#, r#""kid":"rsa","alg":"RS256""#);
    let judge = |algorithm| {
        judge(
            vec![rule(&pinned)],
            &issuer.sign(algorithm, &claims("")),
            NOW,
        )
    };
    assert_eq!(judge("RS256").as_deref(), Ok(ALICE));
    assert_eq!(judge("PS256"), Err(Refusal::UnknownKey));
    assert_eq!(judge("RS512"), Err(Refusal::UnknownKey));
    let confused = issuer.sign_with_header("PS256", r#"{"alg":"RS256","kid":"rsa"}"#, &claims(""));
    assert_eq!(check(&confused), Err(Refusal::Signature));
}

#[test]
fn key_names_are_only_compared() {
    let issuer = issuer();
    let sign = |header: &str| issuer.sign_with_header("RS256", header, &claims(""));
    assert_eq!(
        check(&sign(r#"{"alg":"RS256"}"#)).as_deref(),
        Ok(ALICE),
        "every key is tried"
    );
    for kid in [
        "../../../dev/null",
        "' OR 1=1 --",
        "RSA",
        "rsa\\u0000",
        "",
        "p256",
    ] {
        let token = sign(&format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#));
        assert_eq!(check(&token), Err(Refusal::UnknownKey), "{kid}");
    }
    for header in [
        r#"{"alg":"RS256","kid":7}"#,
        r#"{"alg":"RS256","kid":null}"#,
        r#"{"alg":["RS256"],"kid":"rsa"}"#,
        r#"{"kid":"rsa"}"#,
    ] {
        assert!(
            matches!(check(&sign(header)), Err(Refusal::Malformed(_))),
            "{header}"
        );
    }
    // Keys that the token brings or points to are not looked at.
    let (own, theirs) = (Issuer::new(), issuer);
    let jwk = own.rsa_key();
    let header = format!(
        r#"{{"alg":"RS256","kid":"rsa","jwk":{jwk},"jku":"http://127.0.0.1/","x5u":"http://169.254.169.254/","x5c":["AA"]}}"#
    );
    let token = own.sign_with_header("RS256", &header, &claims(""));
    assert_eq!(
        judge(vec![rule(&theirs.key_set())], &token, NOW),
        Err(Refusal::Signature)
    );
}

#[test]
fn critical_extensions_are_refused() {
    for crit in [r#"["b64"]"#, r#"["x"]"#, "[]", "null"] {
        let header = format!(r#"{{"alg":"RS256","kid":"rsa","crit":{crit},"b64":false}}"#);
        let token = issuer().sign_with_header("RS256", &header, &claims(""));
        assert_eq!(check(&token), Err(Refusal::Critical));
    }
}

#[test]
fn times_have_a_minute_of_leeway() {
    let sign = |times: &str| {
        let claims = format!(r#"{{"iss":"https://issuer","sub":"alice"{times}}}"#);
        issuer().sign("ES256", &claims)
    };
    let at = |times: &str, now| judge(vec![rule(&issuer().key_set())], &sign(times), now);
    assert_eq!(at(r#","exp":1000"#, 1059).as_deref(), Ok(ALICE));
    assert_eq!(at(r#","exp":1000"#, 1060), Err(Refusal::Expired));
    assert_eq!(at(r#","exp":1000.9"#, 1060), Err(Refusal::Expired));
    assert_eq!(at(r#","exp":0"#, NOW), Err(Refusal::Expired));
    assert_eq!(at(r#","nbf":1000"#, 940).as_deref(), Ok(ALICE));
    assert_eq!(at(r#","nbf":1000"#, 939), Err(Refusal::NotYetValid));
    assert_eq!(
        at("", NOW).as_deref(),
        Ok(ALICE),
        "no exp: the issuer's choice"
    );
    assert_eq!(
        at(r#","exp":18446744073709551615"#, NOW).as_deref(),
        Ok(ALICE)
    );
    assert_eq!(at(r#","exp":1e300"#, NOW).as_deref(), Ok(ALICE));
    assert_eq!(
        at(r#","nbf":18446744073709551615"#, NOW),
        Err(Refusal::NotYetValid)
    );
    for value in [
        r#""1900000000""#,
        "-1",
        "null",
        "true",
        "[1900000000]",
        "-0.5",
    ] {
        for name in ["exp", "nbf", "iat"] {
            let refusal = at(&format!(r#","{name}":{value}"#), NOW);
            assert_eq!(refusal, Err(Refusal::Malformed(name)), "{value}");
        }
    }
}

#[test]
fn audience_and_issuer_are_exact() {
    let sign = |aud: &str| issuer().sign("ES256", &claims(&format!(r#","aud":{aud}"#)));
    let demand = |audiences: &[&str]| JwtRule {
        audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
        ..rule(&issuer().key_set())
    };
    let judged = |audiences: &[&str], aud| judge(vec![demand(audiences)], &sign(aud), NOW);
    assert_eq!(judged(&["shop"], r#""shop""#).as_deref(), Ok(ALICE));
    assert_eq!(
        judged(&["bank", "shop"], r#"["x","shop"]"#).as_deref(),
        Ok(ALICE)
    );
    assert_eq!(judged(&[], r#""anything""#).as_deref(), Ok(ALICE));
    for aud in [
        r#""shop/""#,
        r#""Shop""#,
        r#""shop bank""#,
        "[]",
        r#"["sho"]"#,
        r#""""#,
    ] {
        assert_eq!(judged(&["shop"], aud), Err(Refusal::Audience), "{aud}");
    }
    for aud in [
        "7",
        "null",
        r#"{"shop":1}"#,
        r#"["shop",7]"#,
        r#"["shop",["x"]]"#,
    ] {
        assert_eq!(
            judged(&["shop"], aud),
            Err(Refusal::Malformed("aud")),
            "{aud}"
        );
        assert_eq!(judged(&[], aud), Err(Refusal::Malformed("aud")), "{aud}");
    }
    let without = issuer().sign("ES256", &claims(""));
    assert_eq!(
        judge(vec![demand(&["shop"])], &without, NOW),
        Err(Refusal::Audience)
    );

    let of = |iss: &str| issuer().sign("ES256", &format!(r#"{{{iss}"sub":"alice"}}"#));
    for iss in [
        r#""iss":"https://issuer/","#,
        r#""iss":"https://ISSUER","#,
        r#""iss":["https://issuer"],"#,
        r#""iss":null,"#,
        "",
    ] {
        assert_eq!(check(&of(iss)), Err(Refusal::UnknownIssuer), "{iss}");
    }
    let nameless = issuer().sign("ES256", r#"{"iss":"https://issuer"}"#);
    assert_eq!(check(&nameless).as_deref(), Ok("-"));
    let numbered = issuer().sign("ES256", r#"{"iss":"https://issuer","sub":7}"#);
    assert_eq!(check(&numbered), Err(Refusal::Malformed("sub")));
}

#[test]
fn what_is_not_one_json_object_is_malformed() {
    let issuer = issuer();
    let header = r#"{"alg":"ES256","kid":"p256"}"#;
    let deep = format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40));
    let lists = format!(
        r#"{{"iss":"https://issuer","a":{}{}}}"#,
        "[".repeat(40),
        "]".repeat(40)
    );
    for payload in [
        r#"{"iss":"https://issuer","sub":"alice","sub":"mallory"}"#,
        r#"{"iss":"https://issuer","sub":"alice","su\u0062":"mallory"}"#,
        r#"{"iss":"https://issuer","a":{"b":1,"b":2}}"#,
        r#"{"iss":"https://issuer"}{"iss":"https://issuer"}"#,
        r#"["iss"]"#,
        r#""iss""#,
        "",
        "{",
        r#"{"iss":"https://issuer","a":1e999}"#,
        r#"{"iss":"https://issuer","a":NaN}"#,
        &deep,
        &lists,
    ] {
        let token = issuer.sign_with_header("ES256", header, payload);
        assert!(
            matches!(check(&token), Err(Refusal::Malformed(_))),
            "{payload}"
        );
    }
    for header in [
        r#"{"alg":"ES256","alg":"none","kid":"p256"}"#,
        r#"{"alg":"ES256","kid":"p256","kid":"rsa"}"#,
        "[]",
        r#"{"alg":"ES256","kid":"p256"} x"#,
    ] {
        let token = issuer.sign_with_header("ES256", header, &claims(""));
        assert!(
            matches!(check(&token), Err(Refusal::Malformed(_))),
            "{header}"
        );
    }
}

#[test]
fn a_token_has_three_clean_parts() {
    let token = issuer().sign("ES256", &claims(""));
    let parts: Vec<&str> = token.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        header.into(),
        format!("{header}.{payload}"),
        format!("{token}.x"),
        format!("{token}."),
        format!(".{token}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header} .{payload}.{signature}"),
        format!("{header}.{payload}.{}+", &signature[..signature.len() - 1]),
        // A JWE has five.
        format!("{header}.{payload}.{signature}.{payload}.{signature}"),
    ] {
        assert!(matches!(check(&bad), Err(Refusal::Malformed(_))), "{bad}");
    }
    // Loose bits at the end would be a second spelling of one token.
    let mut loose = token.clone().into_bytes();
    let last = loose.last_mut().unwrap();
    *last = if *last == b'A' { b'B' } else { *last + 1 };
    let loose = String::from_utf8(loose).unwrap();
    assert!(check(&loose).is_err());
    let long = issuer().sign(
        "ES256",
        &claims(&format!(r#","a":"{}""#, "x".repeat(MAX_TOKEN))),
    );
    assert_eq!(check(&long), Err(Refusal::TooLong));
    let nested = base64(token.as_bytes());
    let nested = issuer().sign_with_header(
        "ES256",
        r#"{"alg":"ES256","kid":"p256","cty":"JWT"}"#,
        &nested,
    );
    assert!(matches!(check(&nested), Err(Refusal::Malformed(_))));
}
