//! The control plane on a cluster: objects come from the API server fixture through the real
//! client, and nodes are told over the wire.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program: what these end is the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_control::{ClusterConfig, Config, Control, SourceChoice, Status};
use agent_model::Workload;
use agent_net::drain::{self, Drain};
use agent_state::Reader;
use agent_state::resolve::{Chooser, Outbound, outbound};
use agent_xds::{Apply, ClientConfig, ClientStatus, NodeFacts, Rejection, Update};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;
use tests::apiserver::{ApiServer, Options, Refusal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const PODS: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: culvert-system}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1}
status: {podIP: 10.0.0.1, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: cache, namespace: shop, labels: {app: cache}}
spec: {nodeName: n2}
status: {podIP: 10.0.0.2, phase: Running}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
";

const SLICE: &str = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web, namespace: shop}}]
";

const POLICY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {ports: [\"80\"]}}]}]}
";

const CACHE: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: cache, namespace: shop}
";

/// A control plane that takes its objects from `api`.
struct World {
    folder: PathBuf,
    address: String,
    status: Status,
    serving: JoinHandle<()>,
    _drain: Drain,
}

impl World {
    async fn start(api: &ApiServer) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("culvert-source-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("tokens"), "token n1\n").unwrap();
        fs::write(folder.join("token"), "token\n").unwrap();
        api.write_kubeconfig(&folder.join("kubeconfig")).unwrap();
        let cluster = ClusterConfig {
            kubeconfig: Some(folder.join("kubeconfig")),
        };
        let source = SourceChoice::Kubernetes(cluster);
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let config = Config {
            node_tokens: Some(folder.join("tokens")),
            cluster_id: "c1".to_owned(),
            ..Config::new(source, listen, folder.join("state"))
        };
        let control = Control::bind(config).await.unwrap();
        let address = format!("https://{}", control.local_addr().unwrap());
        let (drain, watcher) = drain::channel();
        let (shown, status) = tokio::sync::oneshot::channel();
        let serving = tokio::spawn(control.serve_with(watcher, |status| {
            let _ = shown.send(status);
        }));
        fs::write(folder.join("root-cert.pem"), root(api).await).unwrap();
        Self {
            folder,
            address,
            status: status.await.unwrap(),
            serving,
            _drain: drain,
        }
    }

    fn node(&self) -> Node {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let applier = Applier(Arc::clone(&seen));
        Node {
            seen,
            _drain: self.follow(applier),
        }
    }

    /// A stream of node n1, until the drain is dropped.
    fn follow(&self, applier: impl Apply + 'static) -> Drain {
        let config = ClientConfig {
            address: self.address.clone(),
            root_cert: self.folder.join("root-cert.pem"),
            token_file: self.folder.join("token"),
            node: NodeFacts::new("n1", "c1", ""),
        };
        let (status, _) = watch::channel(ClientStatus::default());
        let (drain, watcher) = drain::channel();
        tokio::spawn(agent_xds::client::run(config, applier, status, watcher));
        drain
    }

    fn of_kind(&self, kind: &str) -> Value {
        let status = self.status.json();
        let kinds = status["source"]["kinds"].as_array().unwrap();
        kinds.iter().find(|of| of["kind"] == kind).unwrap().clone()
    }
}

/// The root certificate out of the Secret that the control plane makes.
async fn root(api: &ApiServer) -> Vec<u8> {
    let started = Instant::now();
    loop {
        if let Some(secret) = api.get("secrets", "culvert-system", "culvert-ca") {
            let root = secret["data"]["ca.crt"].as_str().unwrap();
            return BASE64_STANDARD.decode(root).unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(20), "no root");
        sleep(Duration::from_millis(5)).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a node knows, and what it was ever told to forget.
#[derive(Debug, Default)]
struct Seen {
    workloads: BTreeMap<String, Workload>,
    services: BTreeSet<String>,
    policies: BTreeSet<String>,
    removed: Vec<String>,
}

impl Seen {
    fn names(&self) -> Vec<&str> {
        let workloads = self.workloads.values();
        workloads.map(|workload| &*workload.name).collect()
    }

    /// Services that a pod serves.
    fn serves(&self, pod: &str) -> usize {
        let workload = self.workloads.get(&format!("c1//Pod/shop/{pod}"));
        workload.map_or(0, |workload| workload.services.len())
    }
}

struct Applier(Arc<Mutex<Seen>>);

impl Apply for Applier {
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection> {
        let mut seen = self.0.lock().unwrap();
        for update in updates {
            match update {
                Update::Workload(workload) => {
                    seen.workloads.insert(workload.uid.to_string(), *workload);
                }
                Update::Service(service) => {
                    seen.services.insert(service.name.to_string());
                }
                Update::Policy(policy) => {
                    seen.policies.insert(policy.key().to_string());
                }
                Update::RemoveAddress(name) => {
                    seen.workloads.remove(&name);
                    seen.removed.push(name);
                }
                Update::RemovePolicy(key) => {
                    seen.policies.remove(&key.to_string());
                    seen.removed.push(key.to_string());
                }
                Update::RejectedPolicy(key) => panic!("{key}"),
                Update::Gateway(_)
                | Update::Route(..)
                | Update::Backend(..)
                | Update::Access(..)
                | Update::Authentication(..)
                | Update::TrafficPolicy(..)
                | Update::RejectedOfGateway(..)
                | Update::RemoveOfGateway(..) => panic!("a node is told of a gateway"),
            }
        }
        Vec::new()
    }
}

struct Node {
    seen: Arc<Mutex<Seen>>,
    _drain: Drain,
}

impl Node {
    async fn until(&self, what: &str, condition: impl Fn(&Seen) -> bool) -> Duration {
        let started = Instant::now();
        while !condition(&self.seen.lock().unwrap()) {
            if started.elapsed() > Duration::from_secs(30) {
                panic!("{what}: {:?}", self.seen.lock().unwrap());
            }
            sleep(Duration::from_millis(5)).await;
        }
        started.elapsed()
    }

    async fn knows_pods(&self) {
        self.until("both pods", |seen| seen.names() == ["cache", "web"])
            .await;
    }
}

#[tokio::test]
async fn a_change_reaches_the_nodes() {
    let api = ApiServer::start().unwrap();
    api.put(PODS).unwrap();
    let world = World::start(&api).await;
    let node = world.node();
    node.knows_pods().await;
    // Endpoints are the cluster's word alone: a selector without a slice has none.
    assert_eq!(node.seen.lock().unwrap().serves("web"), 0);
    api.put(SLICE).unwrap();
    let took = node.until("endpoint", |seen| seen.serves("web") == 1).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    api.put(POLICY).unwrap();
    node.until("policy", |seen| seen.policies.contains("shop/p"))
        .await;
    api.remove(POLICY).unwrap();
    node.until("no policy", |seen| !seen.policies.contains("shop/p"))
        .await;
    assert_eq!(world.of_kind("Pod")["objects"], 2);
    assert_eq!(world.status.json()["serving"], true);
    // One stream per kind gives the list and the watch.
    assert_eq!(api.count("list", "pods"), 0);
}

#[tokio::test]
async fn what_happened_behind_an_expired_version_is_found_out() {
    for as_status in [false, true] {
        let api = ApiServer::start().unwrap();
        api.gone_as_status(as_status);
        api.put(&format!("{PODS}---\n{SLICE}---\n{POLICY}"))
            .unwrap();
        let world = World::start(&api).await;
        let node = world.node();
        node.knows_pods().await;
        api.down().unwrap();
        api.remove(CACHE).unwrap();
        api.put(&SLICE.replace("8080", "8081")).unwrap();
        api.compact();
        api.up().unwrap();
        node.until("the pod gone", |seen| seen.names() == ["web"])
            .await;
        node.until("the policy still there", |seen| {
            seen.policies.contains("shop/p")
        })
        .await;
        let removed = node.seen.lock().unwrap().removed.clone();
        assert_eq!(
            removed,
            ["c1//Pod/shop/cache"],
            "nothing else was taken away"
        );
    }
}

/// For nodes that come anew too.
#[tokio::test]
async fn f_15_the_last_state_outlives_the_api_server() {
    let api = ApiServer::start().unwrap();
    api.put(PODS).unwrap();
    let world = World::start(&api).await;
    world.node().knows_pods().await;
    api.down().unwrap();
    let started = Instant::now();
    while world.of_kind("Pod")["failingSince"].is_null() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the outage is not said"
        );
        sleep(Duration::from_millis(20)).await;
    }
    world.node().knows_pods().await;
    assert!(world.status.json()["source"]["failingSince"].is_u64());
    api.put(SLICE).unwrap();
    api.up().unwrap();
    let node = world.node();
    node.until("what is new", |seen| seen.serves("web") == 1)
        .await;
}

/// Until every kind is complete nodes are told nothing.
#[tokio::test]
async fn f_16_half_a_state_is_told_to_nobody() {
    let api = ApiServer::start().unwrap();
    api.put(&format!("{PODS}---\n{POLICY}")).unwrap();
    let policies = "authorizationpolicies.security.istio.io";
    api.refuse(Refusal::new(500, 1_000).resource(policies));
    let world = World::start(&api).await;
    let node = world.node();
    let started = Instant::now();
    while world.of_kind("Pod")["synced"] != true
        || world.of_kind("AuthorizationPolicy")["failingSince"].is_null()
        || started.elapsed() < Duration::from_secs(2)
    {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{}",
            world.status.json()
        );
        sleep(Duration::from_millis(20)).await;
    }
    assert!(node.seen.lock().unwrap().workloads.is_empty());
    assert!(!world.status.is_serving());
    api.clear_faults();
    node.knows_pods().await;
    assert!(node.seen.lock().unwrap().policies.contains("shop/p"));
}

/// The connections live, and nothing comes on any of them again. The clock is the test's: of the
/// control plane and the node, not of the API server.
#[tokio::test]
async fn f_18_watches_that_are_silent_for_ever_are_given_up_within_a_minute() {
    let api = ApiServer::start().unwrap();
    api.put(&format!("{PODS}---\n{POLICY}")).unwrap();
    let world = World::start(&api).await;
    let node = world.node();
    node.knows_pods().await;
    let kinds = ["pods", "endpointslices.discovery.k8s.io"];
    let asked = || kinds.map(|kind| api.count("watch", kind));
    let before = asked();

    api.silence_watches();
    api.put(SLICE).unwrap();
    api.remove(CACHE).unwrap();
    // Longer than a watch lasts that is well: one that is told its end in time resumes at 45 s.
    for seconds in [20, 20, 7] {
        pass(Duration::from_secs(seconds)).await;
        sleep(Duration::from_millis(150)).await;
        assert_eq!(asked(), before, "they are not silent");
        assert_eq!(node.seen.lock().unwrap().serves("web"), 0);
    }
    pass(Duration::from_secs(12)).await;
    let what = "what nobody was told of";
    node.until(what, |seen| {
        seen.serves("web") == 1 && seen.names() == ["web"]
    })
    .await;
    let removed = node.seen.lock().unwrap().removed.clone();
    assert_eq!(removed, ["c1//Pod/shop/cache"], "nothing else went");
    // Silence is a failure of the connection, not of the cluster: nothing was read anew.
    assert_eq!(kinds.map(|kind| api.count("list", kind)), [0, 0]);
    assert!(node.seen.lock().unwrap().policies.contains("shop/p"));
}

const VISITOR: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: visitor, namespace: visit}
spec: {nodeName: n1}
status: {podIP: 10.0.0.7, phase: Running}
";

/// A tenant's host in the world outside.
const FIRST: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: first, namespace: shop}
spec:
  hosts: [api.example.com]
  addresses: [203.0.113.1]
  resolution: STATIC
  ports: [{number: 443, name: tls}]
  endpoints: [{address: 192.0.2.1}]
";

/// Another tenant's claim to the same, with its address, and to a Service of the first besides.
const SECOND: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: second, namespace: bank}
spec:
  hosts: [api.example.com, web.shop.svc.cluster.local]
  addresses: [203.0.113.1, 10.96.0.1]
  resolution: STATIC
  ports: [{number: 443, name: tls}, {number: 80, name: http}]
  endpoints: [{address: 192.0.2.66}]
";

/// A host of its own, with the address of a Service of the first.
const THIEF: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: thief, namespace: alley}
spec:
  hosts: [alley.example]
  addresses: [10.96.0.1]
  resolution: STATIC
  ports: [{number: 80, name: http}]
  endpoints: [{address: 192.0.2.99}]
";

#[tokio::test]
async fn t_cfg_who_claims_a_host_second_takes_nothing_and_is_told() {
    let api = ApiServer::start().unwrap();
    for manifests in [PODS, SLICE, VISITOR, FIRST] {
        api.put(manifests).unwrap();
    }
    let world = World::start(&api).await;
    let (writer, state) = agent_state::channel();
    let _stream = world.follow(writer);
    let served = |namespace: &str| {
        let snapshot = state.load();
        let mut services = snapshot.services();
        services.any(|service| &*service.namespace == namespace)
    };
    until("the first entry", || {
        goes(&state, "visit/visitor", "203.0.113.1:443").starts_with("192.0.2.1:443 ")
            && goes(&state, "visit/visitor", "10.96.0.1:80").starts_with("10.0.0.1:8080 ")
    })
    .await;
    let all = || {
        let from = ["visit/visitor", "shop/web", "shop/cache"];
        let to = ["203.0.113.1:443", "10.96.0.1:80"];
        from.map(|from| to.map(|to| goes(&state, from, to)))
    };
    let names = || {
        let snapshot = state.load();
        ["api.example.com", "web.shop.svc.cluster.local"].map(|name| {
            let service = snapshot.service_by_hostname(name, "visit");
            service.map(|service| service.key().to_string())
        })
    };
    let before = (all(), names());

    // Of one second, names decide.
    api.advance(Duration::from_secs(2));
    api.put(SECOND).unwrap();
    api.put(THIEF).unwrap();
    until("the others' entries", || served("bank") && served("alley")).await;
    assert_eq!((all(), names()), before, "traffic goes where it went");
    let conflict = |namespace: &str, name: &str| {
        let entry = api.get("serviceentries.networking.istio.io", namespace, name);
        let entry = entry.map_or(Value::Null, |entry| entry["status"]["conditions"].clone());
        let mut conditions = entry.as_array().cloned().unwrap_or_default().into_iter();
        let found = conditions.find(|condition| condition["type"] == "Conflicted");
        found.map_or(Value::Null, |found| found["status"].clone())
    };
    until("the second is told", || {
        conflict("bank", "second") == "True"
    })
    .await;
    until("the first is told that it stands", || {
        conflict("shop", "first") == "False"
    })
    .await;
    assert_eq!((all(), names()), before, "and goes on to");

    // It was the first to come that counted, and not a rule about names.
    api.remove(FIRST).unwrap();
    until("the host is free", || {
        goes(&state, "visit/visitor", "203.0.113.1:443").starts_with("192.0.2.66:443 ")
    })
    .await;
    assert!(goes(&state, "visit/visitor", "10.96.0.1:80").starts_with("10.0.0.1:8080 "));
}

/// Where a connection of a pod goes, and by which service.
fn goes(state: &Reader, from: &str, to: &str) -> String {
    let snapshot = state.load();
    let Some(source) = snapshot.workload(&format!("c1//Pod/{from}")) else {
        return "nobody".to_owned();
    };
    let mut chooser = Chooser {
        random: &mut || 0,
        active: &|_| 0,
        tried: &[],
    };
    match outbound(&snapshot, source, to.parse().unwrap(), &mut chooser) {
        Outbound::Direct {
            destination,
            service: Some(service),
            ..
        } => format!("{destination} by {}", service.key()),
        other => format!("{other:?}"),
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Time goes by at once for the control plane and the node.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn definitions_may_be_missing_and_objects_bad() {
    let options = Options {
        custom_resources: false,
        ..Options::default()
    };
    let api = ApiServer::start_with(&options).unwrap();
    api.put(PODS).unwrap();
    let world = World::start(&api).await;
    let node = world.node();
    node.knows_pods().await;
    for kind in ["AuthorizationPolicy", "MeshConfig", "ServiceEntry"] {
        assert_eq!(world.of_kind(kind)["absent"], true, "{kind}");
    }

    let api = ApiServer::start().unwrap();
    let bad = POLICY
        .replace("name: p", "name: bad")
        .replace("80", "eighty");
    api.put(&format!("{PODS}---\n{bad}---\n{POLICY}")).unwrap();
    let world = World::start(&api).await;
    let node = world.node();
    node.until("the good one", |seen| seen.policies.contains("shop/p"))
        .await;
    let problems = world.status.json()["problems"].clone();
    assert_eq!(problems.as_array().unwrap().len(), 1, "{problems}");
    assert_eq!(problems[0]["object"]["name"], "bad");
    assert_eq!(
        problems[0]["field"],
        "spec.rules[0].to[0].operation.ports[0]"
    );
}
