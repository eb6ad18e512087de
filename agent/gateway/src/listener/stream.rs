//! Connections whose bytes nobody looks into: they go to an endpoint of the route's backends.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use agent_model::gateway::BackendProtocol;
use agent_model::{NamespacedHostname, Reason};
use agent_net::drain::Watcher;
use agent_net::socket::canonical;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::admit::admit;
use super::relay::{Abort, relay};
use super::standing::{End, until_over};
use super::tls::Hello;
use crate::passage::{Carried, Passage};
use crate::place::Transport;
use crate::plan::{Destination, Inside, Outer, Served, StreamListener, StreamRule};
use crate::refusal::Refusal;
use crate::upstream::Call;
use crate::worker::Worker;

/// Serves a client of a listener for TCP.
pub(super) async fn serve(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    client: SocketAddr,
    port: u16,
    draining: Watcher,
) {
    let listener = {
        let plan = worker.plan.load();
        let port = plan.port(port).filter(|port| port.spoken() == Outer::Bytes);
        port.and_then(|port| port.stream("")).cloned()
    };
    let Some(listener) = listener else {
        return stream.abort();
    };
    let mut passage = Passage::begin(client, port, Transport::Tcp, Instant::now());
    let carried = Carried::default();
    let local = stream.local_addr().map(|local| canonical(local).ip());
    let at = SocketAddr::new(local.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port);
    if let Err(refusal) = admit(&worker, client, at, "") {
        passage.refuse(refusal);
        stream.abort();
        return end(&worker, passage, &carried);
    }
    let judge = || judge(&worker, (client, at), "", Outer::Bytes);
    carry(
        &worker,
        &listener,
        (stream, Bytes::new()),
        Inside::Bytes,
        (&mut passage, &carried),
        until_over(&worker, draining, judge),
    )
    .await;
    end(&worker, passage, &carried);
}

/// Serves a client that asked for a name by TLS.
pub(super) async fn serve_named(
    worker: Rc<Worker>,
    hello: Hello<TcpStream>,
    listener: Arc<StreamListener>,
    (client, at): (SocketAddr, SocketAddr),
    draining: Watcher,
) {
    let mut passage = Passage::begin(client, at.port(), Transport::Tcp, Instant::now());
    passage.name = Some(hello.name.clone());
    let carried = Carried::default();
    if let Err(refusal) = admit(&worker, client, at, &hello.name) {
        passage.refuse(refusal);
        hello.refuse().await;
        return end(&worker, passage, &carried);
    }
    let name = hello.name.clone();
    let judge = || judge(&worker, (client, at), &name, Outer::Tls);
    let over = until_over(&worker, draining, judge);
    let book = (&mut passage, &carried);
    match &listener.tls {
        None if listener.rule(&hello.name).is_none() => {
            passage.refuse(no_route(&listener));
            hello.abort();
        }
        None => {
            let (said, stream) = hello.into_parts();
            carry(&worker, &listener, (stream, said), Inside::Tls, book, over).await;
        }
        Some(config) => match hello.terminate(config).await {
            Ok(stream) => {
                let client = (stream, Bytes::new());
                carry(&worker, &listener, client, Inside::Bytes, book, over).await;
            }
            Err(error) => {
                passage.refuse(Refusal::new(Reason::TlsFailed, error.to_string()));
            }
        },
    }
    end(&worker, passage, &carried);
}

/// Whether a client of one of our own ports still may pass as bytes. `begun` is what its port's
/// clients began with when it came.
fn judge(
    worker: &Worker,
    (client, at): (SocketAddr, SocketAddr),
    name: &str,
    begun: Outer,
) -> Option<End> {
    if let Err(refusal) = admit(worker, client, at, name) {
        return End::denied(refusal);
    }
    let plan = worker.plan.load();
    // One that is gone drains.
    let port = plan.port(at.port())?;
    let is_other = port.spoken() != begun || matches!(port.served(name), Some(Served::Http(_)));
    is_other.then_some(End::Changed("its port is for another protocol now"))
}

/// Finds the endpoint and copies until the connection is over. `early` is what the client has said
/// already; `inside` says what the bytes are.
async fn carry<C>(
    worker: &Worker,
    listener: &StreamListener,
    (mut client, early): (C, Bytes),
    inside: Inside,
    (passage, carried): (&mut Passage, &Carried),
    over: impl Future<Output = (Reason, String)>,
) where
    C: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let name = passage.name.as_deref().unwrap_or_default();
    let Some(rule) = listener.rule(name) else {
        passage.refuse(no_route(listener));
        return client.abort();
    };
    let rule = Arc::clone(rule);
    passage.rule = Some(Arc::clone(&rule));
    match destination(&rule, rand::random()) {
        Ok(to) => {
            through(
                worker,
                to,
                (client, early),
                inside,
                (passage, carried),
                over,
            )
            .await
        }
        Err(refusal) => {
            passage.refuse(refusal);
            client.abort();
        }
    }
}

/// Copies between a client and an endpoint of a service until the connection is over.
pub(super) async fn through<C>(
    worker: &Worker,
    (service, port): (&NamespacedHostname, u16),
    (mut client, early): (C, Bytes),
    inside: Inside,
    (passage, carried): (&mut Passage, &Carried),
    over: impl Future<Output = (Reason, String)>,
) where
    C: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let call = call(service, port, passage.client);
    match worker.upstreams.connect(&call, inside).await {
        Ok(backend) => {
            passage.endpoint = backend.endpoint();
            let ended = relay(client, backend, early, carried, over).await;
            (passage.reason, passage.detail) = ended;
        }
        Err(refusal) => {
            passage.refuse(refusal);
            client.abort();
        }
    }
}

/// The service that a client is sent to. `random` is uniform over all of `u64`.
pub(super) fn destination(
    rule: &StreamRule,
    random: u64,
) -> Result<(&NamespacedHostname, u16), Refusal> {
    match rule.split.choose(random) {
        Some(Destination::Service { service, port, .. }) => Ok((service, *port)),
        Some(Destination::Invalid(why)) => Err(Refusal::new(Reason::BackendInvalid, why.as_ref())),
        None => Err(Refusal::new(
            Reason::BackendInvalid,
            "the rule has no backend",
        )),
    }
}

/// A connection to a service, or a session of datagrams with it.
pub(super) fn call(service: &NamespacedHostname, port: u16, client: SocketAddr) -> Call<'_> {
    Call {
        service,
        port,
        protocol: BackendProtocol::default(),
        client: Some(client.ip()),
        session: None,
        hash: None,
        deadline: None,
        behalf: None,
        pod: None,
    }
}

pub(super) fn no_route(listener: &StreamListener) -> Refusal {
    let detail = format!("no route of listener {}", listener.name);
    Refusal::new(Reason::NoRoute, detail)
}

pub(super) fn end(worker: &Worker, mut passage: Passage, carried: &Carried) {
    passage.end(carried, Instant::now());
    worker.records.passage(&passage);
}
