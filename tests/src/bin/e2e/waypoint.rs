//! Waypoints in the mesh: what did not pass one is refused, who is behind one sees its clients, and
//! one is put in front, moved and taken away under load.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use agent_model::HBONE_PORT;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tests::apps::Nginx;
use tests::cluster::service_sockets;
use tests::gateway::{CLASSES, Gateway};
use tests::http;
use tests::manifests::{ServiceSpec, authorization_policy};
use tests::topology::Addresses;
use tests::{Cluster, Pod, PodSpec, poll};

use crate::scene::{MESHED, OUTSIDE, PORT, namespaces};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "waypoint: F-77 what did not pass it is refused, from every side",
        bypasses,
    ),
    shared(
        "waypoint: put in front of a service, moved and taken away under load, nobody notices",
        moved_under_load,
    ),
    shared(
        "waypoint: of two processes one ends under load, no request fails",
        one_of_two_ends,
    ),
];

/// What a change may take to be in force.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with its service, two clients, one of them on its node, and who may become waypoints.
struct Scene {
    client: Pod,
    neighbour: Pod,
    server: Pod,
    outsider: Pod,
    service: ServiceSpec,
    addresses: Addresses,
    waypoints: Vec<Gateway>,
    _pods: Vec<Pod>,
    _server: Nginx,
}

impl Scene {
    /// The waypoints run, and nothing is behind one yet.
    fn start(cluster: &Cluster, reach: &str, names: &[&str]) -> Result<Self> {
        namespaces(cluster)?;
        let mut manifest = CLASSES.to_owned();
        let mut pods = Vec::new();
        for name in names {
            let spec = PodSpec::new(MESHED, name)
                .label("culvert.dev/mesh", "disabled")
                .label("gateway.networking.k8s.io/gateway-name", name);
            pods.push(cluster.pod(&spec.outside())?);
            cluster.service(&ServiceSpec::new(MESHED, name, HBONE_PORT))?;
            manifest.push_str(&gateway(name, reach));
        }
        cluster.manifests().write("gateway", &manifest)?;
        let server = cluster.pod(&PodSpec::new(MESHED, "a").on(2))?;
        let service = ServiceSpec::new(MESHED, "a", PORT).port(80, &PORT.to_string());
        let addresses = cluster.service(&service)?;
        let scene = Self {
            client: cluster.pod(&PodSpec::new(MESHED, "client").account("client"))?,
            neighbour: cluster.pod(&PodSpec::new(MESHED, "neighbour").on(2))?,
            outsider: cluster.pod(&PodSpec::new(OUTSIDE, "outsider").outside())?,
            _server: Nginx::start(cluster.run(), server.place(), "behind", PORT)?,
            server,
            service,
            addresses,
            waypoints: Vec::new(),
            _pods: pods,
        };
        cluster.settle()?;
        let waypoints = names.iter().zip(&scene._pods).map(|(name, pod)| {
            let gateway = Gateway::start(cluster, pod, &format!("{MESHED}/{name}"))?;
            gateway.wait("waypoint in force", |status| {
                status["ports"] == serde_json::json!([HBONE_PORT])
            })?;
            Ok(gateway)
        });
        let waypoints = waypoints.collect::<Result<_>>()?;
        Ok(Self { waypoints, ..scene })
    }

    fn vips(&self) -> [SocketAddr; 2] {
        service_sockets(self.addresses, 80)
    }

    /// Puts the service behind a waypoint, or behind none.
    fn bind(&self, cluster: &Cluster, waypoint: &str) -> Result<()> {
        bind(cluster, &self.service, self.addresses, waypoint)
    }
}

fn must(pod: &Pod, to: SocketAddr) -> Result<()> {
    let answer = http::get(pod.place(), to, "/")?;
    ensure!(
        answer.status == 200 && answer.body.contains("hello from behind"),
        "{to}: {answer:?}"
    );
    Ok(())
}

fn must_not(pod: &Pod, to: SocketAddr) -> Result<()> {
    match http::get(pod.place(), to, "/") {
        Err(_) => Ok(()),
        Ok(answer) => anyhow::bail!("{to} answers {answer:?}, around the waypoint"),
    }
}

fn bypasses(cluster: &Cluster) -> Result<()> {
    let scene = Scene::start(cluster, "all", &["way"])?;
    for to in scene.server.sockets(PORT) {
        must(&scene.outsider, to)?;
    }
    // The pod is behind it from now on, however it is addressed.
    scene.server.update(|pod| {
        let label = ("culvert.dev/use-waypoint".to_owned(), "way".to_owned());
        pod.labels.push(label);
    })?;
    scene.bind(cluster, "way")?;
    cluster.settle()?;
    let log = scene.server.node().agent()?;
    for to in scene.server.sockets(PORT) {
        poll::until("plaintext is refused", PATIENCE, || {
            must_not(&scene.outsider, to)
        })?;
        // The waypoint hears of it by a way of its own.
        poll::until("the way through it", PATIENCE, || {
            must(&scene.client, to)?;
            must(&scene.neighbour, to)
        })?;
    }
    log.wait_log(&["waypoint-bypassed"], PATIENCE)?;
    // The client is known behind the waypoint, by identity and by address.
    let seen = [
        "direction=\"inbound\"",
        "src.identity=\"spiffe://cluster.local/ns/app/sa/client\"",
    ];
    log.wait_log(&seen, PATIENCE)?;
    let allowed = "[{from: [{source: {principals: [cluster.local/ns/app/sa/client]}}]}]";
    let only_client = authorization_policy(MESHED, "only", "ALLOW", Some("a"), allowed);
    cluster.manifests().write("only", &only_client)?;
    for to in scene.vips() {
        poll::until("policy holds behind it", PATIENCE, || {
            let refused = http::get(scene.neighbour.place(), to, "/");
            ensure!(
                !matches!(refused, Ok(answer) if answer.status == 200),
                "the neighbour is served"
            );
            Ok(())
        })?;
        must(&scene.client, to)?;
    }
    cluster.manifests().remove("only")?;
    // Nobody knows what it was for once it is gone: nothing gets in.
    cluster.manifests().write("gateway", CLASSES)?;
    for to in scene.vips().into_iter().chain(scene.server.sockets(PORT)) {
        poll::until("nothing without it", PATIENCE, || {
            must_not(&scene.client, to)
        })?;
        must_not(&scene.outsider, to)?;
    }
    drop(scene.waypoints);
    Ok(())
}

fn moved_under_load(cluster: &Cluster) -> Result<()> {
    let scene = Scene::start(cluster, "service", &["way", "other"])?;
    let [to, _] = scene.vips();
    must(&scene.client, to)?;
    let load = Load::start(&scene.client, to);
    for waypoint in ["way", "other", "none", "other", "none"] {
        thread::sleep(Duration::from_millis(1500));
        scene.bind(cluster, waypoint)?;
    }
    thread::sleep(Duration::from_millis(1500));
    let (served, failures) = load.stop();
    println!("  {served} requests, each over a connection of its own");
    ensure!(
        failures.is_empty(),
        "{} failed: {failures:?}",
        failures.len()
    );
    ensure!(served > 200, "no load: {served} requests");
    // What went to a waypoint was for the service's address, what did not was for the pod's.
    let log = scene.client.node().agent()?;
    let went = |address: SocketAddr| {
        let tunnel = format!("dst.hbone_addr=\"{address}\"");
        log.log_lines(&["direction=\"outbound\"", &tunnel]).len()
    };
    let (through, past) = poll::until("both ways in the log", PATIENCE, || {
        let (through, past) = (went(to), went(scene.server.sockets(PORT)[0]));
        ensure!(through > 100 && past > 50, "{through} through, {past} past");
        Ok((through, past))
    })?;
    println!("  {through} went through waypoints, {past} past them");
    drop(scene.waypoints);
    Ok(())
}

/// As when a Deployment rolls: SIGTERM first, and the endpoint goes a moment later.
fn one_of_two_ends(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let pods = ["way-0", "way-1"].map(|name| {
        let spec = PodSpec::new(MESHED, name).app("way").account("way");
        let spec = spec
            .label("culvert.dev/mesh", "disabled")
            .label("gateway.networking.k8s.io/gateway-name", "way");
        cluster.pod(&spec.outside())
    });
    let [first, second] = pods;
    let pods = [first?, second?];
    cluster.service(&ServiceSpec::new(MESHED, "way", HBONE_PORT))?;
    let manifest = format!("{CLASSES}{}{ROUTE}", gateway("way", "service"));
    cluster.manifests().write("gateway", &manifest)?;
    let server = cluster.pod(&PodSpec::new(MESHED, "a").on(2))?;
    let client = cluster.pod(&PodSpec::new(MESHED, "client").account("client"))?;
    let service = ServiceSpec::new(MESHED, "a", PORT).port(80, &PORT.to_string());
    let addresses = cluster.service(&service)?;
    bind(cluster, &service, addresses, "way")?;
    cluster.settle()?;
    let _server = Nginx::start(cluster.run(), server.place(), "behind", PORT)?;
    let key = format!("{MESHED}/way");
    let mut waypoints = Vec::new();
    for (number, pod) in pods.iter().enumerate() {
        let waypoint = Gateway::start_replica(cluster, pod, &key, number)?;
        waypoint.wait("waypoint in force", |status| {
            status["ports"] == serde_json::json!([HBONE_PORT])
        })?;
        waypoints.push(waypoint);
    }
    let [to, _] = service_sockets(addresses, 80);
    must(&client, to)?;
    let load = Load::start(&client, to);
    thread::sleep(Duration::from_millis(1500));
    let ending = waypoints[0].process();
    ending.signal(Signal::SIGTERM)?;
    thread::sleep(Duration::from_millis(500));
    pods[0].update(|pod| pod.ready = false)?;
    thread::sleep(Duration::from_millis(1500));
    let (served, failures) = load.stop();
    println!("  {served} requests, each over a connection of its own");
    ensure!(
        failures.is_empty(),
        "{} failed: {failures:?}",
        failures.len()
    );
    ensure!(served > 100, "no load: {served} requests");
    let status = ending.terminate(Duration::from_secs(10))?;
    ensure!(status.success(), "it did not end well: {status}");
    // Both had some of it.
    for waypoint in &waypoints {
        poll::until("requests in the log", PATIENCE, || {
            let log = waypoint.process().log();
            let lines = log.lines().filter(|line| line.contains("request complete"));
            let lines = lines.count();
            ensure!(lines > 10, "one of the two served {lines} requests");
            Ok(())
        })?;
    }
    Ok(())
}

/// Puts a service behind a waypoint, or behind none.
fn bind(
    cluster: &Cluster,
    service: &ServiceSpec,
    addresses: Addresses,
    waypoint: &str,
) -> Result<()> {
    let labels = format!("metadata:\n  labels: {{culvert.dev/use-waypoint: {waypoint}}}\n");
    let bound = service.yaml(addresses).replace("metadata:\n", &labels);
    cluster.manifests().write("service-app-a", &bound)
}

/// One request after the other at a fixed pace, whether those before have been answered or not.
struct Load {
    ends: Arc<AtomicBool>,
    served: Arc<AtomicU32>,
    failures: Arc<Mutex<Vec<String>>>,
    pacing: thread::JoinHandle<Result<()>>,
}

impl Load {
    /// Time between two requests.
    const PACE: Duration = Duration::from_millis(20);

    fn start(pod: &Pod, to: SocketAddr) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicU32::new(0));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let place = pod.place().clone();
        let pacing = {
            let (ends, served, failures) = (ends.clone(), served.clone(), failures.clone());
            thread::spawn(move || {
                let mut under_way = Vec::new();
                let mut next = Instant::now();
                let begin = next;
                while !ends.load(Ordering::Relaxed) {
                    let (served, failures) = (served.clone(), failures.clone());
                    under_way.push(place.thread(move || {
                        let asked = begin.elapsed();
                        let answer = std::net::TcpStream::connect(to)
                            .map_err(anyhow::Error::from)
                            .and_then(|stream| http::get_on(stream, "/"));
                        match answer {
                            Ok(answer) if answer.status == 200 => {
                                served.fetch_add(1, Ordering::Relaxed);
                            }
                            other => {
                                let mut failures =
                                    failures.lock().unwrap_or_else(PoisonError::into_inner);
                                failures.push(format!("{asked:?}: {other:?}"));
                            }
                        }
                    }));
                    next += Self::PACE;
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                for one in under_way {
                    one.join()
                        .map_err(|_| anyhow::anyhow!("a client panicked"))??;
                }
                Ok(())
            })
        };
        Self {
            ends,
            served,
            failures,
            pacing,
        }
    }

    /// Requests that were served, and what became of the others.
    fn stop(self) -> (u32, Vec<String>) {
        self.ends.store(true, Ordering::Relaxed);
        let paced = self.pacing.join();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(paced, Ok(Ok(()))) {
            failures.push(format!("the load itself: {paced:?}"));
        }
        (self.served.load(Ordering::Relaxed), failures.clone())
    }
}

fn gateway(name: &str, reach: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: app, labels: {{culvert.dev/waypoint-for: {reach}}}}}
spec:
  gatewayClassName: culvert-waypoint
  listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]
"
    )
}

const ROUTE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: app}
spec:
  parentRefs: [{group: '', kind: Service, name: a}]
  rules: [{backendRefs: [{name: a, port: 80}]}]
";
