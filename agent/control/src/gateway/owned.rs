//! The Gateways that are ours, and what their statuses say.

use std::collections::BTreeMap;

use agent_model::gateway::{Certificate, Gateway as Handed, GatewayKey, GatewayKind, WaypointFor};

use super::addresses::{self, Addresses};
use super::class::Class;
use super::listeners::Listener;
use super::refs::{self, From};
use super::status::{ObjectStatus, Reported, verdict};
use super::taken::{self, Standing};
use super::{Deployment, Fault, Resolved, World};
use crate::condition::Condition;
use crate::source::gateway_api::{Gateway, ListenerSet, Parameters};
use crate::source::kubernetes::Labels;
use crate::source::{Kind, ObjectRef};

/// Says what a waypoint is for, on the Gateway or on its class.
const WAYPOINT_FOR: [&str; 2] = ["culvert.dev/waypoint-for", "istio.io/waypoint-for"];

/// Annotations of a Gateway that has backends told who their clients proved to be.
const CLIENT_CERT_HEADER: [&str; 2] = [
    "culvert.dev/client-cert-header",
    "ambient.istio.io/xfcc-include-client-identity",
];

/// A Gateway of one of our classes.
#[derive(Debug)]
pub(super) struct Owned<'a> {
    pub(super) object: &'a Gateway,
    pub(super) kind: GatewayKind,
    /// Why none of it is accepted, whatever its listeners are.
    fault: Option<Fault>,
    /// How what is made for it is to be, or why nobody knows; then what there is stays and goes on.
    parameters: Result<Parameters, Fault>,
    /// Its class names parameters that are of no use.
    is_of_bad_class: bool,
    /// In the order in which they win conflicts: its own, then those of its sets.
    pub(super) listeners: Vec<Listener<'a>>,
    /// ListenerSets that name it, in order of precedence, each with why it is not let in.
    pub(super) sets: Vec<(&'a ListenerSet, Option<Fault>)>,
    client_certificate: Option<Result<Certificate, Fault>>,
}

/// Finds them; their listeners are for later.
pub(super) fn find<'a>(
    world: &World<'a>,
    classes: &BTreeMap<&'a str, Class<'a>>,
) -> Vec<Owned<'a>> {
    let gateways = world.tables.gateways.values();
    let ours = gateways.filter_map(|gateway| {
        let class = classes.get(gateway.spec.gateway_class_name.as_str())?;
        Some(Owned {
            object: gateway,
            kind: kind(gateway, class),
            fault: fault(gateway),
            parameters: parameters(world, gateway, class),
            is_of_bad_class: class.parameters.is_none(),
            listeners: Vec::new(),
            sets: Vec::new(),
            client_certificate: client_certificate(world, gateway),
        })
    });
    ours.collect()
}

fn kind(gateway: &Gateway, class: &Class<'_>) -> GatewayKind {
    if !class.is_of_waypoints() {
        return GatewayKind::Edge;
    }
    let labels = [&gateway.metadata.labels, &class.object.metadata.labels];
    let said = labels.into_iter().find_map(waypoint_for);
    GatewayKind::Waypoint(said.unwrap_or_default())
}

/// A value that means nothing counts as not set.
fn waypoint_for(labels: &Labels) -> Option<WaypointFor> {
    let mut values = WAYPOINT_FOR.iter().filter_map(|label| labels.get(*label));
    values.find_map(|value| match value.as_str() {
        "service" => Some(WaypointFor::Service),
        "workload" => Some(WaypointFor::Workload),
        "all" => Some(WaypointFor::All),
        "none" => Some(WaypointFor::None),
        _ => None,
    })
}

fn fault(gateway: &Gateway) -> Option<Fault> {
    let unsupported = gateway
        .spec
        .addresses
        .iter()
        .find(|of| of.kind != "IPAddress");
    unsupported.map(|of| {
        let message = format!(
            "spec.addresses: {:?} is not supported, only IPAddress",
            of.kind
        );
        Fault::new("UnsupportedAddress", message)
    })
}

/// Its own before those of its class.
fn parameters(
    world: &World<'_>,
    gateway: &Gateway,
    class: &Class<'_>,
) -> Result<Parameters, Fault> {
    let of_class = class.parameters.cloned().unwrap_or_default();
    let infrastructure = gateway.spec.infrastructure.as_ref();
    let Some(reference) = infrastructure.and_then(|of| of.parameters_ref.as_ref()) else {
        return Ok(of_class);
    };
    match refs::parameters(world, reference, &gateway.metadata.namespace) {
        Ok(own) => Ok(own.or(&of_class)),
        Err(message) => {
            let message = format!("spec.infrastructure.parametersRef: {message}");
            Err(Fault::new("InvalidParameters", message))
        }
    }
}

fn client_certificate(world: &World<'_>, gateway: &Gateway) -> Option<Result<Certificate, Fault>> {
    let reference = gateway.spec.tls.as_ref()?.client_certificate()?;
    let from = From {
        kind: Kind::Gateway,
        namespace: &gateway.metadata.namespace,
    };
    let reason = "InvalidClientCertificateRef";
    let found = refs::certificate(world, from, reference, reason);
    Some(found.map(|pair| pair.certificate))
}

impl Owned<'_> {
    pub(super) fn key(&self) -> GatewayKey {
        let metadata = &self.object.metadata;
        GatewayKey::new(&metadata.namespace, &metadata.name)
    }

    pub(super) fn is(&self, namespace: &str, name: &str) -> bool {
        let metadata = &self.object.metadata;
        metadata.namespace == namespace && metadata.name == name
    }

    /// Why ListenerSets and listeners count for nothing.
    pub(super) fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// What the gateway is handed, what is to be made for it, and its status and those of its sets.
    pub(super) fn report(&self, world: &World<'_>, out: &mut Resolved) {
        let addresses = addresses::find(world, self.object);
        let working = self.listeners.iter().filter_map(Listener::handed);
        let handed = Handed {
            key: self.key(),
            kind: self.kind,
            listeners: match self.fault {
                None => working.collect(),
                Some(_) => Vec::new(),
            },
            backend_client_certificate: self.client_certificate.clone().and_then(Result::ok),
        };
        let Standing { fault, remark } = taken::standing(world, &handed);
        out.gateways.push(handed);
        // What was made before stays while nothing is in order.
        if let (None, false, Ok(parameters)) = (&self.fault, self.is_of_bad_class, &self.parameters)
        {
            out.deployments.push(self.deployment(parameters));
        }
        let not_programmed = self.not_programmed(&addresses).or(fault);
        let is_programmed = not_programmed.is_none();
        let metadata = &self.object.metadata;
        let own = self
            .listeners
            .iter()
            .filter(|listener| listener.set.is_none());
        let status = ObjectStatus::Gateway {
            conditions: self.conditions(not_programmed.as_ref(), remark),
            listeners: own.map(|listener| listener.status(is_programmed)).collect(),
            attached_sets: self.sets.iter().filter(|set| self.is_attached(set)).count(),
            addresses: addresses.in_status(),
        };
        let object = ObjectRef::new(Kind::Gateway, &metadata.namespace, &metadata.name);
        out.statuses.insert(object, Reported::new(metadata, status));
        for set in &self.sets {
            self.report_set(set, is_programmed, out);
        }
    }

    fn deployment(&self, parameters: &Parameters) -> Deployment {
        let spec = &self.object.spec;
        let infrastructure = spec.infrastructure.as_ref();
        let requested = spec.addresses.iter().map(|address| address.value.clone());
        let working = self.listeners.iter().filter_map(Listener::handed);
        let mut ports: Vec<(u16, bool)> = working
            .map(|listener| {
                let is_udp = listener.protocol == agent_model::gateway::Protocol::Udp;
                (listener.port, is_udp)
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Deployment {
            gateway: self.key(),
            uid: self.object.metadata.uid.clone(),
            class: spec.gateway_class_name.clone(),
            is_waypoint: matches!(self.kind, GatewayKind::Waypoint(_)),
            labels: infrastructure
                .map(|of| of.labels.clone())
                .unwrap_or_default(),
            annotations: infrastructure
                .map(|of| of.annotations.clone())
                .unwrap_or_default(),
            parameters: parameters.clone(),
            addresses: requested.filter(|value| !value.is_empty()).collect(),
            ports,
            tells_clients: CLIENT_CERT_HEADER.iter().any(|key| {
                self.object
                    .metadata
                    .annotations
                    .get(*key)
                    .is_some_and(|it| it == "true")
            }),
        }
    }

    /// Why nothing of it is in force.
    fn not_programmed(&self, addresses: &Addresses) -> Option<Fault> {
        if self.not_accepted().is_some() {
            return Some(Fault::new("Invalid", "it is not accepted"));
        }
        if !self.listeners.iter().any(Listener::works) {
            return Some(Fault::new("Invalid", "none of its listeners is in order"));
        }
        addresses.fault()
    }

    fn not_accepted(&self) -> Option<Fault> {
        if let Some(fault) = self.fault.as_ref().or(self.parameters.as_ref().err()) {
            return Some(fault.clone());
        }
        let is_any = self.listeners.iter().any(Listener::is_accepted);
        (!is_any).then(|| Fault::new("ListenersNotValid", "none of its listeners is accepted"))
    }

    /// `remark` is what is wrong with part of what is in force.
    fn conditions(&self, not_programmed: Option<&Fault>, remark: Option<String>) -> Vec<Condition> {
        let not_accepted = self.not_accepted();
        let mut own = self
            .listeners
            .iter()
            .filter(|listener| listener.set.is_none());
        let accepted = if not_accepted.is_none() && own.any(|listener| !listener.is_accepted()) {
            let message = "some of its listeners are not accepted";
            Condition::new("Accepted", true, "ListenersNotValid", message)
        } else {
            verdict("Accepted", not_accepted.as_ref(), "Culvert serves it")
        };
        let listens = "it listens at its addresses";
        let listens = remark.map_or_else(|| listens.to_owned(), |but| format!("{listens}; {but}"));
        let programmed = verdict("Programmed", not_programmed, &listens);
        let mut own = self
            .listeners
            .iter()
            .filter(|listener| listener.set.is_none());
        let unresolved = match &self.client_certificate {
            Some(Err(fault)) => Some(fault.clone()),
            _ => own
                .find(|listener| listener.unresolved.is_some())
                .map(|listener| {
                    let message = format!(
                        "listener {:?} has references that lead nowhere",
                        listener.entry.name
                    );
                    Fault::new("ListenersNotResolved", message)
                }),
        };
        let resolved = verdict(
            "ResolvedRefs",
            unresolved.as_ref(),
            "every reference resolves",
        );
        let mut conditions = vec![accepted, programmed, resolved];
        if self.is_insecure() {
            let message = "clients without a valid certificate are let in";
            conditions.push(Condition::new(
                "InsecureFrontendValidationMode",
                true,
                "ConfigurationChanged",
                message,
            ));
        }
        conditions
    }

    fn is_insecure(&self) -> bool {
        let tls = self.object.spec.tls.as_ref();
        let frontend = tls.and_then(|tls| tls.frontend.as_ref());
        let mut validations = frontend
            .into_iter()
            .flat_map(|frontend| frontend.validations());
        validations.any(|validation| validation.is_insecure())
    }

    fn listeners_of<'s>(&'s self, set: &'s ListenerSet) -> impl Iterator<Item = &'s Listener<'s>> {
        let listeners = self.listeners.iter();
        listeners.filter(move |listener| listener.is_of(set))
    }

    fn is_attached(&self, (set, refusal): &(&ListenerSet, Option<Fault>)) -> bool {
        refusal.is_none() && self.listeners_of(set).any(Listener::works)
    }

    fn report_set(
        &self,
        (set, refusal): &(&ListenerSet, Option<Fault>),
        is_programmed: bool,
        out: &mut Resolved,
    ) {
        let works = self.listeners_of(set).any(Listener::works);
        let are_all_accepted = self.listeners_of(set).all(Listener::is_accepted);
        let invalid = || Fault::new("ListenersNotValid", "none of its listeners is in order");
        let not_accepted = refusal.clone().or_else(|| (!works).then(invalid));
        let not_programmed = not_accepted.clone().or_else(|| {
            let message = "its Gateway is not programmed";
            (!is_programmed).then(|| Fault::new("ParentNotProgrammed", message))
        });
        let accepted = if not_accepted.is_none() && !are_all_accepted {
            let message = "some of its listeners are not accepted";
            Condition::new("Accepted", true, "ListenersNotValid", message)
        } else {
            verdict("Accepted", not_accepted.as_ref(), "its Gateway lets it in")
        };
        let message = "its Gateway listens for it";
        let programmed = verdict("Programmed", not_programmed.as_ref(), message);
        let listeners = self.listeners_of(set);
        let status = ObjectStatus::ListenerSet {
            conditions: vec![accepted, programmed],
            listeners: listeners
                .map(|listener| listener.status(is_programmed))
                .collect(),
        };
        let metadata = &set.metadata;
        let object = ObjectRef::new(Kind::ListenerSet, &metadata.namespace, &metadata.name);
        out.statuses.insert(object, Reported::new(metadata, status));
    }
}
