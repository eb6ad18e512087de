//! Somebody who signs tokens, well or badly.

use std::sync::OnceLock;

use ::base64::Engine;
use ::base64::prelude::BASE64_URL_SAFE_NO_PAD;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaKeyPair, RsaSignatureEncoding,
};

pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn unbase64(text: &str) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// One issuer for all tests: RSA keys take a while to make.
pub(super) fn issuer() -> &'static Issuer {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    ISSUER.get_or_init(Issuer::new)
}

/// One key of each kind, named `rsa`, `p256`, `p384`, `p521` and `ed`.
pub(super) struct Issuer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Issuer {
    pub(super) const ALGORITHMS: [&'static str; 10] = [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    ];

    pub(super) fn new() -> Self {
        let elliptic =
            |curve: &'static EcdsaSigningAlgorithm| EcdsaKeyPair::generate(curve).unwrap();
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256: elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING),
            p521: elliptic(&ECDSA_P521_SHA512_FIXED_SIGNING),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }

    pub(super) fn sign(&self, algorithm: &str, claims: &str) -> String {
        let kid = match algorithm {
            "ES256" => "p256",
            "ES384" => "p384",
            "ES512" => "p521",
            "EdDSA" => "ed",
            _ => "rsa",
        };
        let header = format!(r#"{{"alg":"{algorithm}","kid":"{kid}","typ":"JWT"}}"#);
        self.sign_with_header(algorithm, &header, claims)
    }

    pub(super) fn sign_with_header(&self, algorithm: &str, header: &str, claims: &str) -> String {
        let signed = format!(
            "{}.{}",
            base64(header.as_bytes()),
            base64(claims.as_bytes())
        );
        let random = SystemRandom::new();
        let elliptic = |key: &EcdsaKeyPair| {
            let signature = key.sign(&random, signed.as_bytes()).unwrap();
            signature.as_ref().to_vec()
        };
        let signature = match algorithm {
            "ES256" => elliptic(&self.p256),
            "ES384" => elliptic(&self.p384),
            "ES512" => elliptic(&self.p521),
            "EdDSA" => self.ed.sign(signed.as_bytes()).as_ref().to_vec(),
            "RS256" => self.rsa(&RSA_PKCS1_SHA256, &signed),
            "RS384" => self.rsa(&RSA_PKCS1_SHA384, &signed),
            "RS512" => self.rsa(&RSA_PKCS1_SHA512, &signed),
            "PS256" => self.rsa(&RSA_PSS_SHA256, &signed),
            "PS384" => self.rsa(&RSA_PSS_SHA384, &signed),
            "PS512" => self.rsa(&RSA_PSS_SHA512, &signed),
            other => panic!("{other}"),
        };
        format!("{signed}.{}", base64(&signature))
    }

    fn rsa(&self, encoding: &'static RsaSignatureEncoding, signed: &str) -> Vec<u8> {
        let mut signature = vec![0; self.rsa.public_modulus_len()];
        let random = SystemRandom::new();
        let done = self
            .rsa
            .sign(encoding, &random, signed.as_bytes(), &mut signature);
        done.unwrap();
        signature
    }

    pub(super) fn rsa_modulus(&self) -> Vec<u8> {
        // PKCS#1: SEQUENCE { INTEGER n, INTEGER e }; n of 2,048 bits has its length in two bytes
        // and a zero before it.
        let der = self.rsa.public_key().as_ref();
        assert_eq!((der[4], &der[5..9]), (2, &[0x82, 1, 1, 0][..]));
        der[9..9 + 256].to_vec()
    }

    pub(super) fn rsa_key(&self) -> String {
        let n = base64(&self.rsa_modulus());
        format!(r#"{{"kty":"RSA","kid":"rsa","use":"sig","n":"{n}","e":"AQAB"}}"#)
    }

    pub(super) fn p256_key(&self) -> String {
        elliptic_key("p256", "P-256", &self.p256)
    }

    pub(super) fn ed_key(&self) -> String {
        let x = base64(self.ed.public_key().as_ref());
        format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"{x}"}}"#)
    }

    pub(super) fn key_set(&self) -> String {
        let keys = [
            self.rsa_key(),
            self.p256_key(),
            elliptic_key("p384", "P-384", &self.p384),
            elliptic_key("p521", "P-521", &self.p521),
            self.ed_key(),
        ];
        set_of(&keys)
    }
}

pub(super) fn set_of(keys: &[String]) -> String {
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

fn elliptic_key(kid: &str, curve: &str, key: &EcdsaKeyPair) -> String {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let (x, y) = (base64(x), base64(y));
    format!(r#"{{"kty":"EC","crv":"{curve}","kid":"{kid}","x":"{x}","y":"{y}"}}"#)
}

/// A token that is signed with a secret.
pub(super) fn hmac(secret: &[u8], header: &str, claims: &str) -> String {
    let signed = format!(
        "{}.{}",
        base64(header.as_bytes()),
        base64(claims.as_bytes())
    );
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", base64(tag.as_ref()))
}
