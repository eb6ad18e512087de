//! Where a Gateway can be reached: at what carries its name in the label
//! `gateway.networking.k8s.io/gateway-name`, be it made by hand or for it.

use std::net::IpAddr;

use super::{Fault, World, short_name};
use crate::source::gateway_api::{Gateway, GatewayAddressSpec};
use crate::source::kubernetes::{Labels, Pod, Service};
use crate::translate::Objects;
use crate::translate::service::virtual_ips;

/// On everything that belongs to a Gateway, its name.
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Addresses of one Gateway.
const MAX_ADDRESSES: usize = 16;

/// The addresses of a Gateway.
#[derive(Debug)]
pub(super) struct Addresses {
    /// In order of preference.
    assigned: Vec<GatewayAddressSpec>,
    /// What its specification wants; values may be empty.
    requested: Vec<GatewayAddressSpec>,
    /// Its Service was made for it, and none of its pods serves yet.
    is_pending: bool,
}

/// Finds them: those of its Services, or where it has no Service, of its pods. What waits for its load
/// balancer has no address yet: those of pods are gone with them, and nobody outside reaches them.
pub(super) fn find(world: &World<'_>, gateway: &Gateway) -> Addresses {
    let metadata = &gateway.metadata;
    let name = &*short_name(&metadata.name);
    let mut assigned = Vec::new();
    let mut is_pending = false;
    if let Some(objects) = world.objects.get(metadata.namespace.as_str()) {
        if !of_services(objects, name, &mut assigned) {
            of_pods(objects, name, &mut assigned);
        }
        is_pending = is_made(objects, gateway, name) && ready_pods(objects, name).next().is_none();
    }
    let mut distinct: Vec<GatewayAddressSpec> = Vec::new();
    for address in assigned {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    Addresses {
        assigned: distinct,
        requested: gateway.spec.addresses.clone(),
        is_pending,
    }
}

/// False where there is none.
fn of_services(objects: &Objects, gateway: &str, to: &mut Vec<GatewayAddressSpec>) -> bool {
    let services = objects.services.values();
    let mut is_any = false;
    for service in services.filter(|service| is_of(&service.metadata.labels, gateway)) {
        of_service(service, to);
        is_any = true;
    }
    is_any
}

/// True where the Gateway owns a Service: then its pods are those of the Deployment beside it.
fn is_made(objects: &Objects, gateway: &Gateway, name: &str) -> bool {
    let mut services = objects.services.values();
    services.any(|service| {
        let mut owners = service.metadata.owner_references.iter();
        is_of(&service.metadata.labels, name)
            && owners.any(|owner| owner.kind == "Gateway" && owner.name == gateway.metadata.name)
    })
}

/// The pods of a Gateway (by its short name) that are ready: one is when it has taken its
/// configuration for the first time and has its ports.
pub(super) fn ready_pods<'a>(objects: &'a Objects, name: &str) -> impl Iterator<Item = &'a Pod> {
    let pods = objects.pods.values().map(|pod| &**pod);
    pods.filter(move |pod| {
        let mut conditions = pod.status.conditions.iter();
        is_of(&pod.metadata.labels, name)
            && pod.metadata.deletion_timestamp.is_none()
            && conditions.any(|condition| condition.kind == "Ready" && condition.status == "True")
    })
}

/// From outside of the cluster first.
fn of_service(service: &Service, to: &mut Vec<GatewayAddressSpec>) {
    for ingress in &service.status.load_balancer.ingress {
        if let Ok(ip) = ingress.ip.parse() {
            to.push(ip_address(ip));
        } else if !ingress.hostname.is_empty() {
            to.push(GatewayAddressSpec {
                kind: "Hostname".to_owned(),
                value: ingress.hostname.clone(),
            });
        }
    }
    let external = service.spec.external_ips.iter();
    to.extend(external.filter_map(|ip| ip.parse().ok()).map(ip_address));
    if service.spec.kind != "LoadBalancer" {
        to.extend(virtual_ips(service).into_iter().map(ip_address));
    }
}

fn of_pods(objects: &Objects, gateway: &str, to: &mut Vec<GatewayAddressSpec>) {
    let pods = objects.pods.values();
    let pods = pods.filter(|pod| is_of(&pod.metadata.labels, gateway) && !pod.is_terminal());
    to.extend(pods.flat_map(|pod| pod.addresses()).map(ip_address));
}

fn is_of(labels: &Labels, gateway: &str) -> bool {
    labels.get(GATEWAY_NAME).is_some_and(|name| name == gateway)
}

fn ip_address(ip: IpAddr) -> GatewayAddressSpec {
    GatewayAddressSpec {
        kind: "IPAddress".to_owned(),
        value: ip.to_string(),
    }
}

impl Addresses {
    /// What is wrong with them.
    pub(super) fn fault(&self) -> Option<Fault> {
        let unusable = self.wanted().find(|wanted| !self.has(wanted));
        if let Some(unusable) = unusable {
            let message = format!("nothing of this Gateway is at {}", unusable.value);
            return Some(Fault::new("AddressNotUsable", message));
        }
        if self.assigned.is_empty() {
            let message = format!(
                "no Service, or without one no pod, with the label {GATEWAY_NAME} has an address"
            );
            return Some(Fault::new("AddressNotAssigned", message));
        }
        let message = "no pod of it has taken its configuration yet";
        self.is_pending.then(|| Fault::new("Pending", message))
    }

    /// Those that were asked for where some were, else all.
    pub(super) fn in_status(&self) -> Vec<GatewayAddressSpec> {
        let usable = self.wanted().filter(|wanted| self.has(wanted));
        let usable: Vec<_> = usable.take(MAX_ADDRESSES).cloned().collect();
        if !usable.is_empty() || self.wanted().next().is_some() {
            return usable;
        }
        self.assigned.iter().take(MAX_ADDRESSES).cloned().collect()
    }

    fn wanted(&self) -> impl Iterator<Item = &GatewayAddressSpec> {
        self.requested
            .iter()
            .filter(|address| !address.value.is_empty())
    }

    fn has(&self, wanted: &GatewayAddressSpec) -> bool {
        let parsed = |address: &GatewayAddressSpec| address.value.parse::<IpAddr>().ok();
        let wanted = parsed(wanted);
        wanted.is_some()
            && self
                .assigned
                .iter()
                .any(|address| parsed(address) == wanted)
    }
}
