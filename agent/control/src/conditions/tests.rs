use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::bound::BOUND;
use super::decide::{Reviewed, review};
use super::events::Notice;
use super::merge::merged;
use crate::code::Code;
use crate::collection::Collection;
use crate::condition::Condition;
use crate::source::file::{Texts, read_text};
use crate::source::{ObjectRef, Problem};
use crate::translate::tests::mesh;
use crate::translate::{Endpoints, Mesh};

const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: n1}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: n2}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: fresh, namespace: shop, labels: {app: fresh}}
spec: {nodeName: n4}
status: {podIP: 10.0.0.4}
---
apiVersion: v1
kind: Pod
metadata: {name: starts, namespace: shop, labels: {app: starts}}
spec: {nodeName: n5}
---
apiVersion: v1
kind: Pod
metadata: {name: out, namespace: shop, labels: {app: out, culvert.dev/mesh: disabled}}
spec: {nodeName: n3}
status: {podIP: 10.0.0.3}
";

fn reviewed(manifest: &str, problems: &[Problem]) -> Reviewed {
    let batch = read_text(&format!("{PODS}---\n{manifest}"));
    let mut collection = Collection::new(Mesh {
        endpoints: Endpoints::Given,
        ..mesh()
    });
    let events = batch.events.into_iter();
    events.for_each(|event| collection.apply(event));
    collection.settle();
    let problems: Vec<Problem> = batch.problems.iter().chain(problems).cloned().collect();
    review(
        &collection.inventory(),
        collection.gateways(),
        &collection.notes(),
        &problems,
    )
}

/// `type=status/reason` of the only object with conditions.
fn shown(manifest: &str) -> Vec<String> {
    let reviewed = reviewed(manifest, &[]);
    assert_eq!(reviewed.verdicts.len(), 1, "{reviewed:?}");
    let verdicts = reviewed.verdicts.into_values();
    verdicts
        .flat_map(|verdict| verdict.conditions)
        .map(|condition| {
            let Condition {
                kind,
                status,
                reason,
                ..
            } = condition;
            format!("{kind}={status}/{reason}")
        })
        .collect()
}

fn policy(kind: &str, annotations: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\n\
         metadata: {{name: p, namespace: shop, generation: 3, annotations: {{{annotations}}}}}\n\
         spec: {spec}\n"
    )
}

#[test]
fn a_policy_says_where_it_is_enforced_and_why_not() {
    let authorization = |spec: &str| shown(&policy("AuthorizationPolicy", "", spec));
    for (spec, accepted, enforced) in [
        (
            "{selector: {matchLabels: {app: web}}, rules: [{}]}",
            "true/Accepted",
            "true/Enforced",
        ),
        ("{rules: [{}]}", "true/Accepted", "true/PartiallyEnforced"),
        (
            "{selector: {matchLabels: {app: out}}, rules: [{}]}",
            "true/Accepted",
            "false/NoMeshedPods",
        ),
        (
            "{selector: {matchLabels: {app: none}}, rules: [{}]}",
            "true/Accepted",
            "false/NoPods",
        ),
        (
            "{action: AUDIT}",
            "false/ActionUnsupported",
            "false/NotAccepted",
        ),
        (
            "{targetRefs: [{kind: Service, name: web}]}",
            "false/TargetUnsupported",
            "false/NotAccepted",
        ),
        (
            "{selector: {matchLabels: {app: web}}, action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}",
            "true/Accepted",
            "true/PartiallyEnforced",
        ),
        (
            "{rules: [{form: []}]}",
            "false/Invalid",
            "false/NotAccepted",
        ),
    ] {
        let expected = [
            format!("Accepted={accepted}"),
            format!("Enforced={enforced}"),
        ];
        assert_eq!(authorization(spec), expected, "{spec}");
    }
    let dry = policy(
        "AuthorizationPolicy",
        "istio.io/dry-run: \"true\"",
        "{rules: [{}]}",
    );
    assert_eq!(
        shown(&dry),
        ["Accepted=true/Accepted", "Enforced=false/DryRun"]
    );
}

#[test]
fn nodes_count_once_their_agents_have_captured_a_pod() {
    let enforced = |spec: &str| {
        let reviewed = reviewed(&policy("AuthorizationPolicy", "", spec), &[]);
        let verdict = reviewed.verdicts.into_values().next().unwrap();
        assert_eq!(verdict.generation, Some(3));
        verdict.conditions[1].clone()
    };
    let of = |app: &str| {
        enforced(&format!(
            "{{selector: {{matchLabels: {{app: {app}}}}}, rules: [{{}}]}}"
        ))
    };
    let web = of("web");
    assert_eq!((web.status, web.reason), (true, "Enforced"));
    assert_eq!(web.message, "by the agent of 1 node");
    // One waits for its node's agent, the other one for a network, which it gets in the mesh.
    for app in ["fresh", "starts"] {
        let open = of(app);
        assert_eq!((open.status, open.reason), (false, "NotCaptured"), "{app}");
    }
    let all = enforced("{rules: [{}]}");
    assert_eq!((all.status, all.reason), (true, "PartiallyEnforced"));
    assert_eq!(
        all.message,
        "by the agents of 2 of 3 nodes; 1 of 5 pods are not in the mesh; \
         the others have yet to capture a pod it applies to"
    );
}

#[test]
fn t_cfg_what_stands_against_each_other_conflicts() {
    let both = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: a, namespace: shop}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: b, namespace: shop}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: first, namespace: shop}
spec: {hosts: [db.example], addresses: [192.0.2.1], ports: [{number: 1, name: tcp}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: second, namespace: shop}
spec: {hosts: [db.example, other.example], addresses: [192.0.2.2], ports: [{number: 1, name: tcp}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: third, namespace: trade}
spec: {hosts: [db.example], addresses: [192.0.2.3], ports: [{number: 1, name: tcp}]}
";
    let reviewed = reviewed(both, &[]);
    let of = |name: &str| -> Vec<(&str, bool, &str)> {
        let mut verdicts = reviewed.verdicts.iter();
        let (_, verdict) = verdicts.find(|(object, _)| &*object.name == name).unwrap();
        let conditions = verdict.conditions.iter();
        conditions
            .map(|condition| (condition.kind, condition.status, condition.reason))
            .collect()
    };
    assert_eq!(of("a")[2], ("Conflicted", false, "NoConflict"));
    assert_eq!(of("b")[1], ("Enforced", false, "Conflicted"));
    assert_eq!(
        of("b")[2],
        ("Conflicted", true, "PeerAuthenticationConflict")
    );
    assert_eq!(of("first")[1], ("Programmed", true, "Programmed"));
    // One of its two hosts is its own.
    assert_eq!(of("second")[1], ("Programmed", true, "Programmed"));
    assert_eq!(of("second")[2], ("Conflicted", true, "HostConflict"));
    // Another tenant's is in force for nobody but itself, and told so.
    assert_eq!(of("third")[1], ("Programmed", true, "Programmed"));
    assert_eq!(of("third")[2], ("Conflicted", true, "HostElsewhere"));
    // A claim that is in force somewhere is no event.
    let codes: Vec<Code> = reviewed.notices.iter().map(|notice| notice.code).collect();
    assert_eq!(
        codes,
        [Code::PeerAuthenticationConflict, Code::HostConflict]
    );
}

/// In Istio's words, on what names a waypoint, and on a Service that does no longer.
#[test]
fn what_names_a_waypoint_says_how_it_stands_with_it() {
    const CLASS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: culvert-waypoint}
spec: {controllerName: culvert.dev/gateway-controller}
";
    let gateway = |namespace: &str, reach: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: way, \
             namespace: {namespace}, labels: {{istio.io/waypoint-for: {reach}}}}}\nspec: \
             {{gatewayClassName: culvert-waypoint, listeners: [{{name: mesh, port: 15008, protocol: \
             HBONE}}]}}\n"
        )
    };
    let said = |labels: &str, status: &str, more: &str| -> Vec<String> {
        let objects = format!(
            "{CLASS}---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, labels: \
             {{{labels}}}}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\nstatus: {status}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: out, \
             namespace: shop, labels: {{{labels}}}}}\nspec: {{hosts: [a.example], addresses: \
             [192.0.2.1], ports: [{{number: 1, name: tcp}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: vm, \
             namespace: shop, labels: {{{labels}}}}}\nspec: {{address: 192.0.2.2}}\n{more}"
        );
        let reviewed = reviewed(&objects, &[]);
        let verdicts = reviewed.verdicts.iter();
        let verdicts = verdicts.filter(|(_, verdict)| verdict.status.is_none());
        let said = verdicts.map(|(object, verdict)| {
            let mut conditions = verdict.conditions.iter();
            let bound = conditions.find(|condition| condition.kind == BOUND);
            let bound = bound.map_or("-".to_owned(), |bound| {
                format!("{}/{}", bound.status, bound.reason)
            });
            format!("{} {bound}", object.name)
        });
        let mut said: Vec<_> = said.collect();
        said.sort();
        said
    };
    let own = "istio.io/use-waypoint: way";
    let far = "culvert.dev/use-waypoint: way, culvert.dev/use-waypoint-namespace: infra";
    for (labels, more, service, workload) in [
        (
            own,
            gateway("shop", "all"),
            "true/WaypointAccepted",
            "true/WaypointAccepted",
        ),
        (
            own,
            gateway("shop", "service"),
            "true/WaypointAccepted",
            "false/UnsupportedTrafficType",
        ),
        (
            own,
            gateway("shop", "workload"),
            "false/UnsupportedTrafficType",
            "true/WaypointAccepted",
        ),
        (
            own,
            String::new(),
            "false/WaypointIsNotReady",
            "false/WaypointIsNotReady",
        ),
        (
            far,
            gateway("infra", "all"),
            "false/AttachmentDenied",
            "false/AttachmentDenied",
        ),
    ] {
        let expected = [
            format!("out {service}"),
            format!("vm {workload}"),
            format!("web {service}"),
        ];
        assert_eq!(said(labels, "{}", &more), expected, "{labels} {more}");
    }
    for labels in ["", "istio.io/use-waypoint: none"] {
        let way = gateway("shop", "all");
        assert_eq!(
            said(labels, "{}", &way),
            ["out -", "vm -"],
            "nothing to say"
        );
        let before = "{conditions: [{type: istio.io/WaypointBound, status: 'True'}]}";
        let said = said(labels, before, &way);
        assert_eq!(said, ["out -", "vm -", "web -"], "it is taken back");
    }
}

#[test]
fn the_last_good_version_is_what_is_enforced() {
    let mut texts = Texts::default();
    let good = policy("AuthorizationPolicy", "", "{rules: [{}]}");
    texts.update("p.yaml", good.as_bytes());
    let broken = policy("AuthorizationPolicy", "", "{rules: [{form: []}]}");
    let problems = texts.update("p.yaml", broken.as_bytes()).problems;
    let reviewed = reviewed(&good, &problems);
    let verdict = reviewed.verdicts.into_values().next().unwrap();
    assert_eq!(
        verdict.generation, None,
        "that of the version that was not read"
    );
    let accepted = &verdict.conditions[0];
    assert_eq!((accepted.status, accepted.reason), (false, "Invalid"));
    assert!(
        accepted.message.starts_with("spec.rules[0].form: "),
        "{accepted:?}"
    );
    let enforced = &verdict.conditions[1];
    assert_eq!((enforced.status, enforced.reason), (true, "LastGoodKept"));
    assert_eq!(reviewed.notices.len(), 1);
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn accepted(status: bool, message: &str) -> [Condition; 1] {
    [Condition {
        kind: "Accepted",
        status,
        reason: "Accepted",
        message: message.to_owned(),
    }]
}

#[test]
fn the_time_is_that_of_the_last_change_of_status() {
    let first = merged(&[], &accepted(true, "a"), 1, at(100)).unwrap();
    assert_eq!(first[0]["lastTransitionTime"], "1970-01-01T00:01:40Z");
    assert_eq!(first[0]["observedGeneration"], 1);
    assert_eq!(merged(&first, &accepted(true, "a"), 1, at(200)), None);
    let message = merged(&first, &accepted(true, "b"), 2, at(200)).unwrap();
    assert_eq!(message[0]["lastTransitionTime"], "1970-01-01T00:01:40Z");
    assert_eq!(message[0]["message"], "b");
    let status = merged(&message, &accepted(false, "b"), 2, at(300)).unwrap();
    assert_eq!(status[0]["lastTransitionTime"], "1970-01-01T00:05:00Z");
}

#[test]
fn conditions_of_others_stay_and_ours_that_are_no_more_go() {
    let others = json!({"type": "ZtunnelAccepted", "status": "True", "reason": "Accepted"});
    let old = json!({"type": "Conflicted", "status": "True"});
    let list = merged(&[others.clone(), old], &accepted(true, "a"), 1, at(1)).unwrap();
    let types: Vec<&Value> = list.iter().map(|condition| &condition["type"]).collect();
    assert_eq!(types, ["ZtunnelAccepted", "Accepted"]);
    assert_eq!(list[0], others);
}

#[test]
fn an_event_has_the_name_of_what_it_says() {
    let broken = policy("AuthorizationPolicy", "", "{rules: [{form: []}]}");
    let reviewed = reviewed(&broken, &[]);
    let notice = reviewed.notices.first().unwrap();
    let event = |uid| notice.event("security.istio.io/v1", uid, "control-0", at(5));
    let name = |event: &Value| event["metadata"]["name"].as_str().unwrap().to_owned();
    let first = event("1-2-3");
    assert_eq!(name(&first), name(&event("1-2-3")));
    assert_ne!(
        name(&first),
        name(&event("4-5-6")),
        "another object of that name"
    );
    let long = Notice {
        object: ObjectRef {
            name: format!("{}-{}", "a".repeat(199), "b".repeat(50)).into(),
            ..notice.object.clone()
        },
        ..notice.clone()
    };
    let long = long.event("security.istio.io/v1", "1-2-3", "control-0", at(5));
    assert!(!name(&long).contains("-."), "no name: {}", name(&long));
    assert_eq!(first["metadata"]["namespace"], "shop");
    assert_eq!(first["reason"], "Invalid");
    assert_eq!(first["type"], "Warning");
    assert_eq!(first["eventTime"], "1970-01-01T00:00:05.000000Z");
    assert_eq!(first["regarding"]["kind"], "AuthorizationPolicy");
    assert_eq!(first["regarding"]["uid"], "1-2-3");
}
