//! From a parsed document to a valid [`Object`], or to an error that names the field.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::gateway_api::{ConfigMap, GROUP, Secret};
use super::istio::{
    check_authorization, check_mesh_config, check_peer_authentication,
    check_request_authentication, check_service_entry, check_workload_entry,
};
use super::kubernetes::{
    EndpointSlice, MIRROR, Metadata, Namespace, Node, Pod, Service, ServiceAccount,
};
use super::object::{Lenient, Strict};
use super::traffic::check_traffic_policy;
use super::{Kind, Object, ObjectRef};

/// Kubernetes allows 253 bytes for most names; they become parts of resource names here.
const MAX_NAME: usize = 253;
/// Names that become a label of a host name, in bytes (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;
/// Longest text of a policy that nodes take, in bytes.
const MAX_POLICY_TEXT: usize = 2048;
/// Most list elements of a policy that nodes take.
const MAX_ELEMENTS: usize = 10_000;
/// Longest value of a header in a route. And of annotations: Kubernetes bounds all of them together
/// to 256 KiB; those read here are far shorter.
const MAX_VALUE: usize = 4096;

/// An injected sidecar leaves this on its pod.
pub(crate) const SIDECAR: &str = "sidecar.istio.io/status";

/// What is wrong with which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// Path such as `spec.rules[0].from`; empty for the object as a whole.
    pub(crate) path: String,
    pub(crate) message: String,
}

impl FieldError {
    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

/// What a document holds.
#[derive(Debug, PartialEq)]
pub(crate) enum Decoded {
    Object(Object),
    /// A kind Culvert does not read, as `apiVersion kind`.
    Ignored(String),
}

/// Decodes one object.
pub(crate) fn decode(value: Value) -> Result<Decoded, FieldError> {
    let api_version = text_field(&value, "apiVersion")?;
    let kind_name = text_field(&value, "kind")?;
    let Some(kind) = known_kind(api_version, kind_name)? else {
        return Ok(Decoded::Ignored(format!("{api_version} {kind_name}")));
    };
    Ok(Decoded::Object(match kind {
        Kind::Namespace => Object::Namespace(typed(kind, value, |_| Ok(()))?),
        Kind::Node => Object::Node(typed(kind, value, |_| Ok(()))?),
        Kind::ServiceAccount => Object::ServiceAccount(typed(kind, value, |_| Ok(()))?),
        Kind::Pod => Object::Pod(typed(kind, value, |_| Ok(()))?),
        Kind::Service => Object::Service(typed(kind, value, |_| Ok(()))?),
        Kind::EndpointSlice => Object::EndpointSlice(typed(kind, value, |_| Ok(()))?),
        Kind::AuthorizationPolicy => {
            Object::AuthorizationPolicy(typed(kind, value, check_authorization)?)
        }
        Kind::PeerAuthentication => {
            Object::PeerAuthentication(typed(kind, value, check_peer_authentication)?)
        }
        Kind::RequestAuthentication => {
            Object::RequestAuthentication(typed(kind, value, check_request_authentication)?)
        }
        Kind::MeshConfig => Object::MeshConfig(typed(kind, value, check_mesh_config)?),
        Kind::ServiceEntry => Object::ServiceEntry(typed(kind, value, check_service_entry)?),
        Kind::WorkloadEntry => Object::WorkloadEntry(typed(kind, value, check_workload_entry)?),
        Kind::GatewayClass => Object::GatewayClass(typed(kind, value, |_| Ok(()))?),
        Kind::Gateway => Object::Gateway(typed(kind, value, |_| Ok(()))?),
        Kind::ListenerSet => Object::ListenerSet(typed(kind, value, |_| Ok(()))?),
        Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute | Kind::UDPRoute => {
            Object::Route(kind, typed(kind, value, |_| Ok(()))?)
        }
        Kind::ReferenceGrant => Object::ReferenceGrant(typed(kind, value, |_| Ok(()))?),
        Kind::BackendTLSPolicy => Object::BackendTLSPolicy(typed(kind, value, |_| Ok(()))?),
        Kind::TrafficPolicy => Object::TrafficPolicy(typed(kind, value, check_traffic_policy)?),
        Kind::Secret => Object::Secret(typed(kind, value, |_| Ok(()))?),
        Kind::ConfigMap => Object::ConfigMap(typed(kind, value, |_| Ok(()))?),
    }))
}

/// The name of a document's object, when kind and names at least can be read.
pub(crate) fn reference(value: &Value) -> Option<ObjectRef> {
    let api_version = value.get("apiVersion")?.as_str()?;
    let kind = known_kind(api_version, value.get("kind")?.as_str()?).ok()??;
    let metadata = value.get("metadata")?;
    let name = metadata.get("name")?.as_str()?;
    let namespace = match metadata.get("namespace") {
        None | Some(Value::Null) => "",
        Some(namespace) => namespace.as_str()?,
    };
    Some(ObjectRef::new(
        kind,
        settled_namespace(kind, namespace),
        name,
    ))
}

/// True for an object whose kind is not read.
pub(crate) fn is_other(value: &Value) -> bool {
    let text = |field| value.get(field).and_then(Value::as_str);
    match (text("apiVersion"), text("kind")) {
        (Some(api_version), Some(kind)) => matches!(known_kind(api_version, kind), Ok(None)),
        _ => false,
    }
}

/// The kind, or `None` for one that is not read. A policy of a version that is not understood is
/// an error rather than ignored: its author believes it is in force.
fn known_kind(api_version: &str, kind: &str) -> Result<Option<Kind>, FieldError> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    const NETWORKING: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];
    let (kind, versions): (Kind, &[&str]) = match (group, kind) {
        ("", "Namespace") => (Kind::Namespace, &["v1"]),
        ("", "Node") => (Kind::Node, &["v1"]),
        ("", "ServiceAccount") => (Kind::ServiceAccount, &["v1"]),
        ("", "Pod") => (Kind::Pod, &["v1"]),
        ("", "Service") => (Kind::Service, &["v1"]),
        ("discovery.k8s.io", "EndpointSlice") => (Kind::EndpointSlice, &["v1"]),
        ("security.istio.io", "AuthorizationPolicy") => {
            (Kind::AuthorizationPolicy, &["v1", "v1beta1"])
        }
        ("security.istio.io", "PeerAuthentication") => {
            (Kind::PeerAuthentication, &["v1", "v1beta1"])
        }
        ("security.istio.io", "RequestAuthentication") => {
            (Kind::RequestAuthentication, &["v1", "v1beta1"])
        }
        ("networking.istio.io", "ServiceEntry") => (Kind::ServiceEntry, &NETWORKING),
        ("networking.istio.io", "WorkloadEntry") => (Kind::WorkloadEntry, &NETWORKING),
        ("culvert.dev", "MeshConfig") => (Kind::MeshConfig, &["v1alpha1"]),
        ("culvert.dev", "TrafficPolicy") => (Kind::TrafficPolicy, &["v1alpha1"]),
        ("", "Secret") => (Kind::Secret, &["v1"]),
        ("", "ConfigMap") => (Kind::ConfigMap, &["v1"]),
        (GROUP, "GatewayClass") => (Kind::GatewayClass, &["v1", "v1beta1"]),
        (GROUP, "Gateway") => (Kind::Gateway, &["v1", "v1beta1"]),
        (GROUP, "ListenerSet") => (Kind::ListenerSet, &["v1"]),
        (GROUP, "HTTPRoute") => (Kind::HTTPRoute, &["v1", "v1beta1"]),
        (GROUP, "GRPCRoute") => (Kind::GRPCRoute, &["v1"]),
        (GROUP, "TLSRoute") => (Kind::TLSRoute, &["v1", "v1alpha3", "v1alpha2"]),
        (GROUP, "TCPRoute") => (Kind::TCPRoute, &["v1", "v1alpha2"]),
        (GROUP, "UDPRoute") => (Kind::UDPRoute, &["v1", "v1alpha2"]),
        (GROUP, "ReferenceGrant") => (Kind::ReferenceGrant, &["v1", "v1beta1"]),
        (GROUP, "BackendTLSPolicy") => (Kind::BackendTLSPolicy, &["v1", "v1alpha3"]),
        _ => return Ok(None),
    };
    if versions.contains(&version) {
        Ok(Some(kind))
    } else {
        Err(FieldError::new(
            "apiVersion",
            format!("{version:?} is not a supported version (supported: {versions:?})"),
        ))
    }
}

fn text_field<'a>(value: &'a Value, field: &str) -> Result<&'a str, FieldError> {
    if !value.is_object() {
        return Err(FieldError::new("", "not a Kubernetes object"));
    }
    match value.get(field).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(FieldError::new(field, "missing, or not a text")),
    }
}

fn typed<T: DeserializeOwned + HasMetadata>(
    kind: Kind,
    value: Value,
    check: impl FnOnce(&T) -> Result<(), FieldError>,
) -> Result<Arc<T>, FieldError> {
    check_texts(kind, &value)?;
    let decoded = serde_path_to_error::deserialize::<_, T>(value);
    let mut object = decoded.map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        FieldError::new(path, error.into_inner().to_string())
    })?;
    check(&object)?;
    settle_metadata(kind, object.metadata_mut())?;
    Ok(Arc::new(object))
}

/// Nodes refuse a resource with control characters or endless texts, and would refuse it again
/// and again: what becomes part of one is checked here, where the author is told the field.
fn check_texts(kind: Kind, value: &Value) -> Result<(), FieldError> {
    let (fields, limit): (&[&[&str]], usize) = match kind {
        Kind::Pod => (
            &[
                &["spec", "nodeName"],
                &["spec", "serviceAccountName"],
                &["spec", "serviceAccount"],
            ],
            MAX_NAME,
        ),
        Kind::EndpointSlice => (&[&["endpoints"]], MAX_NAME),
        Kind::AuthorizationPolicy | Kind::ServiceEntry | Kind::WorkloadEntry => {
            (&[&["spec"]], MAX_POLICY_TEXT)
        }
        // Keys that are given are as long as certificates.
        Kind::RequestAuthentication => (
            &[
                &["spec", "selector"],
                &["spec", "targetRef"],
                &["spec", "targetRefs"],
            ],
            MAX_POLICY_TEXT,
        ),
        Kind::Gateway
        | Kind::ListenerSet
        | Kind::HTTPRoute
        | Kind::GRPCRoute
        | Kind::TLSRoute
        | Kind::TCPRoute
        | Kind::UDPRoute
        | Kind::BackendTLSPolicy
        | Kind::TrafficPolicy => (&[&["spec"]], MAX_VALUE),
        _ => (&[], MAX_NAME),
    };
    let of_metadata: [&[&str]; 2] = [&["metadata", "labels"], &["metadata", "ownerReferences"]];
    let of_kind = fields.iter().map(|field| (*field, limit));
    for (field, limit) in of_metadata
        .map(|field| (field, MAX_NAME))
        .into_iter()
        .chain(of_kind)
    {
        let found = field.iter().try_fold(value, |value, key| value.get(key));
        if let Some(found) = found {
            check_text(&field.join("."), found, limit, &mut 0)?;
        }
    }
    Ok(())
}

/// Every text in `value`; `elements` counts those of its lists.
fn check_text(
    path: &str,
    value: &Value,
    limit: usize,
    elements: &mut usize,
) -> Result<(), FieldError> {
    match value {
        Value::String(text) if text.len() > limit => {
            Err(FieldError::new(path, format!("longer than {limit} bytes")))
        }
        Value::String(text) if text.chars().any(char::is_control) => {
            Err(FieldError::new(path, "a control character"))
        }
        Value::Array(items) => {
            *elements += items.len();
            if *elements > MAX_ELEMENTS {
                let message = format!("more than {MAX_ELEMENTS} elements");
                return Err(FieldError::new(path, message));
            }
            let mut items = items.iter().enumerate();
            items.try_for_each(|(index, item)| {
                check_text(&format!("{path}[{index}]"), item, limit, elements)
            })
        }
        Value::Object(fields) => fields.iter().try_for_each(|(key, field)| {
            check_text(&format!("{path}.{key}"), field, limit, elements)
        }),
        _ => Ok(()),
    }
}

trait HasMetadata {
    fn metadata_mut(&mut self) -> &mut Metadata;
}

impl<Spec, Status> HasMetadata for Lenient<Spec, Status> {
    fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

impl<Spec, Status> HasMetadata for Strict<Spec, Status> {
    fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

macro_rules! has_metadata {
    ($($kind:ty),*) => {$(
        impl HasMetadata for $kind {
            fn metadata_mut(&mut self) -> &mut Metadata {
                &mut self.metadata
            }
        }
    )*};
}

has_metadata!(
    Namespace,
    Node,
    ServiceAccount,
    Pod,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap
);

/// Checks the names, gives the namespace its default, drops annotations nobody reads.
fn settle_metadata(kind: Kind, metadata: &mut Metadata) -> Result<(), FieldError> {
    metadata.namespace = settled_namespace(kind, &metadata.namespace).to_owned();
    let longest = match kind {
        Kind::Namespace | Kind::Service => MAX_LABEL,
        _ => MAX_NAME,
    };
    check_name("metadata.name", &metadata.name, longest)?;
    if !kind.is_cluster_scoped() {
        check_name("metadata.namespace", &metadata.namespace, MAX_LABEL)?;
    }
    if let Some(status) = metadata.annotations.get_mut(SIDECAR) {
        // Long, and only its presence counts.
        status.clear();
    }
    metadata
        .annotations
        .retain(|key, value| is_read(key) && value.len() <= MAX_VALUE);
    Ok(())
}

fn is_read(annotation: &str) -> bool {
    matches!(
        annotation,
        "istio.io/dry-run"
            | "networking.istio.io/traffic-distribution"
            | "culvert.dev/status"
            | "culvert.dev/configuration"
            | "culvert.dev/client-cert-header"
            | "ambient.istio.io/xfcc-include-client-identity"
            | "ambient.istio.io/redirection"
            | "ambient.istio.io/dns-capture"
            | SIDECAR
            | MIRROR
            | "istio.io/autoRegistrationGroup"
    )
}

fn settled_namespace(kind: Kind, namespace: &str) -> &str {
    match namespace {
        _ if kind.is_cluster_scoped() => "",
        "" => "default",
        given => given,
    }
}

/// Names become parts of resource names and identities; a `/` in one would forge another.
fn check_name(field: &str, name: &str, longest: usize) -> Result<(), FieldError> {
    let valid =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if name.is_empty() {
        return Err(FieldError::new(field, "missing"));
    }
    if name.len() > longest || !name.bytes().all(valid) {
        let message = format!(
            "not a Kubernetes name (lower-case letters, digits, '-' and '.', at most {longest})"
        );
        return Err(FieldError::new(field, message));
    }
    Ok(())
}
