//! One simulated machine: a host namespace with a pod bridge, a runtime with CNI plugins, and
//! perhaps an agent in a namespace of its own.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::agent::{Agent, AgentSettings};
use crate::cni::Chain;
use crate::control::Control;
use crate::place::Place;
use crate::programs::Programs;
use crate::run::{Run, cgroup_root};
use crate::topology::{self, Addresses, underlay};

/// A node. Its name is `n` and its number.
#[derive(Debug)]
pub struct Node {
    number: u8,
    host: Place,
    chain: Chain,
    agent: Option<Agent>,
    directory: PathBuf,
}

impl Node {
    /// Makes the machine and plugs it into the switch.
    pub(crate) fn create(
        run: &Run,
        switch: &Place,
        number: u8,
        product: Option<(&Programs, &Control, usize)>,
    ) -> Result<Self> {
        let name = format!("n{number}");
        let directory = run.path(&name);
        fs::create_dir_all(&directory).context("creating a node's folder")?;
        let host = Place::create(&run.namespace(&name), None)?;
        topology::plug(switch, &host, number)?;
        topology::make_bridge(&host, number)?;
        let agent = match product {
            Some((programs, control, workers)) => {
                let place = Place::create(&run.namespace(&format!("{name}a")), None)?;
                topology::plug_agent(&host, &place, number)?;
                let token_file = directory.join("token");
                control.admit(&name, &token_file)?;
                let by_labels = control.in_cluster();
                let settings = AgentSettings {
                    node: name,
                    control: control.url(),
                    ca: None,
                    root_cert: control.root_cert(),
                    token_file,
                    host_netns: host.path(),
                    directory: directory.clone(),
                    cgroup_root: cgroup_root()?,
                    workers,
                    // As the DaemonSet has it.
                    extra: by_labels
                        .then(|| "--enrolment=labels".to_owned())
                        .into_iter()
                        .collect(),
                    capabilities: None,
                };
                Some(Agent::prepare(run, programs, place, settings)?)
            }
            None => None,
        };
        let socket = agent.as_ref().map(Agent::cni_socket);
        let culvert = product
            .zip(socket.as_deref())
            .map(|((programs, ..), socket)| (programs.directory(), socket));
        let chain = Chain::new(host.clone(), number, &directory.join("ipam"), culvert);
        Ok(Self {
            number,
            host,
            chain,
            agent,
            directory,
        })
    }

    /// Its number, from 1.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its name in manifests.
    pub fn name(&self) -> String {
        format!("n{}", self.number)
    }

    /// Its host namespace.
    pub fn host(&self) -> &Place {
        &self.host
    }

    /// Its addresses on the underlay.
    pub fn addresses(&self) -> Addresses {
        underlay(self.number)
    }

    /// Its runtime's CNI plugins.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Its agent.
    pub fn agent(&self) -> Result<&Agent> {
        self.agent
            .as_ref()
            .with_context(|| format!("node {} has no agent", self.name()))
    }

    /// Its agent, if it has one.
    pub fn agent_if_any(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// The folder of its files.
    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }
}
