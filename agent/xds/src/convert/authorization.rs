//! Authorization policies. What cannot be read must never widen a policy, so everything unknown
//! refuses the whole of it.

use agent_model::{
    Action, Authorization, Clause, Match, Rule, Scope, ServiceAccountMatch, StringMatch,
};
use ipnet::IpNet;
use prost::Message;
use prost_types::Any;
use proto::security as wire;

use super::any;
use super::fields::{
    MAX_LIST, MAX_STRING, invalid, known, list, octets, port_or_zero, required, text,
};
use crate::{Error, ResourceType};

/// Reads an Authorization resource.
pub(crate) fn decode_authorization(bytes: &[u8]) -> Result<Authorization, Error> {
    let message = wire::Authorization::decode(bytes)?;
    let matches = message.groups.iter().flat_map(|group| &group.rules);
    let matches: usize = matches.map(|clause| clause.matches.len()).sum();
    if matches > MAX_LIST {
        return Err(Error::TooLarge {
            field: "matches",
            found: matches,
            limit: MAX_LIST,
        });
    }
    Ok(Authorization {
        name: required("name", &message.name)?,
        namespace: required("namespace", &message.namespace)?,
        scope: known("scope", message.scope, |scope| {
            Some(match scope {
                wire::Scope::Global => Scope::Global,
                wire::Scope::Namespace => Scope::Namespace,
                wire::Scope::WorkloadSelector => Scope::WorkloadSelector,
            })
        })?,
        action: known("action", message.action, |action| {
            Some(match action {
                wire::Action::Allow => Action::Allow,
                wire::Action::Deny => Action::Deny,
            })
        })?,
        rules: list("groups", &message.groups, decode_rule)?,
        dry_run: message.dry_run,
    })
}

/// The Authorization resource of a policy.
pub(crate) fn encode_authorization(policy: &Authorization) -> Any {
    let message = wire::Authorization {
        name: policy.name.to_string(),
        namespace: policy.namespace.to_string(),
        scope: match policy.scope {
            Scope::Global => wire::Scope::Global,
            Scope::Namespace => wire::Scope::Namespace,
            Scope::WorkloadSelector => wire::Scope::WorkloadSelector,
        }
        .into(),
        action: match policy.action {
            Action::Allow => wire::Action::Allow,
            Action::Deny => wire::Action::Deny,
        }
        .into(),
        groups: policy.rules.iter().map(encode_rule).collect(),
        dry_run: policy.dry_run,
        extensions: Vec::new(),
    };
    any(ResourceType::Authorization, &message)
}

fn decode_rule(group: &wire::Group) -> Result<Rule, Error> {
    let clauses = list("rules", &group.rules, |clause| {
        let matches = list("matches", &clause.matches, decode_match)?;
        Ok(Clause { matches })
    })?;
    Ok(Rule { clauses })
}

fn encode_rule(rule: &Rule) -> wire::Group {
    let clause = |clause: &Clause| wire::Rules {
        matches: clause.matches.iter().map(encode_match).collect(),
    };
    wire::Group {
        rules: rule.clauses.iter().map(clause).collect(),
    }
}

fn decode_match(message: &wire::Match) -> Result<Match, Error> {
    if !message.extensions.is_empty() {
        return Err(invalid("extensions", "a condition this agent cannot check"));
    }
    let strings = |values: &[wire::StringMatch]| list("match", values, decode_string);
    let accounts =
        |values: &[wire::ServiceAccountMatch]| list("service_accounts", values, decode_account);
    let networks = |values: &[wire::Address]| list("match address", values, decode_network);
    let ports = |values: &[u32]| {
        list("destination_ports", values, |port| {
            port_or_zero("destination_ports", *port)
        })
    };
    Ok(Match {
        namespaces: strings(&message.namespaces)?,
        not_namespaces: strings(&message.not_namespaces)?,
        principals: strings(&message.principals)?,
        not_principals: strings(&message.not_principals)?,
        service_accounts: accounts(&message.service_accounts)?,
        not_service_accounts: accounts(&message.not_service_accounts)?,
        source_ips: networks(&message.source_ips)?,
        not_source_ips: networks(&message.not_source_ips)?,
        destination_ips: networks(&message.destination_ips)?,
        not_destination_ips: networks(&message.not_destination_ips)?,
        destination_ports: ports(&message.destination_ports)?,
        not_destination_ports: ports(&message.not_destination_ports)?,
    })
}

fn encode_match(value: &Match) -> wire::Match {
    let strings = |values: &[StringMatch]| values.iter().map(encode_string).collect();
    let accounts = |values: &[ServiceAccountMatch]| values.iter().map(encode_account).collect();
    let networks = |values: &[IpNet]| values.iter().map(encode_network).collect();
    let ports = |values: &[u16]| values.iter().copied().map(u32::from).collect();
    wire::Match {
        namespaces: strings(&value.namespaces),
        not_namespaces: strings(&value.not_namespaces),
        principals: strings(&value.principals),
        not_principals: strings(&value.not_principals),
        source_ips: networks(&value.source_ips),
        not_source_ips: networks(&value.not_source_ips),
        destination_ips: networks(&value.destination_ips),
        not_destination_ips: networks(&value.not_destination_ips),
        destination_ports: ports(&value.destination_ports),
        not_destination_ports: ports(&value.not_destination_ports),
        service_accounts: accounts(&value.service_accounts),
        not_service_accounts: accounts(&value.not_service_accounts),
        extensions: Vec::new(),
    }
}

fn decode_string(message: &wire::StringMatch) -> Result<StringMatch, Error> {
    use wire::string_match::MatchType;
    let checked = |value: &String| text("match", value, MAX_STRING).map(str::to_owned);
    match &message.match_type {
        Some(MatchType::Exact(value)) => checked(value).map(StringMatch::Exact),
        Some(MatchType::Prefix(value)) => checked(value).map(StringMatch::Prefix),
        Some(MatchType::Suffix(value)) => checked(value).map(StringMatch::Suffix),
        Some(MatchType::Presence(())) => Ok(StringMatch::Presence),
        None => Err(Error::Missing("match_type")),
    }
}

fn encode_string(value: &StringMatch) -> wire::StringMatch {
    use wire::string_match::MatchType;
    let match_type = match value.clone() {
        StringMatch::Exact(value) => MatchType::Exact(value),
        StringMatch::Prefix(value) => MatchType::Prefix(value),
        StringMatch::Suffix(value) => MatchType::Suffix(value),
        StringMatch::Presence => MatchType::Presence(()),
    };
    wire::StringMatch {
        match_type: Some(match_type),
    }
}

fn decode_account(message: &wire::ServiceAccountMatch) -> Result<ServiceAccountMatch, Error> {
    Ok(ServiceAccountMatch {
        namespace: text("service_accounts", &message.namespace, MAX_STRING)?.to_owned(),
        service_account: text("service_accounts", &message.service_account, MAX_STRING)?.to_owned(),
    })
}

fn encode_account(value: &ServiceAccountMatch) -> wire::ServiceAccountMatch {
    wire::ServiceAccountMatch {
        namespace: value.namespace.clone(),
        service_account: value.service_account.clone(),
    }
}

fn decode_network(message: &wire::Address) -> Result<IpNet, Error> {
    let bad_length = || invalid("match address", format!("prefix length {}", message.length));
    let length = u8::try_from(message.length).map_err(|_| bad_length())?;
    // The prefix counts bits of the form that was sent, so that form is kept.
    let address = if let Ok(v4) = <[u8; 4]>::try_from(message.address.as_slice()) {
        v4.into()
    } else if let Ok(v6) = <[u8; 16]>::try_from(message.address.as_slice()) {
        v6.into()
    } else {
        let found = message.address.len();
        return Err(invalid(
            "match address",
            format!("an address has 4 or 16 bytes, not {found}"),
        ));
    };
    IpNet::new(address, length).map_err(|_| bad_length())
}

fn encode_network(network: &IpNet) -> wire::Address {
    wire::Address {
        address: octets(network.addr()),
        length: network.prefix_len().into(),
    }
}
