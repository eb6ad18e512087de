//! An enrolled pod, shared by the workers.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use agent_datapath::{EnrolledPod, OlderConnection};
use agent_model::{PodInfo, Workload};
use agent_net::drain::Drain;
use agent_net::{Netns, NetnsCookie};
use agent_state::Snapshot;

use crate::older::Older;

/// An enrolled pod, shared by the workers.
#[derive(Debug)]
pub struct Pod {
    info: PodInfo,
    netns: Arc<Netns>,
    /// Connections carried for it, over all workers.
    pub(crate) connections: Arc<AtomicU32>,
    /// Tunnels of peers, over all workers.
    pub(crate) tunnels: Arc<AtomicU32>,
    /// Connections that were there before it was enrolled.
    pub(crate) older: Older,
    /// Its listeners, for a successor of this agent; empty once the pod is let go of.
    listeners: Mutex<Option<[TcpListener; 3]>>,
    /// Ends the serving of its name sockets; none while they are not served.
    names: Mutex<Option<Drain>>,
}

impl Pod {
    /// A pod that enrolment has captured and verified.
    pub fn new(enrolled: EnrolledPod) -> Self {
        let EnrolledPod {
            info,
            netns,
            outbound,
            inbound,
            hbone,
            older,
        } = enrolled;
        Self {
            info,
            netns,
            connections: Arc::default(),
            tunnels: Arc::default(),
            older: Older::new(older, Instant::now()),
            listeners: Mutex::new(Some([outbound, inbound, hbone])),
            names: Mutex::default(),
        }
    }

    /// What a successor of this agent needs to serve the pod; `None` once it was let go of.
    pub(crate) fn hand_over(&self) -> io::Result<Option<EnrolledPod>> {
        let listeners = self.listeners();
        let Some([outbound, inbound, hbone]) = &*listeners else {
            return Ok(None);
        };
        Ok(Some(EnrolledPod {
            info: self.info.clone(),
            netns: Arc::clone(&self.netns),
            outbound: outbound.try_clone()?,
            inbound: inbound.try_clone()?,
            hbone: hbone.try_clone()?,
            older: self.older.left(),
        }))
    }

    /// Closes its listeners, those aside that the workers accept from.
    pub(crate) fn let_go(&self) {
        self.listeners().take();
    }

    /// Its questions for names are answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.names().is_some()
    }

    pub(crate) fn names(&self) -> MutexGuard<'_, Option<Drain>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, Option<[TcpListener; 3]>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of the pod on this node.
    pub fn cookie(&self) -> NetnsCookie {
        self.netns.cookie()
    }

    /// As the container runtime named it.
    pub fn info(&self) -> &PodInfo {
        &self.info
    }

    /// Connections the agent carries for the pod now.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections older than the pod's enrolment that are open now, at most 4096. Takes
    /// milliseconds when there are any: not for the data path.
    pub fn older(&self) -> Vec<OlderConnection> {
        // To list one that is gone is better than to hide one that is not.
        if let Err(error) = self.older.refresh(&self.netns) {
            tracing::warn!(pod = %self.info.name, %error, "cannot list the pod's connections");
        }
        self.older.left()
    }

    /// The pod's network namespace.
    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// True when `ip` is one of the pod's own.
    pub(crate) fn owns(&self, ip: IpAddr) -> bool {
        self.info.ips.contains(&ip)
    }

    /// The control plane's record of this pod: the workload that holds the pod's address *and*
    /// has its name. The name alone could be anybody's say, the address alone could be that of
    /// the pod which had it before.
    pub fn workload_in(&self, snapshot: &Snapshot, network: &str) -> Option<Arc<Workload>> {
        self.info.ips.iter().find_map(|ip| {
            let workload = snapshot.workload_by_ip(network, *ip)?;
            let is_this_pod =
                *workload.name == *self.info.name && *workload.namespace == *self.info.namespace;
            is_this_pod.then(|| Arc::clone(workload))
        })
    }
}
