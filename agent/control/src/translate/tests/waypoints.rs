//! What is behind which waypoint.

use std::fmt::Write as _;

use agent_model::GatewayTarget;

use super::{collection, from_folder};
use crate::collection::Collection;

const CLASS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: culvert-waypoint}
spec: {controllerName: culvert.dev/gateway-controller}
---
";

fn waypoint(namespace: &str, labels: &str, routes: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: wp, \
         namespace: {namespace}, labels: {{{labels}}}}}\nspec: {{gatewayClassName: \
         culvert-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE{routes}}}]}}\n"
    )
}

/// A namespace with a Service, a ServiceEntry, a pod and a WorkloadEntry.
fn shop(namespace: &str, service: &str, pod: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{team: a, {namespace}}}}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop, labels: \
         {{{service}}}}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: out, \
         namespace: shop}}\nspec: {{hosts: [a.example.com], addresses: [203.0.113.1], ports: \
         [{{number: 80, name: http, protocol: HTTP}}], resolution: NONE}}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: cart-0, namespace: shop, labels: \
         {{{pod}}}}}\nstatus: {{podIP: 10.0.0.1}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: vm, \
         namespace: shop}}\nspec: {{address: 192.0.2.1}}\n"
    )
}

/// What each is bound to: `cart`, `out` and `cart-0`, `vm`; nothing where there is none.
fn bound(collection: &Collection) -> String {
    let translated = collection.translated("shop").unwrap();
    let services = translated.services.iter();
    let services = services.map(|service| (&service.name, &service.waypoint));
    let workloads = translated.workloads.iter();
    let workloads = workloads.map(|workload| (&workload.name, &workload.waypoint));
    let mut text = String::new();
    for (name, waypoint) in services.chain(workloads) {
        let Some(waypoint) = waypoint else { continue };
        let GatewayTarget::Hostname(key) = &waypoint.target else {
            panic!("{waypoint:?}");
        };
        assert_eq!(waypoint.hbone_mtls_port, 15008);
        let _ = write!(text, "{name}={} ", key.hostname);
    }
    text.trim_end().to_owned()
}

fn of(namespace: &str, service: &str, pod: &str, waypoint: &str) -> String {
    let manifest = format!("{CLASS}{}{waypoint}", shop(namespace, service, pod));
    bound(&collection(&manifest))
}

const USE: &str = "culvert.dev/use-waypoint: wp";
const WP: &str = "wp.shop.svc.cluster.local";

#[test]
fn the_label_of_a_namespace_binds_what_the_waypoint_is_for() {
    for label in [USE, "istio.io/use-waypoint: wp"] {
        let of_for = |labels: &str| of(label, "", "", &waypoint("shop", labels, ""));
        let services = format!("cart={WP} out={WP}");
        let workloads = format!("cart-0={WP} vm={WP}");
        assert_eq!(of_for(""), services);
        assert_eq!(of_for("culvert.dev/waypoint-for: service"), services);
        assert_eq!(of_for("istio.io/waypoint-for: workload"), workloads);
        assert_eq!(
            of_for("culvert.dev/waypoint-for: all"),
            format!("{services} {workloads}")
        );
        assert_eq!(of_for("culvert.dev/waypoint-for: none"), "");
        assert_eq!(
            of_for("culvert.dev/waypoint-for: other"),
            services,
            "counts as not set"
        );
    }
}

#[test]
fn the_label_of_an_object_counts_before_that_of_its_namespace() {
    let own = waypoint("shop", "culvert.dev/waypoint-for: all", "");
    assert_eq!(
        of(
            USE,
            "culvert.dev/use-waypoint: none",
            "istio.io/use-waypoint: none",
            &own
        ),
        format!("out={WP} vm={WP}")
    );
    assert_eq!(of("", USE, "", &own), format!("cart={WP}"));
    assert_eq!(of("", "", USE, &own), format!("cart-0={WP}"));
    // Ours before the other's.
    let both = "istio.io/use-waypoint: none, culvert.dev/use-waypoint: wp";
    assert_eq!(of("", both, "", &own), format!("cart={WP}"));
    // What belongs to a gateway itself is behind none.
    let gateways = "gateway.networking.k8s.io/gateway-name: wp";
    assert_eq!(
        of(USE, gateways, gateways, &own),
        format!("out={WP} vm={WP}")
    );
}

#[test]
fn what_is_bound_to_a_missing_waypoint_leads_nowhere() {
    let missing = "wp.shop.missing.invalid";
    // What it was for is not known, so it may have been for pods.
    let services = format!("cart={missing} out={missing} cart-0={missing} vm={missing}");
    assert_eq!(of(USE, "", "", ""), services);
    // A Service of its name is none, nor is a Gateway of another class.
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: wp, namespace: shop, labels: \
                   {culvert.dev/use-waypoint: none}}\nspec: {clusterIP: 10.96.0.2, ports: [{port: 15008}]}\n";
    assert_eq!(of(USE, "", "", service), services);
    let other = waypoint("shop", "", "").replace("culvert-waypoint", "istio-waypoint");
    assert_eq!(of(USE, "", "", &other), services);
    // A pod that says so itself.
    assert_eq!(of("", "", USE, ""), format!("cart-0={missing}"));
}

#[test]
fn a_waypoint_of_another_namespace_lets_in_whom_it_wants() {
    let far = "culvert.dev/use-waypoint: wp, culvert.dev/use-waypoint-namespace: infra";
    let allowing = |routes: &str| of("", far, "", &waypoint("infra", "", routes));
    let refused = "cart=wp.infra.not-allowed.invalid";
    let allowed = "cart=wp.infra.svc.cluster.local";
    assert_eq!(allowing(""), refused);
    assert_eq!(
        allowing(", allowedRoutes: {namespaces: {from: Same}}"),
        refused
    );
    assert_eq!(
        allowing(", allowedRoutes: {namespaces: {from: All}}"),
        allowed
    );
    for (team, expected) in [("a", allowed), ("b", refused)] {
        let selector = format!(
            ", allowedRoutes: {{namespaces: {{from: Selector, selector: {{matchLabels: {{team: {team}}}}}}}}}"
        );
        assert_eq!(allowing(&selector), expected);
    }
}

#[test]
fn a_waypoint_that_comes_and_goes_moves_what_is_behind_it() {
    use crate::source::file::read_text;
    use crate::source::{Event, Kind, ObjectRef};

    let mut collection = from_folder(&format!("{CLASS}{}", shop("", USE, "")));
    assert_eq!(bound(&collection), "cart=wp.shop.missing.invalid");
    for event in read_text(&waypoint("shop", "", "")).events {
        collection.apply(event);
    }
    let changed = collection.settle();
    assert_eq!(bound(&collection), format!("cart={WP}"));
    assert_eq!(
        changed.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["shop"]
    );
    collection.apply(Event::Delete(ObjectRef::new(Kind::Gateway, "shop", "wp")));
    collection.settle();
    assert_eq!(bound(&collection), "cart=wp.shop.missing.invalid");
}

fn policy(target: &str, more: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, \
         namespace: shop{more}}}\nspec: {{targetRefs: [{{{target}}}], rules: [{{}}]}}\n"
    )
}

/// A Service with two ports that the pod serves, at 80 and 8080, and its pod.
fn served(namespace: &str, pod: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{namespace}}}}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop}}\nspec: \
         {{clusterIP: 10.96.0.1, selector: {{app: cart}}, ports: [{{name: a, port: 80}}, {{name: b, \
         port: 81, targetPort: 8080}}]}}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: cart-0, namespace: shop, labels: \
         {{app: cart, {pod}}}}}\nstatus: {{podIP: 10.0.0.1}}\n"
    )
}

/// Who may come to `cart-0`, and on which ports nobody else may.
fn guards(collection: &Collection) -> String {
    use agent_model::{Action, Scope, StringMatch};

    let translated = collection.translated("shop").unwrap();
    let listed = &translated.workloads[0].authorization_policies;
    let mut text = String::new();
    for key in listed {
        let policy = translated
            .policies
            .iter()
            .find(|policy| policy.key() == *key);
        let policy = policy.expect("a policy that is listed is on offer");
        assert!(policy.is_waypoint_guard() && !policy.dry_run);
        assert_eq!(
            (policy.action, policy.scope),
            (Action::Deny, Scope::WorkloadSelector)
        );
        let [rule] = &policy.rules[..] else {
            panic!("{policy:?}")
        };
        let [clause] = &rule.clauses[..] else {
            panic!("{policy:?}")
        };
        let [others] = &clause.matches[..] else {
            panic!("{policy:?}")
        };
        for principal in &others.not_principals {
            let StringMatch::Exact(principal) = principal else {
                panic!("{policy:?}")
            };
            let _ = write!(text, "{} ", principal.replace("cluster.local/ns/", ""));
        }
        let _ = write!(text, "{:?}", others.destination_ports);
    }
    text
}

#[test]
fn what_is_to_pass_a_waypoint_takes_nothing_else() {
    let guards_of = |namespace: &str, pod: &str, more: &str| {
        guards(&collection(&format!(
            "{CLASS}{}{more}",
            served(namespace, pod)
        )))
    };
    let at = |labels: &str| waypoint("shop", labels, "");
    assert_eq!(
        guards_of(USE, "", &at("")),
        "",
        "of services, without a policy"
    );
    for reach in ["workload", "all"] {
        let waypoint = at(&format!("istio.io/waypoint-for: {reach}"));
        assert_eq!(guards_of(USE, "", &waypoint), "shop/sa/wp []", "{reach}");
        assert_eq!(guards_of(USE, "istio.io/use-waypoint: none", &waypoint), "");
    }
    assert_eq!(guards_of(USE, "", ""), "shop/sa/wp []", "missing");
    // A policy at the waypoint, or at the service behind it.
    for target in [
        "kind: Service, group: '', name: cart",
        "kind: Gateway, group: gateway.networking.k8s.io, name: wp",
    ] {
        let with = |more: &str| format!("{}{}", at(""), policy(target, more));
        assert_eq!(
            guards_of(USE, "", &with("")),
            "shop/sa/wp [80, 8080]",
            "{target}"
        );
        let dry = ", annotations: {istio.io/dry-run: 'true'}";
        assert_eq!(guards_of(USE, "", &with(dry)), "", "holds nothing");
        assert_eq!(guards_of("", "", &with("")), "", "not behind it");
    }
    let of_another = policy("kind: Service, group: '', name: other", "");
    assert_eq!(guards_of(USE, "", &format!("{}{of_another}", at(""))), "");
}

/// Whatever stands before the requests of a waypoint is not to be gone around.
#[test]
fn every_policy_at_a_waypoint_guards_what_is_behind_it() {
    let of = |kind: &str, namespace: &str, spec: &str| {
        let policy = format!(
            "---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: \
             {namespace}}}\nspec: {{{spec}}}\n"
        );
        let way = waypoint("shop", "", "");
        guards(&collection(&format!(
            "{CLASS}{}{way}{policy}",
            served(USE, "")
        )))
    };
    let tokens = "jwtRules: [{issuer: i, jwks: '{\"keys\": []}'}]";
    let class = "targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: \
                 culvert-waypoint}]";
    let pods = "selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: wp}}";
    for (kind, namespace, spec) in [
        (
            "RequestAuthentication",
            "shop",
            "targetRefs: [{kind: Gateway, name: wp}]",
        ),
        (
            "RequestAuthentication",
            "shop",
            "targetRefs: [{kind: Service, name: cart}]",
        ),
        ("RequestAuthentication", "culvert-system", class),
        ("RequestAuthentication", "shop", pods),
        ("AuthorizationPolicy", "culvert-system", class),
        ("AuthorizationPolicy", "shop", pods),
    ] {
        let spec = match kind {
            "RequestAuthentication" => format!("{spec}, {tokens}"),
            _ => format!("{spec}, rules: [{{}}]"),
        };
        let found = of(kind, namespace, &spec);
        assert_eq!(found, "shop/sa/wp [80, 8080]", "{kind} {spec}");
    }
    // Classes are the root namespace's, and gateways at the border are no waypoints.
    let elsewhere = format!("{class}, rules: [{{}}]");
    assert_eq!(of("AuthorizationPolicy", "shop", &elsewhere), "");
    assert_eq!(
        of(
            "AuthorizationPolicy",
            "shop",
            "rules: [{}], action: AUDIT, targetRef: {kind: Gateway, name: wp}"
        ),
        ""
    );
}

#[test]
fn a_service_and_its_pod_may_have_different_waypoints() {
    let two = waypoint("shop", "", "")
        + &waypoint("shop", "istio.io/waypoint-for: workload", "").replace("name: wp", "name: own");
    let manifest = served(USE, "istio.io/use-waypoint: own");
    let collection = collection(&format!("{CLASS}{manifest}{two}"));
    assert_eq!(guards(&collection), "shop/sa/own shop/sa/wp []");
}

#[test]
fn a_guard_comes_after_the_way_and_goes_with_it() {
    use std::time::{Duration, Instant};

    use crate::source::file::read_text;
    use crate::source::{Event, Kind, ObjectRef};

    let manifest = format!("{CLASS}{}{}", served(USE, ""), waypoint("shop", "", ""));
    let mut collection = from_folder(&manifest);
    let start = Instant::now() + Duration::from_secs(3600);
    let put = |collection: &mut Collection, text: &str, now| {
        for event in read_text(text).events {
            collection.apply(event);
        }
        collection.settle_at(now);
        (guards(collection), collection.next_turn())
    };
    let at_wp = policy("kind: Gateway, name: wp", "");
    let (held, turn) = put(&mut collection, &at_wp, start);
    assert_eq!(held, "", "clients are told first");
    let turn = turn.expect("it is put off");
    let held = put(&mut collection, "", turn);
    assert_eq!(held, ("shop/sa/wp [80, 8080]".to_owned(), None));
    collection.apply(Event::Delete(ObjectRef::new(
        Kind::AuthorizationPolicy,
        "shop",
        "p",
    )));
    assert_eq!(put(&mut collection, "", turn), (String::new(), None));
}

#[test]
fn gateways_at_the_border_go_through_a_waypoint_when_told_or_where_a_policy_is() {
    let takes = |namespace: &str, more: &str| {
        let collection = collection(&format!("{CLASS}{}{more}", served(namespace, "")));
        collection.translated("shop").unwrap().services[0].ingress_use_waypoint
    };
    let bound = waypoint("shop", "", "");
    let policed = format!("{bound}{}", policy("kind: Gateway, name: wp", ""));
    let told = |value: &str| format!("{USE}, istio.io/ingress-use-waypoint: '{value}'");
    assert!(!takes(USE, &bound));
    assert!(takes(&told("true"), &bound));
    assert!(takes(USE, &policed), "nothing else gets in");
    assert!(!takes(&told("false"), &policed));
    assert!(takes(&told("perhaps"), &policed));
    assert!(
        !takes("istio.io/ingress-use-waypoint: 'true'", &bound),
        "there is none"
    );
}
