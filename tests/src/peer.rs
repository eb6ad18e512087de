//! The independent HBONE peer in Python (`tests/peers/hbone_peer.py`), driven one JSON line at a
//! time. It shares no code with the product: what it accepts and sends is the protocol as another
//! author reads it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::node::Node;
use crate::place::Place;
use crate::poll;
use crate::run::Run;

/// Debian's interpreter: the one that has python3-h2 and python3-cryptography.
pub const PYTHON: &str = "/usr/bin/python3";
/// No operation of the peer takes longer than its own limit; this one is for a dead peer.
const ANSWER: Duration = Duration::from_secs(60);

/// A running peer; ends when dropped.
#[derive(Debug)]
pub struct Peer {
    name: String,
    child: Mutex<Child>,
    channel: Mutex<Channel>,
}

#[derive(Debug)]
struct Channel {
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Peer {
    /// Starts the peer in a place; its errors go to `logs/NAME.log`.
    pub fn start(run: &Run, place: &Place, name: &str) -> Result<Self> {
        Self::launch(run, place, name, &[])
    }

    /// As [`Peer::start`], with only these TLS 1.3 suites.
    pub fn with_suites(run: &Run, place: &Place, name: &str, suites: &str) -> Result<Self> {
        Self::launch(run, place, name, &["--ciphersuites", suites])
    }

    fn launch(run: &Run, place: &Place, name: &str, arguments: &[&str]) -> Result<Self> {
        let log = run.log(name);
        let log = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = Command::new(PYTHON);
        command
            .arg(script("hbone_peer.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = place.start(command)?;
        run.record(child.id())?;
        let input = child.stdin.take().context("the peer has no input")?;
        let output = child.stdout.take().context("the peer has no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            for line in lines {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child: Mutex::new(child),
            channel: Mutex::new(Channel { input, lines }),
        })
    }

    /// Does one operation and gives its answer, whether good or bad.
    pub fn ask(&self, operation: &Value) -> Result<Value> {
        let mut channel = lock(&self.channel);
        writeln!(channel.input, "{operation}")
            .with_context(|| format!("peer {} has ended", self.name))?;
        let line = channel
            .lines
            .recv_timeout(ANSWER)
            .with_context(|| format!("peer {}: no answer to {operation}", self.name))?;
        serde_json::from_str(&line).with_context(|| format!("peer {} said {line:?}", self.name))
    }

    /// Does one operation that must succeed.
    pub fn must(&self, operation: &Value) -> Result<Value> {
        let answer = self.ask(operation)?;
        if answer["ok"] == json!(true) {
            return Ok(answer);
        }
        bail!("peer {}: {operation}: {}", self.name, answer["error"]);
    }

    /// Does one operation that must fail; gives the error's text.
    pub fn must_fail(&self, operation: &Value) -> Result<String> {
        let answer = self.ask(operation)?;
        match answer["error"].as_str() {
            Some(error) => Ok(error.to_owned()),
            None => bail!("peer {}: {operation} succeeded: {answer}", self.name),
        }
    }

    /// Joins the mesh with a node's token: gets a certificate for a service account and keeps it
    /// under `name`.
    pub fn join(
        &self,
        cluster: &Cluster,
        node: &Node,
        name: &str,
        namespace: &str,
        account: &str,
    ) -> Result<Value> {
        self.must(&json!({
            "op": "issue",
            "name": name,
            "url": cluster.control()?.url(),
            "root": cluster.control()?.root_cert(),
            "token_file": node.agent()?.settings().token_file,
            "identity": spiffe(namespace, account),
        }))
    }

    /// Opens a connection with the credentials `cert`.
    pub fn dial(&self, connection: &str, to: SocketAddr, cert: &str) -> Result<Value> {
        self.must(&json!({
            "op": "dial", "conn": connection, "to": [to.ip().to_string(), to.port()], "cert": cert,
        }))
    }

    /// Sends a plain CONNECT and gives what the stream came to.
    pub fn connect(&self, connection: &str, authority: &str) -> Result<Value> {
        self.must(&json!({ "op": "connect", "conn": connection, "authority": authority }))
    }

    /// One echo over an open stream; `before` bytes had been received on it already.
    pub fn echo(&self, connection: &str, stream: &Value, text: &str, before: usize) -> Result<()> {
        self.must(&json!({ "op": "send", "conn": connection, "stream": stream, "text": text }))?;
        let count = before + text.len();
        let answer = self.must(&json!({
            "op": "receive", "conn": connection, "stream": stream, "count": count,
        }))?;
        if answer["received"] != json!(count) || !ends_with(&answer["text"], text) {
            bail!("echo of {text:?} on {connection}: {answer}");
        }
        Ok(())
    }

    /// What server `name` has seen so far.
    pub fn events(&self, name: &str) -> Result<Vec<Value>> {
        let answer = self.must(&json!({ "op": "events", "name": name }))?;
        Ok(answer["events"].as_array().cloned().unwrap_or_default())
    }

    /// Forgets what server `name` has seen.
    pub fn forget(&self, name: &str) -> Result<()> {
        self.must(&json!({ "op": "events", "name": name, "clear": true }))
            .map(drop)
    }

    /// Waits until server `name` has seen an event that `wanted` accepts.
    pub fn wait_event(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        poll::until(what, Duration::from_secs(20), || {
            let events = self.events(name)?;
            let found = events.iter().find(|event| wanted(event)).cloned();
            found.with_context(|| format!("not among {events:?}"))
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The identity of a service account of the test clusters.
pub fn spiffe(namespace: &str, account: &str) -> String {
    format!(
        "spiffe://{}/ns/{namespace}/sa/{account}",
        crate::TRUST_DOMAIN
    )
}

fn ends_with(value: &Value, text: &str) -> bool {
    value.as_str().is_some_and(|value| value.ends_with(text))
}

/// A script of `tests/peers/`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("peers")
        .join(name)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
