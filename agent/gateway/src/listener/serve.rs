//! One client's connection.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use agent_model::gateway::Scheme;
use agent_net::drain::Watcher;
use agent_net::socket::canonical;
use agent_policy::http::Peer;
use http::HeaderValue;
use tokio::net::TcpStream;

use super::detect::{Rewound, Spoken, detect};
use super::http::speak;
use super::tls::Hello;
use super::vouched::vouched;
use super::{stream, tunnel};
use crate::plan::{HttpListener, Outer, PortPlan, Served};
use crate::request::{Downstream, Origin};
use crate::worker::Worker;

/// Serves a connection until it ends, or until its requests have ended after the drain began.
pub(super) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    port: u16,
    draining: Watcher,
) {
    let spoken = worker.plan.load().port(port).map(PortPlan::spoken);
    match spoken {
        None => {}
        Some(Outer::Tunnel) => tunnel::serve(worker, stream, client, draining).await,
        Some(Outer::Bytes) => stream::serve(worker, stream, client, port, draining).await,
        Some(Outer::Http) => serve_http(worker, stream, client, port, draining).await,
        // Boxed: it holds the client's first message.
        Some(Outer::Tls) => Box::pin(serve_tls(worker, stream, client, port, draining)).await,
    }
}

async fn serve_http(
    worker: Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    port: u16,
    draining: Watcher,
) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let ends = (client, SocketAddr::new(canonical(local).ip(), port));
    let greeted = unless_draining(&draining, detect(stream)).await;
    if let Some((spoken, stream)) = greeted.flatten()
        && let Some(downstream) = downstream(&worker, ends, None, Shown::default())
    {
        speak(worker, downstream, spoken, stream, draining).await;
    }
}

/// The name that the client asks for says what it gets.
async fn serve_tls(
    worker: Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    port: u16,
    draining: Watcher,
) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let ends = (client, SocketAddr::new(canonical(local).ip(), port));
    let failed = |error: io::Error| tracing::debug!(port, %client, %error, "TLS handshake failed");
    let hello = match unless_draining(&draining, Hello::read(stream)).await {
        None => return,
        Some(Err(error)) => return failed(error),
        Some(Ok(hello)) => hello,
    };
    let (served, has_streams) = {
        let plan = worker.plan.load();
        let port = plan.port(port);
        let served = port.and_then(|port| port.served(&hello.name)).cloned();
        (served, port.is_some_and(|port| port.has_streams()))
    };
    match served {
        None => {
            tracing::debug!(port, %client, sni = hello.name, "no listener takes this name");
            match has_streams {
                true => hello.abort(),
                false => hello.refuse().await,
            }
        }
        Some(Served::Stream(listener)) => {
            stream::serve_named(worker, hello, listener, ends, draining).await;
        }
        Some(Served::Http(listener)) => {
            let Some(config) = &listener.tls else { return };
            let sni = (!hello.name.is_empty()).then(|| hello.name.as_str().into());
            let shaken = unless_draining(&draining, hello.terminate(config)).await;
            let stream = match shaken {
                None => return,
                Some(Err(error)) => return failed(error),
                Some(Ok(stream)) => stream,
            };
            let spoken = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Spoken::Http2,
                _ => Spoken::Http1,
            };
            let source = match stream.get_ref().1.peer_certificates() {
                Some(chain) if listener.proves_clients => vouched(&worker, chain).await,
                _ => None,
            };
            let shown = Shown { source, sni };
            let Some(downstream) = downstream(&worker, ends, Some(&listener), shown) else {
                return;
            };
            speak(worker, downstream, spoken, Rewound::fresh(stream), draining).await;
        }
    }
}

/// What a client has shown in its TLS handshake.
#[derive(Default)]
struct Shown {
    /// Who it is, where the listener demands certificates and verifies them.
    source: Option<Peer>,
    sni: Option<Box<str>>,
}

/// A client of a listener that its TLS chose, or of whichever its requests name.
fn downstream(
    worker: &Worker,
    (client, destination): (SocketAddr, SocketAddr),
    listener: Option<&HttpListener>,
    shown: Shown,
) -> Option<Rc<Downstream>> {
    let forwarded_for = HeaderValue::from_str(&client.ip().to_string()).ok()?;
    let certified = worker.certified(shown.source.as_ref());
    Some(Rc::new(Downstream {
        port: destination.port(),
        scheme: match listener {
            None => Scheme::Http,
            Some(_) => Scheme::Https,
        },
        origin: Origin::Port {
            listener: listener.map(|listener| Arc::clone(&listener.name)),
        },
        client,
        source: shown.source,
        counted: worker.own.clone(),
        destination,
        sni: shown.sni,
        forwarded_for: Some(forwarded_for),
        certified,
        behalf: None,
        left: RefCell::default(),
    }))
}

/// Clients that have said nothing yet are let go when the drain begins.
async fn unless_draining<T>(draining: &Watcher, greeting: impl Future<Output = T>) -> Option<T> {
    let mut drain_began = draining.clone();
    tokio::select! {
        greeted = greeting => Some(greeted),
        () = drain_began.signalled() => None,
    }
}
