//! What an operator sees: one log line per connection, metrics, status, why, config-dump.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::service_sockets;
use tests::manifests::{ServiceSpec, authorization_policy};
use tests::server::{Behaviour, Server};
use tests::traffic::{must_refuse, must_serve};
use tests::{Cluster, http, poll};

use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "observe: one access-log line per connection and end, with every field",
        access_log,
    ),
    shared(
        "observe: metrics count connections and bytes by workload",
        metrics,
    ),
    shared("observe: metrics of the agent itself", names),
    shared(
        "observe: metrics of a deleted pod's agent stay bounded",
        bounded,
    ),
    shared("observe: status, config-dump and their socket", admin),
    shared(
        "observe: T-ADM the admin socket is no network service",
        not_on_the_network,
    ),
    shared("observe: why says what the node does", why),
];

const LIMIT: Duration = Duration::from_secs(10);

fn access_log(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let service = cluster.service(&ServiceSpec::new(MESHED, "server", PORT))?;
    cluster.settle()?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for (family, to) in service_sockets(service, PORT).into_iter().enumerate() {
        must_serve(&scene.client, to)?;
        let own = scene.client.ips()[family];
        let target = scene.server.sockets(PORT)[family];
        let common = [
            "src.workload=\"client\"".to_owned(),
            "src.namespace=\"app\"".to_owned(),
            "src.identity=\"spiffe://cluster.local/ns/app/sa/client\"".to_owned(),
            "dst.workload=\"server\"".to_owned(),
            "dst.namespace=\"app\"".to_owned(),
            "dst.identity=\"spiffe://cluster.local/ns/app/sa/server\"".to_owned(),
            format!("dst.hbone_addr=\"{target}\""),
            "bytes_sent=17".to_owned(),
            "bytes_recv=17".to_owned(),
            "duration=\"".to_owned(),
            "reason=\"ok\"".to_owned(),
        ];
        for (node, special) in [
            (
                1,
                [
                    "direction=\"outbound\"".to_owned(),
                    "dst.service=\"server.app.svc".to_owned(),
                ],
            ),
            (
                2,
                [
                    "direction=\"inbound\"".to_owned(),
                    format!("src.addr=\"{}", bracketed(own)),
                ],
            ),
        ] {
            let parts: Vec<&str> = common.iter().chain(&special).map(String::as_str).collect();
            let agent = cluster.node(node)?.agent()?;
            agent
                .wait_log(&parts, LIMIT)
                .with_context(|| format!("node {node}; its last lines:\n{}", agent.log_tail(4)))?;
            let lines = agent.log_lines(&parts);
            ensure!(
                lines.len() == 1,
                "{} lines for one connection:\n{lines:#?}",
                lines.len()
            );
        }
    }
    Ok(())
}

fn bracketed(ip: std::net::IpAddr) -> String {
    match ip {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn metrics(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let labels = [
        "source_workload=\"client\"",
        "destination_workload=\"server\"",
        "connection_security_policy=\"mutual_tls\"",
    ];
    let read = |node: u8, name: &str| -> Result<f64> {
        Ok(cluster.node(node)?.agent()?.metrics()?.sum(name, &labels))
    };
    const NAMES: [&str; 4] = [
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_tcp_received_bytes_total",
        "istio_tcp_sent_bytes_total",
    ];
    for node in [1, 2] {
        let before: Result<Vec<f64>> = NAMES.iter().map(|name| read(node, name)).collect();
        let before = before?;
        for to in scene.server.sockets(PORT) {
            must_serve(&scene.client, to)?;
        }
        poll::until("the counters", LIMIT, || {
            for (index, grown) in [2.0, 2.0, 34.0, 34.0].into_iter().enumerate() {
                let now = read(node, NAMES[index])?;
                ensure!(
                    now - before[index] == grown,
                    "node {node}: {} went from {} to {now}, not by {grown}",
                    NAMES[index],
                    before[index]
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Names that dashboards for ambient node proxies ask for.
fn names(cluster: &Cluster) -> Result<()> {
    let _scene = Scene::strict(cluster)?;
    let agent = cluster.node(1)?.agent()?;
    let metrics = agent.metrics()?;
    let types = ["istio.workload.Address", "istio.security.Authorization"];
    for url in types {
        let label = format!("url=\"type.googleapis.com/{url}\"");
        for name in ["istio_xds_message_total", "istio_xds_message_bytes_total"] {
            ensure!(metrics.sum(name, &[&label]) > 0.0, "no {name} of {url}");
        }
    }
    for (name, least) in [
        ("istio_active_proxy_count", 1.0),
        ("istio_proxies_started_total", 1.0),
        ("istio_build", 1.0),
        ("tokio_num_workers", 2.0),
        ("tokio_num_alive_tasks", 3.0),
        ("tokio_worker_park_count", 1.0),
        ("tokio_worker_park_unpark_count", 1.0),
    ] {
        let found = metrics.sum(name, &[]);
        ensure!(found >= least, "{name} is {found}");
    }
    for name in [
        "istio_pending_proxy_count",
        "istio_proxies_stopped_total",
        "tokio_global_queue_depth",
        "tokio_worker_total_busy_duration_seconds_total",
        "istio_xds_connection_terminations_total",
        "process_open_fds",
        "process_max_fds",
    ] {
        ensure!(metrics.count(name) > 0, "there is no {name}");
    }
    Ok(())
}

/// Labels come from configuration, never from the wire: more connections are not more series.
fn bounded(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent = cluster.node(2)?.agent()?;
    let round = || -> Result<usize> {
        for to in scene.server.sockets(PORT) {
            for _ in 0..20 {
                must_serve(&scene.client, to)?;
                must_serve(&scene.outsider, to)?;
            }
        }
        Ok(agent.metrics()?.count("istio_tcp_connections_opened_total"))
    };
    let first = round()?;
    let second = round()?;
    ensure!(
        first == second,
        "series grew from {first} to {second} without new workloads"
    );
    Ok(())
}

fn admin(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    must_serve(&scene.client, scene.server.sockets(PORT)[0])?;
    let agent = cluster.node(1)?.agent()?;
    let status = agent.status()?;
    ensure!(status["schema"] == 1, "status without schema: {status}");
    ensure!(
        status["controlPlane"]["synced"] == true,
        "not synced: {status}"
    );
    let certificate = status["certificates"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["identity"] == "spiffe://cluster.local/ns/app/sa/client")
        .with_context(|| format!("no certificate of the client: {status}"))?;
    let expires = certificate["expiresInSeconds"].as_i64().unwrap_or_default();
    ensure!(expires > 0, "the certificate has expired: {certificate}");
    let text = agent.verb(&["status"])?;
    ensure!(
        text.contains("client") && text.contains("n1"),
        "status prints\n{text}"
    );
    let dump = agent.config_dump()?;
    for key in [
        "workloads",
        "services",
        "policies",
        "certificates",
        "workloadState",
        "version",
    ] {
        ensure!(!dump[key].is_null(), "config-dump has no {key}");
    }
    let secrets = dump.to_string();
    ensure!(
        !secrets.contains("PRIVATE KEY"),
        "config-dump shows a private key"
    );
    let token = fs::read_to_string(agent.settings().token_file)?;
    for text in [&secrets, &agent.log(), &status.to_string()] {
        ensure!(!text.contains(token.trim()), "the node's token is shown");
    }
    let mode = fs::metadata(agent.admin_socket())?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the admin socket has mode {mode:o}");
    let mode = fs::metadata(agent.cni_socket())?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the enrolment socket has mode {mode:o}");
    Ok(())
}

/// From a pod, only metrics and readiness of the agent's namespace answer, and they only read.
fn not_on_the_network(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let agent = tests::topology::pod_range(1, 2);
    for ip in [std::net::IpAddr::from(agent.v4), agent.v6.into()] {
        for port in [15000, 15001, 15004, 15006, 15008, 15010, 15012, 15053] {
            must_refuse(&scene.outsider, (ip, port).into())?;
        }
        let metrics = http::get(&scene.outsider, (ip, 15020).into(), "/metrics")?;
        ensure!(metrics.status == 200, "metrics answer {}", metrics.status);
        for path in [
            "/config_dump",
            "/status",
            "/why?src=x&dst=1.2.3.4:5",
            "/quitquitquit",
        ] {
            for port in [15020, 15021] {
                let answer = http::get(&scene.outsider, (ip, port).into(), path)?;
                ensure!(
                    answer.status == 404,
                    "{port}{path} answers {}",
                    answer.status
                );
            }
        }
    }
    Ok(())
}

fn why(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let deny = authorization_policy(
        MESHED,
        "no-clients",
        "DENY",
        Some("server"),
        "[{from: [{source: {principals: [cluster.local/ns/app/sa/client]}}]}]",
    );
    let agent = cluster.node(1)?.agent()?;
    for to in scene.server.sockets(PORT) {
        let to = to.to_string();
        let ask = || agent.verb(&["why", "app/client", &to]);
        let before = ask()?;
        for part in [
            "spiffe://cluster.local/ns/app/sa/client",
            "app/server",
            "n2",
        ] {
            ensure!(before.contains(part), "why does not say {part}:\n{before}");
        }
        cluster.apply("deny", &deny)?;
        let after = ask()?;
        ensure!(
            after.contains("no-clients") && after.contains("policy-denied"),
            "why does not name the policy:\n{after}"
        );
        cluster.unapply("deny")?;
    }
    Ok(())
}
