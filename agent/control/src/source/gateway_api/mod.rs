//! The kinds of the Gateway API (standard channel of v1.6), and the Secrets and ConfigMaps they
//! name. Read as Kubernetes' own objects are: fields that are not known pass, and a value that is
//! not known is a text that somebody says something about in a status, not an error.

mod gateway;
mod grant;
mod material;
mod parameters;
mod route;
mod tls_policy;

use serde::{Deserialize, Serialize};

use super::lenient::nullable;

pub(crate) use gateway::{
    FrontendTls, FrontendValidation, Gateway, GatewayAddressSpec, GatewayClass, ListenerEntry,
    ListenerSet, Namespaces, RouteKindRef,
};
pub(crate) use grant::ReferenceGrant;
pub(crate) use material::{ConfigMap, Pair, Secret};
pub(crate) use parameters::Parameters;
pub(crate) use route::{
    BackendRef, Cors, Filter, GrpcMethod, HeaderModifier, Marks, MatchSpec, MethodSpec, Mirror,
    ParentRef, PathEdit, PathSpec, Redirect, Route, RouteRule, UrlRewrite, Value, ValueMatch,
};
pub(crate) use tls_policy::{BackendTlsPolicy, BackendValidation, PolicyTarget};

use super::{Kind, Object, ObjectRef};

/// The group of all of them but Secrets and ConfigMaps.
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";
/// What a GatewayClass of ours says.
pub(crate) const CONTROLLER: &str = "culvert.dev/gateway-controller";
/// The default classes: the control plane of a cluster makes those that are missing.
pub(crate) const CLASSES: [&str; 2] = ["culvert", "culvert-waypoint"];

/// A reference to an object by group, kind and name, in a namespace that may be another's.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectReference {
    /// `""` by default for Secrets and Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
}

impl ObjectReference {
    /// Its namespace, which by default is that of the object it stands in.
    pub(crate) fn namespace_or<'a>(&'a self, own: &'a str) -> &'a str {
        match self.namespace.as_deref() {
            None | Some("") => own,
            Some(namespace) => namespace,
        }
    }

    /// True for a reference to this group and kind; `default` is the kind when none is given.
    pub(crate) fn is(&self, group: &str, kind: &str, default: &str) -> bool {
        self.group.as_deref().unwrap_or_default() == group
            && self.kind.as_deref().unwrap_or(default) == kind
    }
}

/// The Secrets and ConfigMaps that an object names: nobody reads any others. Whether it may is
/// decided later.
pub(crate) fn named(object: &Object) -> Vec<ObjectRef> {
    let mut found = Vec::new();
    let own = object.metadata().namespace.as_str();
    let secret = |reference: &ObjectReference| {
        let is_secret = reference.is("", "Secret", "Secret");
        is_secret
            .then(|| ObjectRef::new(Kind::Secret, reference.namespace_or(own), &reference.name))
    };
    let config_map = |reference: &ObjectReference| {
        let is_map = reference.is("", "ConfigMap", "");
        is_map.then(|| {
            ObjectRef::new(
                Kind::ConfigMap,
                reference.namespace_or(own),
                &reference.name,
            )
        })
    };
    match object {
        Object::GatewayClass(class) => {
            found.extend(class.spec.parameters_ref.as_ref().and_then(config_map));
        }
        Object::Gateway(gateway) => {
            let spec = &gateway.spec;
            let infrastructure = spec.infrastructure.as_ref();
            let parameters = infrastructure.and_then(|of| of.parameters_ref.as_ref());
            found.extend(parameters.and_then(config_map));
            found.extend(certificates(&spec.listeners).filter_map(secret));
            if let Some(tls) = &spec.tls {
                found.extend(tls.client_certificate().and_then(secret));
                let validations = tls.frontend.iter().flat_map(FrontendTls::validations);
                let authorities =
                    validations.flat_map(|validation| &validation.ca_certificate_refs);
                found.extend(authorities.filter_map(config_map));
            }
        }
        Object::ListenerSet(set) => {
            found.extend(certificates(&set.spec.listeners).filter_map(secret));
        }
        Object::BackendTLSPolicy(policy) => {
            let authorities = policy.spec.validation.ca_certificate_refs.iter();
            found.extend(authorities.filter_map(config_map));
        }
        Object::TrafficPolicy(policy) => {
            let secret = policy.secret();
            found.extend(secret.map(|name| ObjectRef::new(Kind::Secret, own, name)));
            let maps = policy.authorities();
            found.extend(maps.map(|name| ObjectRef::new(Kind::ConfigMap, own, name)));
        }
        _ => {}
    }
    found
}

fn certificates(listeners: &[ListenerEntry]) -> impl Iterator<Item = &ObjectReference> {
    let tls = listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref());
    tls.flat_map(|tls| &tls.certificate_refs)
}

#[cfg(test)]
mod tests;
