//! What is to be said of an object, in the form of its kind.

use crate::condition::Condition;
use crate::source::gateway_api::{GatewayAddressSpec, ParentRef, RouteKindRef};
use crate::source::kubernetes::Metadata;

use super::Fault;

/// The status of an object, and of which generation of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) generation: i64,
    pub(crate) status: ObjectStatus,
}

impl Reported {
    pub(super) fn new(metadata: &Metadata, status: ObjectStatus) -> Self {
        Self {
            generation: metadata.generation,
            status,
        }
    }
}

/// A status in the form of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ObjectStatus {
    Class {
        conditions: Vec<Condition>,
        /// `supportedFeatures`, sorted.
        features: &'static [&'static str],
    },
    Gateway {
        conditions: Vec<Condition>,
        listeners: Vec<ListenerStatus>,
        attached_sets: usize,
        addresses: Vec<GatewayAddressSpec>,
    },
    ListenerSet {
        conditions: Vec<Condition>,
        listeners: Vec<ListenerStatus>,
    },
    /// `parents` of a route. None where no parent is ours: then what was written before is taken
    /// away, and nothing more is said.
    Route { parents: Vec<ParentStatus> },
    /// `ancestors` of a policy.
    Policy { ancestors: Vec<ParentStatus> },
}

/// One of `status.listeners`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenerStatus {
    pub(crate) name: String,
    pub(crate) supported_kinds: Vec<RouteKindRef>,
    pub(crate) attached: usize,
    pub(crate) conditions: Vec<Condition>,
}

/// One of `status.parents` or `status.ancestors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParentStatus {
    pub(crate) parent: ParentRef,
    pub(crate) conditions: Vec<Condition>,
}

/// True with the kind for its reason, else what is wrong.
pub(super) fn verdict(kind: &'static str, fault: Option<&Fault>, message: &str) -> Condition {
    match fault {
        None => Condition::new(kind, true, kind, message),
        Some(fault) => Condition::new(kind, false, fault.reason, &fault.message),
    }
}
