//! A running watch: changes as lines, bookmarks, its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::failure::Failure;
use super::reads::Watch;
use super::shared::Shared;
use super::store::Object;

/// Changes told in one piece.
const BATCH: usize = 500;

/// Pieces of a response's body.
pub(super) type Pieces = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

/// Runs a watch until its time is over, its client is gone, or a fault ends it.
pub(super) async fn run(shared: Arc<Shared>, mut watch: Watch, pieces: Pieces) {
    let mut dropped = shared.signals.drop_watches.subscribe();
    let mut silenced = shared.signals.silenced.subscribe();
    let id = shared.register();
    watch.id = id;
    let closed = pieces.clone();
    tokio::select! {
        // Silence is before what happens after it.
        biased;
        () = fallen(&mut silenced) => tokio::select! {
            _ = dropped.changed() => {}
            () = closed.closed() => {}
            _ = silenced.wait_for(|silenced| !silenced) => {}
        },
        _ = dropped.changed() => {}
        () = closed.closed() => {}
        () = tell(&shared, &mut watch, &pieces) => {}
    }
    shared.signals.watches.send_modify(|running| {
        running.remove(&id);
    });
}

/// Completes when the watches that run now fall silent; one that begins later is none of them.
async fn fallen(silenced: &mut tokio::sync::watch::Receiver<bool>) {
    while silenced.changed().await.is_ok() {
        if *silenced.borrow_and_update() {
            return;
        }
    }
    std::future::pending().await
}

async fn tell(shared: &Shared, watch: &mut Watch, pieces: &Pieces) {
    let mut versions = shared.world().store.subscribe();
    let mut stalled = shared.signals.stalled.subscribe();
    let mut asked = shared.signals.bookmark.subscribe();
    let end = Instant::now() + watch.life;
    if let Some(failure) = &watch.expired {
        send(pieces, error(failure)).await;
        return;
    }
    let initial = std::mem::take(&mut watch.initial);
    if stalled.wait_for(|stalled| !stalled).await.is_err()
        || !tell_initial(watch, &initial, pieces).await
    {
        return;
    }
    drop(initial);
    let mut bookmark_at = Instant::now() + shared.bookmark_every;
    loop {
        match news(shared, watch) {
            News::Nothing => shared.progress(watch.id, watch.position),
            News::Lines(lines) => {
                if !send(pieces, lines).await {
                    return;
                }
                continue;
            }
            News::End(line) => {
                send(pieces, line).await;
                return;
            }
        }
        let now = tokio::select! {
            changed = versions.changed() => {
                if changed.is_err() {
                    return;
                }
                false
            }
            _ = asked.changed() => true,
            () = sleep_until(bookmark_at) => true,
            () = sleep_until(end) => {
                // The last thing a watch says is how far it got.
                if !*stalled.borrow() {
                    bookmark(watch, pieces).await;
                    return;
                }
                false
            }
        };
        if stalled.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
        if now {
            bookmark_at = Instant::now() + shared.bookmark_every;
            // Only when nothing is left to tell before it.
            if matches!(news(shared, watch), News::Nothing) && !bookmark(watch, pieces).await {
                return;
            }
        }
    }
}

/// What a watch has to say next.
enum News {
    Nothing,
    Lines(String),
    /// The last line.
    End(String),
}

fn news(shared: &Shared, watch: &mut Watch) -> News {
    let world = shared.world();
    let kind = &watch.view.kind;
    let resource = kind.resource();
    let changes = match world.store.since(&resource, watch.position, BATCH) {
        Ok(changes) => changes,
        Err(failure) => return News::End(error(&failure)),
    };
    let Some(last) = changes.last() else {
        // Nothing of this resource: the watch is as new as the store.
        watch.position = watch.position.max(world.store.version());
        if world.kinds.find(&kind.group, &kind.plural).is_none() {
            return News::End(String::new());
        }
        return News::Nothing;
    };
    watch.position = last.version;
    drop(world);
    let lines: String = changes
        .iter()
        .filter_map(|change| {
            watch
                .view
                .change(change, |object| watch.selector.matches(object))
        })
        .collect();
    News::Lines(lines)
}

fn error(failure: &Failure) -> String {
    let line = json!({"type": "ERROR", "object": failure.status()});
    format!("{line}\n")
}

async fn tell_initial(watch: &Watch, initial: &[Object], pieces: &Pieces) -> bool {
    for objects in initial.chunks(BATCH) {
        let lines: String = objects
            .iter()
            .map(|object| watch.view.event("ADDED", object))
            .collect();
        if !send(pieces, lines).await {
            return false;
        }
    }
    !watch.mark_initial || send(pieces, watch.view.bookmark(watch.position, true)).await
}

async fn bookmark(watch: &Watch, pieces: &Pieces) -> bool {
    !watch.bookmarks || send(pieces, watch.view.bookmark(watch.position, false)).await
}

async fn send(pieces: &Pieces, lines: String) -> bool {
    lines.is_empty()
        || pieces
            .send(Ok(Frame::data(Bytes::from(lines))))
            .await
            .is_ok()
}

/// Waits as long as requests shall be slow; shorter when that is ended.
pub(super) async fn be_slow(shared: &Shared) {
    let mut hurry = shared.signals.hurry.subscribe();
    let start = Instant::now();
    loop {
        let latency = shared.faults().latency;
        let left = latency.saturating_sub(start.elapsed());
        if left == Duration::ZERO {
            return;
        }
        // Either the time is over, or it has to be looked at again.
        let _timeout = tokio::time::timeout(left, hurry.changed()).await;
    }
}
