//! What the control plane says on the objects of a cluster, and `culvert check` of one, against
//! the API server fixture, under the rules of an installation.

#![expect(
    clippy::unwrap_used,
    reason = "a test program: what these end is the test"
)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_control::{
    Check, ClusterConfig, Code, Config, Control, Scene, SourceChoice, TokenReviews,
};
use agent_net::drain::{self, Drain};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tests::apiserver::{ApiServer, Refusal};
use tests::gateway::CLASSES;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(30);
const SYSTEM: &str = "culvert-system";
const POLICIES: &str = "authorizationpolicies.security.istio.io";
const RULES: &str = include_str!("../../deploy/kubernetes/base/control-rbac.yaml");
const GATEWAY_RULES: &str = include_str!("../../deploy/kubernetes/base/gateway-rbac.yaml");
const WEBHOOK: &str = include_str!("../../deploy/kubernetes/base/webhook.yaml");

const CLUSTER: &str = "\
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: culvert-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, serviceAccountName: web, containers: [{name: main, image: x}]}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: good, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, rules: [{}]}
status:
  conditions:
  - {type: ZtunnelAccepted, status: \"True\", reason: Accepted, message: of another controller, lastTransitionTime: \"2026-01-01T00:00:00Z\"}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: bad, namespace: shop}
spec: {rules: [{form: []}]}
---
apiVersion: culvert.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: other.domain}
";

/// A control plane of the fixture's cluster.
struct Replica {
    folder: PathBuf,
    webhook: SocketAddr,
    drain: Drain,
    serving: JoinHandle<()>,
}

fn scratch() -> PathBuf {
    let name = format!("culvert-findings-{:016x}", rand::random::<u64>());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A kubeconfig of the account that the control plane is installed with.
fn kubeconfig(server: &ApiServer, folder: &Path) -> ClusterConfig {
    let life = Duration::from_secs(3600);
    let text = server.account_kubeconfig(SYSTEM, "culvert-control", life);
    let path = folder.join("kubeconfig");
    fs::write(&path, text.unwrap()).unwrap();
    ClusterConfig {
        kubeconfig: Some(path),
    }
}

impl Replica {
    async fn start(server: &ApiServer) -> Self {
        Self::with(server, None).await
    }

    async fn with(server: &ApiServer, gateway_image: Option<&str>) -> Self {
        let folder = scratch();
        let source = SourceChoice::Kubernetes(kubeconfig(server, &folder));
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let control = Control::bind(Config {
            token_reviews: Some(TokenReviews {
                audiences: vec!["culvert".to_owned()],
                accounts: vec!["culvert-system/culvert-node".parse().unwrap()],
            }),
            gateway_image: gateway_image.map(str::to_owned),
            ..Config::new(source, listen, folder.join("state"))
        })
        .await
        .unwrap();
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let control = control.with_webhook(any).await.unwrap();
        let webhook = control.webhook_addr().unwrap();
        let (drain, watcher) = drain::channel();
        let serving = tokio::spawn(control.serve(watcher));
        Self {
            folder,
            webhook,
            drain,
            serving,
        }
    }

    async fn stop(self) {
        assert!(self.drain.drain(Duration::from_secs(15)).await);
        self.serving.await.unwrap();
        fs::remove_dir_all(self.folder).unwrap();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn cluster() -> ApiServer {
    let server = ApiServer::start().unwrap();
    server.put(CLUSTER).unwrap();
    server.put(RULES).unwrap();
    server
}

fn condition(server: &ApiServer, resource: &str, object: (&str, &str), kind: &str) -> Value {
    let Some(object) = server.get(resource, object.0, object.1) else {
        return Value::Null;
    };
    let list = object["status"]["conditions"].as_array().cloned();
    let mut list = list.unwrap_or_default().into_iter();
    list.find(|condition| condition["type"] == kind)
        .unwrap_or_default()
}

fn events(server: &ApiServer) -> Vec<Value> {
    let names = server.names("events.events.k8s.io");
    names
        .iter()
        .filter_map(|(namespace, name)| server.get("events.events.k8s.io", namespace, name))
        .map(|event| (*event).clone())
        .collect()
}

#[tokio::test]
async fn conditions_and_events_are_on_the_objects_once() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let of = |name: &str, kind: &str| condition(&server, POLICIES, ("shop", name), kind);
    until("nobody enforces it yet", || {
        of("good", "Enforced")["reason"] == "NotCaptured"
    })
    .await;
    assert_eq!(of("good", "Enforced")["status"], "False");
    // As the replica writes it that has the stream of the pod's node.
    let pod = server.get("pods", "shop", "web").unwrap();
    let mut pod = (*pod).clone();
    (pod["apiVersion"], pod["kind"]) = (json!("v1"), json!("Pod"));
    pod["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": "enabled"});
    server.put_value(pod).unwrap();
    until("what is in force says so", || {
        of("good", "Enforced")["status"] == "True"
    })
    .await;
    let enforced = of("good", "Enforced");
    assert_eq!(enforced["reason"], "Enforced", "{enforced}");
    assert_eq!(enforced["message"], "by the agent of 1 node");
    assert_eq!(
        of("good", "ZtunnelAccepted")["message"],
        "of another controller"
    );
    until("what is wrong says so", || {
        of("bad", "Accepted")["status"] == "False"
    })
    .await;
    let accepted = of("bad", "Accepted");
    assert_eq!(accepted["reason"], "Invalid");
    let message = accepted["message"].as_str().unwrap();
    assert!(message.starts_with("spec.rules[0].form: "), "{message}");
    let config = ("", "default");
    let mesh = || condition(&server, "meshconfigs.culvert.dev", config, "Accepted");
    until("the other trust domain is seen", || {
        mesh()["status"] == "False"
    })
    .await;
    assert_eq!(mesh()["reason"], "TrustDomainDiffers");
    until("an event for each error", || events(&server).len() == 2).await;
    let mut reasons: Vec<String> = events(&server)
        .iter()
        .map(|event| format!("{} {}", event["regarding"]["name"], event["reason"]))
        .collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [r#""bad" "Invalid""#, r#""default" "TrustDomainDiffers""#]
    );

    // Nothing is left to say: another replica that begins to lead changes nothing.
    let writes = || server.count("patch", &format!("{POLICIES}/status"));
    let before = (writes(), server.version());
    replica.stop().await;
    let looked = server.count("get", POLICIES);
    let replica = Replica::start(&server).await;
    until("the next one has looked", || {
        server.count("get", POLICIES) >= looked + 2 && events(&server).len() == 2
    })
    .await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(writes(), before.0);

    // A change of the specification is seen, and so is its repair.
    server
        .put(
            "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
             metadata: {name: bad, namespace: shop}, spec: {action: AUDIT}}",
        )
        .unwrap();
    let reason = || of("bad", "Accepted")["reason"].clone();
    until("wrong in another way", || reason() == "ActionUnsupported").await;
    assert_eq!(of("bad", "Enforced")["reason"], "NotAccepted");
    server
        .put(
            "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
             metadata: {name: bad, namespace: shop}, spec: {rules: [{}]}}",
        )
        .unwrap();
    until("accepted", || reason() == "Accepted").await;
    assert_eq!(of("bad", "Accepted")["status"], "True");
    replica.stop().await;
}

const GATEWAYS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: culvert
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: edge-tls}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec: {parentRefs: [{name: edge, sectionName: http}], rules: [{backendRefs: [{name: web, port: 80}]}]}
status:
  parents:
  - parentRef: {name: edge, sectionName: http}
    controllerName: example.com/other
    conditions: [{type: Accepted, status: \"False\", reason: Foreign, message: of another controller, lastTransitionTime: \"2026-01-01T00:00:00Z\"}]
";

#[tokio::test]
async fn gateways_and_routes_say_what_is_right_and_wrong_with_them() {
    let server = cluster();
    server.put(CLASSES).unwrap();
    server.put(GATEWAYS).unwrap();
    let replica = Replica::start(&server).await;
    let status = |resource: &str, namespace: &str, name: &str| {
        let resource = format!("{resource}.gateway.networking.k8s.io");
        let object = server.get(&resource, namespace, name);
        object.map_or(Value::Null, |object| object["status"].clone())
    };
    let reason = |conditions: &Value, kind: &str| {
        let conditions = conditions.as_array().cloned().unwrap_or_default();
        let found = conditions
            .into_iter()
            .find(|condition| condition["type"] == kind);
        found.map_or(Value::Null, |condition| condition["reason"].clone())
    };
    until("the class is accepted", || {
        let class = status("gatewayclasses", "", "culvert");
        reason(&class["conditions"], "Accepted") == "Accepted"
    })
    .await;
    let of_listener = |at: usize, kind: &str| {
        let gateway = status("gateways", "shop", "edge");
        reason(&gateway["listeners"][at]["conditions"], kind)
    };
    // The role of the classes is not there yet: no Secret may be read.
    until("the listener says that its certificate is missing", || {
        of_listener(1, "ResolvedRefs") == "InvalidCertificateRef"
    })
    .await;
    assert_eq!(of_listener(0, "ResolvedRefs"), "ResolvedRefs");
    assert_eq!(
        status("gateways", "shop", "edge")["listeners"][0]["attachedRoutes"],
        1
    );
    let parents = || status("httproutes", "shop", "web")["parents"].clone();
    until("the route is accepted", || {
        reason(&parents()[1]["conditions"], "Accepted") == "Accepted"
    })
    .await;
    assert_eq!(reason(&parents()[0]["conditions"], "Accepted"), "Foreign");
    assert_eq!(parents().as_array().unwrap().len(), 2);

    // A certificate, and the right to read it.
    let made = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "edge-tls", "namespace": "shop"},
        "data": {
            "tls.crt": STANDARD.encode(made.cert.pem()),
            "tls.key": STANDARD.encode(made.signing_key.serialize_pem()),
        },
    });
    server.put(&secret.to_string()).unwrap();
    server.put(GATEWAY_RULES).unwrap();
    until("the certificate is found", || {
        of_listener(1, "ResolvedRefs") == "ResolvedRefs"
    })
    .await;
    replica.stop().await;
}

/// What runs gateways is made under the rules of an installation, put right, and left alone where it
/// is somebody else's.
#[tokio::test]
async fn a_gateway_gets_what_it_runs_on_and_others_keep_their_fields() {
    const DEPLOYMENTS: &str = "deployments.apps";
    let server = cluster();
    server.put(GATEWAY_RULES).unwrap();
    let replica = Replica::with(&server, Some("culvert:9")).await;
    let class = |name: &str| server.get("gatewayclasses.gateway.networking.k8s.io", "", name);
    until("the classes are made", || {
        class("culvert").is_some() && class("culvert-waypoint").is_some()
    })
    .await;
    // A Service of an application has the name of the second Gateway.
    server
        .put("{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 1}]}}")
        .unwrap();
    for name in ["edge", "web"] {
        let gateway = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: shop}}
spec: {{gatewayClassName: culvert, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}
"
        );
        server.put(&gateway).unwrap();
    }
    until("both are deployed", || {
        ["edge", "web"]
            .iter()
            .all(|name| server.get(DEPLOYMENTS, "shop", name).is_some())
            && server.get("serviceaccounts", "shop", "edge").is_some()
            && server.get("services", "shop", "edge").is_some()
    })
    .await;
    let service = server.get("services", "shop", "edge").unwrap();
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    assert_eq!(service["spec"]["ports"][0]["port"], 80);
    let gateway = server
        .get("gateways.gateway.networking.k8s.io", "shop", "edge")
        .unwrap();
    let owner = &service["metadata"]["ownerReferences"][0];
    assert_eq!(owner["uid"], gateway["metadata"]["uid"]);
    let applications = server.get("services", "shop", "web").unwrap();
    assert_eq!(applications["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(applications["spec"]["ports"][0]["port"], 1);
    // What a PodDisruptionBudget or an autoscaler says to find its pods, and no others.
    let deployment = server.get(DEPLOYMENTS, "shop", "edge").unwrap();
    let budget = json!({"gateway.networking.k8s.io/gateway-name": "edge"});
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], budget);
    let template = &deployment["spec"]["template"];
    let name = &template["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"];
    assert_eq!(name, "edge");
    // Without a request there is no share of it to scale by.
    let container = &template["spec"]["containers"][0];
    assert_eq!(container["resources"]["requests"]["cpu"], "100m");
    // An autoscaler sets the replicas, and somebody else another image; then the Gateway changes.
    let mut scaled = (*server.get(DEPLOYMENTS, "shop", "edge").unwrap()).clone();
    assert_eq!(scaled["spec"]["replicas"], Value::Null);
    scaled["apiVersion"] = json!("apps/v1");
    scaled["kind"] = json!("Deployment");
    scaled["spec"]["replicas"] = json!(5);
    scaled["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other:1");
    server.put_value(scaled).unwrap();
    let changed = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: culvert
  infrastructure: {labels: {team: a}}
  listeners: [{name: http, port: 80, protocol: HTTP}, {name: more, port: 8080, protocol: HTTP}]
";
    server.put(changed).unwrap();
    until("everything follows", || {
        let service = server.get("services", "shop", "edge").unwrap();
        let deployment = server.get(DEPLOYMENTS, "shop", "edge").unwrap();
        service["spec"]["ports"][1]["port"] == 8080
            && service["metadata"]["labels"]["team"] == "a"
            && deployment["metadata"]["labels"]["team"] == "a"
    })
    .await;
    let deployment = server.get(DEPLOYMENTS, "shop", "edge").unwrap();
    let spec = &deployment["spec"];
    assert_eq!(spec["replicas"], 5);
    assert_eq!(
        spec["template"]["spec"]["containers"][0]["image"],
        "culvert:9"
    );
    replica.stop().await;
}

#[tokio::test]
async fn a_write_that_somebody_else_came_before_is_done_again() {
    let server = cluster();
    let status = format!("{POLICIES}/status");
    let conflict = Refusal::new(409, 2).verb("patch").resource(&status);
    server.refuse(conflict);
    let replica = Replica::start(&server).await;
    let of = |name: &str| condition(&server, POLICIES, ("shop", name), "Accepted");
    until("both are written", || {
        of("good")["status"] == "True" && of("bad")["status"] == "False"
    })
    .await;
    assert!(server.count("patch", &status) >= 4);
    replica.stop().await;
}

#[tokio::test]
async fn a_cluster_can_be_checked_and_what_would_be_applied_to_it() {
    let server = cluster();
    let folder = scratch();
    let config = kubeconfig(&server, &folder);
    let scene = Scene {
        trust_domain: "cluster.local".to_owned(),
        root_namespace: SYSTEM.to_owned(),
    };
    let codes = |findings: agent_control::Findings| -> Vec<(String, Code)> {
        let findings = findings.findings.into_iter();
        findings
            .map(|finding| (finding.object.unwrap().to_string(), finding.code))
            .collect()
    };
    let check = Check::of_cluster(&scene, &config).await.unwrap();
    let expected = [
        ("AuthorizationPolicy shop/bad", Code::Invalid),
        ("MeshConfig default", Code::TrustDomainDiffers),
    ];
    let expected = expected.map(|(object, code)| (object.to_owned(), code));
    assert_eq!(codes(check.finish()), expected);
    let mut check = Check::of_cluster(&scene, &config).await.unwrap();
    let new = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "new", "namespace": "shop"},
        "spec": {"rules": [{"from": [{"source": {"principals": [
            "cluster.local/ns/shop/sa/web",
            "cluster.local/ns/shop/sa/wbe",
        ]}}]}]},
    });
    check.add("new.json", new.to_string().as_bytes());
    let findings = codes(check.finish());
    let expected = (
        "AuthorizationPolicy shop/new".to_owned(),
        Code::AccountUnknown,
    );
    assert_eq!(findings, [expected], "nothing of what was there before");
    server.down().unwrap();
    fs::remove_dir_all(folder).unwrap();
}

/// Asks as an API server does: with nothing but the certificate of the webhook's configuration.
async fn ask(
    address: SocketAddr,
    bundle: &str,
    alpn: &str,
    path: &str,
    body: String,
) -> (u16, Value) {
    let pem = STANDARD.decode(bundle).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&pem) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls));
    let stream = TokioIo::new(connector.connect(name, stream).await.unwrap());
    let request = http::Request::post(format!("https://{address}{path}"))
        .header("host", address.to_string())
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let answer = if alpn == "h2" {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                .await
                .unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn review(spec: &Value) -> String {
    let object = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "new", "namespace": "shop"},
        "spec": spec,
    });
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "1-2-3", "operation": "CREATE", "object": object},
    })
    .to_string()
}

#[tokio::test]
async fn the_api_server_knows_the_webhook_and_gets_answers() {
    let server = cluster();
    server.put(WEBHOOK).unwrap();
    let replica = Replica::start(&server).await;
    let bundle = || {
        let resource = "validatingwebhookconfigurations.admissionregistration.k8s.io";
        let found = server.get(resource, "", "culvert-validation").unwrap();
        let config = &found["webhooks"][0]["clientConfig"];
        assert_eq!(
            config["service"]["name"], "culvert-control",
            "nothing else is changed"
        );
        config["caBundle"].as_str().map(str::to_owned)
    };
    until("the certificate is in the configuration", || {
        bundle().is_some()
    })
    .await;
    let bundle = bundle().unwrap();
    let good = review(&json!({"selector": {"matchLabels": {"app": "web"}}, "rules": [{}]}));
    let bad = review(&json!({"rules": [{"form": []}]}));
    let odd = review(&json!({"selector": {"matchLabels": {"app": "wbe"}}, "rules": [{}]}));
    for alpn in ["h2", "http/1.1"] {
        let ask = |path: &'static str, body: &str| {
            ask(replica.webhook, &bundle, alpn, path, body.to_owned())
        };
        let (status, answer) = ask("/validate?timeout=5s", &good).await;
        assert_eq!(
            (status, &answer["response"]["allowed"]),
            (200, &json!(true))
        );
        assert_eq!(answer["response"]["uid"], "1-2-3");
        let (_, answer) = ask("/validate", &bad).await;
        assert_eq!(answer["response"]["allowed"], false, "{answer}");
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("spec.rules[0].form: "), "{message}");
        let (_, answer) = ask("/validate", &odd).await;
        assert_eq!(answer["response"]["allowed"], true, "{answer}");
        let warning = answer["response"]["warnings"][0].as_str().unwrap();
        assert!(warning.contains("(matches-no-pod)"), "{warning}");
        assert_eq!(ask("/validate", "[[[[").await.0, 400);
        assert_eq!(ask("/other", &good).await.0, 404);
    }
    let large = " ".repeat((8 << 20) + 1);
    let answer = ask(replica.webhook, &bundle, "h2", "/validate", large).await;
    assert_eq!(answer.0, 413);
    replica.stop().await;
}
