//! Rules on services, entries and addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::finding::Found;
use super::view::View;
use crate::code::Code;
use crate::collection::Inventory;
use crate::source::kubernetes::{Service, TargetPort};
use crate::source::{Kind, ObjectRef};
use crate::translate::membership::named_port;
use crate::translate::service::{tcp_ports, virtual_ips};

pub(super) fn check(view: &View<'_>, out: &mut Vec<Found>) {
    for service in view.objects().services.values() {
        selector(view, service, out);
    }
    if !view.knows_pods() {
        return;
    }
    for entry in view.objects().service_entries.values() {
        let Some(selector) = &entry.spec.workload_selector else {
            continue;
        };
        let wanted = &selector.labels;
        // One without labels selects nothing.
        if wanted.is_empty() || !view.has_any(wanted) {
            let object = view.object(Kind::ServiceEntry, &entry.metadata.name);
            let message = "spec.workloadSelector selects nothing in this namespace";
            out.push(Found::new(object, Code::EntrySelectsNothing, message));
        }
    }
}

fn selector(view: &View<'_>, service: &Service, out: &mut Vec<Found>) {
    let wanted = &service.spec.selector;
    if wanted.is_empty() || service.spec.kind == "ExternalName" || !view.knows_pods() {
        return;
    }
    let object = || view.object(Kind::Service, &service.metadata.name);
    if !view.has_any(wanted) {
        let message = "spec.selector selects no pod of this namespace";
        out.push(Found::new(object(), Code::ServiceSelectsNothing, message));
        return;
    }
    for port in tcp_ports(service) {
        let Some(TargetPort::Name(name)) = &port.target_port else {
            continue;
        };
        let mut pods = view.by_label().with(wanted).peekable();
        if pods.peek().is_some() && pods.all(|seen| named_port(seen.pod, name).is_none()) {
            let message = format!(
                "port {} leads to the named port {name:?}, which none of its pods has",
                port.port
            );
            let found = Found::new(object(), Code::TargetPortUnknown, message);
            out.push(found.at("spec.ports".to_owned()));
        }
    }
}

/// Addresses that two pods or two Services have, in whichever namespaces.
pub(super) fn addresses(inventory: &Inventory, out: &mut Vec<Found>) {
    let mut owners: BTreeMap<IpAddr, ObjectRef> = BTreeMap::new();
    let mut take = |ip: IpAddr, object: ObjectRef| {
        if let Some(first) = owners.get(&ip).filter(|first| **first != object) {
            let message = format!("its address {ip} is that of {first}, too");
            out.push(Found::new(object, Code::AddressTwice, message));
        } else {
            owners.insert(ip, object);
        }
    };
    for (namespace, objects) in &inventory.objects {
        let pods = objects.pods.values();
        let live = pods.filter(|pod| {
            let is_going = pod.metadata.deletion_timestamp.is_some();
            !pod.is_terminal() && !pod.spec.host_network && !is_going
        });
        for pod in live {
            for ip in pod.addresses() {
                take(ip, ObjectRef::new(Kind::Pod, namespace, &pod.metadata.name));
            }
        }
        for service in objects.services.values() {
            for ip in virtual_ips(service) {
                let name = &service.metadata.name;
                take(ip, ObjectRef::new(Kind::Service, namespace, name));
            }
        }
    }
}
