//! Where objects come from. A source emits [`Batch`]es; nobody after it knows whether a folder or
//! a cluster is behind it.

pub(crate) mod decode;
pub(crate) mod duration;
pub(crate) mod file;
pub(crate) mod gateway_api;
pub(crate) mod istio;
pub(crate) mod kube;
pub(crate) mod kubernetes;
pub(crate) mod lenient;
pub(crate) mod object;
pub(crate) mod traffic;

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::Serialize;

use gateway_api::{
    BackendTlsPolicy, ConfigMap, Gateway, GatewayClass, ListenerSet, ReferenceGrant, Route, Secret,
};
use istio::{
    AuthorizationPolicy, MeshConfigObject, PeerAuthentication, RequestAuthentication, ServiceEntry,
    WorkloadEntry,
};
use kubernetes::{EndpointSlice, Metadata, Namespace, Node, Pod, Service, ServiceAccount};
use traffic::TrafficPolicyObject;

/// The kinds Culvert reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub(crate) enum Kind {
    Namespace,
    Node,
    ServiceAccount,
    Pod,
    Service,
    EndpointSlice,
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
    MeshConfig,
    ServiceEntry,
    WorkloadEntry,
    GatewayClass,
    Gateway,
    ListenerSet,
    HTTPRoute,
    GRPCRoute,
    TLSRoute,
    TCPRoute,
    UDPRoute,
    ReferenceGrant,
    BackendTLSPolicy,
    TrafficPolicy,
    /// Those with a certificate that a Gateway names.
    Secret,
    /// Those with certificates of authorities that something of the Gateway API names.
    ConfigMap,
}

impl Kind {
    /// The kinds of routes, in the order in which listeners list them.
    pub(crate) const ROUTES: [Self; 5] = [
        Self::HTTPRoute,
        Self::GRPCRoute,
        Self::TLSRoute,
        Self::TCPRoute,
        Self::UDPRoute,
    ];

    /// True for kinds that live in no namespace.
    pub(crate) fn is_cluster_scoped(self) -> bool {
        matches!(
            self,
            Self::Namespace | Self::Node | Self::MeshConfig | Self::GatewayClass
        )
    }
}

/// Names one object. Cluster-scoped kinds have an empty namespace.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub(crate) struct ObjectRef {
    pub(crate) kind: Kind,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl ObjectRef {
    pub(crate) fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{:?} {}", self.kind, self.name)
        } else {
            write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl fmt::Debug for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A valid object, reduced to what the control plane reads of it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    ServiceAccount(Arc<ServiceAccount>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    PeerAuthentication(Arc<PeerAuthentication>),
    RequestAuthentication(Arc<RequestAuthentication>),
    MeshConfig(Arc<MeshConfigObject>),
    ServiceEntry(Arc<ServiceEntry>),
    WorkloadEntry(Arc<WorkloadEntry>),
    GatewayClass(Arc<GatewayClass>),
    Gateway(Arc<Gateway>),
    ListenerSet(Arc<ListenerSet>),
    /// Of one of [`Kind::ROUTES`].
    Route(Kind, Arc<Route>),
    ReferenceGrant(Arc<ReferenceGrant>),
    BackendTLSPolicy(Arc<BackendTlsPolicy>),
    TrafficPolicy(Arc<TrafficPolicyObject>),
    Secret(Arc<Secret>),
    ConfigMap(Arc<ConfigMap>),
}

impl Object {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::ServiceAccount(_) => Kind::ServiceAccount,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::PeerAuthentication(_) => Kind::PeerAuthentication,
            Self::RequestAuthentication(_) => Kind::RequestAuthentication,
            Self::MeshConfig(_) => Kind::MeshConfig,
            Self::ServiceEntry(_) => Kind::ServiceEntry,
            Self::WorkloadEntry(_) => Kind::WorkloadEntry,
            Self::GatewayClass(_) => Kind::GatewayClass,
            Self::Gateway(_) => Kind::Gateway,
            Self::ListenerSet(_) => Kind::ListenerSet,
            Self::Route(kind, _) => *kind,
            Self::ReferenceGrant(_) => Kind::ReferenceGrant,
            Self::BackendTLSPolicy(_) => Kind::BackendTLSPolicy,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
            Self::Secret(_) => Kind::Secret,
            Self::ConfigMap(_) => Kind::ConfigMap,
        }
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        match self {
            Self::Namespace(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::ServiceAccount(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::AuthorizationPolicy(object) => &object.metadata,
            Self::PeerAuthentication(object) => &object.metadata,
            Self::RequestAuthentication(object) => &object.metadata,
            Self::MeshConfig(object) => &object.metadata,
            Self::ServiceEntry(object) => &object.metadata,
            Self::WorkloadEntry(object) => &object.metadata,
            Self::GatewayClass(object) => &object.metadata,
            Self::Gateway(object) => &object.metadata,
            Self::ListenerSet(object) => &object.metadata,
            Self::Route(_, object) => &object.metadata,
            Self::ReferenceGrant(object) => &object.metadata,
            Self::BackendTLSPolicy(object) => &object.metadata,
            Self::TrafficPolicy(object) => &object.metadata,
            Self::Secret(object) => &object.metadata,
            Self::ConfigMap(object) => &object.metadata,
        }
    }

    pub(crate) fn reference(&self) -> ObjectRef {
        let metadata = self.metadata();
        ObjectRef::new(self.kind(), &metadata.namespace, &metadata.name)
    }
}

/// A change of the set of valid objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The object is new or different.
    Apply(Object),
    /// The object is gone.
    Delete(ObjectRef),
}

/// What a source reports at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Changes, to be applied in order.
    pub(crate) events: Vec<Event>,
    /// Everything that is wrong now; it replaces what was reported before.
    pub(crate) problems: Vec<Problem>,
}

/// Something that is wrong with an object, or with the manifest it stands in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Problem {
    /// File, relative to the manifest folder; empty for an object of a cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) file: String,
    /// Document of the file, from 1; 0 for the file as a whole.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) document: usize,
    /// Line of the file, from 1, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u64>,
    /// The object, where it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<ObjectRef>,
    /// Path of the field, such as `spec.rules[0].to[0].operation.ports[1]`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) field: String,
    /// What is wrong.
    pub(crate) message: String,
    /// What is in force instead.
    pub(crate) effect: Effect,
}

/// What a problem leaves in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Effect {
    /// The last good version of what the document or file held.
    LastGoodKept,
    /// Nothing: there was no good version.
    NotApplied,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut place = self.file.clone();
        if let Some(line) = self.line {
            let _ = write!(place, ":{line}");
        }
        if self.document > 0 {
            let _ = write!(place, " (document {})", self.document);
        }
        let object = self.object.as_ref().map(ToString::to_string);
        for part in [place, object.unwrap_or_default(), self.field.clone()] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        let effect = match self.effect {
            Effect::LastGoodKept => "last good version kept",
            Effect::NotApplied => "not applied",
        };
        write!(f, "{} ({effect})", self.message)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Longest error message that is kept, in bytes.
const MAX_MESSAGE: usize = 500;

/// At most [`MAX_MESSAGE`] bytes of a message, on one line.
fn shortened(message: &str) -> String {
    let mut short = String::new();
    for word in message.split_whitespace() {
        if short.len() + word.len() > MAX_MESSAGE {
            let _ = write!(short, " ...");
            break;
        }
        if !short.is_empty() {
            short.push(' ');
        }
        short.push_str(word);
    }
    short
}
