use std::sync::{Arc, Mutex};

use agent_model::gateway::GatewayKey;
use agent_xds::BoundPod;
use agent_xds::server::Taken;
use serde_json::Value;

use super::*;

/// Notes patches and fails as told.
#[derive(Default)]
struct Marks {
    made: Mutex<Vec<String>>,
    failures: Mutex<u32>,
}

impl MarkPods for Arc<Marks> {
    async fn mark(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        annotations: Value,
    ) -> Result<(), String> {
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err("unavailable".to_owned());
        }
        let text = annotations[CONFIGURATION].as_str().unwrap_or("nothing");
        let made = format!("{namespace}/{name}/{uid} {text}");
        self.made.lock().unwrap().push(made);
        Ok(())
    }
}

fn stream(pod: Option<&str>, version: Option<&str>) -> GatewayStream {
    GatewayStream {
        key: GatewayKey::new("shop", "edge"),
        pod: pod.map(|name| BoundPod {
            name: name.into(),
            uid: format!("u-{name}").into(),
        }),
        taken: Taken {
            gateway: version.map(str::to_owned),
            ..Taken::default()
        },
    }
}

fn text(version: &str) -> String {
    TakenNote::of(&stream(None, Some(version)).taken)
        .unwrap()
        .text()
}

fn noting() -> (Noting<Arc<Marks>>, Arc<Marks>) {
    let marks = Arc::new(Marks::default());
    let noting = Noting::new(Arc::clone(&marks), ConnectedNodes::default());
    (noting, marks)
}

#[tokio::test(start_paused = true)]
async fn each_pod_is_noted_once_and_again_when_it_comes_back() {
    let (mut noting, marks) = noting();
    let made = || std::mem::take(&mut *marks.made.lock().unwrap());
    let both = [stream(Some("a"), Some("1")), stream(Some("b"), None)];
    assert_eq!(noting.round(&both).await, None);
    assert_eq!(made(), [format!("shop/a/u-a {}", text("1"))]);
    assert_eq!(noting.round(&both).await, None);
    assert_eq!(made(), [""; 0], "nothing new");
    // Somebody else may have noted something meanwhile.
    assert_eq!(noting.round(&both[1..]).await, None);
    assert_eq!(noting.round(&both).await, None);
    assert_eq!(made(), [format!("shop/a/u-a {}", text("1"))]);
    let unknown = [stream(None, Some("1"))];
    assert_eq!(noting.round(&unknown).await, None);
    assert_eq!(made(), [""; 0], "nobody knows its pod");
}

#[tokio::test(start_paused = true)]
async fn the_youngest_stream_of_a_pod_that_says_something_counts() {
    let (mut noting, marks) = noting();
    let streams = [
        stream(Some("a"), Some("1")),
        stream(Some("a"), Some("2")),
        stream(Some("a"), None),
    ];
    noting.round(&streams).await;
    let made = [format!("shop/a/u-a {}", text("2"))];
    assert_eq!(*marks.made.lock().unwrap(), made);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_changes_often_and_a_cluster_that_fails_are_not_hurried() {
    let (mut noting, marks) = noting();
    let begun = Instant::now();
    let mut due = None;
    for number in 0..100 {
        due = noting
            .round(&[stream(Some("a"), Some(&number.to_string()))])
            .await;
    }
    assert_eq!(marks.made.lock().unwrap().len(), 1);
    assert_eq!(due, Some(begun + REST));
    sleep_until(begun + REST).await;
    let last = [stream(Some("a"), Some("99"))];
    assert_eq!(noting.round(&last).await, None);
    let newest = format!("shop/a/u-a {}", text("99"));
    assert_eq!(marks.made.lock().unwrap().last(), Some(&newest));

    *marks.failures.lock().unwrap() = 1;
    let other = [stream(Some("b"), Some("1"))];
    let retry = noting.round(&other).await.unwrap();
    assert!(retry > Instant::now() + RETRY - PACE * 2);
    assert_eq!(noting.round(&other).await, Some(retry));
    sleep_until(retry).await;
    assert_eq!(noting.round(&other).await, None);
    assert_eq!(marks.made.lock().unwrap().len(), 3);
}
