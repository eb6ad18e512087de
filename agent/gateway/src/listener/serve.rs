//! One client's connection.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use agent_model::gateway::Scheme;
use agent_net::drain::Watcher;
use http::HeaderValue;
use tokio::net::TcpStream;

use super::detect::{Rewound, Spoken, detect};
use super::http::speak;
use super::tls::Hello;
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
    let greeted = unless_draining(&draining, detect(stream)).await;
    if let Some((spoken, stream)) = greeted.flatten()
        && let Some(downstream) = downstream(client, port, None)
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
    let failed = |error: io::Error| tracing::debug!(port, %client, %error, "TLS handshake failed");
    let hello = match unless_draining(&draining, Hello::read(stream)).await {
        None => return,
        Some(Err(error)) => return failed(error),
        Some(Ok(hello)) => hello,
    };
    let served = {
        let plan = worker.plan.load();
        let port = plan.port(port);
        port.and_then(|port| port.served(&hello.name)).cloned()
    };
    match served {
        None => {
            tracing::debug!(port, %client, sni = hello.name, "no listener takes this name");
            hello.refuse().await;
        }
        Some(Served::Stream(listener)) => {
            stream::serve_named(worker, hello, listener, client, port, draining).await;
        }
        Some(Served::Http(listener)) => {
            let Some(config) = &listener.tls else { return };
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
            let Some(downstream) = downstream(client, port, Some(&listener)) else {
                return;
            };
            speak(worker, downstream, spoken, Rewound::fresh(stream), draining).await;
        }
    }
}

/// A client of a listener that its TLS chose, or of whichever its requests name.
fn downstream(
    client: SocketAddr,
    port: u16,
    listener: Option<&HttpListener>,
) -> Option<Rc<Downstream>> {
    let forwarded_for = HeaderValue::from_str(&client.ip().to_string()).ok()?;
    Some(Rc::new(Downstream {
        port,
        scheme: match listener {
            None => Scheme::Http,
            Some(_) => Scheme::Https,
        },
        origin: Origin::Port {
            listener: listener.map(|listener| Arc::clone(&listener.name)),
        },
        client,
        forwarded_for: Some(forwarded_for),
        upgraded: RefCell::default(),
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
