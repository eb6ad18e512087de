//! Addresses of host names, from the name servers of a resolv.conf. For names that objects of the
//! mesh hold: whole ones, and few. Answers are kept for as long as they say, within limits, and
//! beyond that while no server answers.
//!
//! A stub resolver of its own rather than a library: two record types, no search list, and bounds on
//! everything. [`message`] and [`known`] are pure; [`ask`] has the sockets, [`Lookup`] keeps what is
//! known.

mod ask;
mod known;
mod message;
mod servers;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

pub use message::read_addresses;

use known::{Known, Step};

/// Names that are remembered at a time.
const MAX_NAMES: usize = 4096;
/// Lookups under way at a time; more wait.
const UNDER_WAY: usize = 64;
/// How long a lookup may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same where there is an answer from before that will do.
const PATIENCE_WITH_LAST: Duration = Duration::from_millis(1_800);

/// The addresses of a name, shared by all who ask for it; never empty.
pub type Addresses = Arc<[IpAddr]>;

/// Why a name has no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// A server says that there is no such name, or none with an address.
    #[error("there is no address of that name")]
    NotFound,
    /// No server gave an answer to go by; the last one's fault.
    #[error("name servers do not answer: {0}")]
    Unanswered(String),
    /// It could not be asked for at all.
    #[error("not a host name")]
    NotAName,
    /// As many names as may be are being looked up.
    #[error("too many names are being looked up")]
    Busy,
}

/// What became of the wish for the addresses of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// They were known.
    Known,
    /// A server gave them.
    Answered,
    /// No server answered, and those from before were taken.
    LastGood,
    /// There are none.
    NotFound,
    /// No server answered.
    Failed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 5] = [
        Self::Known,
        Self::Answered,
        Self::LastGood,
        Self::NotFound,
        Self::Failed,
    ];

    /// The word of the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Answered => "answered",
            Self::LastGood => "last-good",
            Self::NotFound => "not-found",
            Self::Failed => "failed",
        }
    }
}

/// Looks names up, for all threads. Asks from the network namespace of the thread that asks.
#[derive(Debug)]
pub struct Lookup {
    /// A resolv.conf; read for every lookup, because others write it.
    servers: PathBuf,
    names: Mutex<HashMap<Arc<str>, Arc<Name>>>,
    turns: Semaphore,
    counts: [AtomicU64; Outcome::ALL.len()],
}

/// One name.
#[derive(Debug, Default)]
struct Name {
    known: Mutex<Known>,
    /// Held by the one who asks.
    asking: tokio::sync::Mutex<()>,
}

impl Lookup {
    /// Takes the servers from a file in the format of resolv.conf; from its search list nothing.
    pub fn new(servers: PathBuf) -> Self {
        Self {
            servers,
            names: Mutex::default(),
            turns: Semaphore::new(UNDER_WAY),
            counts: Default::default(),
        }
    }

    /// The addresses of a host, IPv4 first; at most 5 s later. Whoever asks for a name that is being
    /// looked up waits for the same answer.
    pub async fn addresses(&self, host: &str) -> Result<Addresses, LookupError> {
        let host = settled(host);
        if !message::is_name(&host) {
            return Err(LookupError::NotAName);
        }
        let name = self.name(&host).ok_or(LookupError::Busy)?;
        let last = match lock(&name.known).step(Instant::now()) {
            Step::Take(known) => return self.counted(Outcome::Known, known),
            Step::Ask { last } => last,
        };
        let _asking = match (&last, name.asking.try_lock()) {
            (_, Ok(asking)) => asking,
            (Some(last), Err(_)) => return self.counted(Outcome::LastGood, Ok(Arc::clone(last))),
            (None, Err(_)) => name.asking.lock().await,
        };
        // Somebody else may have asked meanwhile.
        if let Step::Take(known) = lock(&name.known).step(Instant::now()) {
            return self.counted(Outcome::Known, known);
        }
        let patience = match last {
            Some(_) => PATIENCE_WITH_LAST,
            None => PATIENCE,
        };
        let asked = timeout(patience, self.ask(&host)).await;
        let told = asked.unwrap_or_else(|_| {
            Err(LookupError::Unanswered(format!(
                "no answer in {patience:?}"
            )))
        });
        let (outcome, result) = lock(&name.known).learn(told, Instant::now());
        self.counted(outcome, result)
    }

    /// Until when what is known of a host counts, whether it is addresses or that there are none: who
    /// keeps them need not ask before. `None` for a name that was not looked up.
    pub fn counts_until(&self, host: &str) -> Option<Instant> {
        let name = lock(&self.names).get(settled(host).as_str()).cloned()?;
        lock(&name.known).counts_until()
    }

    /// How often that came of a wish since start.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize].load(Ordering::Relaxed)
    }

    async fn ask(&self, host: &str) -> Result<message::Told, LookupError> {
        let Ok(_turn) = self.turns.acquire().await else {
            return Err(LookupError::Busy);
        };
        let servers = servers::read(&self.servers).map_err(LookupError::Unanswered)?;
        ask::any_of(&servers, host).await
    }

    /// The place of a name; none when every other place is in use.
    fn name(&self, host: &str) -> Option<Arc<Name>> {
        let mut names = lock(&self.names);
        if let Some(name) = names.get(host) {
            return Some(Arc::clone(name));
        }
        if names.len() >= MAX_NAMES {
            let idle = names
                .iter()
                .filter(|(_, name)| Arc::strong_count(name) == 1);
            let oldest = idle.min_by_key(|(_, name)| lock(&name.known).since());
            let oldest = oldest.map(|(host, _)| Arc::clone(host))?;
            names.remove(&oldest);
        }
        let name = Arc::<Name>::default();
        names.insert(host.into(), Arc::clone(&name));
        Some(name)
    }

    fn counted(
        &self,
        outcome: Outcome,
        result: Result<Addresses, LookupError>,
    ) -> Result<Addresses, LookupError> {
        self.counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
        result
    }
}

/// The one form of a name.
fn settled(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
