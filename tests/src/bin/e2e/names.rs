//! Names over DNS: what the mesh owns is answered on the node, the rest by who was asked.

mod entries;
mod faults;
mod resolver;

use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::manifests::ServiceSpec;
use tests::{Cluster, Pod, PodSpec};

use crate::scene::{MESHED, OUTSIDE, PORT, Scene};
use crate::{Case, shared};
use resolver::{DNS, Mode, Resolver, SOON, address, framed, question, read_framed};

pub(crate) const CASES: &[Case] = &[
    shared(
        "names: F-96 the mesh's are answered on the node, others by the server that was asked",
        answered,
    ),
    shared(
        "names: F-96 faults of a server reach the application as they are, and end",
        faults::upstream,
    ),
    shared(
        "names: hosts of ServiceEntries are reached by name",
        entries::egress,
    ),
    shared(
        "names: a gateway follows the name of a host outside",
        entries::through_a_gateway,
    ),
    shared(
        "names: a label leaves a pod's questions alone, at any time",
        entries::left_alone,
    ),
];

const OWN_NAME: &str = "server.app.svc.cluster.local";
const OTHER_NAME: &str = "www.example.com";
/// What the server answers to everything.
const OF_SERVER: [&str; 2] = ["192.0.2.53", "2001:db8::53"];
/// In which a reply that is none must not arrive.
const A_WHILE: Duration = Duration::from_millis(500);

fn answered(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let resolver = cluster.pod(&PodSpec::new(OUTSIDE, "resolver").on(2).outside())?;
    let spec = ServiceSpec::new(MESHED, "server", PORT).port(80, &PORT.to_string());
    let service = cluster.service(&spec)?;
    let of_server = [OF_SERVER[0].parse()?, OF_SERVER[1].parse()?];
    let server = Resolver::start(&resolver, of_server)?;
    let vips = [IpAddr::from(service.v4), IpAddr::from(service.v6)];
    cluster.settle()?;
    play(cluster, &scene, &resolver, &server, vips)?;
    server.stop()
}

fn play(
    cluster: &Cluster,
    scene: &Scene,
    resolver: &Pod,
    server: &Resolver,
    vips: [IpAddr; 2],
) -> Result<()> {
    let of_server = OF_SERVER.map(|ip| ip.parse::<IpAddr>());
    let of_server = [of_server[0].clone()?, of_server[1].clone()?];
    let agent = cluster.node(1)?.agent()?;
    for to in resolver.sockets(DNS) {
        for is_connected in [false, true] {
            let what = || format!("asking {to}, connected: {is_connected}");
            let ask = |pod: &Pod, name: &str| udp(pod, to, is_connected, name).with_context(what);
            server.forget();
            ensure!(ask(&scene.client, OWN_NAME)? == vips, "{}", what());
            ensure!(server.asked() == 0, "{}: the server was asked", what());
            ensure!(ask(&scene.client, OTHER_NAME)? == of_server, "{}", what());
            ensure!(server.asked() == 2, "{}: once for each type", what());
            // Nobody answers for a pod outside the mesh.
            ensure!(ask(&scene.outsider, OWN_NAME)? == of_server, "{}", what());
        }
        for (name, expected) in [(OWN_NAME, vips), (OTHER_NAME, of_server)] {
            let told = tcp(&scene.client, to, name).with_context(|| format!("{to}, {name}"))?;
            ensure!(told == expected, "{to}, {name} over TCP: {told:?}");
        }
        libc(&scene.client, to.ip(), vips)?;

        // A forged reply is none, nor is silence; the next question is answered.
        for fault in [Mode::Forge, Mode::Ignore] {
            server.set(fault);
            let failed = udp_within(A_WHILE, &scene.client, to, false, OTHER_NAME);
            server.set(Mode::Answer);
            ensure!(failed.is_err(), "{to}: an answer from nowhere: {failed:?}");
            ensure!(udp(&scene.client, to, false, OTHER_NAME)? == of_server);
        }
    }
    let to = resolver.sockets(DNS)[0];
    cluster.control()?.kill9()?;
    ensure!(
        udp(&scene.client, to, true, OWN_NAME)? == vips,
        "in an outage"
    );
    cluster.control()?.start()?;
    agent.kill9()?;
    for to in resolver.sockets(DNS) {
        let told = udp(&scene.client, to, false, OWN_NAME).context("without an agent")?;
        ensure!(told == of_server, "without an agent the server answers");
    }
    agent.start_ready()?;
    cluster.settle()?;
    for to in resolver.sockets(DNS) {
        let told = udp(&scene.client, to, false, OWN_NAME).context("with the next agent")?;
        ensure!(told == vips, "the next agent answers: {told:?}");
    }
    let metrics = agent.metrics()?;
    let count = metrics.sum("culvert_dns_questions_total", &["outcome=\"answered\""]);
    ensure!(count >= 4.0, "{count} questions were counted");
    Ok(())
}

/// glibc's resolver, with search domains.
fn libc(pod: &Pod, server: IpAddr, vips: [IpAddr; 2]) -> Result<()> {
    let script = format!(
        "file=$(mktemp) && trap 'umount /etc/resolv.conf; rm $file' EXIT && \
         printf 'nameserver {server}\\nsearch app.svc.cluster.local svc.cluster.local\\n\
         options ndots:5 timeout:2 attempts:2\\n' > $file && \
         mount --bind $file /etc/resolv.conf && getent -s hosts:dns ahosts server.app"
    );
    let told = pod.place().check(&["sh", "-c", &script])?;
    for vip in vips {
        ensure!(
            told.lines()
                .any(|line| line.starts_with(&format!("{vip} "))),
            "getent by {server}: {told}"
        );
    }
    Ok(())
}

/// Asks for both families over UDP, each on a socket of its own.
fn udp(pod: &Pod, to: SocketAddr, is_connected: bool, name: &str) -> Result<[IpAddr; 2]> {
    udp_within(SOON, pod, to, is_connected, name)
}

fn udp_within(
    limit: Duration,
    pod: &Pod,
    to: SocketAddr,
    is_connected: bool,
    name: &str,
) -> Result<[IpAddr; 2]> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => "0.0.0.0:0".parse()?,
        SocketAddr::V6(_) => "[::]:0".parse()?,
    };
    let ask = |kind: u16| -> Result<IpAddr> {
        let socket = pod.place().within(|| {
            let socket = UdpSocket::bind(any)?;
            if is_connected {
                socket.connect(to)?;
            }
            std::io::Result::Ok(socket)
        })??;
        socket.set_read_timeout(Some(limit))?;
        let question = question(name, kind);
        let mut buffer = [0; 1500];
        let length = if is_connected {
            ensure!(socket.peer_addr()? == to, "peer is {}", socket.peer_addr()?);
            socket.send(&question)?;
            socket.recv(&mut buffer)?
        } else {
            socket.send_to(&question, to)?;
            let (length, from) = socket.recv_from(&mut buffer)?;
            ensure!(from == to, "the reply is from {from}");
            length
        };
        address(&question, &buffer[..length])
    };
    Ok([ask(1)?, ask(28)?])
}

/// Asks for both families over one TCP connection.
fn tcp(pod: &Pod, to: SocketAddr, name: &str) -> Result<[IpAddr; 2]> {
    let mut stream = pod.connect(to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut ask = |kind: u16| -> Result<IpAddr> {
        let question = question(name, kind);
        stream.write_all(&framed(&question))?;
        let reply = read_framed(&mut stream)?.context("no reply")?;
        address(&question, &reply)
    };
    Ok([ask(1)?, ask(28)?])
}
