//! The node's end on a network: TLS, credentials, reconnects.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use agent_net::backoff::Backoff;
use agent_net::drain::Watcher;
use prost::Message;
use proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Streaming};

use super::demand::Demand;
use super::status::UNKNOWN_TYPE;
use crate::{Apply, ClientSession, ClientStatus, Error, NodeFacts, ResourceType};

/// First and longest wait before another attempt; with its jitter the longest is 14.4 s.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(12));
/// TCP connect, and TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 PING and how long its answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Largest response accepted, in bytes.
const MAX_MESSAGE: usize = 200 * 1024 * 1024;
/// Requests that wait to be sent; two open a stream, then there is one per response.
const QUEUED_REQUESTS: usize = 8;
/// How often names that nobody uses are looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// How long a server may be silent before a saved mesh counts.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// Largest saved mesh, in bytes.
const MAX_SAVED: u64 = 1024 * 1024 * 1024;
/// Largest token or root file accepted, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// How a node reaches its control plane.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// URL of the server; without a scheme it is `https`. `http` is refused.
    pub address: String,
    /// PEM file of the roots that vouch for the server; read on every connect.
    pub root_cert: PathBuf,
    /// File of the bearer token; read on every connect.
    pub token_file: PathBuf,
    /// What the node says of itself.
    pub node: NodeFacts,
}

/// Keeps a stream open until the drain begins, reconnecting for ever, and feeds `applier`.
/// State survives reconnects: the server is told what is known already.
pub async fn run(
    config: ClientConfig,
    applier: impl Apply,
    status: watch::Sender<ClientStatus>,
    drain: Watcher,
) {
    run_with(config, Means::default(), applier, status, drain).await;
}

/// What a node can do without, in [`run_with`].
#[derive(Debug, Clone, Default)]
pub struct Means {
    /// Addresses are asked for by name. The node is sent the policies, what runs on it, and what
    /// it asked for, until it has not used that for a while. Without it, and to gateways,
    /// everything is sent.
    pub demand: Option<Demand>,
    /// The client is a gateway, and is told of itself besides.
    pub of_gateway: bool,
    /// A file with what [`save`](super::save) wrote. It counts when the first server that is tried
    /// cannot be reached or is silent for 5 s.
    pub saved: Option<PathBuf>,
}

/// [`run`], by other means.
pub async fn run_with(
    config: ClientConfig,
    means: Means,
    mut applier: impl Apply,
    status: watch::Sender<ClientStatus>,
    mut drain: Watcher,
) {
    let Means {
        demand,
        of_gateway,
        mut saved,
    } = means;
    let mut session = match &demand {
        _ if of_gateway => ClientSession::of_gateway(&config.node),
        Some(demand) => ClientSession::on_demand(&config.node, demand.clone()),
        None => ClientSession::new(&config.node),
    };
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        let stream = Stream {
            config: &config,
            session: &mut session,
            demand: demand.as_ref().filter(|_| !of_gateway),
            applier: &mut applier,
            status: &status,
            backoff: &mut backoff,
        };
        let error = tokio::select! {
            error = stream.follow() => error,
            () = silence(&status), if saved.is_some() => Error::Silent(FIRST_ANSWER),
            () = drain.signalled() => return,
        };
        if let Some(file) = saved.take()
            && !session.is_synced()
        {
            restore(&file, &mut session, &mut applier, &status);
        }
        let delay = backoff.next(rand::random());
        tracing::warn!(%error, retry_in = ?delay, "control plane stream ended");
        status.send_modify(|status| {
            status.connected = false;
            status.failures += 1;
            status.last_error = Some(error.to_string());
        });
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = drain.signalled() => return,
        }
    }
}

/// Completes when no server has said anything for a while.
async fn silence(status: &watch::Sender<ClientStatus>) {
    let mut status = status.subscribe();
    let said = status.wait_for(|status| !status.received.is_empty());
    if tokio::time::timeout(FIRST_ANSWER, said).await.is_ok() {
        std::future::pending().await
    }
}

/// Goes on with what an earlier agent wrote down.
fn restore(
    file: &Path,
    session: &mut ClientSession,
    applier: &mut impl Apply,
    status: &watch::Sender<ClientStatus>,
) {
    let restored = read(file, MAX_SAVED)
        .and_then(|content| session.restore(&content, SystemTime::now(), applier));
    match restored {
        Ok(at) => {
            let age = at.elapsed().unwrap_or_default();
            tracing::warn!(file = %file.display(), age_seconds = age.as_secs(),
                "the control plane is away: going on with the mesh as it was written down");
        }
        Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(file = %file.display(), %error, "the saved mesh is of no use"),
    }
    status.send_modify(|status| {
        status.synced = session.is_synced();
        status.restored = session.restored();
        status.addresses = session.held(ResourceType::Address);
        status.policies = session.held(ResourceType::Authorization);
    });
}

/// One stream and what it works on.
struct Stream<'a, A> {
    config: &'a ClientConfig,
    session: &'a mut ClientSession,
    demand: Option<&'a Demand>,
    applier: &'a mut A,
    status: &'a watch::Sender<ClientStatus>,
    backoff: &'a mut Backoff,
}

impl<A: Apply> Stream<'_, A> {
    /// From connect to its end.
    async fn follow(mut self) -> Error {
        let (requests, mut responses) = match open(self.config, self.session).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        self.status.send_modify(|status| status.connected = true);
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let request = tokio::select! {
                response = responses.next() => match response {
                    Some(Ok(response)) => Some(self.take(response)),
                    Some(Err(status)) => return Error::from(Box::new(status)),
                    None => return Error::Closed,
                },
                () = asked(self.demand) => self.session.ask(),
                _ = sweep.tick(), if self.demand.is_some() => {
                    self.session.forget(Instant::now(), self.applier)
                }
            };
            if let Some(request) = request
                && requests.send(request).await.is_err()
            {
                return Error::Closed;
            }
        }
    }

    /// Applies a response; what to answer.
    fn take(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        tracing::debug!(
            type_url = response.type_url,
            resources = response.resources.len(),
            removed = response.removed_resources.len(),
            "control plane response"
        );
        let (url, bytes) = (type_of(&response), response.encoded_len());
        let acknowledgement = self.session.response(response, self.applier);
        if let Some(refusal) = &acknowledgement.error_detail {
            tracing::warn!(refused = refusal.message, "resources refused");
        }
        self.backoff.reset();
        publish(self.session, self.status, url, bytes);
        acknowledgement
    }
}

/// Completes when there is something to ask.
async fn asked(demand: Option<&Demand>) {
    match demand {
        Some(demand) => demand.asked().await,
        None => std::future::pending().await,
    }
}

async fn open(
    config: &ClientConfig,
    session: &mut ClientSession,
) -> Result<
    (
        mpsc::Sender<DeltaDiscoveryRequest>,
        Streaming<DeltaDiscoveryResponse>,
    ),
    Error,
> {
    let channel = connect(config).await?;
    let (requests, queue) = mpsc::channel(QUEUED_REQUESTS);
    for request in session.connected() {
        requests.send(request).await.map_err(|_| Error::Closed)?;
    }
    let mut request = Request::new(ReceiverStream::new(queue));
    authorize(config, request.metadata_mut())?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let response = client
        .delta_aggregated_resources(request)
        .await
        .map_err(Box::new)?;
    Ok((requests, response.into_inner()))
}

/// Says who calls.
pub(crate) fn authorize(config: &ClientConfig, metadata: &mut MetadataMap) -> Result<(), Error> {
    metadata.insert("authorization", bearer(&config.token_file)?);
    metadata.insert("clusterid", ascii("cluster id", &config.node.cluster_id)?);
    Ok(())
}

/// A connection; roots are read anew.
pub(crate) async fn connect(config: &ClientConfig) -> Result<Channel, Error> {
    let roots = read(&config.root_cert, MAX_FILE)?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(roots))
        .timeout(CONNECT_TIMEOUT);
    let endpoint = Endpoint::from_shared(https(&config.address)?)?
        .tls_config(tls)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect().await?)
}

/// The token goes over TLS or nowhere.
fn https(address: &str) -> Result<String, Error> {
    match address.split_once("://") {
        None => Ok(format!("https://{address}")),
        Some(("https", _)) => Ok(address.to_owned()),
        Some((scheme, _)) => Err(Error::Invalid {
            field: "xds address",
            why: format!("scheme {scheme:?}, only https is allowed"),
        }),
    }
}

fn bearer(file: &Path) -> Result<MetadataValue<Ascii>, Error> {
    let token = read(file, MAX_FILE)?;
    let token = String::from_utf8_lossy(&token);
    let mut value = ascii("token", &format!("Bearer {}", token.trim()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A header value; the text stays out of the error, it may be a secret.
fn ascii(field: &'static str, text: &str) -> Result<MetadataValue<Ascii>, Error> {
    text.parse().map_err(|_| Error::Invalid {
        field,
        why: "not a header value".to_owned(),
    })
}

/// Two small local files per connect: not worth a thread.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut content))
        .map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
    Ok(content)
}

/// The response's type, of the few that are counted apart.
fn type_of(response: &DeltaDiscoveryResponse) -> &'static str {
    ResourceType::from_url(&response.type_url).map_or(UNKNOWN_TYPE, ResourceType::url)
}

fn publish(
    session: &ClientSession,
    status: &watch::Sender<ClientStatus>,
    url: &'static str,
    bytes: usize,
) {
    status.send_modify(|status| {
        status.synced = session.is_synced();
        status.restored = session.restored();
        status.last_error = None;
        status.last_update = Some(SystemTime::now());
        status.rejected = session.rejected();
        let received = status.received.entry(url).or_default();
        received.messages += 1;
        received.bytes += bytes as u64;
        status.addresses = session.held(ResourceType::Address);
        status.policies = session.held(ResourceType::Authorization);
    });
}
