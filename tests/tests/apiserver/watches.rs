//! Watches: by hand, and through the watcher that controllers use.

use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{WatchEvent, WatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tests::apiserver::{ApiServer, Options};
use tokio::time::timeout;

use crate::{client, code, pod};

const SOON: Duration = Duration::from_secs(20);

fn map(name: &str, value: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "shop", "name": name, "labels": {"value": value}},
        "data": {"value": value},
    })
    .to_string()
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> S::Item {
    timeout(SOON, stream.next())
        .await
        .expect("an event soon")
        .expect("the stream goes on")
}

/// Kind, name and version of an event.
fn told(event: &WatchEvent<ConfigMap>) -> (&'static str, String, u64) {
    let of = |map: &ConfigMap| {
        (
            map.name_any(),
            map.resource_version().unwrap().parse().unwrap(),
        )
    };
    match event {
        WatchEvent::Added(map) => ("added", of(map).0, of(map).1),
        WatchEvent::Modified(map) => ("modified", of(map).0, of(map).1),
        WatchEvent::Deleted(map) => ("deleted", of(map).0, of(map).1),
        WatchEvent::Bookmark(mark) => {
            let end = mark
                .metadata
                .annotations
                .contains_key("k8s.io/initial-events-end");
            let name = if end { "end" } else { "" };
            (
                "bookmark",
                name.to_owned(),
                mark.metadata.resource_version.parse().unwrap(),
            )
        }
        WatchEvent::Error(status) => ("error", status.reason.clone(), u64::from(status.code)),
    }
}

#[tokio::test]
async fn a_watch_tells_changes_in_order_and_says_how_far_it_is() {
    let server = ApiServer::start().unwrap();
    server.put(&map("old", "1")).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "shop");
    let start = server.version().to_string();
    let mut watch = Box::pin(maps.watch(&WatchParams::default(), &start).await.unwrap());
    server.put(&map("a", "1")).unwrap();
    server.put(&map("a", "2")).unwrap();
    server.remove(&map("a", "2")).unwrap();
    let mut last = start.parse().unwrap();
    for what in ["added", "modified", "deleted"] {
        let (kind, name, version) = told(&next(&mut watch).await.unwrap());
        assert_eq!((kind, name.as_str()), (what, "a"));
        assert!(version > last, "{version} after {last}");
        last = version;
    }
    // Something else moves on: the bookmark says so.
    server.put_value(pod("shop", "web", "node-1")).unwrap();
    server.bookmark();
    let bookmark = told(&next(&mut watch).await.unwrap());
    assert_eq!(bookmark, ("bookmark", String::new(), server.version()));
}

#[tokio::test]
async fn an_object_enters_and_leaves_a_selection() {
    let server = ApiServer::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "shop");
    let params = WatchParams::default().labels("value=1");
    let mut watch = Box::pin(
        maps.watch(&params, &server.version().to_string())
            .await
            .unwrap(),
    );
    for value in ["0", "1", "2"] {
        server.put(&map("a", value)).unwrap();
    }
    assert_eq!(told(&next(&mut watch).await.unwrap()).0, "added");
    let (kind, _, version) = told(&next(&mut watch).await.unwrap());
    assert_eq!((kind, version), ("deleted", server.version()));
}

#[tokio::test]
async fn a_watch_ends_after_its_time_with_a_bookmark() {
    let server = ApiServer::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "shop");
    let params = WatchParams::default().timeout(1);
    let watch = maps
        .watch(&params, &server.version().to_string())
        .await
        .unwrap();
    let all: Vec<_> = timeout(SOON, watch.try_collect()).await.unwrap().unwrap();
    let last: &WatchEvent<ConfigMap> = all.last().unwrap();
    assert_eq!(told(last).0, "bookmark");
}

#[tokio::test]
async fn a_streaming_list_is_marked_at_its_end() {
    let server = ApiServer::start().unwrap();
    for name in ["a", "b"] {
        server.put(&map(name, "1")).unwrap();
    }
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "shop");
    let params = WatchParams::streaming_lists().labels("value");
    let mut watch = Box::pin(maps.watch(&params, "0").await.unwrap());
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (kind, name, _) = told(&next(&mut watch).await.unwrap());
        seen.push(format!("{kind} {name}"));
    }
    assert_eq!(seen, ["added a", "added b", "bookmark end"]);
    server.put(&map("c", "1")).unwrap();
    assert_eq!(told(&next(&mut watch).await.unwrap()).1, "c");
}

#[tokio::test]
async fn an_old_version_is_gone_but_a_running_watch_goes_on() {
    let server = ApiServer::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "shop");
    server.put(&map("a", "1")).unwrap();
    let old = server.version().to_string();
    let params = WatchParams::default();
    let mut running = Box::pin(maps.watch(&params, &old).await.unwrap());
    server.compact();
    let mut late = Box::pin(maps.watch(&params, &old).await.unwrap());
    let end = told(&next(&mut late).await.unwrap());
    assert_eq!(end, ("error", "Expired".to_owned(), 410));
    server.gone_as_status(true);
    let refused = maps.watch(&params, &old).await.map(|_| ());
    assert_eq!(code(refused), (410, "Expired".to_owned()));
    server.put(&map("b", "1")).unwrap();
    assert_eq!(told(&next(&mut running).await.unwrap()).1, "b");
}

#[tokio::test]
async fn a_watch_that_lost_its_history_ends_with_an_error_event() {
    let server = ApiServer::start_with(&Options {
        history: 3,
        ..Options::default()
    })
    .unwrap();
    server.put(&map("a", "0")).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "shop");
    let version = server.version().to_string();
    server.stall_watches(true);
    let mut watch = Box::pin(maps.watch(&WatchParams::default(), &version).await.unwrap());
    for value in 1..=5 {
        server.put(&map("a", &value.to_string())).unwrap();
    }
    server.stall_watches(false);
    let end = told(&next(&mut watch).await.unwrap());
    assert_eq!(end, ("error", "Expired".to_owned(), 410));
    assert!(timeout(SOON, watch.next()).await.unwrap().is_none());
}

/// Waits until a watcher was told of exactly these names, from now on or from its last list on.
async fn settle(
    stream: &mut (impl Stream<Item = watcher::Result<watcher::Event<ConfigMap>>> + Unpin),
    wanted: &[&str],
) {
    let mut names = std::collections::BTreeSet::new();
    loop {
        // Errors on the way are what the watcher recovers from.
        match next(stream).await {
            Ok(watcher::Event::Init) => names.clear(),
            Ok(watcher::Event::InitApply(map) | watcher::Event::Apply(map)) => {
                names.insert(map.name_any());
            }
            Ok(watcher::Event::Delete(map)) => {
                names.remove(&map.name_any());
            }
            Ok(watcher::Event::InitDone) | Err(_) => {}
        }
        names.remove("kube-root-ca.crt");
        if names.iter().eq(wanted) {
            return;
        }
    }
}

#[tokio::test]
async fn the_watcher_survives_what_a_server_does_to_it() {
    let server = ApiServer::start().unwrap();
    server.put(&map("a", "1")).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "shop");
    for config in [
        watcher::Config::default().page_size(1),
        watcher::Config::default().streaming_lists(),
    ] {
        let mut stream = Box::pin(watcher(maps.clone(), config).default_backoff());
        settle(&mut stream, &["a"]).await;
        server.put(&map("b", "1")).unwrap();
        settle(&mut stream, &["b"]).await;
        server.drop_watches();
        server.put(&map("c", "1")).unwrap();
        settle(&mut stream, &["c"]).await;
        // The version it knows expires while it is away: it lists anew.
        server.down().unwrap();
        server.remove(&map("b", "1")).unwrap();
        server.remove(&map("c", "1")).unwrap();
        server.compact();
        server.up().unwrap();
        settle(&mut stream, &["a"]).await;
    }
}

#[tokio::test]
async fn metadata_is_watched_alone() {
    let server = ApiServer::start().unwrap();
    server.put_value(pod("shop", "web", "node-1")).unwrap();
    let pods: Api<PartialObjectMeta<Pod>> = Api::all(client(&server).await);
    let stream = watcher(pods, watcher::Config::default()).applied_objects();
    let mut stream = Box::pin(stream);
    assert_eq!(next(&mut stream).await.unwrap().name_any(), "web");
    server.put_value(pod("shop", "db", "node-1")).unwrap();
    assert_eq!(next(&mut stream).await.unwrap().name_any(), "db");
}
