use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{BODIES, Judge, answer};
use crate::collection::{Collection, Inventory};
use crate::source::file::read_text;
use crate::translate::tests::mesh;
use crate::translate::{Endpoints, Mesh};

const CLUSTER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.0.0.1}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop, creationTimestamp: \"2026-01-01T00:00:00Z\"}
";

fn inventory() -> Inventory {
    let mut collection = Collection::new(Mesh {
        endpoints: Endpoints::Given,
        ..mesh()
    });
    let events = read_text(CLUSTER).events.into_iter();
    events.for_each(|event| collection.apply(event));
    collection.settle();
    collection.inventory()
}

fn policy(kind: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": spec,
    })
}

fn asked(operation: &str, object: Value, old: Value) -> Value {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "7-7-7", "operation": operation, "object": object, "oldObject": old},
    });
    let answer = answer(review.to_string().as_bytes(), inventory()).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "7-7-7");
    answer["response"].clone()
}

fn created(object: Value) -> Value {
    asked("CREATE", object, Value::Null)
}

#[test]
fn what_is_good_is_taken_without_a_word() {
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "rules": [{}]});
    let response = created(policy("AuthorizationPolicy", spec));
    assert_eq!(response, json!({"uid": "7-7-7", "allowed": true}));
}

#[test]
fn what_cannot_be_read_is_refused_with_its_field() {
    let spec = json!({"rules": [{"form": []}]});
    let response = created(policy("AuthorizationPolicy", spec));
    assert_eq!(response["allowed"], false);
    assert_eq!(response["status"]["code"], 422);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("spec.rules[0].form: unknown field"),
        "{message}"
    );
    assert!(message.contains("(invalid)"), "{message}");
}

#[test]
fn what_has_no_effect_by_itself_is_refused() {
    let spec = json!({"portLevelMtls": {"80": {"mode": "STRICT"}}});
    let response = created(policy("PeerAuthentication", spec));
    assert_eq!(response["allowed"], false, "{response}");
    let config = json!({
        "apiVersion": "culvert.dev/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": "default"},
        "spec": {"trustDomain": "other.domain"},
    });
    assert_eq!(created(config)["allowed"], false);
}

#[test]
fn what_is_a_matter_of_other_objects_or_other_programs_is_a_warning() {
    for (object, code) in [
        (
            policy(
                "AuthorizationPolicy",
                json!({"selector": {"matchLabels": {"app": "wbe"}}, "rules": [{}]}),
            ),
            "matches-no-pod",
        ),
        (
            policy("AuthorizationPolicy", json!({"action": "AUDIT"})),
            "action-unsupported",
        ),
        (
            policy(
                "AuthorizationPolicy",
                json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}),
            ),
            "l7-at-l4",
        ),
        (
            policy("PeerAuthentication", json!({})),
            "peer-authentication-conflict",
        ),
    ] {
        let response = created(object);
        assert_eq!(response["allowed"], true, "{code}: {response}");
        let warnings = response["warnings"].as_array().unwrap();
        let of_code = |warning: &Value| warning.as_str().unwrap().contains(&format!("({code})"));
        assert!(warnings.iter().any(of_code), "{code}: {response}");
    }
}

#[test]
fn nobody_is_held_up_by_what_was_wrong_before() {
    let bad = policy("AuthorizationPolicy", json!({"rules": [{"form": []}]}));
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({"team": "a"});
    assert_eq!(asked("UPDATE", labelled, bad.clone())["allowed"], true);
    let mut going = policy("AuthorizationPolicy", json!({"rules": [{"from": 1}]}));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(asked("UPDATE", going, bad.clone())["allowed"], true);
    assert_eq!(asked("DELETE", Value::Null, bad.clone())["allowed"], true);
    let good = policy("AuthorizationPolicy", json!({"rules": [{}]}));
    assert_eq!(asked("UPDATE", bad, good)["allowed"], false);
}

#[test]
fn a_kind_that_is_not_read_is_none_of_ours() {
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    assert_eq!(created(object)["allowed"], true);
}

#[test]
fn what_is_no_review_has_no_answer() {
    for body in [
        "",
        "{}",
        "[]",
        "null",
        r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "1", "operation": "CREATE"}}"#,
        r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "", "operation": "CREATE"}}"#,
        r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#,
    ] {
        assert_eq!(answer(body.as_bytes(), inventory()), None, "{body}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(answer(deep.as_bytes(), inventory()), None);
}

#[test]
fn warnings_are_bounded_and_plain() {
    let rules = vec![json!({"from": [{"source": {"namespaces": ["gone\\n*x"]}}]}); 50];
    let response = created(policy("AuthorizationPolicy", json!({"rules": rules})));
    let warnings = response["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 10);
    for warning in warnings {
        let warning = warning.as_str().unwrap();
        assert!(warning.chars().count() <= 240 && !warning.contains('\n'));
    }
}

/// A request whose end does not come.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

fn posted<B>(body: B) -> Request<B> {
    let request = Request::builder().method(Method::POST).uri("/validate");
    request.body(body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn only_so_many_requests_are_held_in_memory() {
    let judge = Judge::new(Arc::new(RwLock::new(Collection::new(mesh()))));
    let mut sending = JoinSet::new();
    for _ in 0..BODIES {
        sending.spawn(judge.clone().respond(posted(Endless)));
    }
    sleep(Duration::from_secs(1)).await;
    let one_more = || judge.clone().respond(posted(Full::new(Bytes::from("{}"))));
    let waits = timeout(Duration::from_secs(1), one_more()).await;
    assert!(waits.is_err(), "{waits:?}");
    sending.abort_all();
    assert_eq!(one_more().await.status(), StatusCode::BAD_REQUEST);
}
