//! The two resource types of ambient discovery.

/// A type of resource, each with its own name space and subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// Workloads (named by uid) and services (named `namespace/hostname`).
    Address,
    /// Authorization policies, named `namespace/name`.
    Authorization,
}

impl ResourceType {
    /// Both, in the order a client subscribes.
    pub const ALL: [Self; 2] = [Self::Address, Self::Authorization];

    /// The type URL on the wire.
    pub fn url(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }

    /// The type with that URL.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// One value per [`ResourceType`].
#[derive(Debug, Clone, Default)]
pub(crate) struct PerType<T> {
    address: T,
    authorization: T,
}

impl<T> PerType<T> {
    pub(crate) fn get(&self, kind: ResourceType) -> &T {
        match kind {
            ResourceType::Address => &self.address,
            ResourceType::Authorization => &self.authorization,
        }
    }

    pub(crate) fn get_mut(&mut self, kind: ResourceType) -> &mut T {
        match kind {
            ResourceType::Address => &mut self.address,
            ResourceType::Authorization => &mut self.authorization,
        }
    }
}
