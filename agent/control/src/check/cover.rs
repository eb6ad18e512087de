//! Whether one rule matches everything that another matches. Never yes when it is not so; no
//! where it is hard to tell.

use agent_model::{Clause, Match, Rule, ServiceAccountMatch, StringMatch};
use ipnet::IpNet;

/// True when every connection that `narrow` matches is matched by `wide`.
pub(super) fn covers(wide: &Rule, narrow: &Rule) -> bool {
    // Clauses are ANDed: each of the wide rule's must follow from one of the narrow rule's.
    wide.clauses.iter().all(|wanted| {
        let mut given = narrow.clauses.iter();
        given.any(|given| clause_covers(wanted, given))
    })
}

/// Matches are ORed: whichever of the narrow clause's holds, one of the wide clause's does.
fn clause_covers(wide: &Clause, narrow: &Clause) -> bool {
    !narrow.matches.is_empty()
        && narrow.matches.iter().all(|narrow| {
            let mut wide = wide.matches.iter();
            wide.any(|wide| match_covers(wide, narrow))
        })
}

fn match_covers(wide: &Match, narrow: &Match) -> bool {
    // Neither is written by translation, and an empty match means nothing rather than everything.
    if wide.is_empty() || narrow.is_empty() {
        return false;
    }
    field(
        [&wide.namespaces, &wide.not_namespaces],
        [&narrow.namespaces, &narrow.not_namespaces],
    ) && field(
        [&wide.principals, &wide.not_principals],
        [&narrow.principals, &narrow.not_principals],
    ) && field(
        [&wide.service_accounts, &wide.not_service_accounts],
        [&narrow.service_accounts, &narrow.not_service_accounts],
    ) && field(
        [&wide.source_ips, &wide.not_source_ips],
        [&narrow.source_ips, &narrow.not_source_ips],
    ) && field(
        [&wide.destination_ips, &wide.not_destination_ips],
        [&narrow.destination_ips, &narrow.not_destination_ips],
    ) && field(
        [&wide.destination_ports, &wide.not_destination_ports],
        [&narrow.destination_ports, &narrow.not_destination_ports],
    )
}

/// One field: what it asks for, and what it rules out.
fn field<T: Value>([wide, wide_not]: [&Vec<T>; 2], [narrow, narrow_not]: [&Vec<T>; 2]) -> bool {
    let asks_less = wide.is_empty()
        || (!narrow.is_empty()
            && narrow.iter().all(|value| {
                let mut wide = wide.iter();
                wide.any(|wide| wide.covers(value))
            }));
    let rules_out_less = wide_not.iter().all(|out| {
        let is_ruled_out = narrow_not.iter().any(|value| value.covers(out));
        let is_elsewhere =
            !narrow.is_empty() && narrow.iter().all(|value| value.is_apart_from(out));
        is_ruled_out || is_elsewhere
    });
    asks_less && rules_out_less
}

/// A value of a field.
trait Value {
    /// Everything that `other` stands for, this stands for too.
    fn covers(&self, other: &Self) -> bool;
    /// Nothing is stood for by both.
    fn is_apart_from(&self, other: &Self) -> bool;
}

impl Value for StringMatch {
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Presence, Self::Exact(text)) => !text.is_empty(),
            (Self::Presence, _) => true,
            (Self::Exact(text), Self::Exact(other)) => text == other,
            (Self::Prefix(start), Self::Exact(text) | Self::Prefix(text)) => {
                text.starts_with(start.as_str())
            }
            (Self::Suffix(end), Self::Exact(text) | Self::Suffix(text)) => {
                text.ends_with(end.as_str())
            }
            _ => false,
        }
    }

    fn is_apart_from(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(_), _) => !other.covers(self),
            (_, Self::Exact(_)) => !self.covers(other),
            _ => false,
        }
    }
}

impl Value for ServiceAccountMatch {
    fn covers(&self, other: &Self) -> bool {
        self == other
    }

    fn is_apart_from(&self, other: &Self) -> bool {
        self != other
    }
}

impl Value for IpNet {
    fn covers(&self, other: &Self) -> bool {
        self.contains(other)
    }

    fn is_apart_from(&self, other: &Self) -> bool {
        !self.contains(other) && !other.contains(self)
    }
}

impl Value for u16 {
    fn covers(&self, other: &Self) -> bool {
        self == other
    }

    fn is_apart_from(&self, other: &Self) -> bool {
        self != other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, SocketAddr};

    use agent_model::{Action, Authorization, Identity, Scope};
    use agent_policy::{Connection, PolicySet, Target, decide};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = StringMatch> {
        let words = || prop::sample::select(vec!["a", "ab", "b", "ba"]);
        prop_oneof![
            words().prop_map(|text| StringMatch::Exact(text.to_owned())),
            words().prop_map(|text| StringMatch::Prefix(text.to_owned())),
            words().prop_map(|text| StringMatch::Suffix(text.to_owned())),
            Just(StringMatch::Presence),
        ]
    }

    fn net() -> impl Strategy<Value = IpNet> {
        let texts = ["10.0.0.0/8", "10.0.0.0/30", "10.0.0.1/32", "0.0.0.0/0"];
        prop::sample::select(texts.to_vec()).prop_map(|text| text.parse().unwrap())
    }

    fn matches() -> impl Strategy<Value = Match> {
        let texts = || vec(text(), 0..2);
        let nets = || vec(net(), 0..2);
        let ports = || vec(prop::sample::select(vec![80_u16, 443]), 0..2);
        (texts(), texts(), nets(), nets(), ports(), ports()).prop_map(
            |(namespaces, not_namespaces, source_ips, not_source_ips, ports, not_ports)| Match {
                namespaces,
                not_namespaces,
                source_ips,
                not_source_ips,
                destination_ports: ports,
                not_destination_ports: not_ports,
                ..Match::default()
            },
        )
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let clause = vec(matches(), 1..3).prop_map(|matches| Clause { matches });
        vec(clause, 0..3).prop_map(|clauses| Rule { clauses })
    }

    fn allows(rule: &Rule, namespace: Option<&str>, ip: [u8; 4], port: u16) -> bool {
        let mut set = PolicySet::default();
        set.insert(&Authorization {
            name: "p".into(),
            namespace: "n".into(),
            scope: Scope::Namespace,
            action: Action::Allow,
            rules: vec![rule.clone()],
            dry_run: false,
        });
        let identity = namespace.map(|name| Identity::new("d", name, "a").unwrap());
        let target = Target {
            namespace: "n",
            policies: &[],
        };
        let connection = Connection {
            source: identity.as_ref(),
            peer: identity.as_ref(),
            source_ip: IpAddr::from(ip),
            source_ip_vouched: true,
            destination: SocketAddr::from(([10, 9, 9, 9], port)),
        };
        decide(&set, &target, &connection).is_allowed()
    }

    proptest! {
        #[test]
        fn what_is_covered_is_matched(wide in rule(), narrow in rule()) {
            prop_assume!(covers(&wide, &narrow));
            for namespace in [None, Some("a"), Some("ab"), Some("b"), Some("ba"), Some("c")] {
                for ip in [[10, 0, 0, 1], [10, 0, 0, 2], [10, 1, 0, 0], [192, 0, 2, 1]] {
                    for port in [80, 443, 8080] {
                        let is_matched = allows(&narrow, namespace, ip, port);
                        prop_assert!(
                            !is_matched || allows(&wide, namespace, ip, port),
                            "{:?} {:?} {}", namespace, ip, port
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn plain_cases_are_seen() {
        let rule = |matched: Match| Rule {
            clauses: vec![Clause {
                matches: vec![matched],
            }],
        };
        let port = |ports: &[u16]| Match {
            destination_ports: ports.to_vec(),
            ..Match::default()
        };
        assert!(covers(&Rule::default(), &rule(port(&[80]))));
        assert!(!covers(&rule(port(&[80])), &Rule::default()));
        assert!(covers(&rule(port(&[80, 443])), &rule(port(&[80]))));
        assert!(!covers(&rule(port(&[80])), &rule(port(&[80, 443]))));
        let web = StringMatch::Exact("cluster.local/ns/shop/sa/web".to_owned());
        let shop = StringMatch::Prefix("cluster.local/ns/shop/".to_owned());
        let by = |principal: &StringMatch| Match {
            principals: vec![principal.clone()],
            ..Match::default()
        };
        assert!(covers(&rule(by(&shop)), &rule(by(&web))));
        assert!(!covers(&rule(by(&web)), &rule(by(&shop))));
        let anybody_else = Match {
            not_principals: vec![web.clone()],
            ..Match::default()
        };
        assert!(!covers(&rule(anybody_else), &rule(by(&web))));
    }
}
