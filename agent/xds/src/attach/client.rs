//! The node's end of the stream.

use std::sync::Arc;
use std::time::Duration;

use agent_model::NodeWishes;
use agent_net::backoff::Backoff;
use agent_net::drain::Watcher;
use proto::node::node_service_client::NodeServiceClient;
use proto::node::{ControlMessage, NodeMessage};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};

use super::wire::{NodeReport, Said, TrustBundle, hello, report_to_wire, said};
use crate::client::{authorize, connect};
use crate::{ClientConfig, Error};

/// First and longest wait before another attempt; with its jitter the longest is 14.4 s.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(12));
/// Between attempts at a server that has no node service.
const UNSUPPORTED: Duration = Duration::from_secs(60);
/// Reports follow each other no faster than this.
const REPORT_PAUSE: Duration = Duration::from_millis(100);
/// Largest message accepted, in bytes: some thousand pods and a bundle of roots.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// How the agent attaches.
#[derive(Debug, Clone)]
pub struct AttachConfig {
    /// The server, as for discovery.
    pub server: ClientConfig,
    /// Version of the program.
    pub version: String,
    /// New with every start of the agent.
    pub instance: String,
}

/// Where what the control plane says is put.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The pods of the node; `None` until they came for the first time.
    pub wishes: watch::Sender<Option<Arc<NodeWishes>>>,
    /// The roots; `None` until they came for the first time.
    pub trust: watch::Sender<Option<Arc<TrustBundle>>>,
    /// How the stream is.
    pub status: watch::Sender<AttachStatus>,
}

/// How the stream is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachStatus {
    /// The pods were received on the stream that is open now: what is known is up to date.
    pub current: bool,
    /// The server answered that it has no such service.
    pub unsupported: bool,
    /// Attempts and streams that failed.
    pub failures: u64,
    /// Why the last one did.
    pub last_error: Option<String>,
}

/// Stays attached until the drain begins, reconnecting for ever; sends every report, the latest
/// one first thing on each stream; none while there is none. What was received last stays when a
/// stream ends.
pub async fn run(
    config: AttachConfig,
    reports: watch::Receiver<Option<NodeReport>>,
    attached: Attached,
    mut drain: Watcher,
) {
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        let error = tokio::select! {
            error = follow(&config, reports.clone(), &attached, &mut backoff) => error,
            () = drain.signalled() => return,
        };
        let unsupported =
            matches!(&error, Error::Status(status) if status.code() == Code::Unimplemented);
        let delay = if unsupported {
            UNSUPPORTED
        } else {
            backoff.next(rand::random())
        };
        if !unsupported {
            tracing::warn!(%error, retry_in = ?delay, "node service stream ended");
        } else if !attached.status.borrow().unsupported {
            tracing::info!("the control plane has no node service: the runtime alone names pods");
        }
        attached.status.send_modify(|status| {
            status.current = false;
            status.unsupported = unsupported;
            status.failures += 1;
            status.last_error = Some(error.to_string());
        });
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = drain.signalled() => return,
        }
    }
}

/// One stream from connect to its end.
async fn follow(
    config: &AttachConfig,
    mut reports: watch::Receiver<Option<NodeReport>>,
    attached: &Attached,
    backoff: &mut Backoff,
) -> Error {
    let first = reports.borrow_and_update().clone();
    let (sender, mut messages) = match open(config, first.as_ref()).await {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    let send = async {
        loop {
            tokio::time::sleep(REPORT_PAUSE).await;
            if reports.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let report = reports.borrow_and_update().clone();
            if let Some(report) = report
                && sender.send(report_to_wire(&report)).await.is_err()
            {
                return Error::Closed;
            }
        }
    };
    let receive = async {
        loop {
            match messages.next().await {
                Some(Ok(message)) => {
                    backoff.reset();
                    if let Err(error) = take(message, attached) {
                        return error;
                    }
                }
                Some(Err(status)) => return Error::from(Box::new(status)),
                None => return Error::Closed,
            }
        }
    };
    tokio::select! {
        error = send => error,
        error = receive => error,
    }
}

async fn open(
    config: &AttachConfig,
    report: Option<&NodeReport>,
) -> Result<(mpsc::Sender<NodeMessage>, Streaming<ControlMessage>), Error> {
    let channel = connect(&config.server).await?;
    let (sender, queue) = mpsc::channel(2);
    let hello = hello(&config.version, &config.instance);
    for message in [Some(hello), report.map(report_to_wire)]
        .into_iter()
        .flatten()
    {
        sender.send(message).await.map_err(|_| Error::Closed)?;
    }
    let mut request = Request::new(ReceiverStream::new(queue));
    authorize(&config.server, request.metadata_mut())?;
    let mut client = NodeServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let response = client.attach(request).await.map_err(Box::new)?;
    Ok((sender, response.into_inner()))
}

fn take(message: ControlMessage, attached: &Attached) -> Result<(), Error> {
    match said(message)? {
        Said::Wishes(wishes) => {
            tracing::debug!(pods = wishes.pods.len(), "pods of this node");
            attached.wishes.send_replace(Some(Arc::new(wishes)));
            attached.status.send_modify(|status| {
                status.current = true;
                status.unsupported = false;
                status.last_error = None;
            });
        }
        Said::Trust(bundle) => {
            tracing::debug!(sha256 = bundle.sha256, "trust bundle");
            attached.trust.send_replace(Some(Arc::new(bundle)));
        }
        Said::Unknown => tracing::debug!("a message of a later release"),
    }
    Ok(())
}
