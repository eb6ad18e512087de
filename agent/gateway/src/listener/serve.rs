//! One client's connection.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use agent_model::gateway::Scheme;
use agent_net::drain::Watcher;
use http::HeaderValue;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::detect::{Rewound, detect};
use super::http::speak;
use super::tls::{Secured, handshake};
use super::tunnel;
use crate::plan::{Outer, PortPlan};
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
    let address = client.ip().to_string();
    let Ok(forwarded_for) = HeaderValue::from_str(&address) else {
        return;
    };
    let mut downstream = Downstream {
        port,
        scheme: Scheme::Http,
        origin: Origin::Port { listener: None },
        client,
        forwarded_for: Some(forwarded_for),
        upgraded: RefCell::default(),
    };
    let spoken = worker.plan.load().port(port).map(PortPlan::spoken);
    if spoken == Some(Outer::Tunnel) {
        return tunnel::serve(worker, stream, client, draining).await;
    }
    let mut drain_began = draining.clone();
    let greet = async {
        if spoken != Some(Outer::Tls) {
            let (spoken, stream) = detect(stream).await?;
            return Some((spoken, Stream::Plain(stream)));
        }
        let Secured {
            stream,
            listener,
            spoken,
        } = handshake(&worker, stream, port).await?;
        downstream.scheme = Scheme::Https;
        downstream.origin = Origin::Port {
            listener: Some(listener),
        };
        Some((spoken, Stream::Tls(Rewound::fresh(stream))))
    };
    let greeted = tokio::select! {
        greeted = greet => greeted,
        () = drain_began.signalled() => None,
    };
    let downstream = Rc::new(downstream);
    match greeted {
        None => {}
        Some((spoken, Stream::Plain(stream))) => {
            speak(worker, downstream, spoken, stream, draining).await;
        }
        Some((spoken, Stream::Tls(stream))) => {
            speak(worker, downstream, spoken, stream, draining).await;
        }
    }
}

/// What a client's bytes come over.
#[expect(
    clippy::large_enum_variant,
    reason = "lives for a moment, on its way into a task"
)]
enum Stream {
    Plain(Rewound<TcpStream>),
    Tls(Rewound<TlsStream<TcpStream>>),
}
