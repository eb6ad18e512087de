//! What is watched, and how.

use kube::core::ApiResource;

use crate::source::Kind;
use crate::source::gateway_api::GROUP;

/// How one kind is watched.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) kind: Kind,
    pub(super) group: &'static str,
    /// Versions it may be served in, the preferred one first; all are read alike.
    pub(super) versions: &'static [&'static str],
    plural: &'static str,
    /// Nothing below `metadata` is read, so nothing else is asked for.
    pub(super) is_metadata_only: bool,
    /// Ask for the first list as a stream, which costs the API server least but may show a state
    /// that is some moments old. Where an old state could be an old policy, that list is a
    /// consistent read in pages instead, as all later lists are.
    pub(super) is_streamed: bool,
    /// Its definition may be missing from the cluster.
    pub(super) is_optional: bool,
}

impl Watched {
    /// Nobody waits for it where we may not read it: without one of its kinds the Gateway API grants
    /// less, reaches less and refuses more. A policy that is not seen would be a hole instead, be it
    /// one that wants TLS to a backend.
    pub(super) fn is_dispensable(&self) -> bool {
        self.group == GROUP && self.kind != Kind::BackendTLSPolicy
    }
}

impl Watched {
    /// The resource in one of its versions.
    pub(super) fn resource(&self, version: &str) -> ApiResource {
        let api_version = match self.group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        };
        ApiResource {
            group: self.group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: format!("{:?}", self.kind),
            plural: self.plural.to_owned(),
        }
    }
}

/// Every kind that a cluster is asked for.
pub(super) static WATCHED: [Watched; 23] = [
    metadata_only(Kind::Namespace, "namespaces", false),
    metadata_only(Kind::Node, "nodes", true),
    metadata_only(Kind::ServiceAccount, "serviceaccounts", true),
    core(Kind::Pod, "pods"),
    core(Kind::Service, "services"),
    Watched {
        group: "discovery.k8s.io",
        ..core(Kind::EndpointSlice, "endpointslices")
    },
    custom(
        Kind::AuthorizationPolicy,
        "security.istio.io",
        &["v1", "v1beta1"],
        "authorizationpolicies",
    ),
    custom(
        Kind::PeerAuthentication,
        "security.istio.io",
        &["v1", "v1beta1"],
        "peerauthentications",
    ),
    custom(
        Kind::RequestAuthentication,
        "security.istio.io",
        &["v1", "v1beta1"],
        "requestauthentications",
    ),
    custom(
        Kind::MeshConfig,
        "culvert.dev",
        &["v1alpha1"],
        "meshconfigs",
    ),
    custom(
        Kind::ServiceEntry,
        "networking.istio.io",
        &["v1", "v1beta1", "v1alpha3"],
        "serviceentries",
    ),
    custom(
        Kind::WorkloadEntry,
        "networking.istio.io",
        &["v1", "v1beta1", "v1alpha3"],
        "workloadentries",
    ),
    custom(
        Kind::GatewayClass,
        GROUP,
        &["v1", "v1beta1"],
        "gatewayclasses",
    ),
    custom(Kind::Gateway, GROUP, &["v1", "v1beta1"], "gateways"),
    custom(Kind::ListenerSet, GROUP, &["v1"], "listenersets"),
    custom(Kind::HTTPRoute, GROUP, &["v1", "v1beta1"], "httproutes"),
    custom(Kind::GRPCRoute, GROUP, &["v1"], "grpcroutes"),
    custom(
        Kind::TLSRoute,
        GROUP,
        &["v1", "v1alpha3", "v1alpha2"],
        "tlsroutes",
    ),
    custom(Kind::TCPRoute, GROUP, &["v1", "v1alpha2"], "tcproutes"),
    custom(Kind::UDPRoute, GROUP, &["v1", "v1alpha2"], "udproutes"),
    custom(
        Kind::ReferenceGrant,
        GROUP,
        &["v1", "v1beta1"],
        "referencegrants",
    ),
    custom(
        Kind::BackendTLSPolicy,
        GROUP,
        &["v1", "v1alpha3"],
        "backendtlspolicies",
    ),
    custom(
        Kind::TrafficPolicy,
        "culvert.dev",
        &["v1alpha1"],
        "trafficpolicies",
    ),
];

/// What is asked for by name, and only when something names it.
pub(super) static NAMED: [Watched; 2] = [
    Watched {
        is_streamed: false,
        ..core(Kind::Secret, "secrets")
    },
    Watched {
        is_streamed: false,
        ..core(Kind::ConfigMap, "configmaps")
    },
];

const fn core(kind: Kind, plural: &'static str) -> Watched {
    Watched {
        kind,
        group: "",
        versions: &["v1"],
        plural,
        is_metadata_only: false,
        is_streamed: true,
        is_optional: false,
    }
}

const fn metadata_only(kind: Kind, plural: &'static str, is_streamed: bool) -> Watched {
    Watched {
        is_metadata_only: true,
        is_streamed,
        ..core(kind, plural)
    }
}

const fn custom(
    kind: Kind,
    group: &'static str,
    versions: &'static [&'static str],
    plural: &'static str,
) -> Watched {
    Watched {
        group,
        versions,
        is_streamed: false,
        is_optional: true,
        ..core(kind, plural)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::decode;
    use serde_json::json;

    #[test]
    fn what_forbids_is_waited_for() {
        let is_dispensable = |kind: Kind| {
            let watched = WATCHED.iter().find(|watched| watched.kind == kind);
            watched.is_some_and(Watched::is_dispensable)
        };
        assert!(is_dispensable(Kind::HTTPRoute));
        assert!(!is_dispensable(Kind::BackendTLSPolicy));
        assert!(!is_dispensable(Kind::AuthorizationPolicy));
    }

    #[test]
    fn every_version_that_is_asked_for_is_one_that_is_read() {
        for watched in WATCHED.iter().chain(&NAMED) {
            for version in watched.versions {
                let resource = watched.resource(version);
                let named = decode::reference(&json!({
                    "apiVersion": resource.api_version,
                    "kind": resource.kind,
                    "metadata": {"name": "x", "namespace": "y"},
                }));
                assert_eq!(named.unwrap().kind, watched.kind, "{resource:?}");
            }
        }
    }
}
