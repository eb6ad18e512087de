//! Which endpoint of a service takes a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use agent_model::{
    Health, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, LocalityScope, Reason,
    Service, Workload,
};

use super::{Chooser, target_port};
use crate::Snapshot;

/// Up to here every candidate is looked at; of more, this many random ones.
const MAX_COMPARED: usize = 32;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The service.
    pub(super) service: &'a Arc<Service>,
    /// Its port that was dialled.
    pub(super) port: u16,
    /// The address that was dialled: an endpoint that owns it is dialled by it, and its family is
    /// preferred.
    pub(super) dialled: IpAddr,
}

/// How an endpoint is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dial {
    /// By its address.
    Address(SocketAddr),
    /// By its host name, at this port.
    Name(u16),
}

/// An endpoint that could take the connection.
#[derive(Debug, Clone)]
struct Candidate<'a> {
    workload: &'a Arc<Workload>,
    dial: Dial,
    rank: usize,
}

/// Why endpoints were passed over, for the message when none is left.
#[derive(Debug, Default)]
struct PassedOver {
    all: usize,
    unhealthy: usize,
    without_port: usize,
    unreachable: usize,
    tried: usize,
    too_far: usize,
}

/// Chooses an endpoint of a service: healthy, with the port, as near as the service asks for, and
/// of those one with few connections for its capacity.
pub(super) fn endpoint(
    snapshot: &Snapshot,
    source: &Workload,
    wanted: Wanted<'_>,
    chooser: &mut Chooser<'_>,
) -> Result<(Arc<Workload>, Dial), (Reason, String)> {
    let key = wanted.service.key();
    if !wanted
        .service
        .ports
        .iter()
        .any(|port| port.service_port == wanted.port)
    {
        let detail = format!("{key} has no port {}", wanted.port);
        return Err((Reason::ServicePortUnknown, detail));
    }
    let mut passed_over = PassedOver::default();
    let mut candidates: Vec<Candidate<'_>> = snapshot
        .endpoints(&key)
        .filter_map(|workload| consider(source, workload, wanted, chooser.tried, &mut passed_over))
        .collect();
    let nearest = candidates.iter().map(|candidate| candidate.rank).max();
    candidates.retain(|candidate| Some(candidate.rank) == nearest);
    match least_loaded(&candidates, chooser) {
        Some(chosen) => Ok((Arc::clone(chosen.workload), chosen.dial)),
        None => Err((passed_over.reason(), format!("{key}: {passed_over}"))),
    }
}

/// Endpoints of a service that may take traffic to one of its ports, with the address to dial, in
/// order of uid: what a gateway in `network` balances over.
pub fn endpoints(
    snapshot: &Snapshot,
    service: &Service,
    port: u16,
    network: &str,
) -> Vec<(Arc<Workload>, SocketAddr)> {
    let all = service.load_balancing.health_policy == HealthPolicy::AllowAll;
    let takes = |workload: &Workload| {
        (all || workload.health == Health::Healthy)
            && workload.capacity > 0
            && *workload.network == *network
    };
    let allowed = |address: &IpAddr| match service.ip_families {
        IpFamilies::Ipv4Only => address.is_ipv4(),
        IpFamilies::Ipv6Only => address.is_ipv6(),
        IpFamilies::Automatic | IpFamilies::Dual => true,
    };
    let key = service.key();
    let workloads = snapshot.endpoints(&key).filter(|workload| takes(workload));
    let dialled = workloads.filter_map(|workload| {
        let address = workload.addresses.iter().copied().find(allowed)?;
        let port = target_port(service, workload, port)?;
        Some((Arc::clone(workload), SocketAddr::new(address, port)))
    });
    dialled.collect()
}

fn consider<'a>(
    source: &Workload,
    workload: &'a Arc<Workload>,
    wanted: Wanted<'_>,
    tried: &[Arc<str>],
    passed_over: &mut PassedOver,
) -> Option<Candidate<'a>> {
    let Wanted {
        service,
        port,
        dialled,
    } = wanted;
    let load_balancing = &service.load_balancing;
    passed_over.all += 1;
    if load_balancing.health_policy == HealthPolicy::OnlyHealthy
        && workload.health != Health::Healthy
    {
        passed_over.unhealthy += 1;
        return None;
    }
    let Some(port) = target_port(service, workload, port) else {
        passed_over.without_port += 1;
        return None;
    };
    let address = address_of(workload, service.ip_families, dialled);
    // Another network needs a gateway between, and a workload without weight takes nothing.
    let reachable = workload.network == source.network && workload.capacity > 0;
    let dial = match address {
        Some(ip) => Some(Dial::Address(SocketAddr::new(ip, port))),
        None if is_by_name(workload) => Some(Dial::Name(port)),
        None => None,
    };
    let Some(dial) = dial.filter(|_| reachable) else {
        passed_over.unreachable += 1;
        return None;
    };
    if tried.contains(&workload.uid) {
        passed_over.tried += 1;
        return None;
    }
    let Some(rank) = rank(load_balancing, source, workload) else {
        passed_over.too_far += 1;
        return None;
    };
    Some(Candidate {
        workload,
        dial,
        rank,
    })
}

/// It has a host name instead of addresses.
pub(super) fn is_by_name(workload: &Workload) -> bool {
    workload.addresses.is_empty() && !workload.hostname.is_empty()
}

/// How near a workload is; `None` when a strict preference excludes it.
fn rank(load_balancing: &LoadBalancing, source: &Workload, workload: &Workload) -> Option<usize> {
    let scopes = &load_balancing.routing_preference;
    match load_balancing.mode {
        LoadBalancingMode::Standard | LoadBalancingMode::Passthrough => Some(0),
        LoadBalancingMode::Strict => {
            let near = scopes.iter().all(|scope| is_same(*scope, source, workload));
            near.then_some(0)
        }
        LoadBalancingMode::Failover => Some(nearness(scopes, source, workload)),
    }
}

/// Number of leading scopes that match. A network in front is a wish of its own: missing it does
/// not end the comparison, meeting it outweighs all the rest.
pub(super) fn nearness(scopes: &[LocalityScope], source: &Workload, workload: &Workload) -> usize {
    let (network, scopes) = match scopes {
        [LocalityScope::Network, rest @ ..] => {
            let same = is_same(LocalityScope::Network, source, workload);
            (if same { rest.len() + 1 } else { 0 }, rest)
        }
        scopes => (0, scopes),
    };
    let matching = scopes
        .iter()
        .take_while(|scope| is_same(**scope, source, workload));
    network + matching.count()
}

fn is_same(scope: LocalityScope, source: &Workload, workload: &Workload) -> bool {
    match scope {
        LocalityScope::Region => source.locality.region == workload.locality.region,
        LocalityScope::Zone => source.locality.zone == workload.locality.zone,
        LocalityScope::Subzone => source.locality.subzone == workload.locality.subzone,
        LocalityScope::Node => source.node == workload.node,
        LocalityScope::Cluster => source.cluster_id == workload.cluster_id,
        LocalityScope::Network => source.network == workload.network,
    }
}

/// The address to dial a workload by.
fn address_of(workload: &Workload, families: IpFamilies, dialled: IpAddr) -> Option<IpAddr> {
    let mut addresses = workload.addresses.iter().copied();
    if addresses.clone().any(|address| address == dialled) {
        return Some(dialled);
    }
    let allowed = |address: &IpAddr| match families {
        IpFamilies::Ipv4Only => address.is_ipv4(),
        IpFamilies::Ipv6Only => address.is_ipv6(),
        IpFamilies::Automatic | IpFamilies::Dual => true,
    };
    let same_family = |address: &IpAddr| address.is_ipv4() == dialled.is_ipv4();
    let preferred = addresses.clone().filter(allowed).find(same_family);
    preferred.or_else(|| addresses.find(allowed))
}

/// The candidate with the fewest connections for its capacity; among equals, at random by
/// capacity. Of many candidates a random sample is compared, which keeps the choice cheap and
/// stops every worker from running to the same idle endpoint.
fn least_loaded<'a, 'b>(
    candidates: &'b [Candidate<'a>],
    chooser: &mut Chooser<'_>,
) -> Option<&'b Candidate<'a>> {
    if candidates.len() <= MAX_COMPARED {
        return least_loaded_of(candidates.iter(), chooser);
    }
    let sample: Vec<_> = (0..MAX_COMPARED)
        .map(|_| &candidates[below(candidates.len() as u64, chooser) as usize])
        .collect();
    least_loaded_of(sample.into_iter(), chooser)
}

fn least_loaded_of<'a: 'b, 'b>(
    candidates: impl Iterator<Item = &'b Candidate<'a>>,
    chooser: &mut Chooser<'_>,
) -> Option<&'b Candidate<'a>> {
    struct Best<'c, 'd> {
        candidate: &'c Candidate<'d>,
        active: u64,
        /// Capacity of all equals seen so far.
        equals: u64,
    }
    let mut best: Option<Best<'b, 'a>> = None;
    for candidate in candidates {
        let active = u64::from((chooser.active)(&candidate.workload.uid));
        let capacity = u64::from(candidate.workload.capacity);
        best = Some(match best {
            None => Best {
                candidate,
                active,
                equals: capacity,
            },
            Some(best) => {
                // active / capacity, compared without dividing; both factors fit 32 bits.
                let ours = active * u64::from(best.candidate.workload.capacity);
                let theirs = best.active * capacity;
                match ours.cmp(&theirs) {
                    std::cmp::Ordering::Greater => best,
                    std::cmp::Ordering::Less => Best {
                        candidate,
                        active,
                        equals: capacity,
                    },
                    std::cmp::Ordering::Equal => {
                        let equals = best.equals + capacity;
                        let takes_over = below(equals, chooser) < capacity;
                        match takes_over {
                            true => Best {
                                candidate,
                                active,
                                equals,
                            },
                            false => Best { equals, ..best },
                        }
                    }
                }
            }
        });
    }
    best.map(|best| best.candidate)
}

/// A random number below `bound`, which is not 0.
fn below(bound: u64, chooser: &mut Chooser<'_>) -> u64 {
    // The high half of a 128-bit product: no modulo bias worth the name.
    ((u128::from((chooser.random)()) * u128::from(bound)) >> 64) as u64
}

impl PassedOver {
    fn reason(&self) -> Reason {
        if self.all > 0 && self.without_port == self.all {
            Reason::ServicePortUnknown
        } else {
            Reason::NoEndpoint
        }
    }
}

impl std::fmt::Display for PassedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            all,
            unhealthy,
            without_port,
            unreachable,
            tried,
            too_far,
        } = self;
        write!(f, "none of {all} endpoints is usable")?;
        let causes = [
            (unhealthy, "unhealthy"),
            (without_port, "without the port"),
            (unreachable, "without a reachable address"),
            (tried, "failed already"),
            (too_far, "outside the required topology"),
        ];
        for (count, cause) in causes.into_iter().filter(|(count, _)| **count > 0) {
            write!(f, ", {count} {cause}")?;
        }
        Ok(())
    }
}
