//! How objects are written into answers: with the type that was asked for, whole or as metadata
//! alone.

use std::sync::Arc;

use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::Kind;
use super::store::{Change, Key, Object, Page};

/// The version and form that a request wants.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) kind: Arc<Kind>,
    api_version: String,
    partial: bool,
}

impl View {
    pub(super) fn new(kind: &Arc<Kind>, version: &str, accept: &str) -> Self {
        Self {
            kind: Arc::clone(kind),
            api_version: kind.api_version(version),
            partial: accept.contains("as=PartialObjectMetadata"),
        }
    }

    /// A single object.
    pub(super) fn object(&self, object: &Value) -> String {
        let mut text = String::new();
        self.write(&mut text, object, true);
        text
    }

    /// A list of objects. Items of built-in resources come without their type, as they do from
    /// every API server.
    pub(super) fn list(&self, page: &Page) -> String {
        let (kind, api_version) = if self.partial {
            ("PartialObjectMetadata", "meta.k8s.io/v1")
        } else {
            (self.kind.kind.as_str(), self.api_version.as_str())
        };
        let mut metadata = json!({"resourceVersion": page.version.to_string()});
        if let Some(rest) = &page.rest {
            metadata["continue"] = json!(continue_token(page.version, rest));
        }
        let mut text = format!(
            "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\
             \"items\":["
        );
        for (index, item) in page.items.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            self.write(&mut text, item, self.partial || self.kind.custom.is_some());
        }
        text.push_str("]}");
        text
    }

    /// One line of a watch.
    pub(super) fn event(&self, what: &str, object: &Value) -> String {
        let mut text = format!("{{\"type\":\"{what}\",\"object\":");
        self.write(&mut text, object, true);
        text.push_str("}\n");
        text
    }

    /// The line of a watch that says how far it got.
    pub(super) fn bookmark(&self, version: u64, initial_end: bool) -> String {
        let mut object = json!({"metadata": {"resourceVersion": version.to_string()}});
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.event("BOOKMARK", &object)
    }

    /// The line for a change as a watch with this selection sees it.
    pub(super) fn change(
        &self,
        change: &Change,
        matches: impl Fn(&Value) -> bool,
    ) -> Option<String> {
        let seen =
            |object: &Option<Object>| object.as_ref().filter(|object| matches(object)).cloned();
        match (seen(&change.before), seen(&change.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(self.event("ADDED", &after)),
            (Some(_), Some(after)) => Some(self.event("MODIFIED", &after)),
            (Some(before), None) => {
                let mut last = Value::clone(&before);
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                Some(self.event("DELETED", &last))
            }
        }
    }

    fn write(&self, text: &mut String, object: &Value, typed: bool) {
        if self.partial {
            text.push_str("{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
            text.push_str(&object["metadata"].to_string());
            text.push('}');
            return;
        }
        let fields = object.to_string();
        if typed {
            text.push_str(&format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",",
                self.kind.kind, self.api_version
            ));
            text.push_str(&fields[1..]);
        } else {
            text.push_str(&fields);
        }
    }
}

fn continue_token(version: u64, after: &Key) -> String {
    use base64::Engine as _;
    let token = json!({"v": version, "k": [after.0, after.1]});
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token.to_string())
}

/// The version and key that a continue token stands for.
pub(super) fn read_continue(token: &str) -> Result<(u64, Key), Failure> {
    use base64::Engine as _;
    let read = || {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(token)
            .ok()?;
        let value: Value = serde_json::from_slice(&bytes).ok()?;
        let word = |index: usize| value["k"][index].as_str().map(str::to_owned);
        Some((value["v"].as_u64()?, (word(0)?, word(1)?)))
    };
    read().ok_or_else(|| Failure::bad_request("continue key is not valid"))
}
