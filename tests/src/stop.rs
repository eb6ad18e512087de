//! Ctrl-C: everything a run made is removed before the process goes.

use std::cell::Cell;
use std::future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock, RwLockReadGuard};
use std::task::Poll;
use std::thread;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Held for reading while something is being made, for writing while everything is removed: so
/// that nothing appears behind the back of the clean-up.
static MAKING: RwLock<()> = RwLock::new(());
static STOPPING: AtomicBool = AtomicBool::new(false);
static RUNS: Mutex<Vec<(String, Remove)>> = Mutex::new(Vec::new());

/// Removes what the run of that name made; false: without keeping the logs.
type Remove = fn(&str, bool) -> Result<()>;

thread_local! {
    /// Set in the thread that removes everything: its own commands need no permission.
    static REMOVING: Cell<bool> = const { Cell::new(false) };
}

/// Exit code after a signal, as shells report an interrupted program.
const INTERRUPTED: i32 = 130;

/// Handles SIGINT, SIGTERM and SIGHUP in a thread of their own. Handlers, not a blocked mask:
/// children would inherit that and never hear their own SIGTERM.
pub fn on_signal() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("starting the signal runtime")?;
    let mut signals = {
        let _inside = runtime.enter();
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let streams: io::Result<Vec<Signal>> = kinds.into_iter().map(signal).collect();
        streams.context("handling signals")?
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(future::poll_fn(|context| {
                let any = signals.iter_mut().any(|s| s.poll_recv(context).is_ready());
                if any { Poll::Ready(()) } else { Poll::Pending }
            }));
            eprintln!("\ninterrupted: removing what this run made");
            remove_everything();
            std::process::exit(INTERRUPTED);
        })
        .context("starting the signal thread")?;
    Ok(())
}

/// Permission to make a process, a namespace or a mount. Waits for ever once the program stops.
pub(crate) fn making() -> Option<RwLockReadGuard<'static, ()>> {
    if REMOVING.get() {
        return None;
    }
    let guard = MAKING
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if STOPPING.load(Ordering::SeqCst) {
        drop(guard);
        loop {
            thread::park();
        }
    }
    Some(guard)
}

/// Names a run that a signal must remove, and how.
pub(crate) fn watch(run: &str, remove: Remove) {
    lock(&RUNS).push((run.to_owned(), remove));
}

/// The run was removed in the ordinary way.
pub(crate) fn unwatch(run: &str) {
    lock(&RUNS).retain(|(other, _)| other != run);
}

fn remove_everything() {
    STOPPING.store(true, Ordering::SeqCst);
    REMOVING.set(true);
    let _guard = MAKING
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    for (run, remove) in lock(&RUNS).drain(..) {
        if let Err(error) = remove(&run, false) {
            eprintln!("removing run {run}: {error:#}");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
