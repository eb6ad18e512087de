//! What the pods of a Gateway have taken of it. A replica that has the discovery stream of a pod
//! notes it on the pod, where the one that writes statuses finds it; a stream of which nobody knows
//! the pod is heard of directly.

use std::collections::BTreeMap;

use agent_model::gateway::{Gateway as Handed, GatewayKey};
use agent_xds::server::{GatewayStream, Taken};
use agent_xds::{Catalog, ResourceType};
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{Fault, World, addresses, short_name};
use crate::source::kubernetes::Pod;

/// The note, on a pod.
pub(crate) const CONFIGURATION: &str = "culvert.dev/configuration";
/// Refused resources that a note names.
const MAX_NAMED: usize = 3;
/// Longest name of one of them, in bytes.
const MAX_NAME: usize = 600;

/// What one pod has taken, as it stands on the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Note {
    /// The listeners that it has acknowledged last, as [`mark`] has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    listeners: Option<String>,
    /// Why it refused newer ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    /// What else it refused, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    refused: BTreeMap<String, String>,
}

impl Note {
    /// `None` while there is nothing to note.
    pub(crate) fn of(taken: &Taken) -> Option<Self> {
        if *taken == Taken::default() {
            return None;
        }
        let mut note = Self {
            listeners: taken.gateway.as_deref().map(mark),
            ..Self::default()
        };
        for ((kind, name), reason) in &taken.refused {
            let name = name.split_once('|').map_or("", |(_, name)| name);
            let name = &name[..name.floor_char_boundary(MAX_NAME)];
            let what = match kind {
                ResourceType::Gateway => {
                    note.refusal = Some(reason.clone());
                    continue;
                }
                ResourceType::Access => format!("AuthorizationPolicy {name}"),
                ResourceType::Authentication => format!("RequestAuthentication {name}"),
                ResourceType::TrafficPolicy => format!("TrafficPolicy {name}"),
                ResourceType::Backend => format!("backend {name}"),
                ResourceType::Route | ResourceType::Address | ResourceType::Authorization => {
                    name.replacen('/', " ", 1)
                }
            };
            if note.refused.len() < MAX_NAMED {
                note.refused.insert(what, reason.clone());
            }
        }
        Some(note)
    }

    /// What stands on the pod.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// `None` on a pod without one, and where it is not ours.
    fn on(pod: &Pod) -> Option<Self> {
        let text = pod.metadata.annotations.get(CONFIGURATION)?;
        serde_json::from_str(text).ok()
    }
}

/// Names a version where everybody may read it: the version is a hash of what includes private
/// keys, and none that is meant to keep a secret.
fn mark(version: &str) -> String {
    let hash = digest(&SHA256, version.as_bytes());
    let bytes = hash.as_ref().iter().take(8);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// What is heard of gateways of whose pods nobody knows.
pub(crate) type Heard = BTreeMap<GatewayKey, Vec<Note>>;

/// Of all streams of this replica.
pub(crate) fn heard(streams: &[GatewayStream]) -> Heard {
    let mut heard = Heard::new();
    for stream in streams.iter().filter(|stream| stream.pod.is_none()) {
        if let Some(note) = Note::of(&stream.taken) {
            heard.entry(stream.key.clone()).or_default().push(note);
        }
    }
    heard
}

/// What that means for a Gateway.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Why it is not in force.
    pub(super) fault: Option<Fault>,
    /// What is refused of it, or of what is attached to it.
    pub(super) remark: Option<String>,
}

/// Compares what a gateway is handed with what its pods have taken. One that is ready without a
/// note counts as one that has taken it, as it was not ready before; where there is none, there is
/// nothing to say.
pub(super) fn standing(world: &World<'_>, handed: &Handed) -> Standing {
    let key = &handed.key;
    let notes: Vec<(String, Option<Note>)> = match world.heard.get(key) {
        Some(heard) => {
            let heard = heard.iter();
            let named = heard.map(|note| ("a process of it".to_owned(), Some(note.clone())));
            named.collect()
        }
        None => of_pods(world, key),
    };
    if notes.is_empty() {
        return Standing::default();
    }
    let wanted = mark(&Catalog::version_of_gateway(handed));
    let is_taken = notes.iter().any(|(_, note)| match note {
        None => true,
        Some(note) => note.listeners.as_ref() == Some(&wanted),
    });
    let noted = || {
        let notes = notes.iter();
        notes.filter_map(|(who, note)| Some((who, note.as_ref()?)))
    };
    let refusal = noted().find_map(|(who, note)| {
        let why = note.refusal.as_ref()?;
        Some(format!("{who} refuses its listeners: {why}"))
    });
    let refused = noted().find_map(|(who, note)| {
        let (what, why) = note.refused.first_key_value()?;
        Some(format!("{who} refuses {what}: {why}"))
    });
    let fault = (!is_taken).then(|| match &refusal {
        Some(refusal) => Fault::new("Invalid", refusal.clone()),
        None => {
            let message = "no pod of it has acknowledged the last change yet";
            Fault::new("Pending", message)
        }
    });
    Standing {
        fault,
        remark: refusal.or(refused),
    }
}

/// Those that are ready, each with its note.
fn of_pods(world: &World<'_>, key: &GatewayKey) -> Vec<(String, Option<Note>)> {
    let Some(objects) = world.objects.get(&key.namespace) else {
        return Vec::new();
    };
    let name = short_name(&key.name);
    let ready = addresses::ready_pods(objects, &name);
    ready
        .map(|pod| (format!("pod {}", pod.metadata.name), Note::on(pod)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(refused: &[(ResourceType, &str)]) -> Taken {
        let refused = refused.iter();
        Taken {
            gateway: Some("cafe".to_owned()),
            refused: refused
                .map(|(kind, name)| ((*kind, (*name).to_owned()), "why".to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_note_says_what_is_refused_in_the_words_of_its_author() {
        assert_eq!(Note::of(&Taken::default()), None);
        let note = Note::of(&taken(&[])).unwrap();
        assert_eq!(note.text(), format!("{{\"listeners\":{:?}}}", mark("cafe")));
        let note = Note::of(&taken(&[
            (ResourceType::Gateway, "shop/edge"),
            (ResourceType::Route, "shop/edge|HTTPRoute/shop/web"),
            (ResourceType::Access, "shop/edge|shop/p"),
            (ResourceType::TrafficPolicy, "shop/edge|shop/p"),
        ]))
        .unwrap();
        assert_eq!(note.refusal.as_deref(), Some("why"));
        let refused: Vec<&str> = note.refused.keys().map(String::as_str).collect();
        let expected = [
            "AuthorizationPolicy shop/p",
            "HTTPRoute shop/web",
            "TrafficPolicy shop/p",
        ];
        assert_eq!(refused, expected);
    }

    #[test]
    fn a_note_is_short_whatever_is_refused() {
        let long = format!("shop/edge|{}", "ü".repeat(2000));
        let reason = "ü".repeat(128);
        let refused = (0..64).map(|number| {
            let name = format!("{long}{number}");
            ((ResourceType::Access, name), reason.clone())
        });
        let note = Note::of(&Taken {
            gateway: Some("cafe".to_owned()),
            refused: refused.collect(),
        });
        let text = note.unwrap().text();
        assert!(text.len() < 4096, "{}", text.len());
    }

    #[test]
    fn a_mark_is_the_same_at_every_replica_and_no_version() {
        assert_eq!(mark("cafe"), mark("cafe"));
        assert_ne!(mark("cafe"), mark("caff"));
        assert_eq!(mark("cafe").len(), 16);
    }
}
