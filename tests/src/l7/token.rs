//! A token and the key it is signed with (RS256, made by openssl), and what verifying it costs.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use agent_model::authentication::{Authentication, JwtRule, KeySource};
use agent_policy::jwt::{Authenticator, Cache, Carrier};
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::command;

/// Who issues it.
pub(super) const ISSUER: &str = "https://issuer.example";
/// When it ends: in 2100.
const EXPIRES: u64 = 4_102_444_800;
/// How often each is timed.
const TIMES: u32 = 2000;

/// What the gateway's own code takes to judge the token of a request, on one thread; medians.
#[derive(Debug, Clone, Copy)]
pub struct TokenCosts {
    /// One that was verified before.
    pub known: Duration,
    /// One that nobody has seen: read, and its RS256 signature verified.
    pub new: Duration,
}

impl TokenCosts {
    pub(super) fn measure(token: &Token) -> Result<Self> {
        let policy = token.policy();
        let (authenticator, faults) = Authenticator::compile([&policy]);
        ensure!(faults.is_empty(), "the bench's own policy: {faults:?}");
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::from_str(&format!("Bearer {}", token.token))?;
        headers.insert(AUTHORIZATION, bearer);
        let carrier = Carrier {
            headers: &headers,
            query: None,
        };
        let judge = |cache: &mut Cache| {
            let begun = Instant::now();
            let judged = authenticator.authenticate(carrier, |_| None, cache, SystemTime::now());
            let took = begun.elapsed();
            let found =
                judged.map_err(|refused| anyhow::anyhow!("the bench's token: {refused}"))?;
            found.context("the bench's token was not found")?;
            Ok(took)
        };
        let mut known = Cache::default();
        judge(&mut known)?;
        Ok(Self {
            known: median(|| judge(&mut known))?,
            new: median(|| judge(&mut Cache::default()))?,
        })
    }

    pub(super) fn json(&self) -> Value {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        json!({ "knownUs": micros(self.known), "newUs": micros(self.new) })
    }
}

fn median(mut timed: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut times = (0..TIMES).map(|_| timed()).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times[times.len() / 2])
}

/// A token and the set of keys that verifies it.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) token: String,
    pub(super) keys: String,
}

impl Token {
    /// Makes a key of 2048 bits and signs a token with it. Files go to `folder`.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        let path = |name: &str| folder.join(name).display().to_string();
        let (key, text, signature) = (path("jwt.key"), path("jwt.txt"), path("jwt.sig"));
        command::check("openssl", &["genrsa", "-out", &key, "2048"])?;
        let modulus = ["rsa", "-in", &key, "-noout", "-modulus"];
        let modulus = command::check("openssl", &modulus)?;
        let modulus = modulus
            .trim()
            .strip_prefix("Modulus=")
            .context("no modulus")?;
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(json!({ "alg": "RS256", "kid": "bench", "typ": "JWT" }));
        let claims = part(json!({ "iss": ISSUER, "sub": "bench", "exp": EXPIRES }));
        let signed = format!("{header}.{claims}");
        std::fs::write(&text, &signed).context("writing what is signed")?;
        let sign = ["dgst", "-sha256", "-sign", &key, "-out", &signature, &text];
        command::check("openssl", &sign)?;
        let signature = std::fs::read(&signature).context("reading the signature")?;
        let key = json!({
            "kty": "RSA", "kid": "bench", "alg": "RS256", "use": "sig", "e": "AQAB",
            "n": URL_SAFE_NO_PAD.encode(bytes(modulus)?),
        });
        Ok(Self {
            token: format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)),
            keys: json!({ "keys": [key] }).to_string(),
        })
    }

    /// What the gateway makes of the RequestAuthentication of the scene with tokens.
    fn policy(&self) -> Authentication {
        let rule = JwtRule {
            issuer: ISSUER.to_owned(),
            audiences: Vec::new(),
            keys: KeySource::Inline(self.keys.as_str().into()),
            from_headers: Vec::new(),
            from_params: Vec::new(),
            from_cookies: Vec::new(),
            output_payload_to_header: None,
            output_claim_to_headers: Vec::new(),
            forward_original_token: true,
            space_delimited_claims: Vec::new(),
        };
        Authentication {
            name: "bench".into(),
            namespace: "bench".into(),
            targets: Vec::new(),
            rules: vec![rule],
        }
    }
}

fn bytes(hexadecimal: &str) -> Result<Vec<u8>> {
    let pairs = (0..hexadecimal.len() / 2).map(|pair| hexadecimal.get(pair * 2..pair * 2 + 2));
    let bytes = pairs.map(|pair| {
        let pair = pair.context("not ASCII")?;
        u8::from_str_radix(pair, 16).context("not hexadecimal")
    });
    bytes.collect()
}
