pub(crate) mod api;

use std::collections::BTreeSet;
use std::time::Duration;

use agent_net::drain::{self, Drain};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{KubeSource, Progress};
use crate::source::{Batch, Effect, Event, Kind, ObjectRef};
use api::FakeApi;

const PODS: &str = "/api/v1/pods";
const POLICIES: &str = "/apis/security.istio.io/v1/authorizationpolicies";
const GATEWAYS: &str = "/apis/gateway.networking.k8s.io/v1/gateways";
const OLD_POLICIES: &str = "/apis/security.istio.io/v1beta1/authorizationpolicies";

/// A source that runs.
struct Running {
    batches: mpsc::Receiver<Batch>,
    progress: Progress,
    _drain: Drain,
}

impl Running {
    fn start(api: &FakeApi) -> Self {
        let source = KubeSource::new(api.client());
        let progress = source.progress();
        let (sender, batches) = mpsc::channel(1);
        let (drain, watcher) = drain::channel();
        tokio::spawn(source.run(sender, watcher));
        Self {
            batches,
            progress,
            _drain: drain,
        }
    }

    /// The next batch. On the test's clock, waiting costs nothing.
    async fn batch(&mut self) -> Batch {
        let batch = timeout(Duration::from_secs(600), self.batches.recv()).await;
        batch.unwrap().unwrap()
    }

    async fn is_silent(&mut self, for_: Duration) -> bool {
        timeout(for_, self.batches.recv()).await.is_err()
    }

    fn of_kind(&self, kind: &str) -> Value {
        let json = self.progress.json(std::time::SystemTime::now());
        let kinds = json["kinds"].as_array().unwrap();
        kinds.iter().find(|of| of["kind"] == kind).unwrap().clone()
    }
}

fn pod(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": "n1"}, "status": {"podIP": ip},
    })
}

fn policy(name: &str, port: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"ports": [port]}}]}]},
    })
}

fn named(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef::new(kind, "shop", name)
}

/// `+` what is applied, `-` what is deleted.
fn shown(batch: &Batch) -> BTreeSet<String> {
    let shown = batch.events.iter().map(|event| match event {
        Event::Apply(object) => format!("+{}", object.metadata().name),
        Event::Delete(reference) => format!("-{}", reference.name),
    });
    shown.collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_batch_is_everything() {
    let api = FakeApi::new();
    api.put(pod("web", "10.0.0.1"));
    api.put(policy("p", "80"));
    // One kind is late: nothing is said until it is complete.
    api.refuse(PODS, &[503, 500, 429]);
    let mut running = Running::start(&api);
    assert_eq!(shown(&running.batch().await), set(&["+p", "+web"]));
    assert_eq!(running.of_kind("Pod")["synced"], true);
    assert_eq!(running.of_kind("Pod")["objects"], 1);
    assert_eq!(running.of_kind("Pod")["failingSince"], Value::Null);

    api.put(pod("web", "10.0.0.2"));
    assert_eq!(shown(&running.batch().await), set(&["+web"]));
    api.delete(pod("web", ""));
    assert_eq!(shown(&running.batch().await), set(&["-web"]));
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_while_a_kind_cannot_be_listed() {
    let api = FakeApi::new();
    api.put(pod("web", "10.0.0.1"));
    api.refuse(POLICIES, &[403; 50]);
    let mut running = Running::start(&api);
    assert!(running.is_silent(Duration::from_secs(120)).await);
    let policies = running.of_kind("AuthorizationPolicy");
    assert_eq!(policies["synced"], false);
    assert!(policies["failingSince"].is_u64(), "{policies}");
    assert!(policies["error"].as_str().unwrap().contains("refused"));
    assert!(!running.batch().await.events.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kind_of_the_gateway_api_that_may_not_be_read_holds_nothing_up() {
    let api = FakeApi::new();
    api.put(pod("web", "10.0.0.1"));
    api.put(gateway("edge"));
    api.refuse(GATEWAYS, &[403; 3]);
    let mut running = Running::start(&api);
    assert_eq!(shown(&running.batch().await), set(&["+web"]));
    let gateways = running.of_kind("Gateway");
    assert_eq!(gateways["synced"], true);
    assert!(gateways["error"].as_str().unwrap().contains("refused"));
    // The right is given later.
    assert_eq!(shown(&running.batch().await), set(&["+g"]));
    assert_eq!(running.of_kind("Gateway")["error"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn what_vanished_while_nobody_watched_is_deleted() {
    let api = FakeApi::new();
    for name in ["a", "b"] {
        api.put(pod(name, "10.0.0.1"));
        api.put(policy(name, "80"));
    }
    let mut running = Running::start(&api);
    assert_eq!(running.batch().await.events.len(), 4);
    // The watches resume too late, are told 410 and list again; what did not change is no event.
    api.delete_unseen(pod("b", ""));
    api.delete_unseen(policy("a", ""));
    api.hang_up();
    let mut seen = shown(&running.batch().await);
    if seen.len() < 2 {
        seen.extend(shown(&running.batch().await));
    }
    assert_eq!(seen, set(&["-a", "-b"]));
    assert_eq!(running.of_kind("Pod")["restarts"], 1);
    assert!(running.is_silent(Duration::from_secs(300)).await);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_watch_goes_on_where_it_was() {
    let api = FakeApi::new();
    api.put(pod("a", "10.0.0.1"));
    let mut running = Running::start(&api);
    running.batch().await;
    api.hang_up();
    api.put(pod("b", "10.0.0.2"));
    assert_eq!(shown(&running.batch().await), set(&["+b"]));
    assert_eq!(running.of_kind("Pod")["restarts"], 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_keeps_the_last_state_and_is_said() {
    let api = FakeApi::new();
    api.put(pod("a", "10.0.0.1"));
    let mut running = Running::start(&api);
    running.batch().await;
    api.refuse(PODS, &[503; 40]);
    api.hang_up();
    assert!(running.is_silent(Duration::from_secs(60)).await);
    assert!(running.of_kind("Pod")["failingSince"].is_u64());
    // It comes back with nothing new to say, which is a recovery all the same.
    assert!(running.is_silent(Duration::from_secs(1800)).await);
    assert_eq!(running.of_kind("Pod")["failingSince"], Value::Null);
    assert_eq!(running.of_kind("Pod")["objects"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_object_stands_in_nobodys_way() {
    let api = FakeApi::new();
    api.put(policy("good", "80"));
    api.put(policy("bad", "eighty"));
    let mut running = Running::start(&api);
    let first = running.batch().await;
    assert_eq!(shown(&first), set(&["+good"]));
    let [problem] = &first.problems[..] else {
        panic!("{:?}", first.problems);
    };
    assert_eq!(
        problem.object,
        Some(named(Kind::AuthorizationPolicy, "bad"))
    );
    assert_eq!(problem.field, "spec.rules[0].to[0].operation.ports[0]");
    assert_eq!(problem.effect, Effect::NotApplied);
    assert!(
        problem
            .to_string()
            .starts_with("AuthorizationPolicy shop/bad: spec.rules[0]")
    );

    // The good one is spoilt: its last good version stays, also when the list is read again.
    api.put(policy("good", "eighty"));
    let spoilt = running.batch().await;
    assert_eq!(spoilt.events, []);
    let effects: Vec<Effect> = spoilt
        .problems
        .iter()
        .map(|problem| problem.effect)
        .collect();
    assert_eq!(effects, [Effect::NotApplied, Effect::LastGoodKept]);
    api.delete_unseen(policy("bad", ""));
    api.hang_up();
    let listed = running.batch().await;
    assert_eq!(listed.events, []);
    assert_eq!(listed.problems.len(), 1);

    // Repaired; and gone with its problem when it is deleted.
    api.put(policy("good", "81"));
    let repaired = running.batch().await;
    assert_eq!(
        (shown(&repaired), repaired.problems),
        (set(&["+good"]), vec![])
    );
    api.put(policy("good", "eighty"));
    assert_eq!(running.batch().await.problems.len(), 1);
    api.delete(policy("good", ""));
    let deleted = running.batch().await;
    assert_eq!(
        (shown(&deleted), deleted.problems),
        (set(&["-good"]), vec![])
    );
}

/// With a definition that keeps unknown fields, anybody who may write a policy can write this.
#[tokio::test(start_paused = true)]
async fn an_object_of_any_depth_stands_in_nobodys_way() {
    let mut deep = policy("deep", "80");
    let nested = (0..200).fold(json!(1), |inner, _| json!([inner]));
    deep["spec"]["nested"] = nested;
    let api = FakeApi::new();
    api.put(policy("good", "80"));
    api.put(deep.clone());
    let mut running = Running::start(&api);
    let first = running.batch().await;
    assert_eq!(shown(&first), set(&["+good"]));
    assert!(first.problems[0].message.contains("nested too deeply"));
    api.put(deep);
    api.put(policy("later", "80"));
    assert_eq!(shown(&running.batch().await), set(&["+later"]));
}

#[tokio::test(start_paused = true)]
async fn kinds_that_are_not_defined_are_looked_for() {
    let api = FakeApi::new();
    api.put(pod("a", "10.0.0.1"));
    api.undefine(POLICIES);
    api.undefine(OLD_POLICIES);
    let mut running = Running::start(&api);
    assert_eq!(shown(&running.batch().await), set(&["+a"]));
    let absent = running.of_kind("AuthorizationPolicy");
    assert_eq!(
        (&absent["absent"], &absent["failingSince"]),
        (&json!(true), &Value::Null)
    );
    assert!(running.is_silent(Duration::from_secs(300)).await);
    let asked = api.requests(POLICIES).len();
    assert!(
        (9..=12).contains(&asked),
        "asked {asked} times in five minutes"
    );

    // The definition appears, in the older version only.
    api.define(OLD_POLICIES);
    let mut old = policy("p", "80");
    old["apiVersion"] = json!("security.istio.io/v1beta1");
    api.put(old.clone());
    assert_eq!(shown(&running.batch().await), set(&["+p"]));
    assert_eq!(running.of_kind("AuthorizationPolicy")["absent"], false);

    // It goes without a word, and its objects go with it, but not at the first doubt.
    api.undefine(OLD_POLICIES);
    assert!(running.is_silent(Duration::from_secs(45)).await);
    assert_eq!(shown(&running.batch().await), set(&["-p"]));
}

#[tokio::test(start_paused = true)]
async fn a_kind_of_kubernetes_itself_is_never_absent() {
    let api = FakeApi::new();
    api.undefine(PODS);
    let mut running = Running::start(&api);
    assert!(running.is_silent(Duration::from_secs(120)).await);
    assert_eq!(running.of_kind("Pod")["absent"], false);
    api.define(PODS);
    running.batch().await;
}

#[tokio::test(start_paused = true)]
async fn lists_are_streams_or_pages() {
    for is_old in [false, true] {
        let api = FakeApi::new();
        if is_old {
            api.is_old(3);
        }
        let names: Vec<String> = (0..10).map(|number| format!("p{number}")).collect();
        names.iter().for_each(|name| api.put(pod(name, "10.0.0.1")));
        api.put(policy("policy", "80"));
        let mut running = Running::start(&api);
        assert_eq!(running.batch().await.events.len(), 11);
        let asked = api.requests(PODS);
        let pages = asked
            .iter()
            .filter(|request| request.contains("limit="))
            .count();
        assert!(asked[0].contains("sendInitialEvents=true"), "{asked:?}");
        assert_eq!(pages, if is_old { 4 } else { 0 }, "{asked:?}");
        // Policies are read consistently: no resourceVersion that allows an older state.
        let asked = api.requests(POLICIES);
        assert!(!asked[0].contains("resourceVersion"), "{asked:?}");
        api.put(pod("later", "10.0.0.9"));
        assert_eq!(shown(&running.batch().await), set(&["+later"]));
    }
}

/// A streamed list may be older than what is known, and what came since would be taken for gone.
#[tokio::test(start_paused = true)]
async fn a_list_that_is_read_again_is_a_consistent_one() {
    let api = FakeApi::new();
    api.put(pod("a", "10.0.0.1"));
    api.put(pod("b", "10.0.0.2"));
    let mut running = Running::start(&api);
    running.batch().await;
    api.delete_unseen(pod("b", ""));
    api.hang_up();
    assert_eq!(shown(&running.batch().await), set(&["-b"]));
    let asked = api.requests(PODS);
    let streams = |request: &&String| request.contains("sendInitialEvents=true");
    assert_eq!(asked.iter().filter(streams).count(), 1, "{asked:?}");
    let again = asked
        .iter()
        .find(|request| !request.contains("watch="))
        .unwrap();
    assert!(!again.contains("resourceVersion"), "{again}");
}

const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

fn gateway(secret: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "g", "namespace": "shop"},
        "spec": {"gatewayClassName": "c", "listeners": [{
            "name": "https", "port": 443, "protocol": "HTTPS",
            "tls": {"certificateRefs": [{"name": secret}]},
        }]},
    })
}

fn secret(name: &str, text: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": "shop"},
        "data": {"tls.crt": text, "tls.key": ""},
    })
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_read_when_a_gateway_names_it_and_no_other_one() {
    let api = FakeApi::new();
    api.put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "c"},
        "spec": {"controllerName": "culvert.dev/gateway-controller"},
    }));
    api.put(gateway("one"));
    api.put(secret("one", ""));
    api.put(secret("two", ""));
    let mut running = Running::start(&api);
    // Together with the Gateway: nobody is told that it is missing.
    assert_eq!(shown(&running.batch().await), set(&["+c", "+g", "+one"]));
    let asked = api.requests(SECRETS);
    assert!(!asked.is_empty());
    for request in &asked {
        assert!(
            request.contains("fieldSelector=metadata.name%3Done"),
            "{request}"
        );
    }
    api.put(secret("one", "/w=="));
    assert_eq!(shown(&running.batch().await), set(&["+one"]));
    api.put(gateway("two"));
    let mut seen = shown(&running.batch().await);
    while !seen.contains("+two") {
        seen.extend(shown(&running.batch().await));
    }
    assert_eq!(seen, set(&["+g", "+two", "-one"]));
    api.put(secret("one", ""));
    assert!(
        running.is_silent(Duration::from_secs(60)).await,
        "nobody names it"
    );
    api.delete(secret("two", ""));
    assert_eq!(shown(&running.batch().await), set(&["-two"]));
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_cannot_be_read_holds_nothing_up_for_long() {
    let api = FakeApi::new();
    api.put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "c"},
        "spec": {"controllerName": "culvert.dev/gateway-controller"},
    }));
    api.put(gateway("one"));
    api.refuse("/api/v1/secrets", &[500; 1_000]);
    let mut running = Running::start(&api);
    assert_eq!(shown(&running.batch().await), set(&["+c", "+g"]));
    api.put(pod("web", "10.0.0.1"));
    assert_eq!(shown(&running.batch().await), set(&["+web"]));
}

/// F-18: that a list could be read is no reason to read it again at once.
#[tokio::test(start_paused = true)]
async fn lists_that_lead_nowhere_become_rare() {
    let api = FakeApi::new();
    api.is_old(3);
    api.put(pod("a", "10.0.0.1"));
    api.keeps_no_history();
    let mut running = Running::start(&api);
    running.batch().await;
    assert!(running.is_silent(Duration::from_secs(300)).await);
    let lists = api
        .requests(PODS)
        .iter()
        .filter(|request| request.contains("limit="))
        .count();
    assert!((20..=45).contains(&lists), "{lists} lists in five minutes");
    assert!(running.of_kind("Pod")["failingSince"].is_u64());
}

#[tokio::test(start_paused = true)]
async fn only_what_is_read_is_asked_for() {
    let api = FakeApi::new();
    let mut running = Running::start(&api);
    running.batch().await;
    for (collection, is_metadata_only) in [
        ("/api/v1/namespaces", true),
        ("/api/v1/nodes", true),
        ("/api/v1/serviceaccounts", true),
        (PODS, false),
        (POLICIES, false),
    ] {
        let requests = api.requests(collection);
        let asked = requests
            .iter()
            .all(|request| request.ends_with("&metadata-only") == is_metadata_only);
        assert!(asked && !requests.is_empty(), "{requests:?}");
    }
    let watch = &api.requests(PODS)[0];
    assert!(watch.contains("allowWatchBookmarks=true"), "{watch}");
    assert!(watch.contains("timeoutSeconds=45"), "{watch}");
}

/// The connection lives, and nothing comes on it.
#[tokio::test(start_paused = true)]
async fn f_18_a_watch_that_stalls_is_given_up_within_a_minute() {
    let api = FakeApi::new();
    let mut running = Running::start(&api);
    running.batch().await;
    api.stall();
    api.put(pod("unheard", "10.0.0.1"));
    let waited = tokio::time::Instant::now();
    assert_eq!(shown(&running.batch().await), set(&["+unheard"]));
    assert!(
        waited.elapsed() <= Duration::from_secs(60),
        "{:?}",
        waited.elapsed()
    );
    assert!(
        waited.elapsed() >= Duration::from_secs(10),
        "it did not stall"
    );
}
