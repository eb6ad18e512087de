//! One request for keys, and what is accepted as its answer.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use agent_policy::jwt::{FetchFault, KeySetError, MAX_KEY_SET};
use bytes::{Buf, Bytes};
use http::header::{ACCEPT, CONTENT_ENCODING, HOST, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::address::Location;
use super::fetch::transport;

/// The body of a GET.
struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

/// What answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Text(Vec<u8>),
    Redirect(String),
}

/// Asks once, over a connection of its own.
pub(super) async fn exchange<T>(stream: T, location: &Location) -> Result<Answer, FetchFault>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(transport)?;
    let request = Request::get(&location.target)
        .header(HOST, &location.authority)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, "culvert")
        .body(Nothing)
        .map_err(transport)?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(transport)?;
        read(response).await
    };
    let (mut asked, mut connection) = (pin!(asked), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut asked => answer,
        // What it has read before it ended is still to be had.
        _ = &mut connection => asked.await,
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer, FetchFault> {
    let (head, body) = response.into_parts();
    if head.status.is_redirection() {
        let to = head.headers.get(LOCATION).and_then(|to| to.to_str().ok());
        let to = to.ok_or(FetchFault::Status(head.status.as_u16()))?;
        return Ok(Answer::Redirect(to.to_owned()));
    }
    if head.status != StatusCode::OK {
        return Err(FetchFault::Status(head.status.as_u16()));
    }
    let is_plain = head.headers.get_all(CONTENT_ENCODING).iter();
    let is_plain = is_plain.map(|coding| coding.as_bytes());
    if !is_plain.into_iter().all(|coding| coding == b"identity") {
        let why = "the answer is compressed, which was not asked for".to_owned();
        return Err(FetchFault::Transport(why));
    }
    text(body).await.map(Answer::Text)
}

/// No byte more than a key set may have.
async fn text<B>(body: B) -> Result<Vec<u8>, FetchFault>
where
    B: Body<Data = Bytes, Error = hyper::Error>,
{
    let too_long = || FetchFault::KeySet(KeySetError::TooLong);
    if body.size_hint().lower() > MAX_KEY_SET as u64 {
        return Err(too_long());
    }
    let mut body = pin!(body);
    let mut text = Vec::new();
    while let Some(frame) = next(body.as_mut()).await {
        let Ok(data) = frame.map_err(transport)?.into_data() else {
            continue;
        };
        if text.len() + data.remaining() > MAX_KEY_SET {
            return Err(too_long());
        }
        text.extend_from_slice(&data);
    }
    Ok(text)
}

async fn next<B: Body>(mut body: Pin<&mut B>) -> Option<Result<Frame<B::Data>, B::Error>> {
    std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await
}
