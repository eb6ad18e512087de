//! The Gateway API from manifests to statuses and to what gateways are handed. A test that bears
//! the name of one of the official conformance suite checks what that one asserts of statuses.

mod gateways;
mod l4;
mod listener_sets;
mod mesh;
mod policies;
mod routes;
mod tls_policies;
mod traffic_policies;
mod translation;

use std::fmt::Write as _;
use std::sync::Arc;

use agent_model::gateway::{Gateway, Route};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Resolved, rendered};
use crate::collection::Collection;
use crate::source::file::read_text;
use crate::source::{Kind, ObjectRef};
use crate::translate::tests::mesh;

/// Classes, namespaces and Services of every test.
const BASE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: culvert, generation: 1}
spec: {controllerName: culvert.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: culvert-waypoint, generation: 1}
spec: {controllerName: culvert.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: foreign, generation: 1}
spec: {controllerName: example.com/other}
---
apiVersion: v1
kind: Namespace
metadata: {name: infra}
---
apiVersion: v1
kind: Namespace
metadata: {name: apps, labels: {team: a}}
---
apiVersion: v1
kind: Namespace
metadata: {name: other, labels: {team: b}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: infra}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: apps}
spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: address, namespace: infra, labels: {gateway.networking.k8s.io/gateway-name: g}}
spec: {clusterIP: 10.0.0.3, ports: [{name: http, port: 80}]}
";

/// What became of a manifest.
struct World(Arc<Resolved>);

impl World {
    fn of(manifest: &str) -> Self {
        Self(Arc::clone(Self::collection(manifest).gateways()))
    }

    fn collection(manifest: &str) -> Collection {
        let batch = read_text(&format!("{BASE}\n---\n{manifest}"));
        assert_eq!(batch.problems, [], "{manifest}");
        let mut collection = Collection::new(mesh());
        let events = batch.events.into_iter();
        events.for_each(|event| collection.apply(event));
        collection.settle();
        collection
    }

    /// The status of an object (`Gateway infra/g`), as the API has it; null when nothing is said.
    fn status(&self, object: &str) -> Value {
        let (kind, name) = object.split_once(' ').unwrap();
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let mut statuses = self.0.statuses.iter();
        let found = statuses.find(|(of, _)| {
            format!("{:?}", of.kind) == kind && *of.namespace == *namespace && *of.name == *name
        });
        found.map_or(Value::Null, |(_, reported)| {
            rendered(&Value::Null, &reported.status, reported.generation, None)
        })
    }

    /// The conditions of an object as `Type=Status/Reason`, in order.
    fn of_object(&self, object: &str) -> String {
        conditions(&self.status(object))
    }

    /// The same of a listener.
    fn of_listener(&self, object: &str, name: &str) -> String {
        conditions(&self.listener(object, name))
    }

    fn listener(&self, object: &str, name: &str) -> Value {
        let status = self.status(object);
        let listeners = status["listeners"].as_array().unwrap();
        listeners
            .iter()
            .find(|of| of["name"] == name)
            .unwrap()
            .clone()
    }

    fn attached(&self, object: &str, name: &str) -> u64 {
        self.listener(object, name)["attachedRoutes"]
            .as_u64()
            .unwrap()
    }

    fn supported(&self, object: &str, name: &str) -> Vec<String> {
        let listener = self.listener(object, name);
        let kinds = listener["supportedKinds"].as_array().unwrap().iter();
        kinds
            .map(|kind| kind["kind"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Conditions of a route's parents, or of a policy's ancestors.
    fn parents(&self, object: &str) -> Vec<String> {
        let status = self.status(object);
        let entries = status.get("parents").or(status.get("ancestors"));
        let entries = entries
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        entries.iter().map(conditions).collect()
    }

    fn gateway(&self, key: &str) -> &Gateway {
        let mut gateways = self.0.gateways.iter();
        gateways
            .find(|gateway| gateway.key.to_string() == key)
            .unwrap()
    }

    /// The listeners that a gateway is handed, by name.
    fn handed(&self, key: &str) -> Vec<&str> {
        let listeners = self.gateway(key).listeners.iter();
        listeners.map(|listener| &*listener.name).collect()
    }

    fn route(&self, name: &str) -> Option<&Route> {
        let mut routes = self.0.routes.iter();
        routes.find(|route| *route.key.name == *name)
    }

    /// The parents of a route as gateways are told, by name of the listener.
    fn told(&self, route: &str) -> Vec<String> {
        use agent_model::gateway::Parent;
        let parents = self.route(route).map_or(&[][..], |route| &route.parents);
        parents
            .iter()
            .map(|parent| match parent {
                Parent::Listener { gateway, name } => format!("{gateway} {name}"),
                Parent::Service {
                    service,
                    port,
                    consumer_namespace,
                } => format!("{} {port:?} {consumer_namespace:?}", service.hostname),
            })
            .collect()
    }
}

fn conditions(of: &Value) -> String {
    let mut text = String::new();
    for condition in of["conditions"].as_array().into_iter().flatten() {
        let part = |field: &str| condition[field].as_str().unwrap();
        let (kind, status, reason) = (part("type"), part("status"), part("reason"));
        let _ = write!(text, "{kind}={status}/{reason} ");
    }
    text.trim_end().to_owned()
}

/// The conditions of a listener that is in order.
const FINE: &str = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs \
                    Programmed=True/Programmed Conflicted=False/NoConflicts";
/// And of a parent.
const ATTACHED: &str = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs";

/// A Gateway `infra/g` that has an address.
fn gateway(spec: &str) -> String {
    object(
        "Gateway",
        "infra",
        "g",
        &format!("{{gatewayClassName: culvert, {spec}}}"),
    )
}

fn object(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    made(kind, namespace, name, "2026-01-01T00:00:00Z", spec)
}

/// An object that was made at a time.
fn made(kind: &str, namespace: &str, name: &str, at: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, \
         namespace: {namespace}, generation: 7, creationTimestamp: \"{at}\"}}\nspec: {spec}\n"
    )
}

/// An HTTPRoute to `web` of its own namespace.
fn route(namespace: &str, name: &str, parents: &str, more: &str) -> String {
    let rules = "rules: [{backendRefs: [{name: web, port: 8080}]}]";
    let spec = format!("{{parentRefs: [{parents}], {more}{rules}}}");
    object("HTTPRoute", namespace, name, &spec)
}

fn grant(namespace: &str, name: &str, from: &str, to: &str) -> String {
    let spec = format!("{{from: [{from}], to: [{to}]}}");
    object("ReferenceGrant", namespace, name, &spec).replace("k8s.io/v1\n", "k8s.io/v1beta1\n")
}

/// A Secret with a certificate and its key.
fn secret(namespace: &str, name: &str) -> String {
    secret_for(namespace, name, "example.org")
}

fn secret_for(namespace: &str, name: &str, host: &str) -> String {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let key = made.signing_key.serialize_pem();
    pair(namespace, name, &made.cert.pem(), &key)
}

fn pair(namespace: &str, name: &str, chain: &str, key: &str) -> String {
    let (chain, key) = (STANDARD.encode(chain), STANDARD.encode(key));
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         type: kubernetes.io/tls\ndata: {{tls.crt: {chain}, tls.key: {key}}}\n"
    )
}

/// A ConfigMap with the certificate of an authority.
fn authority(namespace: &str, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
    let lines = made.cert.pem().replace('\n', "\n    ");
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         data:\n  ca.crt: |\n    {lines}\n"
    )
}

#[test]
fn nothing_is_said_of_what_is_not_ours() {
    let world = World::of(&format!(
        "{}{}",
        object(
            "Gateway",
            "infra",
            "h",
            "{gatewayClassName: foreign, listeners: [{name: a, port: 80, protocol: HTTP}]}"
        ),
        route("infra", "r", "{name: h}, {name: nowhere}", "")
    ));
    assert_eq!(world.status("GatewayClass foreign"), Value::Null);
    assert_eq!(world.status("Gateway infra/h"), Value::Null);
    assert_eq!(world.status("HTTPRoute infra/r"), Value::Null);
    assert!(world.0.gateways.is_empty() && world.0.routes.is_empty());
    assert_eq!(
        world.of_object("GatewayClass culvert"),
        "Accepted=True/Accepted"
    );
}

#[test]
fn without_a_class_of_ours_nothing_is_resolved() {
    let mut collection = World::collection("");
    assert!(!collection.gateways().statuses.is_empty());
    for class in ["culvert", "culvert-waypoint"] {
        let reference = ObjectRef::new(Kind::GatewayClass, "", class);
        collection.apply(crate::source::Event::Delete(reference));
    }
    collection.settle();
    assert_eq!(**collection.gateways(), Resolved::default());
}
