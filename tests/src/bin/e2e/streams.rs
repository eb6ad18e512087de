//! The gateway's listeners for TLS, TCP and UDP, and TLS to a backend.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tests::apps::Redis;
use tests::gateway::{Gateway, with_classes};
use tests::manifests::{ServiceSpec, peer_authentication};
use tests::process::Process;
use tests::{Cluster, Pod, PodSpec, poll};

use crate::scene::{MESHED, OUTSIDE, namespaces};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[shared(
    "gateway: TLS by name, TCP, UDP, and TLS to a backend, to captured pods",
    streams,
)];

/// Port of nginx with TLS.
const SECURE: u16 = 8443;
/// Port of redis.
const REDIS: u16 = 6379;
/// Port of the echo for datagrams.
const ECHO: u16 = 5353;
/// The name that nginx has a certificate for.
const NAME: &str = "secure.example";

fn streams(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let strict = peer_authentication(MESHED, "STRICT");
    cluster.manifests().write("mode", &strict)?;
    let spec = PodSpec::new(MESHED, "edge").label("culvert.dev/mesh", "disabled");
    let edge = cluster.pod(&spec.outside())?;
    let a = cluster.pod(&PodSpec::new(MESHED, "a").on(2))?;
    let b = cluster.pod(&PodSpec::new(MESHED, "b").on(2))?;
    let client = cluster.pod(&PodSpec::new(OUTSIDE, "outsider").outside())?;
    cluster.service(&ServiceSpec::new(MESHED, "a", SECURE))?;
    let both = ServiceSpec::new(MESHED, "b", REDIS).port(ECHO, &ECHO.to_string());
    let addresses = cluster.service(&both)?;
    let target = format!("targetPort: {ECHO}");
    let with_udp = both
        .yaml(addresses)
        .replace(&target, &format!("{target}\n    protocol: UDP"));
    cluster.manifests().write("service-app-b", &with_udp)?;
    let authority = authority()?;
    cluster
        .manifests()
        .write("gateway", &with_classes(GATEWAY))?;
    cluster.manifests().write("routes", ROUTES)?;
    let indented = authority.root.replace('\n', "\n    ");
    let trust = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: app}}\ndata:\n  \
         ca.crt: |\n    {indented}\n---\n{TLS_POLICY}"
    );
    cluster.manifests().write("trust", &trust)?;
    cluster.settle()?;
    let _servers = (
        secure_nginx(cluster, &a, &authority)?,
        Redis::start(cluster.run(), b.place(), "streams", REDIS)?,
    );
    let _echo = Echo::start(&b)?;
    let gateway = Gateway::start(cluster, &edge, "app/edge")?;
    gateway.wait("gateway in force", |status| {
        status["ports"] == serde_json::json!([6380, 8000, SECURE, "5300/udp"])
            && status["portsMissing"].as_array().is_some_and(Vec::is_empty)
            && status["faults"].as_array().is_some_and(Vec::is_empty)
    })?;
    let root = cluster.run().path("streams-root.pem");
    fs::write(&root, &authority.root)?;
    let root = root.to_str().context("path of the root")?;
    for to in edge.sockets(0) {
        let at = |port| SocketAddr::new(to.ip(), port);
        poll::until("TLS passed through", Duration::from_secs(20), || {
            must(
                &client,
                &passed_through(at(SECURE), root),
                "hello from nginx",
            )
        })?;
        let unknown = [
            "curl",
            "--silent",
            "--insecure",
            "--max-time",
            "5",
            "--resolve",
        ];
        let resolve = format!("other.example:{SECURE}:{}", bracketed(at(SECURE)));
        let url = format!("https://other.example:{SECURE}/");
        let words = [&unknown[..], &[&resolve, &url]].concat();
        let refused = client.place().run(&words, Duration::from_secs(10))?;
        ensure!(!refused.ok(), "an unknown name was served");
        let ip = to.ip().to_string();
        let ping = ["redis-cli", "-h", &ip, "-p", "6380", "ping"].map(str::to_owned);
        must(&client, &ping, "PONG")?;
        let url = format!("http://{}/", at(8000));
        let web = [
            "curl",
            "--silent",
            "--max-time",
            "10",
            "-H",
            "Host: web.example",
            &url,
        ];
        must(&client, &web.map(str::to_owned), "hello from nginx")?;
        let answer = client.place().within(|| ask(at(5300)))??;
        ensure!(answer == "echo of hello", "UDP: {answer:?}");
    }
    poll::until(
        "the record of a connection",
        Duration::from_secs(10),
        || {
            let log = gateway.process().log();
            let passed = log.lines().any(|line| {
                let parts = [
                    "connection complete",
                    "tls.sni=\"secure.example\"",
                    "TLSRoute/app/secure",
                ];
                parts.iter().all(|part| line.contains(part)) && !line.contains("bytes_sent=0")
            });
            ensure!(passed, "no record of a connection:\n{log}");
            Ok(())
        },
    )
}

/// The answer of the echo behind a listener.
fn ask(to: SocketAddr) -> Result<String> {
    let any = match to {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let socket = UdpSocket::bind(any)?;
    // Hears nobody but the address that is asked.
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.send(b"hello")?;
    let mut buffer = [0; 64];
    let len = socket.recv(&mut buffer).context("no answer")?;
    Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

fn passed_through(to: SocketAddr, root: &str) -> Vec<String> {
    let resolve = format!("{NAME}:{SECURE}:{}", bracketed(to));
    let url = format!("https://{NAME}:{SECURE}/");
    let words = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "10",
        "--cacert",
        root,
        "--resolve",
        &resolve,
        &url,
    ];
    words.map(str::to_owned).to_vec()
}

fn bracketed(to: SocketAddr) -> String {
    match to {
        SocketAddr::V4(to) => to.ip().to_string(),
        SocketAddr::V6(to) => format!("[{}]", to.ip()),
    }
}

fn must(client: &Pod, words: &[String], want: &str) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = client.place().run(&words, Duration::from_secs(15))?;
    ensure!(
        output.ok() && output.stdout.contains(want),
        "{words:?}: {:?} {:?}",
        output.stdout,
        output.stderr
    );
    Ok(())
}

/// Answers datagrams on both families, until it is dropped: a socket would keep its pod's network.
struct Echo {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(pod: &Pod) -> Result<Self> {
        let socket = pod.place().within(|| UdpSocket::bind(("::", ECHO)))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 1024];
            while !seen.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let answer = [b"echo of ", &buffer[..len]].concat();
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self {
            is_over,
            thread: Some(thread),
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Authority {
    root: String,
    certificate: String,
    key: String,
}

fn authority() -> Result<Authority> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    // Two certificates of one name would pass for one that signed itself.
    params
        .distinguished_name
        .push(DnType::CommonName, "root of the streams");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new([NAME.to_owned()])?;
    Ok(Authority {
        root,
        certificate: leaf.signed_by(&key, &issuer)?.pem(),
        key: key.serialize_pem(),
    })
}

/// nginx that speaks nothing but TLS, of both versions.
fn secure_nginx(cluster: &Cluster, pod: &Pod, authority: &Authority) -> Result<Process> {
    let folder = cluster.run().path("app-streams-nginx");
    fs::create_dir_all(folder.join("tmp")).context("creating nginx' folder")?;
    fs::write(folder.join("certificate.pem"), &authority.certificate)?;
    fs::write(folder.join("key.pem"), &authority.key)?;
    let tmp = folder.join("tmp");
    let tmp = tmp.display();
    let config = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid nginx.pid;\nerror_log error.log;\n\
         events {{}}\nhttp {{\naccess_log off;\n\
         client_body_temp_path {tmp}/b; proxy_temp_path {tmp}/p; fastcgi_temp_path {tmp}/f;\n\
         uwsgi_temp_path {tmp}/u; scgi_temp_path {tmp}/s;\n\
         server {{ listen {SECURE} ssl; listen [::]:{SECURE} ssl;\n\
         ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;\n\
         location / {{ return 200 'hello from nginx to $ssl_server_name\\n'; }} }}\n}}\n",
        folder = folder.display(),
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(&folder).arg("-c").arg(&file);
    command.args(["-e", "error.log"]);
    let process = Process::spawn(cluster.run(), pod.place(), "nginx-streams", command)?;
    let to = (Ipv4Addr::LOCALHOST, SECURE).into();
    poll::until("nginx up", Duration::from_secs(10), || {
        process.must_run()?;
        pod.place()
            .connect(to, Duration::from_secs(1))
            .context("nginx")
    })?;
    Ok(process)
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: app}
spec:
  gatewayClassName: culvert
  listeners:
  - {name: http, port: 8000, protocol: HTTP}
  - {name: tls, port: 8443, protocol: TLS, tls: {mode: Passthrough}}
  - {name: tcp, port: 6380, protocol: TCP}
  - {name: udp, port: 5300, protocol: UDP}
";

const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: secure, namespace: app}
spec:
  parentRefs: [{name: edge, sectionName: tls}]
  hostnames: [secure.example]
  rules: [{backendRefs: [{name: a, port: 8443}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: redis, namespace: app}
spec:
  parentRefs: [{name: edge, sectionName: tcp}]
  rules: [{backendRefs: [{name: b, port: 6379}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: echo, namespace: app}
spec:
  parentRefs: [{name: edge, sectionName: udp}]
  rules: [{backendRefs: [{name: b, port: 5353}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: app}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [web.example]
  rules: [{backendRefs: [{name: a, port: 8443}]}]
";

const TLS_POLICY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: secure, namespace: app}
spec:
  targetRefs: [{group: '', kind: Service, name: a}]
  validation:
    hostname: secure.example
    caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]
";
