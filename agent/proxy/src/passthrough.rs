//! Passthrough: plaintext that reached a pod. It has no identity; policy decides.

use std::net::SocketAddr;
use std::time::Instant;

use agent_model::{AGENT_PORTS, Reason};
use agent_net::copy::Counters;
use agent_telemetry::{Direction, Ends, Record};
use tokio::net::TcpStream;

use crate::accept::{Accepted, refuse};
use crate::connections::Facts;
use crate::forward::{tcp_end, until_cut};
use crate::inbound::{Application, dial_admitted, until_denied};
use crate::local::LocalPod;
use crate::refusal::{Refusal, report};

/// accept, describe, decide, dial, forward, report.
pub(crate) async fn handle(pod: LocalPod, accepted: Accepted) {
    let Accepted {
        stream,
        peer,
        local,
    } = accepted;
    let metrics = &pod.worker.mesh.metrics;
    let ends = Ends {
        source: peer,
        destination: local,
    };
    let mut record = Record::open(metrics, Direction::Inbound, ends, Instant::now());
    let counters = Counters::default();
    let result = proxy(&pod, stream, peer, local, &counters, &mut record).await;
    report(record, &counters, result);
}

async fn proxy(
    pod: &LocalPod,
    downstream: TcpStream,
    client: SocketAddr,
    destination: SocketAddr,
    counters: &Counters,
    record: &mut Record,
) -> Result<(), Refusal> {
    let facts = Facts {
        local: destination.ip(),
        source: None,
        peer: None,
        source_ip: client.ip(),
        destination,
    };
    let dialled = tokio::select! {
        dialled = admit_and_dial(pod, facts, client, record) => dialled,
        refusal = pod.ended() => Err(refusal),
    };
    let application = match dialled {
        Ok(application) => application,
        Err(refusal) => {
            refuse(downstream);
            return Err(refusal);
        }
    };
    let Application {
        stream,
        admitted,
        _slot,
    } = application;
    record.established(Instant::now());
    let cut = until_denied(pod, &admitted);
    until_cut(tcp_end(downstream), tcp_end(stream), counters, record, cut).await
}

async fn admit_and_dial(
    pod: &LocalPod,
    facts: Facts,
    client: SocketAddr,
    record: &mut Record,
) -> Result<Application, Refusal> {
    let slot = pod.admit()?;
    let destination = facts.destination;
    if !pod.owns(destination.ip()) {
        let detail = format!("{destination} is not an address of this pod");
        return Err(Refusal::new(Reason::AuthorityMismatch, detail));
    }
    if AGENT_PORTS.contains(&destination.port()) {
        let detail = format!("port {} belongs to the agent", destination.port());
        return Err(Refusal::new(Reason::AgentPort, detail));
    }
    let local = pod.workload().await?;
    record.destination(&local, None);
    let mesh = &pod.worker.mesh;
    if let Some(source) = mesh
        .state
        .load()
        .workload_by_ip(&mesh.config.network, client.ip())
    {
        record.source(source, None);
    }
    dial_admitted(pod, slot, &local, facts, client).await
}
