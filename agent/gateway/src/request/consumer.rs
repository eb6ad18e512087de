//! Routes of consumers: what they make of a request comes before the service's own word, as if the
//! client had sent it so. The policies of the service hold for what it gets.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use agent_model::{NamespacedHostname, Reason};
use agent_policy::http::Request;
use agent_policy::jwt::Token;
use http::HeaderMap;
use http::header::{HOST, HeaderName, HeaderValue};
use http::request::Parts;

use super::admit::{pass, question, take_over};
use super::{Downstream, Origin};
use crate::access::Guard;
use crate::normalize::{self, Malformed, PathRules};
use crate::plan::{Destination, Plan, Steps};
use crate::refusal::Refusal;
use crate::route::Facts;
use crate::treatment::Treatment;
use crate::worker::Worker;

/// What holds for a request that a route of a consumer takes.
pub(super) struct Held {
    /// What traffic policies of the route do; those of the service count behind it, and in full.
    pub(super) own: Arc<Treatment>,
    /// What stands before the service.
    guard: Option<Arc<Guard>>,
    /// The client's, as that found it.
    token: Option<Arc<Token>>,
}

/// A port of a service that a request, or a copy of it, goes to.
type To<'a> = (&'a NamespacedHostname, u16);

impl Held {
    pub(super) fn new(
        plan: &Plan,
        client: &Downstream,
        own: &Arc<Treatment>,
        token: Option<Arc<Token>>,
    ) -> Self {
        let guard = dialled(client).and_then(|service| plan.guards().of_service(service));
        Self {
            own: Arc::clone(own),
            guard: guard.cloned(),
            token,
        }
    }

    /// Makes the changes of the route, of a share of it, and of its traffic policy. What tokens come
    /// in, and what says who asks, stays as the service's policies left it.
    pub(super) fn change(&self, rule: &Steps, share: &Steps, headers: &mut HeaderMap) {
        let of_tokens = self
            .guard
            .iter()
            .flat_map(|guard| guard.headers_of_tokens());
        let kept: Vec<(HeaderName, Vec<HeaderValue>)> = of_tokens
            .map(|name| {
                (
                    name.clone(),
                    headers.get_all(name).iter().cloned().collect(),
                )
            })
            .collect();
        let edits = self.own.request.iter().chain(&rule.request);
        let edits = edits.chain(&share.request);
        edits.for_each(|edits| edits.apply(headers));
        normalize::drop_shadows(headers, kept.iter().map(|(name, _)| name));
        for (name, values) in kept {
            headers.remove(&name);
            for value in values {
                headers.append(&name, value);
            }
        }
    }

    /// Asks the policies of the service that a changed request goes to.
    pub(super) async fn judge(
        &self,
        worker: &Worker,
        client: &Downstream,
        (to, port): To<'_>,
        parts: &mut Parts,
    ) -> Result<(), Refusal> {
        if dialled(client) == Some(to) {
            return self.judge_here(worker, client, port, parts);
        }
        let Some(guard) = worker.plan.load().guards().naming(to).cloned() else {
            return Ok(());
        };
        let (host, path) = in_normal_form(parts)?;
        let facts = facts(parts, &host, path);
        let service = worker.upstreams.snapshot().service(to).cloned();
        let own = service.and_then(|service| Some(service.vips.first()?.address));
        let there = SocketAddr::new(own.unwrap_or(client.destination.ip()), port);
        let mut trials = Vec::new();
        let passed = pass(
            worker,
            &guard,
            client,
            &facts,
            host.port,
            there,
            &mut trials,
        );
        let admitted = passed.await?;
        take_over(admitted, parts)
    }

    /// Whether a copy of a changed request may be sent there. One to another service that policies
    /// name may not: they would have to be asked in its stead, and with its tokens.
    pub(super) fn lets_copy(
        &self,
        worker: &Worker,
        client: &Downstream,
        to: &Destination,
        parts: &Parts,
    ) -> bool {
        match to {
            Destination::Invalid(_) => false,
            Destination::Service { service, port, .. } if dialled(client) == Some(service) => {
                self.judge_here(worker, client, *port, parts).is_ok()
            }
            Destination::Service { service, .. } => {
                worker.plan.load().guards().naming(service).is_none()
            }
        }
    }

    /// Asks the policies of the service that was dialled.
    fn judge_here(
        &self,
        worker: &Worker,
        client: &Downstream,
        port: u16,
        parts: &Parts,
    ) -> Result<(), Refusal> {
        let Some(guard) = &self.guard else {
            return Ok(());
        };
        let (host, path) = in_normal_form(parts)?;
        let facts = facts(parts, &host, path);
        guard.judge_changed(&Request {
            destination: SocketAddr::new(client.destination.ip(), port),
            token: self.token.as_deref(),
            ..question(worker, client, &facts, host.port)
        })
    }
}

fn dialled(client: &Downstream) -> Option<&NamespacedHostname> {
    match &client.origin {
        Origin::Service { service, .. } => Some(service),
        Origin::Port { .. } | Origin::Pod { .. } => None,
    }
}

fn facts<'a>(parts: &'a Parts, host: &'a normalize::Host<'_>, path: &'a str) -> Facts<'a> {
    Facts {
        host: &host.name,
        path,
        query: parts.uri.query(),
        method: &parts.method,
        headers: &parts.headers,
    }
}

/// Host and path of a request as it is sent, which is what is judged.
fn in_normal_form(parts: &Parts) -> Result<(normalize::Host<'_>, &str), Refusal> {
    let host = match parts.headers.get(HOST) {
        None => "",
        Some(host) => host.to_str().map_err(|_| Malformed::BadHost)?,
    };
    let host = normalize::named_host(host)?;
    match normalize::path(parts.uri.path(), PathRules::default())? {
        Cow::Borrowed(path) => Ok((host, path)),
        Cow::Owned(_) => {
            let detail = "a route makes a path that is not in its normal form";
            Err(Refusal::new(Reason::RequestInvalid, detail))
        }
    }
}
