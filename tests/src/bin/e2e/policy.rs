//! Who may talk to whom: decided at the destination, on HBONE and plaintext alike.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::manifests::{authorization_policy, peer_authentication};
use tests::server::{Behaviour, Server};
use tests::stopwatch::Stopwatch;
use tests::traffic::{echo_on, must_refuse, must_serve, wait_closed};
use tests::{Cluster, Pod, PodSpec};

use crate::scene::{MESHED, OUTSIDE, PORT, Scene, namespaces};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared("policy: ALLOW and DENY by every L4 field", table),
    shared(
        "policy: PeerAuthentication by namespace, workload and port",
        peer_modes,
    ),
    shared(
        "policy: L7 fields make an ALLOW rule void and leave a DENY standing",
        seventh_layer,
    ),
    shared("policy: live connections are re-checked within 2 s", live),
    shared(
        "policy: a refusal names its policy in the log, status and metrics",
        named,
    ),
    shared(
        "policy: node probes pass STRICT, pods of the host network do not",
        host_processes,
    ),
];

const RECHECK: Duration = Duration::from_secs(2);

/// Sources of the table.
struct Cast {
    /// Service account alice, node 1.
    alice: Pod,
    /// Service account bob, on the server's node.
    bob: Pod,
    /// Namespace other, service account carol.
    carol: Pod,
    /// Not in the mesh.
    outsider: Pod,
    server: Pod,
}

impl Cast {
    fn start(cluster: &Cluster) -> Result<Self> {
        namespaces(cluster)?;
        cluster.manifests().namespace("other", Some(true))?;
        let cast = Self {
            alice: cluster.pod(&PodSpec::new(MESHED, "alice"))?,
            bob: cluster.pod(&PodSpec::new(MESHED, "bob").on(2))?,
            carol: cluster.pod(&PodSpec::new("other", "carol"))?,
            outsider: cluster.pod(&PodSpec::new(OUTSIDE, "outsider").outside())?,
            server: cluster.pod(&PodSpec::new(MESHED, "server").on(2))?,
        };
        cluster.settle()?;
        Ok(cast)
    }

    fn sources(&self) -> [(&'static str, &Pod); 4] {
        [
            ("alice", &self.alice),
            ("bob", &self.bob),
            ("carol", &self.carol),
            ("outsider", &self.outsider),
        ]
    }

    /// Exactly these sources reach the server's port, in both families.
    fn expect(&self, port: u16, allowed: &[&str]) -> Result<()> {
        for (name, pod) in self.sources() {
            for to in self.server.sockets(port) {
                let result = if allowed.contains(&name) {
                    must_serve(pod, to)
                } else {
                    must_refuse(pod, to)
                };
                result.with_context(|| format!("{name} -> {to}"))?;
            }
        }
        Ok(())
    }
}

fn table(cluster: &Cluster) -> Result<()> {
    let cast = Cast::start(cluster)?;
    let _one = Server::start(&cast.server, PORT, Behaviour::Echo)?;
    let _two = Server::start(&cast.server, PORT + 1, Behaviour::Echo)?;
    let alice_ip = format!(
        "{}/32, {}/128",
        cast.alice.addresses().v4,
        cast.alice.addresses().v6
    );
    let blocks = format!(
        "[{{from: [{{source: {{ipBlocks: [{}]}}}}]}}]",
        quoted(&alice_ip)
    );
    let rows: &[(&str, &str, &[&str])] = &[
        (
            "ALLOW",
            "[{from: [{source: {principals: [cluster.local/ns/app/sa/alice]}}]}]",
            &["alice"],
        ),
        (
            "ALLOW",
            "[{from: [{source: {principals: [\"*/sa/bob\"]}}]}]",
            &["bob"],
        ),
        (
            "ALLOW",
            "[{from: [{source: {namespaces: [other]}}]}]",
            &["carol"],
        ),
        (
            "ALLOW",
            "[{from: [{source: {notNamespaces: [other]}}]}]",
            &["alice", "bob", "outsider"],
        ),
        (
            "ALLOW",
            "[{from: [{source: {principals: [\"*\"]}}]}]",
            &["alice", "bob", "carol"],
        ),
        ("ALLOW", &blocks, &["alice"]),
        ("ALLOW", "[{}]", &["alice", "bob", "carol", "outsider"]),
        ("ALLOW", "[]", &[]),
        (
            "DENY",
            "[{from: [{source: {namespaces: [app]}}]}]",
            &["carol", "outsider"],
        ),
        (
            "DENY",
            "[{from: [{source: {notPrincipals: [\"*\"]}}]}]",
            &["alice", "bob", "carol"],
        ),
        ("DENY", "[{}]", &[]),
    ];
    for (number, (action, rules, allowed)) in rows.iter().enumerate() {
        let policy = authorization_policy(MESHED, "row", action, Some("server"), rules);
        cluster.apply("row", &policy)?;
        cast.expect(PORT, allowed)
            .with_context(|| format!("row {number}: {action} {rules}"))?;
    }
    // Ports, and DENY before ALLOW.
    let port = format!("[{{to: [{{operation: {{ports: [\"{PORT}\"]}}}}]}}]");
    cluster.apply(
        "row",
        &authorization_policy(MESHED, "row", "ALLOW", Some("server"), &port),
    )?;
    cast.expect(PORT, &["alice", "bob", "carol", "outsider"])?;
    cast.expect(PORT + 1, &[])?;
    let deny = "[{from: [{source: {namespaces: [other]}}]}]";
    cluster.apply(
        "more",
        &authorization_policy(MESHED, "more", "DENY", None, deny),
    )?;
    cast.expect(PORT, &["alice", "bob", "outsider"])
}

fn quoted(list: &str) -> String {
    let items: Vec<String> = list.split(", ").map(|item| format!("\"{item}\"")).collect();
    items.join(", ")
}

fn peer_modes(cluster: &Cluster) -> Result<()> {
    let cast = Cast::start(cluster)?;
    let _one = Server::start(&cast.server, PORT, Behaviour::Echo)?;
    let _two = Server::start(&cast.server, PORT + 1, Behaviour::Echo)?;
    let everybody = ["alice", "bob", "carol", "outsider"];
    let meshed = ["alice", "bob", "carol"];
    cast.expect(PORT, &everybody)
        .context("without PeerAuthentication")?;
    cluster.apply("mode", &peer_authentication(MESHED, "STRICT"))?;
    cast.expect(PORT, &meshed).context("STRICT")?;
    cluster.apply("mode", &peer_authentication(MESHED, "PERMISSIVE"))?;
    cast.expect(PORT, &everybody).context("PERMISSIVE")?;
    let by_port = format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: server\n  \
         namespace: {MESHED}\nspec:\n  selector:\n    matchLabels:\n      app: server\n  mtls:\n    \
         mode: STRICT\n  portLevelMtls:\n    {}:\n      mode: PERMISSIVE\n",
        PORT + 1
    );
    cluster.apply("mode", &by_port)?;
    cast.expect(PORT, &meshed)
        .context("STRICT for the workload")?;
    cast.expect(PORT + 1, &everybody)
        .context("PERMISSIVE for one port")
}

fn seventh_layer(cluster: &Cluster) -> Result<()> {
    let cast = Cast::start(cluster)?;
    let _server = Server::start(&cast.server, PORT, Behaviour::Echo)?;
    let rule = "[{from: [{source: {namespaces: [app]}}], to: [{operation: {methods: [GET]}}]}]";
    cluster.apply(
        "l7",
        &authorization_policy(MESHED, "l7", "ALLOW", Some("server"), rule),
    )?;
    cast.expect(PORT, &[])
        .context("an ALLOW rule that cannot be judged allows nobody")?;
    cluster.apply(
        "l7",
        &authorization_policy(MESHED, "l7", "DENY", Some("server"), rule),
    )?;
    cast.expect(PORT, &["carol", "outsider"])
        .context("a DENY rule denies by what can be judged of it")
}

fn live(cluster: &Cluster) -> Result<()> {
    let cast = Cast::start(cluster)?;
    let _server = Server::start(&cast.server, PORT, Behaviour::Echo)?;
    let deny = "[{from: [{source: {principals: [cluster.local/ns/app/sa/alice]}}]}]";
    let deny = authorization_policy(MESHED, "live", "DENY", Some("server"), deny);
    let strict = peer_authentication(MESHED, "STRICT");
    for to in cast.server.sockets(PORT) {
        for (manifest, victim) in [(&deny, &cast.alice), (&strict, &cast.outsider)] {
            let mut doomed = open(victim, to)?;
            let mut spared = open(&cast.carol, to)?;
            let watch = Stopwatch::start();
            cluster.manifests().write("live", manifest)?;
            wait_closed(&mut doomed, 5 * RECHECK)
                .with_context(|| format!("{} after the change", victim.name()))?;
            let took = watch.took();
            println!("  closed {} ms after the edit", took.as_millis());
            ensure!(took <= RECHECK, "closed {took:?} after the edit");
            echo_on(&mut spared, b"spared").context("a connection that is still allowed")?;
            cluster.unapply("live")?;
            must_serve(victim, to).context("after the change was taken back")?;
        }
    }
    let agent = cluster.node(2)?.agent()?;
    agent.wait_log(&["policy-changed"], Duration::from_secs(10))?;
    Ok(())
}

fn open(from: &Pod, to: SocketAddr) -> Result<std::net::TcpStream> {
    let mut stream = from.connect(to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    echo_on(&mut stream, b"before")?;
    Ok(stream)
}

fn named(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let deny = authorization_policy(MESHED, "the-culprit", "DENY", Some("server"), "[{}]");
    cluster.apply("deny", &deny)?;
    let agent = cluster.node(2)?.agent()?;
    let refusals = || -> Result<f64> {
        Ok(agent.metrics()?.sum(
            "culvert_connections_refused_total",
            &["reason=\"policy-denied\""],
        ))
    };
    let before = refusals()?;
    for to in scene.server.sockets(PORT) {
        must_refuse(&scene.client, to)?;
        must_refuse(&scene.outsider, to)?;
    }
    let identity = "spiffe://cluster.local/ns/app/sa/client";
    let limit = Duration::from_secs(10);
    agent.wait_log(&["policy-denied", "the-culprit", identity], limit)?;
    ensure!(
        refusals()? >= before + 4.0,
        "refusals went from {before} to {}",
        refusals()?
    );
    let status = agent.status()?.to_string();
    ensure!(
        status.contains("the-culprit"),
        "status does not name the policy: {status}"
    );
    // The client's node knows that the other one refused.
    cluster
        .node(1)?
        .agent()?
        .wait_log(&["peer-denied"], limit)?;
    Ok(())
}

fn host_processes(cluster: &Cluster) -> Result<()> {
    // A kubelet makes its cgroup before the first pod.
    let group = tests::cgroup::Group::in_kubepods(cluster.run())?;
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let (near, far) = (cluster.node(2)?.host(), cluster.node(1)?.host());
    for to in scene.server.sockets(PORT) {
        must_serve(near, to).context("a probe of the pod's own node")?;
        must_refuse(far, to).context("a process of another node is plaintext from outside")?;
        must_refuse(&scene.outsider, to)?;
    }
    let accepted = server.accepted();
    for to in scene.server.sockets(PORT) {
        // bash ends with code 0 only when the server echoed.
        let script = format!(
            "bash -c 'exec 3<>/dev/tcp/{}/{} && echo hello >&3 && read -t 3 line <&3 && [ $line = hello ]'",
            to.ip(),
            to.port()
        );
        let answered = group.check(near, &script);
        ensure!(
            answered.is_err(),
            "a pod of the host network passed for a probe of {to}"
        );
        near.check(&["sh", "-c", &script])
            .context("the same program as a probe")?;
    }
    ensure!(
        server.accepted() == accepted + 2,
        "a hostNetwork pod reached the application"
    );
    Ok(())
}
