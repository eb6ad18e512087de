//! What a client session hands to whoever keeps the state.

use agent_model::access::Access;
use agent_model::authentication::Authentication;
use agent_model::gateway::traffic::TrafficPolicy;
use agent_model::gateway::{Backend, Gateway, GatewayKey, Route};
use agent_model::{Authorization, PolicyKey, Service, Workload};

use crate::ResourceType;
use crate::convert::{backend_name, policy_name, route_name};

/// One change. A batch holds all changes of one response, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// A workload is new or changed.
    Workload(Box<Workload>),
    /// A service is new or changed.
    Service(Box<Service>),
    /// A policy is new or changed.
    Policy(Authorization),
    /// The workload of that uid, or else the service of that `namespace/hostname`, is gone.
    RemoveAddress(String),
    /// A policy is gone.
    RemovePolicy(PolicyKey),
    /// A policy was sent that cannot be read. The last good version stays in force; where there is
    /// none, whatever the policy protects has to be refused.
    RejectedPolicy(PolicyKey),
    /// A gateway is new or changed; only gateways are told.
    Gateway(Box<Gateway>),
    /// A route of that gateway is new or changed.
    Route(GatewayKey, Box<Route>),
    /// Settings for a service behind that gateway are new or changed.
    Backend(GatewayKey, Box<Backend>),
    /// A request policy of that gateway is new or changed.
    Access(GatewayKey, Box<Access>),
    /// Which tokens count at that gateway is new or changed.
    Authentication(GatewayKey, Box<Authentication>),
    /// A traffic policy of that gateway is new or changed.
    TrafficPolicy(GatewayKey, Box<TrafficPolicy>),
    /// A request policy, or what says which tokens count, was sent and cannot be read, by the name
    /// of its resource. The last good version stays in force; where there is none, what it is for is
    /// not known, and every request has to be refused.
    RejectedOfGateway(ResourceType, String),
    /// Something of a gateway is gone, by the name of its resource.
    RemoveOfGateway(ResourceType, String),
}

impl Update {
    /// Name of the resource that said so.
    pub fn resource_name(&self) -> String {
        match self {
            Self::Workload(workload) => workload.uid.to_string(),
            Self::Service(service) => service.key().to_string(),
            Self::Policy(policy) => policy.key().to_string(),
            Self::RemovePolicy(key) | Self::RejectedPolicy(key) => key.to_string(),
            Self::Gateway(gateway) => gateway.key.to_string(),
            Self::Route(gateway, route) => route_name(gateway, &route.key),
            Self::Backend(gateway, backend) => backend_name(gateway, backend),
            Self::Access(gateway, policy) => policy_name(gateway, &policy.key()),
            Self::Authentication(gateway, policy) => policy_name(gateway, &policy.key()),
            Self::TrafficPolicy(gateway, policy) => policy_name(gateway, &policy.key()),
            Self::RemoveAddress(name)
            | Self::RemoveOfGateway(_, name)
            | Self::RejectedOfGateway(_, name) => name.clone(),
        }
    }
}

/// A resource that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Name of the resource.
    pub name: String,
    /// Why, for people; goes to the control plane and into status.
    pub reason: String,
}

/// Keeps the state that updates change.
pub trait Apply: Send {
    /// Applies one batch as a whole and returns what could not be applied. A refused resource must
    /// leave its last good version in place.
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection>;
}
