//! The words of Culvert: workloads, services, identities, authorization policies and Reasons.
//!
//! Data only. No I/O, no clocks, no wire formats: every other room speaks in these types, and
//! conversions from protobuf or Kubernetes objects live at the edge that receives them.

pub mod access;
pub mod authentication;
mod authorization;
mod enrolment;
pub mod gateway;
mod identity;
mod mesh;
mod reason;
mod service;
mod workload;

pub use authorization::{
    Action, Authorization, Clause, Match, PolicyKey, Rule, Scope, ServiceAccountMatch, StringMatch,
};
pub use enrolment::{
    CniReply, CniRequest, CniVerb, NodeWishes, PodInfo, PodProgress, PodReport, Wanted, WantedPod,
};
pub use identity::{Identity, InvalidIdentity};
pub use mesh::{MeshConfig, OutboundOnAgentDown, SameNode};
pub use reason::{Fault, Reason};
pub use service::{
    AppProtocol, GatewayAddress, GatewayTarget, HealthPolicy, IpFamilies, LoadBalancing,
    LoadBalancingMode, LocalityScope, NamespacedHostname, NetworkAddress, Service,
    ServiceMembership, ServicePort, Visibility,
};
pub use workload::{Health, Locality, NetworkMode, TunnelProtocol, Workload, WorkloadType};

/// TCP port of the HBONE listener in every enrolled pod.
pub const HBONE_PORT: u16 = 15008;
/// Destination port that captured outbound connections are rewritten to; it is never bound, the
/// kernel steers it to the pod's outbound listener.
pub const OUTBOUND_PORT: u16 = 15001;
/// Conventional plaintext inbound port of the ambient data plane; never bound by Culvert, and
/// never dialled on behalf of a peer.
pub const INBOUND_PLAINTEXT_PORT: u16 = 15006;
/// Prometheus metrics of the node agent, in the agent's own network namespace.
pub const METRICS_PORT: u16 = 15020;
/// Readiness of the node agent, in the agent's own network namespace.
pub const READINESS_PORT: u16 = 15021;
/// xDS and certificate service of the control plane.
pub const CONTROL_PORT: u16 = 15012;
/// Metrics of the control plane.
pub const CONTROL_METRICS_PORT: u16 = 15014;
/// Validating webhook of the control plane.
pub const WEBHOOK_PORT: u16 = 15017;

/// Ports a peer may never ask an agent to dial: the agent would call itself.
pub const AGENT_PORTS: [u16; 3] = [OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, HBONE_PORT];
