//! Notes on the pods of gateways what each has taken, as the replica that writes statuses does not
//! see the streams of others. Each replica writes for the pods whose streams it has. Level-triggered:
//! what differs from what was written last is written, at a bounded rate, and nobody waits for it.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_net::drain;
use agent_xds::server::{ConnectedNodes, GatewayStream};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use crate::gateway::{CONFIGURATION, TakenNote};
use crate::nodes::MarkPods;

/// Changes that follow each other this closely are written together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Between two patches; at most 50 a second.
const PACE: Duration = Duration::from_millis(20);
/// Between two patches of one pod: what it refuses is its own word.
const REST: Duration = Duration::from_secs(2);
/// Until what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The writer.
pub(crate) struct Noting<M> {
    marks: M,
    streams: ConnectedNodes,
    /// What was tried last, by pod, for as long as its stream is here: from another replica it may
    /// come back with another note.
    tried: BTreeMap<Key, Tried>,
}

/// Namespace, name, UID.
type Key = (String, String, String);

struct Tried {
    /// `None` when it could not be written.
    text: Option<String>,
    /// When it may be tried again.
    next: Instant,
}

impl<M: MarkPods> Noting<M> {
    pub(crate) fn new(marks: M, streams: ConnectedNodes) -> Self {
        Self {
            marks,
            streams,
            tried: BTreeMap::new(),
        }
    }

    /// Writes until the drain begins.
    pub(crate) async fn run(mut self, mut drain: drain::Watcher) {
        let mut changes = self.streams.gateway_changes();
        loop {
            let streams = self.streams.gateways();
            let next = tokio::select! {
                () = drain.signalled() => return,
                next = self.round(&streams) => next,
            };
            let later = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                () = drain.signalled() => return,
                changed = changes.changed() => changed,
                () = later => Ok(()),
            };
            if changed.is_err() {
                return;
            }
            sleep(DEBOUNCE).await;
        }
    }

    /// Writes what differs; returns when something is to be written later.
    async fn round(&mut self, streams: &[GatewayStream]) -> Option<Instant> {
        let wanted = wanted(streams);
        self.tried.retain(|key, _| wanted.contains_key(key));
        let mut later: Option<Instant> = None;
        for (key, note) in wanted {
            let Some(text) = note.map(|note| note.text()) else {
                continue;
            };
            if let Some(tried) = self.tried.get(&key) {
                if tried.text.as_ref() == Some(&text) {
                    continue;
                }
                if tried.next > Instant::now() {
                    later = Some(later.map_or(tried.next, |later| later.min(tried.next)));
                    continue;
                }
            }
            let (namespace, name, uid) = &key;
            let annotations = json!({ CONFIGURATION: text });
            let result = self.marks.mark(namespace, name, uid, annotations).await;
            let tried = match result {
                Ok(()) => Tried {
                    text: Some(text),
                    next: Instant::now() + REST,
                },
                Err(error) => {
                    warn!(
                        namespace,
                        name, error, "what a gateway has taken is not noted"
                    );
                    let next = Instant::now() + RETRY;
                    later = Some(later.map_or(next, |later| later.min(next)));
                    Tried { text: None, next }
                }
            };
            self.tried.insert(key, tried);
            sleep(PACE).await;
        }
        later
    }
}

/// What is to stand on each pod that has a stream here. Of several streams the youngest that has
/// something to say counts.
fn wanted(streams: &[GatewayStream]) -> BTreeMap<Key, Option<TakenNote>> {
    let mut wanted = BTreeMap::new();
    for stream in streams {
        let Some(pod) = &stream.pod else { continue };
        let namespace = stream.key.namespace.to_string();
        let key = (namespace, pod.name.to_string(), pod.uid.to_string());
        let note: &mut Option<TakenNote> = wanted.entry(key).or_default();
        *note = TakenNote::of(&stream.taken).or(note.take());
    }
    wanted
}

#[cfg(test)]
mod tests;
