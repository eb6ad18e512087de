//! Two agents on one kernel: one follows the other, and only one of them changes anything (F-09).

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use agent_datapath::{Datapath, DatapathError};
use agent_net::{OriginalDst, SocketTags, socket::canonical};

use crate::lab::{Lab, accept, connect, nothing_arrives, turn};

const ELSEWHERE: &str = "198.51.100.7:80";

fn superseded<T: std::fmt::Debug>(result: Result<T, DatapathError>, by: u64) {
    match result {
        Err(DatapathError::Superseded { generation }) => assert_eq!(generation, by),
        other => panic!("{other:?}"),
    }
}

/// Everything an agent changes without being asked, or when it is.
fn changes_nothing(datapath: &Datapath, lab: &Lab, container: &str, by: u64) {
    let state = || {
        let pins = ["links", "maps", "pods"].map(|kind| lab.pinned(kind));
        (
            pins,
            fs::read(lab.config.state_dir.join("pods.json")).unwrap(),
        )
    };
    let before = state();
    superseded(datapath.upkeep(), by);
    superseded(datapath.sweep(), by);
    superseded(datapath.unenrol(container), by);
    superseded(datapath.enrolled_at_start(), by);
    assert!(!datapath.is_owner());
    assert_eq!(state(), before);
}

#[test]
fn a_successor_takes_pods_over_with_all_that_waits_for_them() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, stranger) = (lab.pod(1), lab.pod(2));
    let (elsewhere, inbound): (SocketAddr, _) =
        (ELSEWHERE.parse().unwrap(), SocketAddr::new(pod.v4, 8080));
    let application = pod.serve(8080);
    let first = lab.load();
    assert_eq!(first.generation(), 1);
    let enrolled = pod.enrol(&first);
    // Nobody has accepted these when the predecessor goes.
    let _waits = [
        connect(&pod.netns, elsewhere).unwrap(),
        connect(&stranger.netns, inbound).unwrap(),
    ];
    first.cede();
    changes_nothing(&first, &lab, &pod.info.container_id, 1);
    let second = lab.load();
    assert_eq!(second.generation(), 2);
    let adopted = second.adopt(enrolled.share().unwrap()).unwrap();
    assert!(second.enrolled_at_start().unwrap().is_empty());
    assert!(second.pods()[0].verified, "{:?}", second.pods());
    let again = second.adopt(enrolled.share().unwrap()).unwrap_err();
    assert!(matches!(again, DatapathError::HandOver { .. }), "{again}");

    // The predecessor still finds its way: it has connections to end.
    let _client = connect(&pod.netns, elsewhere).unwrap();
    let (accepted, peer) = accept(&enrolled.outbound).unwrap();
    let found = first.original_dst(pod.netns.cookie(), canonical(peer));
    assert_eq!(found, Some(elsewhere));
    first.exempt(accepted.as_fd()).unwrap();
    let pins = ["links", "maps", "pods"].map(|kind| lab.pinned(kind));
    drop((enrolled, first));
    assert_eq!(["links", "maps", "pods"].map(|kind| lab.pinned(kind)), pins);
    assert!(second.pods()[0].verified);
    assert!(accept(&adopted.outbound).is_some(), "what waited is lost");
    assert!(accept(&adopted.inbound).is_some(), "what waited is lost");
    let _client = connect(&pod.netns, elsewhere).unwrap();
    let (_, peer) = accept(&adopted.outbound).unwrap();
    let found = second.original_dst(pod.netns.cookie(), canonical(peer));
    assert_eq!(found, Some(elsewhere));
    connect(&stranger.netns, inbound).unwrap();
    assert!(accept(&adopted.inbound).is_some());
    assert!(nothing_arrives(&application));
    second.upkeep().unwrap();
    assert!(second.unenrol(&pod.info.container_id).unwrap().is_some());
    assert_eq!(lab.pinned("pods"), [""; 0]);
}

/// As after SIGSTOP, a new agent, SIGCONT.
#[test]
fn an_agent_that_wakes_up_late_changes_nothing() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, late) = (lab.pod(1), lab.pod(2));
    let first = lab.load();
    let _dead = pod.enrol(&first);
    let second = lab.load();
    assert_eq!(second.enrolled_at_start().unwrap().len(), 1);
    let served = pod.enrol(&second);
    changes_nothing(&first, &lab, &pod.info.container_id, 2);
    superseded(first.enrol(late.info), 2);
    superseded(first.adopt(served.share().unwrap()), 2);
    assert!(second.is_owner() && second.pods()[0].verified);
    // Until it is told to.
    first.reclaim().unwrap();
    assert_eq!(first.generation(), 3);
    changes_nothing(&second, &lab, &pod.info.container_id, 3);
    first.upkeep().unwrap();
}

#[test]
fn a_successor_that_cannot_start_leaves_the_predecessor_its_claim() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let first = lab.load();
    let _served = pod.enrol(&first);
    let mut broken = lab.config.clone();
    broken.object = lab.file("broken.o");
    let mut object = fs::read(&lab.config.object).unwrap();
    object.truncate(object.len() / 2);
    fs::write(&broken.object, object).unwrap();
    Datapath::load(&broken).unwrap_err();
    assert!(first.is_owner());
    first.upkeep().unwrap();
    assert!(first.pods()[0].verified);
}

#[test]
fn what_is_not_the_pod_is_not_taken_over() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, other) = (lab.pod(1), lab.pod(2));
    let first = lab.load();
    let (enrolled, others) = (pod.enrol(&first), other.enrol(&first));
    let second = lab.load();
    let refused = |change: &dyn Fn(&mut agent_datapath::EnrolledPod)| {
        let mut wrong = enrolled.share().unwrap();
        change(&mut wrong);
        second.adopt(wrong).unwrap_err();
    };
    refused(&|wrong| wrong.netns = others.netns.clone());
    refused(&|wrong| wrong.outbound = others.outbound.try_clone().unwrap());
    refused(&|wrong| std::mem::swap(&mut wrong.inbound, &mut wrong.hbone));
    refused(&|wrong| wrong.info.ips.clear());
    assert_eq!(second.enrolled_at_start().unwrap().len(), 2);
    second.adopt(enrolled.share().unwrap()).unwrap();
    assert_eq!(second.waiting().len(), 1);
}
