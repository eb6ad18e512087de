//! TCP connections to endpoints.

use std::io;
use std::net::SocketAddr;

use agent_model::Reason;
use agent_net::socket::set_leg_options;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::CONNECT_TIMEOUT;
use crate::refusal::Refusal;

/// A connection to an endpoint.
pub(crate) type Leg = TokioIo<TcpStream>;

/// Connects within [`CONNECT_TIMEOUT`].
pub(super) async fn dial(address: SocketAddr) -> Result<Leg, Refusal> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| {
            let detail = format!("{address} did not answer within {CONNECT_TIMEOUT:?}");
            Refusal::new(Reason::ConnectTimeout, detail)
        })?
        .map_err(|error| refusal(address, &error))?;
    set_leg_options(&stream).map_err(|error| refusal(address, &error))?;
    Ok(TokioIo::new(stream))
}

fn refusal(address: SocketAddr, error: &io::Error) -> Refusal {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
        io::ErrorKind::TimedOut => Reason::ConnectTimeout,
        _ => Reason::ConnectFailed,
    };
    Refusal::new(reason, format!("{address}: {error}"))
}
