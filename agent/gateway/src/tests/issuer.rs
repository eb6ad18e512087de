//! Somebody who issues tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use agent_model::access::PolicyTarget;
use agent_model::authentication::{Authentication, JwtRule, KeySource};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;

pub(crate) const ISSUER: &str = "https://issuer.test";

/// With one ECDSA key of a name.
pub(crate) struct Issuer {
    kid: &'static str,
    key: EcdsaKeyPair,
}

impl Issuer {
    pub(crate) fn new(kid: &'static str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid, key }
    }

    /// A token of `alice` that holds for so many seconds from now, with these claims (JSON members)
    /// as well.
    pub(crate) fn token(&self, seconds: i64, claims: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let expires = now.as_secs() as i64 + seconds;
        let header = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, self.kid);
        let payload = format!(r#"{{"iss":"{ISSUER}","sub":"alice","exp":{expires}{claims}}}"#);
        let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(payload));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        format!("{signed}.{}", BASE64.encode(signature.unwrap()))
    }

    pub(crate) fn key_set(&self) -> String {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let (x, y, kid) = (BASE64.encode(x), BASE64.encode(y), self.kid);
        format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"{kid}","x":"{x}","y":"{y}"}}]}}"#)
    }

    /// What says that tokens of this issuer count.
    pub(crate) fn policy(&self, target: PolicyTarget) -> Authentication {
        policy(target, KeySource::Inline(self.key_set().into()))
    }
}

pub(crate) fn policy(target: PolicyTarget, keys: KeySource) -> Authentication {
    Authentication {
        name: "tokens".into(),
        namespace: "ns".into(),
        targets: vec![target],
        rules: vec![JwtRule {
            issuer: ISSUER.to_owned(),
            audiences: Vec::new(),
            keys,
            from_headers: Vec::new(),
            from_params: Vec::new(),
            from_cookies: Vec::new(),
            output_payload_to_header: None,
            output_claim_to_headers: Vec::new(),
            forward_original_token: false,
            space_delimited_claims: Vec::new(),
        }],
    }
}
