//! Policies of requests: which gateways enforce them, by what they are attached to.
//!
//! - A Gateway of the policy's namespace: every request through it.
//! - A GatewayClass of waypoints, named by a policy of the root namespace: its Gateways.
//! - A Service or ServiceEntry of the policy's namespace: requests to it at the waypoint that it is
//!   behind. Every waypoint is told, as with routes: which of them serves a service may change any
//!   moment, and it must know the policy by then.
//! - No target: Gateways at the border, of the policy's namespace (of every one for the root
//!   namespace), that the selector selects by the labels their pods have. A waypoint is nobody's
//!   workload, and only a selector that names a Gateway selects one.

use std::collections::BTreeSet;
use std::sync::Arc;

use agent_model::NamespacedHostname;
use agent_model::access::PolicyTarget;
use agent_model::gateway::{GatewayKey, GatewayKind};

use super::addresses::GATEWAY_NAME;
use super::owned::Owned;
use super::{Resolved, World, waypoints};
use crate::code::Code;
use crate::source::gateway_api::GROUP;
use crate::source::istio::{self, AuthorizationPolicy, RequestAuthentication, Selector};
use crate::source::kubernetes::Labels;
use crate::source::{Kind, ObjectRef};
use crate::translate::waypoint::Waypoints;
use crate::translate::{Note, access, authorization};

/// On the pods of a Gateway, the name of its class.
const GATEWAY_CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";

/// Puts every policy where it belongs.
pub(super) fn resolve(world: &World<'_>, gateways: &[Owned<'_>], out: &mut Resolved) {
    let places = Places {
        world,
        gateways,
        waypoints: waypoints::of(gateways),
    };
    for objects in world.objects.values() {
        for policy in objects.authorization_policies.values() {
            places.put_access(policy, out);
        }
        for policy in objects.request_authentications.values() {
            places.put_authentication(policy, out);
        }
    }
}

/// The gateways before all of whose requests a policy in force stands: one that names the Gateway,
/// its class, or the label of its pods. A trial holds nothing.
pub(super) fn attached(world: &World<'_>, gateways: &[Owned<'_>]) -> BTreeSet<GatewayKey> {
    let places = Places {
        world,
        gateways,
        waypoints: Waypoints::NONE,
    };
    let mut attached = BTreeSet::new();
    for objects in world.objects.values() {
        let policies = objects.authorization_policies.values();
        let in_force = policies
            .filter(|policy| authorization::action(policy).is_some() && !policy.is_dry_run());
        let access = in_force.map(|policy| Attachment::of_access(policy));
        let tokens = objects.request_authentications.values();
        let tokens = tokens.map(|policy| Attachment::of_tokens(policy));
        for attachment in access.chain(tokens) {
            attached.extend(places.find(&attachment).whole);
        }
    }
    attached
}

struct Places<'a> {
    world: &'a World<'a>,
    gateways: &'a [Owned<'a>],
    waypoints: Waypoints,
}

/// What of a policy says where it belongs.
struct Attachment<'a> {
    namespace: &'a str,
    selector: Option<&'a Selector>,
    targets: Vec<&'a istio::PolicyTarget>,
}

impl<'a> Attachment<'a> {
    fn of_access(policy: &'a AuthorizationPolicy) -> Self {
        let spec = &policy.spec;
        Self {
            namespace: &policy.metadata.namespace,
            selector: authorization::selector(policy),
            targets: spec.target_refs.iter().chain(&spec.target_ref).collect(),
        }
    }

    fn of_tokens(policy: &'a RequestAuthentication) -> Self {
        let spec = &policy.spec;
        let selector = spec.selector.as_ref();
        Self {
            namespace: &policy.metadata.namespace,
            selector: selector.filter(|selector| !selector.match_labels.is_empty()),
            targets: spec.target_refs.iter().chain(&spec.target_ref).collect(),
        }
    }
}

/// Where a policy belongs.
#[derive(Default)]
struct Found {
    targets: Vec<PolicyTarget>,
    /// Gateways it is for as a whole.
    whole: BTreeSet<GatewayKey>,
    /// Who is told.
    told: BTreeSet<GatewayKey>,
    /// Who enforces it now.
    enforcers: BTreeSet<GatewayKey>,
    /// Why a target is of no use.
    lost: Vec<String>,
}

impl<'a> Places<'a> {
    fn put_access(&self, policy: &AuthorizationPolicy, out: &mut Resolved) {
        let Some(action) = authorization::action(policy) else {
            // Whoever looks at connections says so.
            return;
        };
        let metadata = &policy.metadata;
        let found = self.find(&Attachment::of_access(policy));
        let kind = Kind::AuthorizationPolicy;
        let object = ObjectRef::new(kind, &metadata.namespace, &metadata.name);
        if authorization::has_targets(policy) {
            note(&object, &found, out);
        }
        let (access, faults) = access::access(policy, action, found.targets);
        if !found.told.is_empty() {
            let faults = faults.into_iter();
            out.notes
                .extend(faults.map(|what| Note::new(object.clone(), Code::NotDecided, what)));
        }
        let told = found.told.into_iter();
        out.access.extend(told.map(|key| (key, access.clone())));
        if !found.enforcers.is_empty() {
            out.enforcers.insert(object, found.enforcers);
        }
    }

    fn put_authentication(&self, policy: &RequestAuthentication, out: &mut Resolved) {
        let metadata = &policy.metadata;
        let found = self.find(&Attachment::of_tokens(policy));
        let kind = Kind::RequestAuthentication;
        let object = ObjectRef::new(kind, &metadata.namespace, &metadata.name);
        note(&object, &found, out);
        let authentication = access::authentication(policy, found.targets);
        let told = found.told.into_iter();
        out.authentications
            .extend(told.map(|key| (key, authentication.clone())));
        if !found.enforcers.is_empty() {
            out.enforcers.insert(object, found.enforcers);
        }
    }

    fn find(&self, attachment: &Attachment<'_>) -> Found {
        let mut found = Found::default();
        for target in &attachment.targets {
            if let Err(why) = self.find_target(attachment.namespace, target, &mut found) {
                let istio::PolicyTarget { kind, name, .. } = target;
                found.lost.push(format!("{kind} {name:?}: {why}"));
            }
        }
        if attachment.targets.is_empty() {
            self.find_selected(attachment, &mut found);
        }
        found
    }

    fn find_target(
        &self,
        namespace: &str,
        target: &istio::PolicyTarget,
        found: &mut Found,
    ) -> Result<(), String> {
        let name = target.name.as_str();
        if !target.namespace.is_empty() && target.namespace != namespace {
            return Err("a policy is attached to what is in its own namespace".to_owned());
        }
        match (target.group.as_str(), target.kind.as_str()) {
            // Who leaves the group away means the one kind of that name.
            (GROUP | "", "Gateway") => {
                let mut gateways = self.gateways.iter();
                let gateway = gateways.find(|gateway| gateway.is(namespace, name));
                let gateway = gateway.ok_or("there is no such Gateway of Culvert's here")?;
                found.add_gateway(&gateway.key());
                Ok(())
            }
            (GROUP | "", "GatewayClass") => self.find_class(namespace, name, found),
            ("", "Service") => {
                let service = self.world.service(namespace, name);
                let service = service.ok_or("there is no such Service")?;
                let key = crate::translate::service::key(namespace, name);
                self.find_service(namespace, &service.metadata.labels, vec![key], found)
            }
            ("networking.istio.io" | "", "ServiceEntry") => {
                let objects = self.world.objects.get(namespace);
                let entry = objects.and_then(|objects| objects.service_entries.get(name));
                let entry = entry.ok_or("there is no such ServiceEntry")?;
                let hosts = entry.spec.hosts.iter();
                let hosts = hosts.map(|host| NamespacedHostname::new(namespace, host));
                self.find_service(namespace, &entry.metadata.labels, hosts.collect(), found)
            }
            (group, _) => Err(format!("no policy is attached to kinds of group {group:?}")),
        }
    }

    fn find_class(&self, namespace: &str, name: &str, found: &mut Found) -> Result<(), String> {
        let root = &self.world.mesh.root_namespace;
        if *namespace != **root {
            return Err(format!("only policies of {root} are attached to classes"));
        }
        let of_class = |gateway: &&Owned<'_>| {
            gateway.object.spec.gateway_class_name == name
                && matches!(gateway.kind, GatewayKind::Waypoint(_))
        };
        let mut is_any = false;
        for gateway in self.gateways.iter().filter(of_class) {
            found.add_gateway(&gateway.key());
            is_any = true;
        }
        match is_any {
            true => Ok(()),
            false => Err("there is no waypoint of this class".to_owned()),
        }
    }

    fn find_service(
        &self,
        namespace: &str,
        labels: &Labels,
        hosts: Vec<NamespacedHostname>,
        found: &mut Found,
    ) -> Result<(), String> {
        let targets = hosts.into_iter().map(PolicyTarget::Service);
        found.targets.extend(targets);
        let waypoints = self.gateways.iter().filter(|gateway| {
            let is_waypoint = matches!(gateway.kind, GatewayKind::Waypoint(_));
            is_waypoint
        });
        found.told.extend(waypoints.map(Owned::key));
        let namespace_labels = self.world.labels_of(namespace);
        let serving = self.waypoints.serving(labels, namespace, &namespace_labels);
        let (namespace, name) = serving.ok_or("it is behind no waypoint")?;
        found.enforcers.insert(GatewayKey { namespace, name });
        Ok(())
    }

    fn find_selected(&self, attachment: &Attachment<'_>, found: &mut Found) {
        let is_root = *attachment.namespace == *self.world.mesh.root_namespace;
        for gateway in self.gateways {
            let key = gateway.key();
            if !is_root && *key.namespace != *attachment.namespace {
                continue;
            }
            let is_meant = match attachment.selector {
                None => gateway.kind == GatewayKind::Edge,
                Some(selector) => {
                    let names_one = selector.match_labels.contains_key(GATEWAY_NAME);
                    (names_one || gateway.kind == GatewayKind::Edge)
                        && selector.matches(&labels(gateway))
                }
            };
            if is_meant {
                found.add_gateway(&key);
            }
        }
    }
}

impl Found {
    fn add_gateway(&mut self, key: &GatewayKey) {
        let name: Arc<str> = key.to_string().into();
        self.targets.push(PolicyTarget::Gateway(name));
        self.whole.insert(key.clone());
        self.told.insert(key.clone());
        self.enforcers.insert(key.clone());
    }
}

/// What the pods of a Gateway are labelled with.
fn labels(gateway: &Owned<'_>) -> Labels {
    let (metadata, spec) = (&gateway.object.metadata, &gateway.object.spec);
    let infrastructure = spec.infrastructure.as_ref();
    let mut labels = infrastructure.map_or_else(Labels::new, |of| of.labels.clone());
    labels.insert(GATEWAY_NAME.to_owned(), metadata.name.clone());
    let class = spec.gateway_class_name.clone();
    labels.insert(GATEWAY_CLASS_NAME.to_owned(), class);
    labels
}

/// Tells the author where nobody enforces the policy, or not everybody who is meant to.
fn note(object: &ObjectRef, found: &Found, out: &mut Resolved) {
    let (code, message) = match (found.enforcers.is_empty(), found.lost.as_slice()) {
        (false, []) => return,
        (false, lost) => (Code::TargetMissing, lost.join("; ")),
        (true, []) => {
            let why = "it needs requests, and it applies to no gateway; nodes do not look into \
                       connections";
            (
                Code::TargetUnsupported,
                format!("nobody enforces it: {why}"),
            )
        }
        (true, lost) => {
            let message = format!("nobody enforces it: {}", lost.join("; "));
            (Code::TargetUnsupported, message)
        }
    };
    out.notes.push(Note::new(object.clone(), code, message));
}
