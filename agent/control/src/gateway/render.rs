//! Statuses as the API has them, among what others have written into them.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::status::{ListenerStatus, ObjectStatus, ParentStatus};
use crate::condition::{Condition, merged};
use crate::source::gateway_api::CONTROLLER;

/// Types of conditions that are ours; all others are left as they are.
const OURS: [&str; 7] = [
    "Accepted",
    "Programmed",
    "ResolvedRefs",
    "Conflicted",
    "OverlappingTLSConfig",
    "InsecureFrontendValidationMode",
    "PartiallyInvalid",
];

/// The fields of a status that are to be written over `current`; `None` when they are there.
pub(crate) fn patch(
    current: &Value,
    status: &ObjectStatus,
    generation: i64,
    now: Timestamp,
) -> Option<Value> {
    let fields = rendered(current, status, generation, Some(now));
    let is_there = |(key, value): (&String, &Value)| same(&current[key], value);
    let is_same = fields
        .as_object()
        .is_some_and(|fields| fields.iter().all(is_there));
    (!is_same).then_some(fields)
}

/// An empty list need not be there.
fn same(current: &Value, wanted: &Value) -> bool {
    let is_nothing = |value: &Value| {
        value.is_null() || *value == json!(0) || value.as_array().is_some_and(Vec::is_empty)
    };
    current == wanted || (is_nothing(current) && is_nothing(wanted))
}

/// The fields of a status, whole: what others have written into them is kept. Without `now` times
/// are left out.
pub(crate) fn rendered(
    current: &Value,
    status: &ObjectStatus,
    generation: i64,
    now: Option<Timestamp>,
) -> Value {
    let rendering = Rendering { generation, now };
    match status {
        ObjectStatus::Class {
            conditions,
            features,
        } => {
            let features = features.iter().map(|name| json!({ "name": name }));
            json!({
                "conditions": rendering.conditions(current, conditions),
                "supportedFeatures": features.collect::<Vec<_>>(),
            })
        }
        ObjectStatus::Gateway {
            conditions,
            listeners,
            attached_sets,
            addresses,
        } => json!({
            "conditions": rendering.conditions(current, conditions),
            "listeners": rendering.listeners(current, listeners),
            "attachedListenerSets": attached_sets,
            "addresses": addresses,
        }),
        ObjectStatus::ListenerSet {
            conditions,
            listeners,
        } => json!({
            "conditions": rendering.conditions(current, conditions),
            "listeners": rendering.listeners(current, listeners),
        }),
        ObjectStatus::Route { parents } => {
            json!({ "parents": rendering.parents(&current["parents"], "parentRef", parents) })
        }
        ObjectStatus::Policy { ancestors } => {
            let ancestors = rendering.parents(&current["ancestors"], "ancestorRef", ancestors);
            json!({ "ancestors": ancestors })
        }
    }
}

#[derive(Clone, Copy)]
struct Rendering {
    generation: i64,
    now: Option<Timestamp>,
}

impl Rendering {
    fn conditions(self, within: &Value, wanted: &[Condition]) -> Vec<Value> {
        let current = within["conditions"].as_array();
        let current = current.map_or(&[][..], Vec::as_slice);
        merged(current, wanted, &OURS, self.generation, self.now)
    }

    fn listeners(self, status: &Value, wanted: &[ListenerStatus]) -> Vec<Value> {
        let current = status["listeners"].as_array();
        let current = current.map_or(&[][..], Vec::as_slice);
        let listeners = wanted.iter().map(|listener| {
            let before = current.iter().find(|of| of["name"] == *listener.name);
            json!({
                "name": listener.name,
                "supportedKinds": listener.supported_kinds,
                "attachedRoutes": listener.attached,
                "conditions": self.conditions(before.unwrap_or(&Value::Null), &listener.conditions),
            })
        });
        listeners.collect()
    }

    /// Entries of other controllers first, as they are.
    fn parents(self, current: &Value, field: &str, wanted: &[ParentStatus]) -> Vec<Value> {
        let current = current.as_array().map_or(&[][..], Vec::as_slice);
        let is_ours = |entry: &&Value| entry["controllerName"] == CONTROLLER;
        let others = current.iter().filter(|entry| !is_ours(entry)).cloned();
        let ours = wanted.iter().map(|parent| {
            let reference = json!(parent.parent);
            let mut entries = current.iter().filter(is_ours);
            let before = entries.find(|entry| entry[field] == reference);
            let conditions = self.conditions(before.unwrap_or(&Value::Null), &parent.conditions);
            let mut entry = Map::new();
            entry.insert(field.to_owned(), reference);
            entry.insert("controllerName".to_owned(), json!(CONTROLLER));
            entry.insert("conditions".to_owned(), json!(conditions));
            Value::Object(entry)
        });
        others.chain(ours).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::gateway_api::ParentRef;

    fn now() -> Timestamp {
        "2026-05-01T00:00:00Z".parse().unwrap()
    }

    fn parent(name: &str, is_accepted: bool) -> ParentStatus {
        ParentStatus {
            parent: ParentRef {
                name: name.to_owned(),
                ..ParentRef::default()
            },
            conditions: vec![Condition::new("Accepted", is_accepted, "Accepted", "m")],
        }
    }

    fn route(parents: Vec<ParentStatus>) -> ObjectStatus {
        ObjectStatus::Route { parents }
    }

    fn foreign() -> Value {
        json!({
            "parentRef": {"name": "g"}, "controllerName": "example.com/other",
            "conditions": [{"type": "Accepted", "status": "False", "reason": "Foreign"}],
        })
    }

    #[test]
    fn what_other_controllers_say_stays() {
        let before = json!({
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "m",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let unknown = json!({"type": "example.com/Mood", "status": "True"});
        let current = json!({"parents": [foreign(), {
            "parentRef": {"name": "g"}, "controllerName": CONTROLLER,
            "conditions": [before, unknown],
        }, {
            "parentRef": {"name": "gone"}, "controllerName": CONTROLLER, "conditions": [],
        }]});
        let status = route(vec![parent("g", true), parent("h", false)]);
        let patched = patch(&current, &status, 2, now()).unwrap();
        let parents = patched["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 3);
        assert_eq!(parents[0], foreign());
        let own = parents[1]["conditions"].as_array().unwrap();
        assert_eq!(own[0], unknown);
        // The status has not changed since then, whatever the generation.
        assert_eq!(own[1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(own[1]["observedGeneration"], 2);
        assert_eq!(parents[2]["parentRef"]["name"], "h");
        assert_eq!(
            parents[2]["conditions"][0]["lastTransitionTime"],
            "2026-05-01T00:00:00Z"
        );
        // It is there now, and nothing is to be written.
        assert_eq!(patch(&patched, &status, 2, now()), None);
    }

    #[test]
    fn only_ours_is_taken_back() {
        let current = json!({"parents": [foreign(), {
            "parentRef": {"name": "g"}, "controllerName": CONTROLLER, "conditions": [],
        }]});
        let patched = patch(&current, &route(Vec::new()), 1, now()).unwrap();
        assert_eq!(patched, json!({"parents": [foreign()]}));
        assert_eq!(patch(&patched, &route(Vec::new()), 1, now()), None);
        assert_eq!(patch(&Value::Null, &route(Vec::new()), 1, now()), None);
    }

    #[test]
    fn listeners_keep_conditions_of_others_and_go_with_their_entry() {
        let listener = |name: &str| ListenerStatus {
            name: name.to_owned(),
            supported_kinds: Vec::new(),
            attached: 0,
            conditions: vec![Condition::new("Accepted", true, "Accepted", "m")],
        };
        let status = ObjectStatus::ListenerSet {
            conditions: Vec::new(),
            listeners: vec![listener("a")],
        };
        let unknown = json!({"type": "example.com/Mood", "status": "True"});
        let current = json!({"listeners": [
            {"name": "b", "conditions": []}, {"name": "a", "conditions": [unknown]},
        ]});
        let patched = patch(&current, &status, 1, now()).unwrap();
        let listeners = patched["listeners"].as_array().unwrap();
        assert_eq!(listeners.len(), 1);
        assert_eq!(listeners[0]["conditions"][0], unknown);
    }
}
