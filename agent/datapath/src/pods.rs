//! Pods as the rest of the agent sees them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use agent_model::PodInfo;
use agent_net::sockdiag::Connection;
use agent_net::{Netns, NetnsCookie};

/// A pod whose traffic is captured, with the listeners it arrives at. Its owner accepts from
/// them; dropping them closes the pod.
#[derive(Debug)]
pub struct EnrolledPod {
    /// Who it is, as the runtime said. Nothing here is proof of identity.
    pub info: PodInfo,
    /// Its network namespace. The namespace cannot go away while this is held.
    pub netns: Arc<Netns>,
    /// Receives connects of the pod's applications. Non-blocking.
    pub outbound: TcpListener,
    /// Receives connections to the pod that are not tunnels. Non-blocking.
    pub inbound: TcpListener,
    /// Receives tunnels, port 15008. Non-blocking.
    pub hbone: TcpListener,
    /// Connections that were there before capture was: they go past the listeners.
    pub older: Vec<OlderConnection>,
}

impl EnrolledPod {
    /// The same pod with descriptors of its own, for whoever serves it after or beside this one.
    pub fn share(&self) -> io::Result<Self> {
        Ok(Self {
            info: self.info.clone(),
            netns: Arc::clone(&self.netns),
            outbound: self.outbound.try_clone()?,
            inbound: self.inbound.try_clone()?,
            hbone: self.hbone.try_clone()?,
            older: self.older.clone(),
        })
    }
}

/// A connection that was there before its pod was enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OlderConnection {
    /// Which way it goes.
    pub direction: OlderDirection,
    /// The pod's end of it.
    pub connection: Connection,
}

/// Which way an older connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OlderDirection {
    /// To the pod: its port is one the pod listens on.
    Inbound,
    /// From the pod.
    Outbound,
}

/// Takes pods over: the proxy.
pub trait PodSink: Send + Sync {
    /// Starts to serve a pod. When this fails the pod is un-enrolled.
    fn add(&self, pod: EnrolledPod) -> io::Result<()>;

    /// Accepts nothing more for a pod that leaves the mesh and lives on: takes what waits at its
    /// listeners and closes them. Connections it has go on until they end or [`Self::remove`] is
    /// called. Idempotent.
    fn leave(&self, pod: NetnsCookie);

    /// Stops to serve a pod and closes every socket and descriptor that belongs to it. Idempotent.
    fn remove(&self, pod: NetnsCookie);
}

/// A pod in `culvert status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodStatus {
    /// Who it is.
    pub info: PodInfo,
    /// Its network namespace.
    pub netns: NetnsCookie,
    /// True when the data path was seen, now, to do what it should.
    pub verified: bool,
    /// What is wrong when it is not verified.
    pub detail: Option<String>,
}

/// The pods of the node, by container id.
pub(crate) type Pods = BTreeMap<String, Entry>;

/// What is known of one pod.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) info: PodInfo,
    pub(crate) cookie: NetnsCookie,
    pub(crate) state: State,
}

#[derive(Debug, Clone)]
pub(crate) enum State {
    /// Enrolled by an agent before this one: captured, but with nobody to serve it yet.
    Waiting {
        /// Why the last try failed.
        error: Option<String>,
    },
    /// Enrolled.
    Enrolled(Steered),
}

/// What a pod's `sk_lookup` program must select.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Steered {
    /// Inode number of the namespace.
    pub(crate) inode: u32,
    /// An address of the pod's own of each family it has.
    pub(crate) own: Vec<IpAddr>,
    /// Socket cookies of the listeners.
    pub(crate) outbound: u64,
    pub(crate) hbone: u64,
    pub(crate) inbound: u64,
}
