//! gRPC and WebSocket through a gateway, both ends by other authors (`tests/peers/talk.py`).

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::gateway::{EDGE, Gateway, with_classes};
use tests::manifests::ServiceSpec;
use tests::process::Process;
use tests::{Cluster, Place, Pod, PodSpec, peer, poll};

use crate::scene::{MESHED, OUTSIDE, namespaces};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "gateway: F-92 gRPC calls end as they should, at both ends",
        grpc,
    ),
    shared(
        "gateway: F-93 WebSocket frames, pings, closes and refusals pass",
        websocket,
    ),
];

/// Port of the listener.
const LISTEN: u16 = 8000;
const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway, a captured server that talks, and a client outside the mesh.
struct Scene {
    server: Process,
    _gateway: Gateway,
    client: Pod,
    edge: Pod,
    _backend: Pod,
}

impl Scene {
    fn start(cluster: &Cluster, verb: &str, route: &str) -> Result<Self> {
        namespaces(cluster)?;
        let spec = PodSpec::new(MESHED, "edge").label("culvert.dev/mesh", "disabled");
        let edge = cluster.pod(&spec.outside())?;
        let backend = cluster.pod(&PodSpec::new(MESHED, "talk").on(2))?;
        let client = cluster.pod(&PodSpec::new(OUTSIDE, "outsider").outside())?;
        cluster.service(&ServiceSpec::new(MESHED, "talk", PORT))?;
        cluster
            .manifests()
            .write("gateway", &with_classes(&format!("{EDGE}---\n{route}")))?;
        cluster.settle()?;
        let mut command = talk();
        command.args([verb, &PORT.to_string()]);
        let server = Process::spawn(cluster.run(), backend.place(), verb, command)?;
        poll::until("the server up", PATIENCE, || {
            server.must_run()?;
            Ok(backend
                .place()
                .connect(([127, 0, 0, 1], PORT).into(), PATIENCE)?)
        })?;
        let gateway = Gateway::start(cluster, &edge, "app/edge")?;
        gateway.wait("the route", |status| status["routes"][0].is_string())?;
        Ok(Self {
            server,
            _gateway: gateway,
            client,
            edge,
            _backend: backend,
        })
    }

    fn address(&self) -> String {
        self.edge.sockets(LISTEN)[0].to_string()
    }
}

fn talk() -> Command {
    let mut command = Command::new(peer::PYTHON);
    command.arg(peer::script("talk.py"));
    command
}

/// What a client says that ends by itself.
fn say(place: &Place, words: &[&str]) -> Result<String> {
    let mut command = talk();
    command.args(words);
    let output = place.run_command(command, "", Duration::from_secs(60))?;
    ensure!(
        output.ok(),
        "{words:?}: {} {}",
        output.stdout,
        output.stderr
    );
    Ok(output.stdout)
}

fn grpc(cluster: &Cluster) -> Result<()> {
    let scene = Scene::start(cluster, "grpc-serve", GRPC)?;
    let said = say(
        scene.client.place(),
        &["grpc-check", &scene.address(), "talk.example"],
    )?;
    let want = "deadline: DEADLINE_EXCEEDED
cancelled: True
the server gave up: cancelled,deadline
large: True
no such method: UNIMPLEMENTED
";
    ensure!(said == want, "{said}");
    // A server that goes while it talks: its clients learn of it at once.
    let mut command = talk();
    command.args(["grpc-wait", &scene.address(), "talk.example"]);
    let waiting = Process::spawn(cluster.run(), scene.client.place(), "grpc-wait", command)?;
    poll::until("the stream's first message", PATIENCE, || {
        ensure!(waiting.log().contains("tick"), "{}", waiting.log());
        Ok(())
    })?;
    scene.server.kill9()?;
    poll::until("the end of the stream", PATIENCE, || {
        ensure!(
            waiting.log().contains("ended: UNAVAILABLE"),
            "{}",
            waiting.log()
        );
        Ok(())
    })
}

fn websocket(cluster: &Cluster) -> Result<()> {
    let scene = Scene::start(cluster, "websocket-serve", WEBSOCKET)?;
    let url = format!("http://{}", scene.address());
    let said = say(
        scene.client.place(),
        &["websocket-check", &url, "talk.example"],
    )?;
    let want = "sizes: ok
fragments: abcd
ping: ok
closed: 4321 as you wish
refused: 403
";
    ensure!(said == want, "{said}");
    Ok(())
}

const GRPC: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: talk, namespace: app}
spec:
  parentRefs: [{name: edge}]
  hostnames: [talk.example]
  rules: [{backendRefs: [{name: talk, port: 8080}]}]
";

const WEBSOCKET: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: talk, namespace: app}
spec:
  parentRefs: [{name: edge}]
  hostnames: [talk.example]
  rules: [{backendRefs: [{name: talk, port: 8080}]}]
";
