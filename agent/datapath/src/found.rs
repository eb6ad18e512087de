//! Pods that no runtime named: those that ran before their label, or before this agent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_model::{PodInfo, WantedPod};
use agent_net::{Netns, NetnsCookie};

use crate::datapath::{Datapath, lock};
use crate::entries::own_addresses;
use crate::error::DatapathError;
use crate::records::Record;
use crate::scan::Processes;
use crate::upkeep::is_gone;

/// Before the UID, in place of the container id that nobody told.
const PREFIX: &str = "pod:";
/// Connects that were captured arrive at the listener within this time: the SYN goes through the
/// loopback device.
const ARRIVAL: Duration = Duration::from_millis(20);

/// True for a pod that was found and not named by a runtime.
pub(crate) fn is_found(pod: &PodInfo) -> bool {
    pod.container_id.starts_with(PREFIX)
}

impl Datapath {
    /// Finds pods by their UIDs among the processes of the host, and says of each how it would be
    /// enrolled: with a namespace that holds its addresses and is neither the host's nor the
    /// agent's.
    pub fn locate(&self, pods: &[WantedPod]) -> Vec<Result<PodInfo, DatapathError>> {
        let uids = pods.iter().map(|pod| pod.uid.clone()).collect();
        let processes = match Processes::read(&self.config.host_proc, &uids) {
            Ok(processes) => processes,
            Err(error) => {
                tracing::warn!(%error, "processes of the host");
                return pods.iter().map(|pod| Err(not_found(pod))).collect();
            }
        };
        pods.iter()
            .map(|pod| self.locate_in(&processes, pod))
            .collect()
    }

    fn locate_in(&self, processes: &Processes, pod: &WantedPod) -> Result<PodInfo, DatapathError> {
        if pod.ips.is_empty() {
            return Err(DatapathError::Incomplete("an address"));
        }
        let mut failure = not_found(pod);
        for path in processes.namespaces(&pod.uid) {
            let Ok(netns) = Netns::open(&path) else {
                continue;
            };
            if self.forbidden.contains(&netns.cookie()) {
                failure = DatapathError::NotAPod(path);
                continue;
            }
            let own = own_addresses(&netns)?;
            match pod.ips.iter().find(|ip| !own.contains(&ip.to_canonical())) {
                Some(missing) => failure = DatapathError::MissingAddress(*missing),
                None => return Ok(info(pod, &path)),
            }
        }
        Err(failure)
    }

    /// Everything that is enrolled, whether it is served or waits.
    pub fn enrolled(&self) -> Vec<PodInfo> {
        let pods = lock(&self.pods);
        pods.values().map(|entry| entry.info.clone()).collect()
    }

    /// The container id of a found pod that a runtime's call means: the same name and UID, and not
    /// another namespace. A call without a namespace that can be opened means a pod that is over: a
    /// runtime repeats the `Del` of a pod's earlier sandbox while the pod lives on in another.
    pub(crate) fn found_as(&self, pod: &PodInfo) -> Option<String> {
        let called = Netns::open(Path::new(&pod.netns)).map(|netns| netns.cookie());
        if called.is_err() {
            let _changes = lock(&self.changes);
            // At worst a pod that lives is taken for one that is over, as its process is.
            let _ = self.follow_processes();
        }
        let pods = lock(&self.pods);
        let mut found = pods.values().filter(|entry| is_found(&entry.info));
        let entry = found.find(|entry| {
            let info = &entry.info;
            let same_uid = pod.uid.is_empty() || info.uid == pod.uid;
            let same_namespace = match &called {
                Ok(cookie) => *cookie == entry.cookie,
                Err(_) => is_gone(Path::new(&info.netns), entry.cookie),
            };
            info.container_id != pod.container_id
                && info.name == pod.name
                && info.namespace == pod.namespace
                && same_uid
                && same_namespace
        });
        entry.map(|entry| entry.info.container_id.clone())
    }

    /// Gives up a pod that lives on, like [`Self::unenrol`], but in an order and to an extent that
    /// breaks no connection: what is captured already still arrives, and keeps its destination and
    /// its peer until it ends. The caller takes what arrives and closes the listeners.
    pub fn leave(&self, container_id: &str) -> Result<Option<NetnsCookie>, DatapathError> {
        let _changes = lock(&self.changes);
        self.must_own()?;
        let Some(cookie) = lock(&self.pods).get(container_id).map(|entry| entry.cookie) else {
            return Ok(None);
        };
        let capture = self.tables.pods.remove(&cookie.0);
        capture.map_err(DatapathError::kernel("clear the maps"))?;
        std::thread::sleep(ARRIVAL);
        self.erase_but_flows(cookie)?;
        lock(&self.pods).remove(container_id);
        self.persist()?;
        Ok(Some(cookie))
    }

    /// A found pod is known by one of its processes. When that one ended and others have not, it
    /// is known by one of those from now on.
    pub(crate) fn follow_processes(&self) -> Result<(), DatapathError> {
        let lost: Vec<(PodInfo, NetnsCookie)> = lock(&self.pods)
            .values()
            .filter(|entry| is_lost(&entry.info, entry.cookie))
            .map(|entry| (entry.info.clone(), entry.cookie))
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        for (container, path) in self.search(&lost)? {
            if let Some(entry) = lock(&self.pods).get_mut(&container) {
                entry.info.netns = path;
            }
        }
        self.persist()
    }

    /// The same for the list of an agent that ended before it saw that.
    pub(crate) fn follow_records(&self, records: &mut [Record]) -> Result<(), DatapathError> {
        let lost: Vec<(PodInfo, NetnsCookie)> = records
            .iter()
            .map(|record| (record.pod.clone(), NetnsCookie(record.netns)))
            .filter(|(info, cookie)| is_lost(info, *cookie))
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        let mut now = self.search(&lost)?;
        for record in records {
            if let Some(path) = now.remove(&record.pod.container_id) {
                record.pod.netns = path;
            }
        }
        Ok(())
    }

    /// By container, the path of a process that is in the same namespace.
    fn search(
        &self,
        lost: &[(PodInfo, NetnsCookie)],
    ) -> Result<BTreeMap<String, String>, DatapathError> {
        let uids: BTreeSet<String> = lost.iter().map(|(info, _)| info.uid.clone()).collect();
        let processes = Processes::read(&self.config.host_proc, &uids)
            .map_err(DatapathError::file(&self.config.host_proc))?;
        let mut now = BTreeMap::new();
        for (info, cookie) in lost {
            let mut paths = processes.namespaces(&info.uid).into_iter();
            let is_same =
                |path: &PathBuf| Netns::open(path).is_ok_and(|netns| netns.cookie() == *cookie);
            if let Some(path) = paths.find(is_same) {
                now.insert(info.container_id.clone(), path.display().to_string());
            }
        }
        Ok(now)
    }
}

/// True for a found pod whose process has ended.
fn is_lost(info: &PodInfo, cookie: NetnsCookie) -> bool {
    is_found(info)
        && Netns::open(Path::new(&info.netns)).map_or(true, |netns| netns.cookie() != cookie)
}

fn info(pod: &WantedPod, netns: &Path) -> PodInfo {
    PodInfo {
        container_id: format!("{PREFIX}{}", pod.uid),
        uid: pod.uid.clone(),
        name: pod.name.clone(),
        namespace: pod.namespace.clone(),
        netns: netns.display().to_string(),
        ips: pod.ips.clone(),
    }
}

fn not_found(pod: &WantedPod) -> DatapathError {
    DatapathError::NotFound {
        uid: pod.uid.clone(),
    }
}
