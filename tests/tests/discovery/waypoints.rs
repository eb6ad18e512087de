//! Labels that name a waypoint, from the manifest to the decision of the node: through the waypoint,
//! or refused with its name, and never around it.

use agent_control::Manifests;
use agent_model::Reason;
use agent_state::resolve::{Chooser, Outbound, outbound};
use tests::gateway::{waypoint, with_classes};

use crate::ends::Ends;

const SHOP: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/mesh: enabled, culvert.dev/use-waypoint: wp}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: n1}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {app: cart}}
spec: {nodeName: n1}
status: {phase: Running, podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: cart}, ports: [{port: 80}]}
";

const RUNNING: &str = "\
apiVersion: v1
kind: Service
metadata: {name: wp, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: wp}}
spec: {clusterIP: 10.96.0.9, selector: {app: wp}, ports: [{port: 15008}]}
---
apiVersion: v1
kind: Pod
metadata: {name: wp, namespace: shop, labels: {app: wp, gateway.networking.k8s.io/gateway-name: wp}}
spec: {nodeName: n1}
status: {phase: Running, podIP: 10.0.0.9}
";

/// Where a connection of `web` goes.
fn to(ends: &Ends, destination: &str) -> Outbound {
    let snapshot = ends.reader.load();
    let workloads = ends.workloads();
    let web = workloads.iter().find(|one| *one.name == *"web").unwrap();
    let mut chooser = Chooser {
        random: &mut || 0,
        active: &|_| 0,
        tried: &[],
    };
    outbound(&snapshot, web, destination.parse().unwrap(), &mut chooser)
}

fn refusal(ends: &Ends) -> String {
    match to(ends, "10.96.0.1:80") {
        Outbound::Deny { reason, detail } => {
            assert_eq!(reason, Reason::WaypointUnavailable);
            detail
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_behind_a_waypoint_is_reached_through_it_or_not_at_all() {
    let mut manifests = Manifests::new("cluster.local");
    manifests.update("shop.yaml", SHOP.as_bytes());
    let mut ends = Ends::new();
    ends.catalog = manifests.catalog();
    assert_eq!(ends.connect(), [""; 0]);
    assert!(
        refusal(&ends).contains("wp.shop.missing"),
        "{}",
        refusal(&ends)
    );
    // A Service and pods of its name do not make a waypoint.
    manifests.update("running.yaml", RUNNING.as_bytes());
    ends.catalog = manifests.catalog();
    assert_eq!(ends.pump(), [""; 0]);
    assert!(
        refusal(&ends).contains("wp.shop.missing"),
        "{}",
        refusal(&ends)
    );
    // One that is declared and does not run is as good as none.
    manifests.remove("running.yaml");
    manifests.update(
        "gateway.yaml",
        with_classes(&waypoint("shop", "wp")).as_bytes(),
    );
    ends.catalog = manifests.catalog();
    assert_eq!(ends.pump(), [""; 0]);
    assert!(refusal(&ends).contains("shop/wp"), "{}", refusal(&ends));
    manifests.update("running.yaml", RUNNING.as_bytes());
    ends.catalog = manifests.catalog();
    assert_eq!(ends.pump(), [""; 0]);
    let Outbound::Tunnel(hop) = to(&ends, "10.96.0.1:80") else {
        panic!("{:?}", to(&ends, "10.96.0.1:80"));
    };
    assert!(hop.via_waypoint);
    assert_eq!(hop.peer, "10.0.0.9:15008".parse().unwrap());
    assert_eq!(hop.authority, "10.96.0.1:80".parse().unwrap());
    // A waypoint for services has no say on what goes to a pod's own address.
    let Outbound::Tunnel(hop) = to(&ends, "10.0.0.2:80") else {
        panic!("{:?}", to(&ends, "10.0.0.2:80"));
    };
    assert!(!hop.via_waypoint);
    // Taken away again, it takes the way with it, and nobody knows any more that it was for services.
    manifests.remove("gateway.yaml");
    ends.catalog = manifests.catalog();
    assert_eq!(ends.pump(), [""; 0]);
    assert!(matches!(
        to(&ends, "10.0.0.2:80"),
        Outbound::Deny {
            reason: Reason::WaypointUnavailable,
            ..
        }
    ));
    assert!(
        refusal(&ends).contains("wp.shop.missing"),
        "{}",
        refusal(&ends)
    );
}
