//! What the API server does to its clients: watches that break off, expire, or say nothing.

use anyhow::{Context, Result};
use tests::apiserver::{ApiServer, Refusal};
use tests::cluster::service_sockets;
use tests::manifests::{ServiceSpec, authorization_policy};
use tests::server::{Behaviour, Server};
use tests::topology::Addresses;
use tests::traffic::{must_refuse, must_serve};
use tests::{Cluster, Pod, PodSpec, poll};

use super::{DENY_CLIENT, LIMIT, api_server};
use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, on_kubernetes};

pub(crate) const CASES: &[Case] = &[on_kubernetes(
    "kubernetes: F-18 broken, expired and silent watches lose no change",
    no_change_lost,
)];

/// Before and after a change.
type Fault = (&'static str, fn(&ApiServer), fn(&ApiServer));

/// The change is never told by the watch that runs when it happens.
const FAULTS: &[Fault] = &[
    ("broken off", silence, |server| server.drop_watches()),
    ("silent for a while", silence, |_| {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }),
    ("expired, as an event says", silence, |server| {
        server.compact();
        server.drop_watches();
    }),
    (
        "expired, as a status says",
        |server| {
            server.gone_as_status(true);
            silence(server);
        },
        |server| {
            server.compact();
            server.drop_watches();
        },
    ),
    ("expired, and lists fail", silence, |server| {
        server.compact();
        server.refuse(Refusal::new(500, 2).verb("list"));
        server.refuse(Refusal::new(429, 2).verb("watch"));
        server.drop_watches();
    }),
    (
        "gone with the API server",
        |server| {
            // What fails is retried by the next check.
            let _ = server.down();
        },
        |server| {
            server.compact();
            let _ = server.up();
        },
    ),
];

fn silence(server: &ApiServer) {
    server.stall_watches(true);
}

fn no_change_lost(cluster: &Cluster) -> Result<()> {
    let server = api_server(cluster)?;
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let reader = cluster.pod(&PodSpec::new(MESHED, "reader"))?;
    let addresses = cluster.service(&ServiceSpec::new(MESHED, "server", PORT))?;
    cluster.settle()?;
    for (round, (what, before, after)) in (0..).zip(FAULTS) {
        let is_denied = round % 2 == 0;
        let port = PORT + 1 + round;
        before(server);
        change(cluster, addresses, port, is_denied)?;
        after(server);
        server.stall_watches(false);
        poll::until("what changed meanwhile", LIMIT, || {
            in_force(&scene, &reader, addresses, port, is_denied)
        })
        .with_context(|| format!("watches {what}"))?;
        server.gone_as_status(false);
        server.clear_faults();
    }
    cluster.settle()
}

/// Objects of two kinds at once: a policy comes or goes, and a service has another port.
fn change(cluster: &Cluster, addresses: Addresses, port: u16, is_denied: bool) -> Result<()> {
    let manifests = cluster.manifests();
    let service = ServiceSpec {
        ports: vec![(port, PORT.to_string())],
        ..ServiceSpec::new(MESHED, "server", PORT)
    };
    manifests.write("service-app-server", &service.yaml(addresses))?;
    if is_denied {
        let deny = authorization_policy(MESHED, "deny", "DENY", Some("server"), DENY_CLIENT);
        manifests.write("deny", &deny)
    } else {
        manifests.remove("deny")
    }
}

fn in_force(
    scene: &Scene,
    reader: &Pod,
    addresses: Addresses,
    port: u16,
    is_denied: bool,
) -> Result<()> {
    for to in scene.server.sockets(PORT) {
        if is_denied {
            must_refuse(&scene.client, to).context("the policy")?;
        } else {
            must_serve(&scene.client, to).context("without the policy")?;
        }
    }
    for to in service_sockets(addresses, port) {
        must_serve(reader, to).context("the service's port")?;
    }
    Ok(())
}
