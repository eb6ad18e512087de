use agent_model::{
    Action, Authorization, Clause, Match, NamespacedHostname, NetworkAddress, PolicyKey, Rule,
    Scope, Service, ServicePort, StringMatch,
};
use agent_state::{Reader, channel};
use agent_xds::{Apply, Update};

use super::*;

fn workload(name: &str, ip: &str, meshed: bool) -> Workload {
    let tunnel_protocol = if meshed {
        TunnelProtocol::Hbone
    } else {
        TunnelProtocol::None
    };
    Workload {
        uid: format!("Kubernetes//Pod/shop/{name}").into(),
        name: name.into(),
        namespace: "shop".into(),
        service_account: name.into(),
        addresses: vec![ip.parse().unwrap()],
        node: "n1".into(),
        tunnel_protocol,
        ..Workload::default()
    }
}

fn web() -> Workload {
    let mut web = workload("web", "10.0.1.7", true);
    let ports = vec![ServicePort::new(80, 8080)];
    let key = NamespacedHostname::new("shop", "web.shop.svc.cluster.local");
    web.services.insert(key, ports);
    web
}

fn service() -> Service {
    Service {
        name: "web".into(),
        namespace: "shop".into(),
        hostname: "web.shop.svc.cluster.local".into(),
        vips: vec![NetworkAddress {
            network: "".into(),
            address: "10.96.0.5".parse().unwrap(),
        }],
        ports: vec![ServicePort::new(80, 8080)],
        subject_alt_names: Vec::new(),
        waypoint: None,
        ingress_use_waypoint: false,
        load_balancing: Default::default(),
        ip_families: Default::default(),
        canonical: true,
        visibility: Default::default(),
    }
}

fn policy(name: &str, action: Action, principal: &str) -> Authorization {
    let matching = Match {
        principals: vec![StringMatch::Exact(principal.to_owned())],
        ..Match::default()
    };
    Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope: Scope::Namespace,
        action,
        rules: vec![Rule {
            clauses: vec![Clause {
                matches: vec![matching],
            }],
        }],
        dry_run: false,
    }
}

fn mesh(policies: Vec<Authorization>) -> Reader {
    let (mut writer, reader) = channel();
    let workloads = [
        workload("client", "10.0.0.3", true),
        workload("outsider", "10.0.0.9", false),
        web(),
    ];
    let mut updates: Vec<Update> = workloads
        .into_iter()
        .map(|workload| Update::Workload(Box::new(workload)))
        .collect();
    updates.push(Update::Service(Box::new(service())));
    updates.extend(policies.into_iter().map(Update::Policy));
    writer.apply(updates);
    reader
}

fn ask(reader: &Reader, source: &str, destination: &str) -> Result<Why, String> {
    let destination = destination.parse().unwrap();
    explain(&reader.load(), "", source, destination, &mut || 0)
}

const CLIENT: &str = "cluster.local/ns/shop/sa/client";

#[test]
fn a_service_leads_through_a_tunnel_to_its_endpoint() {
    let why = ask(&mesh(Vec::new()), "shop/client", "10.96.0.5:80").unwrap();
    assert_eq!(why.route, RouteKind::Tunnel);
    assert_eq!(why.service.as_deref(), Some("web.shop.svc.cluster.local"));
    let endpoint = why.endpoint.as_ref().unwrap();
    assert_eq!(endpoint.target.to_string(), "10.0.1.7:8080");
    assert_eq!(endpoint.peer.to_string(), "10.0.1.7:15008");
    assert_eq!(
        endpoint.expected[0].to_string(),
        "spiffe://cluster.local/ns/shop/sa/web"
    );
    assert!(why.allowed);
    assert!(why.to_text().contains("ALLOWED"), "{}", why.to_text());
}

#[test]
fn every_policy_is_listed_with_its_verdict() {
    let reader = mesh(vec![
        policy("allow-client", Action::Allow, CLIENT),
        policy("deny-other", Action::Deny, "cluster.local/ns/shop/sa/other"),
    ]);
    let why = ask(&reader, "10.0.0.3", "10.0.1.7:8080").unwrap();
    assert!(why.allowed);
    assert_eq!(why.policy, Some(PolicyKey::new("shop", "allow-client")));
    let verdicts: Vec<(&str, bool)> = why
        .policies
        .iter()
        .map(|view| (&*view.policy.0, view.matches))
        .collect();
    assert_eq!(
        verdicts,
        [("shop/allow-client", true), ("shop/deny-other", false)]
    );
}

#[test]
fn a_refusal_has_the_reason_of_the_log() {
    let reader = mesh(vec![policy("deny-client", Action::Deny, CLIENT)]);
    let why = ask(&reader, "shop/client", "10.96.0.5:80").unwrap();
    assert!(!why.allowed);
    assert_eq!(why.reason, Reason::PolicyDenied);
    let text = why.to_text();
    assert!(
        text.contains("REFUSED: policy-denied, decided by shop/deny-client"),
        "{text}"
    );
}

#[test]
fn an_outsider_is_judged_without_identity() {
    let reader = mesh(vec![policy("allow-client", Action::Allow, CLIENT)]);
    let why = ask(&reader, "shop/outsider", "10.0.1.7:8080").unwrap();
    assert_eq!(why.route, RouteKind::NotCaptured);
    assert_eq!(why.source.identity, None);
    assert_eq!(why.reason, Reason::PolicyNotAllowed);
}

#[test]
fn ports_the_service_lacks_and_agent_ports_are_refused() {
    let reader = mesh(Vec::new());
    let why = ask(&reader, "shop/client", "10.96.0.5:81").unwrap();
    assert_eq!((why.route, why.allowed), (RouteKind::Deny, false));
    let why = ask(&reader, "shop/client", "10.0.1.7:15008").unwrap();
    assert_eq!(why.reason, Reason::AgentPort);
}

#[test]
fn itself_and_strangers_pass() {
    let reader = mesh(Vec::new());
    let why = ask(&reader, "shop/client", "10.0.0.3:80").unwrap();
    assert_eq!((why.route, why.allowed), (RouteKind::NotCaptured, true));
    let why = ask(&reader, "shop/client", "93.184.216.34:443").unwrap();
    assert_eq!((why.route, why.allowed), (RouteKind::Passthrough, true));
}

#[test]
fn an_unknown_source_is_said_so() {
    let reader = mesh(Vec::new());
    for source in ["shop/nobody", "10.9.9.9", "client"] {
        assert!(ask(&reader, source, "10.0.1.7:80").is_err(), "{source}");
    }
}
