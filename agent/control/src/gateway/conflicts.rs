//! Listeners that want the same place, or some of the same names. Pure.

use agent_model::gateway::Protocol;

use super::Fault;
use super::listeners::{Listener, Overlap};

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
    let found: Vec<Option<Overlap>> = (0..listeners.len())
        .map(|index| {
            let (before, rest) = listeners.split_at(index);
            let (listener, after) = rest.split_first()?;
            let others = before.iter().chain(after);
            let found = others.filter_map(|other| overlap(listener, other));
            // Where both are true the standard wants certificates to be said.
            found.max_by_key(|overlap| *overlap == Overlap::Certificates)
        })
        .collect();
    for (listener, overlap) in listeners.iter_mut().zip(found) {
        listener.overlap = overlap;
    }
}

fn overlap(one: &Listener<'_>, other: &Listener<'_>) -> Option<Overlap> {
    let both = [one, other];
    let are_https = both.iter().all(|of| of.protocol == Some(Protocol::Https));
    if !are_https || one.entry.port != other.entry.port || !both.iter().all(|of| of.is_distinct()) {
        return None;
    }
    if is_certified_for(one, other) || is_certified_for(other, one) {
        return Some(Overlap::Certificates);
    }
    let do_names = match (&one.hostname, &other.hostname) {
        (Some(one), Some(other)) => one.intersection(other).is_some(),
        _ => true,
    };
    do_names.then_some(Overlap::Hostnames)
}

/// Whether a client that has seen the certificates of one may send it what is for the other.
fn is_certified_for(one: &Listener<'_>, other: &Listener<'_>) -> bool {
    let mut names = one.certified.iter();
    names.any(|name| match &other.hostname {
        Some(hostname) => name.intersection(hostname).is_some(),
        None => true,
    })
}
