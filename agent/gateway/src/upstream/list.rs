//! The endpoints of a port of a service at one time, and how one of them is chosen.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use agent_model::{
    LoadBalancingMode, LocalityScope, NamespacedHostname, Reason, Service, Workload,
};
use agent_state::{Snapshot, resolve};

use super::groups::Place;
use crate::balance::{self, Balancer, Load, Preference, hashed};
use crate::outlier::Tally;
use crate::refusal::Refusal;
use crate::tuning::{Nearness, Settings};

/// The endpoints at one time.
pub(super) struct List {
    pub(super) members: Box<[Member]>,
    pub(super) balancer: Balancer,
    pub(super) settings: Arc<Settings>,
    /// Places of the members by their key, in order.
    keys: Box<[(u64, usize)]>,
    missing: Missing,
    preference: Preference,
}

/// One endpoint.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) workload: Arc<Workload>,
    pub(super) address: SocketAddr,
    pub(super) vital: Arc<Vital>,
}

/// What is known of an endpoint as long as it is the same: that address, reached in that way.
pub(super) struct Vital {
    /// Of this process only; never used again.
    pub(super) id: u64,
    /// The same in every gateway.
    pub(super) key: u64,
    pub(super) load: Arc<Load>,
    pub(super) tally: Arc<Tally>,
    is_ill: AtomicBool,
}

/// Why there is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Service,
    Port,
    Endpoints,
}

impl List {
    /// Of a service that nobody has looked for yet.
    pub(super) fn unknown(settings: &Arc<Settings>) -> Self {
        Self::new(Vec::new(), Missing::Service, Preference::None, settings)
    }

    /// The list of a snapshot; `None` when it is the one before.
    pub(super) fn of(
        snapshot: &Snapshot,
        (service, port): (&NamespacedHostname, u16),
        place: &Place,
        settings: &Arc<Settings>,
        before: &Self,
    ) -> Option<Self> {
        let (missing, resolved, preference) = match snapshot.service(service) {
            None => (Missing::Service, Vec::new(), Preference::None),
            Some(service) => {
                let resolved = resolve::endpoints(snapshot, service, port, place.network());
                let nearness = settings.locality.unwrap_or_else(|| nearness(service));
                let preference = place.preference(nearness, snapshot, &resolved);
                let is_known = service.ports.iter().any(|one| one.service_port == port);
                let missing = match is_known {
                    true => Missing::Endpoints,
                    false => Missing::Port,
                };
                (missing, resolved, preference)
            }
        };
        let is_same = |(member, (workload, address)): (&Member, &(Arc<Workload>, SocketAddr))| {
            Arc::ptr_eq(&member.workload, workload) && member.address == *address
        };
        if before.missing == missing
            && before.preference == preference
            && *before.settings == **settings
            && before.members.len() == resolved.len()
            && before.members.iter().zip(&resolved).all(is_same)
        {
            return None;
        }
        let mut known: HashMap<SocketAddr, &Member> = before
            .members
            .iter()
            .map(|member| (member.address, member))
            .collect();
        let now = Instant::now();
        let members = resolved.into_iter().map(|(workload, address)| {
            let known = known.remove(&address);
            // Another workload, or one that came into the mesh or left it, starts anew.
            let same = known.filter(|member| is_reached_alike(&member.workload, &workload));
            Member {
                vital: same.map_or_else(
                    || Vital::new(&workload, address.port(), now),
                    |member| Arc::clone(&member.vital),
                ),
                workload,
                address,
            }
        });
        Some(Self::new(members.collect(), missing, preference, settings))
    }

    /// Of one endpoint that is known beforehand.
    pub(super) fn of_one(
        workload: Arc<Workload>,
        address: SocketAddr,
        settings: &Arc<Settings>,
    ) -> Self {
        let one = Member {
            vital: Vital::new(&workload, address.port(), Instant::now()),
            workload,
            address,
        };
        Self::new(vec![one], Missing::Endpoints, Preference::None, settings)
    }

    /// The same endpoints with other settings.
    pub(super) fn with_settings(&self, settings: &Arc<Settings>) -> Self {
        let members = self.members.to_vec();
        Self::new(members, self.missing, self.preference.clone(), settings)
    }

    fn new(
        members: Vec<Member>,
        missing: Missing,
        preference: Preference,
        settings: &Arc<Settings>,
    ) -> Self {
        let endpoints = members.iter().map(|member| balance::Endpoint {
            key: member.vital.key,
            weight: member.workload.capacity,
            locality: member.workload.locality.clone(),
            load: Arc::clone(&member.vital.load),
        });
        let keys = members.iter().enumerate();
        let mut keys: Box<[_]> = keys.map(|(at, member)| (member.vital.key, at)).collect();
        keys.sort_unstable();
        Self {
            balancer: Balancer::new(settings.algorithm, &preference, endpoints),
            members: members.into(),
            settings: Arc::clone(settings),
            keys,
            missing,
            preference,
        }
    }

    /// The endpoint of a key, when it may be chosen.
    pub(super) fn usable(&self, key: u64) -> Option<usize> {
        let at = self.keys.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        let index = self.keys[at].1;
        self.balancer.is_usable(index).then_some(index)
    }

    /// Why nobody is chosen.
    pub(super) fn none(&self, service: &NamespacedHostname, port: u16) -> Refusal {
        let (reason, detail) = match self.missing {
            Missing::Service => (
                Reason::NoEndpoint,
                format!("service {service} is not known"),
            ),
            Missing::Port => (
                Reason::ServicePortUnknown,
                format!("service {service} has no port {port}"),
            ),
            Missing::Endpoints if self.members.is_empty() => (
                Reason::NoEndpoint,
                format!("service {service} has no ready endpoint for port {port}"),
            ),
            Missing::Endpoints => (
                Reason::NoEndpoint,
                format!(
                    "none of the {} endpoints of {service} for port {port} may be used: \
                     ejected, unhealthy or too far",
                    self.members.len()
                ),
            ),
        };
        Refusal::new(reason, detail)
    }
}

impl Vital {
    fn new(workload: &Workload, port: u16, now: Instant) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            key: hashed(format!("{}:{port}", workload.uid).as_bytes()),
            load: Arc::new(Load::new(now)),
            tally: Arc::default(),
            is_ill: AtomicBool::new(false),
        })
    }

    /// It passes its health checks; who was not checked yet does.
    pub(super) fn is_well(&self) -> bool {
        !self.is_ill.load(Ordering::Relaxed)
    }

    /// Says whether it is well. True when that is news.
    pub(super) fn set_well(&self, is_well: bool) -> bool {
        self.is_ill.swap(!is_well, Ordering::Relaxed) == is_well
    }
}

/// True when connections that were made to one workload may be used for the other.
fn is_reached_alike(known: &Workload, workload: &Workload) -> bool {
    known.uid == workload.uid
        && known.tunnel_protocol == workload.tunnel_protocol
        && known.identity() == workload.identity()
}

/// What the service itself says (`trafficDistribution` and its like).
fn nearness(service: &Service) -> Nearness {
    let preference = &service.load_balancing.routing_preference;
    let is_by_place = preference.iter().any(|scope| {
        matches!(
            scope,
            LocalityScope::Region | LocalityScope::Zone | LocalityScope::Subzone
        )
    });
    match service.load_balancing.mode {
        LoadBalancingMode::Failover if is_by_place => Nearness::Failover,
        LoadBalancingMode::Strict if is_by_place => Nearness::Strict,
        _ => Nearness::Ignored,
    }
}
