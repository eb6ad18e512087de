//! The whole control plane on loopback, spoken to by the node's own clients.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_identity::{CaClient, GrpcCaClient, GrpcCaConfig, PendingKey};
use agent_model::{Authorization, Identity, NodeWishes, PodProgress, PodReport, Wanted, Workload};
use agent_net::drain::{self, Drain};
use agent_xds::attach::{AttachConfig, AttachStatus, Attached, NodeReport};
use agent_xds::{Apply, ClientConfig, ClientStatus, NodeFacts, Rejection, Update};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::{ClusterConfig, Config, Control, ControlError, SourceChoice, Status};

const SHOP: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, serviceAccountName: web}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: cache, namespace: shop, labels: {app: cache}}
spec: {nodeName: n2, serviceAccountName: cache}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}
";

const POLICY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, action: DENY, rules: [{to: [{operation: {ports: [\"80\"]}}]}]}
";

/// A running control plane with its files.
struct World {
    folder: PathBuf,
    address: SocketAddr,
    status: Status,
    drain: Option<Drain>,
    serving: JoinHandle<()>,
}

impl World {
    fn folder() -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("culvert-control-{}-{count}", std::process::id()));
        fs::create_dir_all(folder.join("manifests")).unwrap();
        fs::write(
            folder.join("tokens"),
            "token-1 n1\ntoken-2 n2\ntoken-4 shop/edge\n",
        )
        .unwrap();
        for (name, token) in [
            ("n1", "token-1\n"),
            ("n2", "token-2\n"),
            ("nobody", "token-3\n"),
            ("edge", "token-4\n"),
        ] {
            fs::write(folder.join(name), token).unwrap();
        }
        folder
    }

    fn config(folder: &std::path::Path) -> Config {
        let source = SourceChoice::Folder(folder.join("manifests"));
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        Config {
            node_tokens: Some(folder.join("tokens")),
            ..Config::new(source, listen, folder.join("state"))
        }
    }

    async fn start(manifest: &str) -> Self {
        Self::start_with(manifest, |_| {}).await
    }

    async fn start_with(manifest: &str, change: impl FnOnce(&mut Config)) -> Self {
        let folder = Self::folder();
        fs::write(folder.join("manifests/shop.yaml"), manifest).unwrap();
        let mut config = Self::config(&folder);
        change(&mut config);
        let control = Control::bind(config).await.unwrap();
        let address = control.local_addr().unwrap();
        let (drain, watcher) = drain::channel();
        let (shown, status) = tokio::sync::oneshot::channel();
        let serving = tokio::spawn(control.serve_with(watcher, |status| {
            let _ = shown.send(status);
        }));
        Self {
            folder,
            address,
            status: status.await.unwrap(),
            drain: Some(drain),
            serving,
        }
    }

    fn write(&self, text: &str) {
        fs::write(self.folder.join("manifests/shop.yaml"), text).unwrap();
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    fn root(&self) -> PathBuf {
        self.folder.join("state/root-cert.pem")
    }

    /// A node's discovery client.
    fn node(&self, token: &str) -> Node {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let config = ClientConfig {
            address: self.url(),
            root_cert: self.root(),
            token_file: self.folder.join(token),
            node: NodeFacts::new(token, "Kubernetes", ""),
        };
        let (status, watched) = watch::channel(ClientStatus::default());
        let (drain, watcher) = drain::channel();
        let applier = Applier(Arc::clone(&seen));
        tokio::spawn(async move {
            agent_xds::client::run(config, applier, status, watcher).await;
        });
        Node {
            seen,
            status: watched,
            _drain: drain,
        }
    }

    async fn certificate(
        &self,
        token: &str,
        identity: &str,
        ttl: u64,
    ) -> Result<Vec<String>, String> {
        let identity: Identity = identity.parse().unwrap();
        let client = GrpcCaClient::new(GrpcCaConfig {
            address: self.url(),
            root_cert: self.root(),
            token_file: self.folder.join(token),
            cluster_id: "Kubernetes".to_owned(),
        });
        let key = PendingKey::generate(&identity).unwrap();
        let ttl = Duration::from_secs(ttl);
        let answer = client.unwrap().issue(&identity, key.csr_pem(), ttl).await;
        answer.map_err(|error| error.to_string())
    }

    async fn stop(mut self) {
        let drained = self
            .drain
            .take()
            .unwrap()
            .drain(Duration::from_secs(10))
            .await;
        assert!(drained, "something outlives the drain");
        (&mut self.serving).await.unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[derive(Debug, Default)]
struct Seen {
    workloads: BTreeMap<String, Workload>,
    services: usize,
    policies: BTreeMap<String, Authorization>,
    /// Ever listed by a workload without being there.
    missing: Vec<String>,
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
                Update::Service(_) => seen.services += 1,
                Update::Policy(policy) => {
                    seen.policies.insert(policy.key().to_string(), policy);
                }
                Update::RemoveAddress(name) => {
                    seen.workloads.remove(&name);
                }
                Update::RemovePolicy(key) => {
                    seen.policies.remove(&key.to_string());
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
        let listed = seen
            .workloads
            .values()
            .flat_map(|workload| &workload.authorization_policies);
        let missing: Vec<String> = listed
            .map(ToString::to_string)
            .filter(|key| !seen.policies.contains_key(key))
            .collect();
        seen.missing.extend(missing);
        Vec::new()
    }
}

struct Node {
    seen: Arc<Mutex<Seen>>,
    status: watch::Receiver<ClientStatus>,
    _drain: Drain,
}

impl Node {
    async fn until(&self, what: &str, condition: impl Fn(&Seen) -> bool) -> Duration {
        let started = Instant::now();
        while !condition(&self.seen.lock().unwrap()) {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{what}: {:?} {:?}",
                self.seen.lock().unwrap(),
                self.status.borrow()
            );
            sleep(Duration::from_millis(10)).await;
        }
        started.elapsed()
    }
}

fn listed(seen: &Seen) -> Vec<String> {
    let web = seen.workloads.get("Kubernetes//Pod/shop/web");
    let keys = web.map(|web| {
        web.authorization_policies
            .iter()
            .map(ToString::to_string)
            .collect()
    });
    keys.unwrap_or_default()
}

#[tokio::test]
async fn a_change_reaches_the_nodes_and_policies_never_lag() {
    let world = World::start(SHOP).await;
    let node = world.node("n1");
    node.until("first state", |seen| {
        seen.workloads.len() == 2 && seen.services == 1
    })
    .await;
    assert!(
        node.seen
            .lock()
            .unwrap()
            .workloads
            .values()
            .all(|workload| { workload.tunnel_protocol == agent_model::TunnelProtocol::Hbone })
    );
    // The other node sees the same.
    let other = world.node("n2");
    other
        .until("first state", |seen| seen.workloads.len() == 2)
        .await;

    world.write(&format!("{SHOP}---\n{POLICY}"));
    let took = node
        .until("policy", |seen| listed(seen) == ["shop/p"])
        .await;
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert!(node.seen.lock().unwrap().policies.contains_key("shop/p"));

    // A broken edit is reported and changes nothing.
    world.write(&format!("{SHOP}---\n{}", POLICY.replace("80", "80000")));
    let started = Instant::now();
    while world.status.json()["problems"]
        .as_array()
        .unwrap()
        .is_empty()
    {
        assert!(started.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(10)).await;
    }
    let problem = &world.status.json()["problems"][0];
    assert_eq!(problem["file"], "shop.yaml");
    assert_eq!(problem["field"], "spec.rules[0].to[0].operation.ports[0]");
    assert_eq!(problem["effect"], "last-good-kept");
    assert_eq!(listed(&node.seen.lock().unwrap()), ["shop/p"]);

    world.write(SHOP);
    node.until("policy gone", |seen| {
        listed(seen).is_empty() && !seen.policies.contains_key("shop/p")
    })
    .await;
    assert_eq!(node.seen.lock().unwrap().missing, [""; 0]);
    let status = world.status.json();
    assert_eq!(status["problems"].as_array().unwrap().len(), 0);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(status["objects"]["Pod"], 2);
    world.stop().await;
}

/// For anything that happens in milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent attached to the node service.
struct Attachment {
    attached: Attached,
    reports: watch::Sender<Option<NodeReport>>,
    _drain: Drain,
}

impl World {
    fn attach(&self, token: &str) -> Attachment {
        let attached = Attached {
            wishes: watch::Sender::new(None),
            trust: watch::Sender::new(None),
            status: watch::Sender::new(AttachStatus::default()),
        };
        let config = AttachConfig {
            server: ClientConfig {
                address: self.url(),
                root_cert: self.root(),
                token_file: self.folder.join(token),
                node: NodeFacts::new(token, "Kubernetes", ""),
            },
            version: "1.2.3".to_owned(),
            instance: "first".to_owned(),
        };
        let (reports, watched) = watch::channel(None);
        let (drain, watcher) = drain::channel();
        let run = agent_xds::attach::run(config, watched, attached.clone(), watcher);
        tokio::spawn(run);
        Attachment {
            attached,
            reports,
            _drain: drain,
        }
    }
}

impl Attachment {
    async fn wishes(&self, what: &str, condition: impl Fn(&NodeWishes) -> bool) -> NodeWishes {
        let mut wishes = self.attached.wishes.subscribe();
        let met = wishes.wait_for(|wishes| wishes.as_deref().is_some_and(&condition));
        let met = timeout(PATIENCE, met).await;
        let met = met.unwrap_or_else(|_| panic!("never: {what}"));
        NodeWishes::clone(met.unwrap().as_ref().unwrap())
    }
}

#[tokio::test]
async fn a_companion_says_which_pods_and_nothing_else() {
    let world = World::start_with(SHOP, |config| config.companion = true).await;
    let (agent, discovery) = (world.attach("n1"), world.node("n1"));
    let wishes = agent.wishes("pods", |_| true).await;
    assert_eq!(wishes.pods.len(), 1);
    // Roots would have come before the pods.
    assert_eq!(*agent.attached.trust.borrow(), None);
    let refused = world
        .certificate("n1", "spiffe://cluster.local/ns/shop/sa/web", 60)
        .await;
    let refused = refused.unwrap_err();
    assert!(refused.contains("Unimplemented"), "{refused}");
    let mut status = discovery.status.clone();
    let failed = status.wait_for(|status| status.last_error.is_some());
    let failed = timeout(PATIENCE, failed).await.unwrap().unwrap().clone();
    assert!(failed.last_error.unwrap().contains("Unimplemented"));
    assert!(!failed.synced);
    let told = world.status.json();
    assert_eq!(told["companion"], true);
    assert_eq!(told["nodes"][0]["node"], "n1");
    world.stop().await;
}

#[tokio::test]
async fn an_attached_agent_is_told_of_its_pods_and_believed_about_them() {
    let world = World::start(SHOP).await;
    let (agent, _discovery) = (world.attach("n1"), world.node("n1"));
    let wishes = agent.wishes("pods", |_| true).await;
    assert_eq!(wishes.pods.len(), 1, "those of the other node are not told");
    let web = &wishes.pods[0];
    assert_eq!((&*web.name, web.wanted), ("web", Wanted::Enrol));
    assert!(wishes.meshed_namespaces.contains("shop"));
    assert!(agent.attached.status.borrow().current);
    let mut trust = agent.attached.trust.subscribe();
    let bundle = timeout(PATIENCE, trust.wait_for(Option::is_some)).await;
    let bundle = Arc::clone(bundle.unwrap().unwrap().as_ref().unwrap());
    assert_eq!(bundle.pem, fs::read_to_string(world.root()).unwrap());

    agent.reports.send_replace(Some(NodeReport {
        pods: vec![PodReport {
            uid: String::new(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            state: PodProgress::Failed,
            detail: "no such process".to_owned(),
        }],
        trust_bundle_hash: bundle.sha256.clone(),
    }));
    let start = Instant::now();
    loop {
        let status = world.status.json();
        let node = &status["nodes"][0];
        if node["pods"]["counts"]["failed"] == 1 && node["agents"][0]["version"] == "1.2.3" {
            assert_eq!(node["agents"][0]["trustBundle"], *bundle.sha256);
            assert_eq!(node["pods"]["notVerified"][0]["detail"], "no such process");
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{status}");
        sleep(Duration::from_millis(10)).await;
    }

    // F-12, this end of it: the last label counts, however often it changed.
    for _ in 0..20 {
        world.write(&SHOP.replace("enabled", "disabled"));
        world.write(SHOP);
    }
    world.write(&SHOP.replace("enabled", "disabled"));
    let left = |wishes: &NodeWishes| wishes.pods[0].wanted == Wanted::Leave;
    let wishes = agent.wishes("un-labelled", left).await;
    assert_eq!(wishes.pods[0].reason, "namespace-label");
    assert!(wishes.meshed_namespaces.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn nobody_attaches_without_a_token() {
    let world = World::start(SHOP).await;
    let stranger = world.attach("nobody");
    let mut status = stranger.attached.status.subscribe();
    let refused = timeout(PATIENCE, status.wait_for(|status| status.failures > 1)).await;
    let error = refused.unwrap().unwrap().last_error.clone().unwrap();
    assert!(error.contains("token"), "{error}");
    assert!(stranger.attached.wishes.borrow().is_none());
    world.stop().await;
}

#[tokio::test]
async fn an_unknown_token_sees_nothing() {
    let world = World::start(SHOP).await;
    let node = world.node("nobody");
    let started = Instant::now();
    while node.status.borrow().last_error.is_none() {
        assert!(started.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(10)).await;
    }
    let error = node.status.borrow().last_error.clone().unwrap();
    assert!(error.to_lowercase().contains("token"), "{error}");
    assert!(node.seen.lock().unwrap().workloads.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_token_taken_away_ends_the_open_stream() {
    let world = World::start(SHOP).await;
    let (revoked, kept) = (world.node("n1"), world.node("n2"));
    for node in [&revoked, &kept] {
        node.until("first state", |seen| seen.workloads.len() == 2)
            .await;
    }
    fs::write(world.folder.join("tokens"), "token-2 n2\n").unwrap();
    let mut status = revoked.status.clone();
    let ended = timeout(
        Duration::from_secs(10),
        status.wait_for(|status| !status.connected),
    );
    let error = ended.await.unwrap().unwrap().last_error.clone().unwrap();
    assert!(error.contains("no longer valid"), "{error}");
    assert!(kept.status.borrow().connected);
    world.stop().await;
}

#[tokio::test]
async fn t_node_1_certificates_are_for_pods_of_the_node_that_asks() {
    let world = World::start(SHOP).await;
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let chain = world.certificate("n1", web, 600).await.unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(
        chain[1].trim(),
        fs::read_to_string(world.root()).unwrap().trim()
    );
    for (token, identity, expected) in [
        ("n2", web, "PermissionDenied"),
        (
            "n1",
            "spiffe://cluster.local/ns/shop/sa/cache",
            "PermissionDenied",
        ),
        (
            "n1",
            "spiffe://cluster.local/ns/shop/sa/default",
            "PermissionDenied",
        ),
        (
            "n1",
            "spiffe://other.domain/ns/shop/sa/web",
            "PermissionDenied",
        ),
        ("nobody", web, "Unauthenticated"),
    ] {
        let error = world.certificate(token, identity, 600).await.unwrap_err();
        assert!(error.contains(expected), "{token} {identity}: {error}");
        assert!(!error.contains("token-"), "{error}");
    }
    assert_eq!(world.status.json()["certificates"]["issued"], 1);
    assert_eq!(world.status.json()["certificates"]["refused"], 5);

    // The pod goes: so does the right to speak for it.
    world.write(&SHOP.replace("nodeName: n1", "nodeName: n2"));
    let started = Instant::now();
    while world.certificate("n1", web, 600).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(20)).await;
    }
    world.certificate("n2", web, 600).await.unwrap();
    world.stop().await;
}

const EDGE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: culvert}
spec: {controllerName: culvert.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: culvert, listeners: [{name: http, port: 80, protocol: HTTP}]}
";

#[tokio::test]
async fn what_a_cluster_would_show_of_a_gateway_is_in_the_status() {
    let world = World::start(&format!("{SHOP}{EDGE}")).await;
    let status = world.status.json();
    let statuses = status["statuses"].as_array().unwrap();
    let mut of_gateways = statuses
        .iter()
        .filter(|of| of["object"]["kind"] == "Gateway");
    let edge = of_gateways.next().unwrap();
    assert_eq!(edge["object"]["name"], "edge");
    let of_listener = &edge["status"]["listeners"][0]["conditions"][0];
    assert_eq!(of_listener["type"], "Accepted");
    assert_eq!(of_listener["status"], "True");
    // Nothing has an address yet.
    let reasons = edge["status"]["conditions"].as_array().unwrap();
    let mut reasons = reasons.iter().map(|condition| &condition["reason"]);
    assert!(reasons.any(|reason| reason == "AddressNotAssigned"));
    assert_eq!(status["statusesLeftOut"], 0);
    world.stop().await;
}

#[tokio::test]
async fn a_gateway_is_certified_as_itself_and_only_while_it_exists() {
    let world = World::start(&format!("{SHOP}{EDGE}")).await;
    let edge = "spiffe://cluster.local/ns/shop/sa/edge";
    world.certificate("edge", edge, 600).await.unwrap();
    for (token, identity) in [
        ("edge", "spiffe://cluster.local/ns/shop/sa/web"),
        ("edge", "spiffe://cluster.local/ns/other/sa/edge"),
        ("edge", "spiffe://other.domain/ns/shop/sa/edge"),
        ("n1", edge),
    ] {
        let error = world.certificate(token, identity, 600).await.unwrap_err();
        assert!(
            error.contains("PermissionDenied"),
            "{token} {identity}: {error}"
        );
    }
    world.write(SHOP);
    let started = Instant::now();
    while world.certificate("edge", edge, 600).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(20)).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn rubbish_ends_its_own_connection_only() {
    let world = World::start(SHOP).await;
    let node = world.node("n1");
    node.until("first state", |seen| seen.workloads.len() == 2)
        .await;
    for rubbish in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
        &[0; 64],
    ] {
        let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
        stream.write_all(rubbish).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Closed by the server, with an alert at most.
        let _ = timeout(Duration::from_secs(7), stream.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(answer.len() < 64);
    }
    // One that says nothing is closed at the handshake's deadline.
    let mut silent = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let closed = timeout(Duration::from_secs(7), silent.read(&mut [0; 8])).await;
    assert!(matches!(closed.unwrap(), Ok(0) | Err(_)));
    world.write(&format!("{SHOP}---\n{POLICY}"));
    node.until("policy", |seen| listed(seen) == ["shop/p"])
        .await;
    world.stop().await;
}

type Spoil = fn(&mut Config);

#[tokio::test]
async fn settings_that_make_no_sense_are_errors() {
    let folder = World::folder();
    let cases: [(&str, Spoil); 10] = [
        ("trust domain", |config| {
            config.trust_domain = "a/b".to_owned()
        }),
        ("root namespace", |config| {
            config.root_namespace = String::new()
        }),
        ("cluster id", |config| config.cluster_id = "a/b".to_owned()),
        ("second", |config| {
            config.cert_ttl = Duration::from_millis(10)
        }),
        ("serving names", |config| config.serving_names.clear()),
        ("No such file", |config| {
            config.source = SourceChoice::Folder("/nonexistent".into());
        }),
        ("kubeconfig", |config| {
            let kubeconfig = Some("/nonexistent".into());
            config.source = SourceChoice::Kubernetes(ClusterConfig { kubeconfig });
        }),
        ("No such file", |config| {
            config.node_tokens = Some("/nonexistent".into())
        }),
        ("admitted", |config| config.node_tokens = None),
        ("cluster", |config| {
            config.token_reviews = Some(crate::TokenReviews {
                audiences: vec!["culvert".to_owned()],
                accounts: vec!["culvert-system/culvert-node".parse().unwrap()],
            });
        }),
    ];
    for (expected, spoil) in cases {
        let mut config = World::config(&folder);
        spoil(&mut config);
        let error: ControlError = Control::bind(config).await.unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(expected) || error.contains("Not a directory"),
            "{expected}: {error}"
        );
    }
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn an_issuer_from_outside_is_used_and_its_root_handed_out() {
    let folder = World::folder();
    let outside = folder.join("outside");
    let now = std::time::SystemTime::now();
    agent_identity::Authority::open(&outside, "cluster.local", now).unwrap();
    let mut config = World::config(&folder);
    config.authority = Some(crate::AuthorityFiles {
        chain: outside.join("root-cert.pem"),
        key: outside.join("root-key.pem"),
        roots: outside.join("root-cert.pem"),
    });
    Control::bind(config).await.unwrap();
    assert_eq!(
        fs::read_to_string(folder.join("state/root-cert.pem")).unwrap(),
        fs::read_to_string(outside.join("root-cert.pem")).unwrap()
    );
    assert!(!folder.join("state/root-key.pem").exists());
    fs::remove_dir_all(folder).unwrap();
}
