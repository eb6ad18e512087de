//! What the API server asks the validating webhook.

use std::cell::RefCell;

use agent_control::Manifests;
use serde_json::Value;

pub(super) const WORDS: &[&str] = &[
    "\"apiVersion\":\"admission.k8s.io/v1\",",
    "\"kind\":\"AdmissionReview\",",
    "\"request\":{",
    "\"uid\":\"1\",",
    "\"operation\":\"CREATE\",",
    "\"operation\":\"UPDATE\",",
    "\"operation\":\"DELETE\",",
    "\"object\":{",
    "\"oldObject\":{",
    "\"apiVersion\":\"security.istio.io/v1\",",
    "\"kind\":\"AuthorizationPolicy\",",
    "\"kind\":\"PeerAuthentication\",",
    "\"kind\":\"ServiceEntry\",",
    "\"kind\":\"WorkloadEntry\",",
    "\"kind\":\"MeshConfig\",",
    "\"metadata\":{\"name\":\"p\",\"namespace\":\"shop\"},",
    "\"spec\":{",
    "\"rules\":[",
    "\"selector\":{\"matchLabels\":{\"app\":\"web\"}}",
    "\"principals\":[\"cluster.local/ns/shop/sa/web\"]",
    "\"ports\":[\"80\"]",
    "\"deletionTimestamp\":\"\",",
    "{}",
    "[]",
    "null",
    "}",
    "]",
    ",",
    "\"",
    "\\u0000",
    "1e400",
    "[[[[[[[[[[[[[[[[",
];

/// A mesh that there is something to say about.
const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web}
status: {podIP: 10.0.0.1}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: wide, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {ports: [\"80\"]}}]}]}
";

fn mesh() -> Manifests {
    let mut manifests = Manifests::new("cluster.local");
    manifests.update("mesh.yaml", MESH.as_bytes());
    assert_eq!(manifests.problems(), Vec::<String>::new());
    manifests
}

thread_local! {
    static MANIFESTS: RefCell<Manifests> = RefCell::new(mesh());
}

/// The body of a request.
pub(super) fn run(bytes: &[u8]) {
    MANIFESTS.with_borrow(|manifests| {
        let Some(answer) = manifests.admit(bytes) else {
            return;
        };
        assert_eq!(manifests.admit(bytes), Some(answer.clone()), "asked twice");
        let review: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        assert_eq!(answer["kind"], "AdmissionReview");
        let response = &answer["response"];
        assert_eq!(
            response["uid"], review["request"]["uid"],
            "another's answer"
        );
        let message = response["status"]["message"].as_str().unwrap_or_default();
        let allowed = response["allowed"].as_bool();
        assert_eq!(allowed, Some(message.is_empty()), "a refusal has a reason");
        assert!(message.chars().count() <= 1_000, "{message}");
        let warnings = response["warnings"].as_array();
        let warnings = warnings.map_or(&[][..], Vec::as_slice);
        assert!(warnings.len() <= 10);
        for warning in warnings {
            let text = warning.as_str().unwrap_or_default();
            assert!(!text.is_empty() && text.chars().count() <= 240, "{text}");
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
        what_goes_away_goes(&review, allowed);
    });
}

/// Nobody is kept from deleting what was wrong.
fn what_goes_away_goes(review: &Value, allowed: Option<bool>) {
    let request = &review["request"];
    let is_going = !request["object"]["metadata"]["deletionTimestamp"].is_null();
    if request["operation"] == "DELETE" || is_going {
        assert_eq!(allowed, Some(true));
    }
}
