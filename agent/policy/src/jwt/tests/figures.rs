//! What a token costs. `cargo test -p agent-policy figures -- --ignored --nocapture`

use std::time::Instant;

use super::*;

/// About what identity providers send: 25 claims, 1.2 kB.
fn usual_claims() -> String {
    let roles: Vec<_> = (0..12).map(|i| format!(r#""role-{i}""#)).collect();
    let others: Vec<_> = (0..12)
        .map(|i| format!(r#""https://issuer/claim-{i}":"some value of it""#))
        .collect();
    claims(&format!(
        r#","aud":["shop","bank"],"iat":{NOW},"azp":"app","scope":"openid profile email",
        "realm_access":{{"roles":[{}]}},{}"#,
        roles.join(","),
        others.join(",")
    ))
}

#[test]
#[ignore = "a measurement; the targets are 10 us for a token that is known, 60 us for a new one"]
fn figures() {
    const ROUNDS: u32 = 50;
    // The best of many batches: what it costs when nobody else is on the machine.
    let best = |work: &mut dyn FnMut()| {
        let batches = (0..100).map(|_| {
            let start = Instant::now();
            (0..ROUNDS).for_each(|_| work());
            start.elapsed() / ROUNDS
        });
        batches.min().unwrap()
    };
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let token = issuer().sign(algorithm, &usual_claims());
        let headers = bearer(&token);
        let carrier = Carrier {
            headers: &headers,
            query: None,
        };
        let one = authenticator(vec![rule(&issuer().key_set())]);
        let look = |cache: &mut Cache| {
            let found = one.authenticate(carrier, |_| None, cache, at(NOW));
            assert!(found.is_ok_and(|found| found.is_some()));
        };
        let mut cache = Cache::default();
        look(&mut cache);
        let known = best(&mut || look(&mut cache));
        let new = best(&mut || look(&mut Cache::default()));
        println!(
            "{algorithm}: {} bytes, known {known:?}, new {new:?}",
            token.len()
        );
    }
}
