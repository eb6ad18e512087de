//! Responses on their way to the client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use agent_model::Reason;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use crate::body::BodyError;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::treatment::{Coder, Coding};
use crate::upstream::Leased;
use crate::worker::Worker;

/// The body of a response. It drives the backend's connection while it is read, and ends the
/// request's record.
pub(crate) struct ResponseBody {
    content: Content,
    /// After the content: what is read may still need the connection.
    lease: Option<Leased>,
    deadline: Option<Pin<Box<Sleep>>>,
    ending: Option<Ending>,
    /// What breaks off ends with a gRPC status.
    speaks_grpc: bool,
    coding: Option<Box<Coded>>,
}

/// What happens to the content on its way.
struct Coded {
    /// Until the content is over.
    coder: Option<Coder>,
    /// Trailers that come after what the coder still gave.
    trailers: Option<Frame<Bytes>>,
}

enum Content {
    Backend(Incoming),
    Own(Bytes),
}

/// Where the record goes when the body is over.
pub(crate) struct Ending {
    pub(crate) record: Box<Record>,
    pub(crate) worker: Rc<Worker>,
}

impl ResponseBody {
    /// A backend's body.
    pub(crate) fn backend(
        body: Incoming,
        lease: Leased,
        deadline: Option<Pin<Box<Sleep>>>,
    ) -> Self {
        let mut body = Self {
            content: Content::Backend(body),
            lease: Some(lease),
            deadline,
            ending: None,
            speaks_grpc: false,
            coding: None,
        };
        if body.is_content_over() {
            body.release();
        }
        body
    }

    /// A short body of the gateway's own.
    pub(crate) fn own(content: impl Into<Bytes>) -> Self {
        Self {
            content: Content::Own(content.into()),
            lease: None,
            deadline: None,
            ending: None,
            speaks_grpc: false,
            coding: None,
        }
    }

    /// The content is compressed as it comes; the head has to say so.
    pub(crate) fn coded(mut self, coding: Coding) -> Self {
        self.coding = Some(Box::new(Coded {
            coder: Some(Coder::new(coding)),
            trailers: None,
        }));
        self
    }

    /// The record ends with the body.
    pub(crate) fn ends(&mut self, ending: Ending) {
        self.ending = Some(ending);
    }

    /// What breaks off on its way ends with a status that says so, as the client is one of gRPC
    /// over HTTP/2: a stream that is reset would be the gateway's failure to it.
    pub(crate) fn ends_with_status(&mut self) {
        self.speaks_grpc = true;
    }

    /// The connection is free for the next request.
    fn release(&mut self) {
        if let Some(mut lease) = self.lease.take() {
            lease.complete();
        }
    }

    /// The last frame of a body that breaks off.
    fn broken(
        &mut self,
        reason: Reason,
        error: BodyError,
    ) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.lease = None;
        let refusal = Refusal::new(reason, error.to_string());
        let trailers = self.speaks_grpc.then(|| grpc_status(&refusal));
        if let Some(ending) = &mut self.ending {
            ending.record.reason = reason;
            ending.record.detail = refusal.detail;
        }
        match trailers {
            None => Some(Err(error)),
            Some(trailers) => {
                self.content = Content::Own(Bytes::new());
                Some(Ok(Frame::trailers(trailers)))
            }
        }
    }

    fn is_content_over(&self) -> bool {
        match &self.content {
            Content::Backend(body) => body.is_end_stream(),
            Content::Own(content) => content.is_empty(),
        }
    }

    fn poll_content(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.content {
            Content::Own(content) if content.is_empty() => Poll::Ready(None),
            Content::Own(content) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(content))))),
            Content::Backend(_) => self.poll_backend(cx),
        }
    }

    fn poll_coded(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let held = self
                .coding
                .as_mut()
                .and_then(|coding| coding.trailers.take());
            if let Some(trailers) = held {
                return Poll::Ready(Some(Ok(trailers)));
            }
            let polled = ready!(self.poll_content(cx));
            let Some(coding) = self.coding.as_mut() else {
                return Poll::Ready(polled);
            };
            let out = match polled {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match (frame.into_data(), &mut coding.coder) {
                    (Ok(data), Some(coder)) => coder.push(&data),
                    (Ok(data), None) => data,
                    (Err(frame), coder) => {
                        coding.trailers = Some(frame);
                        coder.take().map(Coder::finish).unwrap_or_default()
                    }
                },
                None => match coding.coder.take() {
                    Some(coder) => coder.finish(),
                    None => return Poll::Ready(None),
                },
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }

    fn poll_backend(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            let detail = "the response did not end within the route's time limit";
            return Poll::Ready(self.broken(Reason::RequestTimeout, detail.into()));
        }
        if let Some(lease) = &mut self.lease {
            lease.drive(cx);
        }
        let Content::Backend(body) = &mut self.content else {
            return Poll::Ready(None);
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if self.is_content_over() {
                    self.release();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(self.broken(Reason::ConnectionReset, error.into()))
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match self.coding {
            None => self.poll_content(cx),
            Some(_) => self.poll_coded(cx),
        };
        if let (Poll::Ready(Some(Ok(frame))), Some(ending)) = (&polled, &mut self.ending) {
            if let Some(data) = frame.data_ref() {
                ending.record.sent += data.len() as u64;
            }
            if let Some(trailers) = frame.trailers_ref() {
                ending.record.see_grpc(trailers);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let is_over = |coding: &Coded| coding.coder.is_none() && coding.trailers.is_none();
        self.is_content_over() && self.coding.as_deref().is_none_or(is_over)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            _ if self.coding.is_some() => SizeHint::default(),
            Content::Backend(body) => body.size_hint(),
            Content::Own(content) => SizeHint::with_exact(content.len() as u64),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(Ending { mut record, worker }) = self.ending.take() else {
            return;
        };
        if record.reason == Reason::Ok && !self.is_end_stream() && self.lease.is_some() {
            record.reason = Reason::ConnectionReset;
            "the client did not take the whole response".clone_into(&mut record.detail);
        }
        record.end(Instant::now());
        worker.take(&record);
    }
}

/// The answer to a request that is refused: short text, or for gRPC the code in a trailers-only
/// response.
pub(crate) fn refused(refusal: &Refusal, grpc: bool) -> Response<ResponseBody> {
    if grpc {
        let mut headers = grpc_status(refusal);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        return own(StatusCode::OK, headers, Bytes::new());
    }
    let mut headers = HeaderMap::new();
    if refusal.status == StatusCode::UNAUTHORIZED {
        // RFC 6750, 3.1: no error is told to whoever brought no token.
        let challenge = match refusal.reason {
            Reason::TokenInvalid => "Bearer error=\"invalid_token\"",
            _ => "Bearer",
        };
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    let text = format!("{}\n", short_text(refusal));
    own(refusal.status, headers, Bytes::from(text))
}

/// What ends a gRPC call that is refused.
fn grpc_status(refusal: &Refusal) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from(refusal.grpc_code()));
    headers.insert(
        "grpc-message",
        HeaderValue::from_static(short_text(refusal)),
    );
    headers
}

fn short_text(refusal: &Refusal) -> &'static str {
    let text = refusal.status.canonical_reason();
    text.unwrap_or("refused by the gateway")
}

/// An answer of the gateway's own.
pub(crate) fn own(
    status: StatusCode,
    headers: HeaderMap,
    content: Bytes,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(content));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
