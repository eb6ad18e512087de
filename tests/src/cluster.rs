//! The whole: a switch, nodes, a control plane, manifests.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::Agent;
use crate::apiserver::{ApiServer, Options};
use crate::cgroup::Group;
use crate::control::Control;
use crate::manifests::{Manifests, ServiceSpec};
use crate::node::Node;
use crate::place::Place;
use crate::pod::{Pod, PodSpec};
use crate::poll;
use crate::programs::Programs;
use crate::run::Run;
use crate::topology::{self, Addresses, CONTROL_HOST};

/// How long what was written may take to reach every agent.
const SETTLED: Duration = Duration::from_secs(30);

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct ClusterSpec {
    /// Name of the run.
    pub run: String,
    /// How many nodes.
    pub nodes: u8,
    /// Whether Culvert is installed.
    pub culvert: bool,
    /// Lifetime of certificates.
    pub certificate_ttl: Duration,
    /// Data-path workers per agent.
    pub workers: usize,
    /// The control plane reads from an API server (the fixture), not from a folder.
    pub kubernetes: bool,
}

impl ClusterSpec {
    /// Two nodes with Culvert.
    pub fn new(run: &str) -> Self {
        Self {
            run: run.to_owned(),
            nodes: 2,
            culvert: true,
            certificate_ttl: Duration::from_secs(24 * 3600),
            workers: 2,
            kubernetes: false,
        }
    }

    /// With certificates of this lifetime.
    pub fn certificate_ttl(mut self, ttl: Duration) -> Self {
        self.certificate_ttl = ttl;
        self
    }

    /// With an API server in place of a folder of manifests.
    pub fn kubernetes(mut self) -> Self {
        self.kubernetes = true;
        self
    }

    /// The same network without Culvert.
    pub fn bare(mut self) -> Self {
        self.culvert = false;
        self
    }
}

/// A running cluster; removed when dropped.
#[derive(Debug)]
pub struct Cluster {
    run: Run,
    switch: Place,
    control: Option<Control>,
    nodes: Vec<Arc<Node>>,
    manifests: Manifests,
    services: AtomicU16,
    settled: AtomicU64,
    keep_logs: AtomicBool,
    /// With an API server: what a kubelet makes before the first pod.
    _kubepods: Option<Group>,
}

impl Cluster {
    /// Makes the network, starts the control plane and the agents, and waits until all are ready.
    pub fn start(spec: &ClusterSpec) -> Result<Self> {
        let cluster = Self::make(spec)?;
        if let Some(control) = &cluster.control {
            control.start()?;
        }
        for agent in cluster.nodes.iter().filter_map(|node| node.agent_if_any()) {
            agent.start()?;
        }
        for agent in cluster.nodes.iter().filter_map(|node| node.agent_if_any()) {
            agent.wait_ready(Duration::from_secs(60))?;
        }
        Ok(cluster)
    }

    fn make(spec: &ClusterSpec) -> Result<Self> {
        let programs = spec.culvert.then(Programs::find).transpose()?;
        let run = Run::create(&spec.run)?;
        // From here on an error must remove what exists.
        Self::build(spec, &run, programs).inspect_err(|_| {
            let _ = run.remove(true);
        })
    }

    fn build(spec: &ClusterSpec, run: &Run, programs: Option<Programs>) -> Result<Self> {
        let kubepods = spec.kubernetes.then(|| Group::in_kubepods(run));
        let kubepods = kubepods.transpose()?;
        let switch = Place::create(&run.namespace("net"), None)?;
        topology::make_underlay(&switch)?;
        let folder = run.path("manifests");
        let (manifests, control) = match &programs {
            Some(programs) => {
                let place = Place::create(&run.namespace("cp"), None)?;
                topology::plug(&switch, &place, CONTROL_HOST)?;
                let manifests = if spec.kubernetes {
                    Manifests::on(Arc::new(api_server(&place)?))
                } else {
                    Manifests::create(folder)?
                };
                let ttl = spec.certificate_ttl;
                let control = Control::prepare(run, programs, place, &manifests, ttl)?;
                (manifests, Some(control))
            }
            None => (Manifests::create(folder)?, None),
        };
        let mut nodes = Vec::new();
        for number in 1..=spec.nodes {
            let product = programs
                .as_ref()
                .zip(control.as_ref())
                .map(|(programs, control)| (programs, control, spec.workers));
            let node = Node::create(run, &switch, number, product)?;
            manifests.node(&node.name(), &format!("zone-{number}"), node.addresses())?;
            nodes.push(Arc::new(node));
        }
        let cluster = Self {
            run: run.clone(),
            switch,
            control,
            nodes,
            manifests,
            services: AtomicU16::new(10),
            settled: AtomicU64::new(0),
            keep_logs: AtomicBool::new(false),
            _kubepods: kubepods,
        };
        cluster.connect_routes()?;
        Ok(cluster)
    }

    fn connect_routes(&self) -> Result<()> {
        for target in &self.nodes {
            if let Some(control) = &self.control {
                topology::route_to(control.place(), target.number())?;
            }
            for source in &self.nodes {
                if source.number() != target.number() {
                    topology::route_to(source.host(), target.number())?;
                }
            }
        }
        Ok(())
    }

    /// The run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The namespace of the switch between the nodes.
    pub fn switch(&self) -> &Place {
        &self.switch
    }

    /// A node by its number, from 1.
    pub fn node(&self, number: u8) -> Result<&Arc<Node>> {
        self.nodes
            .iter()
            .find(|node| node.number() == number)
            .with_context(|| format!("no node {number}"))
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// The control plane.
    pub fn control(&self) -> Result<&Control> {
        self.control.as_ref().context("no control plane here")
    }

    /// The manifests.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Starts a pod.
    pub fn pod(&self, spec: &PodSpec) -> Result<Pod> {
        let node = self.node(spec.node)?.clone();
        Pod::create(&self.run, node, &self.manifests, spec)
    }

    /// Makes a service; pods of the mesh find its cluster IPs by its names.
    pub fn service(&self, spec: &ServiceSpec) -> Result<Addresses> {
        let addresses = topology::service(self.services.fetch_add(1, Ordering::Relaxed));
        self.manifests.write(
            &format!("service-{}-{}", spec.namespace, spec.name),
            &spec.yaml(addresses),
        )?;
        Ok(addresses)
    }

    /// Writes a manifest and waits until every running agent has it.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        self.manifests.write(name, yaml)?;
        self.settle()
    }

    /// Removes a manifest and waits until every running agent knows.
    pub fn unapply(&self, name: &str) -> Result<()> {
        self.manifests.remove(name)?;
        self.settle()
    }

    /// Waits until every running agent has what the manifests say now: a marker object is
    /// written, and the control plane never sends a later state without an earlier one.
    pub fn settle(&self) -> Result<()> {
        if let Some(server) = self.manifests.server() {
            // Each kind of object has its own watch: the marker's must not be ahead.
            server.wait_told(SETTLED)?;
            self.wait_tunnelled()?;
        }
        let marker = format!("settled-{}", self.settled.fetch_add(1, Ordering::Relaxed));
        let yaml = crate::manifests::authorization_policy(
            "culvert-test-marker",
            &marker,
            "ALLOW",
            None,
            "[{}]",
        );
        self.manifests.write("zz-settled", &yaml)?;
        for (_, agent) in self.running_agents() {
            poll::until("manifests settled", SETTLED, || {
                let dump = agent.config_dump()?;
                ensure!(
                    dump["policies"].to_string().contains(&marker),
                    "{marker} has not reached the agent"
                );
                Ok(())
            })?;
        }
        Ok(())
    }

    /// With an API server: waits until every running agent knows which pods all of them have
    /// captured. That is not in the manifests: nodes report it.
    fn wait_tunnelled(&self) -> Result<()> {
        let running: Vec<(String, &Agent)> = self.running_agents().collect();
        poll::until("captured pods known", SETTLED, || {
            let mut captured = BTreeSet::new();
            for (_, agent) in &running {
                let status = agent.status()?;
                let pods = status["pods"].as_array().into_iter().flatten();
                captured.extend(pods.map(name_of));
            }
            for (name, agent) in &running {
                let dump = agent.config_dump()?;
                let workloads = dump["workloads"].as_array().into_iter().flatten();
                let tunnelled = workloads.filter(|workload| workload["protocol"] == "HBONE");
                let known: BTreeSet<(String, String)> = tunnelled.map(name_of).collect();
                let unknown: Vec<_> = captured.difference(&known).collect();
                ensure!(
                    unknown.is_empty(),
                    "{name} does not know that {unknown:?} are captured"
                );
            }
            Ok(())
        })
    }

    /// Waits until every running agent has its streams with the control plane: one that a case
    /// before has cut comes back some time later.
    pub fn wait_connected(&self) -> Result<()> {
        let control = self.control()?;
        poll::until("agents connected", Duration::from_secs(40), || {
            let told = control.status()?;
            let nodes: Vec<_> = told["nodes"].as_array().into_iter().flatten().collect();
            for (name, agent) in self.running_agents() {
                let own = agent.status()?;
                ensure!(own["controlPlane"]["connected"] == true, "{name}: no xDS");
                let attached = nodes.iter().any(|node| {
                    node["node"] == *name
                        && node["agents"].as_array().is_some_and(|a| !a.is_empty())
                });
                ensure!(attached, "{name} is not attached: {}", told["nodes"]);
            }
            Ok(())
        })
    }

    fn running_agents(&self) -> impl Iterator<Item = (String, &Agent)> {
        let nodes = self.nodes.iter();
        let agents = nodes.filter_map(|node| Some((node.name(), node.agent_if_any()?)));
        agents.filter(|(_, agent)| agent.running())
    }

    /// Removes every manifest but the nodes': the state a test starts from.
    pub fn clear(&self) -> Result<()> {
        if let Some(server) = self.manifests.server() {
            server.clear_faults();
        }
        self.manifests.clear()?;
        self.settle()
    }

    /// Keeps the logs when the cluster is removed, because something failed.
    pub fn keep_logs(&self) {
        self.keep_logs.store(true, Ordering::Relaxed);
    }

    /// Removes everything.
    pub fn remove(&self) -> Result<()> {
        for agent in self.nodes.iter().filter_map(|node| node.agent_if_any()) {
            let _ = agent.kill9();
        }
        if let Some(control) = &self.control {
            let _ = control.kill9();
        }
        if let Some(server) = self.manifests.server() {
            server.stop();
        }
        let keep = self.keep_logs.load(Ordering::Relaxed);
        if keep {
            eprintln!("logs are kept in {}", self.run.path("logs").display());
        }
        self.run.remove(keep)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("removing run {}: {error:#}", self.run.name());
        }
    }
}

/// Namespace and name of a pod in a status, or of a workload in a dump.
fn name_of(object: &Value) -> (String, String) {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

/// The API server is on the control plane's machine.
fn api_server(place: &Place) -> Result<ApiServer> {
    ApiServer::start_with(&Options {
        listen: SocketAddr::from(([127, 0, 0, 1], 6443)),
        place: Some(place.clone()),
        endpoint_slices: true,
        ..Options::default()
    })
}

/// A service's port in both families.
pub fn service_sockets(addresses: Addresses, port: u16) -> [SocketAddr; 2] {
    [
        SocketAddr::new(addresses.v4.into(), port),
        SocketAddr::new(addresses.v6.into(), port),
    ]
}
