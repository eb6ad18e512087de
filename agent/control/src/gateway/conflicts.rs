//! Listeners that want the same place, or some of the same names. Pure.

use agent_model::gateway::Protocol;

use super::Fault;
use super::listeners::Listener;

/// Of several listeners for the same place the first one has it.
pub(super) fn settle(listeners: &mut [Listener<'_>]) {
    for index in 0..listeners.len() {
        let (before, rest) = listeners.split_at_mut(index);
        let Some(listener) = rest.first_mut() else {
            return;
        };
        let mut winners = before.iter().filter(|other| other.is_distinct());
        listener.conflict = winners.find_map(|other| conflict(other, listener));
    }
}

fn conflict(winner: &Listener<'_>, listener: &Listener<'_>) -> Option<Fault> {
    let (theirs, own) = (winner.protocol?, listener.protocol?);
    if winner.entry.port != listener.entry.port
        || (theirs == Protocol::Udp) != (own == Protocol::Udp)
    {
        return None;
    }
    let place = format!("port {} is {:?}'s", winner.entry.port, winner.name);
    if shares_port(theirs) != shares_port(own) {
        let message = format!("{place}, which is {theirs:?} and not {own:?}");
        return Some(Fault::new("ProtocolConflict", message));
    }
    let same = winner.hostname == listener.hostname;
    same.then(|| {
        let names = listener.entry.hostname.as_str();
        let message = format!("{place} already, for the same names ({names:?})");
        Fault::new("HostnameConflict", message)
    })
}

/// What is told apart on one port, as it begins in the same way.
fn shares_port(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Http => 0,
        // By SNI.
        Protocol::Https | Protocol::Tls => 1,
        Protocol::Tcp => 2,
        Protocol::Udp => 3,
        Protocol::Hbone => 4,
    }
}

/// A client may use one connection for two names, and one of them may be another listener's.
pub(super) fn note_overlaps(listeners: &mut [Listener<'_>]) {
    let overlap = |one: &Listener<'_>, other: &Listener<'_>| {
        let both_https = [one, other].map(|of| of.protocol) == [Some(Protocol::Https); 2];
        both_https
            && one.entry.port == other.entry.port
            && match (&one.hostname, &other.hostname) {
                (Some(one), Some(other)) => one.intersection(other).is_some(),
                _ => true,
            }
    };
    let found: Vec<bool> = (0..listeners.len())
        .map(|index| {
            let mut others = (0..listeners.len()).filter(|other| *other != index);
            listeners[index].is_distinct()
                && others.any(|other| {
                    listeners[other].is_distinct() && overlap(&listeners[index], &listeners[other])
                })
        })
        .collect();
    for (listener, overlaps) in listeners.iter_mut().zip(found) {
        listener.overlaps = overlaps;
    }
}
