//! From nothing to an established tunnel.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use agent_identity::{client_config, dummy_server_name};
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Target;
use super::tunnel::{Driver, Tunnel};
use crate::transport::{Flusher, Transport};
use crate::{HboneError, Phase, Settings};

/// A tunnel that nobody drives yet.
pub(super) struct Established {
    tunnel: Rc<Tunnel>,
    driver: Driver,
}

impl Established {
    pub(super) fn tunnel(&self) -> &Rc<Tunnel> {
        &self.tunnel
    }

    /// Runs the tunnel to its end.
    pub(super) async fn drive(self) -> Rc<Tunnel> {
        self.driver.run().await;
        self.tunnel
    }
}

/// TCP, TLS as the source and to the expected peer only, HTTP/2.
pub(super) async fn establish(
    target: &Target,
    dial: impl Future<Output = io::Result<TcpStream>>,
    settings: &Settings,
) -> Result<Established, HboneError> {
    let tcp = dial
        .await
        .map_err(|error| HboneError::Dial(Arc::new(error)))?;
    let (transport, flusher, chain) = handshake(target, tcp, settings).await?;
    let (send, connection) = builder(settings)
        .handshake::<_, Bytes>(transport)
        .await
        .map_err(|error| HboneError::from_h2(&error))?;
    flusher.take_over();
    let tunnel = Tunnel::new(send, chain);
    let driver = Driver::new(connection, flusher, Rc::clone(&tunnel), settings);
    Ok(Established { tunnel, driver })
}

async fn handshake(
    target: &Target,
    tcp: TcpStream,
    settings: &Settings,
) -> Result<(Transport, Flusher, Vec<CertificateDer<'static>>), HboneError> {
    let config = client_config(&target.certificate, &target.key.expected)
        .map_err(|error| HboneError::Certificate(Arc::new(error)))?;
    let connect = TlsConnector::from(config).connect(dummy_server_name(), tcp);
    let stream = timeout(settings.handshake_timeout, connect)
        .await
        .map_err(|_| HboneError::Timeout(Phase::Handshake))?
        .map_err(|error| HboneError::from_tls(&error))?;
    let (tcp, session) = stream.into_inner();
    let chain = session.peer_certificates().unwrap_or_default().to_vec();
    let (transport, flusher) = Transport::new(tcp, session.into());
    Ok((transport, flusher, chain))
}

fn builder(settings: &Settings) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_frame_size(settings.max_frame)
        .max_header_list_size(settings.max_headers)
        .initial_max_send_streams(settings.pool_streams)
        .max_send_buffer_size(settings.send_buffer);
    builder
}
