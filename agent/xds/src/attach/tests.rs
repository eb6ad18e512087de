use agent_model::{NodeWishes, PodProgress, PodReport, Wanted, WantedPod};
use proto::node::{ControlMessage, Pod, Pods, Report, control_message, node_message};

use super::wire::{
    NodeReport, Said, TrustBundle, report_from_wire, report_to_wire, said, trust_to_wire,
    wishes_from_wire, wishes_to_wire,
};

fn pod(name: &str, wanted: Wanted) -> WantedPod {
    WantedPod {
        uid: format!("uid-{name}"),
        namespace: "shop".into(),
        name: name.into(),
        ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        wanted,
        reason: "pod-label".into(),
        dns_capture: wanted == Wanted::Enrol,
    }
}

#[test]
fn what_is_written_is_what_is_read() {
    let wishes = NodeWishes {
        pods: vec![pod("a", Wanted::Enrol), pod("b", Wanted::Leave)],
        meshed_namespaces: ["shop".to_owned()].into(),
    };
    assert_eq!(wishes_from_wire(wishes_to_wire(&wishes)).unwrap(), wishes);
    let bundle = TrustBundle {
        pem: "pem".into(),
        sha256: "hash".into(),
    };
    let message = ControlMessage {
        message: Some(control_message::Message::TrustBundle(trust_to_wire(
            &bundle,
        ))),
    };
    assert_eq!(said(message).unwrap(), Said::Trust(bundle));
    let states = [
        PodProgress::Pending,
        PodProgress::Enrolled,
        PodProgress::Verified,
        PodProgress::Failed,
    ];
    let report = NodeReport {
        pods: states.map(|state| reported(state, "why")).into(),
        trust_bundle_hash: "hash".into(),
    };
    assert_eq!(report_from_wire(wire(&report)).unwrap(), report);
}

fn reported(state: PodProgress, detail: &str) -> PodReport {
    PodReport {
        uid: "u".into(),
        namespace: "shop".into(),
        name: "a".into(),
        state,
        detail: detail.into(),
    }
}

fn wire(report: &NodeReport) -> Report {
    match report_to_wire(report).message {
        Some(node_message::Message::Report(report)) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_that_makes_no_sense_is_left_out_and_no_other() {
    let good = wishes_to_wire(&NodeWishes {
        pods: vec![pod("good", Wanted::Enrol)],
        ..NodeWishes::default()
    })
    .pods
    .remove(0);
    let bad = |change: fn(&mut Pod)| {
        let mut pod = good.clone();
        change(&mut pod);
        pod
    };
    let pods = vec![
        bad(|pod| pod.ips.push("10.0.0.256".into())),
        bad(|pod| pod.wanted = 7),
        bad(|pod| pod.wanted = 0),
        bad(|pod| pod.name.clear()),
        bad(|pod| pod.namespace.clear()),
        good.clone(),
    ];
    let wishes = wishes_from_wire(Pods {
        pods,
        meshed_namespaces: vec![],
    });
    let names: Vec<String> = wishes
        .unwrap()
        .pods
        .into_iter()
        .map(|pod| pod.name)
        .collect();
    assert_eq!(names, ["good"]);
}

#[test]
fn sizes_are_bounded() {
    let many = Pods {
        pods: vec![Pod::default(); 4097],
        meshed_namespaces: vec![],
    };
    assert!(wishes_from_wire(many).is_err());
    let long = NodeReport {
        pods: vec![reported(PodProgress::Failed, &"ä".repeat(4000))],
        ..NodeReport::default()
    };
    assert_eq!(wire(&long).pods[0].detail.len(), 512);
    assert_eq!(
        said(ControlMessage { message: None }).unwrap(),
        Said::Unknown
    );
}
