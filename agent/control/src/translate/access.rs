//! AuthorizationPolicy and RequestAuthentication -> what gateways enforce. Unlike nodes they see
//! whole requests, so nothing is left out but what nobody can answer: that is left out on the
//! strict side.

use agent_model::access::{
    Access, AccessRule, AddressAttribute, Condition, Operation, PathMatch, PolicyTarget, Source,
    TextAttribute,
};
use agent_model::authentication::{Authentication, ClaimToHeader, JwtRule, KeySource, TokenHeader};
use agent_model::{Action, ServiceAccountMatch, StringMatch};
use ipnet::IpNet;

use crate::source::istio::{
    self, AccountName, AuthorizationPolicy, OfRequest, Pattern, PolicyRule, RequestAuthentication,
    RequestTest, TokenRule, Values, When,
};
use crate::source::lenient::{IpBlock, PolicyPort};

/// A policy for these targets, and what of it no gateway can decide.
pub(crate) fn access(
    policy: &AuthorizationPolicy,
    action: Action,
    targets: Vec<PolicyTarget>,
) -> (Access, Vec<String>) {
    let metadata = &policy.metadata;
    let namespace = metadata.namespace.as_str();
    let mut faults = Vec::new();
    let rules = policy.spec.rules.iter().enumerate();
    let rules = rules.filter_map(|(index, of)| {
        for key in unsupported(of) {
            let what = match action {
                Action::Allow => "the rule is left out, so it allows nothing",
                Action::Deny => "it is left out, so the rule denies more",
            };
            faults.push(format!(
                "spec.rules[{index}] uses {key}, which is not supported: {what}"
            ));
        }
        rule(namespace, action, of)
    });
    let access = Access {
        name: metadata.name.as_str().into(),
        namespace: namespace.into(),
        targets,
        action,
        rules: rules.collect(),
        dry_run: policy.is_dry_run(),
    };
    if let Err(error) = agent_policy::http::Policy::compile(&access) {
        faults.push(format!("{error}: gateways refuse whatever it applies to"));
    }
    (access, faults)
}

/// A policy for these targets.
pub(crate) fn authentication(
    policy: &RequestAuthentication,
    targets: Vec<PolicyTarget>,
) -> Authentication {
    Authentication {
        name: policy.metadata.name.as_str().into(),
        namespace: policy.metadata.namespace.as_str().into(),
        targets,
        rules: policy.spec.jwt_rules.iter().map(jwt_rule).collect(),
    }
}

fn unsupported(rule: &PolicyRule) -> impl Iterator<Item = &str> {
    rule.when.iter().filter_map(|when| match when {
        When::L7(OfRequest {
            key,
            test: RequestTest::Unsupported,
        }) => Some(key.as_str()),
        _ => None,
    })
}

/// `None` for a rule that matches nothing.
fn rule(namespace: &str, action: Action, rule: &PolicyRule) -> Option<AccessRule> {
    if action == Action::Allow && unsupported(rule).next().is_some() {
        return None;
    }
    let from = rule.from.iter().map(|from| source(namespace, &from.source));
    let mut compiled = AccessRule {
        from: from.collect(),
        to: rule.to.iter().map(|to| operation(&to.operation)).collect(),
        when: Vec::new(),
    };
    for when in &rule.when {
        match when {
            When::SourceServiceAccount(accounts) => {
                compiled.from = with_accounts(namespace, accounts, compiled.from)?;
            }
            other => compiled.when.extend(condition(other)),
        }
    }
    Some(compiled)
}

fn source(namespace: &str, source: &istio::Source) -> Source {
    Source {
        principals: texts(&source.principals),
        not_principals: texts(&source.not_principals),
        request_principals: texts(&source.request_principals),
        not_request_principals: texts(&source.not_request_principals),
        namespaces: texts(&source.namespaces),
        not_namespaces: texts(&source.not_namespaces),
        service_accounts: accounts(namespace, &source.service_accounts),
        not_service_accounts: accounts(namespace, &source.not_service_accounts),
        ip_blocks: blocks(&source.ip_blocks),
        not_ip_blocks: blocks(&source.not_ip_blocks),
        remote_ip_blocks: blocks(&source.remote_ip_blocks),
        not_remote_ip_blocks: blocks(&source.not_remote_ip_blocks),
    }
}

fn operation(operation: &istio::Operation) -> Operation {
    Operation {
        hosts: texts(&operation.hosts),
        not_hosts: texts(&operation.not_hosts),
        ports: ports(&operation.ports),
        not_ports: ports(&operation.not_ports),
        methods: texts(&operation.methods),
        not_methods: texts(&operation.not_methods),
        paths: paths(&operation.paths),
        not_paths: paths(&operation.not_paths),
    }
}

/// The sources that also meet a condition on accounts, which has no attribute of its own: a
/// service account is one in any trust domain. `None` when nobody can be all of it.
fn with_accounts(
    namespace: &str,
    wanted: &Values<AccountName>,
    from: Vec<Source>,
) -> Option<Vec<Source>> {
    let any_of = accounts(namespace, &wanted.any_of);
    let none_of = accounts(namespace, &wanted.none_of);
    let from = match from.is_empty() {
        true => vec![Source::default()],
        false => from,
    };
    let met = from.into_iter().filter_map(|mut source| {
        let own = &mut source.service_accounts;
        if own.is_empty() {
            own.clone_from(&any_of);
        } else if !any_of.is_empty() {
            own.retain(|account| any_of.contains(account));
            if own.is_empty() {
                return None;
            }
        }
        source.not_service_accounts.extend(none_of.iter().cloned());
        Some(source)
    });
    let met: Vec<Source> = met.collect();
    (!met.is_empty()).then_some(met)
}

/// `None` for what nobody can answer.
fn condition(when: &When) -> Option<Condition> {
    let text = |attribute, values: &Values<Pattern>| Condition::Text {
        attribute,
        values: texts(&values.any_of),
        not_values: texts(&values.none_of),
    };
    let address = |attribute, values: &Values<IpBlock>| Condition::Address {
        attribute,
        values: blocks(&values.any_of),
        not_values: blocks(&values.none_of),
    };
    Some(match when {
        When::SourceIp(values) => address(AddressAttribute::Source, values),
        When::SourceNamespace(values) => text(TextAttribute::SourceNamespace, values),
        When::SourcePrincipal(values) => text(TextAttribute::SourcePrincipal, values),
        When::DestinationIp(values) => address(AddressAttribute::Destination, values),
        When::DestinationPort(values) => Condition::DestinationPort {
            values: ports(&values.any_of),
            not_values: ports(&values.none_of),
        },
        When::L7(OfRequest { test, .. }) => match test {
            RequestTest::Text(attribute, values) => text(attribute.clone(), values),
            RequestTest::RemoteIp(values) => address(AddressAttribute::Remote, values),
            RequestTest::Unsupported => return None,
        },
        When::SourceServiceAccount(_) => return None,
    })
}

fn texts(patterns: &[Pattern]) -> Vec<StringMatch> {
    patterns.iter().map(|Pattern(text)| text.clone()).collect()
}

fn paths(patterns: &[Pattern]) -> Vec<PathMatch> {
    patterns.iter().map(path).collect()
}

/// What holds `{` is a template as a whole, and its stars are not wildcards of a text.
fn path(Pattern(text): &Pattern) -> PathMatch {
    let written = match text {
        StringMatch::Exact(text) => text.clone(),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::Suffix(text) => format!("*{text}"),
        StringMatch::Presence => "*".to_owned(),
    };
    match written.contains("{*}") || written.contains("{**}") {
        true => PathMatch::Template(written),
        false => PathMatch::Text(text.clone()),
    }
}

fn accounts(namespace: &str, names: &[AccountName]) -> Vec<ServiceAccountMatch> {
    names.iter().map(|name| name.resolve(namespace)).collect()
}

fn blocks(blocks: &[IpBlock]) -> Vec<IpNet> {
    blocks.iter().map(|block| block.0).collect()
}

fn ports(ports: &[PolicyPort]) -> Vec<u16> {
    ports.iter().map(|port| port.0).collect()
}

fn jwt_rule(rule: &TokenRule) -> JwtRule {
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    JwtRule {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        keys: match rule.jwks.as_str() {
            "" => KeySource::Remote(rule.jwks_uri.as_str().into()),
            keys => KeySource::Inline(keys.into()),
        },
        from_headers: rule
            .from_headers
            .iter()
            .map(|header| TokenHeader {
                name: header.name.clone(),
                prefix: header.prefix.clone(),
            })
            .collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        output_payload_to_header: some(&rule.output_payload_to_header),
        output_claim_to_headers: rule
            .output_claim_to_headers
            .iter()
            .map(|to| ClaimToHeader {
                header: to.header.clone(),
                claim: to.claim.split('.').map(str::to_owned).collect(),
            })
            .collect(),
        forward_original_token: rule.forward_original_token,
        space_delimited_claims: rule.space_delimited_claims.clone(),
    }
}
