//! Authorization policies of requests. What cannot be read must never widen a policy, so everything
//! unknown refuses the whole of it.

use agent_model::access::{
    Access, AccessRule, AddressAttribute, Condition, Operation, PathMatch, PolicyTarget, Source,
    TextAttribute,
};
use agent_model::gateway::GatewayKey;
use agent_model::{Action, PolicyKey, ServiceAccountMatch, StringMatch};
use ipnet::IpNet;
use prost::Message;
use prost_types::Any;
use proto::gateway as wire;

use super::super::any;
use super::super::fields::{MAX_STRING, invalid, known, port_or_zero, required, text};
use super::{decode_service, encode_service, gateway_key, needed, parts};
use crate::{Error, ResourceType};

/// Name of the resource that tells `gateway` of a policy.
pub fn policy_name(gateway: &GatewayKey, policy: &PolicyKey) -> String {
    format!("{gateway}|{policy}")
}

/// Reads an Access resource: the gateway it is for, and the policy.
pub(crate) fn decode_access(bytes: &[u8]) -> Result<(GatewayKey, Access), Error> {
    let message = wire::Access::decode(bytes)?;
    let policy = Access {
        name: required("name", &message.name)?,
        namespace: required("namespace", &message.namespace)?,
        targets: parts("targets", &message.targets, decode_policy_target)?,
        action: known("action", message.action, |action| match action {
            wire::Action::Allow => Some(Action::Allow),
            wire::Action::Deny => Some(Action::Deny),
            wire::Action::Unspecified => None,
        })?,
        rules: parts("rules", &message.rules, decode_rule)?,
        dry_run: message.dry_run,
    };
    Ok((gateway_key(&message.gateway)?, policy))
}

/// The Access resource that tells `gateway` of a policy.
pub(crate) fn encode_access(gateway: &GatewayKey, policy: &Access) -> Any {
    let message = wire::Access {
        gateway: gateway.to_string(),
        namespace: policy.namespace.to_string(),
        name: policy.name.to_string(),
        targets: policy.targets.iter().map(encode_policy_target).collect(),
        action: match policy.action {
            Action::Allow => wire::Action::Allow,
            Action::Deny => wire::Action::Deny,
        }
        .into(),
        rules: policy.rules.iter().map(encode_rule).collect(),
        dry_run: policy.dry_run,
    };
    any(ResourceType::Access, &message)
}

pub(super) fn decode_policy_target(message: &wire::PolicyTarget) -> Result<PolicyTarget, Error> {
    use wire::policy_target::Target;
    Ok(
        match message.target.as_ref().ok_or(Error::Missing("target"))? {
            Target::Gateway(gateway) => PolicyTarget::Gateway(needed("target gateway", gateway)?),
            Target::Service(service) => PolicyTarget::Service(decode_service(Some(service))?),
        },
    )
}

pub(super) fn encode_policy_target(target: &PolicyTarget) -> wire::PolicyTarget {
    use wire::policy_target::Target;
    wire::PolicyTarget {
        target: Some(match target {
            PolicyTarget::Gateway(gateway) => Target::Gateway(gateway.to_string()),
            PolicyTarget::Service(service) => Target::Service(encode_service(service)),
        }),
    }
}

fn decode_rule(message: &wire::AccessRule) -> Result<AccessRule, Error> {
    Ok(AccessRule {
        from: parts("from", &message.from, decode_source)?,
        to: parts("to", &message.to, decode_operation)?,
        when: parts("when", &message.when, decode_condition)?,
    })
}

fn encode_rule(rule: &AccessRule) -> wire::AccessRule {
    wire::AccessRule {
        from: rule.from.iter().map(encode_source).collect(),
        to: rule.to.iter().map(encode_operation).collect(),
        when: rule.when.iter().map(encode_condition).collect(),
    }
}

fn decode_source(message: &wire::Source) -> Result<Source, Error> {
    Ok(Source {
        principals: strings(&message.principals)?,
        not_principals: strings(&message.not_principals)?,
        request_principals: strings(&message.request_principals)?,
        not_request_principals: strings(&message.not_request_principals)?,
        namespaces: strings(&message.namespaces)?,
        not_namespaces: strings(&message.not_namespaces)?,
        service_accounts: parts("accounts", &message.service_accounts, decode_account)?,
        not_service_accounts: parts("accounts", &message.not_service_accounts, decode_account)?,
        ip_blocks: blocks(&message.ip_blocks)?,
        not_ip_blocks: blocks(&message.not_ip_blocks)?,
        remote_ip_blocks: blocks(&message.remote_ip_blocks)?,
        not_remote_ip_blocks: blocks(&message.not_remote_ip_blocks)?,
    })
}

fn encode_source(source: &Source) -> wire::Source {
    let accounts = |accounts: &[ServiceAccountMatch]| accounts.iter().map(encode_account).collect();
    wire::Source {
        principals: to_strings(&source.principals),
        not_principals: to_strings(&source.not_principals),
        request_principals: to_strings(&source.request_principals),
        not_request_principals: to_strings(&source.not_request_principals),
        namespaces: to_strings(&source.namespaces),
        not_namespaces: to_strings(&source.not_namespaces),
        service_accounts: accounts(&source.service_accounts),
        not_service_accounts: accounts(&source.not_service_accounts),
        ip_blocks: to_blocks(&source.ip_blocks),
        not_ip_blocks: to_blocks(&source.not_ip_blocks),
        remote_ip_blocks: to_blocks(&source.remote_ip_blocks),
        not_remote_ip_blocks: to_blocks(&source.not_remote_ip_blocks),
    }
}

fn decode_operation(message: &wire::Operation) -> Result<Operation, Error> {
    Ok(Operation {
        hosts: strings(&message.hosts)?,
        not_hosts: strings(&message.not_hosts)?,
        ports: ports(&message.ports)?,
        not_ports: ports(&message.not_ports)?,
        methods: strings(&message.methods)?,
        not_methods: strings(&message.not_methods)?,
        paths: parts("paths", &message.paths, decode_path)?,
        not_paths: parts("paths", &message.not_paths, decode_path)?,
    })
}

fn encode_operation(operation: &Operation) -> wire::Operation {
    let paths = |paths: &[PathMatch]| paths.iter().map(encode_path).collect();
    wire::Operation {
        hosts: to_strings(&operation.hosts),
        not_hosts: to_strings(&operation.not_hosts),
        ports: to_ports(&operation.ports),
        not_ports: to_ports(&operation.not_ports),
        methods: to_strings(&operation.methods),
        not_methods: to_strings(&operation.not_methods),
        paths: paths(&operation.paths),
        not_paths: paths(&operation.not_paths),
    }
}

fn decode_path(message: &wire::PathTest) -> Result<PathMatch, Error> {
    use wire::path_test::Test;
    Ok(match message.test.as_ref().ok_or(Error::Missing("path"))? {
        Test::Text(value) => PathMatch::Text(decode_string(value)?),
        Test::Template(template) => PathMatch::Template(plain("path", template)?),
    })
}

fn encode_path(path: &PathMatch) -> wire::PathTest {
    use wire::path_test::Test;
    wire::PathTest {
        test: Some(match path {
            PathMatch::Text(value) => Test::Text(encode_string(value)),
            PathMatch::Template(template) => Test::Template(template.clone()),
        }),
    }
}

fn decode_condition(message: &wire::Condition) -> Result<Condition, Error> {
    use wire::condition::Condition as Wire;
    let condition = message.condition.as_ref();
    Ok(match condition.ok_or(Error::Missing("condition"))? {
        Wire::Text(of) => Condition::Text {
            attribute: decode_attribute(of)?,
            values: strings(&of.values)?,
            not_values: strings(&of.not_values)?,
        },
        Wire::Address(of) => Condition::Address {
            attribute: known("attribute", of.attribute, |attribute| {
                Some(match attribute {
                    wire::KnownAddress::SourceIp => AddressAttribute::Source,
                    wire::KnownAddress::RemoteIp => AddressAttribute::Remote,
                    wire::KnownAddress::DestinationIp => AddressAttribute::Destination,
                    wire::KnownAddress::Unspecified => return None,
                })
            })?,
            values: blocks(&of.values)?,
            not_values: blocks(&of.not_values)?,
        },
        Wire::DestinationPort(of) => Condition::DestinationPort {
            values: ports(&of.values)?,
            not_values: ports(&of.not_values)?,
        },
    })
}

fn encode_condition(condition: &Condition) -> wire::Condition {
    use wire::condition::Condition as Wire;
    let condition = match condition {
        Condition::Text {
            attribute,
            values,
            not_values,
        } => Wire::Text(wire::TextCondition {
            attribute: Some(encode_attribute(attribute)),
            values: to_strings(values),
            not_values: to_strings(not_values),
        }),
        Condition::Address {
            attribute,
            values,
            not_values,
        } => Wire::Address(wire::AddressCondition {
            attribute: match attribute {
                AddressAttribute::Source => wire::KnownAddress::SourceIp,
                AddressAttribute::Remote => wire::KnownAddress::RemoteIp,
                AddressAttribute::Destination => wire::KnownAddress::DestinationIp,
            }
            .into(),
            values: to_blocks(values),
            not_values: to_blocks(not_values),
        }),
        Condition::DestinationPort { values, not_values } => {
            Wire::DestinationPort(wire::PortCondition {
                values: to_ports(values),
                not_values: to_ports(not_values),
            })
        }
    };
    wire::Condition {
        condition: Some(condition),
    }
}

fn decode_attribute(message: &wire::TextCondition) -> Result<TextAttribute, Error> {
    use wire::text_condition::Attribute;
    let attribute = message.attribute.as_ref();
    Ok(match attribute.ok_or(Error::Missing("attribute"))? {
        Attribute::Header(name) => TextAttribute::Header(plain("header", name)?),
        Attribute::Claim(path) => TextAttribute::Claim(claim(path)?),
        Attribute::Known(value) => known("attribute", *value, |value| {
            Some(match value {
                wire::KnownText::SourceNamespace => TextAttribute::SourceNamespace,
                wire::KnownText::SourcePrincipal => TextAttribute::SourcePrincipal,
                wire::KnownText::RequestPrincipal => TextAttribute::RequestPrincipal,
                wire::KnownText::RequestAudiences => TextAttribute::RequestAudiences,
                wire::KnownText::RequestPresenter => TextAttribute::RequestPresenter,
                wire::KnownText::Sni => TextAttribute::Sni,
                wire::KnownText::Unspecified => return None,
            })
        })?,
    })
}

fn encode_attribute(attribute: &TextAttribute) -> wire::text_condition::Attribute {
    use wire::text_condition::Attribute;
    let known = |value: wire::KnownText| Attribute::Known(value.into());
    match attribute {
        TextAttribute::Header(name) => Attribute::Header(name.clone()),
        TextAttribute::Claim(names) => Attribute::Claim(wire::ClaimPath {
            names: names.clone(),
        }),
        TextAttribute::SourceNamespace => known(wire::KnownText::SourceNamespace),
        TextAttribute::SourcePrincipal => known(wire::KnownText::SourcePrincipal),
        TextAttribute::RequestPrincipal => known(wire::KnownText::RequestPrincipal),
        TextAttribute::RequestAudiences => known(wire::KnownText::RequestAudiences),
        TextAttribute::RequestPresenter => known(wire::KnownText::RequestPresenter),
        TextAttribute::Sni => known(wire::KnownText::Sni),
    }
}

/// A path into the claims of a token; at least one name.
pub(super) fn claim(path: &wire::ClaimPath) -> Result<Vec<String>, Error> {
    if path.names.is_empty() {
        return Err(Error::Missing("claim"));
    }
    parts("claim", &path.names, |name| plain("claim", name))
}

/// A string that must be there, without control characters.
pub(super) fn plain(field: &'static str, value: &str) -> Result<String, Error> {
    if value.is_empty() {
        return Err(Error::Missing(field));
    }
    text(field, value, MAX_STRING).map(str::to_owned)
}

fn strings(values: &[wire::StringMatch]) -> Result<Vec<StringMatch>, Error> {
    parts("match", values, decode_string)
}

fn to_strings(values: &[StringMatch]) -> Vec<wire::StringMatch> {
    values.iter().map(encode_string).collect()
}

fn decode_string(message: &wire::StringMatch) -> Result<StringMatch, Error> {
    use wire::string_match::Match;
    let checked = |value: &String| text("match", value, MAX_STRING).map(str::to_owned);
    match message.r#match.as_ref().ok_or(Error::Missing("match"))? {
        Match::Exact(value) => checked(value).map(StringMatch::Exact),
        Match::Prefix(value) => checked(value).map(StringMatch::Prefix),
        Match::Suffix(value) => checked(value).map(StringMatch::Suffix),
        Match::Presence(wire::Presence {}) => Ok(StringMatch::Presence),
    }
}

fn encode_string(value: &StringMatch) -> wire::StringMatch {
    use wire::string_match::Match;
    wire::StringMatch {
        r#match: Some(match value.clone() {
            StringMatch::Exact(value) => Match::Exact(value),
            StringMatch::Prefix(value) => Match::Prefix(value),
            StringMatch::Suffix(value) => Match::Suffix(value),
            StringMatch::Presence => Match::Presence(wire::Presence {}),
        }),
    }
}

fn decode_account(message: &wire::ServiceAccount) -> Result<ServiceAccountMatch, Error> {
    Ok(ServiceAccountMatch {
        namespace: text("accounts", &message.namespace, MAX_STRING)?.to_owned(),
        service_account: text("accounts", &message.service_account, MAX_STRING)?.to_owned(),
    })
}

fn encode_account(account: &ServiceAccountMatch) -> wire::ServiceAccount {
    wire::ServiceAccount {
        namespace: account.namespace.clone(),
        service_account: account.service_account.clone(),
    }
}

fn blocks(values: &[String]) -> Result<Vec<IpNet>, Error> {
    parts("blocks", values, |value| {
        let parsed = value.parse();
        parsed.map_err(|_| invalid("blocks", format!("{value:.64?} is no block of addresses")))
    })
}

fn to_blocks(values: &[IpNet]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn ports(values: &[u32]) -> Result<Vec<u16>, Error> {
    parts("ports", values, |port| port_or_zero("ports", *port))
}

fn to_ports(values: &[u16]) -> Vec<u32> {
    values.iter().copied().map(u32::from).collect()
}
