//! Which waypoint is in front of what, by labels: that of the object before that of its namespace.
//!
//! What is bound to a waypoint that does not exist, or that does not let it in, is bound to a name
//! that leads nowhere: nodes refuse to connect there and name the waypoint, rather than go around
//! the policy that somebody wants to hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_model::gateway::WaypointFor;
use agent_model::{GatewayAddress, GatewayTarget, HBONE_PORT, NamespacedHostname};

use super::Scope;
use super::service::key;
use crate::source::gateway_api::Namespaces;
use crate::source::kubernetes::{Labels, Metadata};

/// Names the waypoint, or says `none`.
const USE: [&str; 2] = ["culvert.dev/use-waypoint", "istio.io/use-waypoint"];
/// Names its namespace; that of the object by default.
const USE_NAMESPACE: [&str; 2] = [
    "culvert.dev/use-waypoint-namespace",
    "istio.io/use-waypoint-namespace",
];
/// Says that gateways at the border go through the waypoint.
const INGRESS: [&str; 2] = [
    "culvert.dev/ingress-use-waypoint",
    "istio.io/ingress-use-waypoint",
];
/// What belongs to a gateway is never behind a waypoint.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// A Gateway that is a waypoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waypoint {
    /// Traffic it is for.
    pub(crate) reach: WaypointFor,
    /// Port of its tunnels.
    pub(crate) port: u16,
    /// Namespaces that may use it; its own by default.
    pub(crate) allowed: Namespaces,
    /// A policy is attached to it, for all that passes.
    pub(crate) is_policed: bool,
}

/// The waypoints of all namespaces, by namespace and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Waypoints(BTreeMap<(Arc<str>, Arc<str>), Waypoint>);

/// What something is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) address: GatewayAddress,
    /// Namespace and name of the Gateway.
    pub(crate) gateway: (Arc<str>, Arc<str>),
    /// A policy is attached to the waypoint itself.
    pub(crate) is_policed: bool,
    /// Why nobody gets through.
    pub(crate) lost: Option<String>,
}

/// How it stands with the waypoint that a label names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// `namespace/name` of the Gateway.
    pub(crate) waypoint: String,
    pub(crate) state: State,
}

/// What keeps something from being behind the waypoint it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing: it is.
    InFront,
    /// There is none of that name.
    Missing,
    /// It does not let in what is of this namespace.
    Refused,
    /// It is for other traffic.
    ForOthers,
}

/// What is said of a waypoint.
struct Said<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl Waypoints {
    pub(crate) const NONE: Self = Self(BTreeMap::new());

    pub(crate) fn new(waypoints: BTreeMap<(Arc<str>, Arc<str>), Waypoint>) -> Self {
        Self(waypoints)
    }

    /// A policy is attached to that one.
    pub(crate) fn police(&mut self, gateway: &(Arc<str>, Arc<str>)) {
        if let Some(waypoint) = self.0.get_mut(gateway) {
            waypoint.is_policed = true;
        }
    }

    /// What a Service or ServiceEntry is bound to: labels of the object, its namespace, labels of
    /// that.
    pub(crate) fn of_service(
        &self,
        labels: &Labels,
        namespace: &str,
        namespace_labels: &Labels,
    ) -> Option<Bound> {
        let said = said(labels, namespace, namespace_labels)?;
        match self.find(&said, namespace, namespace_labels) {
            Ok(waypoint) if !matches!(waypoint.reach, WaypointFor::Service | WaypointFor::All) => {
                None
            }
            found => Some(bound(&said, found)),
        }
    }

    /// The same for a pod or WorkloadEntry. One that is missing may have been for workloads: what a
    /// Gateway was for is forgotten with it, and that must not open anything.
    pub(crate) fn of_workload(
        &self,
        labels: &Labels,
        namespace: &str,
        namespace_labels: &Labels,
    ) -> Option<Bound> {
        let said = said(labels, namespace, namespace_labels)?;
        match self.find(&said, namespace, namespace_labels) {
            Ok(waypoint) if !matches!(waypoint.reach, WaypointFor::Workload | WaypointFor::All) => {
                None
            }
            Err(Lost::Refused(waypoint))
                if !matches!(waypoint.reach, WaypointFor::Workload | WaypointFor::All) =>
            {
                None
            }
            found => Some(bound(&said, found)),
        }
    }

    /// The waypoint that a Service or ServiceEntry is behind, by namespace and name.
    pub(crate) fn serving(
        &self,
        labels: &Labels,
        namespace: &str,
        namespace_labels: &Labels,
    ) -> Option<(Arc<str>, Arc<str>)> {
        let said = said(labels, namespace, namespace_labels)?;
        let waypoint = self.find(&said, namespace, namespace_labels).ok()?;
        matches!(waypoint.reach, WaypointFor::Service | WaypointFor::All)
            .then(|| (said.namespace.into(), said.name.into()))
    }

    /// How it stands with something that has these labels: a Service or ServiceEntry, or else a
    /// workload. `None` where no waypoint is named.
    pub(crate) fn standing(
        &self,
        labels: &Labels,
        (namespace, namespace_labels): (&str, &Labels),
        is_service: bool,
    ) -> Option<Standing> {
        let said = said(labels, namespace, namespace_labels)?;
        let state = match self.find(&said, namespace, namespace_labels) {
            Err(Lost::Missing) => State::Missing,
            Err(Lost::Refused(_)) => State::Refused,
            Ok(waypoint) => match (waypoint.reach, is_service) {
                (WaypointFor::All, _)
                | (WaypointFor::Service, true)
                | (WaypointFor::Workload, false) => State::InFront,
                _ => State::ForOthers,
            },
        };
        let Said { namespace, name } = said;
        Some(Standing {
            waypoint: format!("{namespace}/{name}"),
            state,
        })
    }

    fn find(
        &self,
        said: &Said<'_>,
        namespace: &str,
        namespace_labels: &Labels,
    ) -> Result<&Waypoint, Lost<'_>> {
        let at = (said.namespace.into(), said.name.into());
        let waypoint = self.0.get(&at).ok_or(Lost::Missing)?;
        let allowed = &waypoint.allowed;
        let lets_in = match allowed.from.as_str() {
            "" | "Same" => said.namespace == namespace,
            "All" => true,
            "Selector" => {
                let selector = allowed.selector.as_ref();
                selector.is_some_and(|selector| selector.matches(namespace_labels))
            }
            _ => false,
        };
        if lets_in {
            Ok(waypoint)
        } else {
            Err(Lost::Refused(waypoint))
        }
    }
}

/// Why a waypoint is of no use.
enum Lost<'a> {
    Missing,
    /// It does not let in what is of this namespace.
    Refused(&'a Waypoint),
}

fn said<'a>(
    labels: &'a Labels,
    namespace: &'a str,
    namespace_labels: &'a Labels,
) -> Option<Said<'a>> {
    if labels.contains_key(GATEWAY_NAME) {
        return None;
    }
    let value = |labels: &'a Labels, keys: [&str; 2]| {
        let mut values = keys.into_iter().filter_map(|key| labels.get(key));
        values.find(|value| !value.is_empty()).map(String::as_str)
    };
    let places = [labels, namespace_labels];
    let (at, name) = places
        .into_iter()
        .find_map(|labels| Some((labels, value(labels, USE)?)))?;
    (name != "none").then(|| Said {
        namespace: value(at, USE_NAMESPACE).unwrap_or(namespace),
        name,
    })
}

fn bound(said: &Said<'_>, found: Result<&Waypoint, Lost<'_>>) -> Bound {
    let Said { namespace, name } = said;
    let is_policed = found.as_ref().is_ok_and(|waypoint| waypoint.is_policed);
    let (key, port, lost) = match found {
        Ok(waypoint) => (key(namespace, name), waypoint.port, None),
        Err(lost) => {
            let (word, why) = match lost {
                Lost::Missing => ("missing", "does not exist"),
                Lost::Refused(_) => ("not-allowed", "does not let this namespace in"),
            };
            // RFC 2606: nothing is ever of this name, whatever Service has the waypoint's.
            let hostname = format!("{name}.{namespace}.{word}.invalid");
            let key = NamespacedHostname::new(namespace, &hostname);
            let why = format!("waypoint {namespace}/{name} {why}");
            (key, HBONE_PORT, Some(why))
        }
    };
    Bound {
        address: GatewayAddress {
            target: GatewayTarget::Hostname(key),
            hbone_mtls_port: port,
        },
        gateway: ((*namespace).into(), (*name).into()),
        is_policed,
        lost,
    }
}

/// What a Service or ServiceEntry is behind.
pub(super) fn of_service(scope: &Scope<'_>, metadata: &Metadata) -> Option<Bound> {
    let labels = scope.namespace_labels();
    scope
        .waypoints
        .of_service(&metadata.labels, scope.name, labels)
}

/// What a pod or WorkloadEntry with these labels is behind.
pub(super) fn of_workload(scope: &Scope<'_>, labels: &Labels) -> Option<Bound> {
    scope
        .waypoints
        .of_workload(labels, scope.name, scope.namespace_labels())
}

/// Whether gateways at the border are to go through the waypoint of a service, as its labels say or
/// those of its namespace. A value that means nothing counts as not set.
pub(super) fn takes_ingress(labels: &Labels, namespace_labels: &Labels) -> Option<bool> {
    let said = |labels: &Labels| {
        let mut values = INGRESS.iter().filter_map(|key| labels.get(*key));
        values.find_map(|value| value.parse().ok())
    };
    said(labels).or_else(|| said(namespace_labels))
}

/// Whether an object has something to say of its own.
pub(crate) fn names_waypoint(labels: &Labels) -> bool {
    USE.iter().any(|key| labels.contains_key(*key))
}
