//! The node's part of the kernel side: programs, maps, and what the proxy asks of them.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_net::{
    NAME_SERVERS, NamePlace, NameSockets, Netns, NetnsCookie, OriginalDst, SocketTags,
};
use ebpf_common::{
    ClientKey, NAME_PORT, OwnKey, Settings, SocketAddress, SocketState, Table, counter, role,
};

use crate::address;
use crate::bpffs::{self, Pins};
use crate::entries::{own_addresses, own_keys, pod_value};
use crate::error::DatapathError;
use crate::hooks;
use crate::object::{Object, POD_PROGRAM};
use crate::owner::Ownership;
use crate::pods::Pods;
use crate::records::{Record, Records};
use crate::steering;
use crate::table::Tables;
use crate::trace::Trace;

/// Age after which a hand-over between two sockets is taken back: far beyond the time a connect
/// tries for.
const STALE: Duration = Duration::from_secs(300);

/// The cgroup whose processes are pods, by the two drivers of the kubelet.
const KUBEPODS: [&str; 2] = ["kubepods", "kubepods.slice"];

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
        let installed = install(config, &object, &pins, &records, host);
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
            .pin_again(|name| pin_of(&self.config, &self.pins, name))
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

impl OriginalDst for Datapath {
    fn original_dst(&self, pod: NetnsCookie, client: SocketAddr) -> Option<SocketAddr> {
        let key = ClientKey {
            netns: pod.0,
            client: address::to_kernel(client),
            pad: 0,
        };
        let entry = self.tables.original.get(&key).ok()??;
        address::from_kernel(entry.address)
    }
}

impl SocketTags for Datapath {
    fn exempt(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.tables.mark(
            socket,
            &SocketState {
                role: role::EXEMPT,
                address: SocketAddress::default(),
            },
        )
    }

    fn show_client(&self, socket: BorrowedFd<'_>, client: SocketAddr) -> io::Result<()> {
        self.tables.mark(
            socket,
            &SocketState {
                role: role::DIAL,
                address: address::to_kernel(client),
            },
        )
    }
}

impl NameSockets for Datapath {
    fn serve_names(
        &self,
        pod: NetnsCookie,
        place: NamePlace,
        socket: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.must_own().map_err(io::Error::other)?;
        let descriptor = socket.as_raw_fd() as u32;
        self.tables
            .name_sockets
            .put(&to_kernel_place(pod, place), &descriptor)
    }

    fn leave_names(&self, pod: NetnsCookie) -> io::Result<()> {
        self.must_own().map_err(io::Error::other)?;
        for slot in 0..NAME_SERVERS {
            for is_ipv4 in [true, false] {
                let place = NamePlace { slot, is_ipv4 };
                self.tables
                    .name_sockets
                    .remove(&to_kernel_place(pod, place))?;
            }
        }
        Ok(())
    }

    fn name_server(&self, pod: NetnsCookie, place: NamePlace) -> Option<IpAddr> {
        let key = to_kernel_place(pod, place);
        let ip = self.tables.servers.get(&key).ok()??;
        let server = address::from_kernel(SocketAddress {
            ip,
            port: u32::from(NAME_PORT),
        })?;
        Some(server.ip().to_canonical())
    }
}

fn to_kernel_place(pod: NetnsCookie, place: NamePlace) -> ebpf_common::NamePlace {
    ebpf_common::NamePlace {
        netns: pod.0,
        slot: place.slot,
        is_ipv4: u32::from(place.is_ipv4),
    }
}

/// Everything of [`Datapath::load`] that touches the kernel: all programs pass the verifier
/// before anything is pinned, all maps are ready before anything is attached.
fn install(
    config: &Config,
    object: &Object,
    pins: &Pins,
    records: &Records,
    host: NetnsCookie,
) -> Result<(Tables, Option<Trace>), DatapathError> {
    let mut loaded = object.load(pins)?;
    let programs = loaded.hook_programs(config.names)?;
    loaded.program(POD_PROGRAM)?;
    let fresh = loaded.pin_fresh(pins)?;
    let path = |name: &str| Ok(fresh.path(pins, named(config, name)?));
    let tables = Tables::open(path).map_err(DatapathError::kernel("open the maps"))?;
    tables
        .settings
        .put(&0, &settings(host, &config.cgroup_root))
        .map_err(DatapathError::kernel("write the settings"))?;
    let trace = config
        .debug
        .then(|| Trace::start(&mut loaded.ebpf))
        .transpose()?;
    let captures =
        hooks::missing(false, &config.cgroup_root, pins).len() < hooks::wanted(false).count();
    if !fresh.is_empty() && captures {
        tracing::info!("the agent before worked with other maps: filling ours first");
        let failed = DatapathError::kernel("fill the maps");
        let fill = |record| fill(&tables, &record);
        let filled = records.read()?.into_iter().try_for_each(fill);
        filled.map_err(failed)?;
    }
    hooks::attach_all(&programs, config.names, &config.cgroup_root, pins)?;
    fresh.keep()?;
    pins.remove_others(config.tables)?;
    Ok((tables, trace))
}

/// Writes what the hooks must know of a pod from their first moment, into maps that may be new: it is
/// captured and, for as long as nobody has published its listeners there, closed.
fn fill(tables: &Tables, record: &Record) -> io::Result<()> {
    let netns = Netns::open(Path::new(&record.pod.netns));
    let Some(netns) = netns.ok().filter(|netns| netns.cookie().0 == record.netns) else {
        // It is gone.
        return Ok(());
    };
    let netns_own = own_addresses(&netns).map_err(io::Error::other)?;
    let own = own_keys(&record.pod, &netns_own);
    for ip in own {
        let key = OwnKey {
            netns: record.netns,
            ip,
        };
        tables.own.put(&key, &1)?;
    }
    if tables.pods.get(&record.netns)?.is_none() {
        tables.pods.put(&record.netns, &pod_value(&record.pod, 0))?;
    }
    for ip in &record.pod.ips {
        tables
            .local
            .put(&address::to_kernel_ip(*ip), &record.netns)?;
    }
    Ok(())
}

fn named<'a>(config: &'a Config, name: &str) -> io::Result<&'a Table> {
    let table = config.tables.iter().find(|table| table.name == name);
    table.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no map {name}")))
}

fn pin_of(config: &Config, pins: &Pins, name: &str) -> io::Result<PathBuf> {
    Ok(pins.map(named(config, name)?))
}

fn settings(host: NetnsCookie, cgroup_root: &Path) -> Settings {
    let mut kubepods = kubepods(cgroup_root).into_iter();
    Settings {
        host_netns: host.0,
        kubepods: [(); 2].map(|()| kubepods.next().unwrap_or(0)),
    }
}

/// Ids of the cgroups whose processes are pods: at the root or, for a kubelet with a `cgroupRoot` of
/// its own (kind's), one step below.
fn kubepods(cgroup_root: &Path) -> Vec<u64> {
    let mut paths = KUBEPODS.map(|name| cgroup_root.join(name)).to_vec();
    let folders = fs::read_dir(cgroup_root).into_iter().flatten().flatten();
    for folder in folders.map(|entry| entry.path()) {
        let name = folder.file_name().and_then(|name| name.to_str());
        paths.push(match name.and_then(|name| name.strip_suffix(".slice")) {
            Some(slice) => folder.join(format!("{slice}-kubepods.slice")),
            None => folder.join("kubepods"),
        });
    }
    let ids = paths.iter().filter_map(|path| fs::metadata(path).ok());
    ids.map(|meta| meta.ino()).collect()
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

    #[test]
    fn pods_are_known_by_either_driver_and_below_a_root_of_the_kubelets_own() {
        let root = std::env::temp_dir().join(format!("culvert-cgroup-{}", std::process::id()));
        for path in [
            "kubepods.slice",
            "kubepods",
            "kubelet.slice/kubelet-kubepods.slice",
            "kubelet/kubepods",
        ] {
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(root.join("system.slice/kubepods")).unwrap();
            fs::create_dir_all(root.join(path)).unwrap();
            let id = fs::metadata(root.join(path)).unwrap().ino();
            let found = settings(NetnsCookie(5), &root).kubepods;
            assert_eq!(found, [id, 0], "{path}");
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn absent_kubepods_are_nobody() {
        let settings = settings(NetnsCookie(5), Path::new("/nonexistent"));
        assert_eq!(settings.kubepods, [0, 0]);
        assert_eq!(settings.host_netns, 5);
    }
}
