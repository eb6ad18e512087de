//! Authorization policies of requests. What cannot be read must never widen a policy, so everything
//! unknown refuses the whole of it.

use agent_model::access::{
    Access, AccessRule, AddressAttribute, Condition, Operation, PathMatch, PolicyTarget, Source,
    TextAttribute,
};
use agent_model::gateway::GatewayKey;
use agent_model::{Action, PolicyKey, ServiceAccountMatch};
use prost::Message;
use prost_types::Any;
use proto::gateway as wire;

use super::super::any;
use super::super::fields::{known, required};
use super::matcher::{
    blocks, claim, decode_account, decode_string, encode_account, encode_string, plain, ports,
    strings, to_blocks, to_ports, to_strings,
};
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
