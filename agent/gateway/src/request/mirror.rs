//! Copies of requests.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_net::tasks::spawn_local;
use http::Request;
use http::request::Parts;
use hyper::body::Body;
use tokio::time::timeout;

use super::decide::Decision;
use super::{Downstream, address};
use crate::body::{ClientBody, RequestBody};
use crate::plan::{Destination, MirrorTo};
use crate::response::ResponseBody;
use crate::upstream::{Call, Failed};
use crate::worker::{Slot, Worker};

/// How long a copy may take in all.
const PATIENCE: Duration = Duration::from_secs(15);

/// Starts the copies that the rule asks for, and gives the body that feeds them. Copies never
/// hold up their original: one that is slower is cut off, and when too many are under way the next
/// is not made.
pub(super) fn mirror(
    worker: &Rc<Worker>,
    client: &Downstream,
    decision: &Decision,
    parts: &Parts,
    body: ClientBody,
) -> RequestBody {
    let rule = &decision.rule;
    if rule.steps.mirrors.is_empty() {
        return RequestBody::Client(body);
    }
    let taken: Vec<(usize, Slot)> = rule
        .steps
        .mirrors
        .iter()
        .enumerate()
        .filter(|(_, mirror)| {
            let held = decision.held.as_ref();
            held.is_none_or(|held| held.lets_copy(worker, client, &mirror.destination, parts))
        })
        .filter(|(_, mirror)| mirror.fraction.takes(rand::random()))
        .filter_map(|(place, _)| Some((place, worker.mirror()?)))
        .collect();
    let (body, copies) = RequestBody::with_copies(body, taken.len());
    for ((place, slot), copy) in taken.into_iter().zip(copies) {
        let (worker, rule, parts) = (Rc::clone(worker), Arc::clone(rule), parts.clone());
        spawn_local(async move {
            let _slot = slot;
            let sent = send(&worker, &rule.steps.mirrors[place], parts, copy);
            if timeout(PATIENCE, sent).await.is_err() {
                tracing::debug!(route = %rule.route, "a mirrored request took too long");
            }
        });
    }
    body
}

async fn send(worker: &Worker, mirror: &MirrorTo, mut parts: Parts, body: RequestBody) {
    let Destination::Service {
        service,
        port,
        protocol,
    } = &mirror.destination
    else {
        return;
    };
    if address(&mut parts, *protocol, None).is_err() {
        return;
    }
    let request = Box::new(Request::from_parts(parts, body));
    let call = Call {
        service,
        port: *port,
        protocol: *protocol,
        client: None,
        session: None,
        hash: None,
        deadline: None,
        behalf: None,
        pod: None,
    };
    match worker.upstreams.send(&call, &mut Vec::new(), request).await {
        Ok(answer) => {
            // Read and forgotten, so that the connection can be used again.
            let body = answer.response.into_body();
            let mut body = ResponseBody::backend(body, answer.lease, None);
            while let Some(Ok(_)) = next(&mut body).await {}
        }
        Err(Failed { refusal, .. }) => {
            tracing::debug!(%service, detail = refusal.detail, "a mirrored request failed");
        }
    }
}

async fn next(
    body: &mut ResponseBody,
) -> Option<Result<hyper::body::Frame<bytes::Bytes>, crate::body::BodyError>> {
    std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await
}
