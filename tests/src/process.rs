//! A long-running program: its log, its pid on record, its end.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::place::Place;
use crate::poll;
use crate::run::Run;

/// Processor time a process has used so far.
pub fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading a stat line")?;
    let (_, fields) = stat.rsplit_once(')').context("an odd stat line")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().context("no time")?.parse()?) };
    // The kernel reports in USER_HZ, which is 100 on every architecture of ours.
    Ok(Duration::from_millis((ticks()? + ticks()?) * 10))
}

/// Resident memory of a process in bytes.
pub fn rss_of(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading a status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .context("no VmRSS")?;
    Ok(kib * 1024)
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a place; standard output and error go to `logs/NAME.log`, appended.
    /// The program leads a process group of its own, so that Ctrl-C reaches only us.
    pub fn spawn(run: &Run, place: &Place, name: &str, mut command: Command) -> Result<Self> {
        let log = run.log(name);
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("sharing a log file")?)
            .stderr(file)
            .process_group(0);
        let child = place.start(command)?;
        run.record(child.id())?;
        Ok(Self {
            name: name.to_owned(),
            pid: child.id(),
            child: Mutex::new(child),
            log,
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its exit status, when it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.lock().try_wait().ok().flatten()
    }

    /// Waits for an end of its own.
    pub fn wait_end(&self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} runs on after {limit:?}", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, awaited: nothing of the process runs any more when this returns.
    pub fn kill9(&self) -> Result<()> {
        let mut child = self.lock();
        let _ = child.kill();
        child.wait().context("waiting for a killed process")?;
        Ok(())
    }

    /// Sends a signal. After SIGSTOP nothing of the process runs any more when this returns: its threads
    /// stop one by one, each when it next leaves the kernel.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid).context("pid out of range")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("signalling {}", self.name))?;
        match signal {
            Signal::SIGSTOP => {
                poll::until("every thread stopped", STOPPED, || all_stopped(self.pid))
            }
            _ => Ok(()),
        }
    }

    /// Sends a signal to it and to its workers.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid).context("pid out of range")?;
        killpg(Pid::from_raw(pid), signal).with_context(|| format!("signalling {}", self.name))
    }

    /// SIGTERM, then waits for the end.
    pub fn terminate(&self, limit: Duration) -> Result<ExitStatus> {
        if self.ended().is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill9()?;
                bail!("{} did not end within {limit:?} of SIGTERM", self.name);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// An error that shows the end of the log when the process is no longer running.
    pub fn must_run(&self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.log_tail(20)),
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// How long threads may take to stop.
const STOPPED: Duration = Duration::from_secs(10);

/// Fails while a thread of a process is not stopped.
fn all_stopped(pid: u32) -> Result<()> {
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("listing threads")? {
        let stat = thread.context("listing threads")?.path().join("stat");
        // One that has ended meanwhile does nothing either.
        let stat = fs::read_to_string(stat).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        ensure!(
            state.is_empty() || state.starts_with(['T', 'Z', 'X']),
            "a thread runs on: {stat}"
        );
    }
    Ok(())
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.lock();
        if matches!(child.try_wait(), Ok(None)) {
            // Workers of a server are in its process group.
            if let Ok(pid) = i32::try_from(self.pid) {
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
