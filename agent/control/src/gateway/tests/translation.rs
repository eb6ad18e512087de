//! What rules become.

use std::time::Duration;

use agent_model::gateway::{
    BackendProtocol, Filter, HttpRule, PathChange, PathMatch, Persistence, Rules, Target,
    ValueMatch,
};

use super::*;

fn rules_of(kind: &str, rule: &str, more: &str) -> (String, Vec<HttpRule>) {
    let spec = format!("{{parentRefs: [{{name: g}}], rules: [{rule}]}}");
    let world = World::of(&format!(
        "{}{}{more}",
        gateway("listeners: [{name: http, port: 80, protocol: HTTP}]"),
        object(kind, "infra", "r", &spec)
    ));
    let shown = world.parents(&format!("{kind} infra/r")).join(" ");
    let rules = match world.route("r").map(|route| &route.rules) {
        Some(Rules::Http(rules)) => rules.clone(),
        Some(other) => panic!("{other:?}"),
        None => Vec::new(),
    };
    (shown, rules)
}

fn rule(rule: &str) -> HttpRule {
    let (shown, mut rules) = rules_of("HTTPRoute", rule, "");
    assert_eq!(shown, ATTACHED, "{rule}");
    rules.remove(0)
}

#[test]
fn matches() {
    let rule = rule(
        "{name: named, matches: [{path: {type: Exact, value: /a}, method: POST, headers: [{name: X-A, \
         value: b}, {name: x-a, value: c}], queryParams: [{name: Q, type: RegularExpression, value: \
         'a+'}]}, {path: {value: /p}}, {path: {type: RegularExpression, value: '/x.*'}}, {}]}",
    );
    assert_eq!(rule.name.as_deref(), Some("named"));
    let first = &rule.matches[0];
    assert_eq!(first.path, PathMatch::Exact("/a".into()));
    assert_eq!(first.method.as_deref(), Some("POST"));
    // Of several entries for one name the first counts.
    assert_eq!(first.headers.len(), 1);
    assert_eq!(&*first.headers[0].name, "x-a");
    assert_eq!(first.query[0].value, ValueMatch::Regex("a+".into()));
    assert_eq!(&*first.query[0].name, "Q");
    let paths: Vec<_> = rule.matches[1..].iter().map(|of| of.path.clone()).collect();
    assert_eq!(
        paths,
        [
            PathMatch::Prefix("/p".into()),
            PathMatch::Regex("/x.*".into()),
            PathMatch::Prefix("/".into())
        ]
    );
}

#[test]
fn methods_of_grpc() {
    for (method, expected) in [
        (
            "{service: a.B, method: C}",
            PathMatch::Exact("/a.B/C".into()),
        ),
        ("{service: a.B}", PathMatch::Prefix("/a.B".into())),
        ("{method: C}", PathMatch::Regex("/[^/]+/C".into())),
        (
            "{type: RegularExpression, service: 'a|b'}",
            PathMatch::Regex("/(?:a|b)/[^/]+".into()),
        ),
    ] {
        let rule = format!(
            "{{matches: [{{method: {method}}}], backendRefs: [{{name: web, port: 8080}}]}}"
        );
        let (shown, rules) = rules_of("GRPCRoute", &rule, "");
        assert_eq!(shown, ATTACHED);
        assert_eq!(rules[0].matches[0].path, expected, "{method}");
        let target = &rules[0].backends[0].target;
        let is_h2c = matches!(
            target,
            Target::Service {
                protocol: BackendProtocol::H2c,
                ..
            }
        );
        assert!(is_h2c, "{target:?}");
    }
}

#[test]
fn a_match_that_nobody_understands_takes_its_rule_and_no_other() {
    let good = "{backendRefs: [{name: web, port: 8080}]}";
    for bad in [
        "{path: {type: Glob, value: /a}}",
        "{path: {type: RegularExpression, value: '('}}",
        "{path: {type: RegularExpression, value: '(x{500}){500}'}}",
        &format!(
            "{{headers: [{{name: a, type: RegularExpression, value: {}}}]}}",
            "x".repeat(1025)
        ),
        "{path: {value: a}}",
        "{headers: [{name: a, type: Other, value: b}]}",
        "{headers: [{name: '', value: b}]}",
        "{method: {service: a}}",
    ] {
        let (shown, rules) = rules_of("HTTPRoute", &format!("{{matches: [{bad}]}}, {good}"), "");
        assert_eq!(
            shown,
            format!("{ATTACHED} PartiallyInvalid=True/UnsupportedValue"),
            "{bad}"
        );
        assert_eq!(rules.len(), 1, "{bad}");
        let (shown, rules) = rules_of("HTTPRoute", &format!("{{matches: [{bad}]}}"), "");
        assert!(
            shown.starts_with("Accepted=False/UnsupportedValue"),
            "{shown}"
        );
        assert!(rules.is_empty());
    }
}

#[test]
fn filters() {
    let rule = rule(
        "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: \
         'a b'}], remove: [X-Off]}}, {type: URLRewrite, urlRewrite: {hostname: a.org, path: {type: \
         ReplacePrefixMatch, replacePrefixMatch: /new}}}, {type: RequestMirror, requestMirror: \
         {backendRef: {name: web, port: 8080}, percent: 20}}, {type: CORS, cors: {allowOrigins: \
         ['https://*.a.org'], maxAge: 5}}], backendRefs: [{name: web, port: 8080, weight: 3, filters: \
         [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: A, value: b}]}}]}]}",
    );
    let [
        Filter::RequestHeaders(headers),
        Filter::Rewrite(rewrite),
        Filter::Mirror(mirror),
        Filter::Cors(cors),
    ] = &rule.filters[..]
    else {
        panic!("{:?}", rule.filters);
    };
    assert_eq!(
        (&*headers.set[0].name, &*headers.set[0].value),
        ("x-set", "a b")
    );
    assert_eq!(&*headers.remove[0], "x-off");
    assert_eq!(rewrite.hostname.as_deref(), Some("a.org"));
    assert_eq!(rewrite.path, Some(PathChange::Prefix("/new".into())));
    assert_eq!(
        (mirror.fraction.numerator, mirror.fraction.denominator),
        (20, 100)
    );
    assert!(matches!(mirror.backend, Target::Service { .. }));
    assert_eq!(cors.max_age, Some(Duration::from_secs(5)));
    assert_eq!(rule.backends[0].weight, 3);
    assert!(matches!(
        rule.backends[0].filters[..],
        [Filter::ResponseHeaders(_)]
    ));
}

#[test]
fn a_filter_that_cannot_be_used_fails_requests_rather_than_let_them_pass() {
    for bad in [
        "{type: ExtensionRef, extensionRef: {group: x, kind: Z, name: z}}",
        "{type: Unheard}",
        "{type: URLRewrite}",
        "{type: RequestRedirect, requestRedirect: {scheme: ftp}}",
        "{type: RequestRedirect, requestRedirect: {statusCode: 305}}",
        "{type: RequestRedirect, requestRedirect: {hostname: '*.a.org'}}",
        "{type: URLRewrite, urlRewrite: {path: {type: Other}}}",
        "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/a?b'}}}",
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: 'a b', value: c}]}}",
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Content-Length, value: '1'}]}}",
        "{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: a, value: 'é'}]}}",
        "{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 8080}, fraction: {numerator: 2, denominator: 1}}}",
        "{type: CORS, cors: {allowOrigins: [a.org]}}",
    ] {
        let rule = format!("{{filters: [{bad}], backendRefs: [{{name: web, port: 8080}}]}}");
        let (shown, rules) = rules_of("HTTPRoute", &rule, "");
        assert_eq!(
            shown,
            format!("{ATTACHED} PartiallyInvalid=True/UnsupportedValue"),
            "{bad}"
        );
        assert!(
            matches!(rules[0].filters[..], [Filter::Invalid(_)]),
            "{bad}"
        );
    }
}

#[test]
fn limits() {
    let limited = rule(
        "{timeouts: {request: 1s, backendRequest: 0s}, retry: {codes: [500, 503], attempts: 2, \
         backoff: 100ms}, sessionPersistence: {sessionName: s, type: Cookie, absoluteTimeout: 1h, \
         cookieConfig: {lifetimeType: Permanent}}}",
    );
    assert_eq!(limited.timeouts.request, Some(Duration::from_secs(1)));
    let off = Some(Duration::ZERO);
    assert_eq!(
        limited.timeouts.backend_request, off,
        "also that of a policy"
    );
    let retry = limited.retry.unwrap();
    assert_eq!((retry.codes, retry.attempts), (vec![500, 503], 2));
    assert_eq!(retry.backoff, Some(Duration::from_millis(100)));
    let session = limited.session_persistence.unwrap();
    assert_eq!(session.kind, Persistence::Cookie { permanent: true });
    assert_eq!(session.absolute_timeout, Some(Duration::from_secs(3600)));
    let (shown, rules) = rules_of("HTTPRoute", "{timeouts: {request: soon}}", "");
    assert!(
        shown.ends_with("PartiallyInvalid=True/UnsupportedValue"),
        "{shown}"
    );
    assert_eq!(rules[0].timeouts.request, None);
}

/// Also `HTTPRouteBackendProtocolWebSocket`.
#[test]
fn http_route_backend_protocol_h2c() {
    for (said, expected) in [
        ("kubernetes.io/h2c", Some(BackendProtocol::H2c)),
        ("kubernetes.io/ws", Some(BackendProtocol::Http)),
        ("something.else", Some(BackendProtocol::Http)),
        ("kubernetes.io/wss", None),
        ("HTTPS", None),
        ("tls", None),
    ] {
        let service = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: said, namespace: infra}}\nspec: \
             {{clusterIP: 10.0.0.7, ports: [{{port: 80, appProtocol: {said}}}]}}\n"
        );
        let (shown, rules) = rules_of(
            "HTTPRoute",
            "{backendRefs: [{name: said, port: 80}]}",
            &service,
        );
        match (&rules[0].backends[0].target, expected) {
            (Target::Service { protocol, .. }, Some(expected)) => {
                assert_eq!(*protocol, expected, "{said}");
            }
            (Target::Invalid(_), None) => {
                assert!(
                    shown.ends_with("ResolvedRefs=False/UnsupportedProtocol"),
                    "{shown}"
                );
            }
            other => panic!("{said}: {other:?}"),
        }
    }
}

#[test]
fn a_port_that_wants_tls_gets_no_request_without_a_policy_for_it() {
    let rule = "{backendRefs: [{name: said, port: 443}]}";
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: said, namespace: infra}\n\
         spec: {clusterIP: 10.0.0.7, ports: [{name: tls, port: 443, appProtocol: https}, \
         {name: other, port: 80}]}\n";
    let validation = "validation: {wellKnownCACertificates: System, hostname: said.example.com}";
    let policy = |namespace: &str, section: &str| {
        let spec = format!(
            "{{targetRefs: [{{group: '', kind: Service, name: said{section}}}], {validation}}}"
        );
        made(
            "BackendTLSPolicy",
            namespace,
            "p",
            "2026-01-01T00:00:00Z",
            &spec,
        )
    };
    for (policy, is_reached) in [
        (String::new(), false),
        (policy("infra", ""), true),
        (policy("infra", ", sectionName: tls"), true),
        (policy("infra", ", sectionName: other"), false),
        (policy("apps", ""), false),
    ] {
        for (kind, protocol) in [
            ("HTTPRoute", BackendProtocol::Http),
            ("GRPCRoute", BackendProtocol::H2c),
        ] {
            let (shown, rules) = rules_of(kind, rule, &format!("{service}{policy}"));
            match &rules[0].backends[0].target {
                Target::Service { protocol: of, .. } if is_reached => assert_eq!(*of, protocol),
                Target::Invalid(why) if !is_reached => {
                    assert!(why.contains("no BackendTLSPolicy"), "{why}");
                    assert!(shown.ends_with("ResolvedRefs=False/UnsupportedProtocol"));
                }
                other => panic!("{policy}: {other:?}"),
            }
        }
    }
}

#[test]
fn hosts_of_service_entries_are_for_whom_they_are_exported_to() {
    let rule = "{backendRefs: [{group: networking.istio.io, kind: Hostname, name: api.example.com, port: 80}]}";
    for (namespace, to, is_found) in [
        ("other", "null", true),
        ("other", "['*']", true),
        ("other", "[., infra]", true),
        ("infra", "[.]", true),
        ("other", "[.]", false),
        ("other", "[infrared]", false),
        ("other", "['~']", false),
    ] {
        let entry = format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, \
             namespace: {namespace}}}\nspec: {{hosts: [api.example.com], resolution: DNS, exportTo: \
             {to}, ports: [{{number: 80, name: http, protocol: HTTP}}]}}\n"
        );
        let (shown, rules) = rules_of("HTTPRoute", rule, &entry);
        match &rules[0].backends[0].target {
            Target::Service { .. } => assert!(is_found, "{namespace} {to}"),
            Target::Invalid(why) => {
                assert!(!is_found, "{namespace} {to}: {why}");
                assert!(
                    shown.ends_with("ResolvedRefs=False/BackendNotFound"),
                    "{shown}"
                );
            }
        }
    }
}

#[test]
fn hosts_of_service_entries_are_backends() {
    let entry = |namespace: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, \
             namespace: {namespace}}}\nspec: {{hosts: [api.example.com], resolution: DNS, ports: \
             [{{number: 443, name: https, protocol: HTTPS}}]}}\n"
        )
    };
    let rule = "{backendRefs: [{group: networking.istio.io, kind: Hostname, name: api.example.com, port: 443}]}";
    let policy = |namespace: &str| {
        let spec = "{targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: e}], \
             validation: {wellKnownCACertificates: System, hostname: api.example.com}}";
        made(
            "BackendTLSPolicy",
            namespace,
            "p",
            "2026-01-01T00:00:00Z",
            spec,
        )
    };
    let both = format!("{}{}", entry("apps"), entry("infra"));
    for (entries, namespace) in [(entry("apps"), "apps"), (both, "infra")] {
        let covered = format!("{entries}{}", policy(namespace));
        let (shown, rules) = rules_of("HTTPRoute", rule, &covered);
        assert_eq!(shown, ATTACHED);
        let Target::Service { service, port, .. } = &rules[0].backends[0].target else {
            panic!("{rules:?}");
        };
        assert_eq!(service.to_string(), format!("{namespace}/api.example.com"));
        assert_eq!(*port, 443);
        // Nothing goes there in the clear.
        let (shown, rules) = rules_of("HTTPRoute", rule, &entries);
        assert!(
            shown.ends_with("ResolvedRefs=False/UnsupportedProtocol"),
            "{shown}"
        );
        assert!(matches!(rules[0].backends[0].target, Target::Invalid(_)));
    }
    let (shown, _) = rules_of("HTTPRoute", rule, "");
    assert!(
        shown.ends_with("ResolvedRefs=False/BackendNotFound"),
        "{shown}"
    );
}
