//! The node service: tells every attached agent what is wanted of the pods of its node and which
//! roots are trusted, and takes its word on what became of them. Whole states both ways, so that
//! a stream may end and begin anywhere.

mod annotate;
mod marks;
mod registry;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_model::NodeWishes;
use agent_net::drain;
use agent_xds::attach::{MAX_PODS, TrustBundle, report_from_wire, trust_to_wire, wishes_to_wire};
use agent_xds::{Authenticate, Caller};
use proto::node::node_service_server::{NodeService as Service, NodeServiceServer};
use proto::node::{ControlMessage, Hello, NodeMessage, control_message, node_message};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

pub(crate) use annotate::{Annotator, ClusterPods, MarkPods};
pub(crate) use registry::AttachedNodes;
use registry::Attachment;

use crate::collection::Placement;
use crate::translate::enrolment::NodePod;

/// Largest message of an agent, in bytes.
const MAX_REQUEST: usize = 8 * 1024 * 1024;
/// Messages ready for an agent that does not read; what changes meanwhile is merged.
const QUEUED: usize = 2;
/// Time for the first message.
const HELLO: Duration = Duration::from_secs(10);
/// Changes that follow each other this closely are told together.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// The node service.
#[derive(Debug)]
pub(crate) struct NodeService<A> {
    pub(crate) authenticate: Arc<A>,
    pub(crate) placement: watch::Receiver<Placement>,
    /// Roots to trust; `None` where they are not this control plane's to name.
    pub(crate) trust: Option<watch::Receiver<agent_identity::TrustBundle>>,
    pub(crate) attached: AttachedNodes,
    pub(crate) drain: drain::Watcher,
}

impl<A: Authenticate> NodeService<A> {
    /// The gRPC service; TLS and keepalive are the listener's.
    pub(crate) fn into_service(self) -> NodeServiceServer<Self> {
        NodeServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }
}

#[tonic::async_trait]
impl<A: Authenticate> Service for NodeService<A> {
    type AttachStream = ReceiverStream<Result<ControlMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let caller = Caller::of(&self.authenticate, request.metadata()).await?;
        let node = Arc::clone(caller.node()?);
        let attachment = self.attached.open(&node, SystemTime::now());
        let attachment = attachment.ok_or_else(|| {
            Status::resource_exhausted(format!("node {node} has too many agents attached"))
        })?;
        let (responses, stream) = mpsc::channel(QUEUED);
        let conversation = Conversation {
            node: Arc::clone(&node),
            requests: request.into_inner(),
            responses: responses.clone(),
            attachment,
        };
        let (placement, trust) = (self.placement.clone(), self.trust.clone());
        let mut drain = self.drain.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                end = conversation.run(placement, trust) => end,
                status = caller.revoked() => Some(status),
                () = drain.signalled() => Some(Status::unavailable("shutting down")),
                () = responses.closed() => None,
            };
            info!(%node, reason = ?end, "agent detached");
            if let Some(status) = end {
                // A full queue means an agent that does not read: it will see the stream end.
                let _ = responses.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One stream.
struct Conversation {
    node: Arc<str>,
    requests: Streaming<NodeMessage>,
    responses: mpsc::Sender<Result<ControlMessage, Status>>,
    attachment: Attachment,
}

impl Conversation {
    /// Talks until either end has had enough; the error to tell the agent, if any.
    async fn run(
        mut self,
        placement: watch::Receiver<Placement>,
        trust: Option<watch::Receiver<agent_identity::TrustBundle>>,
    ) -> Option<Status> {
        match timeout(HELLO, self.requests.next()).await {
            Err(_) => return Some(Status::deadline_exceeded("no hello")),
            Ok(None) => return None,
            Ok(Some(Err(status))) => return Some(status),
            Ok(Some(Ok(message))) => match message.message {
                Some(node_message::Message::Hello(hello)) => self.greet(hello),
                _ => return Some(Status::invalid_argument("the first message is no hello")),
            },
        }
        let Self {
            node,
            mut requests,
            responses,
            attachment,
        } = self;
        let tell = tell(&node, placement, trust, &responses);
        let listen = async {
            loop {
                match requests.next().await? {
                    Ok(message) => {
                        if let Some(refused) = take(&attachment, message) {
                            return Some(refused);
                        }
                    }
                    Err(status) => return Some(status),
                }
            }
        };
        tokio::select! {
            () = tell => None,
            end = listen => end,
        }
    }

    fn greet(&self, hello: Hello) {
        info!(node = %self.node, version = hello.version, instance = hello.instance, "agent attached");
        self.attachment.greet(&hello.version, &hello.instance);
    }
}

/// Takes a message of the agent; the error when it makes no sense.
fn take(attachment: &Attachment, message: NodeMessage) -> Option<Status> {
    match message.message {
        Some(node_message::Message::Report(report)) => match report_from_wire(report) {
            Ok(report) => {
                attachment.report(report);
                None
            }
            Err(error) => Some(Status::invalid_argument(error.to_string())),
        },
        Some(node_message::Message::Hello(_)) => {
            Some(Status::invalid_argument("a second hello on one stream"))
        }
        None => {
            debug!("a message of a later release");
            None
        }
    }
}

/// Sends the latest state whenever it differs from what was sent last; ends with the queue.
async fn tell(
    node: &str,
    mut placement: watch::Receiver<Placement>,
    mut trust: Option<watch::Receiver<agent_identity::TrustBundle>>,
    responses: &mpsc::Sender<Result<ControlMessage, Status>>,
) {
    let (mut told_wishes, mut told_trust) = (None, None);
    loop {
        let bundle = trust
            .as_mut()
            .map(|trust| trust.borrow_and_update().clone());
        if let Some(bundle) = bundle
            && told_trust.as_ref() != Some(&bundle)
        {
            let wire = TrustBundle {
                pem: bundle.text(),
                sha256: bundle.sha256().to_owned(),
            };
            let message = control_message::Message::TrustBundle(trust_to_wire(&wire));
            if send(responses, message).await.is_err() {
                return;
            }
            told_trust = Some(bundle);
        }
        let wishes = wishes(&placement.borrow_and_update(), node);
        if told_wishes.as_ref() != Some(&wishes) {
            let message = control_message::Message::Pods(wishes_to_wire(&wishes));
            if send(responses, message).await.is_err() {
                return;
            }
            told_wishes = Some(wishes);
        }
        let trust_changed = async {
            match &mut trust {
                Some(trust) => trust.changed().await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            changed = placement.changed() => changed,
            changed = trust_changed => changed,
        };
        if changed.is_err() {
            return;
        }
        sleep(DEBOUNCE).await;
    }
}

async fn send(
    responses: &mpsc::Sender<Result<ControlMessage, Status>>,
    message: control_message::Message,
) -> Result<(), ()> {
    let message = ControlMessage {
        message: Some(message),
    };
    responses.send(Ok(message)).await.map_err(|_| ())
}

/// What a node is told of its pods. Those that live come first: a cluster keeps up to 12,500 pods
/// that are over before it collects them, which may all be one node's, and a message that names too
/// many would be refused whole.
fn wishes(placement: &Placement, node: &str) -> NodeWishes {
    let of_node = placement.of_node(node);
    let (over, living): (Vec<&NodePod>, Vec<&NodePod>) = of_node
        .values()
        .flat_map(|pods| pods.iter())
        .partition(|pod| pod.pod.is_terminal());
    NodeWishes {
        pods: living
            .into_iter()
            .chain(over)
            .take(MAX_PODS)
            .map(NodePod::wish)
            .collect(),
        meshed_namespaces: placement.meshed().iter().map(ToString::to_string).collect(),
    }
}
