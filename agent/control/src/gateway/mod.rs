//! The Gateway API: its objects in, what gateways are handed and what statuses say out.
//!
//! Unlike other kinds these objects are resolved together, as a route in one namespace may attach
//! to a listener in a second one and send to a Service in a third. Pure: [`resolve`] reads a
//! [`World`] and makes a [`Resolved`]. The order: which Gateways are ours ([`class`]), their
//! listeners ([`listeners`]) with the objects they refer to ([`refs`]), the routes on them
//! ([`attach`]) with their rules ([`rules`]), settings of backends ([`tls_policy`]), traffic
//! policies ([`traffic_policy`]), policies of requests ([`policies`]), statuses ([`status`]), what pods
//! have taken of it ([`taken`]).

mod addresses;
mod ancestors;
mod attach;
mod class;
mod conflicts;
mod filters;
mod listeners;
mod matches;
mod names;
mod owned;
mod policies;
mod refs;
mod render;
mod rules;
mod status;
mod tables;
mod taken;
#[cfg(test)]
mod tests;
mod tls_policy;
mod traffic_policy;
mod waypoints;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_model::access::Access;
use agent_model::authentication::Authentication;
use agent_model::gateway::traffic::TrafficPolicy;
use agent_model::gateway::{Backend, Gateway, GatewayKey, Route};

pub(crate) use addresses::GATEWAY_NAME;
pub use class::FEATURES;
pub(crate) use names::short_name;
pub(crate) use render::{patch, rendered};
pub(crate) use status::{ObjectStatus, Reported};
pub(crate) use tables::Tables;
pub(crate) use taken::{CONFIGURATION, Heard, Note as TakenNote, heard};
pub(crate) use waypoints::waypoints;

use crate::source::ObjectRef;
use crate::source::gateway_api::Parameters;
use crate::source::kubernetes::{self, Labels, Namespace};
use crate::translate::{ByName, Mesh, Note, Objects};

/// Everything that is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) mesh: &'a Mesh,
    pub(crate) namespaces: &'a ByName<Namespace>,
    pub(crate) objects: &'a BTreeMap<Arc<str>, Arc<Objects>>,
    /// What gateways have taken of which nobody knows the pods.
    pub(crate) heard: &'a Heard,
}

impl<'a> World<'a> {
    /// The labels of a namespace. Every namespace has its name for one, be it only by the API
    /// server's doing.
    fn labels_of(&self, namespace: &str) -> Labels {
        let object = self.namespaces.get(namespace);
        let mut labels = object.map_or_else(Labels::new, |object| object.metadata.labels.clone());
        let name = labels.entry("kubernetes.io/metadata.name".to_owned());
        name.or_insert_with(|| namespace.to_owned());
        labels
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&'a Arc<kubernetes::Service>> {
        self.objects.get(namespace)?.services.get(name)
    }
}

/// What all of it comes to.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Resolved {
    /// Gateways that are ours, with the listeners that work.
    pub(crate) gateways: Vec<Gateway>,
    /// Routes with a parent that accepted them.
    pub(crate) routes: Vec<Route>,
    /// Settings of backends.
    pub(crate) backends: Vec<Backend>,
    /// Traffic policies, each with a gateway that is told.
    pub(crate) traffic: Vec<(GatewayKey, TrafficPolicy)>,
    /// Who may send requests, each with the gateway that is to be told.
    pub(crate) access: Vec<(GatewayKey, Access)>,
    /// Which tokens count, the same way.
    pub(crate) authentications: Vec<(GatewayKey, Authentication)>,
    /// The gateways that enforce a policy of requests.
    pub(crate) enforcers: BTreeMap<ObjectRef, BTreeSet<GatewayKey>>,
    /// What the authors of such policies should know.
    pub(crate) notes: Vec<Note>,
    /// What is asked of whatever is made for a Gateway.
    pub(crate) deployments: Vec<Deployment>,
    /// What to say of each object.
    pub(crate) statuses: BTreeMap<ObjectRef, Reported>,
}

/// What a Gateway asks of the objects that are made for it (`spec.infrastructure`, `spec.addresses`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deployment {
    pub(crate) gateway: GatewayKey,
    /// Of the Gateway; empty outside of clusters.
    pub(crate) uid: String,
    pub(crate) class: String,
    pub(crate) is_waypoint: bool,
    pub(crate) labels: Labels,
    pub(crate) annotations: Labels,
    pub(crate) parameters: Parameters,
    /// Addresses it is to be reached at.
    pub(crate) addresses: Vec<String>,
    /// Ports it listens on, each with whether it is UDP.
    pub(crate) ports: Vec<(u16, bool)>,
    /// It tells backends who their clients proved to be.
    pub(crate) tells_clients: bool,
}

/// Resolves everything. Costs time in proportion to the number of objects.
pub(crate) fn resolve(world: &World<'_>) -> Resolved {
    let mut out = Resolved::default();
    let classes = class::ours(world, &mut out.statuses);
    let mut gateways = owned::find(world, &classes);
    for gateway in &mut gateways {
        listeners::settle(world, gateway);
    }
    let uses = attach::routes(world, &mut gateways, &mut out);
    tls_policy::resolve(world, &uses, &mut out);
    traffic_policy::resolve(world, &gateways, &uses, &mut out);
    policies::resolve(world, &gateways, &mut out);
    for gateway in &gateways {
        gateway.report(world, &mut out);
    }
    out
}

/// The same where no class is ours: policies that are meant for gateways are nobody's.
pub(crate) fn without_gateways(world: &World<'_>) -> Resolved {
    let mut out = Resolved::default();
    policies::resolve(world, &[], &mut out);
    out
}

/// Why something is not in order, in the words of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    reason: &'static str,
    message: String,
}

impl Fault {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}
