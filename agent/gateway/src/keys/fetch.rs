//! One fetch: resolve, check, connect, ask; again for each redirect.

use std::sync::Arc;
use std::time::Duration;

use agent_policy::jwt::FetchFault;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::Location;
use super::exchange::{Answer, exchange};
use crate::dial::{self, DialFault};

/// How long a fetch may take in all, unless it is configured.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Most redirects that are followed.
const REDIRECTS: usize = 3;

/// What a fetch may do.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Addresses of this host may be dialled too: for tests, and for issuers that run beside the
    /// gateway.
    pub loopback: bool,
    /// How TLS is spoken; `None` when there is nobody to trust, and `https` cannot be fetched.
    pub tls: Option<Arc<ClientConfig>>,
    /// How long a fetch may take in all. Default 5 s.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            loopback: false,
            tls: None,
            patience: PATIENCE,
        }
    }
}

/// Fetches the text of a key set, at most [`MAX_KEY_SET`](agent_policy::jwt::MAX_KEY_SET) bytes.
/// Every name is resolved here and every address checked before it is dialled, those of redirects
/// too, so that a policy cannot make the gateway ask the host it runs on, or the cloud that it
/// runs in, for their secrets.
pub async fn fetch(address: &str, limits: &Limits) -> Result<Vec<u8>, FetchFault> {
    let fetched = timeout(limits.patience, follow(address, limits)).await;
    fetched.unwrap_or(Err(FetchFault::Timeout))
}

async fn follow(address: &str, limits: &Limits) -> Result<Vec<u8>, FetchFault> {
    let mut location = Location::parse(address)?;
    for _ in 0..=REDIRECTS {
        match ask(&location, limits).await? {
            Answer::Text(text) => return Ok(text),
            Answer::Redirect(to) => location = location.redirected(&to)?,
        }
    }
    let why = format!("more than {REDIRECTS} redirects");
    Err(FetchFault::Transport(why))
}

async fn ask(location: &Location, limits: &Limits) -> Result<Answer, FetchFault> {
    let stream = connect(location, limits.loopback).await?;
    if !location.is_secure {
        return exchange(stream, location).await;
    }
    let no_tls = || FetchFault::Transport("there are no roots to trust".to_owned());
    let tls = limits.tls.as_ref().ok_or_else(no_tls)?;
    let name = ServerName::try_from(location.host.clone());
    let name = name.map_err(|_| FetchFault::Transport("not a name for TLS".to_owned()))?;
    let connector = TlsConnector::from(Arc::clone(tls));
    let stream = connector.connect(name, stream).await.map_err(transport)?;
    exchange(stream, location).await
}

async fn connect(location: &Location, loopback: bool) -> Result<TcpStream, FetchFault> {
    let host = (location.host.as_str(), location.port);
    let connected = dial::connect(host, loopback).await;
    connected.map_err(|fault| match fault {
        DialFault::Timeout => FetchFault::Timeout,
        DialFault::Address(ip) => FetchFault::Address(ip),
        DialFault::Transport(error) => transport(error),
    })
}

pub(super) fn transport(error: impl std::fmt::Display) -> FetchFault {
    FetchFault::Transport(error.to_string())
}
