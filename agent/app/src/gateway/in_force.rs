//! What the gateway serves now, as it was told.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_gateway::Place;
use agent_gateway::plan::Fault;
use agent_model::gateway::{Listener, Route};

/// What is served now.
#[derive(Debug, Clone, Default)]
pub(super) struct InForce {
    /// The listeners.
    pub(super) listeners: Vec<Listener>,
    /// The routes by name.
    pub(super) routes: BTreeMap<String, Arc<Route>>,
    /// Ports that are wanted.
    pub(super) ports: Vec<Place>,
    /// Those of them that cannot be had, each with the reason.
    pub(super) ports_missing: Vec<String>,
    /// Rules that cannot be used.
    pub(super) faults: Vec<Fault>,
}
