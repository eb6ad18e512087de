//! A program of the product that may run or not, and is started and ended many times.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::process::Process;

/// A place for at most one running process.
#[derive(Debug)]
pub(crate) struct Supervised {
    /// What it is, for messages.
    what: &'static str,
    process: Mutex<Option<Process>>,
}

impl Supervised {
    /// Nothing runs yet.
    pub(crate) fn new(what: &'static str) -> Self {
        Self {
            what,
            process: Mutex::default(),
        }
    }

    /// Starts it. Fails when it runs already.
    pub(crate) fn start(&self, spawn: impl FnOnce() -> Result<Process>) -> Result<()> {
        let mut slot = self.lock();
        ensure!(slot.is_none(), "{} runs already", self.what);
        *slot = Some(spawn()?);
        Ok(())
    }

    /// Does something to the one that runs, then starts another in its place. The first is given
    /// back.
    pub(crate) fn replace(
        &self,
        prepare: impl FnOnce(&Process) -> Result<()>,
        spawn: impl FnOnce() -> Result<Process>,
    ) -> Result<Process> {
        let mut slot = self.lock();
        let before = slot.take();
        let before = before.with_context(|| format!("{} does not run", self.what))?;
        match prepare(&before).and_then(|()| spawn()) {
            Ok(process) => *slot = Some(process),
            Err(error) => {
                *slot = Some(before);
                return Err(error);
            }
        }
        Ok(before)
    }

    /// Waits for a clean end of its own.
    pub(crate) fn wait_end(&self, limit: Duration) -> Result<()> {
        let mut slot = self.lock();
        let process = slot.as_ref();
        let process = process.with_context(|| format!("{} does not run", self.what))?;
        let status = process.wait_end(limit)?;
        *slot = None;
        ensure!(status.success(), "{} ended with {status}", self.what);
        Ok(())
    }

    /// SIGKILL; nothing of it runs any more when this returns.
    pub(crate) fn kill9(&self) -> Result<()> {
        match self.lock().take() {
            Some(process) => process.kill9(),
            None => bail!("{} does not run", self.what),
        }
    }

    /// SIGTERM and the wait for a clean end; one that does not run is stopped.
    pub(crate) fn stop(&self, limit: Duration) -> Result<()> {
        let Some(process) = self.lock().take() else {
            return Ok(());
        };
        let status = process.terminate(limit)?;
        ensure!(status.success(), "{} ended with {status}", self.what);
        Ok(())
    }

    /// Sends a signal to the one that runs.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let slot = self.lock();
        let process = slot.as_ref();
        process
            .with_context(|| format!("{} does not run", self.what))?
            .signal(signal)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Result<u32> {
        let pid = self.lock().as_ref().map(Process::pid);
        pid.with_context(|| format!("{} does not run", self.what))
    }

    /// An error that shows the end of the log when it is not running.
    pub(crate) fn must_run(&self) -> Result<()> {
        match self.lock().as_ref() {
            Some(process) => process.must_run(),
            None => bail!("{} does not run", self.what),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
