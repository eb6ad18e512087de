//! Keeps the CNI plugin installed while the agent runs, whoever else writes the runtime's folders.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_cni::install::{InstallError, Installation, Standing};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

/// Time between two looks when nothing is heard of the folder.
const POLL: Duration = Duration::from_secs(10);
/// The same while the plugin is in no chain yet.
const WAIT: Duration = Duration::from_secs(1);
/// Time from a change to a look at it: writers seldom write once.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Longest pause between two writes that others undo.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// The thread that looks after the installation. It ends when this is dropped; what is installed
/// stays, for the agent that comes next.
pub(super) struct Installer {
    events: SyncSender<Event>,
    thread: Option<JoinHandle<()>>,
    problem: Problem,
}

/// Why pods are not handed to the agent by their runtime, while they are not.
pub(super) type Problem = Arc<Mutex<Option<String>>>;

enum Event {
    Changed,
    Stop,
}

impl Installer {
    /// Starts it. Nothing is installed while `is_wanted` says no.
    pub(super) fn start(
        installation: Installation,
        is_wanted: impl Fn() -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        // One event waiting asks for a look at everything.
        let (events, heard) = sync_channel(1);
        let problem = Problem::default();
        let (sender, shown) = (events.clone(), Arc::clone(&problem));
        let thread = std::thread::Builder::new()
            .name("cni-installer".into())
            .spawn(move || keep(&installation, is_wanted, &sender, &heard, &shown))?;
        Ok(Self {
            events,
            thread: Some(thread),
            problem,
        })
    }

    /// For `culvert status`.
    pub(super) fn problem(&self) -> Problem {
        Arc::clone(&self.problem)
    }
}

impl Drop for Installer {
    fn drop(&mut self) {
        // Blocks while an event waits, until the thread has taken it.
        let _ = self.events.send(Event::Stop);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the installer of the CNI plugin panicked");
        }
    }
}

fn keep(
    installation: &Installation,
    is_wanted: impl Fn() -> bool,
    events: &SyncSender<Event>,
    heard: &Receiver<Event>,
    shown: &Problem,
) {
    let mut watch = FolderWatch::default();
    let mut pace = Pace::default();
    loop {
        // First the ears, then the look: nothing is missed in between.
        watch.renew(&installation.conf_dir, events);
        let mut pause = WAIT;
        if is_wanted() {
            let standing = installation.ensure();
            if let Ok(Standing::Chained { wrote, .. }) = standing {
                pause = POLL;
                if wrote {
                    pace.wrote(Instant::now());
                }
            }
            show(shown, &standing);
        }
        match heard.recv_timeout(pause) {
            Ok(Event::Changed) => {
                if !pass(heard, pace.hold(Instant::now()).max(DEBOUNCE)) {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Lets a time pass, whatever else changes. False when it is time to stop.
fn pass(heard: &Receiver<Event>, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match heard.recv_timeout(left) {
            Ok(Event::Changed) => {}
            Err(RecvTimeoutError::Timeout) => return true,
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// Logs what is new about the installation and keeps it for status.
fn show(shown: &Problem, standing: &Result<Standing, InstallError>) {
    let problem = match standing {
        Ok(Standing::Chained { file, wrote }) => {
            if *wrote {
                tracing::info!(file = %file.display(), "the CNI plugin is in the runtime's chain");
            }
            None
        }
        other => Some(describe(other)),
    };
    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    if *shown != problem
        && let Some(problem) = &problem
    {
        tracing::warn!(problem, "the CNI plugin is not installed");
    }
    *shown = problem;
}

fn describe(standing: &Result<Standing, InstallError>) -> String {
    match standing {
        Ok(Standing::Chained { .. }) => String::new(),
        Ok(Standing::NoList) => "waiting for the first list of meshed namespaces".to_owned(),
        Ok(Standing::NoNetwork(files)) if files.is_empty() => {
            "waiting for a network configuration".to_owned()
        }
        Ok(Standing::NoNetwork(files)) => {
            let files = files
                .iter()
                .map(|(file, why)| format!("{}: {why}", file.display()));
            files.collect::<Vec<_>>().join("; ")
        }
        Err(error) => error.to_string(),
    }
}

/// inotify on the runtime's folder, which may come, go and be replaced. Without it the slow look
/// does all the work.
#[derive(Default)]
struct FolderWatch {
    inode: Option<u64>,
    watcher: Option<RecommendedWatcher>,
}

impl FolderWatch {
    fn renew(&mut self, folder: &Path, events: &SyncSender<Event>) {
        let inode = std::fs::metadata(folder).ok().map(|meta| meta.ino());
        if inode == self.inode && self.watcher.is_some() == inode.is_some() {
            return;
        }
        self.inode = inode;
        self.watcher = inode.and_then(|_| {
            let events = events.clone();
            let mut watcher = notify::recommended_watcher(move |_| {
                // A full channel already asks for a look.
                let _ = events.try_send(Event::Changed);
            });
            if let Ok(watcher) = &mut watcher {
                watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
            }
            watcher.ok()
        });
    }
}

/// How soon the next write may follow: somebody who puts their own text back every time is met
/// ever more slowly.
#[derive(Debug, Default)]
struct Pace {
    hold: Duration,
    last: Option<Instant>,
}

impl Pace {
    fn wrote(&mut self, now: Instant) {
        let is_contested = self
            .last
            .is_some_and(|last| now.duration_since(last) < 2 * LONGEST_HOLD);
        self.hold = if is_contested {
            (2 * self.hold).clamp(DEBOUNCE, LONGEST_HOLD)
        } else {
            Duration::ZERO
        };
        self.last = Some(now);
    }

    /// Time from `now` until the next write is in order.
    fn hold(&self, now: Instant) -> Duration {
        let next = self.last.map(|last| last + self.hold);
        next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use agent_cni::install::write_meshed;

    use super::*;

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}"#;

    fn folder(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("culvert-installer-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        for folder in ["bin", "state"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        fs::write(path.join("culvert-cni"), "program").unwrap();
        path
    }

    fn installation(root: &Path) -> Installation {
        Installation {
            program: root.join("culvert-cni"),
            bin_dir: root.join("bin"),
            conf_dir: root.join("net.d"),
            agent_socket: "/run/culvert/cni.sock".into(),
            meshed_namespaces: root.join("state/list.json"),
            exclude_namespaces: Vec::new(),
        }
    }

    fn eventually(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !condition() {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_chained(file: &Path) -> bool {
        fs::read_to_string(file).is_ok_and(|text| text.contains("culvert-cni"))
    }

    #[test]
    fn what_comes_late_or_is_overwritten_is_chained_and_status_says_what_is_missing() {
        let root = folder("late");
        let wanted = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&wanted);
        let installer =
            Installer::start(installation(&root), move || asked.load(Ordering::Relaxed)).unwrap();
        let problem = installer.problem();
        let says = |word: &str| {
            let problem = problem.lock().unwrap();
            problem.as_ref().is_some_and(|text| text.contains(word))
        };
        eventually("no list", || says("list of meshed"));
        write_meshed(&root.join("state/list.json"), &BTreeSet::new()).unwrap();
        eventually("no network", || says("a network configuration"));
        fs::create_dir_all(root.join("net.d")).unwrap();
        let file = root.join("net.d/10-pods.conflist");
        fs::write(&file, "{").unwrap();
        eventually("a broken one", || says("10-pods.conflist"));
        fs::write(&file, LIST).unwrap();
        eventually("chained", || is_chained(&file));
        eventually("no problem", || problem.lock().unwrap().is_none());
        for _ in 0..3 {
            fs::write(&file, LIST).unwrap();
            eventually("chained again, long before the slow look", || {
                is_chained(&file)
            });
        }
        // The agent was told to let go of the node.
        wanted.store(false, Ordering::Relaxed);
        fs::write(&file, LIST).unwrap();
        std::thread::sleep(4 * DEBOUNCE);
        assert!(!is_chained(&file));
        drop(installer);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn writes_that_are_undone_become_rare_and_recover() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut now = start;
        let mut writes = 0;
        while now < start + Duration::from_secs(600) {
            pace.wrote(now);
            writes += 1;
            now += pace.hold(now).max(DEBOUNCE);
        }
        assert!(writes < 25, "{writes} writes in ten minutes");
        assert_eq!(pace.hold, LONGEST_HOLD);
        pace.wrote(now + 3 * LONGEST_HOLD);
        assert_eq!(pace.hold, Duration::ZERO);
    }
}
