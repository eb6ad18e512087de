//! Which backend a request goes to, and what is said of the way there.

use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::SET_COOKIE;

use crate::affinity::Given;
use crate::plan::{Backend, Destination, Rule};
use crate::session::Session;
use crate::tuning::{OfRule, Tuning, Way};
use crate::worker::Worker;

/// The backend of a request: the one of the client's session, else by the shares of the rule.
pub(super) fn choose<'a>(
    worker: &Worker,
    rule: &'a Rule,
    headers: &HeaderMap,
) -> Option<(&'a Backend, Option<Session>)> {
    let of_session = rule.split.values().find_map(|backend| {
        let way = way(worker, rule, backend)?;
        let session = way.sessions.as_ref()?.read(headers, now())?;
        (session.service == way.service).then_some((backend, Some(session)))
    });
    of_session.or_else(|| Some((rule.split.choose(rand::random())?, None)))
}

/// The way to a backend; `None` where that is none.
pub(super) fn way<'a>(worker: &Worker, rule: &Rule, backend: &'a Backend) -> Option<&'a Way> {
    let Destination::Service { service, port, .. } = &backend.destination else {
        return None;
    };
    // Plans are compiled anew with each change of policies; what is found once holds.
    Some(backend.way.get_or_init(|| {
        let tuning: &Tuning = &worker.upstreams.tuning();
        let of_rule = OfRule {
            route: &rule.route,
            rule: rule.name.as_ref(),
            listener: rule.listener.as_ref(),
            is_of_consumer: rule.consumer.is_some(),
            retry: rule.retry.as_ref(),
            sessions: rule.sessions.as_ref(),
        };
        tuning.way(&of_rule, service, *port)
    }))
}

/// What a client is given to come back to the endpoint that it gets, where it lacks that.
pub(super) fn give(way: Option<&Way>, headers: &HeaderMap) -> Option<Given> {
    way?.affinity.as_ref()?.give(headers, rand::random)
}

/// Tells the client which endpoint it stays with, unless it knows.
pub(super) fn remember(
    way: &Way,
    known: Option<Session>,
    given: Option<&Given>,
    endpoint: u64,
    secure: bool,
    headers: &mut HeaderMap,
) {
    let told = given.zip(way.affinity.as_ref());
    if let Some(told) = told.and_then(|(given, affinity)| affinity.tell(given, secure)) {
        headers.append(SET_COOKIE, told);
    }
    let Some(sessions) = &way.sessions else {
        return;
    };
    if let Some((name, value)) = sessions.write(known, (way.service, endpoint), secure, now()) {
        headers.append(name, value);
    }
}

/// Seconds since 1970.
fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
    })
}
