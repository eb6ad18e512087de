//! What is changed in requests and responses on their way.

use std::borrow::Cow;

use agent_model::Reason;
use agent_model::gateway::Scheme;
use bytes::Bytes;
use http::header::{COOKIE, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri};

use super::Downstream;
use super::decide::Decision;
use crate::certified::CLIENT_CERT;
use crate::filter::replaced_path;
use crate::normalize;
use crate::plan::Backend;
use crate::refusal::Refusal;

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Makes the client's request the backend's: headers, host, path; the target is a path with its
/// query, the host is in Host.
pub(super) fn change_request(
    client: &Downstream,
    decision: &Decision,
    backend: &Backend,
    parts: &mut Parts,
) -> Result<(), Refusal> {
    let rule = &decision.rule;
    let headers = &mut parts.headers;
    join_cookies(headers);
    let is_held = decision.held.is_some();
    if let Some(held) = &decision.held {
        held.change(&rule.steps, &backend.steps, headers);
    }
    let own = [&CLIENT_CERT, &FORWARDED_FOR, &FORWARDED_PROTO];
    normalize::drop_shadows(headers, own.into_iter());
    match &client.certified {
        None => headers.remove(&CLIENT_CERT),
        Some(who) => headers.insert(&CLIENT_CERT, who.clone()),
    };
    if let Some(address) = &client.forwarded_for {
        headers.append(&FORWARDED_FOR, address.clone());
        let scheme = match client.scheme {
            Scheme::Http => HeaderValue::from_static("http"),
            Scheme::Https => HeaderValue::from_static("https"),
        };
        headers.insert(&FORWARDED_PROTO, scheme);
    }
    let edits = decision.treatment.request.iter();
    let of_route = rule.steps.request.iter().chain(&backend.steps.request);
    let edits = edits.chain(of_route.filter(|_| !is_held));
    edits.for_each(|edits| edits.apply(headers));
    let rewritten = backend.steps.host.as_ref().or(rule.steps.host.as_ref());
    let host = rewritten.map(|change| &change.0).or(decision.host.as_ref());
    if let Some(host) = host {
        headers.insert(HOST, host.clone());
    }
    parts.uri = target(decision, backend, &parts.uri)?;
    Ok(())
}

fn target(decision: &Decision, backend: &Backend, uri: &Uri) -> Result<Uri, Refusal> {
    let rule = &decision.rule;
    let path = decision.path.as_deref().map(Cow::Borrowed);
    let change = backend.steps.path.as_ref().or(rule.steps.path.as_ref());
    let path = match change {
        None => path,
        Some(change) => {
            let path = path.as_deref().unwrap_or(uri.path());
            Some(replaced_path(change, path, decision.prefix))
        }
    };
    let target = match (path, uri.query()) {
        // As it was: a reference to the bytes that came in.
        (None, _) => uri.path_and_query().cloned(),
        (Some(path), query) => {
            let mut target = path.into_owned();
            if let Some(query) = query {
                target.push('?');
                target.push_str(query);
            }
            PathAndQuery::from_maybe_shared(Bytes::from(target)).ok()
        }
    };
    let invalid = || Refusal::new(Reason::RequestInvalid, "the request target is not a path");
    target.map(Uri::from).ok_or_else(invalid)
}

/// HTTP/2 clients may split cookies into several fields, HTTP/1.1 has one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    // What was allowed in each field is allowed in their sum.
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Takes off what is for the backend's connection only, and makes the rule's changes.
pub(super) fn change_response(
    decision: &Decision,
    backend: &Backend,
    headers: &mut HeaderMap,
) -> Result<(), Refusal> {
    normalize::clean_response(headers);
    let of_route = backend.steps.response.iter();
    let of_route = of_route.chain(&decision.rule.steps.response);
    let told = decision.treatment.response.as_ref();
    match &decision.held {
        None => of_route.chain(told).for_each(|edits| edits.apply(headers)),
        // Backwards: the service's policies are next to it.
        Some(held) => {
            let edits = told.into_iter().chain(of_route).chain(&held.own.response);
            edits.for_each(|edits| edits.apply(headers));
        }
    }
    Ok(())
}
