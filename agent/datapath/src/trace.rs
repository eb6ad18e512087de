//! The programs' log lines, when the debug switch is on.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::DatapathError;

/// How long a stop may go unnoticed, milliseconds.
const PATIENCE: u16 = 200;

/// Reads the programs' lines on a thread of its own, until dropped.
#[derive(Debug)]
pub(crate) struct Trace {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trace {
    pub(crate) fn start(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let logger = EbpfLogger::init_with_logger(ebpf, ToTracing)
            .map_err(|error| DatapathError::Object(format!("log lines: {error}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("ebpf-log".into())
            .spawn(move || follow(logger, &seen))
            .map_err(DatapathError::kernel("start the log thread"))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn follow(mut logger: EbpfLogger<ToTracing>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut waited = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut waited, PollTimeout::from(PATIENCE));
        if ready.is_ok_and(|ready| ready > 0) {
            logger.flush();
        }
    }
}

/// Passes lines on to the agent's own log.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::debug!(target: "ebpf", "{}", record.args());
    }

    fn flush(&self) {}
}
