//! Every service that this process talks to, by port.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// Version of the snapshot that all of them have seen, or [`UNSEEN`].
    followed: AtomicU64,
    reclaim: watch::Sender<u64>,
}

/// No snapshot.
const UNSEEN: u64 = u64::MAX;

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
            followed: AtomicU64::new(UNSEEN),
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
        self.followed.store(UNSEEN, Ordering::Relaxed);
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
        // Its worker may know an older snapshot than the others have seen.
        self.followed.store(UNSEEN, Ordering::Relaxed);
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
        self.those(Group::is_checked)
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Changes when somebody waits for a connection that nobody uses.
    pub(crate) fn reclaimed(&self) -> watch::Receiver<u64> {
        self.reclaim.subscribe()
    }

    /// Does what time brings, and forgets services that are gone. Often called, and there may be
    /// thousands of services: only those are looked into with which something may be.
    pub(crate) fn tick(&self, snapshot: &Snapshot, now: Instant) {
        let version = snapshot.version();
        if self.followed.swap(version, Ordering::Relaxed) != version {
            for group in self.all() {
                group.follow(snapshot, &self.place);
            }
        }
        self.judge(now);
        self.lock().retain(|_, ports| {
            // Workers that still know it would go on with what nobody else sees.
            ports.retain(|(_, group)| Arc::strong_count(group) > 1 || !group.is_empty());
            !ports.is_empty()
        });
    }

    /// Lets back whose time is over, and compares where it is time.
    pub(crate) fn judge(&self, now: Instant) {
        let judged = self.those(Group::is_judged);
        judged.iter().for_each(|group| group.tick(now));
    }

    /// What is known of each, in order of service and port.
    pub(crate) fn view(&self, now: Instant) -> Vec<BackendView> {
        let mut view: Vec<_> = self.all().iter().map(|group| backend(group, now)).collect();
        view.sort_by(|a, b| (&a.service, a.port).cmp(&(&b.service, b.port)));
        view
    }

    /// Every group.
    pub(super) fn all(&self) -> Vec<Arc<Group>> {
        self.those(|_| true)
    }

    /// The groups of which that is so.
    fn those(&self, is_so: impl Fn(&Group) -> bool) -> Vec<Arc<Group>> {
        let all = self.lock();
        let groups = all.values().flatten().map(|(_, group)| group);
        groups.filter(|group| is_so(group)).cloned().collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outlier;
    use crate::tuning::{HealthCheck, Settings};

    const SERVICES: usize = 1000;

    fn service(number: usize) -> NamespacedHostname {
        NamespacedHostname::new("ns", &format!("service-{number}"))
    }

    #[test]
    fn of_a_thousand_services_those_are_looked_into_with_which_something_may_be() {
        let groups = Groups::new("".into(), None);
        // As a worker would.
        let held: Vec<_> = (0..SERVICES)
            .map(|number| groups.group(&service(number), 80))
            .collect();
        let (snapshot, now) = (agent_state::channel().1.load(), Instant::now());
        groups.tick(&snapshot, now);
        assert_eq!(groups.all().len(), SERVICES);
        let looked_into = || {
            let judged = groups.those(Group::is_judged).len();
            (judged, groups.checked(&snapshot).len())
        };
        assert_eq!(looked_into(), (0, 0));
        let settings = |outlier, health| Settings {
            outlier,
            health,
            ..Settings::default()
        };
        let tuning = Tuning::new([
            (
                service(7),
                None,
                settings(Some(outlier::Settings::default()), None),
            ),
            (
                service(8),
                None,
                settings(None, Some(HealthCheck::default())),
            ),
        ]);
        groups.configure(tuning, now);
        assert_eq!(looked_into(), (1, 1));
        groups.configure(Tuning::default(), now);
        assert_eq!(looked_into(), (0, 0));
        drop(held);
        groups.tick(&snapshot, now);
        assert!(groups.all().is_empty(), "nobody knows them any more");
    }

    #[test]
    fn a_snapshot_is_looked_at_once_and_again_after_a_change() {
        let groups = Groups::new("".into(), None);
        let held = groups.group(&service(1), 80);
        let snapshot = agent_state::channel().1.load();
        let followed = || groups.followed.load(Ordering::Relaxed);
        assert_eq!(followed(), UNSEEN);
        groups.tick(&snapshot, Instant::now());
        assert_eq!(followed(), snapshot.version());
        let other = groups.group(&service(2), 80);
        assert_eq!(followed(), UNSEEN, "there is one that has not seen it");
        groups.tick(&snapshot, Instant::now());
        groups.configure(Tuning::default(), Instant::now());
        assert_eq!(followed(), UNSEEN, "it may be seen otherwise now");
        drop((held, other));
    }
}
