//! An agent that holds of the mesh what its pods have dialled.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::agent::Agent;
use tests::cluster::service_sockets;
use tests::manifests::ServiceSpec;
use tests::server::{Behaviour, Server};
use tests::traffic::{must_refuse, must_serve};
use tests::{Cluster, PodSpec};

use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[shared(
    "control: an agent with --xds-on-demand asks for what is dialled, and keeps it in an outage",
    asks,
)];

fn asks(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let stranger = cluster.pod(&PodSpec::new(MESHED, "stranger").on(2))?;
    let spec = ServiceSpec::new(MESHED, "server", PORT).port(80, &PORT.to_string());
    let service = cluster.service(&spec)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let _stranger = Server::start(&stranger, PORT, Behaviour::Echo)?;
    let _client = Server::start(&scene.client, PORT, Behaviour::Echo)?;
    let agent = cluster.node(1)?.agent()?;
    let before = agent.settings();
    agent.kill9()?;
    agent.change(|settings| settings.extra.push("--xds-on-demand".to_owned()));
    let outcome = agent.start_ready().and_then(|()| {
        cluster.settle()?;
        let dialled = service_sockets(service, 80).into();
        play(
            cluster,
            agent,
            &scene,
            dialled,
            stranger.sockets(PORT).into(),
        )
    });
    let _ = cluster.control()?.start();
    let _ = agent.kill9();
    agent.change(|settings| *settings = before);
    agent.start_ready()?;
    outcome
}

fn play(
    cluster: &Cluster,
    agent: &Agent,
    scene: &Scene,
    dialled: Vec<SocketAddr>,
    undialled: Vec<SocketAddr>,
) -> Result<()> {
    ensure!(
        knows(agent)? == ["client", "outsider"],
        "only what runs on the node comes unasked: {:?}",
        knows(agent)?
    );
    let serves = |what: &'static str| -> Result<()> {
        for to in &dialled {
            must_serve(&scene.client, *to).context(what)?;
        }
        // STRICT of the local pod, whoever calls.
        for to in scene.client.sockets(PORT) {
            must_serve(&scene.server, to).context(what)?;
            must_refuse(&scene.outsider, to).context(what)?;
        }
        Ok(())
    };
    serves("asked for")?;
    ensure!(
        knows(agent)? == ["client", "outsider", "server"],
        "with a service come its endpoints, and nothing else: {:?}",
        knows(agent)?
    );
    cluster.control()?.kill9()?;
    serves("in an outage")?;
    for to in undialled {
        must_refuse(&scene.client, to).context("nobody says what this is")?;
        let parts = ["destination-unknown", &to.to_string()];
        agent.wait_log(&parts, Duration::from_secs(10))?;
    }
    Ok(())
}

/// Names of the workloads that the agent holds, in order.
fn knows(agent: &Agent) -> Result<Vec<String>> {
    let dump = agent.config_dump()?;
    let workloads = dump["workloads"].as_array().context("no workloads")?;
    let names = workloads.iter().filter_map(|workload| {
        let name = workload["name"].as_str()?;
        Some(name.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}
