//! Listeners for datagrams. The datagrams of one client are a session: they go to one endpoint, and
//! what comes back from there goes to the client, from the address that it asked.
//!
//! UDP has no tunnel: datagrams reach endpoints of the mesh as the mesh leaves UDP, untouched.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_model::{NamespacedHostname, Reason};
use agent_net::datagram::{LONGEST_DATAGRAM, ServingSocket};
use agent_net::drain::Watcher;
use agent_net::socket::canonical;
use agent_net::tasks::spawn_local;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use super::admit::admit;
use super::standing::{End, until_ended};
use super::stream::{call, destination, no_route};
use crate::passage::{Carried, Passage};
use crate::place::Transport;
use crate::refusal::Refusal;
use crate::worker::{Slot, Worker};

/// How often a session that is in use asks whether its endpoint still is the right one; also how
/// long a client that was refused is not heard.
const LOOK: Duration = Duration::from_secs(1);
/// Datagrams that are taken from an endpoint in one turn.
const TURN: usize = 32;

/// Who sends, and the address that it sends to.
type Key = (SocketAddr, IpAddr);
type Sessions = Rc<RefCell<HashMap<Key, Rc<Session>>>>;

/// The datagrams of one client.
struct Session {
    key: Key,
    /// Where they go, and as whose; `None` when they go nowhere.
    to: Option<(NamespacedHostname, u16, SocketAddr, UdpSocket)>,
    /// When one came last, from either side.
    last: Cell<Instant>,
    /// When the endpoint was found to be the right one.
    looked: Cell<Instant>,
    carried: Carried,
    /// What its endpoint's host said of it.
    failed: Cell<Option<io::ErrorKind>>,
    over: Notify,
    /// Counts it.
    slot: Cell<Option<Slot>>,
}

/// Serves a port until it drains. Its sessions end with it: there is no end that a client could be
/// told.
pub(crate) async fn run(
    worker: Rc<Worker>,
    socket: ServingSocket,
    port: u16,
    mut draining: Watcher,
) {
    let port = Rc::new(Port {
        worker,
        socket,
        port,
        sessions: Sessions::default(),
    });
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    loop {
        let arrived = tokio::select! {
            biased;
            () = draining.signalled() => break,
            arrived = port.socket.receive(&mut buffer) => arrived,
        };
        match arrived {
            Ok(arrived) => {
                let key = (arrived.from, arrived.to);
                port.take(key, &buffer[..arrived.len]);
            }
            Err(error) => {
                tracing::warn!(port = port.port, %error, "cannot receive datagrams");
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
    for session in port.sessions.borrow().values() {
        session.over.notify_one();
    }
    // The port may be wanted again as soon as this returns, and they hold its socket.
    while Rc::strong_count(&port) > 1 {
        yield_now().await;
    }
}

struct Port {
    worker: Rc<Worker>,
    socket: ServingSocket,
    port: u16,
    sessions: Sessions,
}

impl Port {
    /// A datagram of a client.
    fn take(self: &Rc<Self>, key: Key, datagram: &[u8]) {
        let now = Instant::now();
        let known = self.sessions.borrow().get(&key).cloned();
        let session = match known.filter(|session| self.is_right(session, now)) {
            Some(session) => session,
            None => match self.begin(key, now) {
                Some(session) => session,
                None => return,
            },
        };
        session.last.set(now);
        add(&session.carried.received, datagram.len());
        if let Some((_, _, _, socket)) = &session.to {
            // What the kernel has no room for is lost, as datagrams are. Not by way of the runtime:
            // it has yet to hear of a socket that is new.
            if let Err(error) = SockRef::from(socket).send(datagram)
                && error.kind() == io::ErrorKind::ConnectionRefused
            {
                session.failed.set(Some(error.kind()));
                session.over.notify_one();
            }
        }
    }

    /// Whether a session may go on; where not, it is over. Asked for each datagram, answered anew
    /// once in a while.
    fn is_right(&self, session: &Session, now: Instant) -> bool {
        if now.duration_since(session.looked.get()) < LOOK {
            return true;
        }
        session.looked.set(now);
        let plan = self.worker.plan.load();
        let rule = plan.datagrams(self.port).and_then(|one| one.rule(""));
        let is_right = session.to.as_ref().is_some_and(|(service, port, to, _)| {
            let is_this = |one: &crate::plan::Destination| {
                matches!(one, crate::plan::Destination::Service { service: of, port: at, .. }
                    if of == service && at == port)
            };
            rule.is_some_and(|rule| rule.split.values().any(is_this))
                && self.worker.upstreams.has(service, *port, *to)
        });
        if !is_right {
            session.over.notify_one();
            self.sessions.borrow_mut().remove(&session.key);
        }
        is_right
    }

    /// Begins a session; `None` when this worker has enough of them that are in use.
    fn begin(self: &Rc<Self>, key: Key, now: Instant) -> Option<Rc<Session>> {
        let slot = self.worker.session().or_else(|| {
            self.make_room();
            self.worker.session()
        });
        let Some(slot) = slot else {
            tracing::warn!(
                port = self.port,
                "datagram refused: this worker has enough sessions"
            );
            return None;
        };
        let mut passage = Passage::begin(
            canonical(key.0),
            self.port,
            Transport::Udp,
            std::time::Instant::now(),
        );
        let to = match self.find(key.1, &mut passage) {
            Ok(to) => Some(to),
            Err(refusal) => {
                passage.refuse(refusal);
                None
            }
        };
        let session = Rc::new(Session {
            key,
            to,
            last: Cell::new(now),
            looked: Cell::new(now),
            carried: Carried::default(),
            failed: Cell::new(None),
            over: Notify::new(),
            slot: Cell::new(Some(slot)),
        });
        self.sessions.borrow_mut().insert(key, Rc::clone(&session));
        spawn_local(Rc::clone(self).live(Rc::clone(&session), passage));
        Some(session)
    }

    fn find(
        &self,
        at: IpAddr,
        passage: &mut Passage,
    ) -> Result<(NamespacedHostname, u16, SocketAddr, UdpSocket), Refusal> {
        let plan = self.worker.plan.load();
        let listener = plan
            .datagrams(self.port)
            .ok_or_else(|| Refusal::new(Reason::NoRoute, "no listener"))?;
        let rule = listener.rule("").ok_or_else(|| no_route(listener))?;
        passage.rule = Some(Arc::clone(rule));
        self.admit((passage.client, at))?;
        let (service, port) = destination(rule, rand::random())?;
        let endpoint = self
            .worker
            .upstreams
            .endpoint(&call(service, port, passage.client))?;
        passage.endpoint = Some(endpoint);
        let failed =
            |error: io::Error| Refusal::new(Reason::ConnectFailed, format!("{endpoint}: {error}"));
        let socket = connect(endpoint).map_err(failed)?;
        Ok((service.clone(), port, endpoint, socket))
    }

    /// Asks the gateway's policies; who sends may be as the socket names it.
    fn admit(&self, (client, at): Key) -> Result<(), Refusal> {
        let at = SocketAddr::new(at.to_canonical(), self.port);
        admit(&self.worker, canonical(client), at, "")
    }

    /// Whether policies still let a session be.
    fn judge(&self, session: &Session) -> Option<End> {
        self.admit(session.key).err().and_then(End::denied)
    }

    /// The life of a session: what its endpoint answers goes to the client.
    async fn live(self: Rc<Self>, session: Rc<Session>, mut passage: Passage) {
        match &session.to {
            None => {
                tokio::select! {
                    () = sleep(LOOK) => {}
                    () = session.over.notified() => {}
                }
            }
            Some((_, _, endpoint, socket)) => {
                let ended = tokio::select! {
                    biased;
                    (reason, detail) = until_ended(&self.worker, || self.judge(&session)) => {
                        passage.refuse(Refusal::new(reason, detail));
                        Ok(())
                    }
                    ended = self.answer(&session, socket) => ended,
                    () = session.over.notified() => match session.failed.get() {
                        None => Ok(()),
                        Some(kind) => Err(kind.into()),
                    },
                };
                if let Err(error) = ended {
                    let reason = match error.kind() {
                        io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
                        _ => Reason::ConnectionReset,
                    };
                    passage.refuse(Refusal::new(reason, format!("{endpoint}: {error}")));
                }
            }
        }
        session.slot.take();
        let mut sessions = self.sessions.borrow_mut();
        if sessions
            .get(&session.key)
            .is_some_and(|known| Rc::ptr_eq(known, &session))
        {
            sessions.remove(&session.key);
        }
        drop(sessions);
        passage.end(&session.carried, std::time::Instant::now());
        self.worker.records.passage(&passage);
    }

    /// Ends well when nothing came from either side for a while.
    async fn answer(&self, session: &Session, socket: &UdpSocket) -> io::Result<()> {
        let idle = self.worker.datagrams_idle();
        loop {
            let quiet = session.last.get().elapsed();
            let Some(left) = idle.checked_sub(quiet).filter(|left| !left.is_zero()) else {
                return Ok(());
            };
            let heard = socket.ready(Interest::READABLE | Interest::ERROR);
            let Ok(heard) = timeout(left, heard).await else {
                continue;
            };
            if heard?.is_error() {
                // Nobody is there. Who sends may have been told so already.
                let error = socket.take_error()?;
                return Err(error.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()));
            }
            self.pass_back(session, socket)?;
        }
    }

    fn pass_back(&self, session: &Session, socket: &UdpSocket) -> io::Result<()> {
        let mut buffer = self.worker.datagram_buffer();
        for _ in 0..TURN {
            let len = match socket.try_recv(&mut buffer[..]) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            session.last.set(Instant::now());
            let (client, own) = session.key;
            // What the kernel has no room for is lost, as datagrams are.
            if self.socket.send(&buffer[..len], client, own).is_ok() {
                add(&session.carried.sent, len);
            }
        }
        Ok(())
    }

    /// Ends the sixteenth of the sessions that has been quiet for the longest.
    fn make_room(&self) {
        let mut sessions = self.sessions.borrow_mut();
        let mut ages: Vec<(Instant, Key)> = sessions
            .iter()
            .map(|(key, session)| (session.last.get(), *key))
            .collect();
        let count = (ages.len() / 16).max(1);
        if ages.len() > count {
            ages.select_nth_unstable_by_key(count, |(last, _)| *last);
        }
        for (_, key) in ages.into_iter().take(count) {
            if let Some(session) = sessions.remove(&key) {
                session.slot.take();
                session.over.notify_one();
            }
        }
    }
}

/// A socket of its own for a session, so that answers are told apart by where they arrive.
fn connect(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match endpoint.is_ipv4() {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(endpoint)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn add(count: &Cell<u64>, bytes: usize) {
    count.set(count.get() + bytes as u64);
}
