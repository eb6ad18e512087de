//! BackendTLSPolicies: which of them hold, and for whom.

use std::collections::{BTreeMap, BTreeSet};

use agent_model::NamespacedHostname;
use agent_model::gateway::{
    Backend, BackendTls, GatewayKey, Hostname, SubjectAltName, TrustedRoots, VerifiedTls,
};

use super::refs::{self, AuthorityReasons, From};
use super::status::{ParentStatus, verdict};
use super::{Fault, Resolved, World, ancestors};
use crate::source::Kind;
use crate::source::gateway_api::{BackendTlsPolicy, BackendValidation, ParentRef, PolicyTarget};
use crate::translate::service::key;

/// Which Gateways send to a service.
pub(super) type Uses = BTreeMap<NamespacedHostname, BTreeSet<GatewayKey>>;
/// Group of ServiceEntries.
const ISTIO: &str = "networking.istio.io";

/// What a target is: a Service, and one of its ports where one is named.
type Place = (NamespacedHostname, Option<u16>);

/// Resolves them, the oldest first: of several for the same place it has it.
pub(super) fn resolve(world: &World<'_>, uses: &Uses, out: &mut Resolved) {
    let mut policies: Vec<&BackendTlsPolicy> = world
        .tables
        .policies
        .values()
        .map(|policy| &**policy)
        .collect();
    policies.sort_by_key(|policy| policy.metadata.seniority());
    let mut owners: BTreeMap<Place, &str> = BTreeMap::new();
    for policy in policies {
        let judged = judge(world, policy);
        let targets = policy.spec.target_refs.iter();
        let places = targets.flat_map(|target| places(world, policy, target));
        let places: Vec<Place> = places.collect();
        let mut conflict = None;
        let mut is_any = false;
        for place in &places {
            if let Some(owner) = owners.get(place) {
                let message = format!("{} is {owner}'s, which is older", place.0.hostname);
                conflict.get_or_insert(Fault::new("Conflicted", message));
                continue;
            }
            is_any = true;
            owners.insert(place.clone(), &policy.metadata.name);
            out.backends.push(Backend {
                service: place.0.clone(),
                port: place.1,
                tls: Some(judged.tls.clone()),
            });
        }
        let missing = || {
            let message = "no target is a Service of this namespace, or a host of a ServiceEntry";
            Fault::new("TargetNotFound", message)
        };
        let fault = match conflict {
            Some(conflict) if !is_any => Some(conflict),
            _ if places.is_empty() => Some(missing()),
            _ => judged.unaccepted,
        };
        report(
            (policy, &places),
            uses,
            fault.as_ref(),
            judged.unresolved.as_ref(),
            out,
        );
    }
}

/// Whether a policy is for a port of a service, be it one that cannot be used: then nothing is sent.
pub(super) fn is_covered(world: &World<'_>, service: &NamespacedHostname, port: u16) -> bool {
    let policies = world.tables.policies.values();
    let mut of_namespace = policies.filter(|one| *one.metadata.namespace == *service.namespace);
    of_namespace.any(|policy| {
        let targets = policy.spec.target_refs.iter();
        let mut places = targets.flat_map(|target| places(world, policy, target));
        places.any(|(of, at)| of == *service && at.is_none_or(|at| at == port))
    })
}

fn report(
    (policy, places): (&BackendTlsPolicy, &[Place]),
    uses: &Uses,
    unaccepted: Option<&Fault>,
    unresolved: Option<&Fault>,
    out: &mut Resolved,
) {
    let services: BTreeSet<NamespacedHostname> = named(policy)
        .chain(places.iter().map(|(service, _)| service.clone()))
        .collect();
    let gateways: BTreeSet<&GatewayKey> = services
        .iter()
        .filter_map(|service| uses.get(service))
        .flatten()
        .collect();
    let ancestors = gateways.into_iter().map(|gateway| ParentStatus {
        parent: ParentRef::gateway(gateway),
        conditions: vec![
            verdict("Accepted", unaccepted, "it holds for this Gateway"),
            verdict("ResolvedRefs", unresolved, "every reference resolves"),
        ],
    });
    let of = (&policy.metadata, &policy.status);
    ancestors::report(Kind::BackendTLSPolicy, of, ancestors, out);
}

fn is_service(target: &PolicyTarget) -> bool {
    target.group.is_empty() && target.kind == "Service"
}

/// The Services that are named, whether or not there are such.
fn named(policy: &BackendTlsPolicy) -> impl Iterator<Item = NamespacedHostname> {
    let targets = policy.spec.target_refs.iter();
    let targets = targets.filter(|target| is_service(target));
    targets.map(|target| key(&policy.metadata.namespace, &target.name))
}

/// What a target is: a Service, each host of a ServiceEntry, or one of those by its name.
fn places(world: &World<'_>, policy: &BackendTlsPolicy, target: &PolicyTarget) -> Vec<Place> {
    let namespace = policy.metadata.namespace.as_str();
    if is_service(target) {
        return place(world, namespace, target).into_iter().collect();
    }
    let is_host = match (target.group.as_str(), target.kind.as_str()) {
        (ISTIO, "ServiceEntry") => false,
        (ISTIO, "Hostname") => true,
        _ => return Vec::new(),
    };
    let objects = world.objects.get(namespace);
    let entries = objects
        .into_iter()
        .flat_map(|one| one.service_entries.iter());
    let mut found = Vec::new();
    for (name, entry) in entries {
        let port = match target.section() {
            None => None,
            Some(section) => match entry.spec.ports.iter().find(|port| port.name == section) {
                Some(port) => Some(port.number),
                None => continue,
            },
        };
        let hosts = entry.spec.hosts.iter().filter(|host| match is_host {
            true => **host == target.name,
            false => **name == *target.name,
        });
        found.extend(hosts.map(|host| (NamespacedHostname::new(namespace, host), port)));
    }
    // Entries may share a host.
    found.sort();
    found.dedup();
    found
}

/// `None` when there is no such thing.
fn place(world: &World<'_>, namespace: &str, target: &PolicyTarget) -> Option<Place> {
    let service = world.service(namespace, &target.name)?;
    let port = match target.section() {
        None => None,
        Some(name) => Some(service.port_named(name)?),
    };
    Some((key(namespace, &target.name), port))
}

struct Judged {
    tls: BackendTls,
    unaccepted: Option<Fault>,
    unresolved: Option<Fault>,
}

fn judge(world: &World<'_>, policy: &BackendTlsPolicy) -> Judged {
    let validation = &policy.spec.validation;
    let from = From {
        kind: Kind::BackendTLSPolicy,
        namespace: &policy.metadata.namespace,
    };
    let (roots, unresolved) = match roots(world, from, validation) {
        Ok((roots, unresolved)) => (Ok(roots), unresolved),
        Err((unaccepted, unresolved)) => (Err(unaccepted), unresolved),
    };
    match roots.and_then(|roots| verified(validation, roots)) {
        Ok(tls) => Judged {
            tls: BackendTls::Verified(tls),
            unaccepted: None,
            unresolved,
        },
        Err(fault) => Judged {
            tls: BackendTls::Invalid(fault.message.as_str().into()),
            unaccepted: Some(fault),
            unresolved,
        },
    }
}

type Unusable = (Fault, Option<Fault>);

fn roots(
    world: &World<'_>,
    from: From<'_>,
    validation: &BackendValidation,
) -> Result<(TrustedRoots, Option<Fault>), Unusable> {
    match validation.well_known.as_deref() {
        Some("System") => return Ok((TrustedRoots::System, None)),
        Some(other) => {
            let message = format!("wellKnownCACertificates {other:?} is not supported");
            return Err((Fault::new("Invalid", message), None));
        }
        None => {}
    }
    let reasons = AuthorityReasons {
        kind: "InvalidKind",
        missing: "InvalidCACertificateRef",
    };
    let references = &validation.ca_certificate_refs;
    let (pem, unresolved) = refs::authorities(world, from, references, reasons);
    if pem.is_empty() {
        let message = match &unresolved {
            Some(fault) => format!("no authority can be used: {}", fault.message),
            None => "no authority is named".to_owned(),
        };
        return Err((Fault::new("NoValidCACertificate", message), unresolved));
    }
    Ok((TrustedRoots::Certificates(pem.into()), unresolved))
}

fn verified(validation: &BackendValidation, roots: TrustedRoots) -> Result<VerifiedTls, Fault> {
    let invalid = |message: String| Fault::new("Invalid", message);
    let host = |text: &str| match text.parse::<Hostname>() {
        Ok(host) if !host.is_wildcard() => Ok(host),
        _ => Err(invalid(format!("{text:?} is not a host name"))),
    };
    let names = validation
        .subject_alt_names
        .iter()
        .map(|name| match name.kind.as_str() {
            // A wildcard is compared with a certificate's names as it is.
            "Hostname" => match name.hostname.parse::<Hostname>() {
                Ok(host) => Ok(SubjectAltName::Hostname(host.as_str().into())),
                Err(_) => Err(invalid(format!("{:?} is not a host name", name.hostname))),
            },
            "URI" if !name.uri.is_empty() => Ok(SubjectAltName::Uri(name.uri.as_str().into())),
            kind => Err(invalid(format!(
                "subjectAltNames: {kind:?} is not supported, or empty"
            ))),
        });
    Ok(VerifiedTls {
        hostname: host(&validation.hostname)?.as_str().into(),
        roots,
        subject_alt_names: names.collect::<Result<_, _>>()?,
    })
}
