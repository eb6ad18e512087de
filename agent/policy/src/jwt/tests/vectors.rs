//! Tokens that another implementation signed (OpenSSL 3, through Python's `cryptography`); keys of
//! 3,072 bits, signatures in the raw form that RFC 7518 asks for.

use super::*;

const VECTORS: &str = include_str!("vectors.json");

#[test]
fn tokens_of_another_implementation() {
    let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
    let keys = serde_json::json!({ "keys": vectors["keys"] }).to_string();
    let tokens = vectors["tokens"].as_object().unwrap();
    let mut held = 0;
    for (name, token) in tokens {
        let judged = judge(vec![rule(&keys)], token.as_str().unwrap(), NOW);
        match name.split_once('-') {
            None => {
                assert_eq!(judged.as_deref(), Ok(ALICE), "{name}");
                held += 1;
            }
            // An ECDSA signature as X.509 has it, a salt of another length.
            Some(_) => assert_eq!(judged, Err(Refusal::Signature), "{name}"),
        }
    }
    assert_eq!(held, Issuer::ALGORITHMS.len());
}
