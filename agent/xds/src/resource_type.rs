//! The resource types of discovery: those of ambient, and our own for gateways.

/// A type of resource, each with its own name space and subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// Workloads (named by uid) and services (named `namespace/hostname`).
    Address,
    /// Authorization policies of L4, named `namespace/name`.
    Authorization,
    /// A gateway and its listeners, named `namespace/name`.
    Gateway,
    /// A route of one gateway, named `<gateway>|<kind>/<namespace>/<name>`.
    Route,
    /// Settings for a service behind one gateway, named `<gateway>|<namespace>/<hostname>[:<port>]`.
    Backend,
    /// An authorization policy of requests through one gateway, named
    /// `<gateway>|<namespace>/<name>`.
    Access,
    /// Which tokens count at one gateway, named `<gateway>|<namespace>/<name>`.
    Authentication,
    /// What a TrafficPolicy says at one gateway, named `<gateway>|<namespace>/<name>`.
    TrafficPolicy,
}

impl ResourceType {
    /// Every type.
    pub const ALL: [Self; 8] = [
        Self::Address,
        Self::Authorization,
        Self::Gateway,
        Self::Route,
        Self::Backend,
        Self::Access,
        Self::Authentication,
        Self::TrafficPolicy,
    ];
    /// What a node subscribes to, in this order.
    pub const OF_NODES: &'static [Self] = &[Self::Address, Self::Authorization];
    /// What a gateway subscribes to, in this order: what routes name, and who may use them, comes
    /// before them.
    pub const OF_GATEWAYS: &'static [Self] = &[
        Self::Address,
        Self::Authentication,
        Self::Access,
        Self::Backend,
        Self::TrafficPolicy,
        Self::Gateway,
        Self::Route,
    ];

    /// The type URL on the wire.
    pub fn url(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
            Self::Gateway => "type.googleapis.com/culvert.gateway.v1.Gateway",
            Self::Route => "type.googleapis.com/culvert.gateway.v1.Route",
            Self::Backend => "type.googleapis.com/culvert.gateway.v1.Backend",
            Self::Access => "type.googleapis.com/culvert.gateway.v1.Access",
            Self::Authentication => "type.googleapis.com/culvert.gateway.v1.Authentication",
            Self::TrafficPolicy => "type.googleapis.com/culvert.gateway.v1.TrafficPolicy",
        }
    }

    /// The type with that URL.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// True for what belongs to one gateway and is told to nobody else: its listeners come with
    /// their private keys.
    pub(crate) fn is_of_one_gateway(self) -> bool {
        match self {
            Self::Address | Self::Authorization => false,
            Self::Gateway
            | Self::Route
            | Self::Backend
            | Self::Access
            | Self::Authentication
            | Self::TrafficPolicy => true,
        }
    }

    /// True for what a gateway is never to be without while it serves: who may send requests, and
    /// the TLS of its backends.
    pub(crate) fn protects(self) -> bool {
        matches!(self, Self::Authentication | Self::Access | Self::Backend)
    }
}

/// One value per [`ResourceType`].
#[derive(Debug, Clone, Default)]
pub(crate) struct PerType<T>([T; ResourceType::ALL.len()]);

impl<T> PerType<T> {
    pub(crate) fn get(&self, kind: ResourceType) -> &T {
        &self.0[kind as usize]
    }

    pub(crate) fn get_mut(&mut self, kind: ResourceType) -> &mut T {
        &mut self.0[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_place() {
        for (place, kind) in ResourceType::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
            assert_eq!(ResourceType::from_url(kind.url()), Some(kind));
        }
    }
}
