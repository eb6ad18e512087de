use agent_model::gateway::{BackendTls, SubjectAltName, TrustedRoots};

use super::*;

const LISTENERS: &str = "listeners: [{name: http, port: 80, protocol: HTTP}]";

fn policy(name: &str, at: &str, target: &str, validation: &str) -> String {
    let spec = format!(
        "{{targetRefs: [{{group: '', kind: Service, name: web{target}}}], validation: {{hostname: \
         a.example.org, {validation}}}}}"
    );
    made("BackendTLSPolicy", "infra", name, at, &spec)
}

const CA: &str = "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]";
const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-02-01T00:00:00Z";

fn world(policies: &str) -> World {
    World::of(&format!(
        "{}{}{}{policies}",
        gateway(LISTENERS),
        route("infra", "r", "{name: g}", ""),
        authority("infra", "ca")
    ))
}

#[test]
fn backend_tls_policy_observed_generation_bump() {
    let world = world(&policy("p", EARLY, "", CA));
    assert_eq!(world.parents("BackendTLSPolicy infra/p"), [ATTACHED]);
    let status = world.status("BackendTLSPolicy infra/p");
    let ancestor = &status["ancestors"][0];
    assert_eq!(
        ancestor["ancestorRef"],
        serde_json::json!({
            "group": "gateway.networking.k8s.io", "kind": "Gateway",
            "namespace": "infra", "name": "g",
        })
    );
    assert_eq!(ancestor["conditions"][0]["observedGeneration"], 7);
    let backend = &world.0.backends[0];
    assert_eq!(&*backend.service.hostname, "web.infra.svc.cluster.local");
    let Some(BackendTls::Verified(tls)) = &backend.tls else {
        panic!("{backend:?}");
    };
    assert_eq!(&*tls.hostname, "a.example.org");
    assert!(matches!(&tls.roots, TrustedRoots::Certificates(pem) if pem.contains("CERTIFICATE")));
}

#[test]
fn backend_tls_policy_conflict_resolution() {
    let lost = "Accepted=False/Conflicted ResolvedRefs=True/ResolvedRefs";
    for target in ["", ", sectionName: http"] {
        // By age and not by name.
        let world = world(&format!(
            "{}{}",
            policy("a", LATE, target, CA),
            policy("b", EARLY, target, CA)
        ));
        assert_eq!(world.parents("BackendTLSPolicy infra/a"), [lost]);
        assert_eq!(world.parents("BackendTLSPolicy infra/b"), [ATTACHED]);
        assert_eq!(world.0.backends.len(), 1);
    }
    // A port and the whole are two places.
    let world = world(&format!(
        "{}{}",
        policy("a", LATE, "", CA),
        policy("b", EARLY, ", sectionName: http", CA)
    ));
    assert_eq!(world.parents("BackendTLSPolicy infra/a"), [ATTACHED]);
    let ports: Vec<_> = world
        .0
        .backends
        .iter()
        .map(|backend| backend.port)
        .collect();
    assert_eq!(ports, [Some(8080), None]);
}

fn invalid(validation: &str, accepted: &str, resolved: &str) {
    let world = world(&policy("p", EARLY, "", validation));
    let expected = format!("Accepted=False/{accepted} ResolvedRefs={resolved}");
    assert_eq!(
        world.parents("BackendTLSPolicy infra/p"),
        [expected],
        "{validation}"
    );
    let tls = world.0.backends[0].tls.clone();
    assert!(
        matches!(tls, Some(BackendTls::Invalid(_))),
        "traffic must not go out: {tls:?}"
    );
}

#[test]
fn backend_tls_policy_invalid_ca_certificate_ref() {
    let missing = "caCertificateRefs: [{group: '', kind: ConfigMap, name: nope}]";
    invalid(
        missing,
        "NoValidCACertificate",
        "False/InvalidCACertificateRef",
    );
}

#[test]
fn backend_tls_policy_invalid_kind() {
    let other = "caCertificateRefs: [{group: wrong.io, kind: Secret, name: ca}]";
    invalid(other, "NoValidCACertificate", "False/InvalidKind");
}

#[test]
fn what_cannot_be_checked_is_invalid() {
    invalid(
        "wellKnownCACertificates: Other",
        "Invalid",
        "True/ResolvedRefs",
    );
    let name = format!("{CA}, subjectAltNames: [{{type: Email, hostname: a}}]");
    invalid(&name, "Invalid", "True/ResolvedRefs");
    invalid(
        &format!("{CA}, subjectAltNames: [{{type: URI}}]"),
        "Invalid",
        "True/ResolvedRefs",
    );
}

#[test]
fn one_good_authority_of_several_will_do() {
    let two = "caCertificateRefs: [{group: '', kind: ConfigMap, name: nope}, {group: '', kind: \
               ConfigMap, name: ca}]";
    let world = world(&policy("p", EARLY, "", two));
    let expected = "Accepted=True/Accepted ResolvedRefs=False/InvalidCACertificateRef";
    assert_eq!(world.parents("BackendTLSPolicy infra/p"), [expected]);
}

#[test]
fn backend_tls_policy_san_validation() {
    let names = "subjectAltNames: [{type: Hostname, hostname: b.example.org}, {type: URI, uri: \
                 'spiffe://a/b'}]";
    let world = world(&policy(
        "p",
        EARLY,
        "",
        &format!("wellKnownCACertificates: System, {names}"),
    ));
    assert_eq!(world.parents("BackendTLSPolicy infra/p"), [ATTACHED]);
    let Some(BackendTls::Verified(tls)) = &world.0.backends[0].tls else {
        panic!("{:?}", world.0.backends);
    };
    assert_eq!(tls.roots, TrustedRoots::System);
    let expected = [
        SubjectAltName::Hostname("b.example.org".into()),
        SubjectAltName::Uri("spiffe://a/b".into()),
    ];
    assert_eq!(tls.subject_alt_names, expected);
}

#[test]
fn a_policy_that_no_gateway_of_ours_uses_says_nothing() {
    let unused = policy("p", EARLY, "", CA).replace("name: web", "name: address");
    assert_eq!(
        world(&unused).status("BackendTLSPolicy infra/p"),
        Value::Null
    );
    // What was said before is taken back.
    let marked = format!(
        "{unused}status: {{ancestors: [{{controllerName: culvert.dev/gateway-controller}}]}}\n"
    );
    let status = world(&marked).status("BackendTLSPolicy infra/p");
    assert_eq!(status, serde_json::json!({"ancestors": []}));
}

#[test]
fn hosts_of_service_entries_are_reached_by_tls_too() {
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: api, \
         namespace: infra}\nspec: {hosts: [api.example.com, b.example.com], resolution: DNS, ports: \
         [{number: 80, name: http, protocol: HTTP, targetPort: 443}]}\n";
    let of = |name: &str, kind: &str, target: &str| {
        let spec = format!(
            "{{targetRefs: [{{group: networking.istio.io, kind: {kind}, name: {target}}}], \
             validation: {{hostname: api.example.com, {CA}}}}}"
        );
        made("BackendTLSPolicy", "infra", name, EARLY, &spec)
    };
    let places = |policy: &str| {
        let world = world(&format!("{policy}{entry}"));
        let backends = world.0.backends.iter();
        let places = backends.map(|one| (one.service.hostname.to_string(), one.port));
        places.collect::<Vec<_>>()
    };
    let (a, b) = ("api.example.com".to_owned(), "b.example.com".to_owned());
    let all = [(a.clone(), None), (b, None)];
    assert_eq!(places(&of("p", "ServiceEntry", "api")), all);
    let section = "Hostname, sectionName: http";
    assert_eq!(
        places(&of("p", section, "api.example.com")),
        [(a, Some(80))]
    );
    assert_eq!(places(&of("p", "Hostname", "c.example.com")), []);
    assert_eq!(places(&of("p", "ServiceEntry", "other")), []);
}
