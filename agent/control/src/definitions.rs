//! The resource definitions in `deploy/kubernetes`, made of the types that read the resources.
//! The files are checked in; `cargo xtask codegen` writes them, and the test fails when they differ.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::source::istio::MeshConfigSpec;
use crate::source::traffic::TrafficPolicySpec;

/// Set by `cargo xtask codegen`: write the files instead of comparing them.
const WRITE: &str = "CULVERT_WRITE_DEFINITIONS";

const HEAD: &str = "\
# Made by `cargo xtask codegen` of the types in agent/control that read these resources; do not edit.
";

/// A kind of Istio that Culvert reads.
struct Foreign {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    /// The first one is stored.
    versions: &'static [&'static str],
}

const FOREIGN: [Foreign; 5] = [
    Foreign {
        group: "security.istio.io",
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        short: "ap",
        versions: &["v1", "v1beta1"],
    },
    Foreign {
        group: "security.istio.io",
        kind: "PeerAuthentication",
        plural: "peerauthentications",
        short: "pa",
        versions: &["v1", "v1beta1"],
    },
    Foreign {
        group: "security.istio.io",
        kind: "RequestAuthentication",
        plural: "requestauthentications",
        short: "ra",
        versions: &["v1", "v1beta1"],
    },
    Foreign {
        group: "networking.istio.io",
        kind: "ServiceEntry",
        plural: "serviceentries",
        short: "se",
        versions: &["v1", "v1beta1", "v1alpha3"],
    },
    Foreign {
        group: "networking.istio.io",
        kind: "WorkloadEntry",
        plural: "workloadentries",
        short: "we",
        versions: &["v1", "v1beta1", "v1alpha3"],
    },
];

#[test]
fn checked_in_definitions_are_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes");
    let foreign: Vec<Value> = FOREIGN.iter().map(Foreign::definition).collect();
    agrees(
        folder.join("base/crds.yaml"),
        &[mesh_config(), traffic_policy()],
    );
    agrees(folder.join("istio-crds/crds.yaml"), &foreign);
}

/// The API server refuses a schema that is not structural; these are its rules that a derived
/// schema could break.
#[test]
fn schemas_are_structural() {
    let own = mesh_config();
    let schema = &own["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_structural(schema);
    let spec = &schema["properties"]["spec"]["properties"];
    assert_eq!(spec["sameNode"]["enum"], json!(["encrypt", "direct"]));
    assert_eq!(spec["trustDomain"]["type"], "string");
    assert_eq!(spec["trustDomain"]["nullable"], true);
    assert_eq!(spec["limits"]["x-kubernetes-preserve-unknown-fields"], true);
    assert!(spec["accessLog"]["description"].is_string());
    let own = traffic_policy();
    let schema = &own["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_structural(schema);
    let spec = &schema["properties"]["spec"]["properties"];
    let target = &spec["targetRefs"]["items"]["properties"];
    assert_eq!(target["sectionName"]["type"], "string");
    let balancing = &spec["loadBalancing"]["properties"];
    let algorithms = &balancing["algorithm"]["enum"];
    assert!(algorithms.as_array().unwrap().contains(&json!("peakEwma")));
    assert_eq!(spec["rateLimit"]["type"], "object");
}

fn assert_structural(schema: &Value) {
    for forbidden in [
        "$ref",
        "$schema",
        "$defs",
        "anyOf",
        "oneOf",
        "allOf",
        "const",
        "format",
        "default",
        "additionalProperties",
    ] {
        assert!(schema.get(forbidden).is_none(), "{forbidden} in {schema}");
    }
    assert!(schema["type"].is_string(), "{schema}");
    for property in schema["properties"]
        .as_object()
        .into_iter()
        .flat_map(Map::values)
    {
        assert_structural(property);
    }
    if let Some(items) = schema.get("items") {
        assert_structural(items);
    }
}

fn agrees(path: PathBuf, definitions: &[Value]) {
    let mut text = HEAD.to_owned();
    for definition in definitions {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(definition).unwrap());
    }
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let checked_in = std::fs::read_to_string(&path).unwrap();
    assert!(
        checked_in == text,
        "{} is not what the types say; run `cargo xtask codegen`",
        path.display()
    );
}

fn mesh_config() -> Value {
    let schema = json!({
        "type": "object",
        "description": "Settings of the whole mesh; there is one, and its name is default.",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema_of::<MeshConfigSpec>(),
            "status": open("What the control plane made of it."),
        },
        "x-kubernetes-validations": [{
            "rule": "self.metadata.name == 'default'",
            "message": "there is one MeshConfig and its name is default",
        }],
    });
    let mut version = version("v1alpha1", true, schema);
    version["additionalPrinterColumns"] = json!([
        {"name": "Trust domain", "type": "string", "jsonPath": ".spec.trustDomain"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]);
    definition(
        "culvert.dev",
        "MeshConfig",
        "meshconfigs",
        "Cluster",
        &[],
        vec![version],
    )
}

fn traffic_policy() -> Value {
    let schema = json!({
        "type": "object",
        "description": "How requests are limited, changed and sent to endpoints.",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema_of::<TrafficPolicySpec>(),
            "status": open("What the control plane made of it, for each Gateway."),
        },
    });
    let mut version = version("v1alpha1", true, schema);
    version["additionalPrinterColumns"] = json!([
        {"name": "Target", "type": "string", "jsonPath": ".spec.targetRefs[*].name"},
        {
            "name": "Accepted", "type": "string",
            "jsonPath": ".status.ancestors[*].conditions[?(@.type=='Accepted')].status",
        },
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]);
    let mut definition = definition(
        "culvert.dev",
        "TrafficPolicy",
        "trafficpolicies",
        "Namespaced",
        &["tp"],
        vec![version],
    );
    // What GEP-713 asks of policies, for tools.
    let policy = json!("Direct");
    definition["metadata"]["labels"]["gateway.networking.k8s.io/policy"] = policy;
    definition
}

impl Foreign {
    /// Open: the control plane and its webhook say what is wrong with a field, by the same rules
    /// wherever an object comes from.
    fn definition(&self) -> Value {
        let versions = self.versions.iter().enumerate().map(|(index, name)| {
            let schema = json!({
                "type": "object",
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": open("As Istio defines it."),
                    "status": open("What the control plane made of it."),
                },
            });
            version(name, index == 0, schema)
        });
        let short = [self.short];
        definition(
            self.group,
            self.kind,
            self.plural,
            "Namespaced",
            &short,
            versions.collect(),
        )
    }
}

fn open(description: &str) -> Value {
    json!({
        "type": "object",
        "description": description,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

fn version(name: &str, is_stored: bool, schema: Value) -> Value {
    json!({
        "name": name,
        "served": true,
        "storage": is_stored,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    })
}

fn definition(
    group: &str,
    kind: &str,
    plural: &str,
    scope: &str,
    short: &[&str],
    versions: Vec<Value>,
) -> Value {
    let mut names = json!({
        "kind": kind,
        "listKind": format!("{kind}List"),
        "plural": plural,
        "singular": kind.to_lowercase(),
    });
    if !short.is_empty() {
        names["shortNames"] = json!(short);
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            "labels": {"app.kubernetes.io/part-of": "culvert"},
        },
        "spec": {
            "group": group,
            "names": names,
            "scope": scope,
            "versions": versions,
        },
    })
}

/// The schema of a type, in the structural form that Kubernetes takes.
fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value();
    structural(&mut schema);
    schema
}

/// Unknown fields are pruned where all fields are known, and kept where any is allowed. Defaults
/// stay in the code: one that the API server filled in could never change with a release.
fn structural(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    fields.remove("title");
    fields.remove("default");
    // Of numbers: the API server knows others than Rust, and the bounds are there.
    fields.remove("format");
    if let Some(additional) = fields.remove("additionalProperties")
        && additional != false
    {
        fields.insert(
            "x-kubernetes-preserve-unknown-fields".to_owned(),
            json!(true),
        );
    }
    if let Some(items) = fields.get_mut("items") {
        structural(items);
    }
    for property in fields
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(Map::values_mut)
    {
        structural(property);
    }
}
