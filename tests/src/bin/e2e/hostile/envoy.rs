//! F-79 beside another gateway: with the same routes and the same policy, whatever an Envoy does not let
//! through to the guarded place must not get there by ours.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::apps::SECRET;
use tests::process::Process;
use tests::{Cluster, ClusterSpec, Pod, PodSpec, poll, programs};

use super::corpus::paths;
use super::{LISTEN, PATIENCE, Scene, Target};
use crate::run_name;
use crate::scene::{MESHED, PORT};

/// Requests that ours lets through and Envoy refuses, by what is in their targets, and why that is no way round a
/// policy: what is matched, judged and forwarded has one form, and servers see that.
const KNOWN: &[(&str, &str)] = &[
    ("#", "ours cuts the fragment off, and nobody sees it"),
    (
        "/public/\\xef\\xbc\\x8e\\xef\\xbc\\x8e/secret/key",
        "UTF-8 that no server takes for dots passes ours as it is",
    ),
];

/// Needs Envoy below the target folder, where `cargo xtask test --long` puts it.
pub(super) fn beside_envoy() -> Result<()> {
    let run = format!("{}y", run_name());
    let cluster = Cluster::start(&ClusterSpec::new(&run)).context("starting the cluster")?;
    compare(&cluster).inspect_err(|_| cluster.keep_logs())
}

fn compare(cluster: &Cluster) -> Result<()> {
    let scene = Scene::start(cluster, "/", POLICY)?;
    let unmeshed = PodSpec::new(MESHED, "envoy").label("culvert.dev/mesh", "disabled");
    let pod = cluster.pod(&unmeshed.outside())?;
    let _envoy = start(cluster, &scene, &pod)?;
    let theirs = pod.sockets(LISTEN)[0];
    for (_, witness) in &scene.backends {
        let target = Target::new(&scene, witness);
        let other = Target {
            gateway: theirs,
            ..Target::new(&scene, witness)
        };
        let head = format!(
            "HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            target.host
        );
        for gateway in [&target, &other] {
            poll::until("routes and policy", Duration::from_secs(20), || {
                let served = gateway.send(format!("GET /public/ready {head}").as_bytes())?;
                ensure!(status(&served) == Some(200), "{served:?}");
                let refused = gateway.send(format!("GET /secret/key {head}").as_bytes())?;
                ensure!(status(&refused) == Some(403), "{refused:?}");
                Ok(())
            })?;
        }
        side_by_side(&target, &other).with_context(|| target.host.clone())?;
    }
    Ok(())
}

/// Sends everything to both.
fn side_by_side(ours: &Target<'_>, theirs: &Target<'_>) -> Result<()> {
    let (mut requests, mut leaks) = (0, 0);
    let mut differences = BTreeMap::new();
    for request in paths(&ours.host) {
        let (here, there) = (ours.send(&request)?, theirs.send(&request)?);
        let line = request.split(|byte| *byte == b'\n').take(2);
        let shown = line.collect::<Vec<_>>().concat().escape_ascii().to_string();
        ensure!(!here.contains(SECRET), "{shown} leads to it through ours");
        requests += 1;
        leaks += usize::from(there.contains(SECRET));
        let (here, there) = (status(&here), status(&there));
        let is_through = |status: Option<u16>| status.is_some_and(|status| status < 400);
        // Of the target, not of the host.
        let target = shown.split_once(" HTTP/").map_or("", |(target, _)| target);
        let is_known = KNOWN.iter().any(|(part, _)| target.contains(part));
        if is_through(here) && !is_through(there) && !is_known {
            differences.insert(shown, (here, there));
        }
    }
    println!(
        "  {}: {requests} requests, {leaks} got at it through Envoy",
        ours.host
    );
    ensure!(
        differences.is_empty(),
        "{} pass ours and not Envoy: {differences:#?}",
        differences.len()
    );
    Ok(())
}

/// The status of an answer; none where the connection was only closed.
fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: secret, namespace: app}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  action: DENY
  rules: [{to: [{operation: {paths: [/secret, '/secret/*']}}]}]
";

fn start(cluster: &Cluster, scene: &Scene, pod: &Pod) -> Result<Process> {
    let folder = cluster.run().path("envoy");
    fs::create_dir_all(&folder).context("making Envoy's folder")?;
    let file = folder.join("envoy.yaml");
    let backends = scene.backends.iter().map(|(pod, witness)| {
        let address = pod.sockets(PORT)[0];
        (witness.kind().name(), address)
    });
    fs::write(&file, configuration(&backends.collect::<Vec<_>>()))?;
    let mut command = Command::new(programs::envoy()?);
    command.arg("--config-path").arg(file);
    command.args(["--concurrency", "1", "--log-level", "warning"]);
    command.arg("--disable-hot-restart").current_dir(&folder);
    let envoy = Process::spawn(cluster.run(), pod.place(), "envoy", command)?;
    poll::until("Envoy", Duration::from_secs(30), || {
        envoy.must_run()?;
        let own = SocketAddr::from(([127, 0, 0, 1], LISTEN));
        Ok(pod.place().connect(own, PATIENCE)?)
    })?;
    Ok(envoy)
}

/// The strictest that Istio sets for paths (DECODE_AND_MERGE_SLASHES), and escaped slashes refused.
fn configuration(backends: &[(&str, SocketAddr)]) -> String {
    let (mut hosts, mut clusters) = (String::new(), String::new());
    for (name, address) in backends {
        let (ip, port) = (address.ip(), address.port());
        let _ = write!(
            hosts,
            "
            - name: {name}
              domains: [{name}.example, '{name}.example:*']
              routes: [{{match: {{prefix: /}}, route: {{cluster: {name}}}}}]"
        );
        let _ = write!(
            clusters,
            "
  - name: {name}
    type: STATIC
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}"
        );
    }
    format!(
        "static_resources:
  listeners:
  - name: http
    address: {{socket_address: {{address: 0.0.0.0, port_value: {LISTEN}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: beside
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: REJECT_REQUEST
          route_config:
            virtual_hosts:{hosts}
          http_filters:
          - name: envoy.filters.http.rbac
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: DENY
                policies:
                  secret:
                    permissions:
                    - url_path: {{path: {{exact: /secret}}}}
                    - url_path: {{path: {{prefix: /secret/}}}}
                    principals: [{{any: true}}]
          - name: envoy.filters.http.router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:{clusters}
"
    )
}
