//! One review: bytes in, bytes out. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::check::{Found, of_namespace};
use crate::code::{Code, Severity};
use crate::collection::{Inventory, mesh_config_note};
use crate::source::Object;
use crate::source::decode::{Decoded, FieldError, decode};
use crate::translate;

/// The one version that is understood.
const VERSION: &str = "admission.k8s.io/v1";
/// Longest id of a request that is repeated; the API server's are UUIDs.
const MAX_UID: usize = 128;
/// Warnings of one answer, and the longest of them in characters; the API server cuts off more.
const MAX_WARNINGS: usize = 10;
const MAX_WARNING: usize = 240;
/// Longest reason for a refusal, in characters.
const MAX_MESSAGE: usize = 1_000;
/// Later than any object there is.
const LATEST: &str = "9999-12-31T23:59:59Z";

/// `AdmissionReview`, as far as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

/// What is said of an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) refused: Option<String>,
    pub(super) warnings: Vec<String>,
}

/// The answer to an `AdmissionReview`; `None` when it is none.
pub(crate) fn answer(body: &[u8], inventory: Inventory) -> Option<Vec<u8>> {
    // Also where nobody looks it must be text.
    let body = std::str::from_utf8(body).ok()?;
    let review: Review = serde_json::from_str(body).ok()?;
    let Review {
        api_version,
        kind,
        request,
    } = review;
    let is_known = api_version == VERSION && kind == "AdmissionReview";
    if !is_known || request.uid.is_empty() || request.uid.len() > MAX_UID {
        return None;
    }
    let uid = request.uid.clone();
    let Judgement { refused, warnings } = judge_request(request, inventory);
    let mut response = json!({"uid": uid, "allowed": refused.is_none()});
    if let Some(message) = refused {
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
    }
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    let answer = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response});
    serde_json::to_vec(&answer).ok()
}

fn judge_request(request: Request, inventory: Inventory) -> Judgement {
    let Request {
        operation,
        mut object,
        old_object,
        ..
    } = request;
    let is_going = !object["metadata"]["deletionTimestamp"].is_null();
    // Who takes off a finalizer or writes a label is not held up by what was there before.
    let is_touched = operation == "CREATE" || object["spec"] != old_object["spec"];
    if !matches!(operation.as_str(), "CREATE" | "UPDATE") || is_going || !is_touched {
        return Judgement::default();
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata.get("creationTimestamp").is_none_or(Value::is_null)
    {
        metadata.insert("creationTimestamp".to_owned(), json!(LATEST));
    }
    judge(object, inventory)
}

pub(super) fn judge(object: Value, inventory: Inventory) -> Judgement {
    match decode(object) {
        // The rules of the webhook may be wider than what is read.
        Ok(Decoded::Ignored(_)) => Judgement::default(),
        Ok(Decoded::Object(object)) => judge_findings(&findings(&object, inventory)),
        Err(FieldError { path, message }) => Judgement {
            refused: Some(cut(&worded(Code::Invalid, &path, &message), MAX_MESSAGE)),
            warnings: Vec::new(),
        },
    }
}

/// What there is to say of this object, were it in place.
fn findings(object: &Object, mut inventory: Inventory) -> Vec<Found> {
    let reference = object.reference();
    if let Object::MeshConfig(config) = object {
        let note = mesh_config_note(&inventory.mesh, config);
        return note.iter().map(Found::from).collect();
    }
    inventory.lay_over(object);
    let namespace = reference.namespace.clone();
    let notes = translate::author_notes(&inventory.scope(&namespace));
    let mut found: Vec<Found> = notes.iter().map(Found::from).collect();
    of_namespace(&inventory, &namespace, &mut found);
    found.retain(|found| found.object == reference);
    found.sort_by(|one, other| {
        let severity = other.code.severity().cmp(&one.code.severity());
        severity.then_with(|| one.cmp(other))
    });
    found.dedup();
    found
}

fn judge_findings(found: &[Found]) -> Judgement {
    let text = |found: &Found| worded(found.code, &found.field, &found.message);
    let refused = found.iter().find(|found| is_refused(found.code));
    let worth = found
        .iter()
        .filter(|found| found.code.severity() > Severity::Info && !is_refused(found.code));
    Judgement {
        refused: refused.map(|found| cut(&text(found), MAX_MESSAGE)),
        warnings: worth
            .take(MAX_WARNINGS)
            .map(|found| cut(&text(found), MAX_WARNING))
            .collect(),
    }
}

/// Wrong by itself, whatever else there is. What only stands against another object may be right
/// as soon as that goes, in whichever order somebody applies things; and what nodes do not
/// enforce may be meant for gateways of another make.
fn is_refused(code: Code) -> bool {
    matches!(
        code,
        Code::Invalid
            | Code::IdentityInvalid
            | Code::PortsWithoutSelector
            | Code::RootSelector
            | Code::StaticWithoutAddress
            | Code::TrustDomainDiffers
    )
}

fn worded(code: Code, field: &str, message: &str) -> String {
    let place = if field.is_empty() {
        String::new()
    } else {
        format!("{field}: ")
    };
    let advice = code.advice();
    format!("{place}{message} ({}). {advice}", code.as_str())
}

/// At most `most` characters, none of which could lead a terminal or a header astray.
fn cut(text: &str, most: usize) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(most).collect()
}
