//! The resources that are served: a table of the built-in ones, and what
//! CustomResourceDefinitions add.

use std::sync::Arc;

use serde_json::{Value, json};

use super::failure::Failure;

/// A resource type.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub(super) group: String,
    /// Served versions, the preferred one first. All show the same fields.
    pub(super) versions: Vec<String>,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) kind: String,
    pub(super) short: Vec<String>,
    pub(super) namespaced: bool,
    /// It has a status subresource: status is only changed there.
    pub(super) status: bool,
    /// `metadata.generation` counts changes outside of metadata and status.
    pub(super) generation: bool,
    /// Defined by a CustomResourceDefinition; its schema when it has one.
    pub(super) custom: Option<Value>,
}

impl Kind {
    /// `plural.group`, as the API names a resource in messages; `plural` in the core group.
    pub(super) fn resource(&self) -> String {
        resource_name(&self.group, &self.plural)
    }

    /// `group/version`, or the version alone in the core group.
    pub(super) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }

    pub(super) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// One entry of an `APIResourceList`, and one for its status.
    pub(super) fn describe(&self) -> Vec<Value> {
        let mut main = json!({
            "name": self.plural,
            "singularName": self.singular,
            "namespaced": self.namespaced,
            "kind": self.kind,
            "verbs": [
                "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"
            ],
        });
        if !self.short.is_empty() {
            main["shortNames"] = json!(self.short);
        }
        let mut entries = vec![main];
        if self.status {
            entries.push(json!({
                "name": format!("{}/status", self.plural),
                "singularName": "",
                "namespaced": self.namespaced,
                "kind": self.kind,
                "verbs": ["get", "patch", "update"],
            }));
        }
        entries
    }
}

/// `plural.group`; `plural` in the core group.
pub(super) fn resource_name(group: &str, plural: &str) -> String {
    if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    }
}

/// Every resource type there is now.
#[derive(Debug)]
pub(super) struct Kinds(Vec<Arc<Kind>>);

impl Kinds {
    /// What every API server has without any CustomResourceDefinition.
    pub(super) fn built_in() -> Self {
        Self(BUILT_IN.iter().map(|row| Arc::new(row.kind())).collect())
    }

    pub(super) fn all(&self) -> &[Arc<Kind>] {
        &self.0
    }

    pub(super) fn find(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.0.iter().find(|kind| kind.is(group, plural))
    }

    /// By `apiVersion` and `kind`, with the version.
    pub(super) fn find_kind<'a>(
        &self,
        api_version: &'a str,
        name: &str,
    ) -> Option<(&Arc<Kind>, &'a str)> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let kind = self.0.iter().find(|kind| {
            kind.group == group && kind.kind == name && kind.versions.iter().any(|v| v == version)
        })?;
        Some((kind, version))
    }

    /// Adds or replaces what a CustomResourceDefinition defines.
    pub(super) fn define(&mut self, definition: &Value) -> Result<(), Failure> {
        let kind = custom(definition)?;
        self.0.retain(|old| !old.is(&kind.group, &kind.plural));
        self.0.push(Arc::new(kind));
        Ok(())
    }

    pub(super) fn undefine(&mut self, group: &str, plural: &str) {
        self.0
            .retain(|kind| kind.custom.is_none() || !kind.is(group, plural));
    }
}

fn custom(definition: &Value) -> Result<Kind, Failure> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let missing = |field: &str| Failure::invalid(format!("spec.{field}: Required value"));
    let text = |value: &Value, field: &str| {
        let found = value.as_str().filter(|text| !text.is_empty());
        found.map(str::to_owned).ok_or_else(|| missing(field))
    };
    let kind = text(&names["kind"], "names.kind")?;
    let versions = served(spec);
    let storage = spec["versions"]
        .as_array()
        .and_then(|all| all.iter().find(|version| version["storage"] == true))
        .ok_or_else(|| missing("versions"))?;
    if versions.is_empty() {
        return Err(missing("versions"));
    }
    let short = names["shortNames"].as_array().into_iter().flatten();
    Ok(Kind {
        group: text(&spec["group"], "group")?,
        versions,
        plural: text(&names["plural"], "names.plural")?,
        singular: names["singular"]
            .as_str()
            .map_or_else(|| kind.to_lowercase(), str::to_owned),
        short: short
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
        namespaced: spec["scope"] == "Namespaced",
        status: storage["subresources"]["status"].is_object(),
        generation: true,
        custom: Some(storage["schema"]["openAPIV3Schema"].clone()),
        kind,
    })
}

/// Served versions of a definition: stable ones before beta and alpha, higher ones first.
fn served(spec: &Value) -> Vec<String> {
    let mut versions: Vec<String> = spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|version| version["served"] == true)
        .filter_map(|version| version["name"].as_str().map(str::to_owned))
        .collect();
    versions.sort_by_key(|version| {
        let maturity = match version {
            alpha if alpha.contains("alpha") => 2,
            beta if beta.contains("beta") => 1,
            _ => 0,
        };
        (maturity, std::cmp::Reverse(version.clone()))
    });
    versions
}

/// A row of the table: group, version, plural, kind, short names, flags.
struct Row(
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static str,
);

impl Row {
    /// Flags: `n` namespaced, `s` status subresource, `g` generation.
    fn kind(&self) -> Kind {
        let Self(group, version, plural, kind, short, flags) = *self;
        Kind {
            group: group.to_owned(),
            versions: vec![version.to_owned()],
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            kind: kind.to_owned(),
            short: short.iter().map(|&name| name.to_owned()).collect(),
            namespaced: flags.contains('n'),
            status: flags.contains('s'),
            generation: flags.contains('g'),
            custom: None,
        }
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

#[rustfmt::skip]
const BUILT_IN: [Row; 26] = [
    Row("", "v1", "namespaces", "Namespace", &["ns"], "s"),
    Row("", "v1", "nodes", "Node", &["no"], "s"),
    Row("", "v1", "pods", "Pod", &["po"], "ns"),
    Row("", "v1", "services", "Service", &["svc"], "ns"),
    Row("", "v1", "serviceaccounts", "ServiceAccount", &["sa"], "n"),
    Row("", "v1", "configmaps", "ConfigMap", &["cm"], "n"),
    Row("", "v1", "secrets", "Secret", &[], "n"),
    Row("", "v1", "events", "Event", &["ev"], "n"),
    Row("", "v1", "endpoints", "Endpoints", &["ep"], "n"),
    Row("apps", "v1", "deployments", "Deployment", &["deploy"], "nsg"),
    Row("apps", "v1", "daemonsets", "DaemonSet", &["ds"], "nsg"),
    Row("apps", "v1", "replicasets", "ReplicaSet", &["rs"], "nsg"),
    Row("batch", "v1", "jobs", "Job", &[], "nsg"),
    Row("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", &[], "ng"),
    Row("coordination.k8s.io", "v1", "leases", "Lease", &[], "n"),
    Row("events.k8s.io", "v1", "events", "Event", &["ev"], "n"),
    Row("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", &["pdb"], "nsg"),
    Row("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", &["netpol"], "ng"),
    Row("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", &["pc"], "g"),
    Row(RBAC, "v1", "clusterroles", "ClusterRole", &[], ""),
    Row(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", &[], ""),
    Row(RBAC, "v1", "roles", "Role", &[], "n"),
    Row(RBAC, "v1", "rolebindings", "RoleBinding", &[], "n"),
    Row(ADMISSION, "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", &[], "g"),
    Row(ADMISSION, "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", &[], "g"),
    Row("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", &["crd", "crds"], "sg"),
];

/// A custom resource: group, versions (the first is stored), plural, kind, namespaced.
struct Custom(
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static str,
    bool,
);

const ISTIO_NETWORKING: &str = "networking.istio.io";
const GATEWAY: &str = "gateway.networking.k8s.io";

/// The custom resources that Culvert reads, without a schema.
const CUSTOM: [Custom; 17] = [
    Custom(
        "security.istio.io",
        &["v1", "v1beta1"],
        "authorizationpolicies",
        "AuthorizationPolicy",
        true,
    ),
    Custom(
        "security.istio.io",
        &["v1", "v1beta1"],
        "peerauthentications",
        "PeerAuthentication",
        true,
    ),
    Custom(
        "security.istio.io",
        &["v1", "v1beta1"],
        "requestauthentications",
        "RequestAuthentication",
        true,
    ),
    Custom(
        ISTIO_NETWORKING,
        &["v1", "v1beta1", "v1alpha3"],
        "serviceentries",
        "ServiceEntry",
        true,
    ),
    Custom(
        ISTIO_NETWORKING,
        &["v1", "v1beta1", "v1alpha3"],
        "workloadentries",
        "WorkloadEntry",
        true,
    ),
    Custom(
        GATEWAY,
        &["v1", "v1beta1"],
        "gatewayclasses",
        "GatewayClass",
        false,
    ),
    Custom(GATEWAY, &["v1", "v1beta1"], "gateways", "Gateway", true),
    Custom(GATEWAY, &["v1", "v1beta1"], "httproutes", "HTTPRoute", true),
    Custom(GATEWAY, &["v1"], "grpcroutes", "GRPCRoute", true),
    Custom(GATEWAY, &["v1", "v1alpha2"], "tlsroutes", "TLSRoute", true),
    Custom(GATEWAY, &["v1", "v1alpha2"], "tcproutes", "TCPRoute", true),
    Custom(GATEWAY, &["v1", "v1alpha2"], "udproutes", "UDPRoute", true),
    Custom(GATEWAY, &["v1"], "listenersets", "ListenerSet", true),
    Custom(
        GATEWAY,
        &["v1"],
        "backendtlspolicies",
        "BackendTLSPolicy",
        true,
    ),
    Custom(
        GATEWAY,
        &["v1beta1"],
        "referencegrants",
        "ReferenceGrant",
        true,
    ),
    Custom(
        "culvert.dev",
        &["v1alpha1"],
        "meshconfigs",
        "MeshConfig",
        false,
    ),
    Custom(
        "culvert.dev",
        &["v1alpha1"],
        "trafficpolicies",
        "TrafficPolicy",
        true,
    ),
];

/// CustomResourceDefinitions of what Culvert reads, for tests that do not install them.
pub(super) fn definitions() -> Vec<Value> {
    CUSTOM.iter().map(Custom::definition).collect()
}

impl Custom {
    fn definition(&self) -> Value {
        let Self(group, versions, plural, kind, namespaced) = self;
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let versions: Vec<Value> = versions
            .iter()
            .enumerate()
            .map(|(index, name)| {
                json!({
                    "name": name,
                    "served": true,
                    "storage": index == 0,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                })
            })
            .collect();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": resource_name(group, plural)},
            "spec": {
                "group": group,
                "scope": if *namespaced { "Namespaced" } else { "Cluster" },
                "names": {
                    "plural": plural,
                    "singular": kind.to_lowercase(),
                    "kind": kind,
                    "listKind": format!("{kind}List"),
                },
                "versions": versions,
            },
        })
    }
}
