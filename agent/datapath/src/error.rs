//! What can go wrong on the kernel side.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Lines of the verifier's log that an error carries; its verdict stands at the end.
const TAIL_LINES: usize = 25;

/// A failure of the kernel side. Nothing is half done when one is returned: what a call began it
/// has taken back.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A file, directory or mount could not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The object file does not hold the programs and maps it should.
    #[error("eBPF object: {0}")]
    Object(String),
    /// The kernel refused a program.
    #[error("eBPF program {program} refused: {source}\n{tail}")]
    Load {
        /// Its name.
        program: &'static str,
        /// What the kernel answered.
        source: io::Error,
        /// End of the verifier's log.
        tail: String,
    },
    /// The kernel refused another call.
    #[error("{call}: {source}")]
    Kernel {
        /// What was tried.
        call: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The request names no namespace that could be entered.
    #[error("network namespace {}: {source}", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace is the host's or the agent's own: those are never enrolled.
    #[error("{} is the host's or the agent's own network namespace", .0.display())]
    NotAPod(PathBuf),
    /// The request names no container or no address.
    #[error("request without {0}")]
    Incomplete(&'static str),
    /// The namespace does not hold an address the request names.
    #[error("the network namespace does not hold {0}")]
    MissingAddress(IpAddr),
    /// The container, its namespace or its address is enrolled otherwise.
    #[error("{what} is enrolled already, for container {container}")]
    Taken {
        /// What both want.
        what: String,
        /// Who has it.
        container: String,
    },
    /// No process of the pod runs on this node, as far as its cgroups tell.
    #[error("no process of a pod with UID {uid:?} was found")]
    NotFound {
        /// The pod's UID.
        uid: String,
    },
    /// The pod is not enrolled.
    #[error("container {0} is not enrolled")]
    NotEnrolled(String),
    /// The data path does not do what it should.
    #[error("pod not captured: {0}")]
    Unverified(String),
    /// The pins of the maps are gone: new programs would not share the maps this agent works with.
    #[error("the pins of the maps are gone; restart the agent")]
    Unpinned,
    /// Another agent has taken the kernel side over; this one changes nothing any more.
    #[error("another agent owns this node's kernel side (generation {generation})")]
    Superseded {
        /// The number of the latest claim.
        generation: u64,
    },
    /// What a predecessor handed over is not the pod it should be.
    #[error("{container} is not as it was handed over: {what}")]
    HandOver {
        /// Which pod.
        container: String,
        /// What is wrong with it.
        what: String,
    },
}

impl DatapathError {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    pub(crate) fn kernel(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Kernel { call, source }
    }
}

/// The end of a verifier log, without the statistics line's neighbours that say nothing.
pub(crate) fn log_tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
