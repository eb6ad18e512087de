//! The control plane's end on a network.

use std::sync::Arc;
use std::time::SystemTime;

use agent_net::drain::Watcher;
use proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::nodes::{ConnectedNodes, OpenStream};
use super::{Authenticate, Caller, Client, Published, ServerSession};
use crate::Error;

/// Largest request, in bytes: a node that reconnects lists all it knows.
const MAX_REQUEST: usize = 64 * 1024 * 1024;
/// Responses ready for a client that does not read; the next change waits and is merged.
const QUEUED_RESPONSES: usize = 2;

/// What each client is offered.
pub trait Source: Send + Sync + 'static {
    /// The catalog for `client`.
    fn published(&self, client: &Client) -> Published;
}

/// The same for every node: all addresses and all policies. A node that asks by name is sent what
/// it asks for and what runs on it, with the policies of every namespace.
impl Source for Published {
    fn published(&self, _client: &Client) -> Published {
        self.clone()
    }
}

/// The discovery service.
#[derive(Debug)]
pub struct Discovery<A, S> {
    authenticate: Arc<A>,
    source: Arc<S>,
    nodes: ConnectedNodes,
    drain: Watcher,
}

impl<A: Authenticate, S: Source> Discovery<A, S> {
    /// A service whose streams end when the drain begins.
    pub fn new(authenticate: Arc<A>, source: Arc<S>, drain: Watcher) -> Self {
        Self {
            authenticate,
            source,
            nodes: ConnectedNodes::default(),
            drain,
        }
    }

    /// Who is connected.
    pub fn nodes(&self) -> ConnectedNodes {
        self.nodes.clone()
    }

    /// The gRPC service. Serve it over TLS only, with HTTP/2 keepalive, so that streams of dead
    /// nodes end.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }
}

#[tonic::async_trait]
impl<A: Authenticate, S: Source> AggregatedDiscoveryService for Discovery<A, S> {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = Caller::of(&self.authenticate, request.metadata()).await?;
        let client = caller.client().clone();
        let node: Arc<str> = client.to_string().into();
        let entry = self.nodes.open(&client, SystemTime::now());
        let entry = entry
            .ok_or_else(|| Status::resource_exhausted(format!("{node} has too many streams")))?;
        tracing::info!(%node, "discovery stream opened");
        let (responses, stream) = mpsc::channel(QUEUED_RESPONSES);
        let session = Conversation {
            session: ServerSession::new(client.clone()),
            published: self.source.published(&client),
            requests: request.into_inner(),
            responses: responses.clone(),
            entry,
        };
        let mut drain = self.drain.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                end = session.run() => end,
                status = caller.revoked() => Some(status),
                () = drain.signalled() => Some(Status::unavailable("shutting down")),
                () = responses.closed() => None,
            };
            tracing::info!(%node, reason = ?end, "discovery stream ended");
            if let Some(status) = end {
                // A full queue means a client that does not read: it will see the stream end.
                let _ = responses.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One stream.
struct Conversation {
    session: ServerSession,
    published: Published,
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    entry: OpenStream,
}

impl Conversation {
    /// Talks until either end has had enough; the error to tell the client, if any.
    async fn run(mut self) -> Option<Status> {
        let mut changes = self.published.changes();
        // Nobody is told of a mesh that has not been read.
        if changes.wait_for(|version| *version > 0).await.is_err() {
            return Some(Status::unavailable("the source is gone"));
        }
        let mut has_more = true;
        loop {
            tokio::select! {
                request = self.requests.next(), if self.session.listens() => match request {
                    Some(Ok(request)) => {
                        let taken = self.session.request(request, &self.published.read());
                        if let Err(error) = taken {
                            return Some(status(&error));
                        }
                        has_more = true;
                    }
                    Some(Err(status)) => return Some(status),
                    None => return None,
                },
                changed = changes.changed() => match changed {
                    Ok(()) => has_more = true,
                    Err(_) => return Some(Status::unavailable("the source is gone")),
                },
                // A response is made when it can be sent, and from what is true then.
                room = self.responses.reserve(), if has_more => {
                    let room = room.ok()?;
                    match self.session.respond(&self.published.read()) {
                        Ok(Some(response)) => room.send(Ok(response)),
                        Ok(None) => has_more = false,
                        Err(error) => return Some(status(&error)),
                    }
                }
            }
            self.entry.update(&self.session);
        }
    }
}

fn status(error: &Error) -> Status {
    match error {
        Error::TooFarBehind => Status::aborted(error.to_string()),
        _ => Status::resource_exhausted(error.to_string()),
    }
}
