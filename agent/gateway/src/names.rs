//! Endpoints that are known by name only (ServiceEntry, `resolution: DNS`): their names are looked
//! up, and each address becomes an endpoint of the mesh's state. A name of which no server answers
//! keeps the addresses that it had; one that is no more, as a server says, has none.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_model::Workload;
use agent_net::drain::Watcher;
use agent_net::lookup::{self, Addresses, LookupError};
use agent_policy::jwt::KeySets;
use agent_state::Writer;
use agent_xds::{Apply, Rejection, Update};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

#[cfg(test)]
mod tests;

/// Names are looked at after so long at the latest.
const LOOK: Duration = Duration::from_secs(30);
/// When a name that could not be looked up is asked for again, and shortest time that an answer
/// counts.
const AGAIN: Duration = Duration::from_secs(5);
/// A look-up is over by then.
const LATE: Duration = Duration::from_secs(10);
/// Of the time that an answer counts, what may be added, so that names are not asked for in step.
const JITTER: f64 = 1.0 / 6.0;
/// Look-ups at a time.
const AT_A_TIME: usize = 8;
/// Names that are looked up; endpoints of more have no address.
const MOST_NAMES: usize = 1024;
/// Addresses of one name that count.
const MOST_ADDRESSES: usize = 16;

/// Addresses of a name, and until when they count.
pub type Answer = Result<(Addresses, Instant), LookupError>;

/// Looks names up.
pub trait Lookup: Clone + Send + 'static {
    /// The addresses of a host, in any order; within a few seconds.
    fn addresses(&self, host: &str) -> impl Future<Output = Answer> + Send;
}

impl Lookup for Arc<lookup::Lookup> {
    async fn addresses(&self, host: &str) -> Answer {
        let addresses = lookup::Lookup::addresses(self, host).await?;
        let until = self.counts_until(host).unwrap_or_else(Instant::now);
        Ok((addresses, until))
    }
}

/// The mesh's state, and the names in it; clones share them.
#[derive(Debug, Clone)]
pub struct Names {
    table: Arc<Mutex<Table>>,
    news: Arc<Notify>,
}

#[derive(Debug)]
struct Table {
    mesh: Writer,
    /// Endpoints that are known by name only, by their uid.
    named: BTreeMap<Arc<str>, Workload>,
    names: BTreeMap<Arc<str>, Known>,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<IpAddr>,
    due: Instant,
}

impl Names {
    pub(crate) fn new(mesh: Writer) -> Self {
        Self {
            table: Arc::new(Mutex::new(Table {
                mesh,
                named: BTreeMap::new(),
                names: BTreeMap::new(),
            })),
            news: Arc::default(),
        }
    }

    /// Passes updates on to the state, with what is known of names in them.
    pub(crate) fn apply(&self, updates: Vec<Update>) -> Vec<Rejection> {
        let mut table = self.table();
        let mut out = Vec::with_capacity(updates.len());
        for update in updates {
            table.take(update, Instant::now(), &mut out);
        }
        self.news.notify_one();
        table.mesh.apply(out)
    }

    /// Looks names up whenever it is time, until the drain begins.
    pub async fn follow(self, lookup: impl Lookup, mut draining: Watcher) {
        tokio::select! {
            () = self.look_up_all(lookup) => {}
            () = draining.signalled() => {}
        }
    }

    async fn look_up_all(&self, lookup: impl Lookup) {
        let mut under_way: JoinSet<(Arc<str>, Answer)> = JoinSet::new();
        loop {
            let room = AT_A_TIME - under_way.len();
            let (due, next) = self.table().due(Instant::now(), room);
            for name in due {
                let lookup = lookup.clone();
                under_way.spawn(async move {
                    let found = lookup.addresses(&name).await;
                    (name, found)
                });
            }
            tokio::select! {
                Some(Ok((name, found))) = under_way.join_next(), if !under_way.is_empty() => {
                    self.found(&name, found, Instant::now());
                }
                () = sleep_until(next) => {}
                () = self.news.notified() => {}
            }
        }
    }

    fn found(&self, name: &str, found: Answer, now: Instant) {
        let mut table = self.table();
        match found {
            Ok((addresses, until)) => {
                let counts = until.saturating_duration_since(now).max(AGAIN);
                let jitter = counts.mul_f64(rand::random::<f64>() * JITTER);
                table.resolve(name, &addresses, now + counts + jitter);
            }
            Err(LookupError::NotFound) => {
                tracing::debug!(name, "an endpoint's name has no address");
                table.resolve(name, &[], now + AGAIN);
            }
            Err(error) => {
                tracing::debug!(name, %error, "an endpoint's name cannot be looked up");
                if let Some(known) = table.names.get_mut(name) {
                    known.due = now + AGAIN;
                }
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn take(&mut self, update: Update, now: Instant, out: &mut Vec<Update>) {
        match update {
            Update::Workload(workload) => {
                self.forget(&workload.uid, out);
                if workload.addresses.is_empty() && !workload.hostname.is_empty() {
                    self.learn(&workload, now, out);
                }
                out.push(Update::Workload(workload));
            }
            Update::RemoveAddress(name) => {
                self.forget(&name, out);
                out.push(Update::RemoveAddress(name));
            }
            other => out.push(other),
        }
    }

    fn learn(&mut self, workload: &Workload, now: Instant, out: &mut Vec<Update>) {
        let name = &workload.hostname;
        if !self.names.contains_key(name) {
            if self.names.len() >= MOST_NAMES {
                tracing::warn!(%name, "too many names of endpoints: this one is not looked up");
                return;
            }
            let known = Known {
                addresses: Vec::new(),
                due: now,
            };
            self.names.insert(Arc::clone(name), known);
        }
        if let Some(known) = self.names.get(name) {
            out.extend(known.addresses.iter().map(|ip| at(workload, *ip)));
        }
        self.named
            .insert(Arc::clone(&workload.uid), workload.clone());
    }

    /// Takes back what is known of an endpoint. Its name goes with the last that has it.
    fn forget(&mut self, uid: &str, out: &mut Vec<Update>) {
        let Some(workload) = self.named.remove(uid) else {
            return;
        };
        let name = &workload.hostname;
        if let Some(known) = self.names.get(name) {
            let gone = known.addresses.iter().map(|ip| uid_at(uid, *ip));
            out.extend(gone.map(Update::RemoveAddress));
        }
        if !self.named.values().any(|other| other.hostname == *name) {
            self.names.remove(name);
        }
    }

    /// Names that are to be looked up now, and when to ask again.
    fn due(&mut self, now: Instant, room: usize) -> (Vec<Arc<str>>, Instant) {
        let mut due = Vec::new();
        let mut next = now + LOOK;
        for (name, known) in &mut self.names {
            if known.due <= now && due.len() < room {
                // Under way: not again before it is late.
                known.due = now + LATE;
                due.push(Arc::clone(name));
            }
            next = next.min(known.due);
        }
        // Where there is no room, the end of a look-up is the time.
        (due, next.max(now + Duration::from_millis(10)))
    }

    fn resolve(&mut self, name: &str, addresses: &[IpAddr], due: Instant) {
        let addresses = addresses.iter().copied();
        let mut addresses: Vec<IpAddr> = addresses.filter(is_allowed).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST_ADDRESSES);
        let Some(known) = self.names.get_mut(name) else {
            return;
        };
        known.due = due;
        if known.addresses == addresses {
            return;
        }
        let before = std::mem::replace(&mut known.addresses, addresses.clone());
        let mut out = Vec::new();
        for workload in self.named.values().filter(|one| *one.hostname == *name) {
            let gone = before.iter().filter(|ip| !addresses.contains(ip));
            out.extend(gone.map(|ip| Update::RemoveAddress(uid_at(&workload.uid, *ip))));
            let new = addresses.iter().filter(|ip| !before.contains(ip));
            out.extend(new.map(|ip| at(workload, *ip)));
        }
        self.mesh.apply(out);
    }
}

/// An endpoint at one of the addresses of its name.
fn at(workload: &Workload, ip: IpAddr) -> Update {
    Update::Workload(Box::new(Workload {
        uid: uid_at(&workload.uid, ip).into(),
        addresses: vec![ip],
        ..workload.clone()
    }))
}

fn uid_at(uid: &str, ip: IpAddr) -> String {
    format!("{uid}/{ip}")
}

/// Whoever answers for a name must not lead to the gateway itself, nor to what only its host may
/// speak with (metadata services).
fn is_allowed(ip: &IpAddr) -> bool {
    KeySets::may_dial(*ip, false)
}
