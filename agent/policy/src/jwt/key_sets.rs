//! Which key sets are fetched, and when: decisions only. The caller fetches what is
//! [`due`](KeySets::due), says how it went, and asks for the keys.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache::{Fingerprint, fingerprint};
use super::key_set::{KeySet, KeySetError};

/// Limits and intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// From one good answer to the next fetch, give or take a tenth.
    pub refresh: Duration,
    /// How long keys count while no newer ones come.
    pub max_age: Duration,
    /// After this long without an answer a fetch counts as failed.
    pub attempt: Duration,
    /// After the first failure; it doubles with each.
    pub back_off: Duration,
    /// The longest back-off.
    pub back_off_most: Duration,
    /// At most so often a set is fetched because a token names a key that it does not have.
    pub missed_every: Duration,
    /// Fetches at a time.
    pub at_once: usize,
    /// Sets held; what comes after them (by address) is never fetched.
    pub sets: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(300),
            max_age: Duration::from_secs(24 * 3600),
            attempt: Duration::from_secs(10),
            back_off: Duration::from_secs(1),
            back_off_most: Duration::from_secs(60),
            missed_every: Duration::from_secs(30),
            at_once: 8,
            sets: 256,
        }
    }
}

/// Why a fetch failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchFault {
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The address, or one it was redirected to, may not be dialled: see [`may_dial`](KeySets::may_dial).
    #[error("{0} is not an address to fetch keys from")]
    Address(IpAddr),
    /// No connection, or it broke.
    #[error("{0}")]
    Transport(String),
    /// An answer other than 200.
    #[error("status {0}")]
    Status(u16),
    /// What came is no key set.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
}

/// What an answer led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// The keys are new.
    Changed,
    /// They are those that were held: verified tokens stay verified.
    Same,
    /// The last good ones stay in force, if there are any.
    Failed(FetchFault),
    /// Nobody waited for it.
    Ignored,
}

/// Every key set that is fetched.
#[derive(Debug, Default)]
pub struct KeySets {
    settings: Settings,
    sources: BTreeMap<Arc<str>, Source>,
}

#[derive(Debug)]
struct Source {
    good: Option<Good>,
    /// When to fetch next; while one is under way, when it is given up.
    next: Instant,
    under_way: bool,
    last_attempt: Option<Instant>,
    failures: u32,
    fault: Option<FetchFault>,
}

#[derive(Debug)]
struct Good {
    keys: Arc<KeySet>,
    text: Fingerprint,
    obtained: Instant,
}

/// One set, for those who look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    /// Where it comes from.
    pub address: Arc<str>,
    /// Keys in use.
    pub keys: usize,
    /// Since it was last fetched; `None` when it never was.
    pub age: Option<Duration>,
    /// Failures in a row.
    pub failures: u32,
    /// The last of them.
    pub fault: Option<FetchFault>,
}

impl KeySets {
    /// With these settings.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            sources: BTreeMap::new(),
        }
    }

    /// Holds exactly the sets of these addresses from now on: new ones are due at once, others are
    /// forgotten. Returns how many are beyond the limit and will not be fetched.
    pub fn want<'u>(
        &mut self,
        addresses: impl IntoIterator<Item = &'u Arc<str>>,
        now: Instant,
    ) -> usize {
        let wanted: BTreeSet<_> = addresses.into_iter().collect();
        self.sources.retain(|address, _| wanted.contains(address));
        let mut beyond = 0;
        for address in wanted {
            if self.sources.contains_key(address) {
                continue;
            }
            if self.sources.len() < self.settings.sets {
                self.sources.insert(Arc::clone(address), Source::new(now));
            } else {
                beyond += 1;
            }
        }
        beyond
    }

    /// The addresses to fetch now; each is under way from here on.
    pub fn due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let settings = self.settings;
        let mut due = Vec::new();
        let mut under_way = 0;
        for (address, source) in &mut self.sources {
            if source.next <= now {
                if source.under_way {
                    source.failed(FetchFault::Timeout, settings, now, 1.0);
                } else {
                    due.push((source.next, Arc::clone(address)));
                }
            }
            under_way += usize::from(source.under_way);
        }
        // Who has waited longest comes first.
        due.sort();
        due.truncate(settings.at_once.saturating_sub(under_way));
        for (_, address) in &due {
            if let Some(source) = self.sources.get_mut(address) {
                source.under_way = true;
                source.last_attempt = Some(now);
                source.next = now + settings.attempt;
            }
        }
        due.into_iter().map(|(_, address)| address).collect()
    }

    /// When [`due`](Self::due) has to be asked again, if nothing else happens before.
    pub fn next_due(&self) -> Option<Instant> {
        self.sources.values().map(|source| source.next).min()
    }

    /// Takes the answer to a fetch. `random` (0 to 1) spreads what follows.
    pub fn arrived(
        &mut self,
        address: &str,
        answer: Result<&[u8], FetchFault>,
        now: Instant,
        random: f64,
    ) -> Arrival {
        let settings = self.settings;
        let Some(source) = self
            .sources
            .get_mut(address)
            .filter(|source| source.under_way)
        else {
            return Arrival::Ignored;
        };
        let parsed = answer.and_then(|text| {
            let text_fingerprint = fingerprint(text);
            if source.is_same(text_fingerprint) {
                return Ok((text_fingerprint, None));
            }
            Ok((text_fingerprint, Some(Arc::new(KeySet::parse(text)?))))
        });
        match parsed {
            Ok((text, keys)) => source.arrived(keys, text, settings, now, random),
            Err(fault) => {
                source.failed(fault.clone(), settings, now, random);
                Arrival::Failed(fault)
            }
        }
    }

    /// A token names a key that the set of this address does not have. The set is fetched, but not
    /// more often than the settings say, and never before a back-off is over: anybody can write
    /// names of keys. True when a fetch is due or under way, so that its answer is worth a wait.
    pub fn key_missed(&mut self, address: &str, now: Instant) -> bool {
        let Some(source) = self.sources.get_mut(address) else {
            return false;
        };
        if source.under_way {
            return true;
        }
        if source.failures > 0 {
            return false;
        }
        let earliest = source
            .last_attempt
            .map_or(now, |last| last + self.settings.missed_every);
        source.next = source.next.min(earliest.max(now));
        source.next <= now
    }

    /// Every set that counts, by its address.
    pub fn good(&self, now: Instant) -> impl Iterator<Item = (&Arc<str>, &Arc<KeySet>)> {
        let addresses = self.sources.keys();
        addresses.filter_map(move |address| Some((address, self.keys(address, now)?)))
    }

    /// The keys of an address: the last good ones, until they are too old.
    pub fn keys(&self, address: &str, now: Instant) -> Option<&Arc<KeySet>> {
        let good = self.sources.get(address)?.good.as_ref()?;
        let age = now.saturating_duration_since(good.obtained);
        (age < self.settings.max_age).then_some(&good.keys)
    }

    /// Every set.
    pub fn status(&self, now: Instant) -> impl Iterator<Item = SourceStatus> {
        self.sources.iter().map(move |(address, source)| {
            let good = source.good.as_ref();
            SourceStatus {
                address: Arc::clone(address),
                keys: good.map_or(0, |good| good.keys.len()),
                age: good.map(|good| now.saturating_duration_since(good.obtained)),
                failures: source.failures,
                fault: source.fault.clone(),
            }
        })
    }

    /// Whether keys may be fetched from an address that a name resolved to or a redirect named:
    /// never from link-local ones (clouds keep credentials there), multicast or none at all, and
    /// from loopback only where that is configured.
    pub fn may_dial(ip: IpAddr, loopback: bool) -> bool {
        /// Instance metadata of a large cloud, over IPv6.
        const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
        match translated(ip.to_canonical()) {
            ip if ip.is_loopback() => loopback,
            ip if ip.is_unspecified() || ip.is_multicast() => false,
            IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_broadcast() && ip.octets()[0] != 0,
            IpAddr::V6(ip) => !ip.is_unicast_link_local() && ip != METADATA,
        }
    }
}

/// The IPv4 address that an IPv6 one stands for where a NAT64 translates (RFC 6052, 2.1).
fn translated(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(six) if six.octets()[..12] == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0] => {
            let [.., a, b, c, d] = six.octets();
            IpAddr::from([a, b, c, d])
        }
        other => other,
    }
}

impl Source {
    fn new(now: Instant) -> Self {
        Self {
            good: None,
            next: now,
            under_way: false,
            last_attempt: None,
            failures: 0,
            fault: None,
        }
    }

    fn is_same(&self, text: Fingerprint) -> bool {
        self.good.as_ref().is_some_and(|good| good.text == text)
    }

    fn arrived(
        &mut self,
        keys: Option<Arc<KeySet>>,
        text: Fingerprint,
        settings: Settings,
        now: Instant,
        random: f64,
    ) -> Arrival {
        (self.under_way, self.failures, self.fault) = (false, 0, None);
        self.next = now + settings.refresh.mul_f64(0.9 + 0.2 * random.clamp(0.0, 1.0));
        match (keys, &mut self.good) {
            (None, Some(good)) => {
                good.obtained = now;
                Arrival::Same
            }
            (None, None) => Arrival::Ignored,
            (Some(keys), good) => {
                let obtained = now;
                *good = Some(Good {
                    keys,
                    text,
                    obtained,
                });
                Arrival::Changed
            }
        }
    }

    fn failed(&mut self, fault: FetchFault, settings: Settings, now: Instant, random: f64) {
        let doubled = settings.back_off.saturating_mul(1 << self.failures.min(16));
        let most = doubled.min(settings.back_off_most);
        self.next = now + most.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0));
        self.under_way = false;
        self.failures = self.failures.saturating_add(1);
        self.fault = Some(fault);
    }
}
