//! One root follows another under traffic, on a cluster of its own: an issuer in the Secret as
//! cert-manager writes it, acknowledgements by the agents, and a holder of the old root's key.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agent_model::HBONE_PORT;
use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tests::apiserver::ApiServer;
use tests::control::Control;
use tests::peer::{Peer, spiffe};
use tests::server::{Behaviour, Server};
use tests::traffic::{Outcome, attempt, echo_on};
use tests::{Cluster, ClusterSpec, Pod, poll};

use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, alone, run_name};

pub(crate) const CASES: &[Case] = &[alone(
    "trust: F-25 a root is replaced under traffic, and the old one counts no longer",
    replaced,
)];

/// Leaves are renewed every three seconds: both roots sign some.
const TTL: Duration = Duration::from_secs(6);
const LIMIT: Duration = Duration::from_secs(20);
const SYSTEM: &str = "culvert-system";
const SECRET: &str = "culvert-ca";

fn replaced() -> Result<()> {
    let run = format!("{}r", run_name());
    let spec = ClusterSpec::new(&run).kubernetes().certificate_ttl(TTL);
    let cluster = Cluster::start(&spec).context("starting the cluster")?;
    under_traffic(&cluster).inspect_err(|_| cluster.keep_logs())
}

fn under_traffic(cluster: &Cluster) -> Result<()> {
    let server = cluster.manifests().server().context("no API server")?;
    let control = cluster.control()?;
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let old = Holder::of_old_root(cluster, server, &scene)?;
    let trust = trust(control)?;
    ensure!(
        trust["stage"] == "single" && trust["source"] == "secret-generated",
        "at first: {trust}"
    );
    let load = Load::default();
    let (load, client) = (&load, &scene.client);
    thread::scope(|scope| {
        let running: Vec<_> = scene
            .server
            .sockets(PORT)
            .into_iter()
            .flat_map(|to| {
                [
                    scope.spawn(move || load.new_connections(client, to)),
                    scope.spawn(move || load.one_connection(client, to)),
                ]
            })
            .collect();
        let outcome = rotate(control, server, &trust);
        load.stop.store(true, Ordering::SeqCst);
        for one in running {
            one.join()
                .map_err(|_| anyhow::anyhow!("a load panicked"))??;
        }
        outcome
    })?;
    let served = load.served.load(Ordering::SeqCst);
    println!("  {served} connections and two long ones, none failed");
    ensure!(served > 200, "only {served} connections were made");
    old.counts_no_longer(cluster, &scene)
}

/// The new issuer comes, is trusted, signs, and the old one goes.
fn rotate(control: &Control, server: &ApiServer, before: &Value) -> Result<()> {
    let start = Instant::now();
    let old = &before["roots"][0]["fingerprint"];
    let (certificate, key) = new_root()?;
    server.put_value(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": SECRET, "namespace": SYSTEM},
        "data": {
            "tls.crt": STANDARD.encode(&certificate), "tls.key": STANDARD.encode(key),
            "ca.crt": STANDARD.encode(&certificate),
        },
    }))?;
    let roots = |trust: &Value| trust["roots"].as_array().map_or(0, Vec::len);
    let both = stage(control, "distributing")?;
    ensure!(
        roots(&both) == 2 && both["roots"][0]["fingerprint"] == *old,
        "while the new one is distributed: {both}"
    );
    let text = control.verb(&["status"])?;
    // By now it may be a step further.
    let shown = ["next  ", "retiring  "]
        .iter()
        .any(|role| text.contains(role));
    ensure!(
        text.contains("Issuer") && shown,
        "the rotation is not shown:\n{text}"
    );
    let signs = stage(control, "retiring")?;
    ensure!(
        roots(&signs) == 2 && signs["roots"][0]["fingerprint"] != *old,
        "when the new one signs: {signs}"
    );
    let after = stage(control, "single")?;
    ensure!(
        roots(&after) == 1 && after["roots"][0]["fingerprint"] != *old,
        "at the end: {after}"
    );
    // The agents have it from their stream, the kubelet's file is none of their business.
    poll::until("acknowledged by every node", LIMIT, || {
        let status = control.status()?;
        let agents: Vec<_> = (status["nodes"].as_array().into_iter().flatten())
            .map(|node| &node["agents"][0]["trustBundle"])
            .collect();
        let all = agents.len() == 2 && agents.iter().all(|hash| **hash == after["bundle"]);
        ensure!(all, "agents trust {agents:?}: {}", status["trust"]);
        Ok(())
    })?;
    println!("  replaced in {:?}", start.elapsed());
    Ok(())
}

/// Waits for a stage, while the kubelet keeps the agents' file of roots up to date.
fn stage(control: &Control, wanted: &str) -> Result<Value> {
    poll::until(wanted, Duration::from_secs(30), || {
        control.mount_bundle()?;
        let trust = trust(control)?;
        ensure!(trust["stage"] == wanted, "{trust}");
        Ok(trust)
    })
}

fn trust(control: &Control) -> Result<Value> {
    Ok(control.status()?["trust"].clone())
}

/// A root and its key, PEM.
fn new_root() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.distinguished_name
        .push(DnType::CommonName, "the next root");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((root.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Connections of which none may fail.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    served: AtomicU64,
}

impl Load {
    fn new_connections(&self, from: &Pod, to: SocketAddr) -> Result<()> {
        while !self.stop.load(Ordering::SeqCst) {
            match attempt(from, to, Duration::from_secs(5))? {
                Outcome::Served => self.served.fetch_add(1, Ordering::SeqCst),
                other => bail!("a new connection to {to}: {other:?}"),
            };
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn one_connection(&self, from: &Pod, to: SocketAddr) -> Result<()> {
        let mut stream = from.connect(to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        while !self.stop.load(Ordering::SeqCst) {
            echo_on(&mut stream, b"still here").with_context(|| format!("a connection to {to}"))?;
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Somebody with the key of the old root, who has made a certificate for longer than the control
/// plane would, and has a tunnel open with it.
struct Holder {
    peer: Peer,
    to: SocketAddr,
    application: String,
}

impl Holder {
    fn of_old_root(cluster: &Cluster, server: &ApiServer, scene: &Scene) -> Result<Self> {
        let secret = server.get("secrets", SYSTEM, SECRET);
        let secret = secret.context("no Secret of the issuer")?;
        let mut files = Vec::new();
        for name in ["tls.crt", "tls.key"] {
            let text = secret["data"][name].as_str().context("not in the Secret")?;
            let file = cluster.run().path(format!("old-{name}"));
            fs::write(&file, STANDARD.decode(text)?)?;
            files.push(file);
        }
        let peer = Peer::start(cluster.run(), scene.outsider.place(), "old-root")?;
        peer.join(cluster, cluster.node(1)?, "first", MESHED, "client")?;
        peer.must(&json!({
            "op": "authority", "name": "old", "certificate": files[0], "key": files[1],
        }))?;
        peer.must(&json!({
            "op": "forge", "name": "forged", "authority": "old", "trust": "first",
            "uris": [spiffe(MESHED, "client")],
        }))?;
        let holder = Self {
            peer,
            to: scene.server.sockets(HBONE_PORT)[0],
            application: scene.server.sockets(PORT)[0].to_string(),
        };
        holder.peer.dial("kept", holder.to, "forged")?;
        let answer = holder.peer.connect("kept", &holder.application)?;
        ensure!(answer["status"] == "200", "with the old root: {answer}");
        Ok(holder)
    }

    /// No new connection, and nothing new on the one that is open.
    fn counts_no_longer(&self, cluster: &Cluster, scene: &Scene) -> Result<()> {
        self.peer
            .join(cluster, cluster.node(1)?, "second", MESHED, "client")?;
        let dial = |cert: &str| {
            json!({
                "op": "dial", "conn": cert, "cert": cert, "trust": "second",
                "to": [self.to.ip().to_string(), self.to.port()],
            })
        };
        self.peer.must(&dial("second")).context("the new root")?;
        let error = self.peer.must_fail(&dial("forged"))?;
        ensure!(
            error.to_uppercase().contains("UNKNOWN_CA"),
            "not refused for its root: {error}"
        );
        let connect = json!({
            "op": "connect", "conn": "kept", "authority": self.application,
        });
        let answer = self.peer.ask(&connect)?;
        ensure!(
            answer["status"] != "200",
            "a new stream in a tunnel of the old root: {answer}"
        );
        for to in scene.server.sockets(PORT) {
            tests::traffic::must_serve(&scene.client, to)?;
        }
        Ok(())
    }
}
