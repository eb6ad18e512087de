//! A token and the key it is signed with: RS256, made by openssl.

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::command;

/// Who issues it.
pub(super) const ISSUER: &str = "https://issuer.example";
/// When it ends: in 2100.
const EXPIRES: u64 = 4_102_444_800;

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
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
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
}

fn bytes(hexadecimal: &str) -> Result<Vec<u8>> {
    let pairs = (0..hexadecimal.len() / 2).map(|pair| hexadecimal.get(pair * 2..pair * 2 + 2));
    let bytes = pairs.map(|pair| {
        let pair = pair.context("not ASCII")?;
        u8::from_str_radix(pair, 16).context("not hexadecimal")
    });
    bytes.collect()
}
