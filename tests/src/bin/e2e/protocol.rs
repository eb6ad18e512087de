//! The HBONE protocol seen by an independent peer: what Culvert's server answers, what it survives,
//! what it never does, and what its client sends and accepts.
//!
//! ```text
//!  node n1: caller (Python peer, in the mesh for the control plane, not captured)
//!  node n2: target (echo), neighbour (decoy), client (captured, dials the peer)
//! ```

mod destination;
mod impersonation;
mod malformed;
mod recursion;
mod ssrf;
mod status;
mod ztunnel;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use agent_model::HBONE_PORT;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use tests::Cluster;
use tests::manifests::ServiceSpec;
use tests::peer::Peer;
use tests::server::{Behaviour, Server};
use tests::topology::Addresses;
use tests::{Pod, PodSpec};

use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "hbone: F-88 every row of the table of answers",
        status::table,
    ),
    shared(
        "hbone: F-88 CONNECT is written in one way only",
        status::request_forms,
    ),
    shared("hbone: F-88 TLS that must not be believed", malformed::tls),
    shared(
        "hbone: F-88 malformed input ends its connection only",
        malformed::http2,
    ),
    shared(
        "hbone: T-SSRF F-89 no authority leads elsewhere",
        ssrf::authorities,
    ),
    shared(
        "hbone: T-ESC-5 dialling the agent's ports starts no loop",
        recursion::agent_ports,
    ),
    shared(
        "hbone: what our tunnels look like to a foreign server",
        destination::request_form,
    ),
    shared(
        "hbone: a foreign server that refuses",
        destination::refusals,
    ),
    shared(
        "hbone: tunnels to a foreign server end well",
        destination::tunnels,
    ),
    shared(
        "hbone: a ztunnel's tunnel into a pod: a hundred streams, large frames, its ends",
        ztunnel::into_a_pod,
    ),
    shared(
        "hbone: tunnels out to a ztunnel and to an Envoy: their limits, their ends",
        ztunnel::out_of_a_pod,
    ),
    shared(
        "hbone: T-IMP-1 identity is the namespace's",
        impersonation::follows_the_namespace,
    ),
    shared(
        "hbone: T-IMP-2 the wrong server gets no byte",
        impersonation::wrong_server,
    ),
    shared(
        "hbone: T-IMP-3 headers decide nothing",
        impersonation::forged_headers,
    ),
    shared(
        "hbone: T-IMP-4 two accounts in one namespace",
        impersonation::two_accounts,
    ),
];

/// Namespace of the pods here.
const NAMESPACE: &str = "protocol";
/// Port of the echo application and of every decoy.
const APP_PORT: u16 = 8080;

/// The pods, the application and the peer of one case.
struct Scene<'a> {
    peer: Peer,
    app: Server,
    target: Pod,
    neighbour: Pod,
    client: Pod,
    caller: Pod,
    service: Addresses,
    cluster: &'a Cluster,
}

impl<'a> Scene<'a> {
    fn open(cluster: &'a Cluster) -> Result<Self> {
        cluster.manifests().namespace(NAMESPACE, Some(true))?;
        let pod = |name: &str| PodSpec::new(NAMESPACE, name);
        let ports = vec![(80, APP_PORT.to_string()), (81, "named".to_owned())];
        let service = ServiceSpec::new(NAMESPACE, "target", 80);
        let service = cluster.service(&ServiceSpec { ports, ..service })?;
        let target = cluster.pod(&pod("target").on(2).port("named", APP_PORT))?;
        let neighbour = cluster.pod(&pod("neighbour").on(2))?;
        let client = cluster.pod(&pod("client").on(2))?;
        // The runtime does not tell the agent, the manifests call it part of the mesh: a node
        // proxy of another make.
        let caller = cluster.pod(&pod("caller").on(1).outside())?;
        let app = Server::start(&target, APP_PORT, Behaviour::Echo)?;
        let peer = Peer::start(cluster.run(), &caller, "hbone-peer")?;
        cluster.settle()?;
        let scene = Self {
            peer,
            app,
            target,
            neighbour,
            client,
            caller,
            service,
            cluster,
        };
        scene.join("me", "caller")?;
        Ok(scene)
    }

    /// Gets a certificate of an account on node 1 for the peer.
    fn join(&self, name: &str, account: &str) -> Result<Value> {
        let node = self.cluster.node(1)?;
        self.peer.join(self.cluster, node, name, NAMESPACE, account)
    }

    /// Opens the connection `name` to the target's HBONE port in one family.
    fn dial(&self, name: &str, to: IpAddr) -> Result<()> {
        self.peer
            .dial(name, SocketAddr::new(to, HBONE_PORT), "me")
            .map(drop)
    }

    /// The log of the target's node.
    fn log_has(&self, parts: &[&str]) -> Result<String> {
        let agent = self.cluster.node(2)?.agent()?;
        agent.wait_log(parts, std::time::Duration::from_secs(15))
    }
}

/// A stream that is served while others misbehave.
struct Healthy<'a> {
    peer: &'a Peer,
    connection: String,
    stream: Value,
    echoed: usize,
}

impl<'a> Healthy<'a> {
    fn open(scene: &'a Scene<'_>, ip: IpAddr) -> Result<Self> {
        let connection = format!("healthy-{ip}");
        scene.dial(&connection, ip)?;
        let answer = scene
            .peer
            .connect(&connection, &SocketAddr::new(ip, APP_PORT).to_string())?;
        ensure!(answer["status"] == json!("200"), "healthy stream: {answer}");
        let stream = answer["stream"].clone();
        Ok(Self {
            peer: &scene.peer,
            connection,
            stream,
            echoed: 0,
        })
    }

    /// It must still be served.
    fn check(&mut self, after: &str) -> Result<()> {
        const BEAT: &str = "still here ";
        self.peer
            .echo(&self.connection, &self.stream, BEAT, self.echoed)
            .with_context(|| format!("the healthy stream, after: {after}"))?;
        self.echoed += BEAT.len();
        Ok(())
    }
}

/// Whether a stream's answer is a refusal: an error status or a reset, and no 200.
fn refused(answer: &Value) -> bool {
    let status = answer["status"].as_str();
    let error = status.is_some_and(|status| status.starts_with(['4', '5']));
    error || (status.is_none() && answer["reset"].as_u64().is_some_and(|code| code != 0))
}

/// Puts the members of one JSON object into another.
fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

/// The certificate and the key in the control plane's state folder with which it signs.
fn signing_files(state: &Path) -> [PathBuf; 2] {
    ["root-cert.pem", "root-key.pem"].map(|name| state.join(name))
}
