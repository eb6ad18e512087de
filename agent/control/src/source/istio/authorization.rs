//! AuthorizationPolicy.

use serde::Deserialize;

use super::condition::{AccountName, Pattern, When};
use super::{Selector, check_attachment};
use crate::source::decode::FieldError;
use crate::source::lenient::{IpBlock, PolicyPort, non_empty, nullable};
use crate::source::object::Strict;

/// `security.istio.io AuthorizationPolicy`.
pub(crate) type AuthorizationPolicy = Strict<AuthorizationSpec>;

impl AuthorizationPolicy {
    /// `istio.io/dry-run: "true"`: log what it would do, enforce nothing.
    pub(crate) fn is_dry_run(&self) -> bool {
        let annotation = self.metadata.annotations.get("istio.io/dry-run");
        annotation.is_some_and(|value| value == "true")
    }
}

/// `spec` of an AuthorizationPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AuthorizationSpec {
    #[serde(default)]
    pub(crate) selector: Option<Selector>,
    #[serde(default)]
    pub(crate) target_ref: Option<PolicyTarget>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) target_refs: Vec<PolicyTarget>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) action: PolicyAction,
    #[serde(default, rename = "provider")]
    pub(crate) provider: Option<Provider>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) rules: Vec<PolicyRule>,
}

/// What a policy of a waypoint or gateway is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PolicyTarget {
    #[serde(default)]
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Istio takes no other than the policy's own.
    #[serde(default)]
    pub(crate) namespace: String,
}

/// An external authorizer (CUSTOM).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    #[serde(default, rename = "name")]
    _name: String,
}

/// `action`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum PolicyAction {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

/// One of `rules`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyRule {
    #[serde(default, deserialize_with = "non_empty")]
    pub(crate) from: Vec<From>,
    #[serde(default, deserialize_with = "non_empty")]
    pub(crate) to: Vec<To>,
    #[serde(default, deserialize_with = "non_empty")]
    pub(crate) when: Vec<When>,
}

/// One of `from`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct From {
    pub(crate) source: Source,
}

/// `source`. The fields of the second half need an HTTP request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Source {
    #[serde(deserialize_with = "non_empty")]
    pub(crate) principals: Vec<Pattern>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) not_principals: Vec<Pattern>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) namespaces: Vec<Pattern>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) not_namespaces: Vec<Pattern>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) service_accounts: Vec<AccountName>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) not_service_accounts: Vec<AccountName>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) ip_blocks: Vec<IpBlock>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) not_ip_blocks: Vec<IpBlock>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) remote_ip_blocks: Vec<IpBlock>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) not_remote_ip_blocks: Vec<IpBlock>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) request_principals: Vec<Pattern>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) not_request_principals: Vec<Pattern>,
}

impl Source {
    /// Names of the fields in use that a node cannot decide.
    pub(crate) fn l7_fields(&self) -> Vec<&'static str> {
        used([
            ("remoteIpBlocks", self.remote_ip_blocks.is_empty()),
            ("notRemoteIpBlocks", self.not_remote_ip_blocks.is_empty()),
            ("requestPrincipals", self.request_principals.is_empty()),
            (
                "notRequestPrincipals",
                self.not_request_principals.is_empty(),
            ),
        ])
    }
}

/// One of `to`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct To {
    pub(crate) operation: Operation,
}

/// `operation`. Everything but the ports needs an HTTP request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Operation {
    #[serde(deserialize_with = "non_empty")]
    pub(crate) ports: Vec<PolicyPort>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) not_ports: Vec<PolicyPort>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) hosts: Vec<Pattern>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) not_hosts: Vec<Pattern>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) methods: Vec<Pattern>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) not_methods: Vec<Pattern>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) paths: Vec<Pattern>,
    #[serde(deserialize_with = "non_empty")]
    pub(crate) not_paths: Vec<Pattern>,
}

impl Operation {
    /// Names of the fields in use that a node cannot decide.
    pub(crate) fn l7_fields(&self) -> Vec<&'static str> {
        used([
            ("hosts", self.hosts.is_empty()),
            ("notHosts", self.not_hosts.is_empty()),
            ("methods", self.methods.is_empty()),
            ("notMethods", self.not_methods.is_empty()),
            ("paths", self.paths.is_empty()),
            ("notPaths", self.not_paths.is_empty()),
        ])
    }
}

fn used<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    let used = fields.into_iter().filter(|(_, is_empty)| !is_empty);
    used.map(|(name, _)| name).collect()
}

/// Checks across fields that types cannot express.
pub(in crate::source) fn check_authorization(
    policy: &AuthorizationPolicy,
) -> Result<(), FieldError> {
    let spec = &policy.spec;
    check_attachment(
        spec.selector.as_ref(),
        spec.target_ref.as_ref(),
        &spec.target_refs,
    )?;
    if spec.provider.is_some() != (spec.action == PolicyAction::Custom) {
        return Err(FieldError::new(
            "spec.provider",
            "a provider belongs to action CUSTOM, and only there",
        ));
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        check_rule(&format!("spec.rules[{index}]"), rule)?;
    }
    Ok(())
}

fn check_rule(path: &str, rule: &PolicyRule) -> Result<(), FieldError> {
    for (index, From { source }) in rule.from.iter().enumerate() {
        let path = format!("{path}.from[{index}].source");
        if *source == Source::default() {
            return Err(FieldError::new(path, "no field is set"));
        }
        let accounts =
            !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
        let names = [
            &source.principals,
            &source.not_principals,
            &source.namespaces,
            &source.not_namespaces,
        ];
        if accounts && names.iter().any(|list| !list.is_empty()) {
            return Err(FieldError::new(
                path,
                "serviceAccounts cannot be combined with principals or namespaces",
            ));
        }
    }
    for (index, To { operation }) in rule.to.iter().enumerate() {
        if *operation == Operation::default() {
            return Err(FieldError::new(
                format!("{path}.to[{index}].operation"),
                "no field is set",
            ));
        }
    }
    Ok(())
}
