//! Culvert's agents under an istiod: its discovery, its certificates (a root and an intermediate),
//! its names, its tokens. One pod of node 1 belongs to a ztunnel.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::{LIMIT, facts};
use tests::leak::Baseline;
use tests::peer::{Peer, spiffe};
use tests::server::{Behaviour, Server};
use tests::traffic::{must_refuse, must_serve};
use tests::{Cluster, ClusterSpec, Pod, PodSpec, poll};

use crate::run_name;

const NAMESPACE: &str = "shop";
const PORT: u16 = 8080;
/// Behind the ztunnel.
const BEHIND: u16 = 9090;
/// The account of the agents, which istiod is told of (`CA_TRUSTED_NODE_ACCOUNTS`).
const ACCOUNT: (&str, &str) = ("culvert-system", "culvert-node");
/// Port of an istiod that has a companion at the same address.
const BESIDE: u16 = 15112;
const REDIRECTION: &str = "ambient.istio.io/redirection";
const MESH: &str = "culvert.dev/mesh";
const STATIC_STRICT: &str = "istio-system/istio_converted_static_strict";

/// Everything that an istiod does for agents, and what it hears from them.
pub(super) fn drives_agents() -> Result<()> {
    let run = format!("{}i", run_name());
    let cluster = Cluster::start(&ClusterSpec::new(&run)).context("starting the cluster")?;
    drive(&cluster).inspect_err(|_| cluster.keep_logs())
}

fn drive(cluster: &Cluster) -> Result<()> {
    let istiod = Istiod::replaces_control(cluster)?;
    let baseline = Baseline::take(cluster)?;
    cluster.manifests().namespace(NAMESPACE, Some(true))?;
    let scene = Scene {
        client: cluster.pod(&PodSpec::new(NAMESPACE, "client"))?,
        server: cluster.pod(&PodSpec::new(NAMESPACE, "server").on(2))?,
        foreign: cluster.pod(&PodSpec::new(NAMESPACE, "foreign").outside())?,
        outsider: cluster.pod(&PodSpec::new("outside", "outsider").outside())?,
    };
    let app = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    istiod.publish(&scene, &[STATIC_STRICT], strict(), json!({}))?;
    istiod.settled(cluster, &[STATIC_STRICT])?;
    let ztunnel = ztunnel(cluster, &istiod, &scene)?;
    traffic(&scene, &ztunnel, &app)?;
    policies(cluster, &istiod, &scene)?;
    refusals(cluster, &istiod, &scene)?;
    reconnects(cluster, &istiod, &scene)?;
    spoke_as_istiod_expects(&istiod)?;
    drop(ztunnel);
    for pod in [scene.client, scene.server, scene.foreign, scene.outsider] {
        pod.delete()?;
    }
    drop(app);
    istiod.publishes_nothing()?;
    baseline.wait(cluster)
}

struct Scene {
    client: Pod,
    server: Pod,
    foreign: Pod,
    outsider: Pod,
}

/// In every family: agent to agent, agent to ztunnel, ztunnel to agent, and nobody in plaintext.
fn traffic(scene: &Scene, ztunnel: &Peer, app: &Server) -> Result<()> {
    for (family, to) in scene.server.sockets(PORT).into_iter().enumerate() {
        must_serve(&scene.client, to).context("from agent to agent")?;
        must_refuse(&scene.outsider, to).context("plaintext under STRICT")?;
        must_serve(&scene.server, scene.foreign.sockets(BEHIND)[family])
            .context("from an agent to a ztunnel")?;
        let source = scene.foreign.ips()[family];
        let connection = format!("out-{source}");
        let answer = ztunnel.must(&json!({
            "op": "carry", "name": "zt", "conn": connection, "source": source.to_string(),
            "to": [to.ip().to_string(), to.port()], "cert": "me",
        }))?;
        ensure!(
            answer["status"] == "200",
            "from a ztunnel to an agent: {answer}"
        );
        ztunnel.echo(&connection, &answer["stream"], "from ztunnel", 0)?;
        ztunnel.must(&json!({ "op": "close", "conn": connection }))?;
        ensure!(
            app.peers().last().map(SocketAddr::ip) == Some(source),
            "the application saw {:?}",
            app.peers().last()
        );
    }
    Ok(())
}

/// The ztunnel of the foreign pod: discovery, a certificate by its own account, a server.
fn ztunnel(cluster: &Cluster, istiod: &Istiod, scene: &Scene) -> Result<Peer> {
    let peer = Peer::start(cluster.run(), &scene.foreign, "ztunnel")?;
    let file = cluster.run().path("ztunnel-token");
    istiod.token(("istio-system", "ztunnel"), "ztunnel-n1", "n1", &file)?;
    let url = &istiod.url;
    peer.must(&json!({
        "op": "discover", "name": "zt", "url": url, "root": istiod.roots, "token_file": file,
        "node": facts("n1"),
    }))?;
    super::known(
        &peer,
        "zt",
        &[&uid("foreign"), &uid("server"), STATIC_STRICT],
    )?;
    peer.must(&json!({
        "op": "issue", "name": "me", "url": url, "root": istiod.roots, "token_file": file,
        "identity": spiffe(NAMESPACE, "foreign"),
        "headers": [["clusterid", tests::CLUSTER_ID]],
    }))?;
    peer.must(&json!({ "op": "listen", "name": "zt", "cert": "me" }))?;
    peer.must(&json!({ "op": "enforce", "name": "zt", "by": "zt" }))?;
    Ok(peer)
}

/// A policy comes and goes.
fn policies(cluster: &Cluster, istiod: &Istiod, scene: &Scene) -> Result<()> {
    let key = format!("{NAMESPACE}/deny-client");
    let deny = json!({
        "name": "deny-client", "namespace": NAMESPACE, "scope": "WORKLOAD_SELECTOR",
        "action": "DENY",
        "groups": [{"rules": [{"matches": [{
            "principals": [{"exact": format!("cluster.local/ns/{NAMESPACE}/sa/client")}],
        }]}]}],
    });
    let mut all = strict();
    all[&key] = deny;
    istiod.publish(scene, &[STATIC_STRICT, &key], all, json!({}))?;
    istiod.settled(cluster, &[&key])?;
    for to in scene.server.sockets(PORT) {
        must_refuse(&scene.client, to).context("a DENY that istiod sent")?;
    }
    istiod.publish(scene, &[STATIC_STRICT], strict(), json!({}))?;
    poll::until("the policy gone", LIMIT, || {
        let mut to = scene.server.sockets(PORT).into_iter();
        to.try_for_each(|to| must_serve(&scene.client, to))
    })
}

/// A resource that an agent cannot read is refused alone, by name.
fn refusals(cluster: &Cluster, istiod: &Istiod, scene: &Scene) -> Result<()> {
    let odd = json!({"workload": {
        "uid": uid("odd"), "name": "odd", "namespace": NAMESPACE,
        "addresses": ["0a430963"], "tunnel_protocol": "LEGACY_ISTIO_MTLS",
    }});
    let good = json!({"service": {
        "name": "late", "namespace": NAMESPACE, "hostname": "late.shop.svc.cluster.local",
        "addresses": [{"address": "0a600963"}], "ports": [{"service_port": 80}],
    }});
    let more = json!({ uid("odd"): odd, "shop/late.shop.svc.cluster.local": good });
    istiod.publish(scene, &[STATIC_STRICT], strict(), more)?;
    istiod.settled(cluster, &["late.shop.svc.cluster.local"])?;
    let refusal = istiod.wait_heard("a NACK", |event| {
        event["event"] == "discovery" && event["request"]["error_detail"].is_object()
    })?;
    let text = refusal["request"]["error_detail"]["message"].to_string();
    ensure!(
        text.contains(&uid("odd")) && !text.contains("late"),
        "NACK: {text}"
    );
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to).context("beside a refused resource")?;
    }
    istiod.publish(scene, &[STATIC_STRICT], strict(), json!({}))
}

/// A lost stream costs nothing: the agent says what it has and is sent what it lacks.
fn reconnects(cluster: &Cluster, istiod: &Istiod, scene: &Scene) -> Result<()> {
    istiod.settled(cluster, &[STATIC_STRICT])?;
    istiod.forget()?;
    istiod
        .peer
        .must(&json!({ "op": "hang_up", "name": "istiod" }))?;
    for node in ["n1", "n2"] {
        let again = istiod.wait_heard("a stream that is resumed", |event| {
            event["node"] == node && event["request"]["initial_resource_versions"].is_object()
        })?;
        let versions = again["request"]["initial_resource_versions"].as_object();
        let versions = versions.map_or(0, Map::len);
        ensure!(versions > 0, "{node} says that it has nothing: {again}");
    }
    for node in ["n1", "n2"] {
        let acknowledged = istiod.wait_heard("the first answer", |event| {
            event["node"] == node && event["answers"].is_object()
        })?;
        let sent = &acknowledged["answers"]["sent"];
        ensure!(*sent == json!([]), "sent to {node} again: {sent}");
    }
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to).context("after a lost stream")?;
    }
    let asked = istiod
        .heard()?
        .iter()
        .filter(|event| event["event"] == "certificate")
        .count();
    ensure!(asked == 0, "{asked} certificates were asked for again");
    Ok(())
}

/// What an istiod goes by: the node's id and metadata, headers, the form of certificate requests.
fn spoke_as_istiod_expects(istiod: &Istiod) -> Result<()> {
    for event in istiod.all_heard()? {
        let text = || format!("{event}");
        if event["event"] == "refused" {
            // An istiod has no such service, and agents live with that.
            let path = event["path"].as_str().unwrap_or_default();
            ensure!(
                path == "/culvert.node.v1.NodeService/Attach",
                "refused: {}",
                text()
            );
        }
        if event["event"] == "discovery" && event["request"]["node"].is_object() {
            let metadata = &event["request"]["node"]["metadata"];
            ensure!(metadata["NODE_NAME"] == event["node"], "{}", text());
            ensure!(metadata["CLUSTER_ID"] == tests::CLUSTER_ID, "{}", text());
        }
        if event["event"] == "certificate" && event["caller"] == "culvert-system/culvert-node" {
            ensure!(event["problem"].is_null(), "the request's form: {}", text());
            ensure!(event["clusterid"] == tests::CLUSTER_ID, "{}", text());
            ensure!(
                event["metadata"] == json!(["ImpersonatedIdentity"]),
                "{}",
                text()
            );
            ensure!(event["fields"] == json!([1, 3, 4]), "{}", text());
        }
    }
    Ok(())
}

/// Culvert's control plane as the companion of an istiod, and a cluster: labels of its API bring
/// pods into the mesh, their marks tell istiod, everything else is istiod's.
pub(super) fn with_companion() -> Result<()> {
    let run = format!("{}c", run_name());
    let spec = ClusterSpec::new(&run).kubernetes();
    let cluster = Cluster::start(&spec).context("starting the cluster")?;
    accompany(&cluster).inspect_err(|_| cluster.keep_logs())
}

fn accompany(cluster: &Cluster) -> Result<()> {
    let istiod = Istiod::beside_control(cluster)?;
    let baseline = Baseline::take(cluster)?;
    label(cluster, None)?;
    cluster.manifests().namespace("outside", None)?;
    let scene = Scene {
        client: cluster.pod(&PodSpec::new(NAMESPACE, "client"))?,
        server: cluster.pod(&PodSpec::new(NAMESPACE, "server").on(2))?,
        // Another proxy's pod, which Culvert has to leave alone.
        foreign: cluster.pod(&PodSpec::new(NAMESPACE, "foreign").label(MESH, "disabled"))?,
        outsider: cluster.pod(&PodSpec::new("outside", "outsider"))?,
    };
    let app = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    label(cluster, Some("ambient"))?;
    for pod in [&scene.client, &scene.server] {
        marked(cluster, pod, &json!("enabled")).context("labelled")?;
    }
    marked(cluster, &scene.foreign, &Value::Null)?;
    marked(cluster, &scene.outsider, &Value::Null)?;
    // What an istiod makes of the marks.
    istiod.publish(&scene, &[STATIC_STRICT], strict(), json!({}))?;
    istiod.settled(cluster, &[STATIC_STRICT])?;
    let ztunnel = ztunnel(cluster, &istiod, &scene)?;
    traffic(&scene, &ztunnel, &app)?;
    only_enrolment(cluster, &ztunnel)?;
    label(cluster, Some("none"))?;
    for pod in [&scene.client, &scene.server] {
        marked(cluster, pod, &Value::Null).context("no longer labelled")?;
    }
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.outsider, to).context("nothing of the mesh is left")?;
    }
    label(cluster, Some("ambient"))?;
    for pod in [&scene.client, &scene.server] {
        marked(cluster, pod, &json!("enabled")).context("labelled again")?;
    }
    drop(ztunnel);
    for pod in [scene.client, scene.server, scene.foreign, scene.outsider] {
        pod.delete()?;
    }
    drop(app);
    istiod.publishes_nothing()?;
    baseline.wait(cluster)
}

/// The namespace's label, as users of Istio write it.
fn label(cluster: &Cluster, mode: Option<&str>) -> Result<()> {
    let labels = mode.map_or_else(String::new, |mode| {
        format!("\n  labels:\n    istio.io/dataplane-mode: {mode}")
    });
    let yaml = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}{labels}\n");
    cluster
        .manifests()
        .write(&format!("namespace-{NAMESPACE}"), &yaml)
}

/// Waits for the mark that istiod goes by.
fn marked(cluster: &Cluster, pod: &Pod, mark: &Value) -> Result<()> {
    let server = cluster.manifests().server().context("no API server")?;
    let manifest = pod.manifest();
    let what = format!("{} marked {mark}", manifest.name);
    poll::until(&what, LIMIT, || {
        let object = server.get("pods", &manifest.namespace, &manifest.name);
        let object = object.context("no such pod")?;
        let annotations = &object["metadata"]["annotations"];
        ensure!(annotations[REDIRECTION] == *mark, "{annotations}");
        Ok(())
    })
}

/// The companion issues nothing, discovers nothing, and leaves other namespaces' ConfigMaps alone.
fn only_enrolment(cluster: &Cluster, peer: &Peer) -> Result<()> {
    let control = cluster.control()?;
    let token_file = cluster.node(1)?.directory().join("token");
    let refused = peer.must_fail(&json!({
        "op": "issue", "name": "other", "url": control.url(), "root": control.root_cert(),
        "token_file": token_file, "identity": spiffe(NAMESPACE, "client"),
    }))?;
    ensure!(
        refused.contains("grpc-status 12"),
        "certificates: {refused}"
    );
    peer.must(&json!({
        "op": "discover", "name": "other", "url": control.url(), "root": control.root_cert(),
        "token_file": token_file, "node": facts("n1"),
    }))?;
    poll::until("discovery refused", LIMIT, || {
        let told = peer.must(&json!({ "op": "known", "name": "other", "wait": 1 }))?;
        let failure = told["failure"].as_str().unwrap_or_default();
        ensure!(failure.starts_with("12:"), "discovery: {told}");
        Ok(())
    })?;
    let server = cluster.manifests().server().context("no API server")?;
    let map = server.get("configmaps", NAMESPACE, "culvert-ca-root-cert");
    ensure!(map.is_none(), "the companion's root in a foreign namespace");
    Ok(())
}

/// A control plane as istiod is one.
pub(super) struct Istiod {
    pub(super) peer: Peer,
    roots: PathBuf,
    url: String,
    /// What was heard and cleared.
    earlier: Mutex<Vec<Value>>,
}

impl Istiod {
    /// Takes the place of a cluster's control plane; every agent is started anew under it.
    pub(super) fn replaces_control(cluster: &Cluster) -> Result<Self> {
        let control = cluster.control()?;
        control.stop()?;
        let istiod = Self::start(cluster, agent_model::CONTROL_PORT)?;
        for node in cluster.nodes() {
            let agent = node.agent()?;
            agent.stop()?;
            istiod.adopts(cluster, node.number())?;
            agent.start_ready()?;
        }
        Ok(istiod)
    }

    /// Stands beside a cluster's control plane, which becomes its companion; every agent is
    /// started anew under both.
    fn beside_control(cluster: &Cluster) -> Result<Self> {
        let control = cluster.control()?;
        control.set_extra(&["--companion"]);
        control.stop()?;
        control.start()?;
        let istiod = Self::start(cluster, BESIDE)?;
        for node in cluster.nodes() {
            let agent = node.agent()?;
            agent.stop()?;
            let (roots, token) = (control.root_cert(), agent.settings().token_file);
            agent.change(|settings| {
                settings.extra.extend([
                    format!("--enrolment-address={}", control.url()),
                    format!("--enrolment-root-cert={}", roots.display()),
                    format!("--enrolment-token-file={}", token.display()),
                ]);
            });
            istiod.adopts(cluster, node.number())?;
            agent.start_ready()?;
        }
        Ok(istiod)
    }

    /// Starts one where the cluster's control plane runs.
    pub(super) fn start(cluster: &Cluster, port: u16) -> Result<Self> {
        let control = cluster.control()?;
        let peer = Peer::start(cluster.run(), control.place(), "istiod")?;
        let address = tests::topology::underlay(tests::topology::CONTROL_HOST).v4;
        let roots = cluster.run().path("istio-root-cert.pem");
        peer.must(&json!({
            "op": "istiod", "name": "istiod",
            "names": ["istiod.istio-system.svc", address.to_string()],
            "accounts": ["istio-system/ztunnel", format!("{}/{}", ACCOUNT.0, ACCOUNT.1)],
            "root_file": roots, "port": port,
        }))?;
        let earlier = Mutex::default();
        Ok(Self {
            peer,
            roots,
            earlier,
            url: format!("https://{address}:{port}"),
        })
    }

    /// Gives an agent its roots and a token of its pod; they hold from the agent's next start.
    pub(super) fn adopts(&self, cluster: &Cluster, node: u8) -> Result<()> {
        let node = cluster.node(node)?;
        let file = node.directory().join("istio-token");
        self.token(
            ACCOUNT,
            &format!("culvert-node-{}", node.name()),
            &node.name(),
            &file,
        )?;
        node.agent()?.change(|settings| {
            settings.root_cert = self.roots.clone();
            settings.token_file = file;
            settings.control = self.url.clone();
        });
        Ok(())
    }

    fn token(
        &self,
        (namespace, account): (&str, &str),
        pod: &str,
        node: &str,
        file: &Path,
    ) -> Result<()> {
        self.peer
            .must(&json!({
                "op": "token", "name": "istiod", "file": file, "namespace": namespace,
                "account": account, "pod": pod, "node": node,
            }))
            .map(drop)
    }

    /// Offers the scene, its pods being under the policies `keys`, with these policies and `more`.
    fn publish(&self, scene: &Scene, keys: &[&str], policies: Value, more: Value) -> Result<()> {
        let mut addresses = json!({});
        let mut pods = Vec::new();
        for (pod, name, node) in [
            (&scene.client, "client", "n1"),
            (&scene.server, "server", "n2"),
            (&scene.foreign, "foreign", "n1"),
        ] {
            addresses[uid(name)] = workload(name, node, &pod.ips(), keys);
            pods.push(json!([node, NAMESPACE, name]));
        }
        if let (Some(all), Value::Object(more)) = (addresses.as_object_mut(), more) {
            all.extend(more);
        }
        self.peer
            .must(&json!({
                "op": "publish", "name": "istiod", "addresses": addresses, "policies": policies,
                "pods": pods,
            }))
            .map(drop)
    }

    fn publishes_nothing(&self) -> Result<()> {
        self.peer
            .must(&json!({
                "op": "publish", "name": "istiod", "addresses": {}, "policies": {}, "pods": [],
            }))
            .map(drop)
    }

    /// Waits until every agent knows these names.
    fn settled(&self, cluster: &Cluster, names: &[&str]) -> Result<()> {
        for node in cluster.nodes() {
            poll::until("what istiod sent", LIMIT, || {
                let dump = node.agent()?.config_dump()?.to_string();
                for name in names {
                    // A policy's key is written in two fields there.
                    let last = name.rsplit('/').next().unwrap_or(name);
                    ensure!(dump.contains(last), "{name} is not there");
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn heard(&self) -> Result<Vec<Value>> {
        let answer = self
            .peer
            .must(&json!({ "op": "heard", "name": "istiod" }))?;
        Ok(answer["events"].as_array().cloned().unwrap_or_default())
    }

    fn all_heard(&self) -> Result<Vec<Value>> {
        let earlier = self
            .earlier
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        Ok([earlier.clone(), self.heard()?].concat())
    }

    fn forget(&self) -> Result<()> {
        let wish = json!({ "op": "heard", "name": "istiod", "clear": true });
        let heard = self.peer.must(&wish)?["events"].take();
        let mut earlier = self
            .earlier
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        earlier.extend(heard.as_array().cloned().unwrap_or_default());
        Ok(())
    }

    fn wait_heard(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        poll::until(what, Duration::from_secs(20), || {
            let events = self.heard()?;
            let found = events.iter().find(|event| wanted(event)).cloned();
            found.with_context(|| format!("not among {events:?}"))
        })
    }
}

/// A pod as istiod describes one that is captured: defaults are left out.
fn workload(name: &str, node: &str, ips: &[IpAddr], policies: &[&str]) -> Value {
    let addresses: Vec<String> = ips.iter().map(hexadecimal).collect();
    json!({"workload": {
        "uid": uid(name), "name": name, "namespace": NAMESPACE, "service_account": name,
        "addresses": addresses, "tunnel_protocol": "HBONE", "node": node,
        "canonical_name": name, "canonical_revision": "latest", "workload_type": "POD",
        "workload_name": name, "cluster_id": tests::CLUSTER_ID,
        "authorization_policies": policies,
        "locality": {"region": "here", "zone": "zone-1"},
    }})
}

fn hexadecimal(ip: &IpAddr) -> String {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    octets.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn uid(name: &str) -> String {
    format!("{}//Pod/{NAMESPACE}/{name}", tests::CLUSTER_ID)
}

/// What istiod makes of STRICT.
fn strict() -> Value {
    json!({ STATIC_STRICT: {
        "name": "istio_converted_static_strict", "namespace": "istio-system",
        "scope": "WORKLOAD_SELECTOR", "action": "DENY",
        "groups": [{"rules": [{"matches": [{"not_principals": [{"presence": {}}]}]}]}],
    }})
}
