//! A ztunnel on one node, Culvert's agent on the other, Culvert's control plane above both: the
//! ztunnel's own decisions lead to the agent's pods, the agent's to the ztunnel's, and each side
//! enforces the policies it was sent.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{discover, known};
use tests::manifests::{ServiceSpec, authorization_policy, peer_authentication};
use tests::peer::Peer;
use tests::server::{Behaviour, Server};
use tests::traffic::{must_refuse, must_serve};
use tests::{Cluster, Pod, PodSpec};

const NAMESPACE: &str = "mixed";
/// The application behind the agent.
const PORT: u16 = 8080;
/// The application behind the ztunnel.
const BEHIND: u16 = 9090;
const DENY_TARGET: &str = "[{from: [{source: {principals: [cluster.local/ns/mixed/sa/target]}}]}]";
const DENY_CALLER: &str = "[{from: [{source: {principals: [cluster.local/ns/mixed/sa/caller]}}]}]";

/// Pods and services of both sides, from both sides.
pub(super) fn both_ways(cluster: &Cluster) -> Result<()> {
    cluster.manifests().namespace(NAMESPACE, Some(true))?;
    cluster
        .manifests()
        .write("mode", &peer_authentication(NAMESPACE, "STRICT"))?;
    let target = cluster.pod(&PodSpec::new(NAMESPACE, "target").on(2))?;
    // In the mesh for the control plane, and nothing of Culvert's touches it: the ztunnel's pod.
    let caller = cluster.pod(&PodSpec::new(NAMESPACE, "caller").outside())?;
    let ports = vec![(80, PORT.to_string())];
    let service = ServiceSpec {
        ports,
        ..ServiceSpec::new(NAMESPACE, "target", 80)
    };
    let service = cluster.service(&service)?;
    let back = vec![(90, BEHIND.to_string())];
    let back = ServiceSpec {
        ports: back,
        ..ServiceSpec::new(NAMESPACE, "caller", 90)
    };
    let back = cluster.service(&back)?;
    let app = Server::start(&target, PORT, Behaviour::Echo)?;
    let peer = Peer::start(cluster.run(), &caller, "ztunnel")?;
    cluster.settle()?;
    peer.join(cluster, cluster.node(1)?, "me", NAMESPACE, "caller")?;
    discover(cluster, &peer, "zt", 1, false)?;
    let uids = ["caller", "target"].map(|pod| format!("Kubernetes//Pod/{NAMESPACE}/{pod}"));
    known(&peer, "zt", &[&uids[0], &uids[1]])?;
    peer.must(&json!({ "op": "listen", "name": "zt", "cert": "me" }))?;
    peer.must(&json!({ "op": "enforce", "name": "zt", "by": "zt" }))?;
    let vips = [service.v4.into(), service.v6.into()];
    let backs = [back.v4.into(), back.v6.into()];
    for (family, vip) in vips.into_iter().enumerate() {
        let scene = Scene {
            cluster,
            peer: &peer,
            caller: &caller,
            target: &target,
            family,
        };
        scene
            .out(SocketAddr::new(vip, 80))
            .context("to a Culvert service")?;
        scene
            .out(target.sockets(PORT)[family])
            .context("to a Culvert pod")?;
        ensure!(
            app.peers().last().map(SocketAddr::ip) == Some(caller.ips()[family]),
            "the application saw {:?}",
            app.peers().last()
        );
        must_serve(&target, SocketAddr::new(backs[family], 90))
            .context("to a ztunnel's service")?;
        must_serve(&target, caller.sockets(BEHIND)[family]).context("to a ztunnel's pod")?;
        scene.policies()?;
    }
    peer.must(&json!({ "op": "undiscover", "name": "zt" }))?;
    caller.delete()?;
    target.delete()
}

struct Scene<'a> {
    cluster: &'a Cluster,
    peer: &'a Peer,
    caller: &'a Pod,
    target: &'a Pod,
    family: usize,
}

impl Scene<'_> {
    /// Carries one connection out of the ztunnel's pod.
    fn out(&self, to: SocketAddr) -> Result<()> {
        let connection = format!("out-{to}");
        let answer = self.carry(&connection, to)?;
        ensure!(answer["status"] == "200", "{answer}");
        ensure!(
            answer["route"]["uid"] == json!("Kubernetes//Pod/mixed/target"),
            "{answer}"
        );
        self.peer
            .echo(&connection, &answer["stream"], "through", 0)?;
        self.peer
            .must(&json!({ "op": "close", "conn": connection }))
            .map(drop)
    }

    fn carry(&self, connection: &str, to: SocketAddr) -> Result<Value> {
        self.peer.must(&json!({
            "op": "carry",
            "name": "zt",
            "conn": connection,
            "source": self.caller.ips()[self.family].to_string(),
            "to": [to.ip().to_string(), to.port()],
            "cert": "me",
        }))
    }

    /// A DENY on either side is enforced by that side.
    fn policies(&self) -> Result<()> {
        let deny = |name: &str, app: &str, rules: &str| {
            authorization_policy(NAMESPACE, name, "DENY", Some(app), rules)
        };
        self.cluster
            .apply("deny-caller", &deny("deny-caller", "target", DENY_CALLER))?;
        self.cluster
            .apply("deny-target", &deny("deny-target", "caller", DENY_TARGET))?;
        known(self.peer, "zt", &["mixed/deny-caller", "mixed/deny-target"])?;
        let to = self.target.sockets(PORT)[self.family];
        let answer = self.carry("denied", to)?;
        ensure!(answer["status"] == "401", "by Culvert's agent: {answer}");
        self.peer
            .must(&json!({ "op": "close", "conn": "denied" }))?;
        let behind = self.caller.sockets(BEHIND)[self.family];
        self.peer.forget("zt")?;
        must_refuse(self.target, behind).context("by the ztunnel")?;
        self.peer
            .wait_event("zt", "the ztunnel's refusal", |event| {
                event["event"] == "decision"
                    && event["status"] == 401
                    && event["why"] == "mixed/deny-target"
            })?;
        self.cluster.unapply("deny-caller")?;
        self.cluster.unapply("deny-target")?;
        super::wait_known(
            self.peer,
            json!({ "name": "zt", "absent": ["mixed/deny-caller", "mixed/deny-target"] }),
        )?;
        must_serve(self.target, behind).context("after the ztunnel's policy")
    }
}
