//! Addresses for hosts of ServiceEntries that have none of their own. Which host has which follows
//! from the hosts alone: every replica and every later control plane comes to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

/// Places to give: the last two bytes of an address, without all zeros and all ones.
const PLACES: u64 = 0xfffe;
/// Places a host is tried at, before it gets none.
const ATTEMPTS: u32 = 64;

/// Which host has which place. Every host has its own order of places, and every place takes the
/// oldest host that comes to it: whoever comes later moves nobody who was there before, and the
/// outcome does not depend on the order in which hosts became known. When a host goes, one that had
/// to give way to it gets its place.
#[derive(Debug, Default)]
pub(crate) struct Given {
    hosts: BTreeMap<Arc<str>, Seat>,
    places: BTreeMap<u16, Arc<str>>,
}

#[derive(Debug, Clone)]
struct Seat {
    /// When the oldest entry with the host was made.
    since: Option<String>,
    /// Places it was tried at before.
    attempt: u32,
    place: Option<u16>,
}

impl Given {
    pub(crate) const NONE: Self = Self {
        hosts: BTreeMap::new(),
        places: BTreeMap::new(),
    };

    /// The addresses of a host: one of 240.240.0.0/16 and one of 2001:2::/48, the ranges Istio gives
    /// from, which nothing else has.
    pub(crate) fn of(&self, host: &str) -> Option<[IpAddr; 2]> {
        let place = self.hosts.get(host)?.place?;
        let [high, low] = place.to_be_bytes();
        Some([
            Ipv4Addr::new(240, 240, high, low).into(),
            Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, place).into(),
        ])
    }

    /// Takes a host, or another age of it. Returns the hosts that have other addresses now.
    pub(crate) fn put(&mut self, host: &str, since: Option<String>) -> BTreeSet<Arc<str>> {
        match self.hosts.get(host) {
            Some(seat) if seat.since == since => BTreeSet::new(),
            Some(_) => {
                let before = self.seats();
                self.take_away(host);
                self.seat(host.into(), since);
                self.changed(&before)
            }
            None => {
                let host: Arc<str> = host.into();
                let mut moved = self.seat(Arc::clone(&host), since);
                moved.insert(host);
                moved
            }
        }
    }

    /// Takes a host back. Returns the hosts that have other addresses now.
    pub(crate) fn remove(&mut self, host: &str) -> BTreeSet<Arc<str>> {
        if !self.hosts.contains_key(host) {
            return BTreeSet::new();
        }
        if self.hosts.values().all(|seat| seat.attempt == 0) {
            self.take_away(host);
            return BTreeSet::new();
        }
        let before = self.seats();
        self.take_away(host);
        self.changed(&before)
    }

    /// Seats a host; returns those it displaced.
    fn seat(&mut self, host: Arc<str>, since: Option<String>) -> BTreeSet<Arc<str>> {
        let mut displaced = BTreeSet::new();
        let (mut host, mut seat) = (
            host,
            Seat {
                since,
                attempt: 0,
                place: None,
            },
        );
        while seat.attempt < ATTEMPTS {
            let place = place(&host, seat.attempt);
            let holder = self.places.get(&place).cloned();
            let Some(holder) = holder else {
                seat.place = Some(place);
                self.places.insert(place, Arc::clone(&host));
                break;
            };
            let is_older = self
                .hosts
                .get(&holder)
                .is_some_and(|held| (&seat.since, &host) < (&held.since, &holder));
            if is_older && let Some(held) = self.hosts.remove(&holder) {
                seat.place = Some(place);
                self.places.insert(place, Arc::clone(&host));
                self.hosts.insert(host, seat);
                displaced.insert(Arc::clone(&holder));
                (host, seat) = (holder, held);
                seat.place = None;
            }
            seat.attempt += 1;
        }
        self.hosts.insert(host, seat);
        displaced
    }

    /// Removes a host, and seats anew those that may have wanted its place.
    fn take_away(&mut self, host: &str) {
        let place = self.hosts.remove(host).and_then(|seat| seat.place);
        place.map(|place| self.places.remove(&place));
        let unlucky: Vec<Arc<str>> = self
            .hosts
            .iter()
            .filter(|(_, seat)| seat.attempt > 0)
            .map(|(host, _)| Arc::clone(host))
            .collect();
        if unlucky.is_empty() {
            return;
        }
        let all = std::mem::take(&mut self.hosts);
        self.places.clear();
        for (host, seat) in all {
            self.seat(host, seat.since);
        }
    }

    fn seats(&self) -> BTreeMap<Arc<str>, Option<u16>> {
        let seats = self.hosts.iter();
        seats
            .map(|(host, seat)| (Arc::clone(host), seat.place))
            .collect()
    }

    fn changed(&self, before: &BTreeMap<Arc<str>, Option<u16>>) -> BTreeSet<Arc<str>> {
        let changed = self
            .hosts
            .iter()
            .filter(|(host, seat)| before.get(*host) != Some(&seat.place));
        changed.map(|(host, _)| Arc::clone(host)).collect()
    }
}

/// The place a host is tried at. Part of what is promised to be stable: a change moves every host.
fn place(host: &str, attempt: u32) -> u16 {
    let text = format!("{host}/{attempt}");
    let hash = digest(&SHA256, text.as_bytes());
    let mut number = 0;
    for byte in hash.as_ref().iter().take(8) {
        number = number << 8 | u64::from(*byte);
    }
    (number % PLACES) as u16 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hosts whose first place is the same.
    fn rivals() -> (String, String) {
        let mut seen: BTreeMap<u16, String> = BTreeMap::new();
        for number in 0.. {
            let host = format!("h{number}.example.com");
            if let Some(other) = seen.insert(place(&host, 0), host.clone()) {
                return (other, host);
            }
        }
        unreachable!("there are fewer places than numbers")
    }

    fn year(year: u32) -> Option<String> {
        Some(format!("{year}-01-01T00:00:00Z"))
    }

    #[test]
    fn addresses_are_these_for_ever() {
        let mut given = Given::default();
        given.put("api.example.com", None);
        let [v4, v6] = given.of("api.example.com").unwrap();
        assert_eq!(place("api.example.com", 0), FIRST);
        assert_eq!(
            v4.to_string(),
            format!("240.240.{}.{}", FIRST >> 8, FIRST & 255)
        );
        assert_eq!(v6.to_string(), format!("2001:2::{FIRST:x}"));
        assert_eq!(given.of("other.example.com"), None);
    }

    /// What `place("api.example.com", 0)` is, and must stay.
    const FIRST: u16 = 37383;

    #[test]
    fn who_was_there_before_stays() {
        let (old, young) = rivals();
        let mut given = Given::default();
        let told = given.put(&old, year(2024));
        assert_eq!(told, [old.as_str().into()].into());
        let before = given.of(&old);
        assert_eq!(
            given.put(&young, year(2025)),
            [young.as_str().into()].into()
        );
        assert_eq!(given.of(&old), before);
        assert_ne!(given.of(&young), before);
        assert_eq!(given.put(&young, year(2025)), BTreeSet::new());

        // The place of one that goes is taken by who would have had it.
        assert_eq!(given.remove(&old), [young.as_str().into()].into());
        assert_eq!(given.of(&young), before);
        assert_eq!(given.remove(&old), BTreeSet::new());
        assert_eq!(given.remove(&young), BTreeSet::new());
        assert!(given.places.is_empty());
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let (old, young) = rivals();
        let mut one = Given::default();
        one.put(&old, year(2024));
        one.put(&young, year(2025));
        let mut other = Given::default();
        other.put(&young, year(2025));
        let told = other.put(&old, year(2024));
        assert_eq!(told.len(), 2, "the younger one had to move: {told:?}");
        assert_eq!(
            (one.of(&old), one.of(&young)),
            (other.of(&old), other.of(&young))
        );
        // The older entry is replaced by one that is younger than the other host's.
        let told = one.put(&old, year(2026));
        assert_eq!(told.len(), 2);
        assert_eq!(one.of(&young), other.of(&old));
    }

    #[test]
    fn thousands_of_hosts_have_an_address_each_whatever_the_order() {
        let hosts: Vec<String> = (0..5_000).map(|n| format!("h{n}.example.org")).collect();
        let mut up = Given::default();
        hosts.iter().for_each(|host| drop(up.put(host, None)));
        let mut down = Given::default();
        hosts
            .iter()
            .rev()
            .for_each(|host| drop(down.put(host, None)));
        let mut seen = BTreeSet::new();
        for host in &hosts {
            let addresses = up.of(host).unwrap();
            assert_eq!(down.of(host), Some(addresses));
            assert!(seen.insert(addresses), "{host} has another's");
        }
        let mut collided = up.hosts.values().filter(|seat| seat.attempt > 0);
        assert!(collided.next().is_some(), "or this shows nothing");
    }
}
