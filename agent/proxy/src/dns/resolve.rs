//! From a question to an answer out of the mesh's state.

use std::net::IpAddr;
use std::sync::Arc;

use agent_model::{Health, HealthPolicy, LoadBalancingMode, Service, Visibility, Workload};
use agent_state::Snapshot;

use super::names::{candidates, wildcards};
use super::wire::{Family, Query};

/// How long a client may keep the address of a service, in seconds.
const SERVICE_TTL: u32 = 30;
/// The same of a pod, which goes away sooner.
const POD_TTL: u32 = 5;
/// Addresses in one answer at most.
const MAX_ADDRESSES: usize = 1000;

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Not the mesh's to say: the question goes on as it is.
    Forward,
    /// The mesh knows the name.
    Known {
        /// The name it is known by, where that is not the one asked for.
        alias: Option<String>,
        /// Addresses of the family asked for; none when it has only others, which is an answer too:
        /// a client must not look for them elsewhere.
        addresses: Vec<IpAddr>,
        /// Seconds a client may keep them.
        ttl: u32,
    },
}

/// Answers `query` of `client` from the mesh. `domain` is the cluster's (`cluster.local`); `turn` is
/// any number, by which the order of addresses is turned.
///
/// Only what `client` may see counts: services of its own namespace, and of the others those that
/// stand for their name in all of the mesh. A host of a ServiceEntry is the mesh's only where
/// connections to its addresses get somewhere: through a waypoint, or to endpoints with addresses or
/// names.
pub fn resolve(
    snapshot: &Snapshot,
    client: &Workload,
    query: &Query<'_>,
    domain: &str,
    turn: usize,
) -> Answer {
    for candidate in candidates(&query.name, &client.namespace, domain) {
        let name = candidate.name.as_str();
        let found = visible(snapshot, client, name)
            .and_then(|service| of_service(snapshot, client, service, domain))
            .or_else(|| of_pod(snapshot, client, name, domain))
            .map(|(addresses, ttl)| {
                (
                    addresses,
                    ttl,
                    candidate.is_stripped.then(|| name.to_owned()),
                )
            })
            .or_else(|| {
                let covered = candidate
                    .is_whole
                    .then(|| of_wildcard(snapshot, client, name, domain));
                covered
                    .flatten()
                    .map(|(addresses, ttl)| (addresses, ttl, None))
            });
        if let Some((addresses, ttl, alias)) = found {
            return Answer::Known {
                alias,
                addresses: selected(addresses, query.family, turn),
                ttl,
            };
        }
    }
    Answer::Forward
}

/// Addresses and how long they last.
type Found = (Vec<IpAddr>, u32);

/// The service that the client means by a host name. Who writes an entry with the name of another's
/// service says something to its own namespace only.
fn visible<'a>(snapshot: &'a Snapshot, client: &Workload, host: &str) -> Option<&'a Arc<Service>> {
    let service = snapshot.service_by_hostname(host, &client.namespace)?;
    let is_own = *service.namespace == *client.namespace;
    let is_public = service.canonical && service.visibility == Visibility::Public;
    (is_own || is_public).then_some(service)
}

fn of_service(
    snapshot: &Snapshot,
    client: &Workload,
    service: &Service,
    domain: &str,
) -> Option<Found> {
    let is_of_cluster = is_below_svc(&service.hostname, domain);
    if service.vips.is_empty() {
        // One without endpoints may be one of a kind that is not known here.
        let addresses = is_of_cluster.then(|| pods(snapshot, client, service, |_| true))?;
        return (!addresses.is_empty()).then_some((addresses, POD_TTL));
    }
    if !is_of_cluster && !leads_somewhere(snapshot, service) {
        return None;
    }
    // Hosts of entries are given addresses of both families: those that the client cannot dial
    // would only be in its way.
    let can_dial = |ip: &IpAddr| {
        let mut own = client.addresses.iter().map(IpAddr::to_canonical);
        is_of_cluster || own.any(|own| own.is_ipv4() == ip.is_ipv4())
    };
    let vips = service.vips.iter();
    let addresses: Vec<IpAddr> = vips
        .filter(|vip| vip.network == client.network)
        .map(|vip| vip.address.to_canonical())
        .filter(can_dial)
        .collect();
    (!addresses.is_empty()).then_some((addresses, SERVICE_TTL))
}

/// `pod.service.namespace.svc.domain` of a headless service.
fn of_pod(snapshot: &Snapshot, client: &Workload, name: &str, domain: &str) -> Option<Found> {
    let (pod, host) = name.split_once('.')?;
    if !is_below_svc(host, domain) {
        return None;
    }
    let service = visible(snapshot, client, host).filter(|service| service.vips.is_empty())?;
    let addresses = pods(snapshot, client, service, |workload| {
        *workload.name == *pod && workload.namespace == service.namespace
    });
    (!addresses.is_empty()).then_some((addresses, POD_TTL))
}

fn of_wildcard(snapshot: &Snapshot, client: &Workload, name: &str, domain: &str) -> Option<Found> {
    let service = wildcards(name).find_map(|host| visible(snapshot, client, &host))?;
    of_service(snapshot, client, service, domain)
}

/// Addresses of the ready endpoints of a headless service that `wanted` takes.
fn pods(
    snapshot: &Snapshot,
    client: &Workload,
    service: &Service,
    wanted: impl Fn(&Workload) -> bool,
) -> Vec<IpAddr> {
    let takes_all = service.load_balancing.health_policy == HealthPolicy::AllowAll;
    let key = service.key();
    let endpoints = snapshot.endpoints(&key).filter(|workload| {
        (takes_all || workload.health == Health::Healthy)
            && workload.network == client.network
            && wanted(workload)
    });
    let mut addresses = Vec::new();
    for workload in endpoints {
        // One address of each family.
        for is_ipv4 in [true, false] {
            let mut canonical = workload.addresses.iter().map(IpAddr::to_canonical);
            addresses.extend(canonical.find(|ip| ip.is_ipv4() == is_ipv4));
        }
        if addresses.len() >= 2 * MAX_ADDRESSES {
            break;
        }
    }
    addresses
}

/// Whether a connection to one of the service's addresses can get anywhere.
fn leads_somewhere(snapshot: &Snapshot, service: &Service) -> bool {
    let key = service.key();
    let mut endpoints = snapshot.endpoints(&key);
    service.waypoint.is_some()
        || service.load_balancing.mode == LoadBalancingMode::Passthrough
        || endpoints.any(|workload| !workload.addresses.is_empty() || !workload.hostname.is_empty())
}

fn is_below_svc(host: &str, domain: &str) -> bool {
    let rest = host.strip_suffix(domain);
    rest.is_some_and(|rest| rest.ends_with(".svc."))
}

fn selected(mut addresses: Vec<IpAddr>, family: Family, turn: usize) -> Vec<IpAddr> {
    addresses.retain(|address| family.has(*address));
    addresses.truncate(MAX_ADDRESSES);
    if !addresses.is_empty() {
        let by = turn % addresses.len();
        addresses.rotate_left(by);
    }
    addresses
}
