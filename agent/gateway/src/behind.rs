//! What streams through a waypoint are for, and what was right a moment ago.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent_model::{NamespacedHostname, Workload};
use tokio::time::Instant;

/// How long streams still come after the last one that was right.
const LATE: Duration = Duration::from_secs(10);
/// What is remembered of the past.
const REMEMBERED: usize = 4_096;

/// What a stream is for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Destination {
    /// A port of a service.
    Service(NamespacedHostname, u16),
    /// A pod, by its own address.
    Workload(Arc<Workload>, SocketAddr),
}

/// Which destinations were right, and when last.
#[derive(Debug, Default)]
pub(crate) struct Memory(RefCell<HashMap<Place, Instant>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Service(NamespacedHostname),
    Address(IpAddr),
}

impl From<&Destination> for Place {
    fn from(destination: &Destination) -> Self {
        match destination {
            Destination::Service(service, _) => Self::Service(service.clone()),
            Destination::Workload(_, address) => Self::Address(address.ip()),
        }
    }
}

impl Memory {
    /// This one is right now.
    pub(crate) fn note(&self, destination: &Destination, now: Instant) {
        let mut known = self.0.borrow_mut();
        if known.len() >= REMEMBERED {
            known.retain(|_, last| now < *last + LATE);
        }
        if known.len() < REMEMBERED {
            known.insert(Place::from(destination), now);
        }
    }

    /// True for one that was right a moment ago.
    pub(crate) fn was_right(&self, destination: &Destination, now: Instant) -> bool {
        let known = self.0.borrow();
        let last = known.get(&Place::from(destination));
        last.is_some_and(|last| now < *last + LATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_right_is_so_for_a_while() {
        let service = |name: &str| Destination::Service(NamespacedHostname::new("shop", name), 80);
        let (memory, now) = (Memory::default(), Instant::now());
        assert!(!memory.was_right(&service("a"), now));
        memory.note(&service("a"), now);
        let other_port = Destination::Service(NamespacedHostname::new("shop", "a"), 81);
        assert!(memory.was_right(&other_port, now + LATE / 2));
        assert!(!memory.was_right(&service("b"), now));
        assert!(!memory.was_right(&service("a"), now + LATE));
    }

    #[test]
    fn the_past_is_bounded() {
        let (memory, now) = (Memory::default(), Instant::now());
        let service = |number: usize| {
            let key = NamespacedHostname::new("shop", &number.to_string());
            Destination::Service(key, 80)
        };
        for number in 0..=REMEMBERED {
            memory.note(&service(number), now);
        }
        assert!(!memory.was_right(&service(REMEMBERED), now), "it is full");
        let later = now + LATE;
        memory.note(&service(REMEMBERED), later);
        assert!(memory.was_right(&service(REMEMBERED), later));
    }
}
