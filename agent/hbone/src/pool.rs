//! The client: tunnels shared by the streams of one source to one peer.

mod connect;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use agent_identity::Certificate;
use agent_model::Identity;
use agent_net::NetnsCookie;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::headers::ConnectRequest;
use crate::{HboneError, Settings, TunnelStream};
use tunnel::{Slot, Tunnel};

/// Says whether a certificate of a peer's chain, leaf first, is on a revocation list now.
type IsRevoked = Box<dyn Fn(&[CertificateDer<'_>]) -> bool>;

/// The tunnels of one worker. Cheap to clone; lives on one thread. Needs to be used inside a
/// `LocalSet`.
#[derive(Clone)]
pub struct Pool {
    shared: Rc<Shared>,
}

struct Shared {
    settings: Settings,
    is_revoked: IsRevoked,
    entries: RefCell<HashMap<Key, Entry>>,
    /// Tunnels take no more streams than those that waited for them.
    draining: Cell<bool>,
}

/// Where a stream shall go, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    key: Key,
    certificate: Arc<Certificate>,
}

impl Target {
    /// A peer at `peer` (its HBONE address) that must be one of `expected`, seen from the pod
    /// `source` with its `certificate`.
    pub fn new(
        source: NetnsCookie,
        certificate: Arc<Certificate>,
        peer: SocketAddr,
        mut expected: Vec<Identity>,
    ) -> Self {
        expected.sort_unstable();
        expected.dedup();
        Self {
            key: Key {
                source,
                identity: certificate.identity().clone(),
                generation: certificate.generation(),
                peer,
                expected,
            },
            certificate,
        }
    }

    /// True when streams to both may share tunnels.
    #[cfg(test)]
    pub(crate) fn same_tunnels(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// What streams must have in common to share a tunnel. The certificate's generation is part of
/// it: after a renewal new streams go to new tunnels and the old ones run dry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    source: NetnsCookie,
    identity: Identity,
    generation: u64,
    peer: SocketAddr,
    /// Ordered and without duplicates.
    expected: Vec<Identity>,
}

impl Key {
    /// True when `newer` is the same route with a later certificate.
    fn is_superseded_by(&self, newer: &Self) -> bool {
        self.generation < newer.generation
            && self.source == newer.source
            && self.peer == newer.peer
            && self.identity == newer.identity
            && self.expected == newer.expected
    }
}

/// The tunnels of one key and the dials under way. Exists only while it has one of them.
#[derive(Default)]
struct Entry {
    tunnels: Vec<Rc<Tunnel>>,
    dials: Vec<Dial>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.tunnels.is_empty() && self.dials.is_empty()
    }
}

/// One dial, shared by as many callers as its tunnel will have room for.
struct Dial {
    id: u64,
    waiters: Vec<oneshot::Sender<Result<Slot, HboneError>>>,
    /// Never sent: that it is dropped ends the dial.
    _wanted: oneshot::Sender<Infallible>,
}

/// Figures for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Distinct combinations of source, certificate and peer.
    pub keys: usize,
    /// Established tunnels.
    pub tunnels: usize,
    /// Streams on them.
    pub streams: usize,
    /// Dials under way.
    pub dials: usize,
}

impl Pool {
    /// An empty pool. `is_revoked` says whether a certificate of a chain, leaf first, is on a
    /// revocation list now.
    pub fn new(
        settings: Settings,
        is_revoked: impl Fn(&[CertificateDer<'_>]) -> bool + 'static,
    ) -> Self {
        Self {
            shared: Rc::new(Shared {
                settings,
                is_revoked: Box::new(is_revoked),
                entries: RefCell::default(),
                draining: Cell::new(false),
            }),
        }
    }

    /// Opens a stream to `target` and waits for the peer's 200. Uses a tunnel with room, else
    /// dials: `dial` makes the TCP connection (from the pod's namespace, exempt from capture).
    /// Concurrent callers share a dial and its failure. When a tunnel turns out to be dead or to
    /// take no more streams before the peer answered, the stream is tried again on a fresh one:
    /// once more than a pooled tunnel failed, because a peer that hands over to its successor may
    /// say so on a tunnel that it accepted a moment ago.
    ///
    /// Dropping the future gives up the stream; a dial it started goes on for the others.
    pub async fn open<D, F>(
        &self,
        target: &Target,
        request: &ConnectRequest,
        dial: D,
    ) -> Result<TunnelStream, HboneError>
    where
        D: Fn() -> F,
        F: Future<Output = io::Result<TcpStream>> + 'static,
    {
        let settings = &self.shared.settings;
        if let Some(pooled) = self.pooled(&target.key) {
            match pooled.open(request, settings).await {
                Err(error) if error.is_stale_tunnel() => stale(target, &error),
                result => return result,
            }
        }
        let fresh = self.dialled(target, dial()).await?;
        match fresh.open(request, settings).await {
            Err(error) if error.is_stale_tunnel() => stale(target, &error),
            result => return result,
        }
        let fresh = self.dialled(target, dial()).await?;
        fresh.open(request, settings).await
    }

    /// Ends every tunnel of a removed pod: no new streams, GOAWAY when the last stream ended, and
    /// the end of the connection [`Settings::removal_grace`] from now at the latest. Dials under
    /// way are given up.
    pub fn drop_source(&self, source: NetnsCookie) {
        self.close(source);
    }

    /// Ends the tunnels to peers that are revoked now, as [`Self::drop_source`] ends those of a
    /// removed pod; how many that were. Call it after every change of the lists: dials under way
    /// then are looked at as they are taken in.
    pub fn drop_revoked(&self) -> usize {
        let entries = self.shared.entries.borrow();
        let tunnels = entries.values().flat_map(|entry| &entry.tunnels);
        let dropped = tunnels.filter(|tunnel| (self.shared.is_revoked)(tunnel.chain()));
        dropped.map(|tunnel| tunnel.close(true)).count()
    }

    /// Ends every tunnel as its last stream ends. Dials under way go on for those who wait for
    /// them, and the pool can still be used: each tunnel ends with its streams.
    pub fn drain(&self) {
        self.shared.draining.set(true);
        for entry in self.shared.entries.borrow().values() {
            entry.tunnels.iter().for_each(|tunnel| tunnel.close(false));
        }
    }

    /// True while a removed source still has a tunnel or a dial.
    pub fn serves(&self, source: NetnsCookie) -> bool {
        let entries = self.shared.entries.borrow();
        entries.keys().any(|key| key.source == source)
    }

    /// Figures of the moment.
    pub fn stats(&self) -> PoolStats {
        let entries = self.shared.entries.borrow();
        let tunnels = || entries.values().flat_map(|entry| &entry.tunnels);
        PoolStats {
            keys: entries.len(),
            tunnels: tunnels().count(),
            streams: tunnels().map(|tunnel| tunnel.streams()).sum(),
            dials: entries.values().map(|entry| entry.dials.len()).sum(),
        }
    }

    /// A place on an established tunnel.
    fn pooled(&self, key: &Key) -> Option<Slot> {
        let entries = self.shared.entries.borrow();
        let tunnels = &entries.get(key)?.tunnels;
        tunnels
            .iter()
            .find(|tunnel| tunnel.has_room(self.shared.settings.pool_streams))
            .map(Slot::on)
    }

    /// A place on a tunnel that is being dialled: by somebody already, else by `dial`.
    async fn dialled<F>(&self, target: &Target, dial: F) -> Result<Slot, HboneError>
    where
        F: Future<Output = io::Result<TcpStream>> + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        if let Some((id, unwanted)) = self.join_dial(&target.key, sender)? {
            let pool = Rc::downgrade(&self.shared);
            let (settings, target) = (self.shared.settings.clone(), target.clone());
            tokio::task::spawn_local(async move {
                let result = tokio::select! {
                    result = connect::establish(&target, dial, &settings) => result,
                    _ = unwanted => return,
                };
                let Some(shared) = pool.upgrade() else {
                    return;
                };
                let pool = Self { shared };
                match result {
                    Ok(established) => pool.add(target.key, id, established),
                    Err(error) => pool.fail(&target.key, id, &error),
                }
            });
        }
        // The sender is dropped without a word only when the source is removed or the pool ends.
        receiver.await.unwrap_or(Err(HboneError::SourceRemoved))
    }

    /// Joins a dial that has room; `Some` when the caller has to start it, with what completes when
    /// the dial is no longer wanted.
    fn join_dial(
        &self,
        key: &Key,
        waiter: oneshot::Sender<Result<Slot, HboneError>>,
    ) -> Result<Option<(u64, oneshot::Receiver<Infallible>)>, HboneError> {
        let limit = self.shared.settings.pool_tunnels;
        let mut entries = self.shared.entries.borrow_mut();
        if !entries.contains_key(key) {
            // Tunnels with the certificate before this one take no new streams.
            let superseded = entries.iter().filter(|(old, _)| old.is_superseded_by(key));
            for tunnel in superseded.flat_map(|(_, entry)| &entry.tunnels) {
                tunnel.close(false);
            }
        }
        let entry = entries.entry(key.clone()).or_default();
        let room = self.shared.settings.pool_streams;
        if let Some(dial) = entry.dials.iter_mut().find(|d| d.waiters.len() < room) {
            dial.waiters.push(waiter);
            return Ok(None);
        }
        let open = entry.tunnels.iter().filter(|tunnel| tunnel.is_open());
        if open.count() + entry.dials.len() >= limit {
            return Err(HboneError::Full(limit));
        }
        let id = next_id();
        let (wanted, unwanted) = oneshot::channel();
        entry.dials.push(Dial {
            id,
            waiters: vec![waiter],
            _wanted: wanted,
        });
        Ok(Some((id, unwanted)))
    }

    /// Takes a dialled tunnel in and gives its waiters their places. The peer was verified by the
    /// revocation lists of the time when the dial began.
    fn add(&self, key: Key, id: u64, established: connect::Established) {
        if (self.shared.is_revoked)(established.tunnel().chain()) {
            let error = "a certificate of the peer was revoked during the handshake";
            self.fail(&key, id, &HboneError::Revoked(error.to_owned()));
            return;
        }
        let waiters = {
            let mut entries = self.shared.entries.borrow_mut();
            let Some(entry) = entries.get_mut(&key) else {
                // The source was removed meanwhile.
                return;
            };
            let Some(dial) = take_dial(entry, id) else {
                return;
            };
            entry.tunnels.push(Rc::clone(established.tunnel()));
            dial.waiters
        };
        let slots: Vec<_> = waiters
            .into_iter()
            .map(|waiter| (waiter, Slot::on(established.tunnel())))
            .collect();
        if self.shared.draining.get() {
            established.tunnel().close(false);
        }
        for (waiter, slot) in slots {
            // A waiter that gave up drops its slot.
            let _ = waiter.send(Ok(slot));
        }
        let pool = Rc::downgrade(&self.shared);
        tokio::task::spawn_local(async move {
            let tunnel = established.drive().await;
            if let Some(shared) = pool.upgrade() {
                Self { shared }.take_out(&key, &tunnel);
            }
        });
    }

    fn fail(&self, key: &Key, id: u64, error: &HboneError) {
        let waiters = {
            let mut entries = self.shared.entries.borrow_mut();
            let dial = entries.get_mut(key).and_then(|entry| take_dial(entry, id));
            if entries.get(key).is_some_and(Entry::is_empty) {
                entries.remove(key);
            }
            dial.map(|dial| dial.waiters).unwrap_or_default()
        };
        for waiter in waiters {
            let _ = waiter.send(Err(error.clone()));
        }
    }

    /// Removes a tunnel that ended.
    fn take_out(&self, key: &Key, tunnel: &Rc<Tunnel>) {
        let mut entries = self.shared.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(key) {
            entry.tunnels.retain(|other| !Rc::ptr_eq(other, tunnel));
            if entry.is_empty() {
                entries.remove(key);
            }
        }
    }

    /// Closes the tunnels of a source and forgets its dials.
    fn close(&self, source: NetnsCookie) {
        let mut entries = self.shared.entries.borrow_mut();
        for (_, entry) in entries.iter_mut().filter(|(key, _)| key.source == source) {
            entry.dials.clear();
            for tunnel in &entry.tunnels {
                tunnel.close(true);
            }
        }
        entries.retain(|_, entry| !entry.is_empty());
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

fn stale(target: &Target, error: &HboneError) {
    tracing::debug!(peer = %target.key.peer, %error, "stale tunnel, dialling anew");
}

fn take_dial(entry: &mut Entry, id: u64) -> Option<Dial> {
    let index = entry.dials.iter().position(|dial| dial.id == id)?;
    Some(entry.dials.swap_remove(index))
}

fn next_id() -> u64 {
    thread_local! {
        static NEXT: Cell<u64> = const { Cell::new(0) };
    }
    NEXT.replace(NEXT.get() + 1)
}
