//! F-14: an agent that dies, or fails, between any two steps of an enrolment or its end. Built
//! with the feature `failpoints`; on a real kernel, as root, like the target `kernel`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panic, also in the functions it calls"
)]

#[path = "../kernel/lab.rs"]
#[expect(
    dead_code,
    reason = "shared with the target `kernel`, which uses more of it"
)]
mod lab;

mod child;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex};

use agent_datapath::{Datapath, failpoint};
use agent_net::Netns;

use child::{Verb, crash};
use lab::{Lab, TestPod, accept, connect, nothing_arrives, turn};

/// Where the agent has left nothing of a pod yet.
const BEFORE_ANYTHING: &str = "listening";

#[test]
fn two_crashes_at_any_steps_of_an_enrolment_leave_all_or_nothing() {
    if child::is_one() {
        return child::work();
    }
    let Some(_turn) = turn() else { return };
    let scene = Scene::new();
    let (places, _) = scene.places();
    assert_eq!(places.len(), 6, "{places:?}");
    for first in &places {
        for second in &places {
            let crashes = format!("{first}, then {second}");
            crash("two_crashes", &scene.lab, &scene.pod, Verb::Enrol, first);
            scene.is_closed_where_attached(&crashes);
            crash("two_crashes", &scene.lab, &scene.pod, Verb::Enrol, second);
            scene.is_closed_where_attached(&crashes);
            let is_listed = [first, second].iter().any(|at| **at != BEFORE_ANYTHING);
            scene.starts_again(is_listed, &crashes);
        }
    }
}

#[test]
fn a_crash_at_any_step_of_an_end_leaves_all_or_nothing() {
    if child::is_one() {
        return child::work();
    }
    let Some(_turn) = turn() else { return };
    let scene = Scene::new();
    let (_, places) = scene.places();
    assert_eq!(places.len(), 3, "{places:?}");
    for first in &places {
        for second in &places {
            let crashes = format!("{first}, then {second}");
            for place in [first, second] {
                crash("a_crash_at", &scene.lab, &scene.pod, Verb::Unenrol, place);
                scene.is_closed_where_attached(&crashes);
            }
            scene.starts_again(true, &crashes);
        }
    }
}

#[test]
fn a_step_that_fails_is_taken_back() {
    let Some(_turn) = turn() else { return };
    let scene = Scene::new();
    let (enrolment, end) = scene.places();
    let datapath = scene.lab.load();
    datapath.enrolled_at_start().unwrap();
    for place in enrolment {
        let error = failing_at(place, || datapath.enrol(scene.pod.info.clone())).unwrap_err();
        assert!(error.to_string().starts_with(place), "{error}");
        scene.has_nothing_of_the_pod(place);
        assert!(scene.is_reachable(), "{place}");
    }
    for place in end {
        let container = &scene.pod.info.container_id;
        drop(scene.pod.enrol(&datapath));
        failing_at(place, || datapath.unenrol(container)).unwrap_err();
        assert_eq!(datapath.pods().len(), 1, "{place}: it is still ours");
        datapath.unenrol(container).unwrap();
        scene.has_nothing_of_the_pod(place);
    }
}

#[test]
fn a_pod_of_the_agent_before_stays_closed_when_a_step_fails() {
    let Some(_turn) = turn() else { return };
    let scene = Scene::new();
    let (enrolment, _) = scene.places();
    let datapath = scene.lab.load();
    datapath.enrolled_at_start().unwrap();
    drop(scene.pod.enrol(&datapath));
    drop(datapath);
    for place in enrolment {
        let datapath = scene.lab.load();
        let again = datapath.enrolled_at_start().unwrap();
        assert_eq!(again, std::slice::from_ref(&scene.pod.info), "{place}");
        failing_at(place, || datapath.enrol(scene.pod.info.clone())).unwrap_err();
        assert_eq!(datapath.waiting(), again, "{place}");
        assert!(!scene.is_reachable(), "{place}");
        assert!(!scene.reaches_out(), "{place}");
    }
}

/// A pod with an application, and a stranger with another.
struct Scene {
    lab: Lab,
    pod: TestPod,
    application: TcpListener,
    stranger: TestPod,
    elsewhere: TcpListener,
}

const PORT: u16 = 8080;

impl Scene {
    fn new() -> Self {
        let mut lab = Lab::new();
        let (pod, stranger) = (lab.pod(1), lab.pod(2));
        Self {
            application: pod.serve(PORT),
            elsewhere: stranger.serve(PORT),
            lab,
            pod,
            stranger,
        }
    }

    /// The places an enrolment passes, and those its end passes.
    fn places(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let datapath = self.lab.load();
        datapath.enrolled_at_start().unwrap();
        let (enrolled, enrolment) = recorded(|| self.pod.enrol(&datapath));
        drop(enrolled);
        let (_, end) = recorded(|| datapath.unenrol(&self.pod.info.container_id).unwrap());
        (enrolment, end)
    }

    fn is_reachable(&self) -> bool {
        reaches(&self.stranger.netns, &self.pod, &self.application)
    }

    fn reaches_out(&self) -> bool {
        reaches(&self.pod.netns, &self.stranger, &self.elsewhere)
    }

    /// While no agent runs: what is steered accepts nothing, what is captured gets nowhere.
    fn is_closed_where_attached(&self, crashes: &str) {
        if !self.lab.pinned("pods").is_empty() {
            assert!(!self.is_reachable(), "{crashes}: open while steered");
        }
        if self.entries("PODS") > 0 {
            assert!(!self.reaches_out(), "{crashes}: open while captured");
        }
    }

    /// The next agent enrols the pod in full, or finds nothing of it.
    fn starts_again(&self, is_listed: bool, crashes: &str) {
        let datapath = self.lab.load();
        let again = datapath.enrolled_at_start().unwrap();
        if !is_listed {
            assert_eq!(again, [], "{crashes}");
            self.has_nothing_of_the_pod(crashes);
            return;
        }
        assert_eq!(again, std::slice::from_ref(&self.pod.info), "{crashes}");
        let enrolled = self.pod.enrol(&datapath);
        assert!(datapath.pods()[0].verified, "{crashes}");
        let to = SocketAddr::new(self.pod.v4, PORT);
        let _client = connect(&self.stranger.netns, to).unwrap();
        assert!(accept(&enrolled.inbound).is_some(), "{crashes}");
        assert!(nothing_arrives(&self.application), "{crashes}");
        drop(enrolled);
        datapath.unenrol(&self.pod.info.container_id).unwrap();
        self.has_nothing_of_the_pod(crashes);
    }

    fn has_nothing_of_the_pod(&self, crashes: &str) {
        assert_eq!(self.lab.pinned("pods"), [""; 0], "{crashes}");
        for map in ["PODS", "OWN", "LOCAL"] {
            assert_eq!(self.entries(map), 0, "{crashes}: {map}");
        }
        let list = self.lab.config.state_dir.join("pods.json");
        let list = fs::read_to_string(list).unwrap();
        let container = &self.pod.info.container_id;
        assert!(!list.contains(container.as_str()), "{crashes}: {list}");
    }

    fn entries(&self, map: &str) -> usize {
        let path = self
            .lab
            .config
            .bpffs
            .join("culvert/maps")
            .join(format!("{map}-v1"));
        let mut command = Command::new("bpftool");
        command.args(["-j", "map", "dump", "pinned"]).arg(path);
        let output = command.output().expect("bpftool");
        let dump: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        dump.as_array().unwrap().len()
    }
}

/// Whether a connection from a namespace reaches the application of a pod.
fn reaches(from: &Netns, pod: &TestPod, application: &TcpListener) -> bool {
    pod.addresses().into_iter().any(|ip| {
        connect(from, SocketAddr::new(ip, PORT)).is_ok_and(|_client| accept(application).is_some())
    })
}

fn recorded<T>(work: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    let places = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&places);
    failpoint::set(move |place| {
        noted.lock().unwrap().push(place);
        false
    });
    let result = work();
    failpoint::clear();
    let places = places.lock().unwrap().clone();
    (result, places)
}

fn failing_at<T>(place: &'static str, work: impl FnOnce() -> T) -> T {
    failpoint::set(move |reached| reached == place);
    let result = work();
    failpoint::clear();
    result
}

/// As the agent does it: what was enrolled before comes first.
fn enrol(datapath: &Datapath, pod: &agent_model::PodInfo) {
    for listed in datapath.enrolled_at_start().unwrap() {
        assert_eq!(listed, *pod);
    }
    drop(datapath.enrol(pod.clone()).unwrap());
}
