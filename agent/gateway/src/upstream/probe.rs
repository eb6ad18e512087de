//! What endpoints are asked to see whether they are well.

use std::sync::Arc;

use agent_model::NamespacedHostname;
use agent_net::tasks::spawn_local;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{Request, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::chain;
use super::connect::Dialer;
use super::list::Member;
use crate::body::{Copied, RequestBody};
use crate::leg::Leg;
use crate::local::{LocalExecutor, LocalTimer};
use crate::plan::{Inside, Origination};
use crate::tuning::{HealthCheck, Probe};

/// Who asks.
const AGENT: &str = concat!("culvert-health/", env!("CARGO_PKG_VERSION"));
/// The most of a gRPC answer that is looked at, in bytes.
const MAX_ANSWER: usize = 1024;

/// Asks an endpoint, or says what is wrong. Takes as long as it takes.
pub(super) async fn ask(
    dialer: &Dialer,
    member: &Member,
    tls: Option<&Arc<Origination>>,
    check: &HealthCheck,
    of: (&NamespacedHostname, u16),
) -> Result<(), String> {
    let service = &*of.0.hostname;
    let mut address = member.address;
    if let Some(port) = check.port {
        address.set_port(port);
    }
    let inside = match check.probe {
        Probe::Tcp => Inside::Bytes,
        Probe::Http { .. } => Inside::Http1,
        Probe::Grpc { .. } => Inside::Http2,
    };
    let dialled = dialer.dial(of, (&member.workload, address), tls, inside, None);
    let dialled = dialled.await;
    let leg = dialled.map_err(|refusal| refusal.detail)?;
    match &check.probe {
        Probe::Tcp => Ok(()),
        Probe::Http {
            path,
            host,
            statuses,
        } => {
            let host = host.as_deref().unwrap_or(service);
            let status = http(leg, path, host).await?;
            match (statuses.0..=statuses.1).contains(&status.as_u16()) {
                true => Ok(()),
                false => Err(format!("{path} answers {status}")),
            }
        }
        Probe::Grpc { service: asked } => grpc(leg, asked, service).await,
    }
}

async fn http(leg: Leg, path: &str, host: &str) -> Result<StatusCode, String> {
    let (mut send, connection) = http1::handshake(TokioIo::new(leg))
        .await
        .map_err(|error| chain(&error))?;
    spawn_local(async move {
        let _ = connection.await;
    });
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .body(RequestBody::Empty)
        .map_err(|error| error.to_string())?;
    let answered = send.send_request(request).await;
    let response = answered.map_err(|error| chain(&error))?;
    Ok(response.status())
}

/// `grpc.health.v1.Health/Check` (gRPC, `health-checking.md`).
async fn grpc(leg: Leg, asked: &str, host: &str) -> Result<(), String> {
    let (mut send, connection) = http2::Builder::new(LocalExecutor)
        .timer(LocalTimer::new())
        .handshake(TokioIo::new(leg))
        .await
        .map_err(|error| chain(&error))?;
    spawn_local(async move {
        let _ = connection.await;
    });
    let request = Request::post(format!("http://{host}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(whole(question(asked)))
        .map_err(|error| error.to_string())?;
    let answered = send.send_request(request).await;
    let response = answered.map_err(|error| chain(&error))?;
    if let Some(code) = response.headers().get("grpc-status")
        && code != "0"
    {
        return Err(format!("the check ends with grpc-status {code:?}"));
    }
    if response.status() != StatusCode::OK {
        return Err(format!("the check is answered by {}", response.status()));
    }
    match serving(&first(response.into_body()).await?) {
        true => Ok(()),
        false => Err(format!("{asked:?} is not SERVING")),
    }
}

/// A message with its prefix: the service's name is field 1.
fn question(asked: &str) -> Bytes {
    // Names are far shorter than what a length of one byte can say; what is not is cut.
    let name = asked
        .as_bytes()
        .get(..asked.len().min(127))
        .unwrap_or_default();
    let length = u8::try_from(name.len()).unwrap_or_default();
    let mut message = BytesMut::new();
    message.put_u8(0);
    match length {
        0 => message.put_u32(0),
        _ => {
            message.put_u32(u32::from(length) + 2);
            message.put_u8(0x0a);
            message.put_u8(length);
            message.put_slice(name);
        }
    }
    message.freeze()
}

/// Whether an answer with its prefix says `SERVING`: field 1 is 1.
fn serving(answer: &[u8]) -> bool {
    let Some((prefix, rest)) = answer.split_at_checked(5) else {
        return false;
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    let message = rest.get(..usize::try_from(length).unwrap_or(usize::MAX));
    prefix[0] == 0 && message.is_some_and(|message| message.starts_with(&[0x08, 0x01]))
}

fn whole(content: Bytes) -> RequestBody {
    let (sender, receiver) = mpsc::channel(2);
    for piece in [Copied::Data(content), Copied::End] {
        // There is room for both.
        let _ = sender.try_send(piece);
    }
    RequestBody::Mirror(receiver)
}

/// The first message of an answer.
async fn first(mut body: Incoming) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    while all.len() < 7 {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx));
        let Some(frame) = frame.await else {
            break;
        };
        let frame = frame.map_err(|error| chain(&error))?;
        if let Some(data) = frame.data_ref() {
            all.extend_from_slice(&data[..data.len().min(MAX_ANSWER)]);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_protocol_has_them() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], b"\0\0\0\0\x04\x0a\x02ab");
        assert_eq!(question(&"x".repeat(500)).len(), 5 + 2 + 127);
        assert!(serving(&[0, 0, 0, 0, 2, 8, 1]));
        for other in [
            &[][..],
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 2, 8, 2],
            &[0, 0, 0, 0, 2, 8],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0xff, 0xff, 0xff, 0xff, 8, 1],
        ] {
            assert!(!serving(other), "{other:?}");
        }
    }
}
