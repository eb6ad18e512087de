//! BackendTLSPolicies, and the certificate that a gateway shows.

use crate::bed::{Bed, until};
use crate::client::{Answer, ask, ask_tls, get};
use crate::echo;
use crate::manifests::{authority, certificate, gateway, http_route, object, route, service};

const SAME: (&str, u16) = ("same", 80);

fn policy(name: &str, service: &str, validation: &str) -> String {
    let target = format!("{{group: \"\", kind: Service, name: {service}}}");
    targeting(name, &target, validation)
}

fn targeting(name: &str, target: &str, validation: &str) -> String {
    let spec = format!("{{targetRefs: [{target}], validation: {{{validation}}}}}");
    object("BackendTLSPolicy", name, &spec)
}

fn trusting(map: &str, more: &str) -> String {
    format!("caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: {map}}}], {more}")
}

fn rule(path: &str, service: &str, port: u16) -> String {
    format!(
        "{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], \
         backendRefs: [{{name: {service}, port: {port}}}]}}"
    )
}

fn own(names: &[&str]) -> String {
    let services = names.iter().map(|name| service("infra", name, &[1, 2]));
    services.collect::<String>() + &authority("ca", echo::authority())
}

fn sni(answer: &Answer) -> &str {
    answer.echo["tls"]["sni"].as_str().unwrap_or_default()
}

/// Asks until there is an answer that says a gateway could not go on.
async fn fails(bed: &Bed, path: &str) {
    let at = bed.tcp("same", 80).await;
    until(async || {
        let answer = ask(at, &get("abc.example.com", path)).await;
        let answer = answer.map_err(|error| error.to_string())?;
        (matches!(answer.status, 500 | 502 | 503))
            .then_some(())
            .ok_or(format!("{path}: {answer:?}"))
    })
    .await;
}

/// `BackendTLSPolicy`: from a listener of HTTP and of HTTPS, with a bad name, a bad authority, and
/// another authority later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_tls_policy() {
    let rules = [
        rule("/good", "good", 443),
        rule("/host", "bad-host", 443),
        rule("/ca", "bad-ca", 443),
    ];
    let listeners = "{name: http, port: 80, protocol: HTTP}, {name: https, port: 443, \
                     protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}";
    let other = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
    let manifest = gateway("g", listeners)
        + &certificate("cert", &["abc.example.com"])
        + &http_route(
            "r",
            "{name: g}, {name: same}",
            &format!("rules: [{}]", rules.join(", ")),
        )
        + &own(&["good", "bad-host", "bad-ca"])
        + &authority("other", &other.cert.pem())
        + &policy("good", "good", &trusting("ca", "hostname: abc.example.com"))
        + &policy(
            "bad-host",
            "bad-host",
            &trusting("ca", "hostname: nobody.example.com"),
        )
        + &policy(
            "bad-ca",
            "bad-ca",
            &trusting("other", "hostname: abc.example.com"),
        );
    let mut bed = Bed::start(&["g", "same"], &manifest).await;
    let asked = get("abc.example.com", "/good");
    let answer = bed.expect(SAME, &asked, 200, "infra-v1").await;
    assert_eq!(sni(&answer), "abc.example.com");
    let at = bed.tcp("g", 443).await;
    let answer = ask_tls(at, "abc.example.com", &None, &asked).await.unwrap();
    assert_eq!((answer.status, sni(&answer)), (200, "abc.example.com"));
    fails(&bed, "/host").await;
    fails(&bed, "/ca").await;
    let ancestors = bed.parents("BackendTLSPolicy", "good");
    let fine = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs";
    assert_eq!(ancestors, [fine, fine]);
    bed.edit("kind: ConfigMap, name: other", "kind: ConfigMap, name: ca");
    let asked = get("abc.example.com", "/ca");
    bed.expect(SAME, &asked, 200, "infra-v1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_tls_policy_conflict_resolution() {
    let rules = [
        rule("/whole", "whole", 443),
        rule("/section", "section", 443),
        rule("/special", "special", 443),
        rule("/general", "special", 8443),
    ];
    let section = |name: &str, of: &str| {
        format!("{{group: \"\", kind: Service, name: {name}, sectionName: {of}}}")
    };
    let first = trusting("ca", "hostname: other.example.com");
    let second = trusting("ca", "hostname: abc.example.com");
    let manifest = http_route("r", "same", &format!("rules: [{}]", rules.join(", ")))
        + &own(&["whole", "section", "special"])
            .replace(
                "{name: reset, port: 9009",
                "{name: https-2, port: 8443, targetPort: 8443}\n  - {name: reset, port: 9009",
            )
            .replace(
                "- {name: reset, port: 3009}",
                "- {name: https-2, port: 8443}",
            )
        + &policy("whole-1", "whole", &first)
        + &policy("whole-2", "whole", &second)
        + &targeting("section-1", &section("section", "https"), &first)
        + &targeting("section-2", &section("section", "https"), &second)
        + &targeting("special-1", &section("special", "https"), &first)
        + &policy("special-2", "special", &second);
    let bed = Bed::start(&["same"], &manifest).await;
    for (path, name) in [
        ("/whole", "other.example.com"),
        ("/section", "other.example.com"),
        ("/special", "other.example.com"),
        ("/general", "abc.example.com"),
    ] {
        let asked = get("abc.example.com", path);
        let answer = bed.expect(SAME, &asked, 200, "infra-v1").await;
        assert_eq!(sni(&answer), name, "{path}");
    }
    for (name, accepted) in [
        ("whole-1", "True/Accepted"),
        ("whole-2", "False/Conflicted"),
        ("section-1", "True/Accepted"),
        ("section-2", "False/Conflicted"),
        ("special-1", "True/Accepted"),
        ("special-2", "True/Accepted"),
    ] {
        let ancestors = bed.parents("BackendTLSPolicy", name);
        assert!(
            ancestors[0].starts_with(&format!("Accepted={accepted} ")),
            "{name} {ancestors:?}"
        );
    }
}

/// `BackendTLSPolicyInvalidCACertificateRef` and `BackendTLSPolicyInvalidKind`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_tls_policy_invalid_ca_certificate_ref() {
    let rules = [
        rule("/missing", "missing", 443),
        rule("/broken", "broken", 443),
        rule("/kind", "kind", 443),
    ];
    let hostname = "hostname: abc.example.com";
    let kind =
        format!("caCertificateRefs: [{{group: nobody.org, kind: Thing, name: ca}}], {hostname}");
    let manifest = http_route("r", "same", &format!("rules: [{}]", rules.join(", ")))
        + &own(&["missing", "broken", "kind"])
        + &authority("no-pem", "nothing of that form")
        + &policy("missing", "missing", &trusting("nowhere", hostname))
        + &policy("broken", "broken", &trusting("no-pem", hostname))
        + &policy("kind", "kind", &kind);
    let bed = Bed::start(&["same"], &manifest).await;
    for (name, reason) in [
        ("missing", "InvalidCACertificateRef"),
        ("broken", "InvalidCACertificateRef"),
        ("kind", "InvalidKind"),
    ] {
        fails(&bed, &format!("/{name}")).await;
        let expected = format!("Accepted=False/NoValidCACertificate ResolvedRefs=False/{reason}");
        assert_eq!(bed.parents("BackendTLSPolicy", name), [expected]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_tls_policy_san_validation() {
    let host = |name: &str| format!("{{type: Hostname, hostname: {name}}}");
    let uri = |name: &str| format!("{{type: URI, uri: \"{name}\"}}");
    let identity = "spiffe://abc.example.com/test-identity";
    let cases = [
        ("dns", host("abc.example.com"), true),
        ("dns-bad", host("bad.example.com"), false),
        ("uri", uri(identity), true),
        ("uri-bad", uri("spiffe://abc.example.com/other"), false),
        (
            "several",
            format!("{}, {}", host("bad.example.com"), uri(identity)),
            true,
        ),
        (
            "several-bad",
            format!("{}, {}", host("bad.example.com"), uri("spiffe://bad/x")),
            false,
        ),
    ];
    let mut rules = Vec::new();
    let mut manifest = own(&cases.each_ref().map(|(name, ..)| *name));
    for (name, names, _) in &cases {
        rules.push(rule(&format!("/{name}"), name, 443));
        // Then the host is for the handshake only.
        let more = format!("hostname: sni.example.net, subjectAltNames: [{names}]");
        manifest += &policy(name, name, &trusting("ca", &more));
    }
    manifest += &http_route("r", "same", &format!("rules: [{}]", rules.join(", ")));
    let bed = Bed::start(&["same"], &manifest).await;
    for (name, _, matches) in &cases {
        let path = format!("/{name}");
        if *matches {
            let asked = get("abc.example.com", &path);
            let answer = bed.expect(SAME, &asked, 200, "infra-v1").await;
            assert_eq!(sni(&answer), "sni.example.net", "{name}");
        } else {
            fails(&bed, &path).await;
        }
    }
}

/// What ends at the gateway goes on in TLS of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_tls_policy_tls_route_terminate() {
    let listener = "{name: tls, port: 443, protocol: TLS, hostname: abc.example.com, \
                    tls: {mode: Terminate, certificateRefs: [{name: cert}]}}";
    let more = "hostnames: [abc.example.com], rules: [{backendRefs: [{name: back, port: 443}]}]";
    let manifest = gateway("g", listener)
        + &certificate("cert", &["abc.example.com"])
        + &route("TLSRoute", "r", "g", more)
        + &own(&["back"])
        + &policy("p", "back", &trusting("ca", "hostname: other.example.com"));
    let bed = Bed::start(&["g"], &manifest).await;
    let at = bed.tcp("g", 443).await;
    let asked = get("abc.example.com", "/");
    let answer = ask_tls(at, "abc.example.com", &None, &asked).await.unwrap();
    assert_eq!((answer.status, sni(&answer)), (200, "other.example.com"));
}

/// `spec.tls.backend.clientCertificateRef`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_tls_backend_client_certificate() {
    let spec = "{gatewayClassName: culvert, tls: {backend: {clientCertificateRef: {name: own}}}, \
                listeners: [{name: http, port: 80, protocol: HTTP}]}";
    let rules = format!("rules: [{}]", rule("/", "back", 443));
    let manifest = object("Gateway", "g", spec)
        + &certificate("own", &["gateway.example"])
        + &http_route("r", "g", &rules)
        + &own(&["back"])
        + &policy("p", "back", &trusting("ca", "hostname: abc.example.com"));
    let bed = Bed::start(&["g"], &manifest).await;
    let asked = get("abc.example.com", "/");
    let answer = bed.expect(("g", 80), &asked, 200, "infra-v1").await;
    assert_eq!(answer.echo["tls"]["clientCertificates"], 1);
}
