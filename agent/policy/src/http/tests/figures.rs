//! What a decision costs. `cargo test -p agent-policy figures -- --ignored --nocapture`

use std::time::Instant;

use super::*;

/// Policies as people write them: some paths that nobody may have, and who may have the rest.
fn policies(count: usize) -> Vec<Access> {
    let deny = |i: usize| {
        to(Operation {
            paths: vec![PathMatch::Text(StringMatch::Prefix(format!(
                "/internal-{i}/"
            )))],
            not_methods: exact("OPTIONS"),
            ..Operation::default()
        })
    };
    let allow = |i: usize| AccessRule {
        from: vec![Source {
            principals: exact(&format!("cluster.local/ns/team-{i}/sa/web")),
            ..Source::default()
        }],
        to: vec![Operation {
            methods: exact("GET"),
            paths: vec![PathMatch::Template("/orders/{*}".to_owned())],
            ..Operation::default()
        }],
        when: vec![],
    };
    let policies = (0..count).map(|i| match i % 2 {
        0 => policy("deny", Action::Deny, vec![deny(i)]),
        _ => policy("allow", Action::Allow, vec![allow(i)]),
    });
    policies.collect()
}

#[test]
#[ignore = "a measurement; the target is 50 us for 1,000 policies (F-73)"]
fn figures() {
    const ROUNDS: u32 = 20;
    for count in [2, 10, 100, 1000] {
        let (set, _) = Ruleset::compile(&policies(count));
        let facts = Facts::default();
        let request = facts.request();
        assert!(
            !set.decide(&request).is_allowed(),
            "every policy is looked at"
        );
        let batches = (0..500).map(|_| {
            let start = Instant::now();
            (0..ROUNDS).for_each(|_| {
                std::hint::black_box(set.decide(std::hint::black_box(&request)));
            });
            start.elapsed() / ROUNDS
        });
        println!("{count} policies: {:?}", batches.min().unwrap());
    }
}
