//! Which routes attach to what.

use std::collections::BTreeSet;

use agent_model::gateway::{Hostname, Parent, Route as Handed, RouteKey, RouteKind};
use k8s_openapi::jiff::Timestamp;

use super::listeners::{Listener, is_allowed};
use super::owned::Owned;
use super::rules::{self, Translated};
use super::status::{ObjectStatus, ParentStatus, Reported, verdict};
use super::tls_policy::Uses;
use super::{Fault, Resolved, World, waypoints};
use crate::condition::Condition;
use crate::source::gateway_api::{GROUP, ParentRef, Route};
use crate::source::kubernetes::Metadata;
use crate::source::{Kind, ObjectRef};
use crate::translate::enrolment;
use crate::translate::service::key;
use crate::translate::waypoint::{Bound, Waypoints};

/// Attaches every route to its parents that are ours. Returns which Gateways send to which service.
pub(super) fn routes<'w>(
    world: &World<'w>,
    gateways: &mut [Owned<'w>],
    out: &mut Resolved,
) -> Uses {
    let waypoints = waypoints::of(gateways);
    let mut attaching = Attaching {
        world,
        gateways,
        waypoints: &waypoints,
        taken: BTreeSet::new(),
        uses: Uses::new(),
    };
    let mut routes: Vec<(Kind, &Route)> = world
        .tables
        .routes
        .iter()
        .map(|((kind, ..), route)| (*kind, &**route))
        .collect();
    // The oldest comes first.
    routes.sort_by_key(|(kind, route)| (*kind, route.metadata.seniority()));
    for (kind, route) in routes {
        attaching.attach(kind, route, out);
    }
    attaching.uses
}

struct Attaching<'a, 'w> {
    world: &'a World<'w>,
    gateways: &'a mut [Owned<'w>],
    waypoints: &'a Waypoints,
    /// Listeners that have the one route that can be served there.
    taken: BTreeSet<(usize, usize)>,
    uses: Uses,
}

/// A listener, by the indexes of its Gateway and its own.
type Place = (usize, usize);

/// What becomes of a parent reference.
enum Judged {
    /// It is attached to these listeners.
    Listeners(Vec<Place>),
    /// It is attached to a Service.
    Service(Parent),
    Refused(Fault),
}

impl Attaching<'_, '_> {
    fn attach(&mut self, kind: Kind, route: &Route, out: &mut Resolved) {
        let references = route.spec.parent_refs.iter();
        let judged: Vec<(&ParentRef, Judged)> = references
            .filter_map(|parent| Some((parent, self.judge(kind, route, parent)?)))
            .collect();
        let metadata = &route.metadata;
        let object = ObjectRef::new(kind, &metadata.namespace, &metadata.name);
        if judged.is_empty() {
            if route.status.is_ours() {
                let status = ObjectStatus::Route {
                    parents: Vec::new(),
                };
                out.statuses.insert(object, Reported::new(metadata, status));
            }
            return;
        }
        let translated = rules::translate(self.world, kind, route);
        let mut attached = BTreeSet::new();
        let mut parents = Vec::new();
        for (_, judged) in &judged {
            match judged {
                _ if translated.is_void => {}
                Judged::Listeners(places) => attached.extend(places.iter().copied()),
                Judged::Service(parent) if !parents.contains(parent) => {
                    parents.push(parent.clone());
                }
                Judged::Service(_) | Judged::Refused(_) => {}
            }
        }
        for place in attached {
            parents.extend(self.take_place(kind, place, &translated));
        }
        let statuses = judged.iter().map(|(parent, judged)| ParentStatus {
            parent: (*parent).clone(),
            conditions: conditions(judged, &translated),
        });
        let status = ObjectStatus::Route {
            parents: statuses.collect(),
        };
        out.statuses.insert(object, Reported::new(metadata, status));
        if !parents.is_empty() {
            let hostnames = route.spec.hostnames.iter();
            out.routes.push(Handed {
                key: RouteKey::new(route_kind(kind), &metadata.namespace, &metadata.name),
                created: created(metadata),
                hostnames: hostnames.filter_map(|name| name.parse().ok()).collect(),
                parents,
                rules: translated.rules,
            });
        }
    }

    /// Counts a route at a listener. Returns the parent it is for the gateway, if it serves there.
    fn take_place(&mut self, kind: Kind, place: Place, route: &Translated) -> Option<Parent> {
        let gateway = self.gateways.get_mut(place.0)?;
        let key = gateway.key();
        let listener = gateway.listeners.get_mut(place.1)?;
        listener.attached += 1;
        let is_only_one = matches!(kind, Kind::TCPRoute | Kind::UDPRoute);
        if is_only_one && !self.taken.insert(place) {
            return None;
        }
        for service in &route.services {
            let users = self.uses.entry(service.clone()).or_default();
            users.insert(key.clone());
        }
        listener.works().then(|| Parent::Listener {
            gateway: key,
            name: listener.name.as_str().into(),
        })
    }

    /// `None` for a parent that is not ours, of which nothing is said.
    fn judge(&self, kind: Kind, route: &Route, parent: &ParentRef) -> Option<Judged> {
        let own = route.metadata.namespace.as_str();
        let namespace = parent.namespace_or(own);
        if parent.is("", "Service") {
            return self.judge_service(kind, route, parent, namespace);
        }
        let candidates: Vec<(Place, &Listener<'_>)> = if parent.is(GROUP, "Gateway") {
            let mut all = self.gateways.iter().enumerate();
            let (at, gateway) = all.find(|(_, of)| of.is(namespace, &parent.name))?;
            let listeners = gateway.listeners.iter().enumerate();
            let own = listeners.filter(|(_, listener)| listener.set.is_none());
            own.map(|(index, listener)| ((at, index), listener))
                .collect()
        } else if parent.is(GROUP, "ListenerSet") {
            let is_named = |metadata: &Metadata| {
                metadata.namespace == namespace && metadata.name == parent.name
            };
            let mut all = self.gateways.iter().enumerate();
            let (at, gateway) =
                all.find(|(_, of)| of.sets.iter().any(|(set, _)| is_named(&set.metadata)))?;
            let listeners = gateway.listeners.iter().enumerate();
            let of_set = listeners
                .filter(|(_, listener)| listener.set.is_some_and(|set| is_named(&set.metadata)));
            of_set
                .map(|(index, listener)| ((at, index), listener))
                .collect()
        } else {
            return None;
        };
        Some(self.choose(kind, route, parent, candidates))
    }

    /// Those of the listeners that take the route.
    fn choose(
        &self,
        kind: Kind,
        route: &Route,
        parent: &ParentRef,
        candidates: Vec<(Place, &Listener<'_>)>,
    ) -> Judged {
        let refused = |reason, message: &str| Judged::Refused(Fault::new(reason, message));
        let section = parent
            .section_name
            .as_deref()
            .filter(|name| !name.is_empty());
        let named = |listener: &Listener<'_>| {
            section.is_none_or(|name| listener.entry.name == name)
                && parent.port.is_none_or(|port| listener.entry.port == port)
        };
        let mut found = candidates;
        found.retain(|(_, listener)| named(listener));
        if found.is_empty() {
            return refused("NoMatchingParent", "it has no such listener");
        }
        found.retain(|(_, listener)| self.takes(listener, kind, &route.metadata.namespace));
        if found.is_empty() {
            let message = "no listener takes routes of this kind from this namespace";
            return refused("NotAllowedByListeners", message);
        }
        let hostnames: Vec<Hostname> = {
            let hostnames = route.spec.hostnames.iter();
            hostnames.filter_map(|name| name.parse().ok()).collect()
        };
        if hostnames.is_empty() && !route.spec.hostnames.is_empty() {
            return refused("UnsupportedValue", "none of its hostnames is one");
        }
        found.retain(|(_, listener)| meet(listener, &hostnames));
        if found.is_empty() {
            let message = "no listener is for any of its hostnames";
            return refused("NoMatchingListenerHostname", message);
        }
        Judged::Listeners(found.into_iter().map(|(place, _)| place).collect())
    }

    fn takes(&self, listener: &Listener<'_>, kind: Kind, namespace: &str) -> bool {
        let allowed = &listener.entry.allowed_routes.namespaces;
        listener.kinds.contains(&kind)
            && listener.is_distinct()
            && is_allowed(self.world, allowed, "Same", listener.namespace, namespace)
    }

    /// A route for what clients in the mesh send to a Service: its waypoint is what serves it.
    fn judge_service(
        &self,
        kind: Kind,
        route: &Route,
        parent: &ParentRef,
        namespace: &str,
    ) -> Option<Judged> {
        let service = self.world.service(namespace, &parent.name)?;
        let labels = self.world.labels_of(namespace);
        let metadata = &service.metadata;
        let bound = self
            .waypoints
            .of_service(&metadata.labels, namespace, &labels);
        let refused = |reason, message: String| Some(Judged::Refused(Fault::new(reason, message)));
        match bound {
            // Without a label it may be another mesh's to say something.
            None if enrolment::opted(&labels) != Some(true) => return None,
            None => {
                let message = "no waypoint is in front of this Service; bind one with the label \
                               culvert.dev/use-waypoint";
                return refused("NoMatchingParent", message.to_owned());
            }
            Some(Bound {
                lost: Some(why), ..
            }) => return refused("NoMatchingParent", why),
            Some(_) => {}
        }
        if !matches!(kind, Kind::HTTPRoute | Kind::GRPCRoute) {
            let message = "only an HTTPRoute or GRPCRoute can have a Service for its parent";
            return refused("NotAllowedByListeners", message.to_owned());
        }
        let section = parent
            .section_name
            .as_deref()
            .filter(|name| !name.is_empty());
        let is_named = section.is_some() || parent.port.is_some();
        let mut ports = service.spec.ports.iter();
        let found = ports.find(|port| {
            section.is_none_or(|name| port.name == name)
                && parent.port.is_none_or(|number| port.port == number)
        });
        if is_named && found.is_none() {
            return refused(
                "NoMatchingParent",
                "the Service has no such port".to_owned(),
            );
        }
        let own = route.metadata.namespace.as_str();
        Some(Judged::Service(Parent::Service {
            service: key(namespace, &parent.name),
            port: found.filter(|_| is_named).map(|port| port.port),
            consumer_namespace: (own != namespace).then(|| own.into()),
        }))
    }
}

/// Names count for listeners that have some.
fn meet(listener: &Listener<'_>, hostnames: &[Hostname]) -> bool {
    let Some(own) = &listener.hostname else {
        return true;
    };
    hostnames.is_empty()
        || hostnames
            .iter()
            .any(|name| name.intersection(own).is_some())
}

fn conditions(judged: &Judged, route: &Translated) -> Vec<Condition> {
    let unsupported = route.unsupported.join("; ");
    let accepted = match judged {
        Judged::Refused(fault) => Some(fault.clone()),
        _ if route.is_void => Some(Fault::new("UnsupportedValue", unsupported.as_str())),
        _ => None,
    };
    let mut conditions = vec![
        verdict("Accepted", accepted.as_ref(), "it is in force here"),
        verdict(
            "ResolvedRefs",
            route.unresolved.as_ref(),
            "every reference resolves",
        ),
    ];
    if accepted.is_none() && !unsupported.is_empty() {
        let partially = Condition::new("PartiallyInvalid", true, "UnsupportedValue", &unsupported);
        conditions.push(partially);
    }
    conditions
}

fn route_kind(kind: Kind) -> RouteKind {
    match kind {
        Kind::GRPCRoute => RouteKind::Grpc,
        Kind::TLSRoute => RouteKind::Tls,
        Kind::TCPRoute => RouteKind::Tcp,
        Kind::UDPRoute => RouteKind::Udp,
        _ => RouteKind::Http,
    }
}

/// Seconds since 1970; 0 for one that was written by hand and does not say.
pub(super) fn created(metadata: &Metadata) -> u64 {
    let created = metadata.creation_timestamp.as_deref();
    let created = created.and_then(|text| text.parse::<Timestamp>().ok());
    created.map_or(0, |time| u64::try_from(time.as_second()).unwrap_or(0))
}
