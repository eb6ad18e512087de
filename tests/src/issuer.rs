//! Somebody who issues JSON Web Tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;

/// An issuer with one ECDSA key (ES256, `kid` is `k`).
#[derive(Debug)]
pub struct Issuer {
    name: String,
    key: EcdsaKeyPair,
}

impl Issuer {
    /// With a key of its own.
    pub fn new(name: &str) -> Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }

    /// A token of `alice` that holds for so many seconds from now; it has expired for negative ones.
    pub fn token(&self, seconds: i64) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let expires = i64::try_from(now)? + seconds;
        let payload = serde_json::json!({"iss": self.name, "sub": "alice", "exp": expires});
        let header = BASE64.encode(r#"{"alg":"ES256","kid":"k"}"#);
        let signed = format!("{header}.{}", BASE64.encode(payload.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.context("signing a token")?;
        Ok(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// Its key set.
    pub fn key_set(&self) -> String {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (BASE64.encode(x), BASE64.encode(y));
        let key = serde_json::json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": x, "y": y});
        serde_json::json!({"keys": [key]}).to_string()
    }
}
