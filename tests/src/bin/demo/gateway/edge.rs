//! The scene of the second act.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tests::apps::Nginx;
use tests::gateway::Gateway;
use tests::lab::{Lab, MESHED};
use tests::manifests::ServiceSpec;
use tests::process::Process;
use tests::{Pod, PodSpec, peer, poll};

use super::client::Client;
use super::manifests;

/// Port of the HTTP listener.
pub(super) const HTTP: u16 = 8000;
/// Port of the HTTPS listener.
pub(super) const HTTPS: u16 = 8443;
const PORT: u16 = 80;
/// Longest wait for something that is on its way.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// A gateway with its services. Fields drop in order: programs, then pods.
pub(crate) struct Edge<'a> {
    pub(super) lab: &'a Lab,
    _gateway: Gateway,
    /// nginx in each version of the service, and in the shadow.
    pub(super) web: [Nginx; 3],
    /// Root certificate of the HTTPS listener.
    pub(super) root: PathBuf,
    /// nginx in both endpoints of a service; the second can be made to fail.
    pub(super) flaky: [Nginx; 2],
    _talkers: [Process; 2],
    _second: Gateway,
    pub(super) pod: Pod,
    second_pod: Pod,
    _pods: [Pod; 6],
}

impl<'a> Edge<'a> {
    pub(super) fn start(lab: &'a Lab) -> Result<Self> {
        let cluster = &lab.cluster;
        // A gateway speaks for itself: its pod is not captured.
        let of_gateway = |name: &str| {
            let spec = PodSpec::new(MESHED, name).label("culvert.dev/mesh", "disabled");
            cluster.pod(&spec.outside())
        };
        let (pod, second_pod) = (of_gateway("edge")?, of_gateway("second")?);
        let names = ["v1", "v2", "shadow", "talk"];
        for name in [&names[..], &["flaky"]].concat() {
            let spec = ServiceSpec::new(MESHED, name, PORT).port(81, "81");
            cluster.service(&spec)?;
        }
        let pods = names.map(|name| cluster.pod(&PodSpec::new(MESHED, name).on(2)));
        let [v1, v2, shadow, talk] = pods;
        let flaky = ["flaky-1", "flaky-2"];
        let flaky = flaky.map(|name| cluster.pod(&PodSpec::new(MESHED, name).on(2).app("flaky")));
        let [one, two] = flaky;
        let pods = [v1?, v2?, shadow?, talk?, one?, two?];
        let run = cluster.run();
        let web = [0, 1, 2]
            .map(|place: usize| Nginx::start(run, pods[place].place(), names[place], PORT));
        let [v1, v2, shadow] = web;
        let flaky = [4, 5].map(|place: usize| {
            Nginx::start(run, pods[place].place(), &format!("flaky-{place}"), PORT)
        });
        let [one, two] = flaky;
        let talkers = [("grpc-serve", "80"), ("websocket-serve", "81")].map(|(verb, port)| {
            let mut command = Command::new(peer::PYTHON);
            command.arg(peer::script("talk.py")).args([verb, port]);
            Process::spawn(run, pods[3].place(), verb, command)
        });
        let [grpc, websocket] = talkers;
        let root = run.path("edge-root.pem");
        cluster
            .manifests()
            .write("edge", &manifests::edge(&root)?)?;
        cluster.settle()?;
        let gateway = Gateway::start(cluster, &pod, &format!("{MESHED}/edge"))?;
        gateway.wait("the gateway in force", |status| {
            status["ports"] == serde_json::json!([HTTP, HTTPS])
        })?;
        let second = Gateway::start(cluster, &second_pod, &format!("{MESHED}/second"))?;
        second.wait("the second gateway in force", |status| {
            status["ports"] == serde_json::json!([HTTP])
        })?;
        let edge = Self {
            lab,
            _gateway: gateway,
            web: [v1?, v2?, shadow?],
            root,
            flaky: [one?, two?],
            _talkers: [grpc?, websocket?],
            _second: second,
            pod,
            second_pod,
            _pods: pods,
        };
        poll::until("the first answer", LIMIT, || {
            edge.client()?.get("shop.example", "/", &[])?.must(200)
        })?;
        Ok(edge)
    }

    /// Where clients reach the gateway.
    pub(super) fn address(&self) -> SocketAddr {
        self.pod.sockets(HTTP)[0]
    }

    /// A connection of a client outside the mesh.
    pub(super) fn client(&self) -> Result<Client> {
        Client::open(self.lab.outsider.place(), self.address())
    }

    /// The same at the second gateway.
    pub(super) fn second_client(&self) -> Result<Client> {
        Client::open(self.lab.outsider.place(), self.second_pod.sockets(HTTP)[0])
    }

    /// Lines of a version's log with these words.
    pub(super) fn seen(&self, version: usize, words: &str) -> usize {
        let requests = self.web[version].requests();
        requests.iter().filter(|line| line.contains(words)).count()
    }

    /// Runs a program of the Python peers where the client is.
    pub(super) fn talk(&self, words: &[&str]) -> Result<String> {
        let script = peer::script("talk.py");
        let script = script.to_str().context("the path of the peers")?;
        let words = [&[peer::PYTHON, script], words].concat();
        Ok(self.lab.outsider.check(&words)?.trim().to_owned())
    }
}
