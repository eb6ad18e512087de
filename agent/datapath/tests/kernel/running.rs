//! Pods that run already: found by their processes, and leaving alive.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use agent_datapath::{Datapath, DatapathError, Follow, PodSink, Wishes, pauses, serve_enrolment};
use agent_model::{CniVerb, NodeWishes, PodInfo, Wanted, WantedPod};
use agent_net::{OriginalDst, private::PrivateListener, socket::canonical};
use tokio::sync::watch;

use crate::enrolment::{Sink, ask};
use crate::lab::{
    Lab, TestPod, accept, cgroup_root, connect, eventually, nothing_arrives, say, turn,
};

const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
const ELSEWHERE: &str = "198.51.100.7:80";

/// Processes of a pod, in a cgroup as a kubelet with the systemd driver makes it.
struct Processes {
    group: PathBuf,
    children: Vec<Child>,
}

impl Processes {
    /// One in each of the namespaces, the oldest first.
    fn start(namespaces: &[&str]) -> Self {
        let slice = format!(
            "kubepods-cv{}-pod{}.slice",
            std::process::id(),
            UID.replace('-', "_")
        );
        let group = cgroup_root().join(slice);
        fs::create_dir(&group).unwrap();
        let mut processes = Self {
            group,
            children: Vec::new(),
        };
        for namespace in namespaces {
            processes.add(namespace);
        }
        processes
    }

    fn add(&mut self, namespace: &str) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "sleep", "600"]);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let procs = self.group.join("cgroup.procs");
        let pid = child.id().to_string();
        self.children.push(child);
        fs::write(procs, &pid).unwrap();
        eventually("the process is in its namespace", || {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
            comm.trim() == "sleep"
        });
    }

    fn pid(&self, index: usize) -> u32 {
        self.children[index].id()
    }

    fn end(&mut self, index: usize) {
        self.children[index].kill().unwrap();
        self.children[index].wait().unwrap();
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        eventually("the cgroup is empty", || {
            fs::remove_dir(&self.group).is_ok()
        });
    }
}

fn wanted(pod: &TestPod) -> WantedPod {
    WantedPod {
        uid: UID.into(),
        namespace: pod.info.namespace.clone(),
        name: pod.info.name.clone(),
        ips: pod.info.ips.clone(),
        wanted: Wanted::Enrol,
        reason: "pod-label".into(),
        dns_capture: true,
    }
}

fn locate(datapath: &Datapath, pod: &TestPod) -> Result<PodInfo, DatapathError> {
    datapath.locate(&[wanted(pod)]).remove(0)
}

#[test]
fn a_running_pod_is_found_by_its_processes_and_known_by_another_when_one_ends() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, other) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let missing = locate(&datapath, &pod).unwrap_err();
    assert!(
        matches!(missing, DatapathError::NotFound { .. }),
        "{missing}"
    );
    // The oldest is in another namespace: it does not hold the pod's addresses.
    let mut processes = Processes::start(&[&other.name, &pod.name, &pod.name]);
    let found = locate(&datapath, &pod).unwrap();
    assert_eq!(found.netns, format!("/proc/{}/ns/net", processes.pid(1)));
    let enrolled = datapath.enrol(found.clone()).unwrap().unwrap();
    assert_eq!(enrolled.netns.cookie(), pod.netns.cookie());
    processes.end(1);
    datapath.upkeep().unwrap();
    assert!(datapath.gone().is_empty(), "the pod lives on");
    let known = datapath.enrolled().remove(0).netns;
    assert_eq!(known, format!("/proc/{}/ns/net", processes.pid(2)));
    // A successor of this agent finds it in the list, also when the process ends meanwhile.
    drop((enrolled, datapath));
    processes.add(&pod.name);
    processes.end(2);
    let successor = lab.load();
    let waiting = successor.enrolled_at_start().unwrap();
    assert_eq!(waiting[0].container_id, found.container_id);
    assert!(successor.enrol(waiting[0].clone()).unwrap().is_some());
    processes.end(3);
    successor.upkeep().unwrap();
    assert_eq!(successor.gone(), [found.container_id]);
}

/// A kubelet that cleans up has the runtime end the earlier sandboxes of a pod again.
#[tokio::test]
#[expect(
    clippy::await_holding_lock,
    reason = "one test at a time, each with its runtime"
)]
async fn the_end_of_an_earlier_sandbox_is_not_that_of_the_pod() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let mut processes = Processes::start(&[&pod.name, &pod.name]);
    let datapath = Arc::new(lab.load());
    let sink = Arc::new(Sink::default());
    let (wishes, wanted) = watch::channel(Wishes {
        current: true,
        node: Some(Arc::new(NodeWishes {
            pods: vec![wanted(&pod)],
            ..NodeWishes::default()
        })),
        meshed: None,
    });
    let (reports, mut reported) = watch::channel(None);
    let (drain, watcher) = agent_net::drain::channel();
    let path = lab.file("enrol.sock");
    let (_pauses, requests) = pauses();
    let server = tokio::spawn(serve_enrolment(
        Arc::clone(&datapath),
        Arc::clone(&sink) as Arc<dyn PodSink>,
        PrivateListener::bind(&path).unwrap(),
        requests,
        Follow {
            wishes: Some(wanted),
            reports,
        },
        watcher,
    ));
    let is_found = reported.wait_for(|pods| pods.as_ref().is_some_and(|pods| !pods.is_empty()));
    is_found.await.unwrap();
    let found = datapath.enrolled();
    assert_eq!(found[0].container_id, format!("pod:{UID}"));
    // Its process ends as well; the other one still holds the namespace.
    processes.end(0);
    for netns in ["", "/run/netns/cv-long-gone"] {
        let earlier = PodInfo {
            container_id: "an-earlier-sandbox".into(),
            uid: UID.into(),
            netns: netns.into(),
            ..pod.info.clone()
        };
        assert_eq!(ask(&path, CniVerb::Del, &earlier).await.error, None);
        assert_eq!(sink.cookies(), [pod.netns.cookie()], "it lives on");
        assert_eq!(datapath.enrolled().len(), 1);
    }
    // The sandbox that it lives in.
    let named = PodInfo {
        uid: UID.into(),
        ..pod.info.clone()
    };
    wishes.send_replace(Wishes {
        current: true,
        node: Some(Arc::default()),
        meshed: None,
    });
    assert_eq!(ask(&path, CniVerb::Del, &named).await.error, None);
    assert_eq!(sink.cookies(), []);
    assert!(drain.drain(Duration::from_secs(5)).await);
    server.await.unwrap().unwrap();
}

#[test]
fn the_hosts_namespace_and_the_agents_are_no_pods() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let host = lab.host_name();
    let _processes = Processes::start(&[&host]);
    let refused = locate(&datapath, &pod).unwrap_err();
    assert!(matches!(refused, DatapathError::NotAPod(_)), "{refused}");
}

#[test]
fn a_pod_that_leaves_keeps_its_connections_and_makes_new_ones_directly() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, peer) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    let destination: SocketAddr = ELSEWHERE.parse().unwrap();
    let client = connect(&pod.netns, destination).unwrap();
    let (agent, source) = accept(&enrolled.outbound).unwrap();
    // One that nobody has accepted yet.
    let queued = connect(&pod.netns, destination).unwrap();
    let left = datapath.leave(&pod.info.container_id).unwrap();
    assert_eq!(left, Some(pod.netns.cookie()));
    say(&client, &agent);
    say(&agent, &client);
    assert_eq!(client.peer_addr().unwrap(), destination);
    let (late, of) = accept(&enrolled.outbound).expect("what was captured arrives");
    say(&queued, &late);
    for source in [source, of] {
        let found = datapath.original_dst(pod.netns.cookie(), canonical(source));
        assert_eq!(found, Some(destination));
    }
    // From here on it is a pod like any other.
    let listener = peer.serve(8080);
    connect(&pod.netns, SocketAddr::new(peer.v4, 8080)).unwrap();
    assert!(accept(&listener).is_some());
    let application = pod.serve(8081);
    connect(&peer.netns, SocketAddr::new(pod.v4, 8081)).unwrap();
    assert!(accept(&application).is_some());
    assert!(nothing_arrives(&enrolled.inbound));
    assert!(datapath.pods().is_empty());
    assert_eq!(lab.pinned("pods"), [""; 0]);
    assert_eq!(datapath.leave(&pod.info.container_id).unwrap(), None);
    // Nothing is left once the connections are over.
    drop((client, queued, agent, late));
    for source in [source, of] {
        eventually("the entry dies with its socket", || {
            let source = canonical(source);
            datapath.original_dst(pod.netns.cookie(), source).is_none()
        });
    }
}

/// F-12 in the kernel: the state is what was asked for, after each turn, and nothing is left over.
#[test]
fn a_hundred_turns_leave_nothing() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, peer) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let listener = peer.serve(8080);
    let to = SocketAddr::new(peer.v4, 8080);
    for round in 0..100 {
        let enrolled = pod.enrol(&datapath);
        connect(&pod.netns, to).unwrap();
        let captured = accept(&enrolled.outbound).is_some();
        assert!(captured, "captured, round {round}");
        datapath.leave(&pod.info.container_id).unwrap();
        drop(enrolled);
        connect(&pod.netns, to).unwrap();
        assert!(accept(&listener).is_some(), "direct, round {round}");
    }
    assert_eq!(lab.pinned("pods"), [""; 0]);
    assert!(datapath.enrolled().is_empty());
}
