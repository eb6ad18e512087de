//! Clients that send what two servers would read differently, through a gateway to nginx, HAProxy
//! and Apache: nobody gets at what no route leads to, and no backend sees a request that the
//! gateway did not.

mod corpus;
mod envoy;
mod flood;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::apps::{Kind, SECRET, SEEN, Witness};
use tests::gateway::{EDGE, Gateway, with_classes};
use tests::manifests::ServiceSpec;
use tests::{Cluster, Place, Pod, PodSpec, poll};

use crate::scene::{MESHED, OUTSIDE, PORT, namespaces};
use crate::{Case, long, shared};
use corpus::{Want, paths, shapes};

pub(crate) const CASES: &[Case] = &[
    shared(
        "hostile: F-79 no spelling of a path or host leads where no route does",
        spellings,
    ),
    shared(
        "hostile: F-80 F-90 what could be one request or two is none; F-91 answers keep their order",
        framing,
    ),
    shared(
        "hostile: F-86 floods of HTTP/2 end or cost little, others are served meanwhile",
        flood::floods,
    ),
    long(
        "hostile: F-79 no spelling passes a policy that stops it at an Envoy",
        envoy::beside_envoy,
    ),
];

/// Port of the listener.
const LISTEN: u16 = 8000;
/// Where routes lead that do not lead to what is secret.
const PUBLIC: &str = "/public";
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a connection that stays open may still say something.
const QUIET: Duration = Duration::from_millis(150);

/// A gateway with a route to every kind of server, by host.
struct Scene {
    edge: Pod,
    client: Pod,
    backends: Vec<(Pod, Witness)>,
    gateway: Gateway,
}

impl Scene {
    /// For paths below `prefix`, and with these manifests as well.
    fn start(cluster: &Cluster, prefix: &str, more: &str) -> Result<Self> {
        namespaces(cluster)?;
        let unmeshed = |name: &str| {
            let spec = PodSpec::new(MESHED, name).label("culvert.dev/mesh", "disabled");
            cluster.pod(&spec.outside())
        };
        let edge = unmeshed("edge")?;
        let client = cluster.pod(&PodSpec::new(OUTSIDE, "outsider").outside())?;
        let mut manifests = with_classes(EDGE);
        let mut backends = Vec::new();
        for kind in Kind::ALL {
            let pod = unmeshed(kind.name())?;
            let spec = ServiceSpec::new(MESHED, kind.name(), PORT);
            cluster.service(&spec.port(80, &PORT.to_string()))?;
            let witness = Witness::start(cluster.run(), pod.place(), kind, PORT)?;
            backends.push((pod, witness));
            manifests.push_str(&route(kind, prefix));
        }
        cluster.manifests().write("gateway", &manifests)?;
        cluster.manifests().write("more", more)?;
        cluster.settle()?;
        let gateway = Gateway::start(cluster, &edge, "app/edge")?;
        gateway.wait("every route", |status| {
            status["routes"]
                .as_array()
                .is_some_and(|routes| routes.len() == Kind::ALL.len())
        })?;
        let scene = Self {
            edge,
            client,
            backends,
            gateway,
        };
        poll::until("every backend", Duration::from_secs(10), || {
            scene.backends.iter().try_for_each(|(_, witness)| {
                let target = Target::new(&scene, witness);
                let answer = target.send(
                    format!(
                        "GET /public/x/../ready HTTP/1.1\r\nHost: {}\r\n\r\n",
                        target.host
                    )
                    .as_bytes(),
                )?;
                ensure!(
                    seen(&answer) == ["/public/ready"],
                    "{}: {answer}",
                    target.host
                );
                Ok(())
            })
        })?;
        Ok(scene)
    }

    /// Does the same with every kind of server at the same time.
    fn each(&self, script: impl Fn(&Target<'_>, &Pod) -> Result<()> + Sync) -> Result<()> {
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .backends
                .iter()
                .map(|(pod, witness)| {
                    let target = Target::new(self, witness);
                    let script = &script;
                    scope.spawn(move || script(&target, pod).with_context(|| target.host.clone()))
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a script panicked"))?)
        })
    }
}

/// One kind of server, as a client reaches it.
struct Target<'a> {
    place: &'a Place,
    gateway: SocketAddr,
    witness: &'a Witness,
    host: String,
}

impl<'a> Target<'a> {
    fn new(scene: &'a Scene, witness: &'a Witness) -> Self {
        Self {
            place: scene.client.place(),
            gateway: scene.edge.sockets(LISTEN)[0],
            witness,
            host: format!("{}.example", witness.kind().name()),
        }
    }

    /// What comes back over a connection of its own, until it ends or is quiet.
    fn send(&self, bytes: &[u8]) -> Result<String> {
        self.exchange(bytes, |_| true)
    }

    /// The same, and as long as what has come is not `all`, silence is waited out.
    fn exchange(&self, bytes: &[u8], all: impl Fn(&str) -> bool) -> Result<String> {
        let mut stream = self.place.connect(self.gateway, PATIENCE)?;
        // The gateway may have answered and closed before the last byte is written.
        let _ = stream.write_all(bytes);
        read_until(&mut stream, all)
    }

    /// Requests with `mark` in them that the server saw.
    fn requests(&self, mark: &str) -> Vec<String> {
        let requests = self.witness.requests().into_iter();
        requests.filter(|line| line.contains(mark)).collect()
    }

    /// As [`Self::requests`], once there are that many; a server logs after it answered.
    fn requests_of(&self, mark: &str, count: usize) -> Result<Vec<String>> {
        poll::until("the server's log", PATIENCE, || {
            let requests = self.requests(mark);
            ensure!(
                requests.len() >= count,
                "{} of {count}: {requests:?}",
                requests.len()
            );
            Ok(requests)
        })
    }
}

fn read(stream: &mut TcpStream) -> Result<String> {
    read_until(stream, |_| true)
}

/// Reads until the end, or until nothing more comes after what is `all`.
fn read_until(stream: &mut TcpStream, all: impl Fn(&str) -> bool) -> Result<String> {
    let end = Instant::now() + PATIENCE;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while Instant::now() < end {
        let is_all = !answer.is_empty() && all(&String::from_utf8_lossy(&answer));
        let wait = if is_all { QUIET } else { PATIENCE };
        stream.set_read_timeout(Some(wait))?;
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The paths that servers saw, in the order of their answers.
fn seen(answer: &str) -> Vec<&str> {
    let lines = answer.lines();
    let paths = lines.filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case(SEEN).then_some(value)
    });
    paths.collect()
}

fn spellings(cluster: &Cluster) -> Result<()> {
    let scene = Scene::start(cluster, PUBLIC, "")?;
    scene.each(|target, pod| {
        // Whoever reaches the server gets it: it is the gateway that keeps it.
        let direct = scene.client.place().connect(pod.sockets(PORT)[0], PATIENCE);
        let mut direct = direct.context("the direct way")?;
        write!(direct, "GET /secret/key HTTP/1.1\r\nHost: a\r\n\r\n")?;
        ensure!(read(&mut direct)?.contains(SECRET), "there is no secret");
        let before = target.witness.requests().len();
        for request in paths(&target.host) {
            let answer = target.send(&request)?;
            let shown = request.escape_ascii().to_string();
            ensure!(!answer.contains(SECRET), "{shown} leads to it");
            ensure!(answer.starts_with("HTTP/1."), "{shown}: {answer:?}");
        }
        let requests = target.witness.requests();
        let led = requests
            .iter()
            .skip(before)
            .find(|line| !line.contains(" /public"));
        ensure!(led.is_none(), "the server was asked {led:?}");
        Ok(())
    })
}

fn framing(cluster: &Cluster) -> Result<()> {
    let scene = Scene::start(cluster, PUBLIC, "")?;
    scene.each(|target, _| {
        for (number, shape) in shapes().into_iter().enumerate() {
            let mark = format!("shape-{number}-");
            let count = |answer: &str| answer.matches("HTTP/1.1 200 ").count();
            let awaited = match shape.want {
                Want::Passes(count) => count,
                Want::Refused | Want::BreaksOff => 0,
            };
            let bytes = shape.bytes(&target.host, &mark);
            let answer = target.exchange(&bytes, |answer| count(answer) >= awaited)?;
            let name = shape.name;
            let answers = count(&answer);
            let requests = match shape.want {
                Want::Passes(count) => {
                    ensure!(
                        answers == count,
                        "{name}: {answers} answers of {count}: {answer}"
                    );
                    target.requests_of(&mark, count).with_context(|| name)?
                }
                Want::Refused => {
                    let told = ["HTTP/1.1 400 ", "HTTP/1.1 404 ", "HTTP/1.0 400 "];
                    let refused = told.iter().any(|line| answer.starts_with(line));
                    ensure!(refused && answers == 0, "{name}: {answer:?}");
                    target.requests(&mark)
                }
                Want::BreaksOff => {
                    ensure!(answers <= 1, "{name}: {answer:?}");
                    target.requests(&mark)
                }
            };
            let most = match shape.want {
                Want::Passes(count) => count,
                Want::Refused => 0,
                Want::BreaksOff => 1,
            };
            ensure!(
                requests.len() <= most,
                "{name}: the server saw {requests:?}"
            );
        }
        // What was refused late would be in the log by now.
        let smuggled = target.requests("smuggled");
        ensure!(smuggled.is_empty(), "smuggled: {smuggled:?}");
        in_order(target)
    })
}

/// F-91: pipelined requests, with bodies that servers read or leave, get their own answers.
fn in_order(target: &Target<'_>) -> Result<()> {
    const REQUESTS: usize = 30;
    let mut bytes = Vec::new();
    let mut want = Vec::new();
    for number in 0..REQUESTS {
        let path = format!("/public/order-{number}");
        let body = "x".repeat(number * 3000 % 20_000);
        let (length, host) = (body.len(), &target.host);
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(body.as_bytes());
        want.push(path);
    }
    let mut stream = target.place.connect(target.gateway, PATIENCE)?;
    let mut writer = stream.try_clone()?;
    let answer = thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&bytes));
        read_until(&mut stream, |answer| seen(answer).len() >= REQUESTS)
    })?;
    ensure!(
        seen(&answer) == want,
        "{:?} instead of {want:?}",
        seen(&answer)
    );
    Ok(())
}

fn route(kind: Kind, prefix: &str) -> String {
    let name = kind.name();
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: app}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [{name}.example]
  rules:
  - matches: [{{path: {{value: {prefix}}}}}]
    backendRefs: [{{name: {name}, port: 80}}]
"
    )
}
