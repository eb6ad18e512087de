//! Enrolment and its end.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_datapath::{DatapathError, EnrolledPod, Follow, PodSink, pauses, serve_enrolment};
use agent_model::{CniReply, CniRequest, CniVerb, PodInfo};
use agent_net::{NetnsCookie, private::PrivateListener};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::lab::{Lab, accept, connect, ip, netns_path, nothing_arrives, turn};

const ELSEWHERE: &str = "198.51.100.7:80";

#[test]
fn enrolment_is_idempotent_and_undone_without_a_trace() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, server) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let listener = server.serve(8080);
    let enrolled = pod.enrol(&datapath);
    assert!(datapath.enrol(pod.info.clone()).unwrap().is_none());
    datapath.check(&pod.info.container_id).unwrap();
    let cookie = datapath.unenrol(&pod.info.container_id).unwrap();
    assert_eq!(cookie, Some(pod.netns.cookie()));
    assert_eq!(datapath.unenrol(&pod.info.container_id).unwrap(), None);
    assert_eq!(lab.pinned("pods"), [""; 0]);
    assert!(datapath.pods().is_empty());
    drop(enrolled);
    connect(&pod.netns, SocketAddr::new(server.v4, 8080)).unwrap();
    assert!(accept(&listener).is_some());
    let unknown = datapath.check(&pod.info.container_id).unwrap_err();
    assert!(
        matches!(unknown, DatapathError::NotEnrolled(_)),
        "{unknown}"
    );
}

#[test]
fn nothing_of_ours_holds_a_namespace_after_the_end() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    drop(pod.enrol(&datapath));
    datapath.unenrol(&pod.info.container_id).unwrap();
    let (name, cookie) = (pod.name.clone(), pod.netns.cookie());
    drop(pod);
    ip(&["netns", "del", &name]);
    // The other end of its veth goes when the namespace does.
    crate::lab::eventually("the veth is gone", || !has_veth(&lab));
    assert!(!lab.pinned("pods").contains(&cookie.0.to_string()));
}

#[test]
fn a_pod_whose_namespace_went_away_without_a_word_frees_it() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    assert_eq!(datapath.gone(), [""; 0]);
    let (name, container) = (pod.name.clone(), pod.info.container_id.clone());
    drop(pod);
    ip(&["netns", "del", &name]);
    // What the agent holds keeps the namespace alive, so nothing else would tell.
    assert!(has_veth(&lab));
    assert_eq!(datapath.gone(), [container.as_str()]);
    assert!(datapath.unenrol(&container).unwrap().is_some());
    drop(enrolled);
    crate::lab::eventually("the veth is gone", || !has_veth(&lab));
    assert_eq!(lab.pinned("pods"), [""; 0]);
    assert_eq!(datapath.gone(), [""; 0]);
}

#[test]
fn what_is_kept_for_a_namespace_that_went_away_is_removed() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    drop(pod.enrol(&datapath));
    drop(datapath);
    let name = pod.name.clone();
    drop(pod);
    ip(&["netns", "del", &name]);
    let datapath = lab.load();
    crate::lab::eventually("the pin is gone", || {
        assert_eq!(datapath.enrolled_at_start().unwrap(), []);
        lab.pinned("pods").is_empty()
    });
}

#[test]
fn requests_that_are_not_true_are_refused() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, other) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let wrong = |change: &dyn Fn(&mut PodInfo)| {
        let mut info = pod.info.clone();
        change(&mut info);
        datapath.enrol(info).unwrap_err()
    };
    let host = lab.config.host_netns.to_string_lossy().into_owned();
    assert!(matches!(
        wrong(&|info| info.netns.clone_from(&host)),
        DatapathError::NotAPod(_)
    ));
    assert!(matches!(
        wrong(&|info| info.netns = "/proc/self/ns/net".into()),
        DatapathError::NotAPod(_)
    ));
    assert!(matches!(
        wrong(&|info| info.netns = "/etc/hostname".into()),
        DatapathError::Namespace { .. }
    ));
    assert!(matches!(
        wrong(&|info| info.ips.push(other.v4)),
        DatapathError::MissingAddress(ip) if ip == other.v4
    ));
    // A pod that failed is not captured.
    let listener = other.serve(8080);
    connect(&pod.netns, SocketAddr::new(other.v4, 8080)).unwrap();
    assert!(accept(&listener).is_some());
    let _enrolled = pod.enrol(&datapath);
    assert!(matches!(
        wrong(&|info| info.container_id = "another".into()),
        DatapathError::Taken { .. }
    ));
    datapath.check(&pod.info.container_id).unwrap();
}

#[test]
fn an_enrolment_that_cannot_be_proved_is_taken_back() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, server) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    // Somebody took our connect hook away.
    std::fs::remove_file(lab.config.bpffs.join("culvert/links/connect4")).unwrap();
    assert!(datapath.enrol(pod.info.clone()).is_err());
    assert_eq!(lab.pinned("pods"), [""; 0]);
    assert!(datapath.pods().is_empty());
    let listener = server.serve(8080);
    connect(&server.netns, SocketAddr::new(pod.v4, 15008)).unwrap_err();
    connect(&pod.netns, SocketAddr::new(server.v6, 8080)).unwrap();
    assert!(accept(&listener).is_some());
}

#[test]
fn status_and_check_see_what_broke() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    assert!(datapath.pods()[0].verified);
    let EnrolledPod {
        hbone, outbound, ..
    } = enrolled;
    drop(hbone);
    assert!(!datapath.pods()[0].verified);
    let error = datapath
        .check(&pod.info.container_id)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("inbound") || error.contains("HBONE"),
        "{error}"
    );
    assert!(nothing_arrives(&outbound));
}

#[tokio::test]
#[expect(
    clippy::await_holding_lock,
    reason = "one test at a time, each with its runtime"
)]
async fn the_plugin_enrols_and_gives_up_pods_over_the_socket() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, before) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    drop(before.enrol(&datapath));
    drop(datapath);
    let datapath = Arc::new(lab.load());
    let sink = Arc::new(Sink::default());
    let (drain, watcher) = agent_net::drain::channel();
    let path = lab.file("enrol.sock");
    let socket = PrivateListener::bind(&path).unwrap();
    let (_pauses, requests) = pauses();
    let server = tokio::spawn(serve_enrolment(
        Arc::clone(&datapath),
        Arc::clone(&sink) as Arc<dyn PodSink>,
        socket,
        requests,
        Follow {
            wishes: None,
            reports: tokio::sync::watch::Sender::new(None),
        },
        watcher,
    ));
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(ask(&path, CniVerb::Add, &pod.info).await.error, None);
    assert_eq!(ask(&path, CniVerb::Add, &pod.info).await.error, None);
    assert_eq!(ask(&path, CniVerb::Check, &pod.info).await.error, None);
    // The pod of the list is back as well.
    assert_eq!(sink.cookies(), [before.netns.cookie(), pod.netns.cookie()]);
    assert!(datapath.pods().iter().all(|pod| pod.verified));
    connect(&pod.netns, ELSEWHERE.parse().unwrap()).unwrap();
    let mut stranger = pod.info.clone();
    stranger.container_id = "unknown".into();
    assert!(ask(&path, CniVerb::Check, &stranger).await.error.is_some());
    assert_eq!(ask(&path, CniVerb::Del, &stranger).await.error, None);
    assert_eq!(ask(&path, CniVerb::Del, &pod.info).await.error, None);
    assert_eq!(ask(&path, CniVerb::Del, &pod.info).await.error, None);
    assert_eq!(sink.cookies(), [before.netns.cookie()]);
    assert!(drain.drain(Duration::from_secs(5)).await);
    server.await.unwrap().unwrap();
    assert!(!path.exists());
}

/// Keeps pods as the proxy would.
#[derive(Default)]
pub(crate) struct Sink(Mutex<Vec<EnrolledPod>>);

impl Sink {
    pub(crate) fn cookies(&self) -> Vec<NetnsCookie> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|pod| pod.netns.cookie())
            .collect()
    }
}

impl PodSink for Sink {
    fn add(&self, pod: EnrolledPod) -> io::Result<()> {
        self.0.lock().unwrap().push(pod);
        Ok(())
    }

    fn leave(&self, pod: NetnsCookie) {
        self.remove(pod);
    }

    fn remove(&self, pod: NetnsCookie) {
        self.0
            .lock()
            .unwrap()
            .retain(|kept| kept.netns.cookie() != pod);
    }
}

pub(crate) async fn ask(socket: &Path, verb: CniVerb, pod: &PodInfo) -> CniReply {
    let mut stream = BufReader::new(UnixStream::connect(socket).await.unwrap());
    let request = CniRequest {
        verb,
        pod: pod.clone(),
    };
    let mut line = serde_json::to_vec(&request).unwrap();
    line.push(b'\n');
    stream.write_all(&line).await.unwrap();
    let mut reply = String::new();
    stream.read_line(&mut reply).await.unwrap();
    serde_json::from_str(&reply).unwrap()
}

fn has_veth(lab: &Lab) -> bool {
    let list = std::process::Command::new("ip")
        .args(["-n", host_name(lab), "link", "show", "veth1"])
        .output();
    list.unwrap().status.success()
}

fn host_name(lab: &Lab) -> &str {
    let path = &lab.config.host_netns;
    assert!(path.starts_with(netns_path("").parent().unwrap()));
    path.file_name().unwrap().to_str().unwrap()
}
