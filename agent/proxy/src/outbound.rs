//! Outbound: what an application of the pod dialled, captured by the kernel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_hbone::headers::{Authority, Baggage, ConnectRequest, Forwarded, TraceParent};
use agent_hbone::{Target, TunnelStream};
use agent_model::{Reason, Workload};
use agent_net::NAME_PORT;
use agent_net::copy::Counters;
use agent_state::Snapshot;
use agent_state::resolve::{self, Chooser, Named, Outbound};
use agent_telemetry::{Direction, Ends, Record};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::accept::{Accepted, refuse};
use crate::endpoints::ActiveEndpoint;
use crate::forward::{tcp_end, until_cut};
use crate::local::{LocalPod, identity_of};
use crate::names;
use crate::refusal::{Refusal, report};

/// Time all attempts of one connection may take together.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// Endpoints tried for one connection.
const MAX_ATTEMPTS: usize = 4;

/// accept, describe, decide, dial, forward, report.
pub(crate) async fn handle(pod: LocalPod, accepted: Accepted) {
    let Accepted {
        stream,
        peer: client,
        local,
    } = accepted;
    let kernel = &pod.worker.mesh.kernel;
    let original = kernel.original_dst(pod.pod.cookie(), client);
    let ends = Ends {
        source: client,
        destination: original.unwrap_or(local),
    };
    let metrics = &pod.worker.mesh.metrics;
    let mut record = Record::open(metrics, Direction::Outbound, ends, Instant::now());
    let counters = Counters::default();
    let result = match original {
        Some(original) => proxy(&pod, stream, client, original, &counters, &mut record).await,
        None => {
            refuse(stream);
            Err(Refusal::new(
                Reason::NoOriginalDestination,
                "not a captured connection",
            ))
        }
    };
    report(record, &counters, result);
}

async fn proxy(
    pod: &LocalPod,
    mut downstream: TcpStream,
    client: SocketAddr,
    original: SocketAddr,
    counters: &Counters,
    record: &mut Record,
) -> Result<(), Refusal> {
    if original.port() == NAME_PORT {
        let asked = tokio::select! {
            asked = names::stream::serve(pod, &mut downstream) => asked,
            refusal = pod.ended() => {
                refuse(downstream);
                return Err(refusal);
            }
        };
        match asked {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => return Err(Refusal::new(Reason::ConnectionReset, error.to_string())),
        }
    }
    let dialled = async {
        let slot = pod.admit()?;
        let source = pod.workload().await?;
        let deadline = tokio::time::Instant::now() + DIAL_DEADLINE;
        let dial = dial(pod, &source, client, original, record);
        let upstream = tokio::time::timeout_at(deadline, dial)
            .await
            .unwrap_or_else(|_| Err(Refusal::new(Reason::ConnectTimeout, "no endpoint in 10 s")))?;
        Ok((slot, upstream))
    };
    let dialled = tokio::select! {
        dialled = dialled => dialled,
        refusal = reset_by_client(&downstream) => Err(refusal),
        refusal = pod.ended() => Err(refusal),
    };
    let (_slot, (_active, upstream)) = match dialled {
        Ok(dialled) => dialled,
        Err(refusal) => {
            refuse(downstream);
            return Err(refusal);
        }
    };
    record.established(Instant::now());
    let client = tcp_end(downstream);
    match upstream {
        Upstream::Plain(stream) => {
            until_cut(client, tcp_end(stream), counters, record, pod.ended()).await
        }
        Upstream::Tunnel(stream) => until_cut(client, stream, counters, record, pod.ended()).await,
    }
}

/// Completes when the application resets its connection, so that nothing is dialled for nobody. A
/// half-close is no reset: a client may say all it has to say and wait.
async fn reset_by_client(stream: &TcpStream) -> Refusal {
    let detail = match stream.ready(Interest::ERROR).await {
        Ok(_) => "the application gave up".to_owned(),
        Err(error) => error.to_string(),
    };
    Refusal::new(Reason::ConnectionReset, detail)
}

/// Where the connection goes on.
enum Upstream {
    Plain(TcpStream),
    Tunnel(TunnelStream),
}

/// Decides and dials; another endpoint is tried when one fails before any byte was sent. An
/// endpoint's share counts from the decision on: one that is slow to answer would get all of a burst.
async fn dial(
    pod: &LocalPod,
    source: &Arc<Workload>,
    client: SocketAddr,
    original: SocketAddr,
    record: &mut Record,
) -> Result<(Option<ActiveEndpoint>, Upstream), Refusal> {
    let worker = &pod.worker;
    record.source(source, None);
    let mut tried: Vec<Arc<str>> = Vec::new();
    let mut last: Option<Refusal> = None;
    while tried.len() < MAX_ATTEMPTS {
        let told = worker.mesh.state.for_outbound(source, original).await;
        let snapshot =
            told.map_err(|error| Refusal::new(Reason::DestinationUnknown, error.to_string()))?;
        let decision = resolve::outbound(
            &snapshot,
            source,
            original,
            &mut Chooser {
                random: &mut rand::random,
                active: &|uid| worker.active.count(uid),
                tried: &tried,
            },
        );
        let (attempt, workload) = match decision {
            Outbound::Deny { reason, detail } => match last.take() {
                // Nobody is left; who did not answer may yet do so before the deadline.
                Some(refusal) if refusal.reason == Reason::ConnectTimeout => {
                    tried.clear();
                    continue;
                }
                last => return Err(last.unwrap_or_else(|| Refusal::new(reason, detail))),
            },
            Outbound::Named(named) => {
                let ends = (client, original);
                let attempt = by_name(pod, source, &snapshot, &named, ends, record).await;
                (attempt, Some(named.workload))
            }
            decision => {
                let workload = match &decision {
                    Outbound::Direct { workload, .. } => workload.clone(),
                    Outbound::Tunnel(hop) => Some(Arc::clone(&hop.workload)),
                    _ => None,
                };
                let attempt = attempt(pod, source, client, decision, record).await;
                (attempt, workload)
            }
        };
        match (attempt, workload) {
            (Ok(upstream), _) => return Ok(upstream),
            (Err(refusal), Some(workload)) if is_worth_another(refusal.reason) => {
                tracing::debug!(target: "outbound", endpoint = %workload.uid, %refusal,
                    "endpoint failed, trying another");
                tried.push(Arc::clone(&workload.uid));
                last = Some(refusal);
            }
            (Err(refusal), _) => return Err(refusal),
        }
    }
    Err(last.unwrap_or_else(|| Refusal::new(Reason::NoEndpoint, "every endpoint failed")))
}

/// One attempt to get where a decision leads.
async fn attempt(
    pod: &LocalPod,
    source: &Arc<Workload>,
    client: SocketAddr,
    decision: Outbound,
    record: &mut Record,
) -> Result<(Option<ActiveEndpoint>, Upstream), Refusal> {
    let active = &pod.worker.active;
    match decision {
        Outbound::Passthrough { destination } => {
            let stream = pod.dial_persistently(destination).await;
            let stream = stream.map_err(|error| Refusal::connect(&error))?;
            Ok((None, Upstream::Plain(stream)))
        }
        Outbound::Direct {
            destination,
            workload,
            service,
        } => {
            let workload = workload.as_ref();
            workload
                .iter()
                .for_each(|workload| record.destination(workload, None));
            service.iter().for_each(|service| record.service(service));
            let active = workload.map(|workload| active.begin(&workload.uid));
            let stream = pod.dial(destination).await;
            let stream = stream.map_err(|error| Refusal::connect(&error))?;
            Ok((active, Upstream::Plain(stream)))
        }
        Outbound::Tunnel(hop) => {
            record.destination(&hop.workload, hop.workload.identity().ok());
            hop.service
                .iter()
                .for_each(|service| record.service(service));
            let active = active.begin(&hop.workload.uid);
            let stream = open_tunnel(pod, source, client, &hop, record).await?;
            Ok((Some(active), Upstream::Tunnel(stream)))
        }
        Outbound::Named(named) => {
            let detail = format!("{} leads to another name", named.host);
            Err(Refusal::new(Reason::DnsFailed, detail))
        }
        Outbound::Deny { reason, detail } => Err(Refusal::new(reason, detail)),
    }
}

/// Gets to an endpoint by one of the addresses of its name, those of the family that was dialled
/// first. The share of the endpoint counts, whichever it is.
async fn by_name(
    pod: &LocalPod,
    source: &Arc<Workload>,
    snapshot: &Snapshot,
    named: &Named,
    (client, original): (SocketAddr, SocketAddr),
    record: &mut Record,
) -> Result<(Option<ActiveEndpoint>, Upstream), Refusal> {
    let worker = &pod.worker;
    let Named { host, workload, .. } = named;
    record.destination(workload, None);
    record.service(&named.service);
    let failed = |detail: String| Refusal::new(Reason::DnsFailed, detail);
    let found = worker.mesh.lookup.addresses(host).await;
    let found = found.map_err(|error| failed(format!("{host}: {error}")))?;
    let families = [true, false].map(|is_ipv4| {
        let mut own = pod.pod.info().ips.iter().map(IpAddr::to_canonical);
        own.any(|ip| ip.is_ipv4() == is_ipv4)
    });
    let prefers_ipv4 = original.ip().to_canonical().is_ipv4();
    let turn = rand::random::<u32>() as usize;
    let mut last = failed(format!("{host}: no address of a family that the pod has"));
    let active = worker.active.begin(&workload.uid);
    for address in in_order(&found, families, prefers_ipv4, turn) {
        let mut chooser = Chooser {
            random: &mut rand::random,
            active: &|uid| worker.active.count(uid),
            tried: &[],
        };
        let decision = resolve::named(snapshot, source, named, address, &mut chooser);
        match attempt(pod, source, client, decision, record).await {
            Ok((own, upstream)) => return Ok((own.or(Some(active)), upstream)),
            Err(refusal) if is_worth_another(refusal.reason) => last = refusal,
            Err(refusal) => return Err(refusal),
        }
    }
    Err(last)
}

/// Addresses to try, of the families that can be dialled (IPv4, IPv6): each time another one first.
fn in_order(found: &[IpAddr], families: [bool; 2], prefers_ipv4: bool, turn: usize) -> Vec<IpAddr> {
    let [ipv4, ipv6] = families;
    let mut addresses: Vec<IpAddr> = found.iter().map(IpAddr::to_canonical).collect();
    addresses.retain(|ip| if ip.is_ipv4() { ipv4 } else { ipv6 });
    if !addresses.is_empty() {
        let by = turn % addresses.len();
        addresses.rotate_left(by);
    }
    addresses.sort_by_key(|ip| ip.is_ipv4() != prefers_ipv4);
    addresses.truncate(MAX_ATTEMPTS);
    addresses
}

/// Opens a stream on a pooled tunnel to the hop, dialling one where there is none.
async fn open_tunnel(
    pod: &LocalPod,
    source: &Arc<Workload>,
    client: SocketAddr,
    hop: &resolve::Hop,
    record: &mut Record,
) -> Result<TunnelStream, Refusal> {
    let worker = &pod.worker;
    let identity = identity_of(source)?;
    let certificate = worker
        .mesh
        .certificates
        .get(&identity)
        .await
        .map_err(|error| Refusal::new(Reason::NoCertificate, error.to_string()))?;
    record.mutual_tls(true);
    record.source_identity(identity.clone());
    record.hbone_addr(hop.authority);
    let target = Target::new(
        pod.pod.cookie(),
        certificate,
        hop.peer,
        hop.expected.clone(),
    );
    let request = ConnectRequest {
        authority: Authority::Ip(hop.authority),
        baggage: Baggage::of(source),
        forwarded: Forwarded {
            client: Some(client),
            host: hop
                .service
                .as_ref()
                .map(|service| service.hostname.to_string())
                .unwrap_or_default(),
        },
        traceparent: Some(TraceParent::new(rand::random(), rand::random())),
        source: None,
    };
    let dial = || {
        let (pod, peer) = (pod.clone(), hop.peer);
        async move {
            tokio::select! {
                dialled = pod.dial(peer) => dialled,
                // The dial is the pool's, which does not know of the pod's end.
                _ = pod.ended() => Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    };
    worker
        .tunnels
        .open(&target, &request, dial)
        .await
        .map_err(Refusal::from)
}

/// Failures after which another endpoint of the service may do better. Refusals by policy are
/// final: they are answers, not failures.
fn is_worth_another(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectFailed
            | Reason::TlsFailed
            | Reason::PeerIdentityMismatch
            | Reason::PeerRevoked
            | Reason::H2Failed
            | Reason::TunnelLost
            | Reason::PeerRejected
            // A peer that accepted the connection and then said nothing, and one to which there
            // are as many tunnels as there may be.
            | Reason::IdleTimeout
            | Reason::LimitExceeded
            // Another endpoint may have an address, or another name.
            | Reason::DnsFailed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_can_be_dialled_in_turn_those_of_the_family_asked_for_first() {
        let found = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let order = |families, prefers_ipv4, turn| -> Vec<String> {
            let order = in_order(&found, families, prefers_ipv4, turn);
            order.iter().map(ToString::to_string).collect()
        };
        let [a, b, c] = found.map(|ip: IpAddr| ip.to_string());
        let both = [true, true];
        assert_eq!(order(both, true, 0), [&a, &b, &c].map(String::as_str));
        assert_eq!(order(both, true, 1), [&b, &a, &c].map(String::as_str));
        assert_eq!(order(both, false, 0), [&c, &a, &b].map(String::as_str));
        assert_eq!(order([true, false], false, 3), [&b, &a].map(String::as_str));
        assert!(order([false, false], true, 0).is_empty());
        assert!(in_order(&[], both, true, 7).is_empty());
    }
}
