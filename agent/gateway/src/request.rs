//! The walk of a request: normalise, find the rule, authorise, change, split, send; errors become a
//! response in one place.

mod admit;
mod attempt;
mod change;
mod consumer;
mod decide;
mod left;
mod mirror;
mod treat;
mod unread;
mod way;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use agent_model::gateway::{BackendProtocol, Scheme};
use agent_model::{NamespacedHostname, Reason};
use agent_policy::http::Peer;
use agent_telemetry::Reporter;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep_until};

use crate::affinity::Given;
use crate::body::ClientBody;
use crate::framing::leaves_http;
use crate::plan::{Backend, Destination, Rule};
use crate::pod::Pod;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::response::{Ending, ResponseBody, own, refused};
use crate::source::Source;
use crate::upstream::{Answer, Behalf, Call};
use crate::worker::Worker;
use change::{change_request, change_response};
use decide::{Decision, Outcome, decide};
use left::Leaving;
use mirror::mirror;

pub(crate) use left::{Head, Left};
pub(crate) use unread::{unread, unread_frames};

/// The [`Reason`] of an answer of the gateway's own, where that is configured.
static REASON: HeaderName = HeaderName::from_static("x-culvert-reason");

/// A client's connection.
pub(crate) struct Downstream {
    /// Port it came in on; of the service, behind a waypoint.
    pub(crate) port: u16,
    /// What the client's URLs begin with.
    pub(crate) scheme: Scheme,
    /// How its requests find their rules.
    pub(crate) origin: Origin,
    /// The other end.
    pub(crate) client: SocketAddr,
    /// Who that is, where mTLS proved it.
    pub(crate) source: Option<Peer>,
    /// Where the client sent it: this listener, or the service behind this waypoint.
    pub(crate) destination: SocketAddr,
    /// The name that the client's TLS handshake was for.
    pub(crate) sni: Option<Box<str>>,
    /// Who asks, as it is counted.
    pub(crate) counted: Source,
    /// The client's address, as it is told to backends; not told inside the mesh, where who asks
    /// is proved rather than claimed.
    pub(crate) forwarded_for: Option<HeaderValue>,
    /// What backends are told of its certificate, where they are.
    pub(crate) certified: Option<HeaderValue>,
    /// For whom requests go on, at a waypoint.
    pub(crate) behalf: Option<Arc<Behalf>>,
    /// The request by which both ends agreed to leave HTTP.
    pub(crate) left: RefCell<Option<Box<Left>>>,
}

/// How requests of a connection find their rules.
pub(crate) enum Origin {
    /// By their host, among the listeners of the port.
    Port {
        /// The listener that TLS chose by the client's SNI.
        listener: Option<Arc<str>>,
    },
    /// By the service that the client dialled; their host does not count.
    Service {
        service: NamespacedHostname,
        /// Namespace of the client.
        namespace: Arc<str>,
        /// What happens where the service has no rules.
        plain: Arc<Rule>,
    },
    /// They have none: the client has addressed a pod.
    Pod {
        /// The pod.
        pod: Rc<Pod>,
        /// What happens to each.
        plain: Arc<Rule>,
    },
}

impl Origin {
    /// As what the gateway reports the requests.
    fn reporter(&self) -> Reporter {
        match self {
            Self::Port { .. } => Reporter::Source,
            Self::Service { .. } | Self::Pod { .. } => Reporter::Waypoint,
        }
    }

    fn pod(&self) -> Option<&Pod> {
        match self {
            Self::Port { .. } | Self::Service { .. } => None,
            Self::Pod { pod, .. } => Some(pod),
        }
    }
}

/// Serves one request. Never fails: what goes wrong is an answer, too.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    client: &Downstream,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let (mut parts, body) = request.into_parts();
    let grpc = is_grpc(&parts.headers);
    let is_last = leaves_http(parts.version, &parts.headers);
    let now = std::time::Instant::now();
    let mut record = Box::new(Record::begin(client.client, client.port, &parts, now));
    record.is_grpc = grpc;
    record.source = client.counted.clone();
    record.reporter = client.origin.reporter();
    record.trace = worker.trace(&mut parts.headers);
    let (body, reading) = ClientBody::counted(body);
    if let Some(bytes) = reading {
        record.reads(bytes);
    }
    let plan = worker.plan.load_full();
    let decided = decide(worker, &plan, client, &mut parts, &mut record).await;
    drop(plan);
    let mut cors = None;
    let answered = match decided {
        Err(refusal) => Err(refusal),
        Ok(Outcome::Answer {
            rule,
            status,
            headers,
        }) => {
            record.rule = Some(rule);
            Ok(own(status, headers, bytes::Bytes::new()))
        }
        Ok(Outcome::Forward(decision)) => {
            record.rule = Some(Arc::clone(&decision.rule));
            cors = decision.granted.clone();
            forward(worker, client, *decision, parts, body, &mut record).await
        }
    };
    let mut response = answered.unwrap_or_else(|refusal| {
        record.reason = refusal.reason;
        record.detail.clone_from(&refusal.detail);
        let mut response = refused(&refusal, grpc);
        if let Some(more) = refusal.headers {
            response.headers_mut().extend(*more);
        }
        if worker.tells_reasons {
            let reason = HeaderValue::from_static(refusal.reason.as_str());
            response.headers_mut().insert(&REASON, reason);
        }
        response
    });
    if let (Some(granted), Some(rule)) = (&cors, &record.rule)
        && let Some(rules) = &rule.steps.cors
    {
        rules.finish(granted, response.headers_mut());
    }
    // Nor is what follows a request that could mean two things a request (RFC 9112, 11.2).
    let is_unclear = record.reason == Reason::RequestInvalid && record.version < Version::HTTP_2;
    let is_last = is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS;
    if is_last || is_unclear {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    record.status = Some(response.status());
    if grpc && record.version == Version::HTTP_2 {
        response.body_mut().ends_with_status();
    }
    record.see_grpc(response.headers());
    response.body_mut().ends(Ending {
        record,
        worker: Rc::clone(worker),
    });
    response
}

/// A rule takes the request: everything after that.
async fn forward(
    worker: &Rc<Worker>,
    client: &Downstream,
    mut decision: Decision,
    mut parts: Parts,
    body: ClientBody,
    record: &mut Record,
) -> Result<Response<ResponseBody>, Refusal> {
    let leaving = decision.leaving.take();
    let rule = &decision.rule;
    let coding = treat::coding(treat::compression(&decision), &parts);
    let limit = treat::body_limit(&decision);
    treat::check_length(limit, &body)?;
    if let Some(why) = &rule.broken {
        return Err(Refusal::new(Reason::BackendInvalid, why.clone()));
    }
    let (backend, session) = way::choose(worker, rule, &parts.headers)
        .ok_or_else(|| Refusal::new(Reason::BackendInvalid, "the rule has no backend"))?;
    let (service, port, protocol) = match &backend.destination {
        Destination::Service {
            service,
            port,
            protocol,
        } => (service, *port, *protocol),
        Destination::Invalid(why) => {
            return Err(Refusal::new(Reason::BackendInvalid, why.as_ref()));
        }
    };
    record.service = client.origin.pod().is_none().then(|| service.clone());
    change_request(client, &decision, backend, &mut parts)?;
    if let Some(held) = &decision.held {
        // Boxed: few requests are for a route of a consumer.
        Box::pin(held.judge(worker, client, (service, port), &mut parts)).await?;
    }
    let body = mirror(worker, client, &decision, &parts, body);
    let (body, is_too_long) = treat::limit_body(limit, body);
    // WebSocket over HTTP/2 would be another request altogether (RFC 8441).
    let leaving = leaving.filter(|_| protocol == BackendProtocol::Http);
    let upgrade = leaving.as_ref().map(|leaving| &leaving.protocol);
    address(&mut parts, protocol, upgrade)?;
    let way = way::way(worker, rule, backend);
    let given = way::give(way, &parts.headers);
    let request = Box::new(Request::from_parts(parts, body));
    let call = Call {
        service,
        port,
        protocol,
        client: Some(client.client.ip()),
        session: session.map(|session| session.endpoint),
        hash: given.as_ref().map(Given::hash),
        deadline: None,
        behalf: client.behalf.as_ref(),
        pod: client.origin.pod().map(|pod| &pod.endpoint),
    };
    let timeouts = treat::timeouts(&decision);
    let sent = attempt::send(worker, way, timeouts, call, request).await;
    let (answer, deadline) = sent.map_err(|refusal| treat::or_too_long(refusal, &is_too_long))?;
    let endpoint = answer.lease.endpoint().key();
    record.endpoint = Some(answer.lease.endpoint().address());
    record.destination = Some(answer.lease.endpoint().workload());
    let timer = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
    let mut response = respond(client, &decision, backend, answer, timer, leaving).await?;
    if let Some(way) = way {
        let secure = client.scheme == Scheme::Https;
        let headers = response.headers_mut();
        way::remember(way, session, given.as_ref(), endpoint, secure, headers);
    }
    Ok(treat::finish(
        treat::compression(&decision),
        coding,
        response,
    ))
}

/// The client's side of a backend's answer.
async fn respond(
    client: &Downstream,
    decision: &Decision,
    backend: &Backend,
    answer: Answer,
    timer: Option<Pin<Box<Sleep>>>,
    leaving: Option<Box<Leaving>>,
) -> Result<Response<ResponseBody>, Refusal> {
    let Answer { response, lease } = answer;
    let (mut head, body) = response.into_parts();
    let switched = head.headers.get(UPGRADE).cloned();
    change_response(decision, backend, &mut head.headers)?;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let endpoint = lease.endpoint().address();
        let agreed = switched.zip(leaving);
        let agreed = agreed.filter(|(to, leaving)| same_protocol(&leaving.protocol, to));
        let (Some((protocol, leaving)), Some(upgraded)) = (agreed, lease.upgrade().await) else {
            let detail = "the backend changed to a protocol that nobody asked for";
            return Err(Refusal::new(Reason::ConnectFailed, detail));
        };
        let left = Left {
            upgraded,
            endpoint,
            head: leaving.head,
        };
        *client.left.borrow_mut() = Some(Box::new(left));
        head.headers.insert(UPGRADE, protocol);
        let connection = HeaderValue::from_static("upgrade");
        head.headers.insert(CONNECTION, connection);
        return Ok(own(head.status, head.headers, bytes::Bytes::new()));
    }
    let body = ResponseBody::backend(body, lease, timer);
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

/// Puts the request into the form that the backend's protocol has for its target.
fn address(
    parts: &mut Parts,
    protocol: BackendProtocol,
    upgrade: Option<&HeaderValue>,
) -> Result<(), Refusal> {
    parts.extensions.clear();
    match protocol {
        BackendProtocol::Http => {
            parts.version = Version::HTTP_11;
            if let Some(protocol) = upgrade {
                let connection = HeaderValue::from_static("upgrade");
                parts.headers.insert(CONNECTION, connection);
                parts.headers.insert(UPGRADE, protocol.clone());
            }
            Ok(())
        }
        BackendProtocol::H2c => {
            parts.version = Version::HTTP_2;
            let host = parts.headers.remove(HOST);
            let invalid = || Refusal::new(Reason::RequestInvalid, "not an authority");
            let host = host.ok_or_else(invalid)?;
            let mut uri = std::mem::take(&mut parts.uri).into_parts();
            uri.scheme = Some(http::uri::Scheme::HTTP);
            let authority = http::uri::Authority::try_from(host.as_bytes());
            uri.authority = Some(authority.map_err(|_| invalid())?);
            parts.uri = http::Uri::from_parts(uri).map_err(|_| invalid())?;
            Ok(())
        }
    }
}

fn same_protocol(asked: &HeaderValue, given: &HeaderValue) -> bool {
    asked.as_bytes().eq_ignore_ascii_case(given.as_bytes())
}

fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let content_type: &HeaderName = &CONTENT_TYPE;
    headers
        .get(content_type)
        .is_some_and(|value| value.as_bytes().starts_with(GRPC))
}
