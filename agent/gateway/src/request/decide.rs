//! From the head of a request to the rule that takes it.

use std::borrow::Cow;
use std::sync::Arc;

use agent_model::Reason;
use agent_policy::http::Peer;
use http::header::{HOST, HeaderValue, LOCATION};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Version};

use super::admit::{admit, take_over};
use super::consumer::Held;
use super::left::{Head, Leaving};
use super::treat::treat;
use super::{Downstream, Origin};
use crate::filter::{CorsRules, From as Redirected, Granted, location};
use crate::normalize::{self, Malformed, PathRules};
use crate::outside::{is_name_of, is_outside, other_name};
use crate::plan::{Plan, Rule};
use crate::record::Record;
use crate::refusal::Refusal;
use crate::route::Facts;
use crate::treatment::Treatment;
use crate::worker::Worker;

/// What becomes of a request.
pub(super) enum Outcome {
    /// The gateway answers itself.
    Answer {
        rule: Arc<Rule>,
        status: StatusCode,
        headers: HeaderMap,
    },
    /// It goes to a backend.
    Forward(Box<Decision>),
}

/// What is known of a request that goes to a backend.
pub(super) struct Decision {
    pub(super) rule: Arc<Rule>,
    /// What traffic policies do.
    pub(super) treatment: Arc<Treatment>,
    /// The service's last word, where a consumer route takes the request.
    pub(super) held: Option<Held>,
    /// What its match took of the path.
    pub(super) prefix: Option<usize>,
    /// The path in its normal form, where it had another one.
    pub(super) path: Option<String>,
    /// The host in its normal form, where the Host header does not hold it.
    pub(super) host: Option<HeaderValue>,
    /// The client wants to leave HTTP.
    pub(super) leaving: Option<Box<Leaving>>,
    pub(super) granted: Option<Granted>,
}

/// Normalises a request, finds its rule and asks whether it may pass. Headers that are for the
/// client's connection only are gone from `parts` afterwards, and policies have changed the rest.
pub(super) async fn decide(
    worker: &Worker,
    plan: &Plan,
    client: &Downstream,
    parts: &mut Parts,
    record: &mut Record,
) -> Result<Outcome, Refusal> {
    let upgrade = normalize::clean(&mut parts.headers)?;
    let upgrade = upgrade.filter(|protocol| {
        parts.version == Version::HTTP_11 && protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
    });
    let raw = authority(parts)?;
    let host = normalize::named_host(raw)?;
    let path = normalize::path(parts.uri.path(), PathRules::default())?;
    let facts = Facts {
        host: &host.name,
        path: &path,
        query: parts.uri.query(),
        method: &parts.method,
        headers: &parts.headers,
    };
    let found = find(plan, client, &facts)?;
    if let Some((rule, _)) = &found {
        record.rule = Some(Arc::clone(rule));
    }
    let mut granted = grant(found.as_ref(), &parts.headers);
    let cors = found
        .as_ref()
        .and_then(|(rule, _)| rule.steps.cors.as_ref());
    if let (Some(cors), Some(granted), Some((rule, _))) = (cors, &granted, &found)
        && CorsRules::is_preflight(&parts.method, &parts.headers)
    {
        return Ok(Outcome::Answer {
            rule: Arc::clone(rule),
            status: StatusCode::OK,
            headers: cors.answer(granted, &parts.headers),
        });
    }
    let admitted = admit(worker, plan, client, &facts, host.port, &mut record.trials).await;
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => return Err(refusal),
    };
    let judged = Facts {
        headers: admitted.proven.as_ref().unwrap_or(&parts.headers),
        ..facts
    };
    // Which rule takes it rests on what tokens prove, never on what the client says in the headers
    // that are for that.
    let found = match &admitted.proven {
        None => found,
        Some(proven) => {
            let found = find(plan, client, &judged)?;
            granted = grant(found.as_ref(), proven);
            found
        }
    };
    let (rule, prefix) = found.ok_or_else(|| {
        Refusal::new(Reason::NoRoute, format!("no route for {}{path}", host.name))
    })?;
    let treatment = Arc::clone(treatment(plan, client, &rule));
    let who = (
        client.client.ip(),
        client.source.as_ref().map(Peer::principal),
    );
    record.rule = Some(Arc::clone(&rule));
    if let Some(own) = &rule.consumer {
        treat(worker, own, who, &judged).await?;
    }
    treat(worker, &treatment, who, &judged).await?;
    if let Some((status, redirect)) = &rule.steps.redirect {
        let from = Redirected {
            scheme: client.scheme,
            host: &host.name,
            port: client.port,
            path: &path,
            query: parts.uri.query(),
            prefix,
        };
        let location = HeaderValue::from_str(&location(redirect, &from))
            .map_err(|_| Refusal::new(Reason::RequestInvalid, "cannot be redirected"))?;
        let status = *status;
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, location);
        if let (Some(cors), Some(granted)) = (&rule.steps.cors, &granted) {
            cors.finish(granted, &mut headers);
        }
        return Ok(Outcome::Answer {
            rule,
            status,
            headers,
        });
    }
    let leaving = upgrade.map(|protocol| {
        let head = Head::of(parts, &host, &path);
        Box::new(Leaving { protocol, head })
    });
    let header = parts.headers.get(HOST);
    let in_header = header.is_some_and(|header| header.as_bytes() == raw.as_bytes());
    let host = forwarded_host(raw, &host, in_header)?;
    let path = match path {
        Cow::Borrowed(_) => None,
        Cow::Owned(path) => Some(path),
    };
    let held = rule.consumer.as_ref();
    let held = held.map(|own| Held::new(plan, client, own, admitted.token.clone()));
    take_over(admitted, parts)?;
    Ok(Outcome::Forward(Box::new(Decision {
        rule,
        treatment,
        held,
        prefix,
        path,
        host,
        leaving,
        granted,
    })))
}

/// What a rule tells scripts of other origins.
fn grant(found: Option<&Found>, headers: &HeaderMap) -> Option<Granted> {
    let (rule, _) = found?;
    rule.steps.cors.as_ref()?.grant(headers)
}

/// What traffic policies do to requests of a rule.
fn treatment<'a>(plan: &'a Plan, client: &Downstream, rule: &'a Rule) -> &'a Arc<Treatment> {
    match (&rule.treatment, &client.origin) {
        (Some(treatment), _) => treatment,
        (None, Origin::Service { service, .. }) => plan.treatment(service, client.port),
        (None, Origin::Pod { pod, .. }) => plan.treatment(&pod.name, client.port),
        (None, Origin::Port { .. }) => plan.untreated(),
    }
}

/// A rule, and what its match took of the path.
type Found = (Arc<Rule>, Option<usize>);

/// The rule of a request.
fn find(plan: &Plan, client: &Downstream, facts: &Facts<'_>) -> Result<Option<Found>, Refusal> {
    let rules = match &client.origin {
        Origin::Service { service, .. }
            if is_outside(service) && !is_name_of(service, facts.host) =>
        {
            return Err(other_name(service, facts.host));
        }
        Origin::Service {
            service,
            namespace,
            plain,
        } => match plan.service(service, client.port, namespace) {
            Some(rules) => rules,
            None => return Ok(Some((Arc::clone(plain), None))),
        },
        Origin::Pod { plain, .. } => return Ok(Some((Arc::clone(plain), None))),
        Origin::Port { listener: chosen } => {
            let port = plan.port(client.port);
            let Some(listener) = port.and_then(|port| port.listener(facts.host)) else {
                return Ok(None);
            };
            // The rules of one listener are not for connections that chose another one:
            // certificate and checks of clients may differ.
            if let Some(chosen) = chosen
                && **chosen != *listener.name
            {
                let detail = format!("{} is not for listener {chosen}", facts.host);
                return Err(Refusal::new(Reason::Misdirected, detail));
            }
            &listener.rules
        }
    };
    let selected = rules.select(facts);
    Ok(selected.map(|selected| (Arc::clone(selected.value), selected.prefix)))
}

/// The host as the request writes it. An authority in the target and a Host header have to agree;
/// HTTP/1.0 needs neither.
fn authority(parts: &Parts) -> Result<&str, Malformed> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let header = match hosts.next() {
        None => None,
        Some(host) => Some(host.to_str().map_err(|_| Malformed::BadHost)?),
    };
    if hosts.next().is_some() {
        return Err(Malformed::ManyHosts);
    }
    let target = parts.uri.authority().map(http::uri::Authority::as_str);
    match (target, header) {
        (Some(target), Some(header)) if !target.eq_ignore_ascii_case(header) => {
            Err(Malformed::ManyHosts)
        }
        (Some(one), _) | (None, Some(one)) => Ok(one),
        (None, None) if parts.version == Version::HTTP_10 => Ok(""),
        (None, None) => Err(Malformed::NoHost),
    }
}

/// The value that the Host header has to be given, when it has another one or none.
fn forwarded_host(
    raw: &str,
    host: &normalize::Host<'_>,
    in_header: bool,
) -> Result<Option<HeaderValue>, Malformed> {
    let is_normal = matches!(host.name, Cow::Borrowed(_)) && {
        let rest = &raw[host.name.len().min(raw.len())..];
        rest.is_empty() || rest.starts_with(':') && !rest.starts_with(":0")
    };
    if is_normal && in_header {
        return Ok(None);
    }
    let value = match host.port {
        Some(port) => HeaderValue::from_str(&format!("{}:{port}", host.name)),
        None => HeaderValue::from_str(&host.name),
    };
    value.map(Some).map_err(|_| Malformed::BadHost)
}
