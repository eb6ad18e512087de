//! Connections older than enrolment. What an application has open when its pod is enrolled goes
//! past the hooks and the listeners; it is found once, by socket cookie, and judged by the proxy.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, TcpListener};

use agent_net::sockdiag::{self, Connection, Sockets};

use crate::error::DatapathError;
use crate::pods::{EnrolledPod, OlderConnection, OlderDirection};

/// Older connections that are kept of a pod.
const KEPT: usize = 4096;
/// Connections a namespace may have to be enrolled at all, so that the list has an end.
const LISTED: usize = 65_536;

/// The connections of a pod that do not pass the agent. To be called while the hooks are in force
/// and nobody accepts from the pod's listeners.
///
/// A connection that came in between the two is in the listener's queue, looks like one that the
/// application has not accepted yet, and is taken for it. That is harmless: it is decided by the
/// same facts when it is accepted.
pub(crate) fn list(
    pod: &EnrolledPod,
    own: &[IpAddr],
) -> Result<Vec<OlderConnection>, DatapathError> {
    let failed = DatapathError::kernel("list the pod's connections");
    let list = || {
        let ports = agent_ports(pod)?;
        let sockets = sockdiag::list(&pod.netns, LISTED)?;
        let (kept, surplus) = sort(&sockets, &ports, own, KEPT);
        end(pod, &surplus)?;
        Ok(kept)
    };
    list().map_err(failed)
}

/// Ports of the agent's listeners, which no connection of an application can have.
fn agent_ports(pod: &EnrolledPod) -> io::Result<BTreeSet<u16>> {
    let port = |listener: &TcpListener| Ok(listener.local_addr()?.port());
    [&pod.outbound, &pod.hbone, &pod.inbound]
        .into_iter()
        .map(port)
        .collect()
}

/// Tells what is kept and what is too much. Inbound ones come first: what is not kept could
/// outlive the policy that denies it, so inbound ones that are too many must end now. Outbound
/// ones that are too many are not listed.
fn sort(
    sockets: &Sockets,
    agent_ports: &BTreeSet<u16>,
    own: &[IpAddr],
    limit: usize,
) -> (Vec<OlderConnection>, Vec<Connection>) {
    let is_own = |ip: IpAddr| ip.is_loopback() || own.contains(&ip);
    let foreign = |connection: &&Connection| {
        !is_own(connection.remote.ip()) && !agent_ports.contains(&connection.local.port())
    };
    let (mut inbound, mut outbound): (Vec<_>, Vec<_>) = sockets
        .connections
        .iter()
        .filter(foreign)
        .partition(|connection| sockets.listening.contains(&connection.local.port()));
    let surplus = inbound.split_off(inbound.len().min(limit));
    outbound.truncate(limit - inbound.len());
    let older = |direction| {
        move |connection| OlderConnection {
            direction,
            connection,
        }
    };
    let inbound = inbound.into_iter().map(older(OlderDirection::Inbound));
    let outbound = outbound.into_iter().map(older(OlderDirection::Outbound));
    (inbound.chain(outbound).collect(), surplus)
}

fn end(pod: &EnrolledPod, surplus: &[Connection]) -> io::Result<()> {
    if surplus.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        container = pod.info.container_id,
        closed = surplus.len(),
        "more than {KEPT} connections to the pod are older than its enrolment"
    );
    for connection in surplus {
        sockdiag::destroy(&pod.netns, connection)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "10.0.0.1";

    fn connection(local: &str, remote: &str) -> Connection {
        Connection {
            cookie: 1,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            interface: 0,
        }
    }

    fn sorted(
        connections: &[(&str, &str)],
        limit: usize,
    ) -> (Vec<(OlderDirection, u16)>, Vec<u16>) {
        let sockets = Sockets {
            connections: connections
                .iter()
                .map(|(local, remote)| connection(local, remote))
                .collect(),
            listening: BTreeSet::from([80, 15_008]),
        };
        let agents = BTreeSet::from([15_008, 50_000]);
        let (kept, surplus) = sort(&sockets, &agents, &[OWN.parse().unwrap()], limit);
        let kept = kept
            .iter()
            .map(|older| (older.direction, older.connection.remote.port()));
        let surplus = surplus.iter().map(|connection| connection.remote.port());
        (kept.collect(), surplus.collect())
    }

    #[test]
    fn a_port_that_is_listened_on_makes_it_inbound() {
        use OlderDirection::{Inbound, Outbound};
        let (kept, surplus) = sorted(
            &[
                ("10.0.0.1:40000", "10.0.0.2:80"),
                ("10.0.0.1:80", "10.0.0.2:40001"),
            ],
            9,
        );
        assert_eq!(kept, [(Inbound, 40_001), (Outbound, 80)]);
        assert!(surplus.is_empty());
    }

    #[test]
    fn what_the_pod_says_to_itself_and_what_is_the_agents_is_left_out() {
        let (kept, surplus) = sorted(
            &[
                ("127.0.0.1:80", "127.0.0.1:40000"),
                ("10.0.0.1:80", "10.0.0.1:40001"),
                ("10.0.0.1:40001", "10.0.0.1:15001"),
                ("10.0.0.1:15008", "10.0.0.2:40002"),
                ("10.0.0.1:50000", "10.0.0.2:40003"),
            ],
            9,
        );
        assert_eq!((kept, surplus), (vec![], vec![]));
    }

    #[test]
    fn too_many_inbound_ones_do_not_escape() {
        use OlderDirection::Inbound;
        let (kept, surplus) = sorted(
            &[
                ("10.0.0.1:40000", "10.0.0.2:80"),
                ("10.0.0.1:80", "10.0.0.2:1"),
                ("10.0.0.1:80", "10.0.0.2:2"),
                ("10.0.0.1:80", "10.0.0.2:3"),
            ],
            2,
        );
        assert_eq!(kept, [(Inbound, 1), (Inbound, 2)]);
        assert_eq!(surplus, [3]);
    }
}
