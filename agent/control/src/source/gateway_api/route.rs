//! HTTPRoute, GRPCRoute, TLSRoute, TCPRoute and UDPRoute: one type, as most of their fields are
//! the same.

use agent_model::gateway::GatewayKey;
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use super::ObjectReference;
use crate::source::lenient::nullable;
use crate::source::object::Lenient;

/// A route of any kind.
pub(crate) type Route = Lenient<RouteSpec, Marks>;

/// A status, as far as it says who has written it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Marks {
    /// Of a route.
    #[serde(default, deserialize_with = "ours")]
    parents: bool,
    /// Of a policy.
    #[serde(default, deserialize_with = "ours")]
    ancestors: bool,
}

impl Marks {
    /// Something of it is ours.
    pub(crate) fn is_ours(&self) -> bool {
        self.parents || self.ancestors
    }
}

/// True when one of the entries is ours.
fn ours<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    let entries = Option::<Vec<serde_json::Value>>::deserialize(from)?;
    let entries = entries.unwrap_or_default();
    Ok(entries
        .iter()
        .any(|entry| entry["controllerName"] == super::CONTROLLER))
}

/// `spec` of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) parent_refs: Vec<ParentRef>,
    /// None: every name.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) hostnames: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) rules: Vec<RouteRule>,
}

/// One of `parentRefs`; a status repeats it as it is, so what is left out stays left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ParentRef {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) section_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
}

impl ParentRef {
    /// A whole Gateway.
    pub(crate) fn gateway(key: &GatewayKey) -> Self {
        Self {
            group: Some(super::GROUP.to_owned()),
            kind: Some("Gateway".to_owned()),
            namespace: Some(key.namespace.as_ref().to_owned()),
            name: key.name.as_ref().to_owned(),
            ..Self::default()
        }
    }

    /// True for a reference to this group and kind; a Gateway by default.
    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        self.group.as_deref().unwrap_or(super::GROUP) == group
            && self.kind.as_deref().unwrap_or("Gateway") == kind
    }

    pub(crate) fn namespace_or<'a>(&'a self, own: &'a str) -> &'a str {
        match self.namespace.as_deref() {
            None | Some("") => own,
            Some(namespace) => namespace,
        }
    }
}

/// One of `rules`. Fields that a kind does not have are empty in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteRule {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) matches: Vec<MatchSpec>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) filters: Vec<Filter>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) backend_refs: Vec<BackendRef>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) timeouts: Timeouts,
    #[serde(default)]
    pub(crate) retry: Option<Retry>,
    #[serde(default)]
    pub(crate) session_persistence: Option<SessionPersistence>,
}

/// `timeouts` of a rule, in the form of GEP-2257.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Timeouts {
    #[serde(default)]
    pub(crate) request: Option<String>,
    #[serde(default)]
    pub(crate) backend_request: Option<String>,
}

/// `retry` of a rule (experimental channel of v1.6).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Retry {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) codes: Vec<u16>,
    #[serde(default)]
    pub(crate) attempts: Option<u32>,
    #[serde(default)]
    pub(crate) backoff: Option<String>,
}

/// `sessionPersistence` of a rule (experimental channel of v1.6).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionPersistence {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) session_name: String,
    /// `Cookie` by default, or `Header`.
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) absolute_timeout: Option<String>,
    #[serde(default)]
    pub(crate) idle_timeout: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    cookie_config: CookieConfig,
}

impl SessionPersistence {
    /// The cookie outlives the browser's session.
    pub(crate) fn is_permanent(&self) -> bool {
        self.cookie_config.lifetime_type == "Permanent"
    }
}

/// `cookieConfig` of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CookieConfig {
    /// `Session` by default, or `Permanent`.
    #[serde(default, deserialize_with = "nullable")]
    lifetime_type: String,
}

/// One of `matches`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MatchSpec {
    /// `PathPrefix` by default.
    #[serde(default)]
    pub(crate) path: Option<PathSpec>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) headers: Vec<ValueMatch>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) query_params: Vec<ValueMatch>,
    #[serde(default)]
    pub(crate) method: Option<MethodSpec>,
}

/// `path` of a match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct PathSpec {
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) value: Option<String>,
}

/// `method` of a match: a verb of HTTP, or a method of gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum MethodSpec {
    Http(String),
    Grpc(GrpcMethod),
}

/// `method` of a GRPCRoute's match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct GrpcMethod {
    /// `Exact` by default.
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) service: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) method: String,
}

/// A header or a parameter with a value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct ValueMatch {
    /// `Exact` by default.
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) value: String,
}

/// One of `filters`, of a rule or of a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Filter {
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) request_header_modifier: Option<HeaderModifier>,
    #[serde(default)]
    pub(crate) response_header_modifier: Option<HeaderModifier>,
    #[serde(default)]
    pub(crate) request_redirect: Option<Redirect>,
    #[serde(default)]
    pub(crate) url_rewrite: Option<UrlRewrite>,
    #[serde(default)]
    pub(crate) request_mirror: Option<Mirror>,
    #[serde(default)]
    pub(crate) cors: Option<Cors>,
}

/// `requestHeaderModifier` or `responseHeaderModifier`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct HeaderModifier {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) set: Vec<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) add: Vec<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) remove: Vec<String>,
}

/// A header with its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Value {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) value: String,
}

/// `requestRedirect`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Redirect {
    #[serde(default)]
    pub(crate) scheme: Option<String>,
    #[serde(default)]
    pub(crate) hostname: Option<String>,
    #[serde(default)]
    pub(crate) path: Option<PathEdit>,
    #[serde(default)]
    pub(crate) port: Option<u16>,
    #[serde(default)]
    pub(crate) status_code: Option<u16>,
}

/// `urlRewrite`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct UrlRewrite {
    #[serde(default)]
    pub(crate) hostname: Option<String>,
    #[serde(default)]
    pub(crate) path: Option<PathEdit>,
}

/// `path` of a redirect or rewrite.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PathEdit {
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) replace_full_path: Option<String>,
    #[serde(default)]
    pub(crate) replace_prefix_match: Option<String>,
}

/// `requestMirror`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mirror {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) backend_ref: BackendRef,
    #[serde(default)]
    pub(crate) percent: Option<u32>,
    #[serde(default)]
    pub(crate) fraction: Option<Fraction>,
}

/// `fraction` of a mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Fraction {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) numerator: u32,
    #[serde(default)]
    pub(crate) denominator: Option<u32>,
}

/// `cors`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cors {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) allow_origins: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) allow_credentials: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) allow_methods: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) allow_headers: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) expose_headers: Vec<String>,
    /// Seconds.
    #[serde(default)]
    pub(crate) max_age: Option<u32>,
}

/// One of `backendRefs`, or the target of a mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct BackendRef {
    #[serde(flatten)]
    pub(crate) target: ObjectReference,
    #[serde(default)]
    pub(crate) port: Option<u16>,
    #[serde(default)]
    pub(crate) weight: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) filters: Vec<Filter>,
}
