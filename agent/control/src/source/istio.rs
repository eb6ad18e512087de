//! The policy kinds and MeshConfig. Unlike Kubernetes' own objects they are read strictly: a
//! misspelt field of a policy is a hole, so it is an error.

use std::collections::BTreeMap;

use agent_model::{MeshConfig, ServiceAccountMatch, StringMatch};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny};

use super::decode::FieldError;
use super::kubernetes::{Labels, Metadata};
use super::lenient::{IpBlock, PolicyPort, ip_block, non_empty, nullable, policy_port};

/// `security.istio.io AuthorizationPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuthorizationPolicy {
    #[serde(default, rename = "apiVersion")]
    _api_version: Skipped,
    #[serde(default, rename = "kind")]
    _kind: Skipped,
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) spec: AuthorizationSpec,
    #[serde(default, rename = "status")]
    _status: Skipped,
}

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

/// A selector by labels, all of which must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Selector {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) match_labels: Labels,
}

impl Selector {
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        let mut wanted = self.match_labels.iter();
        wanted.all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// What a policy of a waypoint or gateway is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PolicyTarget {
    #[serde(default, rename = "group")]
    _group: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    #[serde(default, rename = "namespace")]
    _namespace: String,
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

/// One of `when`, with the values parsed as its key asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum When {
    SourceIp(Values<IpBlock>),
    SourceNamespace(Values<Pattern>),
    SourcePrincipal(Values<Pattern>),
    SourceServiceAccount(Values<AccountName>),
    DestinationIp(Values<IpBlock>),
    DestinationPort(Values<PolicyPort>),
    /// A key that needs an HTTP request (or TLS of the application).
    L7(String),
}

/// `values` and `notValues`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Values<T> {
    pub(crate) any_of: Vec<T>,
    pub(crate) none_of: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawWhen {
    key: String,
    #[serde(default, deserialize_with = "non_empty")]
    values: Vec<Text>,
    #[serde(default, deserialize_with = "non_empty")]
    not_values: Vec<Text>,
}

/// A value of a condition; numbers are what people write for ports.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(text) if !text.is_empty() => Ok(Self(text)),
            serde_json::Value::Number(number) => Ok(Self(number.to_string())),
            _ => Err(D::Error::custom("not a text, or an empty one")),
        }
    }
}

impl RawWhen {
    fn parse<T>(self, parse: impl Fn(&str) -> Result<T, String>) -> Result<Values<T>, String> {
        let all = |texts: Vec<Text>| -> Result<Vec<T>, String> {
            texts.iter().map(|Text(text)| parse(text)).collect()
        };
        Ok(Values {
            any_of: all(self.values)?,
            none_of: all(self.not_values)?,
        })
    }
}

impl TryFrom<RawWhen> for When {
    type Error = String;

    fn try_from(raw: RawWhen) -> Result<Self, String> {
        if raw.values.is_empty() && raw.not_values.is_empty() {
            return Err(format!("{:?} has neither values nor notValues", raw.key));
        }
        let block = |text: &str| ip_block(text).map(IpBlock);
        let pattern = |text: &str| Ok(Pattern::parse(text));
        Ok(match raw.key.as_str() {
            "source.ip" => Self::SourceIp(raw.parse(block)?),
            "source.namespace" => Self::SourceNamespace(raw.parse(pattern)?),
            "source.principal" => Self::SourcePrincipal(raw.parse(pattern)?),
            "source.serviceAccount" => Self::SourceServiceAccount(raw.parse(AccountName::parse)?),
            "destination.ip" => Self::DestinationIp(raw.parse(block)?),
            "destination.port" => {
                Self::DestinationPort(raw.parse(|text| policy_port(text).map(PolicyPort))?)
            }
            key if is_l7_key(key) => Self::L7(raw.key),
            key => return Err(format!("unknown key {key:?}")),
        })
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::try_from(RawWhen::deserialize(from)?).map_err(D::Error::custom)
    }
}

fn is_l7_key(key: &str) -> bool {
    ["request.", "remote.ip", "connection.sni", "experimental."]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}

/// A text to compare with: `*`, `*suffix`, `prefix*` or exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(pub(crate) StringMatch);

impl Pattern {
    fn parse(text: &str) -> Self {
        Self(if text == "*" {
            StringMatch::Presence
        } else if let Some(suffix) = text.strip_prefix('*') {
            StringMatch::Suffix(suffix.to_owned())
        } else if let Some(prefix) = text.strip_suffix('*') {
            StringMatch::Prefix(prefix.to_owned())
        } else {
            StringMatch::Exact(text.to_owned())
        })
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Err(D::Error::custom("an empty text matches nothing"));
        }
        Ok(Self::parse(&text))
    }
}

/// `account` (of the policy's own namespace) or `namespace/account`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccountName {
    namespace: Option<String>,
    account: String,
}

impl AccountName {
    fn parse(text: &str) -> Result<Self, String> {
        let (namespace, account) = match text.split_once('/') {
            Some((namespace, account)) => (Some(namespace), account),
            None => (None, text),
        };
        let part = |part: &str| !part.is_empty() && !part.contains(['/', '*']);
        if !part(account) || !namespace.is_none_or(part) {
            return Err(format!(
                "{text:?} is not a service account (account or namespace/account)"
            ));
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            account: account.to_owned(),
        })
    }

    /// The account as seen from a policy of `namespace`.
    pub(crate) fn resolve(&self, namespace: &str) -> ServiceAccountMatch {
        ServiceAccountMatch {
            namespace: self.namespace.as_deref().unwrap_or(namespace).to_owned(),
            service_account: self.account.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for AccountName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// `security.istio.io PeerAuthentication`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerAuthentication {
    #[serde(default, rename = "apiVersion")]
    _api_version: Skipped,
    #[serde(default, rename = "kind")]
    _kind: Skipped,
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) spec: PeerAuthenticationSpec,
    #[serde(default, rename = "status")]
    _status: Skipped,
}

/// `spec` of a PeerAuthentication.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PeerAuthenticationSpec {
    #[serde(default)]
    pub(crate) selector: Option<Selector>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) mtls: Mtls,
    #[serde(default, deserialize_with = "port_modes")]
    pub(crate) port_level_mtls: BTreeMap<u16, MtlsMode>,
}

/// `mtls`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mtls {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) mode: MtlsMode,
}

/// `mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum MtlsMode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

fn port_modes<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u16, MtlsMode>, D::Error> {
    let raw = Option::<BTreeMap<String, Mtls>>::deserialize(from)?.unwrap_or_default();
    raw.into_iter()
        .map(|(port, mtls)| {
            let port = policy_port(&port).map_err(D::Error::custom)?;
            Ok((port, mtls.mode))
        })
        .collect()
}

/// `culvert.dev MeshConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeshConfigObject {
    #[serde(default, rename = "apiVersion")]
    _api_version: Skipped,
    #[serde(default, rename = "kind")]
    _kind: Skipped,
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) spec: MeshConfigSpec,
    #[serde(default, rename = "status")]
    _status: Skipped,
}

/// `spec` of a MeshConfig, as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MeshConfigSpec {
    #[serde(default)]
    pub(crate) trust_domain: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    same_node: SameNode,
    #[serde(default, deserialize_with = "nullable")]
    strict_egress: bool,
    #[serde(default, deserialize_with = "nullable")]
    outbound_on_agent_down: OnAgentDown,
    #[serde(default)]
    access_log: Option<bool>,
    #[serde(default)]
    tracing: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default)]
    limits: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum SameNode {
    #[default]
    Encrypt,
    Direct,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum OnAgentDown {
    #[default]
    Closed,
    Open,
}

/// A field that is known and not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Self)
    }
}

/// Checks across fields that types cannot express.
pub(super) fn check_authorization(policy: &AuthorizationPolicy) -> Result<(), FieldError> {
    let spec = &policy.spec;
    let kinds = usize::from(spec.selector.is_some())
        + usize::from(spec.target_ref.is_some())
        + usize::from(!spec.target_refs.is_empty());
    if kinds > 1 {
        return Err(FieldError::new(
            "spec",
            "only one of selector, targetRef and targetRefs may be given",
        ));
    }
    check_selector(spec.selector.as_ref())?;
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

/// Checks across fields that types cannot express.
pub(super) fn check_peer_authentication(policy: &PeerAuthentication) -> Result<(), FieldError> {
    check_selector(policy.spec.selector.as_ref())
}

/// A label cannot hold `*`, so a selector with one would silently select nothing.
fn check_selector(selector: Option<&Selector>) -> Result<(), FieldError> {
    let labels = selector.iter().flat_map(|selector| &selector.match_labels);
    for (key, value) in labels {
        if key.is_empty() || key.contains('*') || value.contains('*') {
            return Err(FieldError::new(
                format!("spec.selector.matchLabels.{key}"),
                "a label selector takes no wildcard",
            ));
        }
    }
    Ok(())
}

/// MeshConfig accepts only what this release honours: a setting that is silently without effect
/// would be worse than an error.
pub(super) fn check_mesh_config(object: &MeshConfigObject) -> Result<(), FieldError> {
    let defaults = MeshConfig::default();
    let spec = &object.spec;
    let unsupported =
        |field: &str, message: &str| Err(FieldError::new(format!("spec.{field}"), message));
    if object.metadata.name != "default" {
        return Err(FieldError::new(
            "metadata.name",
            "there is one MeshConfig and its name is default",
        ));
    }
    if spec.same_node == SameNode::Direct {
        return unsupported(
            "sameNode",
            "direct is not supported by this release, only encrypt",
        );
    }
    if spec.strict_egress {
        return unsupported("strictEgress", "true is not supported by this release");
    }
    if spec.outbound_on_agent_down == OnAgentDown::Open {
        return unsupported(
            "outboundOnAgentDown",
            "open is not supported by this release, only closed",
        );
    }
    if spec.access_log.is_some_and(|on| on != defaults.access_log) {
        return unsupported("accessLog", "false is not supported by this release");
    }
    if spec.tracing.as_ref().is_some_and(|map| !map.is_empty()) {
        return unsupported("tracing", "not supported by this release");
    }
    if spec.limits.as_ref().is_some_and(|map| !map.is_empty()) {
        return unsupported("limits", "not supported by this release");
    }
    Ok(())
}
