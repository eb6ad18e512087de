//! Where tokens are found, which rule they fall under, what is kept, and what is forwarded.

use std::sync::Arc;

use agent_model::authentication::{ClaimToHeader, TokenHeader};

use super::issuer::set_of;
use super::*;

fn token() -> String {
    issuer().sign(
        "ES256",
        &claims(r#","scope":"read write","tenant":{"id":7},"list":["x"]"#),
    )
}

fn keys() -> String {
    issuer().key_set()
}

fn look(
    authenticator: &Authenticator,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<bool, Refusal> {
    let carrier = Carrier { headers, query };
    let judged = authenticator.authenticate(carrier, |_| None, &mut Cache::default(), at(NOW));
    judged.map(|found| found.is_some()).map_err(|r| r.why)
}

fn with(name: &'static str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.append(name, HeaderValue::try_from(value).unwrap());
    headers
}

#[test]
fn by_default_the_bearer_and_the_parameter() {
    let default = authenticator(vec![rule(&keys())]);
    let token = token();
    let none = HeaderMap::new();
    assert_eq!(look(&default, &none, None), Ok(false));
    assert_eq!(look(&default, &bearer(&token), None), Ok(true));
    let scheme = with("authorization", &format!("bEARER  {token} "));
    assert_eq!(
        look(&default, &scheme, None),
        Ok(true),
        "schemes have no case"
    );
    let query = format!("a=b&access_token={token}&c");
    assert_eq!(look(&default, &none, Some(&query)), Ok(true));
    assert_eq!(
        look(&default, &with("authorization", "Basic eDp5"), None),
        Ok(false)
    );
    assert_eq!(
        look(&default, &with("authorization", &token), None),
        Ok(false)
    );
    let empty = look(&default, &with("authorization", "Bearer "), None);
    assert!(matches!(empty, Err(Refusal::Malformed(_))));
    let mut latin = HeaderMap::new();
    latin.append(
        "authorization",
        HeaderValue::from_bytes(b"Bearer \xff\xff").unwrap(),
    );
    assert!(matches!(
        look(&default, &latin, None),
        Err(Refusal::Malformed(_))
    ));
    // Where a rule names its places, only those count.
    let named = JwtRule {
        from_cookies: vec!["session".into()],
        ..rule(&keys())
    };
    let named = authenticator(vec![named]);
    assert_eq!(look(&named, &bearer(&token), None), Ok(false));
    let cookies = with("cookie", &format!("a=b; session={token};c=d"));
    assert_eq!(look(&named, &cookies, None), Ok(true));
    assert_eq!(
        look(&named, &with("cookie", "session2=x; xsession=y"), None),
        Ok(false)
    );
}

#[test]
fn several_tokens_are_refused_even_the_same_one() {
    let default = authenticator(vec![rule(&keys())]);
    let token = token();
    let mut twice = bearer(&token);
    twice.append(
        "authorization",
        HeaderValue::try_from(format!("Bearer {token}")).unwrap(),
    );
    assert_eq!(look(&default, &twice, None), Err(Refusal::SeveralTokens));
    let query = format!("access_token={token}");
    let both = look(&default, &bearer(&token), Some(&query));
    assert_eq!(both, Err(Refusal::SeveralTokens));
    let doubled = format!("access_token={token}&access_token=x");
    let doubled = look(&default, &HeaderMap::new(), Some(&doubled));
    assert_eq!(doubled, Err(Refusal::SeveralTokens));
    // Two rules that look at one place see one token.
    let second = JwtRule {
        issuer: "https://second".into(),
        from_headers: vec![TokenHeader {
            name: "Authorization".into(),
            prefix: "bearer ".into(),
        }],
        ..rule(&keys())
    };
    let two = authenticator(vec![second, rule(&keys())]);
    assert_eq!(look(&two, &bearer(&token), None), Ok(true));
}

#[test]
fn a_token_counts_only_where_its_issuer_s_rule_looks() {
    let mine = JwtRule {
        from_headers: vec![TokenHeader {
            name: "x-token".into(),
            prefix: String::new(),
        }],
        ..rule(&keys())
    };
    let theirs = JwtRule {
        issuer: "https://second".into(),
        ..rule(&keys())
    };
    let two = authenticator(vec![mine, theirs]);
    assert_eq!(look(&two, &with("x-token", &token()), None), Ok(true));
    assert_eq!(
        look(&two, &bearer(&token()), None),
        Err(Refusal::UnknownIssuer)
    );
}

#[test]
fn rules_of_one_issuer_are_tried_in_turn_and_issuers_keys_are_their_own() {
    let token = issuer().sign("ES256", &claims(r#","aud":"b""#));
    let of = |audience: &str| JwtRule {
        audiences: vec![audience.into()],
        ..rule(&keys())
    };
    assert_eq!(
        judge(vec![of("a"), of("b")], &token, NOW).as_deref(),
        Ok(ALICE)
    );
    assert_eq!(
        judge(vec![of("a"), of("c")], &token, NOW),
        Err(Refusal::Audience)
    );
    // Another issuer's key signs nothing for this one.
    let other = Issuer::new();
    let theirs = JwtRule {
        issuer: "https://second".into(),
        ..rule(&other.key_set())
    };
    let forged = other.sign("ES256", &claims(""));
    let refusal = judge(vec![rule(&keys()), theirs], &forged, NOW);
    assert_eq!(refusal, Err(Refusal::Signature));
}

#[test]
fn a_verified_token_is_kept_until_its_keys_its_rule_or_the_time_change() {
    let remote = |address: &str| JwtRule {
        keys: KeySource::Remote(address.into()),
        ..rule("")
    };
    let one = authenticator(vec![remote("https://issuer/keys")]);
    let good = Arc::new(KeySet::parse(keys().as_bytes()).unwrap());
    let again = Arc::new(KeySet::parse(keys().as_bytes()).unwrap());
    let rotated = set_of(&[issuer().rsa_key()]);
    let rotated = Arc::new(KeySet::parse(rotated.as_bytes()).unwrap());
    let headers = bearer(&token());
    let carrier = Carrier {
        headers: &headers,
        query: None,
    };
    let mut cache = Cache::default();
    let mut look = |rules: &Authenticator, keys: Option<&Arc<KeySet>>, now| {
        let judged = rules.authenticate(carrier, |_| keys, &mut cache, at(now));
        let judged = judged.map(|found| found.expect("a token").token);
        judged.map_err(|refused| (refused.why, refused.missing_in.map(str::to_owned)))
    };
    let address = Some("https://issuer/keys".to_owned());
    assert_eq!(
        look(&one, None, NOW),
        Err((Refusal::KeysUnavailable, address.clone()))
    );
    let first = look(&one, Some(&good), NOW).unwrap();
    let second = look(&one, Some(&good), NOW).unwrap();
    assert!(Arc::ptr_eq(&first, &second), "verified once");
    assert_eq!(
        look(&one, Some(&good), NOW + 600 + 60),
        Err((Refusal::Expired, None))
    );
    let third = look(&one, Some(&again), NOW).unwrap();
    assert!(!Arc::ptr_eq(&first, &third), "new keys: verified again");
    assert_eq!(
        look(&one, Some(&rotated), NOW),
        Err((Refusal::UnknownKey, address.clone()))
    );
    assert_eq!(
        look(&one, None, NOW),
        Err((Refusal::KeysUnavailable, address))
    );
    let stricter = JwtRule {
        audiences: vec!["shop".into()],
        ..remote("https://issuer/keys")
    };
    let stricter = authenticator(vec![stricter]);
    assert_eq!(
        look(&stricter, Some(&again), NOW),
        Err((Refusal::Audience, None))
    );
    assert_eq!(one.remote_keys().count(), 1);
}

#[test]
fn the_cache_is_bounded_and_keeps_what_is_used() {
    let one = authenticator(vec![rule(&keys())]);
    let mut cache = Cache::new(8, 1024 * 1024);
    let mut look = |id: u32| {
        let headers = bearer(&issuer().sign("EdDSA", &claims(&format!(r#","jti":"{id}""#))));
        let carrier = Carrier {
            headers: &headers,
            query: None,
        };
        let found = one.authenticate(carrier, |_| None, &mut cache, at(NOW));
        (found.unwrap().unwrap().token, cache.len())
    };
    let (favourite, _) = look(0);
    for id in 1..50 {
        let (again, held) = look(0);
        assert!(Arc::ptr_eq(&favourite, &again), "{id}");
        assert!(held <= 8 && look(id).1 <= 8);
    }
    // Bytes count as well.
    let mut tiny = Cache::new(100, 100);
    let headers = bearer(&token());
    let carrier = Carrier {
        headers: &headers,
        query: None,
    };
    assert!(
        one.authenticate(carrier, |_| None, &mut tiny, at(NOW))
            .is_ok()
    );
    assert!(tiny.is_empty());
}

#[test]
fn what_is_forwarded() {
    let outputs = JwtRule {
        output_payload_to_header: Some("x-payload".into()),
        output_claim_to_headers: [
            ("x-tenant", &["tenant", "id"][..]),
            ("x-subject", &["sub"]),
            ("x-list", &["list"]),
            ("x-missing", &["missing"]),
        ]
        .map(|(header, claim)| ClaimToHeader {
            header: header.into(),
            claim: claim.iter().map(|name| (*name).to_owned()).collect(),
        })
        .to_vec(),
        ..rule(&keys())
    };
    let one = authenticator(vec![outputs.clone()]);
    let token = token();
    let mut headers = bearer(&token);
    for forged in ["x-payload", "x-tenant", "x-list", "x-missing"] {
        headers.append(forged, HeaderValue::from_static("forged"));
        headers.append(forged, HeaderValue::from_static("twice"));
    }
    let tokenless = {
        let mut headers = headers.clone();
        headers.remove("authorization");
        one.rewrite(None, &mut headers, None);
        headers
    };
    assert!(
        tokenless.is_empty(),
        "what only a token may say is removed without one"
    );
    let incoming = headers.clone();
    let carrier = Carrier {
        headers: &incoming,
        query: None,
    };
    let mut cache = Cache::default();
    let found = one
        .authenticate(carrier, |_| None, &mut cache, at(NOW))
        .unwrap();
    assert_eq!(one.rewrite(found.as_ref(), &mut headers, None), None);
    let value = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(value("authorization"), None);
    assert_eq!(value("x-payload").as_deref(), token.split('.').nth(1));
    assert_eq!(value("x-tenant").as_deref(), Some("7"));
    assert_eq!(value("x-subject").as_deref(), Some("alice"));
    assert_eq!((value("x-list"), value("x-missing")), (None, None));

    let kept = JwtRule {
        forward_original_token: true,
        ..outputs
    };
    let kept = authenticator(vec![kept]);
    let found = kept
        .authenticate(carrier, |_| None, &mut cache, at(NOW))
        .unwrap();
    let mut headers = incoming.clone();
    kept.rewrite(found.as_ref(), &mut headers, None);
    assert!(headers.contains_key("authorization"));
}

#[test]
fn a_token_is_taken_out_of_query_and_cookies() {
    let places = JwtRule {
        from_params: vec!["t".into()],
        from_cookies: vec!["s".into()],
        ..rule(&keys())
    };
    let one = authenticator(vec![places]);
    let token = token();
    let after = |headers: HeaderMap, query: Option<&str>| {
        let carrier = Carrier {
            headers: &headers,
            query,
        };
        let found = one.authenticate(carrier, |_| None, &mut Cache::default(), at(NOW));
        let mut out = headers.clone();
        let query = one.rewrite(found.unwrap().as_ref(), &mut out, query);
        (out, query)
    };
    let (_, query) = after(HeaderMap::new(), Some(&format!("a=1&t={token}&b")));
    assert_eq!(query.as_deref(), Some("a=1&b"));
    let (_, query) = after(HeaderMap::new(), Some(&format!("t={token}")));
    assert_eq!(query.as_deref(), Some(""));
    let (headers, query) = after(with("cookie", &format!("a=b; s={token}; c")), Some("a=1"));
    assert_eq!(
        (headers["cookie"].to_str().unwrap(), query),
        ("a=b; c", None)
    );
    let (headers, _) = after(with("cookie", &format!("s={token}")), None);
    assert!(headers.is_empty());
}

#[test]
fn words_of_a_scope_are_a_list() {
    let one = authenticator(vec![rule(&keys())]);
    let headers = bearer(&token());
    let carrier = Carrier {
        headers: &headers,
        query: None,
    };
    let found = one.authenticate(carrier, |_| None, &mut Cache::default(), at(NOW));
    let token = found.unwrap().unwrap().token;
    let words = ["read", "write"]
        .map(|word| Claim::Text(word.into()))
        .to_vec();
    assert_eq!(token.claim(&["scope"]), Some(&Claim::List(words)));
}

#[test]
fn faults_of_a_policy_leave_the_rest_in_force() {
    let bad = JwtRule {
        issuer: "https://second".into(),
        from_headers: vec![TokenHeader {
            name: "no header".into(),
            prefix: String::new(),
        }],
        from_params: vec!["t".into()],
        output_payload_to_header: Some("Transfer-Encoding".into()),
        ..rule("no key set")
    };
    let policy = Authentication {
        name: "tokens".into(),
        namespace: "shop".into(),
        targets: vec![],
        rules: vec![bad, rule(&keys())],
    };
    let (one, faults) = Authenticator::compile([&policy]);
    assert_eq!(faults.len(), 3);
    assert_eq!(
        faults[1].1,
        AuthenticationFault::HeaderName("Transfer-Encoding".into())
    );
    assert_eq!(
        faults[0].1,
        AuthenticationFault::HeaderName("no header".into())
    );
    assert_eq!(look(&one, &bearer(&token()), None), Ok(true));
    let theirs = issuer().sign("ES256", r#"{"iss":"https://second","sub":"x"}"#);
    let query = format!("t={theirs}");
    let refusal = look(&one, &HeaderMap::new(), Some(&query));
    assert_eq!(
        refusal,
        Err(Refusal::KeysUnavailable),
        "unreadable keys accept nothing"
    );
}
