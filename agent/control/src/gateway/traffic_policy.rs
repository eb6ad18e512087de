//! TrafficPolicies: which of them hold, and which gateways are told (GEP-713). Each part counts for
//! itself: of two policies with the same part for the same target the older one has it.

use std::collections::{BTreeMap, BTreeSet};

use agent_model::GatewayTarget;
use agent_model::gateway::traffic::{Redis, TrafficPolicy, TrafficTarget};
use agent_model::gateway::{
    BackendTls, GatewayKey, GatewayKind, Parent, Route as Handed, RouteKey, RouteKind, TrustedRoots,
};

use super::attach::created;
use super::owned::Owned;
use super::refs::{self, AuthorityReasons, From};
use super::status::{ParentStatus, verdict};
use super::tls_policy::Uses;
use super::{Fault, Resolved, World, ancestors, waypoints};
use crate::source::Kind;
use crate::source::gateway_api::{ObjectReference, ParentRef};
use crate::source::traffic::{TargetRef, TrafficPolicyObject, translate};
use crate::translate::service::key;

/// Who has a part for a target.
type Owners<'a> = BTreeMap<(TrafficTarget, &'static str), &'a TrafficPolicyObject>;

/// What a target comes to.
struct Place {
    target: TrafficTarget,
    /// Gateways that serve it.
    served: BTreeSet<GatewayKey>,
    /// Those that are told: waypoints learn of every service, as which of them serves one may
    /// change any moment.
    told: BTreeSet<GatewayKey>,
}

/// Resolves them, the oldest first.
pub(super) fn resolve(world: &World<'_>, gateways: &[Owned<'_>], uses: &Uses, out: &mut Resolved) {
    let mut objects: Vec<&TrafficPolicyObject> = world
        .tables
        .traffic
        .values()
        .map(|object| &**object)
        .collect();
    objects.sort_by_key(|object| object.metadata.seniority());
    let mut owners = Owners::new();
    for object in objects {
        // What cannot be translated was never let in.
        let Ok(mut policy) = translate(object) else {
            continue;
        };
        policy.created = created(&object.metadata);
        let unresolved = introduce(world, object, &mut policy);
        let mut ancestors = Ancestors::default();
        let mut told: BTreeMap<GatewayKey, Vec<TrafficTarget>> = BTreeMap::new();
        for target in &object.spec.target_refs {
            let found = place(world, gateways, uses, &out.routes, object, target);
            let place = match found {
                Ok(Some(place)) => place,
                // It is somebody else's, of which nothing is said.
                Ok(None) => continue,
                Err(fault) => {
                    ancestors.refuse(own_reference(object, target), fault);
                    continue;
                }
            };
            let lost = claim(&mut owners, object, &policy, &place.target);
            if place.served.is_empty() {
                let fault = Fault::new("NotServed", "no Gateway of this mesh serves it");
                ancestors.refuse(own_reference(object, target), fault);
            }
            for gateway in &place.served {
                let parts = policy.parts().count();
                ancestors.count(ParentRef::gateway(gateway), parts, &lost);
            }
            for gateway in place.told {
                told.entry(gateway).or_default().push(place.target.clone());
            }
        }
        for (gateway, targets) in told {
            let policy = TrafficPolicy {
                targets,
                ..policy.clone()
            };
            out.traffic.push((gateway, policy));
        }
        report(object, ancestors, unresolved.as_ref(), out);
    }
}

/// Takes the parts of a policy for a target. Returns those that an older policy has, with its name.
fn claim<'a>(
    owners: &mut Owners<'a>,
    object: &'a TrafficPolicyObject,
    policy: &TrafficPolicy,
    target: &TrafficTarget,
) -> Vec<String> {
    let mut lost = Vec::new();
    for part in policy.parts() {
        let owner = owners.entry((target.clone(), part)).or_insert(object);
        if !std::ptr::eq(*owner, object) {
            let metadata = &owner.metadata;
            lost.push(format!(
                "{part} is {}/{}'s",
                metadata.namespace, metadata.name
            ));
        }
    }
    lost
}

/// Who is trusted to be its Redis, and the login there. What is wrong with the first reference that
/// cannot be used; `None` without references.
fn introduce(
    world: &World<'_>,
    object: &TrafficPolicyObject,
    policy: &mut TrafficPolicy,
) -> Option<Option<Fault>> {
    let limit = policy.rate_limit.as_mut();
    let redis = &mut limit.and_then(|limit| limit.global.as_mut())?.redis;
    let found = [verify(world, object, redis), log_in(world, object, redis)];
    let mut found = found.into_iter().flatten().peekable();
    found.peek()?;
    Some(found.flatten().next())
}

/// The authorities of its Redis. Where none can be used, nothing is sent there.
fn verify(
    world: &World<'_>,
    object: &TrafficPolicyObject,
    redis: &mut Redis,
) -> Option<Option<Fault>> {
    let Some(BackendTls::Verified(tls)) = &mut redis.tls else {
        return None;
    };
    let references = object.authorities().map(|name| ObjectReference {
        kind: Some("ConfigMap".to_owned()),
        name: name.to_owned(),
        ..ObjectReference::default()
    });
    let references: Vec<_> = references.collect();
    if references.is_empty() {
        return None;
    }
    let from = From {
        kind: Kind::TrafficPolicy,
        namespace: &object.metadata.namespace,
    };
    let reasons = AuthorityReasons {
        kind: "InvalidKind",
        missing: "InvalidCACertificateRef",
    };
    let (pem, unresolved) = refs::authorities(world, from, &references, reasons);
    match (&unresolved, pem.is_empty()) {
        (Some(fault), true) => {
            redis.tls = Some(BackendTls::Invalid(fault.message.as_str().into()));
        }
        _ => tls.roots = TrustedRoots::Certificates(pem.into()),
    }
    Some(unresolved)
}

/// The login of its Redis.
fn log_in(
    world: &World<'_>,
    object: &TrafficPolicyObject,
    redis: &mut Redis,
) -> Option<Option<Fault>> {
    let name = object.secret()?;
    let namespace = object.metadata.namespace.as_str();
    let secrets = &world.tables.secrets;
    let secret = secrets.get(&(namespace.into(), name.into()));
    let login = secret.and_then(|secret| secret.login.clone());
    let missing = login.is_none();
    redis.login = login;
    Some(missing.then(|| {
        let message = match secret {
            None => format!("Secret {namespace}/{name} does not exist"),
            Some(_) => format!("Secret {namespace}/{name} has no password"),
        };
        Fault::new("InvalidSecretRef", message)
    }))
}

/// `None` for a target that is not ours to speak of.
fn place(
    world: &World<'_>,
    gateways: &[Owned<'_>],
    uses: &Uses,
    routes: &[Handed],
    object: &TrafficPolicyObject,
    target: &TargetRef,
) -> Result<Option<Place>, Fault> {
    let namespace = object.metadata.namespace.as_str();
    match target.kind.as_str() {
        "Service" => service(world, gateways, uses, namespace, target).map(Some),
        "Gateway" => gateway(world, gateways, namespace, target),
        _ => route(world, gateways, routes, namespace, target).map(Some),
    }
}

fn missing(what: &str, target: &TargetRef) -> Fault {
    let message = match target.section() {
        Some(section) => format!("there is no {what} {} with {section:?}", target.name),
        None => format!("there is no {what} {}", target.name),
    };
    Fault::new("TargetNotFound", message)
}

fn service(
    world: &World<'_>,
    gateways: &[Owned<'_>],
    uses: &Uses,
    namespace: &str,
    target: &TargetRef,
) -> Result<Place, Fault> {
    let found = world.service(namespace, &target.name);
    let service = found.ok_or_else(|| missing("Service", target))?;
    let port = target.section().map(|name| {
        let port = service.port_named(name);
        port.ok_or_else(|| missing("Service", target))
    });
    let host = key(namespace, &target.name);
    let mut served = uses.get(&host).cloned().unwrap_or_default();
    let labels = world.labels_of(namespace);
    let metadata = &service.metadata;
    let bound = waypoints::of(gateways).of_service(&metadata.labels, namespace, &labels);
    let address = bound
        .filter(|bound| bound.lost.is_none())
        .map(|bound| bound.address.target);
    let waypoint = gateways.iter().find(|gateway| {
        let metadata = &gateway.object.metadata;
        let own = GatewayTarget::Hostname(key(&metadata.namespace, &metadata.name));
        address.as_ref() == Some(&own)
    });
    served.extend(waypoint.map(Owned::key));
    let mut told = served.clone();
    told.extend(all_waypoints(gateways));
    Ok(Place {
        target: TrafficTarget::Service {
            service: host,
            port: port.transpose()?,
        },
        served,
        told,
    })
}

fn gateway(
    world: &World<'_>,
    gateways: &[Owned<'_>],
    namespace: &str,
    target: &TargetRef,
) -> Result<Option<Place>, Fault> {
    let mut ours = gateways.iter();
    let Some(owned) = ours.find(|gateway| gateway.is(namespace, &target.name)) else {
        let key = (namespace.into(), target.name.as_str().into());
        return match world.tables.gateways.contains_key(&key) {
            true => Ok(None),
            false => Err(missing("Gateway", target)),
        };
    };
    let has = |name: &str| owned.listeners.iter().any(|of| of.name == name);
    if target.section().is_some_and(|name| !has(name)) {
        return Err(missing("Gateway", target));
    }
    let gateway = owned.key();
    Ok(Some(Place {
        target: TrafficTarget::Gateway {
            gateway: gateway.clone(),
            listener: target.section().map(Into::into),
        },
        served: [gateway.clone()].into(),
        told: [gateway].into(),
    }))
}

fn route(
    world: &World<'_>,
    gateways: &[Owned<'_>],
    routes: &[Handed],
    namespace: &str,
    target: &TargetRef,
) -> Result<Place, Fault> {
    let (kind, route_kind) = match target.kind.as_str() {
        "GRPCRoute" => (Kind::GRPCRoute, RouteKind::Grpc),
        _ => (Kind::HTTPRoute, RouteKind::Http),
    };
    let of_kind = &world.tables.routes;
    let object = of_kind.get(&(kind, namespace.into(), target.name.as_str().into()));
    let object = object.ok_or_else(|| missing(&target.kind, target))?;
    let has = |name: &str| object.spec.rules.iter().any(|rule| rule.name == name);
    if target.section().is_some_and(|name| !has(name)) {
        return Err(missing(&target.kind, target));
    }
    let key = RouteKey::new(route_kind, namespace, &target.name);
    let handed = routes.iter().find(|route| route.key == key);
    let mut served = BTreeSet::new();
    for parent in handed.into_iter().flat_map(|route| &route.parents) {
        match parent {
            Parent::Listener { gateway, .. } => {
                served.insert(gateway.clone());
            }
            Parent::Service { .. } => served.extend(all_waypoints(gateways)),
        }
    }
    Ok(Place {
        target: TrafficTarget::Route {
            route: key,
            rule: target.section().map(Into::into),
        },
        told: served.clone(),
        served,
    })
}

fn all_waypoints<'a>(gateways: &'a [Owned<'_>]) -> impl Iterator<Item = GatewayKey> + 'a {
    let waypoints = gateways
        .iter()
        .filter(|gateway| matches!(gateway.kind, GatewayKind::Waypoint(_)));
    waypoints.map(Owned::key)
}

/// A target that no gateway stands for stands for itself.
fn own_reference(object: &TrafficPolicyObject, target: &TargetRef) -> ParentRef {
    ParentRef {
        group: Some(target.group.clone()),
        kind: Some(target.kind.clone()),
        namespace: Some(object.metadata.namespace.clone()),
        name: target.name.clone(),
        section_name: target.section().map(str::to_owned),
        port: None,
    }
}

/// What is to be said of each ancestor.
#[derive(Default)]
struct Ancestors(Vec<(ParentRef, Standing)>);

#[derive(Default)]
struct Standing {
    refused: Option<Fault>,
    /// Parts of all targets that this ancestor serves.
    parts: usize,
    lost: Vec<String>,
}

impl Ancestors {
    fn of(&mut self, reference: ParentRef) -> &mut Standing {
        let at = self.0.iter().position(|(of, _)| *of == reference);
        let at = at.unwrap_or_else(|| {
            self.0.push((reference, Standing::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    fn refuse(&mut self, reference: ParentRef, fault: Fault) {
        self.of(reference).refused = Some(fault);
    }

    fn count(&mut self, reference: ParentRef, parts: usize, lost: &[String]) {
        let standing = self.of(reference);
        standing.parts += parts;
        standing.lost.extend_from_slice(lost);
    }
}

fn report(
    object: &TrafficPolicyObject,
    Ancestors(ancestors): Ancestors,
    unresolved: Option<&Option<Fault>>,
    out: &mut Resolved,
) {
    let ancestors = ancestors.into_iter().map(|(parent, standing)| {
        let Standing {
            refused,
            parts,
            lost,
        } = standing;
        let conflict = lost.join("; ");
        let fault = match refused {
            Some(fault) => Some(fault),
            None if lost.len() == parts => Some(Fault::new("Conflicted", conflict.as_str())),
            None => None,
        };
        let message = match lost.is_empty() {
            true => "it holds for this Gateway".to_owned(),
            false => format!("it holds for this Gateway, but {conflict}"),
        };
        let mut conditions = vec![verdict("Accepted", fault.as_ref(), &message)];
        let resolved = "every reference resolves";
        conditions.extend(unresolved.map(|of| verdict("ResolvedRefs", of.as_ref(), resolved)));
        ParentStatus { parent, conditions }
    });
    let of = (&object.metadata, &object.status);
    ancestors::report(Kind::TrafficPolicy, of, ancestors, out);
}
