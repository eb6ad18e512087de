//! GatewayClass, Gateway, ListenerSet.

use serde::{Deserialize, Serialize};

use super::ObjectReference;
use super::route::ParentRef;
use crate::source::kubernetes::Labels;
use crate::source::lenient::nullable;
use crate::source::object::Lenient;

/// `GatewayClass`.
pub(crate) type GatewayClass = Lenient<GatewayClassSpec>;

/// `spec` of a GatewayClass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayClassSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) controller_name: String,
    #[serde(default)]
    pub(crate) parameters_ref: Option<ObjectReference>,
}

/// `Gateway`.
pub(crate) type Gateway = Lenient<GatewaySpec>;

/// `spec` of a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewaySpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) gateway_class_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) listeners: Vec<ListenerEntry>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) addresses: Vec<GatewayAddressSpec>,
    #[serde(default)]
    pub(crate) infrastructure: Option<Infrastructure>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) allowed_listeners: AllowedListeners,
    #[serde(default)]
    pub(crate) tls: Option<GatewayTls>,
}

/// One of `spec.addresses`, which is also the form of `status.addresses`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub(crate) struct GatewayAddressSpec {
    /// `IPAddress` by default.
    #[serde(default = "ip_address", rename = "type")]
    pub(crate) kind: String,
    /// Empty: any.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) value: String,
}

fn ip_address() -> String {
    "IPAddress".to_owned()
}

/// `spec.infrastructure`: what is put on everything that is made for the Gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Infrastructure {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) labels: Labels,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) annotations: Labels,
    #[serde(default)]
    pub(crate) parameters_ref: Option<ObjectReference>,
}

/// `spec.allowedListeners`; nobody by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct AllowedListeners {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) namespaces: Namespaces,
}

/// A choice of namespaces. `from` is `Same`, `All`, `Selector` or `None`; empty where it is left
/// out, which means something else in each place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Namespaces {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) from: String,
    #[serde(default)]
    pub(crate) selector: Option<LabelSelector>,
}

/// A label selector with all that Kubernetes has for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LabelSelector {
    #[serde(default, deserialize_with = "nullable")]
    match_labels: Labels,
    #[serde(default, deserialize_with = "nullable")]
    match_expressions: Vec<LabelExpression>,
}

/// One of `matchExpressions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct LabelExpression {
    #[serde(default, deserialize_with = "nullable")]
    key: String,
    #[serde(default, deserialize_with = "nullable")]
    operator: String,
    #[serde(default, deserialize_with = "nullable")]
    values: Vec<String>,
}

impl LabelSelector {
    /// An empty selector matches everything, as everywhere in Kubernetes; an operator that is not
    /// known matches nothing.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.match_labels.iter().all(has)
            && self.match_expressions.iter().all(|expression| {
                let value = labels.get(&expression.key);
                let is_listed = value.is_some_and(|value| expression.values.contains(value));
                match expression.operator.as_str() {
                    "In" => is_listed,
                    "NotIn" => !is_listed,
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
    }
}

/// `spec.tls` of a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct GatewayTls {
    #[serde(default)]
    backend: Option<BackendTls>,
    #[serde(default)]
    pub(crate) frontend: Option<FrontendTls>,
}

impl GatewayTls {
    /// The certificate that backends are shown.
    pub(crate) fn client_certificate(&self) -> Option<&ObjectReference> {
        self.backend.as_ref()?.client_certificate_ref.as_ref()
    }
}

/// `spec.tls.backend`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BackendTls {
    #[serde(default)]
    client_certificate_ref: Option<ObjectReference>,
}

/// `spec.tls.frontend`: which clients are let in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FrontendTls {
    #[serde(default, deserialize_with = "nullable")]
    default: FrontendSettings,
    #[serde(default, deserialize_with = "nullable")]
    per_port: Vec<PortSettings>,
}

/// Settings of one port, or of all others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct FrontendSettings {
    #[serde(default)]
    validation: Option<FrontendValidation>,
}

/// One of `perPort`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct PortSettings {
    #[serde(default)]
    port: u16,
    #[serde(default, deserialize_with = "nullable")]
    tls: FrontendSettings,
}

/// `validation`: clients show a certificate of one of these authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FrontendValidation {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ca_certificate_refs: Vec<ObjectReference>,
    /// `AllowValidOnly` by default, or `AllowInsecureFallback`.
    #[serde(default, deserialize_with = "nullable")]
    mode: String,
}

impl FrontendTls {
    /// What holds on a port: its own settings, even empty ones, else the default's.
    pub(crate) fn on_port(&self, port: u16) -> Option<&FrontendValidation> {
        let own = self.per_port.iter().find(|of| of.port == port);
        let settings = own.map_or(&self.default, |own| &own.tls);
        settings.validation.as_ref()
    }

    pub(crate) fn validations(&self) -> impl Iterator<Item = &FrontendValidation> {
        let of_ports = self.per_port.iter().map(|of| &of.tls);
        let all = std::iter::once(&self.default).chain(of_ports);
        all.filter_map(|settings| settings.validation.as_ref())
    }
}

impl FrontendValidation {
    /// A client without a valid certificate is let in, too.
    pub(crate) fn is_insecure(&self) -> bool {
        self.mode == "AllowInsecureFallback"
    }
}

/// One of `listeners`, of a Gateway or of a ListenerSet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerEntry {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) port: u16,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) protocol: String,
    /// Empty: every name.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) hostname: String,
    #[serde(default)]
    pub(crate) tls: Option<ListenerTls>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) allowed_routes: AllowedRoutes,
}

/// `tls` of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerTls {
    /// `Terminate` by default, or `Passthrough`.
    #[serde(default, deserialize_with = "nullable")]
    mode: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) certificate_refs: Vec<ObjectReference>,
}

impl ListenerTls {
    pub(crate) fn is_passthrough(&self) -> bool {
        self.mode == "Passthrough"
    }
}

/// `allowedRoutes`: routes of the same namespace, of the kinds of the protocol, by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct AllowedRoutes {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) namespaces: Namespaces,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) kinds: Vec<RouteKindRef>,
}

/// One of `allowedRoutes.kinds`, which is also the form of `supportedKinds`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct RouteKindRef {
    #[serde(default)]
    pub(crate) group: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) kind: String,
}

/// `ListenerSet`.
pub(crate) type ListenerSet = Lenient<ListenerSetSpec>;

/// `spec` of a ListenerSet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerSetSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) parent_ref: ParentRef,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) listeners: Vec<ListenerEntry>,
}
