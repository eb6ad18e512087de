//! What leads to a resource besides its name. Both ends go by it: the control plane for what a
//! node wants, the node for what it may forget.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use agent_model::{Service, Workload};

/// Who is interested in a resource without naming it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Links {
    /// Other names: `network/ip` of each address.
    pub(crate) aliases: Vec<Arc<str>>,
    /// The node a workload runs on.
    pub(crate) node: Option<Arc<str>>,
    /// Services a workload serves, as `namespace/hostname`.
    pub(crate) services: Vec<Arc<str>>,
}

/// The name by which an address is asked for.
pub fn address_name(network: &str, address: IpAddr) -> String {
    format!("{network}/{address}")
}

impl Links {
    pub(crate) fn of_workload(workload: &Workload) -> Self {
        let addresses = workload.addresses.iter();
        let services = workload.services.keys();
        Self {
            aliases: addresses
                .map(|address| address_name(&workload.network, *address).into())
                .collect(),
            node: (!workload.node.is_empty()).then(|| Arc::clone(&workload.node)),
            services: services.map(|key| key.to_string().into()).collect(),
        }
    }

    pub(crate) fn of_service(service: &Service) -> Self {
        let aliases = service.vips.iter();
        let aliases = aliases.map(|vip| address_name(&vip.network, vip.address).into());
        Self {
            aliases: aliases.collect(),
            ..Self::default()
        }
    }

    /// True when one of `names` means this resource.
    pub(crate) fn is_named_by(&self, names: &BTreeSet<Arc<str>>) -> bool {
        self.aliases.iter().any(|alias| names.contains(alias))
    }

    /// True for a workload on `node`.
    pub(crate) fn is_on(&self, node: &str) -> bool {
        self.node.as_deref().is_some_and(|on| on == node)
    }

    /// True for an endpoint of one of `services`.
    pub(crate) fn serves_one_of(&self, services: &BTreeSet<Arc<str>>) -> bool {
        self.services
            .iter()
            .any(|service| services.contains(service))
    }
}

/// Of some resources, those that one of `names` means or that run on `node`, and the endpoints of
/// services among these.
pub(crate) fn wanted<'a>(
    resources: impl Iterator<Item = (&'a Arc<str>, &'a Links)> + Clone,
    names: &BTreeSet<Arc<str>>,
    node: &str,
) -> BTreeSet<Arc<str>> {
    let direct = resources.clone().filter(|(name, links)| {
        names.contains(*name) || links.is_on(node) || links.is_named_by(names)
    });
    let direct: BTreeSet<Arc<str>> = direct.map(|(name, _)| Arc::clone(name)).collect();
    let endpoints = resources.filter(|(_, links)| links.serves_one_of(&direct));
    let endpoints: Vec<Arc<str>> = endpoints.map(|(name, _)| Arc::clone(name)).collect();
    direct.into_iter().chain(endpoints).collect()
}
