use agent_model::gateway::traffic::TrafficTarget;
use agent_model::gateway::{BackendTls, TrustedRoots};

use super::*;

const LISTENERS: &str = "listeners: [{name: http, port: 80, protocol: HTTP}]";
const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-02-01T00:00:00Z";
const HOLDS: &str = "Accepted=True/Accepted";
const LOST: &str = "Accepted=False/Conflicted";
const MISSING: &str = "Accepted=False/TargetNotFound";

const OF_GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: g}";
const OF_SERVICE: &str = "{group: '', kind: Service, name: web}";
const OF_ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}";
const BODIES: &str = "bodyLimits: {request: 1Mi}";

fn policy(name: &str, at: &str, target: &str, parts: &str) -> String {
    let spec = format!("{{targetRefs: [{target}], {parts}}}");
    let made = made("TrafficPolicy", "infra", name, at, &spec);
    made.replace(
        "gateway.networking.k8s.io/v1\nkind: T",
        "culvert.dev/v1alpha1\nkind: T",
    )
}

fn world(policies: &str) -> World {
    World::of(&format!(
        "{}{}{policies}",
        gateway(LISTENERS),
        route("infra", "r", "{name: g}", ""),
    ))
}

/// Who is told of a policy, with its targets.
fn told(world: &World, name: &str) -> Vec<(String, Vec<TrafficTarget>)> {
    let policies = world.0.traffic.iter();
    policies
        .filter(|(_, policy)| *policy.name == *name)
        .map(|(gateway, policy)| (gateway.to_string(), policy.targets.clone()))
        .collect()
}

fn message(world: &World, object: &str) -> String {
    let status = world.status(object);
    let message = &status["ancestors"][0]["conditions"][0]["message"];
    message.as_str().unwrap().to_owned()
}

#[test]
fn a_policy_holds_for_the_gateways_that_serve_its_target() {
    for target in [OF_GATEWAY, OF_SERVICE, OF_ROUTE] {
        let world = world(&policy("p", EARLY, target, BODIES));
        assert_eq!(world.parents("TrafficPolicy infra/p"), [HOLDS], "{target}");
        let status = world.status("TrafficPolicy infra/p");
        let ancestor = &status["ancestors"][0];
        assert_eq!(ancestor["ancestorRef"]["name"], "g");
        assert_eq!(ancestor["controllerName"], "culvert.dev/gateway-controller");
        assert_eq!(ancestor["conditions"][0]["observedGeneration"], 7);
        let told = told(&world, "p");
        assert_eq!(told.len(), 1, "{target}");
        assert_eq!((told[0].0.as_str(), told[0].1.len()), ("infra/g", 1));
    }
}

#[test]
fn sections_have_to_be_there() {
    let service = "{group: '', kind: Service, name: web, sectionName: SECTION}";
    let listener = OF_GATEWAY.replace("name: g", "name: g, sectionName: SECTION");
    for (target, good) in [(service, "http"), (listener.as_str(), "http")] {
        for (section, expected) in [(good, HOLDS), ("other", MISSING)] {
            let target = target.replace("SECTION", section);
            let world = world(&policy("p", EARLY, &target, BODIES));
            assert_eq!(
                world.parents("TrafficPolicy infra/p"),
                [expected],
                "{target}"
            );
            assert_eq!(told(&world, "p").len(), usize::from(expected == HOLDS));
        }
    }
    let rule = OF_ROUTE.replace("name: r", "name: r, sectionName: first");
    let world = world(&policy("p", EARLY, &rule, BODIES));
    assert_eq!(world.parents("TrafficPolicy infra/p"), [MISSING]);
}

#[test]
fn of_two_with_the_same_part_the_older_has_it() {
    let world = world(&format!(
        "{}{}{}",
        policy("a", LATE, OF_GATEWAY, BODIES),
        policy("b", EARLY, OF_GATEWAY, BODIES),
        policy(
            "c",
            LATE,
            OF_GATEWAY,
            &format!("{BODIES}, timeouts: {{request: 1s}}")
        ),
    ));
    assert_eq!(world.parents("TrafficPolicy infra/b"), [HOLDS]);
    assert_eq!(world.parents("TrafficPolicy infra/a"), [LOST]);
    assert_eq!(
        message(&world, "TrafficPolicy infra/a"),
        "bodyLimits is infra/b's"
    );
    assert_eq!(
        world.parents("TrafficPolicy infra/c"),
        [HOLDS],
        "its timeouts hold"
    );
    let partly = message(&world, "TrafficPolicy infra/c");
    assert!(partly.contains("but bodyLimits is infra/b's"), "{partly}");
}

#[test]
fn policies_for_other_targets_do_not_meet() {
    let world = world(&format!(
        "{}{}",
        policy("a", LATE, OF_SERVICE, BODIES),
        policy("b", EARLY, OF_GATEWAY, BODIES),
    ));
    assert_eq!(world.parents("TrafficPolicy infra/a"), [HOLDS]);
    assert_eq!(world.parents("TrafficPolicy infra/b"), [HOLDS]);
}

#[test]
fn what_nobody_serves_is_said_of_the_target() {
    let nowhere = OF_SERVICE.replace("web", "gone");
    let both = format!("{OF_GATEWAY}, {nowhere}");
    let mut world = world(&policy("p", EARLY, &both, BODIES));
    assert_eq!(world.parents("TrafficPolicy infra/p"), [HOLDS, MISSING]);
    let status = world.status("TrafficPolicy infra/p");
    assert_eq!(status["ancestors"][1]["ancestorRef"]["kind"], "Service");

    world = World::of(&policy("p", EARLY, OF_SERVICE, BODIES));
    assert_eq!(
        world.parents("TrafficPolicy infra/p"),
        ["Accepted=False/NotServed"]
    );
    let foreign = "{gatewayClassName: foreign, listeners: []}";
    let foreign = object("Gateway", "infra", "g", foreign);
    world = World::of(&format!(
        "{foreign}{}",
        policy("p", EARLY, OF_GATEWAY, BODIES)
    ));
    assert_eq!(world.status("TrafficPolicy infra/p"), Value::Null);
}

#[test]
fn waypoints_are_told_of_every_service() {
    let waypoint = "{gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, \
                    protocol: HBONE}]}";
    let world = world(&format!(
        "{}{}",
        object("Gateway", "infra", "way", waypoint),
        policy("p", EARLY, OF_SERVICE, BODIES)
    ));
    // The waypoint does not serve it, as nothing binds it there.
    assert_eq!(world.parents("TrafficPolicy infra/p"), [HOLDS]);
    let told = told(&world, "p");
    let gateways: Vec<&str> = told.iter().map(|(gateway, _)| gateway.as_str()).collect();
    assert_eq!(gateways, ["infra/g", "infra/way"]);
}

#[test]
fn the_login_of_a_redis_is_found() {
    let limit = "rateLimit: {global: {requests: 1, redis: {address: 'redis:6379', secretRef: {name: \
                 login}}}}";
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: login, namespace: infra}\n\
                  stringData: {username: gate, password: hidden}\n";
    let policy = policy("p", EARLY, OF_GATEWAY, limit);
    let with = world(&format!("{secret}{policy}"));
    assert_eq!(with.parents("TrafficPolicy infra/p"), [ATTACHED]);
    let limit = with.0.traffic[0].1.rate_limit.clone().unwrap();
    let login = limit.global.unwrap().redis.login.unwrap();
    assert_eq!(login.user.as_deref(), Some("gate"));
    assert_eq!(login.password.expose(), "hidden");
    let without = world(&policy);
    assert_eq!(
        without.parents("TrafficPolicy infra/p"),
        ["Accepted=True/Accepted ResolvedRefs=False/InvalidSecretRef"]
    );
    assert_eq!(told(&without, "p").len(), 1, "other parts hold");
}

#[test]
fn the_authorities_of_a_redis_are_found_or_nothing_is_sent() {
    let tls = |refs: &str| {
        let limit = format!(
            "rateLimit: {{global: {{requests: 1, redis: {{address: 'redis.infra:6379', tls: \
             {{{refs}}}}}}}}}"
        );
        let policy = policy("p", EARLY, OF_GATEWAY, &limit);
        let world = world(&format!("{}{policy}", authority("infra", "ca")));
        let limit = world.0.traffic[0].1.rate_limit.clone().unwrap();
        let shown = world.parents("TrafficPolicy infra/p").join(" ");
        (limit.global.unwrap().redis.tls.unwrap(), shown)
    };
    let (by_system, shown) = tls("");
    let BackendTls::Verified(verified) = by_system else {
        panic!("{by_system:?}");
    };
    assert_eq!(&*verified.hostname, "redis.infra");
    assert_eq!(verified.roots, TrustedRoots::System);
    assert_eq!(shown, HOLDS, "there is no reference");

    let (verified, shown) = tls("hostname: counts.example, caCertificateRefs: [{name: ca}]");
    let BackendTls::Verified(verified) = verified else {
        panic!("{verified:?}");
    };
    assert_eq!(&*verified.hostname, "counts.example");
    assert!(
        matches!(&verified.roots, TrustedRoots::Certificates(pem) if pem.contains("CERTIFICATE"))
    );
    assert_eq!(shown, ATTACHED);

    let (refused, shown) = tls("caCertificateRefs: [{name: gone}]");
    assert!(matches!(refused, BackendTls::Invalid(_)), "{refused:?}");
    assert_eq!(
        shown,
        "Accepted=True/Accepted ResolvedRefs=False/InvalidCACertificateRef"
    );
}
