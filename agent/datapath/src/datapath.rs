//! The node's part of the kernel side: programs, maps and hooks, from their loading to their
//! removal.

mod install;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_net::{Netns, NetnsCookie};
use ebpf_common::{Table, counter};

use crate::bpffs::{self, Pins};
use crate::error::DatapathError;
use crate::hooks;
use crate::object::Object;
use crate::owner::Ownership;
use crate::pods::Pods;
use crate::records::Records;
use crate::settings::settings;
use crate::steering;
use crate::table::Tables;
use crate::trace::Trace;

/// Age after which a hand-over between two sockets is taken back: far beyond the time a connect
/// tries for.
const STALE: Duration = Duration::from_secs(300);

/// Where things are.
#[derive(Debug, Clone)]
pub struct Config {
    /// The eBPF object file.
    pub object: PathBuf,
    /// Directory for pins; a BPF file system is mounted there when none is.
    pub bpffs: PathBuf,
    /// Root of the cgroup2 hierarchy.
    pub cgroup_root: PathBuf,
    /// The host's network namespace (`/proc/1/ns/net`).
    pub host_netns: PathBuf,
    /// The host's `/proc`, with the processes of all pods.
    pub host_proc: PathBuf,
    /// The agent's state directory; holds `pods.json`.
    pub state_dir: PathBuf,
    /// The maps it works with: [`TABLES`]. Tests have those of another build.
    pub tables: &'static [Table],
    /// Datagrams are looked at: what pods ask name servers may be sent to name sockets. Without it
    /// nothing of the kernel's is on their way.
    pub names: bool,
    /// The programs write log lines (target `ebpf`, level debug).
    pub debug: bool,
}

/// The kernel side of one node. All calls block for microseconds, but for [`Self::load`] and
/// [`Self::enrol`], which take tens of milliseconds.
#[derive(Debug)]
pub struct Datapath {
    pub(crate) config: Config,
    pub(crate) pins: Pins,
    pub(crate) object: Object,
    pub(crate) tables: Tables,
    pub(crate) records: Records,
    pub(crate) ownership: Ownership,
    /// Namespaces that are never enrolled: the host's and the agent's.
    pub(crate) forbidden: [NetnsCookie; 2],
    pub(crate) pods: Mutex<Pods>,
    /// The list of enrolled pods was read; before that nothing is known of them.
    pub(crate) is_list_read: AtomicBool,
    /// Held by whoever changes what is enrolled.
    pub(crate) changes: Mutex<()>,
    pub(crate) trace: Mutex<Option<Trace>>,
}

/// Events since the maps were made, summed over the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connects captured.
    pub captured: u64,
    /// Connects refused because the pod has no address of the family asked for.
    pub no_address: u64,
    /// Connects of the host approved.
    pub host_approved: u64,
    /// Map entries that could not be written: a map is full.
    pub insert_failed: u64,
    /// Packets dropped because there was no listener for them.
    pub no_listener: u64,
    /// Connections given to the tunnel listeners.
    pub to_hbone: u64,
    /// Connections given to the plaintext listeners.
    pub to_inbound: u64,
    /// Connections given to the outbound listeners.
    pub to_outbound: u64,
    /// Connections let through because they were approved.
    pub approved: u64,
    /// Accepted sockets that were given their client's address.
    pub client_shown: u64,
}

impl Datapath {
    /// Loads the programs, takes over or makes the maps, attaches the hooks or swaps their
    /// programs. From here on an agent that was there before changes nothing any more. On failure
    /// the kernel is as it was; a refused program's error carries the end of the verifier's log.
    pub fn load(config: &Config) -> Result<Self, DatapathError> {
        let object = Object::read(&config.object, config.tables, config.debug)?;
        let host = open_netns(&config.host_netns)?.cookie();
        let own = Netns::current()
            .map_err(DatapathError::kernel("open the agent's network namespace"))?
            .cookie();
        let records = Records::new(&config.state_dir)?;
        let pins = Pins::new(&config.bpffs);
        pins.prepare()?;
        let (ownership, claimed) = Ownership::claim(&pins)?;
        let installed = install::install(config, &object, &pins, &records, host);
        if installed.is_err() {
            ownership.take_back(&claimed);
            pins.tidy();
        }
        let (tables, trace) = installed?;
        Ok(Self {
            config: config.clone(),
            pins,
            object,
            tables,
            records,
            ownership,
            forbidden: [host, own],
            pods: Mutex::default(),
            is_list_read: AtomicBool::new(false),
            changes: Mutex::default(),
            trace: Mutex::new(trace),
        })
    }

    /// Changes nothing any more, whether a successor comes or not. Reads go on.
    pub fn cede(&self) {
        self.ownership.cede();
    }

    /// Takes the kernel side back after [`Self::cede`]: whoever has it now changes nothing any
    /// more, and what it put in place of ours is ours again.
    pub fn reclaim(&self) -> Result<(), DatapathError> {
        let _changes = lock(&self.changes);
        if self.ownership.renew_after_others()? {
            self.put_back()?;
        }
        Ok(())
    }

    /// Another agent had the kernel side: its build may work with other maps, so that its programs
    /// would not see what this one writes.
    fn put_back(&self) -> Result<(), DatapathError> {
        self.tables
            .pin_again(|name| install::pin_of(&self.config, &self.pins, name))
            .map_err(DatapathError::kernel("pin the maps again"))?;
        let loaded = self.object.load(&self.pins)?;
        let fresh = loaded.pin_fresh(&self.pins)?;
        self.attach_hooks(loaded)?;
        fresh.keep()?;
        self.steer_again()?;
        self.pins.remove_others(self.config.tables)
    }

    /// True while this agent may change the kernel side.
    pub fn is_owner(&self) -> bool {
        self.must_own().is_ok()
    }

    /// How many agents have owned the kernel side since its pins were made, up to this one; 0 when
    /// this one ceded it.
    pub fn generation(&self) -> u64 {
        self.ownership.generation()
    }

    /// Fails when another agent owns the kernel side. To be asked before every change of it.
    pub(crate) fn must_own(&self) -> Result<(), DatapathError> {
        self.ownership.check()
    }

    /// Takes everything away: hooks, pods' links, pins, and the mount when it is ours. Pods stay
    /// connected, un-meshed. The list of pods stays on disk for the next agent.
    pub fn release(config: &Config) -> Result<(), DatapathError> {
        let pins = Pins::new(&config.bpffs);
        // The maps first: without them an agent that still runs repairs nothing.
        for path in bpffs::list(&pins.maps())? {
            bpffs::unpin(&path)?;
        }
        hooks::detach_all(&pins)?;
        for path in bpffs::list(&pins.pods())? {
            steering::detach(&path)?;
        }
        pins.tidy_and_unmount();
        Ok(())
    }

    /// Removes the list of pods that [`Self::release`] leaves, where no next agent is meant to come.
    pub fn forget(config: &Config) -> Result<(), DatapathError> {
        Records::remove(&config.state_dir)
    }

    /// True while every hook of the node is attached.
    pub fn attached(&self) -> bool {
        let Config {
            names, cgroup_root, ..
        } = &self.config;
        hooks::missing(*names, cgroup_root, &self.pins).is_empty()
    }

    /// The counters now; zeros when the kernel does not give them.
    pub fn counters(&self) -> Counters {
        let slots = self.tables.counters().unwrap_or_default();
        let slot = |index: u32| slots[index as usize];
        Counters {
            captured: slot(counter::CAPTURED),
            no_address: slot(counter::NO_ADDRESS),
            host_approved: slot(counter::HOST_APPROVED),
            insert_failed: slot(counter::INSERT_FAILED),
            no_listener: slot(counter::NO_LISTENER),
            to_hbone: slot(counter::TO_HBONE),
            to_inbound: slot(counter::TO_INBOUND),
            to_outbound: slot(counter::TO_OUTBOUND),
            approved: slot(counter::APPROVED),
            client_shown: slot(counter::CLIENT_SHOWN),
        }
    }

    /// The net below the rule that a hand-over ends with its connection: takes back what is older
    /// than five minutes. Part of [`Self::upkeep`]. Also notices a kubepods cgroup that came after the start.
    pub fn sweep(&self) -> Result<(), DatapathError> {
        self.must_own()?;
        let failed = DatapathError::kernel("sweep the maps");
        self.refresh_settings()
            .and_then(|()| self.sweep_before(boot_time().saturating_sub(STALE)))
            .map_err(failed)
    }

    fn sweep_before(&self, limit: Duration) -> io::Result<()> {
        let limit = limit.as_nanos() as u64;
        for key in self.tables.approved.keys()? {
            if self
                .tables
                .approved
                .get(&key)?
                .is_some_and(|entry| entry.made < limit)
            {
                self.tables.approved.remove(&key)?;
            }
        }
        for key in self.tables.peers.keys()? {
            if self
                .tables
                .peers
                .get(&key)?
                .is_some_and(|entry| entry.made < limit)
            {
                self.tables.peers.remove(&key)?;
            }
        }
        Ok(())
    }

    pub(crate) fn refresh_settings(&self) -> io::Result<()> {
        let [host, _] = self.forbidden;
        let settings = settings(host, &self.config.cgroup_root);
        self.tables.settings.put(&0, &settings)
    }
}

pub(crate) fn open_netns(path: &Path) -> Result<Netns, DatapathError> {
    Netns::open(path).map_err(|source| DatapathError::Namespace {
        path: path.to_owned(),
        source,
    })
}

/// Locks; what a panicking thread left is still whole, every change being one insert or remove.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time since boot, on the clock the programs stamp with.
fn boot_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: time lives across the call.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_datapath_is_shared_among_workers() {
        fn shared<T: Send + Sync>() {}
        shared::<Datapath>();
    }

    #[test]
    fn the_boot_clock_runs() {
        let before = boot_time();
        assert!(before > Duration::ZERO);
        assert!(boot_time() >= before);
    }
}
