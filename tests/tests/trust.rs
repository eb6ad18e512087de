//! The control plane's trust on a cluster, against the API server fixture: who is admitted, where
//! the issuer is kept, and how its roots reach every namespace.

#![expect(
    clippy::unwrap_used,
    reason = "a test program: what these end is the test"
)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agent_control::{ClusterConfig, Config, Control, SourceChoice, Status, TokenReviews};
use agent_identity::{CaClient, GrpcCaClient, GrpcCaConfig, NewRoot, PendingKey};
use agent_model::Identity;
use agent_net::drain::{self, Drain};
use agent_xds::attach::{AttachConfig, AttachStatus, Attached, NodeReport, TrustBundle};
use agent_xds::{ClientConfig, NodeFacts};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::apiserver::ApiServer;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(30);
const SYSTEM: &str = "culvert-system";
const BUNDLE: &str = "culvert-ca-root-cert";
/// What an installed control plane may do; each of these is one.
const RULES: &str = include_str!("../../deploy/kubernetes/base/control-rbac.yaml");
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// Two nodes with an agent each, and a pod of the mesh on each.
const CLUSTER: &str = "\
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: culvert-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: n1, serviceAccountName: web, containers: [{name: main, image: x}]}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: cache, namespace: shop}
spec: {nodeName: n2, serviceAccountName: cache, containers: [{name: main, image: x}]}
status: {phase: Running, podIP: 10.0.0.2}
";

/// An agent's pod, which runs as `account`.
fn agent(name: &str, node: &str, account: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}, namespace: {SYSTEM}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {SYSTEM}}}
spec: {{nodeName: {node}, serviceAccountName: {account}, containers: [{{name: main, image: x}}]}}
status: {{phase: Running}}
"
    )
}

/// A control plane of the cluster, with a folder for what its clients read.
struct Replica {
    folder: PathBuf,
    address: SocketAddr,
    status: Status,
    drain: Option<Drain>,
    serving: JoinHandle<()>,
}

impl Replica {
    async fn start(server: &ApiServer) -> Self {
        Self::start_with(server, Config::DEFAULT_ROOT_OVERLAP).await
    }

    async fn start_with(server: &ApiServer, root_overlap: Duration) -> Self {
        let folder = std::env::temp_dir().join(format!(
            "culvert-trust-{}-{:016x}",
            std::process::id(),
            rand::random::<u64>()
        ));
        fs::create_dir_all(&folder).unwrap();
        let kubeconfig = folder.join("kubeconfig");
        server.put(RULES).unwrap();
        let life = Duration::from_secs(24 * 3600);
        let account = server.account_kubeconfig(SYSTEM, "culvert-control", life);
        fs::write(&kubeconfig, account.unwrap()).unwrap();
        let source = SourceChoice::Kubernetes(ClusterConfig {
            kubeconfig: Some(kubeconfig),
        });
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let control = Control::bind(Config {
            token_reviews: Some(TokenReviews {
                audiences: vec!["culvert".to_owned()],
                accounts: vec!["culvert-system/culvert-node".parse().unwrap()],
            }),
            root_overlap,
            ..Config::new(source, listen, folder.join("state"))
        })
        .await
        .unwrap();
        let address = control.local_addr().unwrap();
        let (drain, watcher) = drain::channel();
        let (shown, status) = tokio::sync::oneshot::channel();
        let serving = tokio::spawn(control.serve_with(watcher, |status| {
            let _ = shown.send(status);
        }));
        let status = status.await.unwrap();
        tokio::time::timeout(PATIENCE, status.until_serving())
            .await
            .unwrap();
        Self {
            folder,
            address,
            status,
            drain: Some(drain),
            serving,
        }
    }

    /// Asks for a certificate as the holder of `token`, trusting `roots`.
    async fn certificate(&self, roots: &str, token: &str, identity: &str) -> Result<(), String> {
        let (root_cert, token_file) = (self.folder.join("root"), self.folder.join("token"));
        fs::write(&root_cert, roots).unwrap();
        fs::write(&token_file, token).unwrap();
        let client = GrpcCaClient::new(GrpcCaConfig {
            address: format!("https://{}", self.address),
            root_cert,
            token_file,
            cluster_id: "Kubernetes".to_owned(),
        });
        let identity: Identity = identity.parse().unwrap();
        let key = PendingKey::generate(&identity).unwrap();
        let ttl = Duration::from_secs(600);
        let answer = client.unwrap().issue(&identity, key.csr_pem(), ttl).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let done = key.complete(&answer, SystemTime::now());
        done.map(drop).map_err(|error| error.to_string())
    }

    fn trust(&self) -> Value {
        self.status.json()["trust"].clone()
    }

    /// An agent of `node` that says it trusts what it is told, once it is told.
    fn attach(&self, node: &str, roots: &str, token: &str) -> Agent {
        let (root_cert, token_file) = (self.folder.join("agent-root"), self.folder.join(node));
        fs::write(&root_cert, roots).unwrap();
        fs::write(&token_file, token).unwrap();
        let config = AttachConfig {
            server: ClientConfig {
                address: format!("https://{}", self.address),
                root_cert,
                token_file,
                node: NodeFacts::new(node, "Kubernetes", ""),
            },
            version: "1".to_owned(),
            instance: node.to_owned(),
        };
        let attached = Attached {
            wishes: watch::Sender::new(None),
            trust: watch::Sender::new(None),
            status: watch::Sender::new(AttachStatus::default()),
        };
        let (drain, watcher) = drain::channel();
        let report = watch::Sender::new(Some(NodeReport::default()));
        let (told, reports) = (attached.trust.subscribe(), report.subscribe());
        tokio::spawn(agent_xds::attach::run(config, reports, attached, watcher));
        Agent {
            told,
            report,
            _drain: drain,
        }
    }

    async fn stop(mut self) {
        let drain = self.drain.take().unwrap();
        assert!(drain.drain(Duration::from_secs(15)).await);
        (&mut self.serving).await.unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// An attached agent, until it is dropped.
struct Agent {
    told: watch::Receiver<Option<Arc<TrustBundle>>>,
    report: watch::Sender<Option<NodeReport>>,
    _drain: Drain,
}

impl Agent {
    /// Waits until it is told of so many roots.
    async fn told(&mut self, roots: usize) -> Arc<TrustBundle> {
        let is_it = |told: &Option<Arc<TrustBundle>>| {
            told.as_ref()
                .is_some_and(|told| certificates(&told.pem) == roots)
        };
        let told = tokio::time::timeout(PATIENCE, self.told.wait_for(is_it)).await;
        Arc::clone(told.unwrap().unwrap().as_ref().unwrap())
    }

    fn acknowledge(&self, bundle: &TrustBundle) {
        self.report.send_replace(Some(NodeReport {
            trust_bundle_hash: bundle.sha256.clone(),
            ..NodeReport::default()
        }));
    }
}

async fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The bundle in a namespace.
fn bundle(server: &ApiServer, namespace: &str) -> Option<String> {
    let map = server.get("configmaps", namespace, BUNDLE)?;
    map["data"]["root-cert.pem"].as_str().map(str::to_owned)
}

fn secret(server: &ApiServer) -> Value {
    (*server.get("secrets", SYSTEM, "culvert-ca").unwrap()).clone()
}

fn certificates(pem: &str) -> usize {
    pem.matches("BEGIN CERTIFICATE").count()
}

#[tokio::test]
async fn replicas_share_one_root_and_every_namespace_gets_it() {
    let server = ApiServer::start().unwrap();
    server.put(CLUSTER).unwrap();
    let (one, other) = tokio::join!(Replica::start(&server), Replica::start(&server));
    let root = until("bundle", || bundle(&server, "shop")).await;
    assert_eq!(certificates(&root), 1);
    for replica in [&one, &other] {
        let trust = &replica.status.json()["trust"];
        assert_eq!(trust["source"], "secret-generated");
        assert_eq!(trust["stage"], "single");
        assert_eq!(trust["bundle"], one.status.json()["trust"]["bundle"]);
        // Nothing of the authority is on a disk.
        assert!(!replica.folder.join("state").exists());
    }
    let data = &secret(&server)["data"];
    let kept = STANDARD.decode(data["ca.crt"].as_str().unwrap()).unwrap();
    assert_eq!(String::from_utf8(kept).unwrap(), root);

    // A new namespace, and somebody who writes something else.
    server
        .put("{apiVersion: v1, kind: Namespace, metadata: {name: late}}")
        .unwrap();
    assert_eq!(
        until("new namespace", || bundle(&server, "late")).await,
        root
    );
    server
        .put_value(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": BUNDLE, "namespace": "shop"},
            "data": {"root-cert.pem": "mine", "other": "kept"},
        }))
        .unwrap();
    until("repaired", || {
        (bundle(&server, "shop")? == root).then_some(())
    })
    .await;
    let map = server.get("configmaps", "shop", BUNDLE).unwrap();
    assert_eq!(map["data"]["other"], "kept");
    one.stop().await;
    other.stop().await;
}

/// Without it a replica that starts would make another root.
#[tokio::test]
async fn a_root_made_here_is_written_again_when_its_secret_is_deleted() {
    let server = ApiServer::start().unwrap();
    server.put(CLUSTER).unwrap();
    let (one, other) = tokio::join!(Replica::start(&server), Replica::start(&server));
    let root = until("bundle", || bundle(&server, "shop")).await;
    let before = secret(&server);
    server
        .remove("{apiVersion: v1, kind: Secret, metadata: {name: culvert-ca, namespace: culvert-system}}")
        .unwrap();
    let again = until("written again", || {
        server.get("secrets", SYSTEM, "culvert-ca")
    })
    .await;
    assert_ne!(again["metadata"]["uid"], before["metadata"]["uid"]);
    for key in ["tls.crt", "tls.key", "ca.crt"] {
        assert_eq!(again["data"][key], before["data"][key], "{key}");
    }
    let annotations = |secret: &Value| secret["metadata"]["annotations"].clone();
    assert_eq!(annotations(&again), annotations(&before));
    let late = Replica::start(&server).await;
    for replica in [&one, &other, &late] {
        until("in order", || {
            replica.trust()["problem"].is_null().then_some(())
        })
        .await;
        assert_eq!(replica.trust()["stage"], "single");
        assert_eq!(replica.trust()["bundle"], one.trust()["bundle"]);
    }
    assert_eq!(bundle(&server, "shop"), Some(root));
    for replica in [one, other, late] {
        replica.stop().await;
    }
}

#[tokio::test]
async fn t_node_1_and_2_an_agent_is_who_its_token_says_and_signs_for_its_node_only() {
    let server = ApiServer::start().unwrap();
    server.put(CLUSTER).unwrap();
    server.put(&agent("agent-1", "n1", "culvert-node")).unwrap();
    server.put(&agent("agent-2", "n2", "culvert-node")).unwrap();
    server.put(&agent("stranger", "n1", "stranger")).unwrap();
    let replica = Replica::start(&server).await;
    let root = until("bundle", || bundle(&server, SYSTEM)).await;
    let hour = Duration::from_secs(3600);
    let token = |pod: &str, audience: &str| server.pod_token(SYSTEM, pod, audience, hour).unwrap();

    let mine = token("agent-1", "culvert");
    replica.certificate(&root, &mine, WEB).await.unwrap();
    let cache = "spiffe://cluster.local/ns/shop/sa/cache";
    for (token, identity, expected) in [
        (mine.clone(), cache, "PermissionDenied"),
        (token("agent-2", "culvert"), WEB, "PermissionDenied"),
        (token("agent-1", "istio-ca"), WEB, "Unauthenticated"),
        (token("stranger", "culvert"), WEB, "Unauthenticated"),
        ("rubbish".to_owned(), WEB, "Unauthenticated"),
    ] {
        let error = replica.certificate(&root, &token, identity).await;
        let error = error.unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!error.contains(&token), "{error}");
    }
    // Reviews are few: the second certificate of a token needs none.
    let reviews = server.count("create", "tokenreviews.authentication.k8s.io");
    replica.certificate(&root, &mine, WEB).await.unwrap();
    let after = server.count("create", "tokenreviews.authentication.k8s.io");
    assert_eq!(after, reviews);
    assert!(reviews >= 5, "{reviews}");

    // Without the API server: who is known stays, others are asked to come again.
    let fresh = token("agent-2", "culvert");
    server.down().unwrap();
    replica.certificate(&root, &mine, WEB).await.unwrap();
    let error = replica.certificate(&root, &fresh, cache).await.unwrap_err();
    assert!(error.contains("Unavailable"), "{error}");
    server.up().unwrap();
    replica.certificate(&root, &fresh, cache).await.unwrap();
    replica.stop().await;
}

/// The issuer's Secret, as cert-manager writes it.
fn given(root: &NewRoot) -> Value {
    let encode = |text: &str| STANDARD.encode(text);
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "culvert-ca", "namespace": SYSTEM},
        "data": {
            "tls.crt": encode(&root.certificate), "tls.key": encode(&root.key),
            "ca.crt": encode(&root.certificate),
        },
    })
}

fn root() -> NewRoot {
    NewRoot::make("cluster.local", SystemTime::now()).unwrap()
}

#[tokio::test]
async fn f_25_a_node_of_another_replica_is_waited_for_even_while_it_is_away() {
    let (old, new) = (root(), root());
    let server = ApiServer::start().unwrap();
    server.put(CLUSTER).unwrap();
    server.put(&agent("agent-1", "n1", "culvert-node")).unwrap();
    server.put_value(given(&old)).unwrap();
    let overlap = Duration::from_millis(10);
    let one = Replica::start_with(&server, overlap).await;
    let other = Replica::start_with(&server, overlap).await;
    let hour = Duration::from_secs(3600);
    let token = server.pod_token(SYSTEM, "agent-1", "culvert", hour);
    let token = token.unwrap();
    let written = || server.get("configmaps", SYSTEM, "culvert-trust");
    for (replica, peer) in [(&one, &other), (&other, &one)] {
        let mut agent = replica.attach("n1", &old.certificate, &token);
        let first = agent.told(1).await;
        agent.acknowledge(&first);
        until("recorded", || {
            (written()?["data"]["n1"] == *first.sha256).then_some(())
        })
        .await;
        until("known to both", || {
            (peer.trust()["unacknowledged"] == json!([])).then_some(())
        })
        .await;
    }

    server.put_value(given(&new)).unwrap();
    let mut agent = other.attach("n1", &old.certificate, &token);
    agent.told(2).await;
    drop(agent);
    // It was told and said nothing: both know it by name, and neither goes on.
    for replica in [&one, &other] {
        until("n1 named", || {
            let trust = replica.trust();
            assert_ne!(trust["stage"], "retiring");
            let waits = trust["unacknowledged"] == json!(["n1"]);
            (waits && trust["stage"] == "distributing").then_some(())
        })
        .await;
    }
    let mut agent = one.attach("n1", &old.certificate, &token);
    let both = agent.told(2).await;
    agent.acknowledge(&both);
    for replica in [&one, &other] {
        until("new root signs", || {
            (replica.trust()["stage"] == "retiring").then_some(())
        })
        .await;
        replica
            .certificate(&new.certificate, &token, WEB)
            .await
            .unwrap();
    }
    // A node that is no more is waited for no longer.
    drop(agent);
    server
        .remove(&self::agent("agent-1", "n1", "culvert-node"))
        .unwrap();
    until("forgotten", || {
        written()?["data"]["n1"].is_null().then_some(())
    })
    .await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn f_25_an_issuer_given_in_the_secret_is_used_and_another_is_trusted_before_it_signs() {
    let (old, new) = (root(), root());
    let server = ApiServer::start().unwrap();
    server.put(CLUSTER).unwrap();
    server.put(&agent("agent-1", "n1", "culvert-node")).unwrap();
    server.put_value(given(&old)).unwrap();
    let replica = Replica::start(&server).await;
    assert_eq!(replica.status.json()["trust"]["source"], "secret-given");
    let first = until("bundle", || bundle(&server, "shop")).await;
    assert_eq!(first, old.certificate);

    // As cert-manager does: our own key in the Secret is gone with it.
    server.put_value(given(&new)).unwrap();
    let both = format!("{}{}", old.certificate, new.certificate);
    until("both", || (bundle(&server, "shop")? == both).then_some(())).await;
    assert_eq!(replica.status.json()["trust"]["stage"], "distributing");
    // The old one signs, and serves.
    let hour = Duration::from_secs(3600);
    let token = server
        .pod_token(SYSTEM, "agent-1", "culvert", hour)
        .unwrap();
    replica
        .certificate(&old.certificate, &token, WEB)
        .await
        .unwrap();
    assert!(
        replica
            .certificate(&new.certificate, &token, WEB)
            .await
            .is_err()
    );

    // A replica that starts now has the new key alone, and trusts the old root all the same.
    until("remembered", || {
        secret(&server)["data"]["culvert-trusted.crt"]
            .as_str()
            .map(drop)
    })
    .await;
    let late = Replica::start(&server).await;
    let trust = late.status.json()["trust"].clone();
    assert_eq!(trust["stage"], "retiring");
    assert_eq!(trust["roots"].as_array().unwrap().len(), 2);

    // What makes no sense is refused, and everything stays.
    server
        .put_value(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "culvert-ca", "namespace": SYSTEM}, "data": {},
        }))
        .unwrap();
    let problem = until("problem", || {
        replica.status.json()["trust"]["problem"]
            .as_str()
            .map(str::to_owned)
    });
    assert!(problem.await.contains("tls.crt is missing"));
    replica
        .certificate(&old.certificate, &token, WEB)
        .await
        .unwrap();
    late.stop().await;
    replica.stop().await;
}

#[tokio::test]
async fn a_generated_root_that_grows_old_gets_a_successor_that_takes_over() {
    const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    let server = ApiServer::start().unwrap();
    server.put(CLUSTER).unwrap();
    server.put(&agent("agent-1", "n1", "culvert-node")).unwrap();
    // It ends in a quarter of a minute: nobody can be waited for.
    let last = SystemTime::now() + Duration::from_secs(15);
    let old = NewRoot::make("cluster.local", last - YEARS).unwrap();
    let encode = |text: &str| STANDARD.encode(text);
    server
        .put_value(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {
                "name": "culvert-ca", "namespace": SYSTEM,
                "annotations": {"culvert.dev/generated": "true"},
            },
            "data": {
                "tls.crt": encode(&old.certificate), "tls.key": encode(&old.key),
                "ca.crt": encode(&old.certificate),
            },
        }))
        .unwrap();
    let replica = Replica::start(&server).await;
    let next = until("a successor", || {
        let secret = secret(&server);
        secret["data"]["culvert-next.crt"]
            .as_str()
            .map(str::to_owned)
    });
    let next = next.await;
    until("promoted", || {
        (secret(&server)["data"]["tls.crt"] == *next).then_some(())
    })
    .await;
    let data = secret(&server)["data"].clone();
    assert_eq!(data["ca.crt"], *next);
    assert_eq!(data["culvert-next.key"], Value::Null);
    assert_ne!(data["tls.key"], encode(&old.key));
    let new = String::from_utf8(STANDARD.decode(&next).unwrap()).unwrap();
    // What ended is not trusted for longer; the successor alone serves and signs.
    until("the new one", || {
        (bundle(&server, "shop")? == new).then_some(())
    })
    .await;
    let hour = Duration::from_secs(3600);
    let token = server
        .pod_token(SYSTEM, "agent-1", "culvert", hour)
        .unwrap();
    replica.certificate(&new, &token, WEB).await.unwrap();
    replica.stop().await;
}
