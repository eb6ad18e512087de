//! Every service that this process talks to, by port.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use agent_model::{Locality, NamespacedHostname, Workload};
use agent_state::Snapshot;
use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::group::Group;
use super::view::{BackendView, backend};
use crate::balance::Preference;
use crate::tuning::{Nearness, Tuning};

/// The groups of a process; workers share it.
pub(crate) struct Groups {
    place: Place,
    tuning: ArcSwap<Tuning>,
    all: Mutex<HashMap<NamespacedHostname, Ports>>,
    reclaim: watch::Sender<u64>,
}

/// The groups of a service by port.
type Ports = Vec<(u16, Arc<Group>)>;

impl Groups {
    /// Of a gateway in a network, at a place that it finds out by itself unless it is given.
    pub(crate) fn new(network: Arc<str>, locality: Option<Locality>) -> Arc<Self> {
        Arc::new(Self {
            place: Place {
                network,
                locality: Mutex::new(locality),
            },
            tuning: ArcSwap::default(),
            all: Mutex::default(),
            reclaim: watch::channel(0).0,
        })
    }

    /// Works by other settings from now on.
    pub(crate) fn configure(&self, tuning: Tuning, now: Instant) {
        let tuning = Arc::new(tuning);
        self.tuning.store(Arc::clone(&tuning));
        for group in self.all() {
            group.configure(tuning.of(group.service(), group.port()), now);
        }
    }

    /// The group of a port of a service.
    pub(super) fn group(&self, service: &NamespacedHostname, port: u16) -> Arc<Group> {
        let mut all = self.lock();
        let ports = all.entry(service.clone()).or_default();
        if let Some((_, group)) = ports.iter().find(|(candidate, _)| *candidate == port) {
            return Arc::clone(group);
        }
        // Under the lock, so that it is not made with settings that `configure` has replaced.
        let settings = self.tuning.load().of(service, port);
        let group = Group::new(service.clone(), port, settings, self.reclaim.clone());
        ports.push((port, Arc::clone(&group)));
        group
    }

    pub(super) fn tuning(&self) -> Arc<Tuning> {
        self.tuning.load_full()
    }

    /// The groups whose endpoints are checked, those that nobody has asked for yet among them.
    pub(super) fn checked(&self, snapshot: &Snapshot) -> Vec<Arc<Group>> {
        for (service, port) in self.tuning.load().checked() {
            let ports = snapshot.service(service).map(|service| &service.ports);
            let ports = ports.into_iter().flatten().map(|one| one.service_port);
            for port in ports.filter(|one| port.is_none_or(|port| port == *one)) {
                self.group(service, port).follow(snapshot, &self.place);
            }
        }
        self.all()
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Changes when somebody waits for a connection that nobody uses.
    pub(crate) fn reclaimed(&self) -> watch::Receiver<u64> {
        self.reclaim.subscribe()
    }

    /// Does what time brings, and forgets services that are gone.
    pub(crate) fn tick(&self, snapshot: &Snapshot, now: Instant) {
        for group in self.all() {
            group.follow(snapshot, &self.place);
        }
        self.judge(now);
        self.lock().retain(|_, ports| {
            // Workers that still know it would go on with what nobody else sees.
            ports.retain(|(_, group)| {
                Arc::strong_count(group) > 1 || !group.list().0.members.is_empty()
            });
            !ports.is_empty()
        });
    }

    /// Lets back whose time is over, and compares where it is time.
    pub(crate) fn judge(&self, now: Instant) {
        self.all().iter().for_each(|group| group.tick(now));
    }

    /// What is known of each, in order of service and port.
    pub(crate) fn view(&self, now: Instant) -> Vec<BackendView> {
        let mut view: Vec<_> = self.all().iter().map(|group| backend(group, now)).collect();
        view.sort_by(|a, b| (&a.service, a.port).cmp(&(&b.service, b.port)));
        view
    }

    /// Every group.
    pub(super) fn all(&self) -> Vec<Arc<Group>> {
        let all = self.lock();
        let groups = all.values().flatten();
        groups.map(|(_, group)| Arc::clone(group)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NamespacedHostname, Ports>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the gateway is.
pub(crate) struct Place {
    network: Arc<str>,
    locality: Mutex<Option<Locality>>,
}

impl Place {
    pub(super) fn network(&self) -> &str {
        &self.network
    }

    /// What is preferred of some endpoints.
    pub(super) fn preference(
        &self,
        nearness: Nearness,
        snapshot: &Snapshot,
        endpoints: &[(Arc<Workload>, SocketAddr)],
    ) -> Preference {
        if nearness == Nearness::Ignored {
            return Preference::None;
        }
        let towards = endpoints.first().map(|(_, address)| *address);
        match (nearness, self.locality(snapshot, towards)) {
            (Nearness::Failover, Some(own)) => Preference::Failover(own),
            (Nearness::Strict, own) => Preference::Strict(own.unwrap_or_default()),
            // Nobody knows what is near.
            (Nearness::Ignored | Nearness::Failover, _) => Preference::None,
        }
    }

    /// The locality of the workload that owns the address from which endpoints are dialled.
    fn locality(&self, snapshot: &Snapshot, towards: Option<SocketAddr>) -> Option<Locality> {
        let mut known = self.locality.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none()
            && let Some(own) = towards.and_then(source_address)
            && let Some(workload) = snapshot.workload_by_ip(&self.network, own)
            && !workload.locality.region.is_empty()
        {
            *known = Some(workload.locality.clone());
        }
        known.clone()
    }
}

/// The address that connections to `towards` come from. Nothing is sent.
fn source_address(towards: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match towards {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(towards).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
