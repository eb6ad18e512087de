//! What only a cluster shows: labels that bring running pods in and out, who gets certificates,
//! mistakes found before they matter, and an API server that is away.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::apiserver::ApiServer;
use tests::lab::{Lab, MESHED, OUTSIDE, WEB_PORT};
use tests::manifests::authorization_policy;
use tests::peer::{Peer, spiffe};
use tests::{Pod, poll};

use crate::facts::{KeepAlive, Show, must_answer};

/// Every fact, in the order shown.
pub(crate) const ALL: &[(&str, Show)] = &[
    (
        "a label brings running pods into the mesh: nothing restarts, no connection breaks",
        label,
    ),
    (
        "without the label they are outside again, and still no connection breaks",
        unlabel,
    ),
    (
        "a node gets certificates for its own pods' accounts only",
        own_certificates,
    ),
    (
        "`culvert check` finds a misspelt name in a policy",
        planted_error,
    ),
    ("without its API server the mesh goes on", no_api_server),
];

const STATUS: &str = "culvert.dev/status";
const LIMIT: Duration = Duration::from_secs(30);
const OUTSIDER: &str = "src.identity=\"spiffe://cluster.local/ns/outside/sa/outsider\"";

fn label(lab: &Lab) -> Result<String> {
    let nginx = lab.outside_app.process().pid();
    let processes = [nginx, pause(&lab.outsider)?, pause(&lab.outside_web)?];
    let before = start_times(&processes)?;
    let mut open = kept(lab)?;
    let start = Instant::now();
    lab.cluster.manifests().namespace(OUTSIDE, Some(true))?;
    for pod in [&lab.outsider, &lab.outside_web] {
        wait_status(lab, pod, Some("verified"))?;
    }
    let took = start.elapsed();
    lab.cluster.settle()?;
    for to in lab.outside_web.sockets(WEB_PORT) {
        must_answer(&lab.outsider, to)?;
    }
    let agent = lab.cluster.node(2)?.agent()?;
    agent.wait_log(&["direction=\"inbound\"", OUTSIDER], LIMIT)?;
    for connection in &mut open {
        connection.request().context("opened before the label")?;
    }
    let after = start_times(&processes)?;
    ensure!(
        before == after,
        "processes went from {before:?} to {after:?}"
    );
    Ok(format!(
        "{STATUS}: verified on both after {} ms; nginx is still process {nginx}; log: {OUTSIDER}",
        took.as_millis()
    ))
}

fn unlabel(lab: &Lab) -> Result<String> {
    let mut open = kept(lab)?;
    lab.cluster.manifests().namespace(OUTSIDE, None)?;
    for pod in [&lab.outsider, &lab.outside_web] {
        wait_status(lab, pod, None)?;
    }
    lab.cluster.settle()?;
    let agent = lab.cluster.node(2)?.agent()?;
    let listed = agent.status()?["pods"].to_string();
    ensure!(!listed.contains("outside-web"), "still captured: {listed}");
    let tunnelled = agent.log_lines(&["direction=\"inbound\"", OUTSIDER]).len();
    for to in lab.outside_web.sockets(WEB_PORT) {
        must_answer(&lab.outsider, to)?;
    }
    for connection in &mut open {
        connection.request().context("opened through the mesh")?;
    }
    let now = agent.log_lines(&["direction=\"inbound\"", OUTSIDER]).len();
    ensure!(now == tunnelled, "connections still have an identity");
    Ok(format!(
        "no {STATUS} any more, new connections are plain; {} tunnelled ones were used on",
        open.len()
    ))
}

/// One connection in each family, in use.
fn kept(lab: &Lab) -> Result<Vec<KeepAlive>> {
    let mut open = Vec::new();
    for to in lab.outside_web.sockets(WEB_PORT) {
        let mut connection = KeepAlive::open(&lab.outsider, to)?;
        connection.request()?;
        open.push(connection);
    }
    Ok(open)
}

fn pause(pod: &Pod) -> Result<u32> {
    pod.process().context("nothing runs in the pod")
}

/// When each process started, in the kernel's words.
fn start_times(pids: &[u32]) -> Result<BTreeMap<u32, String>> {
    let mut times = BTreeMap::new();
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid}"))?;
        // The name may hold anything: count from its end.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let time = rest.split_whitespace().nth(19).unwrap_or_default();
        times.insert(*pid, time.to_owned());
    }
    Ok(times)
}

fn wait_status(lab: &Lab, pod: &Pod, expected: Option<&str>) -> Result<()> {
    let manifest = pod.manifest();
    let server = api_server(lab)?;
    poll::until("the pod's annotation", LIMIT, || {
        let found = server.get("pods", &manifest.namespace, &manifest.name);
        let found = found.context("the pod is gone")?;
        let status = &found["metadata"]["annotations"][STATUS];
        ensure!(
            status.as_str() == expected,
            "{}: {STATUS} is {status}",
            manifest.name
        );
        Ok(())
    })
}

fn own_certificates(lab: &Lab) -> Result<String> {
    let node = lab.cluster.node(1)?;
    let peer = Peer::start(lab.cluster.run(), lab.outsider.place(), "demo-peer")?;
    peer.join(&lab.cluster, node, "own", MESHED, "client")?;
    let control = lab.cluster.control()?;
    let answer = peer.ask(&json!({
        "op": "issue", "name": "other", "url": control.url(), "root": control.root_cert(),
        "token_file": node.agent()?.settings().token_file, "identity": spiffe(MESHED, "web"),
    }))?;
    let error = answer["error"].as_str().context("n1 got web's identity")?;
    // gRPC status 7: PERMISSION_DENIED.
    ensure!(error.contains('7'), "{error}");
    Ok(format!(
        "n1: client's issued; web's, which runs on n2: {error}"
    ))
}

fn planted_error(lab: &Lab) -> Result<String> {
    let clean = findings(lab)?;
    ensure!(of_policy(&clean).is_empty(), "found before: {clean}");
    let rules = "[{from: [{source: {principals: [cluster.local/ns/demo/sa/clinet]}}]}]";
    let policy = authorization_policy(MESHED, "planted", "DENY", Some("web"), rules);
    lab.cluster.apply("planted", &policy)?;
    let found = findings(lab)?;
    lab.cluster.unapply("planted")?;
    let found = of_policy(&found);
    let finding = found
        .iter()
        .find(|finding| finding["code"] == "account-unknown")
        .with_context(|| format!("found only {found:?}"))?;
    let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    Ok(format!("{}: {}", text("code"), text("message")))
}

fn findings(lab: &Lab) -> Result<Value> {
    let output = lab.cluster.control()?.check(&["--json", "--strict"])?;
    let code = output.code.context("culvert check was killed")?;
    ensure!(code < 2, "culvert check: {}", output.stderr);
    serde_json::from_str(&output.stdout).context("culvert check --json")
}

fn of_policy(findings: &Value) -> Vec<&Value> {
    let all = findings["findings"].as_array().into_iter().flatten();
    all.filter(|finding| finding["object"]["name"] == "planted")
        .collect()
}

fn no_api_server(lab: &Lab) -> Result<String> {
    let server = api_server(lab)?;
    server.down()?;
    let start = Instant::now();
    let mut requests = 0;
    let result = (|| {
        while start.elapsed() < Duration::from_secs(2) {
            for to in lab.web.sockets(WEB_PORT) {
                must_answer(&lab.client, to)?;
                requests += 1;
            }
        }
        Ok(())
    })();
    server.up()?;
    result.map(|()| format!("{requests} new connections in 2 s without it, 0 errors"))
}

fn api_server(lab: &Lab) -> Result<&ApiServer> {
    let server = lab.cluster.manifests().server();
    Ok(server.context("no API server")?)
}
