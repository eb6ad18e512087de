//! HTTP/2 to backends, with prior knowledge: one connection per endpoint and worker, and at a
//! waypoint per client.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use agent_model::Reason;
use agent_net::tasks::spawn_local;
use http::Uri;
use http::uri::Scheme;
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use super::awake::Awake;
use super::behalf::{Behalf, are_alike};
use super::connect::Dialer;
use super::endpoint::Endpoint;
use super::h1::Leased;
use super::trial::Trial;
use super::{CONNECT_TIMEOUT, Failed, Outgoing, chain};
use crate::body::RequestBody;
use crate::local::{LocalExecutor, LocalTimer};
use crate::plan::Inside;
use crate::refusal::Refusal;

/// Bytes that may be under way in one stream, and in all of them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Longest list of response headers, in bytes.
const MAX_HEAD: u32 = 64 * 1024;

/// The connections that an endpoint's requests share, each with whom it is for.
#[derive(Default)]
pub(super) struct Shared(RefCell<Vec<Rc<Slot>>>);

/// A connection, and for whom alone it is.
struct Slot {
    behalf: Option<Arc<Behalf>>,
    /// `None` until it is made.
    send: RefCell<Option<SendRequest<RequestBody>>>,
    /// Held while it is made: others it is for wait for that, and nobody else does.
    making: Mutex<()>,
    /// Requests that wait for it or go over it.
    users: Cell<usize>,
}

/// Clients of a waypoint that have a connection to an endpoint at a time. Of more, one that nobody
/// uses gives way, else the one that was made first: it ends with its last request.
const MAX_CLIENTS: usize = 256;

impl Shared {
    /// Closes connections that no request uses.
    pub(super) fn close_unused(&self) {
        self.0.borrow_mut().retain(|slot| slot.users.get() > 0);
    }

    /// The place of a client's connection, whether there is one or not.
    fn slot(&self, behalf: Option<&Arc<Behalf>>) -> Rc<Slot> {
        let mut slots = self.0.borrow_mut();
        let is_for = |slot: &&Rc<Slot>| are_alike(slot.behalf.as_ref(), behalf);
        if let Some(slot) = slots.iter().find(is_for) {
            return Rc::clone(slot);
        }
        slots.retain(|slot| slot.users.get() > 0 || slot.open().is_some());
        if slots.len() >= MAX_CLIENTS {
            let unused = slots.iter().position(|slot| slot.users.get() == 0);
            slots.remove(unused.unwrap_or(0));
        }
        let slot = Rc::new(Slot {
            behalf: behalf.cloned(),
            send: RefCell::default(),
            making: Mutex::default(),
            users: Cell::new(0),
        });
        slots.push(Rc::clone(&slot));
        slot
    }
}

impl Slot {
    /// The connection, if it stands.
    fn open(&self) -> Option<SendRequest<RequestBody>> {
        let send = self.send.borrow();
        send.as_ref().filter(|send| !send.is_closed()).cloned()
    }
}

/// A request's part in a connection, until it is dropped.
pub(super) struct Share {
    endpoint: Rc<Endpoint>,
    slot: Rc<Slot>,
}

impl Share {
    fn begin(endpoint: &Rc<Endpoint>, behalf: Option<&Arc<Behalf>>) -> Self {
        let slot = endpoint.shared.slot(behalf);
        slot.users.set(slot.users.get() + 1);
        Self {
            endpoint: Rc::clone(endpoint),
            slot,
        }
    }

    /// The connection. Nobody waits for longer than [`CONNECT_TIMEOUT`] for one that somebody else
    /// makes, nor for longer than that for the first word over its own.
    async fn connection(
        &self,
        dialer: &Dialer,
        behalf: Option<&Arc<Behalf>>,
    ) -> Result<SendRequest<RequestBody>, Refusal> {
        let Self { endpoint, slot } = self;
        if let Some(open) = slot.open() {
            return Ok(open);
        }
        let late = |_| {
            let detail = format!(
                "{} spoke no HTTP/2 within {CONNECT_TIMEOUT:?}",
                endpoint.address()
            );
            Refusal::new(Reason::ConnectTimeout, detail)
        };
        let making = timeout(CONNECT_TIMEOUT, slot.making.lock());
        let _making = making.await.map_err(late)?;
        if let Some(open) = slot.open() {
            return Ok(open);
        }
        let (send, heard) = connect(dialer, endpoint, behalf).await?;
        let ended = |_| Refusal::new(Reason::H2Failed, "the connection ended before a word");
        let heard = timeout(CONNECT_TIMEOUT, heard).await.map_err(late)?;
        heard.map_err(ended)?;
        *slot.send.borrow_mut() = Some(send.clone());
        Ok(send)
    }
}

impl Drop for Share {
    /// Who was the last leaves nothing behind where there is no connection, or where somebody waits
    /// for one.
    fn drop(&mut self) {
        let slot = &self.slot;
        slot.users.set(slot.users.get() - 1);
        let is_kept = || slot.open().is_some() && !self.endpoint.group().is_wanted();
        if slot.users.get() == 0 && !is_kept() {
            let mut slots = self.endpoint.shared.0.borrow_mut();
            slots.retain(|other| !Rc::ptr_eq(other, slot));
        }
    }
}

/// Sends a request over the endpoint's connection.
pub(super) async fn send(
    dialer: &Dialer,
    mut trial: Trial,
    behalf: Option<&Arc<Behalf>>,
    request: Outgoing,
) -> Result<(Response<Incoming>, Leased), Failed> {
    let share = Share::begin(trial.endpoint(), behalf);
    let mut send = match share.connection(dialer, behalf).await {
        Ok(send) => send,
        Err(refusal) => return Err(Failed::unsent(refusal, request).at(trial)),
    };
    let request = match trial.endpoint().tls() {
        None => request,
        Some(_) => with_https(request),
    };
    match send.try_send_request(*request).await {
        Ok(response) => {
            trial.answered(response.status(), response.headers());
            Ok((response, Leased::shared(trial, share)))
        }
        Err(mut error) => {
            let failed = match error.take_message() {
                Some(request) => {
                    let refusal = Refusal::new(Reason::ConnectionReset, chain(error.error()));
                    Failed::unsent(refusal, Box::new(request))
                }
                None => Failed::lost(error.error()),
            };
            Err(failed.at(trial))
        }
    }
}

/// The scheme belongs to an HTTP/2 request's head.
fn with_https(mut request: Outgoing) -> Outgoing {
    let mut target = request.uri().clone().into_parts();
    target.scheme = Some(Scheme::HTTPS);
    if let Ok(target) = Uri::from_parts(target) {
        *request.uri_mut() = target;
    }
    request
}

/// A new connection, which drives itself, and what is told when the endpoint speaks.
async fn connect(
    dialer: &Dialer,
    endpoint: &Endpoint,
    behalf: Option<&Arc<Behalf>>,
) -> Result<(SendRequest<RequestBody>, oneshot::Receiver<()>), Refusal> {
    let line = dialer.line(endpoint, Inside::Http2, behalf).await?;
    let (line, heard) = Awake::new(line);
    let (send, connection) = http2::Builder::new(LocalExecutor)
        .timer(LocalTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .handshake(TokioIo::new(line))
        .await
        .map_err(|error| Refusal::new(Reason::H2Failed, chain(&error)))?;
    spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(
                error = chain(&error),
                "HTTP/2 connection to a backend ended"
            );
        }
    });
    Ok((send, heard))
}

#[cfg(test)]
mod tests {
    use agent_model::Identity;

    use super::*;

    fn client(number: usize) -> Arc<Behalf> {
        Arc::new(Behalf {
            identity: Identity::new("cluster.local", "ns", &format!("client-{number}")).unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
        })
    }

    #[test]
    fn places_are_bounded_and_found_again() {
        let shared = Shared::default();
        let used: Vec<_> = (0..=MAX_CLIENTS)
            .map(|number| {
                let slot = shared.slot(Some(&client(number)));
                slot.users.set(1);
                slot
            })
            .collect();
        assert_eq!(shared.0.borrow().len(), MAX_CLIENTS);
        let last = shared.slot(Some(&client(MAX_CLIENTS)));
        assert!(Rc::ptr_eq(&last, &used[MAX_CLIENTS]));
        let first = shared.slot(Some(&client(0)));
        assert!(!Rc::ptr_eq(&first, &used[0]), "the first gave way");
        shared.close_unused();
        assert_eq!(shared.0.borrow().len(), MAX_CLIENTS - 1);
        // Those without a connection are there as long as somebody waits for it.
        used.iter().for_each(|slot| slot.users.set(0));
        shared.slot(None);
        assert_eq!(shared.0.borrow().len(), 1);
    }
}
