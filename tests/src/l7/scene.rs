//! Pods, objects and routers.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Settings;
use super::cores::{Cores, place};
use super::peer::{Peer, Work};
use super::token::{ISSUER, Token};
use super::workload::{Kind, Protocol};
use crate::gateway::{CLASSES, Gateway};
use crate::manifests::ServiceSpec;
use crate::process::Process;
use crate::run::Run;
use crate::{Cluster, Pod, PodSpec, http, poll};

const NAMESPACE: &str = "bench";
/// Port of the gateway's listener.
const LISTEN: u16 = 8000;
/// Port of the backend.
const WEB: u16 = 8080;

/// What all scenes share: who asks, who answers.
pub(super) struct Stage {
    pub(super) client: Pod,
    pub(super) cores: Cores,
    pub(super) token: Token,
    backend: SocketAddr,
    _pod: Pod,
    _web: Process,
}

impl Stage {
    pub(super) fn set(cluster: &Cluster) -> Result<Self> {
        let manifests = cluster.manifests();
        manifests.namespace(NAMESPACE, None)?;
        manifests.write("bench-classes", CLASSES)?;
        let cores = Cores::find()?;
        let client = cluster.pod(&PodSpec::new(NAMESPACE, "client").outside())?;
        let pod = cluster.pod(&PodSpec::new(NAMESPACE, "web").outside())?;
        cluster.service(&ServiceSpec::new(NAMESPACE, "web", WEB))?;
        let web = backend(cluster.run(), &pod)?;
        place(web.pid(), &cores.others)?;
        Ok(Self {
            backend: pod.sockets(WEB)[0],
            token: Token::make(&cluster.run().path(""))?,
            client,
            cores,
            _pod: pod,
            _web: web,
        })
    }
}

/// Both routers of one kind, in one pod and on one core.
pub(super) struct Scene {
    pub(super) kind: Kind,
    /// The path that is asked for.
    pub(super) path: String,
    pub(super) gateway: Gateway,
    pub(super) router: Process,
    address: SocketAddr,
    peer: Peer,
    _pod: Pod,
}

impl Scene {
    pub(super) fn start(
        cluster: &Cluster,
        stage: &Stage,
        kind: Kind,
        settings: &Settings,
    ) -> Result<Self> {
        let name = kind.name();
        let pod = cluster.pod(&PodSpec::new(NAMESPACE, name).outside())?;
        let prefixes = prefixes(kind, settings.routes);
        let manifest = manifest(kind, &prefixes, &stage.token);
        cluster
            .manifests()
            .write(&format!("bench-{name}"), &manifest)?;
        cluster.settle()?;
        let log = match kind {
            Kind::Logged => "info",
            _ => "info,access=off",
        };
        let key = format!("{NAMESPACE}/{name}");
        let gateway = Gateway::start_with(cluster, &pod, &key, &["--log-filter", log])?;
        let work = Work {
            kind,
            prefixes: &prefixes,
            backend: stage.backend,
            token: &stage.token,
        };
        let router = settings.peer.start(cluster.run(), &pod, &work)?;
        let scene = Self {
            kind,
            path: format!("{}/item", prefixes[prefixes.len() - 1]),
            gateway,
            router,
            address: pod.sockets(LISTEN)[0],
            peer: settings.peer.clone(),
            _pod: pod,
        };
        scene.await_both(stage)?;
        for pid in [scene.router.pid(), scene.gateway.process().pid()] {
            place(pid, &stage.cores.router)?;
        }
        Ok(scene)
    }

    /// Where the gateway listens.
    pub(super) fn ours(&self) -> SocketAddr {
        self.address
    }

    /// Where the other router listens, if it can do what this scene is about.
    pub(super) fn peers(&self, protocol: Protocol) -> Option<SocketAddr> {
        let port = self.peer.port(self.kind, protocol)?;
        Some(SocketAddr::new(self.address.ip(), port))
    }

    fn await_both(&self, stage: &Stage) -> Result<()> {
        let peers = self.peers(Protocol::Http1);
        for at in [Some(self.address), peers].into_iter().flatten() {
            poll::until("a router serves", Duration::from_secs(20), || {
                self.gateway.process().must_run()?;
                self.router.must_run()?;
                let answer = http::get(&stage.client, at, &self.path)?;
                // Without the token a refusal is all there is to see: 401. A gateway of which not
                // all is known yet may refuse everything by 403.
                let fine = match self.kind {
                    Kind::Jwt => [401, 403].contains(&answer.status),
                    _ => answer.status == 200,
                };
                ensure!(fine, "{at} answers {answer:?}");
                Ok(())
            })
            .with_context(|| {
                let logs = [
                    self.gateway.process().log_tail(10),
                    self.router.log_tail(10),
                ];
                logs.join("\n--\n")
            })?;
        }
        Ok(())
    }
}

fn prefixes(kind: Kind, many: usize) -> Vec<String> {
    match kind {
        Kind::Many => (0..many.max(1))
            .map(|number| format!("/r/{number}"))
            .collect(),
        _ => vec!["/r".to_owned()],
    }
}

/// Gateway, routes and policies of a kind.
fn manifest(kind: Kind, prefixes: &[String], token: &Token) -> String {
    let name = kind.name();
    let mut yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  gatewayClassName: culvert
  listeners: [{{name: http, port: {LISTEN}, protocol: HTTP}}]
"
    );
    for (number, prefix) in prefixes.iter().enumerate() {
        let _ = write!(
            yaml,
            "---\n{}",
            route(&format!("{name}-{number}"), name, prefix, "")
        );
    }
    if kind == Kind::Jwt {
        let _ = write!(
            yaml,
            "---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: {name}}}]
  jwtRules: [{{issuer: '{ISSUER}', jwks: '{}', forwardOriginalToken: true}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: {name}}}]
  rules: [{{from: [{{source: {{requestPrincipals: ['*']}}}}]}}]
",
            token.keys
        );
    }
    yaml
}

/// An HTTPRoute of one rule; `filters` is more lines of it, or none.
pub(super) fn route(name: &str, gateway: &str, prefix: &str, filters: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{name: {gateway}}}]
  rules:
  - matches: [{{path: {{value: {prefix}}}}}]
    backendRefs: [{{name: web, port: {WEB}}}]
{filters}"
    )
}

/// A backend that gives every request the same short answer.
fn backend(run: &Run, pod: &Pod) -> Result<Process> {
    let folder = run.path("bench-web");
    fs::create_dir_all(folder.join("tmp")).context("making the backend's folder")?;
    let file = folder.join("nginx.conf");
    fs::write(&file, backend_config(&folder)).context("writing the backend's configuration")?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(&folder).arg("-c").arg(&file);
    command.args(["-e", "error.log"]);
    let process = Process::spawn(run, pod.place(), "bench-web", command)?;
    poll::until("the backend serves", Duration::from_secs(10), || {
        process.must_run()?;
        http::get(pod.place(), pod.sockets(WEB)[0], "/")
    })?;
    Ok(process)
}

fn backend_config(folder: &Path) -> String {
    let tmp = folder.join("tmp");
    let tmp = tmp.display();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid nginx.pid;\nerror_log error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\naccess_log off;\n\
         client_body_temp_path {tmp}/body; proxy_temp_path {tmp}/proxy; fastcgi_temp_path {tmp}/f;\n\
         uwsgi_temp_path {tmp}/u; scgi_temp_path {tmp}/s;\n\
         keepalive_requests 1000000000; keepalive_timeout 3600;\n\
         server {{ listen {WEB} backlog=4096; listen [::]:{WEB} backlog=4096;\n\
         location / {{ return 200 'ok\\n'; }} }}\n}}\n"
    )
}
