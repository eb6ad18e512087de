//! HTTPS: the name a client asks for chooses the listener, and with it certificate and rules.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::detect::Spoken;
use crate::worker::Worker;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client after its handshake.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    /// Name of the listener.
    pub(super) listener: Arc<str>,
    pub(super) spoken: Spoken,
}

/// Completes a handshake as the listener for the client's SNI. `None` when none takes that name,
/// or the handshake fails: the client has its alert by then.
pub(super) async fn handshake(worker: &Rc<Worker>, tcp: TcpStream, port: u16) -> Option<Secured> {
    timeout(HANDSHAKE_TIMEOUT, shake_hands(worker, tcp, port))
        .await
        .unwrap_or_else(|_| {
            tracing::debug!(port, "a TLS handshake took too long");
            None
        })
}

async fn shake_hands(worker: &Rc<Worker>, tcp: TcpStream, port: u16) -> Option<Secured> {
    let failed = |error: std::io::Error| tracing::debug!(port, %error, "TLS handshake failed");
    let acceptor = LazyConfigAcceptor::new(Default::default(), tcp);
    let start = acceptor.await.map_err(failed).ok()?;
    let hello = start.client_hello();
    let name = hello.server_name().unwrap_or_default();
    let name = name.to_ascii_lowercase();
    let listener = {
        let plan = worker.plan.load();
        plan.port(port)
            .and_then(|port| port.listener(&name))
            .cloned()
    };
    let Some(listener) = listener else {
        tracing::debug!(port, sni = name, "no listener takes this name");
        return None;
    };
    let config = Arc::clone(listener.tls.as_ref()?);
    let stream = start.into_stream(config).await.map_err(failed).ok()?;
    let spoken = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Spoken::Http2,
        _ => Spoken::Http1,
    };
    Some(Secured {
        stream,
        listener: Arc::clone(&listener.name),
        spoken,
    })
}
