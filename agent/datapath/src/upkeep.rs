//! What is done every few seconds: what others took away is put back, what was left is swept.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use agent_net::{Netns, NetnsCookie};

use crate::datapath::{Config, Datapath, lock};
use crate::error::DatapathError;
use crate::object::Loaded;
use crate::pods::{Entry, State, Steered};
use crate::trace::Trace;
use crate::{bpffs, hooks, steering};

impl Datapath {
    /// One round: hooks of the node and links of pods that somebody detached or unpinned are
    /// attached again, hand-overs that nobody took are taken back, and what was kept for namespaces
    /// that went away is removed. Every part is tried; the first failure is returned.
    pub fn upkeep(&self) -> Result<(), DatapathError> {
        let _changes = lock(&self.changes);
        self.must_own()?;
        let followed = self.follow_processes();
        let hooks = self.repair_hooks();
        let pods = self.repair_pods();
        let swept = self.sweep();
        let removed = self.remove_dead();
        hooks.and(pods).and(swept).and(removed).and(followed)
    }

    /// Containers whose namespace is no longer where the runtime said: it took the pod away without
    /// a word. A namespace that cannot be opened for another reason is not gone.
    pub fn gone(&self) -> Vec<String> {
        let entries: Vec<Entry> = lock(&self.pods).values().cloned().collect();
        entries
            .into_iter()
            .filter(|entry| is_gone(Path::new(&entry.info.netns), entry.cookie))
            .map(|entry| entry.info.container_id)
            .collect()
    }

    fn repair_hooks(&self) -> Result<(), DatapathError> {
        let missing = hooks::missing(self.config.names, &self.config.cgroup_root, &self.pins);
        if missing.is_empty() {
            return Ok(());
        }
        tracing::warn!(hooks = ?missing, "somebody took hooks of this node away: attaching them again");
        let loaded = self.object.load(&self.pins)?;
        if !loaded.adopted_all() {
            return Err(DatapathError::Unpinned);
        }
        self.attach_hooks(loaded)
    }

    /// Attaches these hooks in place of whatever is attached.
    pub(crate) fn attach_hooks(&self, mut loaded: Loaded) -> Result<(), DatapathError> {
        let programs = loaded.hook_programs(self.config.names)?;
        let trace = self
            .config
            .debug
            .then(|| Trace::start(&mut loaded.ebpf))
            .transpose()?;
        self.must_own()?;
        let Config {
            names, cgroup_root, ..
        } = &self.config;
        hooks::attach_all(&programs, *names, cgroup_root, &self.pins)?;
        *lock(&self.trace) = trace;
        Ok(())
    }

    fn repair_pods(&self) -> Result<(), DatapathError> {
        let entries: Vec<Entry> = lock(&self.pods).values().cloned().collect();
        let mut result = Ok(());
        for entry in entries {
            if let State::Enrolled(steered) = &entry.state {
                result = result.and(self.repair_pod(&entry, steered));
            }
        }
        result
    }

    /// Steers a pod's connections to its listeners again; those are in the map as long as they live.
    fn repair_pod(&self, entry: &Entry, steered: &Steered) -> Result<(), DatapathError> {
        let pin = self.pins.pod(entry.cookie.0);
        if steering::program(&pin, steered.inode).is_ok() {
            return Ok(());
        }
        let netns = Netns::open(Path::new(&entry.info.netns));
        let Some(netns) = netns.ok().filter(|netns| netns.cookie() == entry.cookie) else {
            // Nothing to steer; see `gone`.
            return Ok(());
        };
        tracing::warn!(
            container = entry.info.container_id,
            "somebody took the pod's sk_lookup link away: attaching it again"
        );
        self.steer_to_own(entry.cookie, &netns)
    }

    /// Every pod's connections are this agent's again, whoever steered them meanwhile.
    pub(crate) fn steer_again(&self) -> Result<(), DatapathError> {
        let entries: Vec<Entry> = lock(&self.pods).values().cloned().collect();
        let mut result = Ok(());
        for entry in entries {
            let netns = Netns::open(Path::new(&entry.info.netns));
            if let Some(netns) = netns.ok().filter(|netns| netns.cookie() == entry.cookie) {
                result = result.and(self.steer_to_own(entry.cookie, &netns));
            }
        }
        result
    }

    fn steer_to_own(&self, cookie: NetnsCookie, netns: &Netns) -> Result<(), DatapathError> {
        let pin = self.pins.pod(cookie.0);
        let program = self.object.load_pod(cookie.0, &self.pins)?;
        self.must_own()?;
        steering::attach(program.as_fd(), netns, &pin)
    }

    /// Removes what is kept for namespaces that no longer exist. A pod that lives but is in no
    /// list stays captured and closed: to open it would be to let anyone in.
    pub(crate) fn remove_dead(&self) -> Result<(), DatapathError> {
        steering::remove_dead(&self.pins.pods())?;
        let steered: Vec<u64> = bpffs::list(&self.pins.pods())?
            .iter()
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
            .collect();
        let known: Vec<u64> = lock(&self.pods)
            .values()
            .map(|entry| entry.cookie.0)
            .collect();
        let failed = DatapathError::kernel("read the maps");
        for cookie in self.cookies_in_maps().map_err(failed)? {
            if !steered.contains(&cookie) && !known.contains(&cookie) {
                self.erase(NetnsCookie(cookie))?;
            }
        }
        Ok(())
    }

    fn cookies_in_maps(&self) -> io::Result<Vec<u64>> {
        let mut cookies = self.tables.pods.keys()?;
        cookies.extend(self.tables.own.keys()?.iter().map(|key| key.netns));
        cookies.sort_unstable();
        cookies.dedup();
        Ok(cookies)
    }
}

/// True when a path leads to no namespace or to another one. What cannot be opened for a reason
/// that may pass is not gone.
pub(crate) fn is_gone(path: &Path, cookie: NetnsCookie) -> bool {
    match Netns::open(path) {
        Ok(netns) => netns.cookie() != cookie,
        // ESRCH: a process that just ended. EINVAL: a file that was a mount point of the namespace.
        Err(error) => matches!(
            error.raw_os_error(),
            Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH | libc::EINVAL)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_gone_when_its_path_leads_nowhere_or_elsewhere() {
        let own = Path::new("/proc/thread-self/ns/net");
        let missing = Path::new("/proc/0/ns/net");
        assert!(is_gone(missing, NetnsCookie(1)));
        assert!(is_gone(Path::new("/etc/hostname/net"), NetnsCookie(1)));
        if let Ok(netns) = Netns::open(own) {
            assert!(!is_gone(own, netns.cookie()));
            assert!(is_gone(own, NetnsCookie(netns.cookie().0 + 1)));
        }
    }
}
