//! Policies of requests, applied to connections that nobody looks into.
//!
//! What asks for a request cannot be answered there, and goes to the refusing side as it does on
//! nodes: an ALLOW rule with such a field is left out, a DENY rule denies on what remains of it.

use std::net::SocketAddr;
use std::sync::LazyLock;

use agent_model::access::{Access, AccessRule, Condition, Operation, Source, TextAttribute};
use agent_model::{Action, Reason};
use agent_policy::http::{Address, Peer, Request};
use http::HeaderMap;

use super::Guard;
use super::judge::decided;
use crate::refusal::Refusal;

/// What policies may ask of a connection from `address` to `destination`.
pub(crate) fn connection<'a>(
    source: Option<&'a Peer>,
    address: Address,
    destination: SocketAddr,
    sni: Option<&'a str>,
) -> Request<'a> {
    static NO_HEADERS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
    Request {
        source,
        source_address: address,
        // Nobody in front is trusted to say who it was.
        remote_address: address,
        destination,
        sni,
        method: "",
        host: "",
        port: None,
        path: "/",
        headers: &NO_HEADERS,
        token: None,
    }
}

impl Guard {
    /// Why a connection may not pass that is not looked into. Where tokens are asked for none may:
    /// who speaks late, or in another protocol, would bring what was never looked at.
    pub(crate) fn refuses_bytes(&self, request: &Request<'_>) -> Option<Refusal> {
        if !self.tokens.is_empty() {
            let detail = "not HTTP, where policies ask for tokens";
            return Some(Refusal::new(Reason::PolicyNotAllowed, detail));
        }
        self.judge_connection(request).err()
    }

    /// True when whoever knows the connection knows all that the policies ask for: nothing is gained
    /// by looking into it.
    pub(crate) fn is_of_connections(&self) -> bool {
        self.tokens.is_empty() && self.is_of_connections
    }

    /// Judges a connection; of `request` only what a connection has is looked at.
    pub(crate) fn judge_connection(&self, request: &Request<'_>) -> Result<(), Refusal> {
        self.ask_gateway()?;
        decided(&self.connections, request)
    }
}

/// True for a policy that asks for nothing but what a connection has.
pub(super) fn is_whole(access: &Access) -> bool {
    !access.rules.iter().any(needs_request)
}

/// What of a policy a connection can be judged by.
pub(super) fn of_connections(access: &Access) -> Access {
    let rules = access.rules.iter();
    let rules = rules.filter_map(|rule| match access.action {
        Action::Allow if needs_request(rule) => None,
        Action::Allow => Some(rule.clone()),
        Action::Deny => Some(remainder(rule)),
    });
    Access {
        rules: rules.collect(),
        ..access.clone()
    }
}

fn needs_request(rule: &AccessRule) -> bool {
    remainder(rule) != *rule
}

/// The rule without what needs a request. An entry that loses all its fields matches everything, as
/// empty entries of a DENY do.
fn remainder(rule: &AccessRule) -> AccessRule {
    let from = rule.from.iter().map(|source| Source {
        request_principals: Vec::new(),
        not_request_principals: Vec::new(),
        remote_ip_blocks: Vec::new(),
        not_remote_ip_blocks: Vec::new(),
        ..source.clone()
    });
    let to = rule.to.iter().map(|operation| Operation {
        ports: operation.ports.clone(),
        not_ports: operation.not_ports.clone(),
        ..Operation::default()
    });
    let when = rule
        .when
        .iter()
        .filter(|condition| is_of_connection(condition));
    AccessRule {
        from: from.collect(),
        to: to.collect(),
        when: when.cloned().collect(),
    }
}

fn is_of_connection(condition: &Condition) -> bool {
    match condition {
        Condition::Text { attribute, .. } => matches!(
            attribute,
            TextAttribute::SourceNamespace | TextAttribute::SourcePrincipal | TextAttribute::Sni
        ),
        Condition::Address { attribute, .. } => {
            !matches!(attribute, agent_model::access::AddressAttribute::Remote)
        }
        Condition::DestinationPort { .. } => true,
    }
}
