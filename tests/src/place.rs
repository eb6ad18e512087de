//! A network namespace as a place where programs and closures run.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agent_net::Netns;
use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::command::{Output, check, check_with_input, finish, spawn_piped};
use crate::stop;

/// How programs of a place look names up, as a kubelet sets it up for a pod.
#[derive(Debug, Clone)]
pub struct NameFiles {
    /// Their `/etc/hosts`.
    pub hosts: PathBuf,
    /// Their `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// A named network namespace, with its own view of `/etc/hosts` and `/etc/resolv.conf` when they were
/// given.
#[derive(Debug, Clone)]
pub struct Place {
    name: String,
    netns: Arc<Netns>,
    names: Option<NameFiles>,
}

impl Place {
    /// Makes the namespace, with loopback up and IPv6 usable at once (no duplicate address
    /// detection, which would hold every new address back for seconds).
    pub fn create(name: &str, names: Option<NameFiles>) -> Result<Self> {
        check("ip", &["netns", "add", name])?;
        let place = Self::open(name, names)?;
        place.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
        place.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        place.ip(&["link set lo up"])?;
        Ok(place)
    }

    /// A namespace that exists.
    pub fn open(name: &str, names: Option<NameFiles>) -> Result<Self> {
        let netns = Netns::open(&path_of(name)).with_context(|| format!("opening {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            netns: Arc::new(netns),
            names,
        })
    }

    /// The namespace's name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace's file.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// The namespace's cookie.
    pub fn cookie(&self) -> u64 {
        self.netns.cookie().0
    }

    /// Removes the name. The namespace itself goes when nothing holds it any more.
    pub fn delete(&self) -> Result<()> {
        check("ip", &["netns", "del", &self.name])?;
        Ok(())
    }

    /// Runs `ip` commands here, one a line, in one process.
    pub fn ip(&self, lines: &[impl AsRef<str>]) -> Result<()> {
        let script: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        let input = format!("{}\n", script.join("\n"));
        check_with_input("ip", &["-n", &self.name, "-batch", "-"], &input)
            .with_context(|| format!("in {}:\n{input}", self.name))?;
        Ok(())
    }

    /// Sets a network sysctl here, named by its path below `/proc/sys`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name);
        self.within(|| fs::write(&path, value))?
            .with_context(|| format!("setting {}", path.display()))
    }

    /// Runs a closure in a thread of this namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.netns, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("entering {}", self.name))?;
                    Ok(work())
                })
                .join()
                .map_err(|_| anyhow!("a thread in {} panicked", self.name))?
        })
    }

    /// Starts a thread that lives in this namespace.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<Result<T>> {
        let place = self.clone();
        thread::spawn(move || {
            setns(&place.netns, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering {}", place.name))?;
            drop(place); // A thread that outlives the pod must not hold its namespace by fd.
            Ok(work())
        })
    }

    /// Connects from here. The socket works in any thread.
    pub fn connect(&self, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&to, limit))
            .map_err(io::Error::other)?
    }

    /// Runs a program here to its end.
    pub fn run(&self, command: &[&str], limit: Duration) -> Result<Output> {
        self.run_command(command_of(command)?, "", limit)
    }

    /// As [`Place::run`], for a prepared command with standard input.
    pub fn run_command(&self, command: Command, input: &str, limit: Duration) -> Result<Output> {
        let child = self.begin(command, spawn_piped)?;
        finish(child, input, limit)
    }

    /// Runs a program here that must succeed; gives back its standard output.
    pub fn check(&self, command: &[&str]) -> Result<String> {
        let output = self.run(command, Duration::from_secs(30))?;
        if output.ok() {
            return Ok(output.stdout);
        }
        Err(anyhow!(
            "in {}: {}: exit {:?}{}: {}{}",
            self.name,
            command.join(" "),
            output.code,
            if output.timed_out { " (timed out)" } else { "" },
            output.stdout.trim(),
            output.stderr.trim()
        ))
    }

    /// Starts a program here, with streams as the caller set them.
    pub(crate) fn start(&self, command: Command) -> Result<Child> {
        self.begin(command, |command| {
            command
                .spawn()
                .with_context(|| format!("starting {:?}", command.get_program()))
        })
    }

    /// A child inherits the namespaces of the thread that makes it.
    fn begin(
        &self,
        mut command: Command,
        spawn: impl FnOnce(&mut Command) -> Result<Child> + Send,
    ) -> Result<Child> {
        let _making = stop::making();
        let names = self.names.clone();
        self.within(move || {
            if let Some(names) = names {
                own_names(&names)?;
            }
            spawn(&mut command)
        })?
    }
}

/// Gives the calling thread a mount namespace in which these files are others. Unmounts of
/// the machine still reach it (slave), so that it holds no bpffs of an ended agent.
fn own_names(names: &NameFiles) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .context("detaching the mount namespace")?;
    for (file, at) in [
        (&names.hosts, "/etc/hosts"),
        (&names.resolv_conf, "/etc/resolv.conf"),
    ] {
        mount(Some(file), at, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("binding {at}"))?;
    }
    Ok(())
}

fn path_of(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// A command from its words.
pub fn command_of(words: &[&str]) -> Result<Command> {
    let (program, arguments) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}
