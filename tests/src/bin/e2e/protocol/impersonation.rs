//! T-IMP: nobody is taken for somebody else.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::destination::listen;
use super::{APP_PORT, NAMESPACE, Scene, refused};
use tests::Cluster;
use tests::manifests::authorization_policy;
use tests::peer::spiffe;
use tests::traffic::{must_refuse, must_serve};
use tests::{Pod, PodSpec};

/// A port that exists only behind the peer's tunnel.
const PORT: u16 = 9090;

/// T-IMP-1: a source's identity is that of the namespace its socket lives in, whatever address it
/// uses.
pub(super) fn follows_the_namespace(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    listen(&scene)?;
    let (client, neighbour) = (spiffe(NAMESPACE, "client"), spiffe(NAMESPACE, "neighbour"));
    for to in scene.caller.sockets(PORT) {
        ensure!(
            seen_from(&scene, &scene.client, to)? == client,
            "the client's identity"
        );
        ensure!(
            seen_from(&scene, &scene.neighbour, to)? == neighbour,
            "the neighbour's identity"
        );
    }
    claimed_address_is_refused(&scene)?;
    // The neighbour goes, and the client takes its addresses.
    let [v4, v6] = scene.neighbour.ips();
    scene.neighbour.delete()?;
    cluster.settle()?;
    scene.client.ip(&[
        format!("addr add {v4}/24 dev eth0"),
        format!("addr add {v6}/64 dev eth0 nodad"),
        // Also as the address that new sockets use.
        format!("route replace default via 10.67.2.1 src {v4}"),
        format!("route replace default via fd00:67:2::1 src {v6}"),
    ])?;
    // The node's own table still has the former owner's link address.
    cluster.node(2)?.host().ip(&["neigh flush dev cni0"])?;
    for to in scene.caller.sockets(PORT) {
        ensure!(
            seen_from(&scene, &scene.client, to)? == client,
            "with another pod's address"
        );
    }
    Ok(())
}

/// An ADD that names another pod's address for a namespace that does not hold it.
fn claimed_address_is_refused(scene: &Scene<'_>) -> Result<()> {
    let node = scene.cluster.node(2)?;
    let stranger = scene
        .cluster
        .pod(&PodSpec::new(NAMESPACE, "stranger").on(2).outside())?;
    let mut sandbox = stranger.sandbox().clone();
    sandbox.arguments.clear();
    let claimed = scene.neighbour.ips();
    ensure!(
        node.chain().call_last("ADD", &sandbox, &claimed).is_err(),
        "a namespace was enrolled under addresses it does not hold"
    );
    // The owner is as it was.
    must_serve(&scene.neighbour, scene.target.sockets(APP_PORT)[0])
}

/// T-IMP-2: the address is right, the server is not; it gets no byte of payload.
pub(super) fn wrong_server(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    // A neighbour of the peer on its node, whose certificate the node may hold.
    let other = cluster.pod(&PodSpec::new(NAMESPACE, "other").on(1).outside())?;
    cluster.settle()?;
    scene.join("other", "other")?;
    super::malformed::forge_credentials(&scene)?;
    listen(&scene)?;
    for to in scene.caller.sockets(PORT) {
        present(&scene, "me")?;
        must_serve(&scene.client, to).context("the right server")?;
        for wrong in ["other", "other-root", "expired", "other-domain", "nameless"] {
            present(&scene, wrong)?;
            must_refuse(&scene.client, to).with_context(|| format!("a server with {wrong}"))?;
            nothing_arrived(&scene, wrong)?;
        }
        present(&scene, "other")?;
        scene.log_has(&["reason=\"peer-identity-mismatch\"", &to.to_string()])?;
    }
    present(&scene, "me")?;
    must_serve(&scene.client, scene.caller.sockets(PORT)[0]).context("the right server again")?;
    other.delete()
}

/// Shows other credentials from now on, and ends the tunnels that know the earlier ones.
fn present(scene: &Scene<'_>, cert: &str) -> Result<()> {
    let trust = "me";
    scene
        .peer
        .must(&json!({ "op": "present", "name": "server", "cert": cert, "trust": trust }))?;
    scene
        .peer
        .must(&json!({ "op": "drop", "name": "server" }))?;
    std::thread::sleep(Duration::from_millis(200));
    scene.peer.forget("server")
}

fn nothing_arrived(scene: &Scene<'_>, who: &str) -> Result<()> {
    let dialled = |event: &Value| event["event"] == "tcp";
    scene.peer.wait_event("server", "the dial", dialled)?;
    // The alert that tells a server that its certificate is the wrong one.
    let told = |event: &Value| {
        let error = event["error"].as_str().or(event["why"].as_str());
        error.is_some_and(|error| error.contains("ALERT"))
    };
    let event = scene.peer.wait_event("server", "an alert", told)?;
    if who == "other" {
        let error = event["error"].as_str().or(event["why"].as_str());
        let known = error.is_some_and(|error| error.contains("CERTIFICATE_UNKNOWN"));
        ensure!(known, "an identity that is not expected: {event}");
    }
    for event in scene.peer.events("server")? {
        let payload = event["received"].as_u64().unwrap_or_default();
        ensure!(
            event["event"] != "request" && payload == 0,
            "{who} got something: {event}"
        );
    }
    Ok(())
}

/// T-IMP-4: one namespace is first one pod, then another; tunnels of the first are not used for
/// the second.
pub(super) fn two_accounts(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    listen(&scene)?;
    let first = cluster.pod(&PodSpec::new(NAMESPACE, "before").on(2))?;
    cluster.settle()?;
    let target = scene.caller.sockets(PORT);
    for to in target {
        let seen = seen_from(&scene, &first, to)?;
        ensure!(seen == spiffe(NAMESPACE, "before"), "at first: {seen}");
    }
    let chain = first.node().chain();
    chain.call_last("DEL", first.sandbox(), &first.ips())?;
    cluster.manifests().account(NAMESPACE, "after")?;
    let mut sandbox = first.sandbox().clone();
    sandbox.name = "after".to_owned();
    sandbox.uid = fs::read_to_string("/proc/sys/kernel/random/uuid")?
        .trim()
        .to_owned();
    first.update(|manifest| {
        manifest.name.clone_from(&sandbox.name);
        manifest.uid.clone_from(&sandbox.uid);
        "after".clone_into(&mut manifest.account);
    })?;
    cluster
        .manifests()
        .remove(&format!("pod-{NAMESPACE}-before"))?;
    cluster.settle()?;
    chain.call_last("ADD", &sandbox, &first.ips())?;
    for to in target {
        let seen = seen_from(&scene, &first, to)?;
        ensure!(
            seen == spiffe(NAMESPACE, "after"),
            "with the second account: {seen}"
        );
    }
    chain.call_last("DEL", &sandbox, &first.ips()).map(drop)
}

/// T-IMP-3: what a peer writes in headers decides nothing.
pub(super) fn forged_headers(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    let rules = format!(
        "[{{from: [{{source: {{principals: [\"{}/ns/{NAMESPACE}/sa/client\"]}}}}]}}]",
        tests::TRUST_DOMAIN
    );
    let policy = authorization_policy(NAMESPACE, "only-client", "ALLOW", Some("target"), &rules);
    cluster.apply("protocol-only-client", &policy)?;
    for (ip, client) in scene.target.ips().into_iter().zip(scene.client.ips()) {
        let connection = format!("forged-{ip}");
        scene.dial(&connection, ip)?;
        let own = SocketAddr::new(ip, APP_PORT).to_string();
        must_serve(&scene.client, SocketAddr::new(ip, APP_PORT)).context("the real client")?;
        for headers in forgeries(client) {
            let answer = scene.peer.must(&json!({
                "op": "connect", "conn": connection, "authority": own, "headers": headers,
            }))?;
            ensure!(
                refused(&answer) && answer["status"] == "401",
                "{headers}: {answer}"
            );
        }
    }
    cluster.unapply("protocol-only-client")?;
    // Without the policy the same headers do no harm, and the application sees the real address.
    let ip = scene.target.ips()[0];
    let connection = format!("forged-{ip}");
    let answer = scene.peer.must(&json!({
        "op": "connect", "conn": connection, "headers": forgeries(scene.client.ips()[0])[0],
        "authority": SocketAddr::new(ip, APP_PORT).to_string(),
    }))?;
    ensure!(answer["status"] == "200", "{answer}");
    let seen = scene.app.peers().last().copied().context("nobody came")?;
    ensure!(
        seen.ip() == scene.caller.ips()[0],
        "the application saw {seen}"
    );
    Ok(())
}

fn forgeries(client: std::net::IpAddr) -> Vec<Value> {
    let uri = spiffe(NAMESPACE, "client");
    let source = SocketAddr::new(client, 40000);
    vec![
        json!([
            [
                "baggage",
                "k8s.cluster.name=Kubernetes,k8s.namespace.name=protocol,k8s.pod.name=client"
            ],
            ["forwarded", format!("for=\"{source}\"")]
        ]),
        json!([
            ["x-forwarded-client-cert", format!("URI={uri}")],
            ["x-forwarded-for", client.to_string()]
        ]),
        json!([
            ["x-forwarded-network", "other"],
            ["x-istio-source", "waypoint"]
        ]),
        json!([
            ["forwarded", "for=\"[::1\";host=;;;=,"],
            ["baggage", ",,,=,=="],
            ["traceparent", "x"]
        ]),
    ]
}

/// The identity the peer's server sees when a pod dials it.
fn seen_from(scene: &Scene<'_>, pod: &Pod, to: SocketAddr) -> Result<String> {
    // Only a new tunnel tells; and no tunnel of an earlier one may be left.
    present(scene, "me")?;
    must_serve(pod, to)?;
    let tls = scene
        .peer
        .wait_event("server", "a tunnel", |event| event["event"] == "tls")?;
    match tls["identities"].as_array().map(Vec::as_slice) {
        Some([Value::String(identity)]) => Ok(identity.clone()),
        _ => bail!("a tunnel to {to} without one identity: {tls}"),
    }
}
