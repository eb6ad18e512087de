//! Key sets: what is no key is skipped, and takes no other with it.

use super::issuer::{base64, issuer, set_of};
use super::*;

/// Why the one key of a set is not used; `None` when it is.
fn fault(key: &str) -> Option<KeyFault> {
    let set = KeySet::parse(set_of(&[key.to_owned()]).as_bytes()).unwrap();
    assert_eq!(set.len() + set.skipped().len(), 1);
    set.skipped().first().map(|skipped| skipped.why)
}

#[test]
fn bad_keys_are_skipped_by_reason() {
    let issuer = issuer();
    let (rsa, p256, ed) = (issuer.rsa_key(), issuer.p256_key(), issuer.ed_key());
    assert_eq!(fault(&rsa), None);
    assert_eq!(
        fault(&rsa.replace(r#""use":"sig""#, r#""key_ops":["verify"]"#)),
        None
    );
    let n = base64(&issuer.rsa_modulus());
    let padded = base64(&[&[0, 0][..], &issuer.rsa_modulus()].concat());
    assert_eq!(
        fault(&rsa.replace(&n, &padded)),
        None,
        "leading zeros mean nothing"
    );
    let zeros = base64(&[0; 32]);
    let off_curve = format!(
        r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#,
        base64(&[1; 32]),
        base64(&[2; 32])
    );
    for (key, why) in [
        ("7".to_owned(), KeyFault::Malformed("not an object")),
        ("{}".to_owned(), KeyFault::Malformed("no kty")),
        (r#"{"kty":"oct","k":"AAAA"}"#.to_owned(), KeyFault::Type),
        (r#"{"kty":7}"#.to_owned(), KeyFault::Malformed("kty")),
        (rsa.replace("sig", "enc"), KeyFault::Use),
        (
            rsa.replace(r#""use":"sig""#, r#""key_ops":["sign"]"#),
            KeyFault::Use,
        ),
        (
            rsa.replace(r#""use":"sig""#, r#""key_ops":"verify""#),
            KeyFault::Malformed("key_ops"),
        ),
        (
            rsa.replace(r#""use":"sig""#, r#""alg":"HS256""#),
            KeyFault::Algorithm,
        ),
        (
            rsa.replace(r#""use":"sig""#, r#""alg":"ES256""#),
            KeyFault::Algorithm,
        ),
        (
            rsa.replace(r#""use":"sig""#, r#""d":"AQAB""#),
            KeyFault::Private,
        ),
        (rsa.replace(r#""AQAB""#, r#""AQ""#), KeyFault::Size),
        (rsa.replace(r#""AQAB""#, r#""Ag""#), KeyFault::Size),
        (
            rsa.replace(r#""AQAB""#, r#""AA""#),
            KeyFault::Malformed("e"),
        ),
        (
            rsa.replace(r#""AQAB""#, r#""AQAB=""#),
            KeyFault::Malformed("e"),
        ),
        (
            rsa.replace(&n, &base64(&issuer.rsa_modulus()[..128])),
            KeyFault::Size,
        ),
        (rsa.replace(&n, &base64(&[0xff; 1025])), KeyFault::Size),
        (
            p256.replace("P-256", "P-384"),
            KeyFault::Malformed("x or y"),
        ),
        (p256.replace("P-256", "secp256k1"), KeyFault::Curve),
        (p256.replace(r#""y":"#, r#""z":"#), KeyFault::Malformed("y")),
        (off_curve.clone(), KeyFault::Invalid),
        (
            off_curve.replace(&base64(&[1; 32]), &zeros),
            KeyFault::Invalid,
        ),
        (ed.replace("Ed25519", "X25519"), KeyFault::Curve),
        (ed.replace(r#""x":""#, r#""x":"AAAA"#), KeyFault::Invalid),
        (ed.replace("OKP", "EC"), KeyFault::Curve),
    ] {
        assert_eq!(fault(&key), Some(why), "{key}");
    }
}

#[test]
fn a_bad_key_takes_no_other_with_it() {
    let keys = ["{}".to_owned(), issuer().p256_key(), "null".to_owned()];
    let set = KeySet::parse(set_of(&keys).as_bytes()).unwrap();
    assert_eq!((set.len(), set.skipped().len()), (1, 2));
    assert_eq!(set.skipped()[1].index, 2);
    let token = issuer().sign("ES256", &claims(""));
    assert_eq!(
        judge(vec![rule(&set_of(&keys))], &token, NOW).as_deref(),
        Ok(ALICE)
    );
}

#[test]
fn what_is_no_key_set() {
    for text in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"keys":{}}"#,
        r#"{"keys":[],"keys":[]}"#,
        "<html>",
        r#"{"keys":[]} x"#,
    ] {
        let parsed = KeySet::parse(text.as_bytes());
        assert!(matches!(parsed, Err(KeySetError::Malformed(_))), "{text}");
    }
    let long = format!(r#"{{"keys":[]{}}}"#, " ".repeat(MAX_KEY_SET));
    assert_eq!(
        KeySet::parse(long.as_bytes()).unwrap_err(),
        KeySetError::TooLong
    );
    let empty = KeySet::parse(br#"{"keys":[]}"#).unwrap();
    assert!(empty.is_empty());
    let token = issuer().sign("ES256", &claims(""));
    let refusal = judge(vec![rule(r#"{"keys":[]}"#)], &token, NOW);
    assert_eq!(refusal, Err(Refusal::UnknownKey));
}

#[test]
fn keys_and_tries_are_bounded() {
    let nameless = |key: String, kid: &str| key.replace(&format!(r#""kid":"{kid}","#), "");
    let mut keys = vec![nameless(issuer().p256_key(), "p256"); MAX_KEYS + 3];
    let set = KeySet::parse(set_of(&keys).as_bytes()).unwrap();
    assert_eq!((set.len(), set.skipped().len()), (MAX_KEYS, 3));
    assert_eq!(set.skipped()[0].why, KeyFault::TooMany);
    // The right key among strangers is found only as long as it is among the first.
    let other = Issuer::new();
    keys = vec![nameless(other.p256_key(), "p256"); MAX_TRIES];
    keys.push(nameless(issuer().p256_key(), "p256"));
    let token = issuer().sign_with_header("ES256", r#"{"alg":"ES256"}"#, &claims(""));
    let refusal = judge(vec![rule(&set_of(&keys))], &token, NOW);
    assert_eq!(refusal, Err(Refusal::Signature));
    keys.remove(0);
    assert_eq!(
        judge(vec![rule(&set_of(&keys))], &token, NOW).as_deref(),
        Ok(ALICE)
    );
    // A token that names a key nobody has may be signed by one without a name.
    let named = issuer().sign("ES256", &claims(""));
    assert_eq!(
        judge(vec![rule(&set_of(&keys))], &named, NOW).as_deref(),
        Ok(ALICE)
    );
}
