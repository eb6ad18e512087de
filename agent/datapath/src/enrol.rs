//! Enrolment: from a request to a pod whose traffic is captured, and back.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agent_model::{HBONE_PORT, PodInfo};
use agent_net::{Netns, NetnsCookie, socket};
use ebpf_common::{Listener, OwnKey, purpose};
use socket2::SockRef;

use crate::address::to_kernel_ip;
use crate::datapath::{Datapath, lock, open_netns};
use crate::entries::{own_addresses, own_keys, pod_value};
use crate::error::DatapathError;
use crate::failpoint;
use crate::older;
use crate::pods::{EnrolledPod, Entry, PodStatus, Pods, State, Steered};
use crate::records::{Record, Records};
use crate::{steering, verify};

impl Datapath {
    /// Captures a pod and proves it: connections out of it arrive at the outbound listener with
    /// their destination known, connections into it at the two others. On failure everything is
    /// taken back, except for a pod that an earlier agent left captured: that stays closed. An
    /// agent that dies in the middle leaves the pod in the list before it leaves anything else of
    /// it, so that the next one enrols it in full.
    ///
    /// Idempotent by container id: for a pod that is enrolled already this verifies it again and
    /// returns `None`, its listeners having gone to whom it was given before.
    pub fn enrol(&self, pod: PodInfo) -> Result<Option<EnrolledPod>, DatapathError> {
        let _changes = lock(&self.changes);
        self.must_own()?;
        complete(&pod)?;
        let netns = open_netns(Path::new(&pod.netns))?;
        if self.forbidden.contains(&netns.cookie()) {
            return Err(DatapathError::NotAPod(pod.netns.into()));
        }
        let standing = standing(&lock(&self.pods), &pod, netns.cookie())?;
        if standing == Standing::Enrolled {
            self.check(&pod.container_id)?;
            return Ok(None);
        }
        let result = self.capture(pod.clone(), netns);
        if let (Standing::Waiting, Err(error)) = (standing, &result)
            && let Some(entry) = lock(&self.pods).get_mut(&pod.container_id)
        {
            entry.state = State::Waiting {
                error: Some(error.to_string()),
            };
        }
        result.map(Some)
    }

    /// Gives a pod up: its connects are no longer captured, its link, map entries and pins are
    /// gone. The caller closes the listeners. Idempotent: `None` when it was not enrolled.
    pub fn unenrol(&self, container_id: &str) -> Result<Option<NetnsCookie>, DatapathError> {
        let _changes = lock(&self.changes);
        self.must_own()?;
        let Some(cookie) = lock(&self.pods).get(container_id).map(|entry| entry.cookie) else {
            return Ok(None);
        };
        failpoint::reached("leaving")?;
        self.erase(cookie)?;
        failpoint::reached("erased")?;
        lock(&self.pods).remove(container_id);
        self.persist()?;
        Ok(Some(cookie))
    }

    /// Verifies an enrolled pod again, without touching its connections.
    pub fn check(&self, container_id: &str) -> Result<(), DatapathError> {
        let entry = lock(&self.pods).get(container_id).cloned();
        let entry = entry.ok_or_else(|| DatapathError::NotEnrolled(container_id.to_owned()))?;
        self.check_entry(&entry)
    }

    /// Every pod that is enrolled or was when the agent before this one ended, each verified now.
    pub fn pods(&self) -> Vec<PodStatus> {
        let entries: Vec<Entry> = lock(&self.pods).values().cloned().collect();
        entries
            .into_iter()
            .map(|entry| {
                let detail = self
                    .check_entry(&entry)
                    .err()
                    .map(|error| error.to_string());
                PodStatus {
                    info: entry.info,
                    netns: entry.cookie,
                    verified: detail.is_none(),
                    detail,
                }
            })
            .collect()
    }

    /// Pods of the agent's own list that live on: each is to be enrolled again. Until then they
    /// stay captured and closed. What was kept for pods that are gone is removed. Fails when the
    /// list cannot be read; nothing is opened up then.
    pub fn enrolled_at_start(&self) -> Result<Vec<PodInfo>, DatapathError> {
        let _changes = lock(&self.changes);
        self.must_own()?;
        let mut records = self.records.read()?;
        if let Err(error) = self.follow_records(&mut records) {
            tracing::warn!(%error, "pods that were found by a process which has ended");
        }
        for record in records {
            let cookie = NetnsCookie(record.netns);
            let lives = Netns::open(Path::new(&record.pod.netns))
                .is_ok_and(|netns| netns.cookie() == cookie);
            if lives {
                lock(&self.pods)
                    .entry(record.pod.container_id.clone())
                    .or_insert(Entry {
                        info: record.pod,
                        cookie,
                        state: State::Waiting { error: None },
                    });
            } else {
                tracing::info!(container = record.pod.container_id, "pod is gone");
            }
        }
        self.remove_dead()?;
        self.persist()?;
        self.is_list_read.store(true, Ordering::Release);
        Ok(self.waiting())
    }

    /// True once [`Self::enrolled_at_start`] has succeeded: from then on [`Self::pods`] is the whole
    /// truth.
    pub fn is_list_read(&self) -> bool {
        self.is_list_read.load(Ordering::Acquire)
    }

    /// Pods that were enrolled by an earlier agent and are not yet by this one.
    pub fn waiting(&self) -> Vec<PodInfo> {
        lock(&self.pods)
            .values()
            .filter(|entry| matches!(entry.state, State::Waiting { .. }))
            .map(|entry| entry.info.clone())
            .collect()
    }

    /// Notes that nobody serves an enrolled pod after all. It stays captured and closed, and is
    /// among those that wait.
    pub fn unserved(&self, container_id: &str, error: String) {
        if let Some(entry) = lock(&self.pods).get_mut(container_id) {
            entry.state = State::Waiting { error: Some(error) };
        }
    }

    fn capture(&self, pod: PodInfo, netns: Netns) -> Result<EnrolledPod, DatapathError> {
        let cookie = netns.cookie();
        let own = own_addresses(&netns)?;
        if let Some(missing) = pod.ips.iter().find(|ip| !own.contains(&ip.to_canonical())) {
            return Err(DatapathError::MissingAddress(*missing));
        }
        self.refresh_settings()
            .map_err(DatapathError::kernel("write the settings"))?;
        let mut undo = Undo {
            datapath: self,
            cookie,
            armed: !self.pins.pod(cookie.0).exists(),
        };
        let mut enrolled =
            listeners(pod, netns).map_err(DatapathError::kernel("listen in the pod"))?;
        failpoint::reached("listening")?;
        let steered = steered(&enrolled)?;
        // A pod that is captured already has nobody to accept its connections until the next step.
        let was_captured = !undo.armed;
        if was_captured {
            enrolled.older = older::list(&enrolled, &own)?;
        }
        self.persist_with(&enrolled)?;
        failpoint::reached("listed")?;
        self.steer(&enrolled, &own)?;
        verify::steering(&self.pins, cookie, &steered)?;
        verify::capture(self, &enrolled, &steered.own)?;
        if !was_captured {
            enrolled.older = older::list(&enrolled, &own)?;
        }
        let entry = Entry {
            info: enrolled.info.clone(),
            cookie,
            state: State::Enrolled(steered),
        };
        failpoint::reached("verified")?;
        lock(&self.pods).insert(enrolled.info.container_id.clone(), entry);
        undo.armed = false;
        Ok(enrolled)
    }

    /// Takes a pod over from a predecessor, with the listeners that it already has: its program
    /// becomes this agent's, its connections notice nothing. Fails when it is not what it should
    /// be, or is enrolled already; it stays captured and is for [`Self::enrol`] then.
    pub fn adopt(&self, pod: EnrolledPod) -> Result<EnrolledPod, DatapathError> {
        let _changes = lock(&self.changes);
        self.must_own()?;
        complete(&pod.info)?;
        let cookie = pod.netns.cookie();
        let wrong = |what: &str| DatapathError::HandOver {
            container: pod.info.container_id.clone(),
            what: what.to_owned(),
        };
        if self.forbidden.contains(&cookie) {
            return Err(DatapathError::NotAPod(pod.info.netns.into()));
        }
        if standing(&lock(&self.pods), &pod.info, cookie)? == Standing::Enrolled {
            return Err(wrong("it is enrolled already"));
        }
        if !self.pins.pod(cookie.0).exists() {
            return Err(wrong("its connections are not steered"));
        }
        let steered = steered(&pod)?;
        verify::steering(&self.pins, cookie, &steered)?;
        let own = own_addresses(&pod.netns)?;
        self.steer(&pod, &own)?;
        verify::node(self, cookie)?;
        verify::steering(&self.pins, cookie, &steered)?;
        let entry = Entry {
            info: pod.info.clone(),
            cookie,
            state: State::Enrolled(steered),
        };
        lock(&self.pods).insert(pod.info.container_id.clone(), entry);
        Ok(pod)
    }

    /// Has the kernel bring the pod's connections to its listeners, in place of those before.
    fn steer(&self, pod: &EnrolledPod, own: &[IpAddr]) -> Result<(), DatapathError> {
        let cookie = pod.netns.cookie();
        self.must_own()?;
        self.publish(pod, own)
            .map_err(DatapathError::kernel("write the maps"))?;
        failpoint::reached("published")?;
        let program = self.object.load_pod(cookie.0, &self.pins)?;
        self.must_own()?;
        steering::attach(program.as_fd(), &pod.netns, &self.pins.pod(cookie.0))?;
        failpoint::reached("steered")?;
        self.open_capture(pod)
            .map_err(DatapathError::kernel("write the maps"))?;
        failpoint::reached("capturing")
    }

    /// Writes what the pod's program looks up, before it runs.
    fn publish(&self, pod: &EnrolledPod, own: &[IpAddr]) -> io::Result<()> {
        let netns = pod.netns.cookie().0;
        let own = own_keys(&pod.info, own);
        for ip in &own {
            self.tables.own.put(&OwnKey { netns, ip: *ip }, &1)?;
        }
        self.tables
            .own
            .remove_where(|key| key.netns == netns && !own.contains(&key.ip))?;
        for (purpose, listener) in [
            (purpose::OUTBOUND, &pod.outbound),
            (purpose::HBONE, &pod.hbone),
            (purpose::INBOUND, &pod.inbound),
        ] {
            let descriptor = listener.as_raw_fd() as u32;
            let key = listener_key(netns, purpose);
            self.tables.listeners.put(&key, &descriptor)?;
        }
        Ok(())
    }

    /// From here on connects of the pod are captured and the host's are approved.
    fn open_capture(&self, pod: &EnrolledPod) -> io::Result<()> {
        let cookie = pod.netns.cookie().0;
        let before = self.tables.pods.get(&cookie)?;
        let generation = before.map_or(0, |pod| pod.generation) + 1;
        self.tables
            .pods
            .put(&cookie, &pod_value(&pod.info, generation))?;
        for ip in &pod.info.ips {
            self.tables.local.put(&to_kernel_ip(*ip), &cookie)?;
        }
        Ok(())
    }

    /// Removes everything of a pod. Goes on after a failure and returns the first.
    pub(crate) fn erase(&self, cookie: NetnsCookie) -> Result<(), DatapathError> {
        self.must_own()?;
        let link = steering::detach(&self.pins.pod(cookie.0));
        let link = link.and(failpoint::reached("unsteered"));
        let maps = self
            .erase_entries(cookie.0)
            .and(self.erase_flows(cookie.0))
            .map_err(DatapathError::kernel("clear the maps"));
        link.and(maps)
    }

    /// Removes everything of a pod but what its open connections need.
    pub(crate) fn erase_but_flows(&self, cookie: NetnsCookie) -> Result<(), DatapathError> {
        self.must_own()?;
        let link = steering::detach(&self.pins.pod(cookie.0));
        let maps = self
            .erase_entries(cookie.0)
            .map_err(DatapathError::kernel("clear the maps"));
        link.and(maps)
    }

    fn erase_entries(&self, netns: u64) -> io::Result<()> {
        let tables = &self.tables;
        let local = tables.local.keys()?;
        let local = local.iter().filter(|ip| {
            tables
                .local
                .get(ip)
                .is_ok_and(|cookie| cookie == Some(netns))
        });
        local
            .map(|ip| tables.local.remove(ip))
            .fold(Ok(()), io::Result::and)
            .and(tables.pods.remove(&netns))
            .and(tables.listeners.remove_where(|key| key.netns == netns))
            .and(tables.own.remove_where(|key| key.netns == netns))
            .and(tables.name_sockets.remove_where(|key| key.netns == netns))
            .and(tables.servers.remove_where(|key| key.netns == netns))
            .and(tables.approved.remove_where(|key| key.netns == netns))
    }

    /// What belongs to connections that are open: it goes with them, when the pod lives on.
    fn erase_flows(&self, netns: u64) -> io::Result<()> {
        let tables = &self.tables;
        let original = tables.original.remove_where(|key| key.netns == netns);
        original.and(tables.peers.remove_where(|key| key.netns == netns))
    }

    fn check_entry(&self, entry: &Entry) -> Result<(), DatapathError> {
        match &entry.state {
            State::Waiting { error } => Err(DatapathError::Unverified(
                error
                    .clone()
                    .unwrap_or_else(|| "not enrolled again yet".into()),
            )),
            State::Enrolled(steered) => {
                verify::node(self, entry.cookie)?;
                verify::steering(&self.pins, entry.cookie, steered)
            }
        }
    }

    pub(crate) fn persist(&self) -> Result<(), DatapathError> {
        self.must_own()?;
        self.records.write(self.records())
    }

    /// Writes the list with a pod that is about to be enrolled: the kernel must not hold anything
    /// of a pod that the next agent would not know.
    fn persist_with(&self, pod: &EnrolledPod) -> Result<(), DatapathError> {
        self.must_own()?;
        let mut records = self.records();
        let coming = Records::record(&pod.info, pod.netns.cookie());
        if !records.contains(&coming) {
            records.push(coming);
        }
        self.records.write(records)
    }

    fn records(&self) -> Vec<Record> {
        lock(&self.pods)
            .values()
            .map(|entry| Records::record(&entry.info, entry.cookie))
            .collect()
    }
}

/// Takes a half-done enrolment back.
struct Undo<'a> {
    datapath: &'a Datapath,
    cookie: NetnsCookie,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let erased = self.datapath.erase(self.cookie);
        if let Err(error) = erased.and_then(|()| self.datapath.persist()) {
            tracing::error!(%error, netns = ?self.cookie, "a failed enrolment left something");
        }
    }
}

/// How a request stands to what is enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    New,
    Waiting,
    Enrolled,
}

/// Compares a request with what is enrolled. Fails when it contradicts that.
fn standing(pods: &Pods, pod: &PodInfo, cookie: NetnsCookie) -> Result<Standing, DatapathError> {
    let taken = |what: String, container: &str| {
        Err(DatapathError::Taken {
            what,
            container: container.to_owned(),
        })
    };
    for (container, entry) in pods {
        if *container == pod.container_id {
            if entry.cookie != cookie || entry.info != *pod {
                return taken("the container".into(), container);
            }
        } else if entry.cookie == cookie {
            return taken(pod.netns.clone(), container);
        } else if let Some(ip) = pod.ips.iter().find(|ip| entry.info.ips.contains(ip)) {
            return taken(ip.to_string(), container);
        }
    }
    Ok(
        match pods.get(&pod.container_id).map(|entry| &entry.state) {
            None => Standing::New,
            Some(State::Waiting { .. }) => Standing::Waiting,
            Some(State::Enrolled(_)) => Standing::Enrolled,
        },
    )
}

fn complete(pod: &PodInfo) -> Result<(), DatapathError> {
    if pod.container_id.is_empty() {
        return Err(DatapathError::Incomplete("a container id"));
    }
    if pod.netns.is_empty() {
        return Err(DatapathError::Incomplete("a network namespace"));
    }
    if pod.ips.is_empty() {
        return Err(DatapathError::Incomplete("an address"));
    }
    Ok(())
}

/// Opens the pod's listeners. An application that holds port 15008 already keeps it: its packets
/// still go to ours, the kernel finds it in the map.
fn listeners(info: PodInfo, netns: Netns) -> io::Result<EnrolledPod> {
    let hbone = match socket::listen(&netns, HBONE_PORT) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => socket::listen(&netns, 0)?,
        other => other?,
    };
    Ok(EnrolledPod {
        info,
        outbound: socket::listen(&netns, 0)?,
        inbound: socket::listen(&netns, 0)?,
        hbone,
        netns: Arc::new(netns),
        older: Vec::new(),
    })
}

fn steered(pod: &EnrolledPod) -> Result<Steered, DatapathError> {
    let cookie = |listener: &TcpListener| {
        SockRef::from(listener)
            .cookie()
            .map_err(DatapathError::kernel("read a socket cookie"))
    };
    let ips = || pod.info.ips.iter().map(|ip| ip.to_canonical());
    let v4 = ips().find(IpAddr::is_ipv4);
    let v6 = ips().find(IpAddr::is_ipv6);
    Ok(Steered {
        inode: steering::inode(&pod.netns)?,
        own: v4.into_iter().chain(v6).collect(),
        outbound: cookie(&pod.outbound)?,
        hbone: cookie(&pod.hbone)?,
        inbound: cookie(&pod.inbound)?,
    })
}

fn listener_key(netns: u64, purpose: u32) -> Listener {
    Listener {
        netns,
        purpose,
        pad: 0,
    }
}

#[cfg(test)]
mod tests;
