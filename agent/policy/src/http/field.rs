//! One field of a policy, compiled, and what it says of a request.

use std::io::Write;
use std::net::IpAddr;

use agent_model::ServiceAccountMatch;
use http::HeaderName;
use ipnet::IpNet;

use super::answer::Answer;
use super::pattern::Patterns;
use super::request::{Address, Peer, Request};
use super::template::PathTemplate;
use crate::jwt::Claim;

/// The longest name and port: 253 bytes, `:` and 5 digits; and room.
const MOST_HOST: usize = 264;

/// The values of a field and of its `not` form. An empty list always holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Pair<T> {
    pub(super) any: T,
    pub(super) none: T,
}

/// One field.
#[derive(Debug, Clone)]
pub(super) enum Field {
    Method(Pair<Patterns>),
    Path(Pair<Paths>),
    Host(Pair<Patterns>),
    Port(Pair<Vec<u16>>),
    Principal(Pair<Patterns>),
    Namespace(Pair<Patterns>),
    Account(Pair<Vec<ServiceAccountMatch>>),
    SourceIp(Pair<Vec<IpNet>>),
    RemoteIp(Pair<Vec<IpNet>>),
    DestinationIp(Pair<Vec<IpNet>>),
    Sni(Pair<Patterns>),
    Header(HeaderName, Pair<Patterns>),
    RequestPrincipal(Pair<Patterns>),
    Claim(Vec<Box<str>>, Pair<Patterns>),
}

/// Patterns and templates.
#[derive(Debug, Clone, Default)]
pub(super) struct Paths {
    pub(super) patterns: Patterns,
    pub(super) templates: Vec<PathTemplate>,
}

impl Field {
    pub(super) fn holds(&self, request: &Request<'_>) -> Answer {
        let source = request.source;
        match self {
            Self::Method(pair) => text(pair, Some(request.method)),
            Self::Path(pair) => both(pair, |paths| Answer::of(paths.matches(request.path))),
            Self::Host(pair) => host(pair, request),
            Self::Port(pair) => {
                let port = request.destination.port();
                both(pair, |ports| Answer::of(ports.contains(&port)))
            }
            Self::Principal(pair) => both(pair, |patterns| principal(patterns, source)),
            Self::Namespace(pair) => both(pair, |patterns| namespace(patterns, source)),
            Self::Account(pair) => both(pair, |accounts| account(accounts, source)),
            Self::SourceIp(pair) => address(pair, request.source_address),
            Self::RemoteIp(pair) => address(pair, request.remote_address),
            Self::DestinationIp(pair) => {
                both(pair, |networks| inside(networks, request.destination.ip()))
            }
            Self::Sni(pair) => both(pair, |names| {
                Answer::of(request.sni.is_some_and(|sni| names.match_host(sni)))
            }),
            Self::Header(name, pair) => header(name, pair, request),
            Self::RequestPrincipal(pair) => of_token(pair, request, |token, patterns| {
                let principal = token.principal();
                Answer::of(principal.is_some_and(|principal| patterns.match_text(principal)))
            }),
            Self::Claim(path, pair) => of_token(pair, request, |token, patterns| {
                token
                    .claim(path)
                    .map_or(Answer::No, |value| claim(value, patterns))
            }),
        }
    }
}

impl Field {
    /// True when only a token can make it hold or not.
    pub(super) fn is_of_token(&self) -> bool {
        matches!(self, Self::RequestPrincipal(_) | Self::Claim(..))
    }
}

impl Paths {
    fn matches(&self, path: &str) -> bool {
        self.patterns.match_text(path) || self.templates.iter().any(|t| t.matches(path))
    }
}

/// Lists that may be empty.
pub(super) trait Values {
    fn is_empty(&self) -> bool;
}

impl Values for Patterns {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl Values for Paths {
    fn is_empty(&self) -> bool {
        self.patterns.is_empty() && self.templates.is_empty()
    }
}

impl<T> Values for Vec<T> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

/// Both forms; an empty one holds.
fn both<T: Values>(pair: &Pair<T>, matches: impl Fn(&T) -> Answer) -> Answer {
    let positive = if pair.any.is_empty() {
        Answer::Yes
    } else {
        matches(&pair.any)
    };
    positive.and(|| {
        if pair.none.is_empty() {
            Answer::Yes
        } else {
            matches(&pair.none).not()
        }
    })
}

/// An absent text matches no pattern.
fn text(pair: &Pair<Patterns>, value: Option<&str>) -> Answer {
    both(pair, |patterns| {
        Answer::of(value.is_some_and(|value| patterns.match_text(value)))
    })
}

fn host(pair: &Pair<Patterns>, request: &Request<'_>) -> Answer {
    if request.host.is_empty() {
        return Answer::Unknown;
    }
    let mut buffer = [0; MOST_HOST];
    let with_port = request.port.and_then(|port| {
        // One that is too long for any name is compared without its port.
        let mut rest = &mut buffer[..];
        write!(rest, "{}:{port}", request.host).ok()?;
        let left = rest.len();
        std::str::from_utf8(&buffer[..MOST_HOST - left]).ok()
    });
    both(pair, |hosts| {
        let matches_port = with_port.is_some_and(|host| hosts.match_host(host));
        Answer::of(hosts.match_host(request.host) || matches_port)
    })
}

fn principal(patterns: &Patterns, source: Option<&Peer>) -> Answer {
    let Some(peer) = source else {
        return Answer::No;
    };
    let principal = peer.principal();
    match peer.is_outside() && !patterns.match_domain(principal) {
        true => as_outside(patterns.match_text(principal)),
        false => Answer::of(patterns.match_text(principal)),
    }
}

fn namespace(patterns: &Patterns, source: Option<&Peer>) -> Answer {
    of_mesh(source, |peer| {
        patterns.match_text(peer.identity().namespace())
    })
}

fn account(accounts: &[ServiceAccountMatch], source: Option<&Peer>) -> Answer {
    of_mesh(source, |peer| {
        let identity = peer.identity();
        accounts.iter().any(|account| {
            identity.namespace() == account.namespace
                && identity.service_account() == account.service_account
        })
    })
}

/// What names no trust domain is meant for peers of the mesh.
fn of_mesh(source: Option<&Peer>, matches: impl Fn(&Peer) -> bool) -> Answer {
    match source {
        None => Answer::No,
        Some(peer) if peer.is_outside() => as_outside(matches(peer)),
        Some(peer) => Answer::of(matches(peer)),
    }
}

/// Whether another domain's name is meant by what would match one of the mesh's is not known.
fn as_outside(matches: bool) -> Answer {
    match matches {
        true => Answer::Unknown,
        false => Answer::No,
    }
}

fn address(pair: &Pair<Vec<IpNet>>, address: Address) -> Answer {
    if !address.vouched {
        return Answer::Unknown;
    }
    both(pair, |networks| inside(networks, address.ip))
}

fn inside(networks: &[IpNet], ip: IpAddr) -> Answer {
    Answer::of(networks.iter().any(|network| network.contains(&ip)))
}

fn header(name: &HeaderName, pair: &Pair<Patterns>, request: &Request<'_>) -> Answer {
    both(pair, |patterns| {
        let lines = request.headers.get_all(name).iter();
        Answer::agreed(lines.map(|line| patterns.match_bytes(line.as_bytes())))
    })
}

/// Without a token a positive form does not match, and of the `not` forms only the one that asks
/// for the absence of a token holds.
fn of_token(
    pair: &Pair<Patterns>,
    request: &Request<'_>,
    matches: impl Fn(&crate::jwt::Token, &Patterns) -> Answer,
) -> Answer {
    match request.token {
        Some(token) => both(pair, |patterns| matches(token, patterns)),
        None if !pair.any.is_empty() => Answer::No,
        None if pair.none.has_presence() => Answer::Yes,
        None => Answer::Unknown,
    }
}

fn claim(value: &Claim, patterns: &Patterns) -> Answer {
    // `*` asks whether it is there.
    if patterns.has_presence() {
        return Answer::Yes;
    }
    match value {
        Claim::Text(text) => Answer::of(patterns.match_text(text)),
        Claim::List(items) => any_item(items, patterns),
        Claim::Object(_) | Claim::Opaque => Answer::Unknown,
    }
}

/// A list is the OR of its items, of which one that cannot be compared may be anything.
fn any_item(items: &[Claim], patterns: &Patterns) -> Answer {
    let mut answer = Answer::No;
    for item in items {
        match item {
            Claim::Text(text) if patterns.match_text(text) => return Answer::Yes,
            Claim::Text(_) => {}
            Claim::List(_) | Claim::Object(_) | Claim::Opaque => answer = Answer::Unknown,
        }
    }
    answer
}
