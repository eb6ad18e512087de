//! One consistent view of the mesh, and the look-ups in it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use agent_model::{
    Authorization, GatewayAddress, GatewayTarget, Health, NamespacedHostname, NetworkMode,
    PolicyKey, Service, Visibility, Workload,
};
use agent_policy::PolicySet;
use agent_xds::client::{self, Kept};

/// Endpoints of a service by workload uid.
pub(crate) type Endpoints = BTreeMap<Arc<str>, Arc<Workload>>;

/// One consistent view of the mesh. Cloning is a handful of reference counts.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    version: u64,
    workloads: Arc<HashMap<Arc<str>, Arc<Workload>>>,
    /// Every workload that has the address as its own, of all networks.
    by_ip: Arc<HashMap<IpAddr, Vec<Arc<Workload>>>>,
    services: Arc<HashMap<NamespacedHostname, Arc<Service>>>,
    by_vip: Arc<HashMap<IpAddr, Vec<Arc<Service>>>>,
    by_hostname: Arc<HashMap<Arc<str>, Vec<Arc<Service>>>>,
    /// Workloads name their services, so endpoints may be known before their service is, and
    /// outlive it.
    endpoints: Arc<HashMap<NamespacedHostname, Endpoints>>,
    policies: PolicySet,
}

impl Snapshot {
    /// Grows by one with every applied batch.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A workload by its uid.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload that owns `ip` in `network`. Of several, pods come before other endpoints, and
    /// healthy before unhealthy ones. Workloads in the host network own no address: an IP of the
    /// node says nothing about who uses it.
    pub fn workload_by_ip(&self, network: &str, ip: IpAddr) -> Option<&Arc<Workload>> {
        let owners = self.by_ip.get(&ip.to_canonical())?;
        let owners = owners
            .iter()
            .filter(|workload| *workload.network == *network);
        owners.min_by(|a, b| precedence(a).cmp(&precedence(b)))
    }

    /// A service by its key.
    pub fn service(&self, key: &NamespacedHostname) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The service with that virtual IP in `network`, as a client in `namespace` sees it: of
    /// several, its own namespace's, then the canonical one, of these a Service of Kubernetes, then
    /// the first by key.
    pub fn service_by_vip(
        &self,
        network: &str,
        vip: IpAddr,
        namespace: &str,
    ) -> Option<&Arc<Service>> {
        let vip = vip.to_canonical();
        let services = self.by_vip.get(&vip)?.iter().filter(|service| {
            let mut vips = service.vips.iter();
            vips.any(|candidate| candidate.address == vip && *candidate.network == *network)
        });
        best_service(services, namespace)
    }

    /// The service with that host name, chosen as in [`Self::service_by_vip`].
    pub fn service_by_hostname(&self, hostname: &str, namespace: &str) -> Option<&Arc<Service>> {
        best_service(self.by_hostname.get(hostname)?.iter(), namespace)
    }

    /// Workloads that say they serve `service`, in order of uid, healthy or not.
    pub fn endpoints(&self, service: &NamespacedHostname) -> impl Iterator<Item = &Arc<Workload>> {
        self.endpoints
            .get(service)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// Every workload, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// Every service, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The authorization policies.
    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }

    /// All of it, to be written down for a later agent. Takes time proportional to it; not for the
    /// data path.
    pub fn save(&self, at: SystemTime) -> Vec<u8> {
        let workloads = self.workloads().map(|workload| Kept::Workload(workload));
        let services = self.services().map(|service| Kept::Service(service));
        let policies = self.policies.iter().map(|policy| Kept::Policy(policy));
        let unreadable = self.policies.unreadable().map(Kept::Unreadable);
        let all = workloads.chain(services).chain(policies).chain(unreadable);
        client::save(all, at)
    }

    /// Services that have endpoints and are not known, in no order.
    pub(crate) fn staged(&self) -> impl Iterator<Item = (&NamespacedHostname, &Endpoints)> {
        let staged = self.endpoints.iter();
        staged.filter(|(key, _)| !self.services.contains_key(*key))
    }

    /// True when `source` is the gateway itself: what it sends must not be sent to it again.
    pub fn is_gateway(&self, source: &Workload, gateway: &GatewayAddress) -> bool {
        match &gateway.target {
            GatewayTarget::Hostname(key) => source.services.contains_key(key),
            GatewayTarget::Address(address) => {
                let owns = *source.network == *address.network
                    && source.addresses.contains(&address.address);
                owns || self
                    .service_by_vip(&address.network, address.address, &source.namespace)
                    .is_some_and(|service| source.services.contains_key(&service.key()))
            }
        }
    }

    pub(crate) fn bump(&mut self) {
        self.version += 1;
    }

    pub(crate) fn put_workload(&mut self, workload: Arc<Workload>) {
        self.remove_workload(&workload.uid);
        if workload.network_mode == NetworkMode::Standard {
            let by_ip = Arc::make_mut(&mut self.by_ip);
            for ip in &workload.addresses {
                let owners = by_ip.entry(ip.to_canonical()).or_default();
                owners.push(Arc::clone(&workload));
            }
        }
        if !workload.services.is_empty() {
            let endpoints = Arc::make_mut(&mut self.endpoints);
            for key in workload.services.keys() {
                let of_service = endpoints.entry(key.clone()).or_default();
                of_service.insert(Arc::clone(&workload.uid), Arc::clone(&workload));
            }
        }
        Arc::make_mut(&mut self.workloads).insert(Arc::clone(&workload.uid), workload);
    }

    /// False when there is no such workload.
    pub(crate) fn remove_workload(&mut self, uid: &str) -> bool {
        if !self.workloads.contains_key(uid) {
            return false;
        }
        let Some(old) = Arc::make_mut(&mut self.workloads).remove(uid) else {
            return false;
        };
        if old.network_mode == NetworkMode::Standard {
            let by_ip = Arc::make_mut(&mut self.by_ip);
            for ip in &old.addresses {
                remove_from(by_ip, &ip.to_canonical(), |workload| {
                    workload.uid == old.uid
                });
            }
        }
        if !old.services.is_empty() {
            let endpoints = Arc::make_mut(&mut self.endpoints);
            for key in old.services.keys() {
                if let Some(of_service) = endpoints.get_mut(key) {
                    of_service.remove(uid);
                    if of_service.is_empty() {
                        endpoints.remove(key);
                    }
                }
            }
        }
        true
    }

    pub(crate) fn put_service(&mut self, service: Arc<Service>) {
        let key = service.key();
        self.remove_service(&key);
        let by_vip = Arc::make_mut(&mut self.by_vip);
        for vip in &service.vips {
            let services = by_vip.entry(vip.address.to_canonical()).or_default();
            services.push(Arc::clone(&service));
        }
        let by_hostname = Arc::make_mut(&mut self.by_hostname);
        let of_name = by_hostname
            .entry(Arc::clone(&service.hostname))
            .or_default();
        of_name.push(Arc::clone(&service));
        Arc::make_mut(&mut self.services).insert(key, service);
    }

    /// False when there is no such service.
    pub(crate) fn remove_service(&mut self, key: &NamespacedHostname) -> bool {
        if !self.services.contains_key(key) {
            return false;
        }
        let Some(old) = Arc::make_mut(&mut self.services).remove(key) else {
            return false;
        };
        let by_vip = Arc::make_mut(&mut self.by_vip);
        for vip in &old.vips {
            remove_from(by_vip, &vip.address.to_canonical(), |service| {
                service.key() == *key
            });
        }
        let by_hostname = Arc::make_mut(&mut self.by_hostname);
        remove_from(by_hostname, &old.hostname, |service| service.key() == *key);
        true
    }

    pub(crate) fn put_policy(&mut self, policy: &Authorization) {
        self.policies.insert(policy);
    }

    pub(crate) fn remove_policy(&mut self, key: &PolicyKey) {
        self.policies.remove(key);
    }

    pub(crate) fn reject_policy(&mut self, key: &PolicyKey) {
        self.policies.reject(key);
    }
}

/// Smaller is preferred.
fn precedence(workload: &Workload) -> (bool, bool, &str) {
    let is_pod = workload.uid.contains("//Pod/");
    (!is_pod, workload.health != Health::Healthy, &workload.uid)
}

fn best_service<'a>(
    services: impl Iterator<Item = &'a Arc<Service>>,
    namespace: &str,
) -> Option<&'a Arc<Service>> {
    let visible = services.filter(|service| {
        service.visibility == Visibility::Public || *service.namespace == *namespace
    });
    visible.min_by(|a, b| {
        let rank = |service: &Service| {
            let is_own = *service.namespace == *namespace;
            (!is_own, !service.canonical, !is_of_kubernetes(service))
        };
        let by_key = || (&a.namespace, &a.hostname).cmp(&(&b.namespace, &b.hostname));
        rank(a).cmp(&rank(b)).then_with(by_key)
    })
}

/// Whether Kubernetes gave the host name, and so the address: anybody may write an entry with the
/// address of another's Service. Entries with such a name are canonical nowhere.
fn is_of_kubernetes(service: &Service) -> bool {
    service.canonical && service.hostname.ends_with(".svc.cluster.local")
}

fn remove_from<K: std::hash::Hash + Eq, V>(
    index: &mut HashMap<K, Vec<V>>,
    key: &K,
    is_it: impl Fn(&V) -> bool,
) {
    if let Some(values) = index.get_mut(key) {
        values.retain(|value| !is_it(value));
        if values.is_empty() {
            index.remove(key);
        }
    }
}
