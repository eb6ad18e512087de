//! A ztunnel's streams: what a refusal, a subscription by name, a lost stream and a bad token lead
//! to.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{discover, facts, known, wait_known};
use tests::leak::Baseline;
use tests::manifests::{ServiceSpec, authorization_policy};
use tests::peer::{Peer, spiffe};
use tests::{Cluster, ClusterSpec, PodSpec};

use crate::run_name;

/// Namespace of the pods here.
const NAMESPACE: &str = "streams";
const POLICY: &str = "streams/guard";
/// Of an Istio installation's ztunnel, and of the audience of its tokens.
const SYSTEM: &str = "istio-system";
const AUDIENCE: &str = "istio-ca";

/// One ztunnel that is sent everything, one that asks by name.
pub(super) fn streams(cluster: &Cluster) -> Result<()> {
    cluster.manifests().namespace(NAMESPACE, Some(true))?;
    let near = cluster.pod(&PodSpec::new(NAMESPACE, "near"))?;
    let far = cluster.pod(&PodSpec::new(NAMESPACE, "far").on(2))?;
    let service = cluster.service(&ServiceSpec::new(NAMESPACE, "far", 80))?;
    let guard = authorization_policy(NAMESPACE, "guard", "ALLOW", Some("far"), "[{}]");
    cluster.apply("guard", &guard)?;
    let peer = Peer::start(cluster.run(), cluster.control()?.place(), "ztunnel")?;
    refusals(cluster, &peer)?;
    on_demand(cluster, &peer, &service.v4.to_string())?;
    near.delete()?;
    far.delete()
}

/// A refused resource holds up neither the others nor its own next version, is told to the
/// operator, and is sent again on the next stream, which repeats nothing else.
fn refusals(cluster: &Cluster, peer: &Peer) -> Result<()> {
    discover(cluster, peer, "all", 1, false)?;
    let (near, far) = (uid("near"), uid("far"));
    let told = known(peer, "all", &[&near, &far, POLICY])?;
    ensure!(told["failure"].is_null(), "{told}");
    peer.must(&json!({ "op": "refuse", "name": "all", "names": [POLICY] }))?;
    let changed = authorization_policy(NAMESPACE, "guard", "DENY", Some("far"), "[{}]");
    cluster.apply("guard", &changed)?;
    let told = wait_known(peer, json!({ "name": "all", "rejected": [POLICY] }))?;
    ensure!(
        told["failure"].is_null(),
        "a refusal ended the stream: {told}"
    );
    let late = cluster.pod(&PodSpec::new(NAMESPACE, "late"))?;
    known(peer, "all", &[&uid("late")]).context("after a refusal")?;
    peer.must(&json!({ "op": "refuse", "name": "all", "names": [] }))?;
    cluster.apply("guard", &changed.replace("[{}]", "[]"))?;
    let told = known(peer, "all", &[POLICY]).context("the version after the refused one")?;
    ensure!(told["rejected"] == json!({}), "{told}");
    // Refused again, and the stream is lost.
    peer.must(&json!({ "op": "refuse", "name": "all", "names": [POLICY] }))?;
    cluster.apply("guard", &changed)?;
    wait_known(peer, json!({ "name": "all", "rejected": [POLICY] }))?;
    peer.must(&json!({ "op": "refuse", "name": "all", "names": [] }))?;
    late.delete()?;
    known_without(peer, "all", &uid("late"))?;
    peer.must(&json!({ "op": "rediscover", "name": "all", "abort": true }))?;
    let told = known(peer, "all", &[POLICY]).context("after a lost stream")?;
    ensure!(told["rejected"] == json!({}), "{told}");
    let sent = names_sent(&told);
    ensure!(sent.contains(&POLICY.to_owned()), "sent: {sent:?}");
    ensure!(!sent.contains(&near), "sent again: {sent:?}");
    peer.must(&json!({ "op": "undiscover", "name": "all" }))
        .map(drop)
}

/// Who asks by name is sent its own node's workloads, what it asks for with what belongs to it,
/// and is told what does not exist.
fn on_demand(cluster: &Cluster, peer: &Peer, vip: &str) -> Result<()> {
    discover(cluster, peer, "some", 1, true)?;
    let (near, far) = (uid("near"), uid("far"));
    let service = format!("{NAMESPACE}/far.{NAMESPACE}.svc.cluster.local");
    let told = known(peer, "some", &[&near, POLICY])?;
    ensure!(
        told["addresses"].get(&far).is_none(),
        "sent unasked: {told}"
    );
    let ask = json!({ "op": "subscribe", "name": "some", "names": [format!("/{vip}")] });
    peer.must(&ask)?;
    let told = known(peer, "some", &[&service, &far])?;
    let alias = format!("/{vip}");
    let has_alias = told["responses"].to_string().contains(&alias);
    ensure!(has_alias, "the answer does not say what {alias} is: {told}");
    let nobody = "/192.0.2.1";
    peer.must(&json!({ "op": "subscribe", "name": "some", "names": [nobody] }))?;
    let answered = tests::poll::until("an answer", super::LIMIT, || {
        let told = known(peer, "some", &[])?;
        ensure!(
            told["not_found"] == json!([nobody]),
            "{}",
            told["not_found"]
        );
        Ok(())
    });
    answered.context("an address that nobody has")?;
    peer.must(&json!({ "op": "undiscover", "name": "some" }))
        .map(drop)
}

fn known_without(peer: &Peer, name: &str, absent: &str) -> Result<Value> {
    wait_known(peer, json!({ "name": name, "absent": [absent] }))
}

fn uid(pod: &str) -> String {
    format!("{}//Pod/{NAMESPACE}/{pod}", tests::CLUSTER_ID)
}

fn names_sent(told: &Value) -> Vec<String> {
    let responses = told["responses"].as_array().into_iter().flatten();
    let names = responses.flat_map(|response| response["names"].as_array());
    names
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// With an API server: a ztunnel as Istio installs it gets discovery and certificates by the token
/// of its pod, once the control plane is told of its account and its audience, and only those of
/// its node.
pub(super) fn pod_token() -> Result<()> {
    let run = format!("{}z", run_name());
    let spec = ClusterSpec {
        nodes: 1,
        ..ClusterSpec::new(&run).kubernetes()
    };
    let cluster = Cluster::start(&spec).context("starting the cluster")?;
    let gated = || {
        cluster.wait_connected()?;
        let baseline = Baseline::take(&cluster)?;
        admitted(&cluster)?;
        cluster.clear()?;
        baseline.wait(&cluster)
    };
    gated().inspect_err(|_| cluster.keep_logs())
}

fn admitted(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    let server = cluster.manifests().server().context("no API server")?;
    cluster.manifests().namespace(NAMESPACE, Some(true))?;
    let pod = cluster.pod(&PodSpec::new(NAMESPACE, "near"))?;
    server.put_value(json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": SYSTEM},
    }))?;
    server.put_value(json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"namespace": SYSTEM, "name": "ztunnel"},
    }))?;
    server.put_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": SYSTEM, "name": "ztunnel-n1", "labels": {"app": "ztunnel"}},
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "ztunnel",
            "containers": [{"name": "istio-proxy", "image": "ztunnel"}],
        },
        "status": {"phase": "Running"},
    }))?;
    let life = Duration::from_secs(43_200);
    let token = server.pod_token(SYSTEM, "ztunnel-n1", AUDIENCE, life)?;
    let peer = Peer::start(cluster.run(), control.place(), "ztunnel")?;
    let ask = |token: &str| {
        peer.ask(&json!({
            "op": "issue",
            "name": "me",
            "url": control.url(),
            "root": control.root_cert(),
            "token": token,
            "identity": spiffe(NAMESPACE, "near"),
            "headers": [["clusterid", tests::CLUSTER_ID]],
        }))
    };
    // Nobody said so: Culvert's own audience and account alone are admitted.
    let refused = ask(&token)?;
    ensure!(
        refused["ok"] == false,
        "a foreign account was admitted: {refused}"
    );
    let both = [
        "--token-audience=culvert,istio-ca",
        "--node-account=culvert-system/culvert-node,istio-system/ztunnel",
    ];
    control.set_extra(&both);
    control.stop()?;
    control.start()?;
    let issued = ask(&token)?;
    ensure!(issued["ok"] == true, "{issued}");
    ensure!(
        issued["uris"] == json!([spiffe(NAMESPACE, "near")]),
        "{issued}"
    );
    let other = peer.must_fail(&json!({
        "op": "issue",
        "name": "other",
        "url": control.url(),
        "root": control.root_cert(),
        "token": token,
        "identity": spiffe(NAMESPACE, "elsewhere"),
    }))?;
    ensure!(
        other.contains("grpc-status 7"),
        "an identity of no pod here: {other}"
    );
    peer.must(&json!({
        "op": "discover",
        "name": "zt",
        "url": control.url(),
        "root": control.root_cert(),
        "token": token,
        "node": facts("n1"),
    }))?;
    known(&peer, "zt", &[&uid("near")])?;
    // The agent beside it is admitted as before.
    cluster.settle()?;
    let wrong = server.pod_token(SYSTEM, "ztunnel-n1", "vault", life)?;
    ensure!(
        ask(&wrong)?["ok"] == false,
        "a token for somebody else was admitted"
    );
    pod.delete()
}
