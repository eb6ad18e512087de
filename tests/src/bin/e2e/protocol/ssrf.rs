//! T-SSRF: a peer with a valid certificate asks for everything but the pod it talks to.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{APP_PORT, NAMESPACE, Scene, refused};
use tests::Cluster;
use tests::counters::Counters;
use tests::manifests::ServiceSpec;
use tests::place::Place;
use tests::server::{Behaviour, Server};

/// Every authority is refused, and no connection and no name look-up is made anywhere.
pub(super) fn authorities(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    cluster.service(&ServiceSpec::new(NAMESPACE, "neighbour", APP_PORT))?;
    cluster.settle()?;
    let agent = cluster.node(2)?.agent()?.place();
    let places = [
        agent,
        scene.target.place(),
        scene.neighbour.place(),
        cluster.node(2)?.host(),
    ];
    // Wherever a connection could end, somebody listens and counts.
    let decoys = [
        Server::start(agent, APP_PORT, Behaviour::Echo)?,
        Server::start(&scene.neighbour, APP_PORT, Behaviour::Echo)?,
        Server::start(cluster.node(2)?.host(), APP_PORT, Behaviour::Echo)?,
    ];
    for ip in scene.target.ips() {
        let connection = format!("ssrf-{ip}");
        scene.dial(&connection, ip)?;
        let before = count(&places)?;
        for authority in table(&scene, ip) {
            ask(&scene, &connection, &authority)?;
        }
        let after = count(&places)?;
        ensure!(
            before == after,
            "something was dialled or looked up: {before:?}, then {after:?}"
        );
        let touched: Vec<usize> = decoys.iter().map(Server::accepted).collect();
        ensure!(
            touched == [0, 0, 0],
            "decoys (agent, neighbour, host) accepted {touched:?}"
        );
        the_counters_count(&scene, &connection, ip)?;
    }
    Ok(())
}

fn ask(scene: &Scene<'_>, connection: &str, authority: &str) -> Result<()> {
    let answer = scene
        .peer
        .connect(connection, authority)
        .with_context(|| format!("CONNECT {authority:?}"))?;
    ensure!(refused(&answer), "CONNECT {authority:?}: {answer}");
    // Numeric addresses that are not this pod are the peer's fault: 400, not "try again".
    let numeric = authority
        .parse::<SocketAddr>()
        .is_ok_and(|address| address.port() != 0);
    let own = scene
        .target
        .ips()
        .iter()
        .any(|ip| authority.contains(&ip.to_string()));
    if numeric && !own {
        ensure!(
            answer["status"] == json!("400"),
            "CONNECT {authority:?}: {answer}"
        );
    }
    Ok(())
}

fn table(scene: &Scene<'_>, ip: IpAddr) -> Vec<String> {
    let own = SocketAddr::new(ip, APP_PORT);
    let other_family = scene.target.ips()[usize::from(ip.is_ipv4())];
    let others = scene.neighbour.ips().into_iter().chain(scene.caller.ips());
    let services = [IpAddr::from(scene.service.v4), scene.service.v6.into()];
    let machines = [
        "10.67.2.1",
        "10.67.2.2",
        "10.66.0.2",
        "fd00:67:2::1",
        "fd00:67:2::2",
    ];
    let mut table: Vec<String> = FIXED.iter().map(|text| (*text).to_owned()).collect();
    table.push(SocketAddr::new(other_family, APP_PORT).to_string());
    table.extend(others.map(|ip| SocketAddr::new(ip, APP_PORT).to_string()));
    table.extend(services.map(|ip| SocketAddr::new(ip, 80).to_string()));
    let machines = machines
        .iter()
        .filter_map(|text| text.parse::<IpAddr>().ok());
    table.extend(machines.map(|ip| SocketAddr::new(ip, APP_PORT).to_string()));
    let host = own.to_string();
    let host = host.strip_suffix(":8080").unwrap_or_default();
    let neighbour = SocketAddr::new(scene.neighbour.ips()[0], APP_PORT);
    table.extend([
        format!("{host}:0"),
        format!("{host}:65536"),
        format!("{host}:-1"),
        format!("{host}:"),
        format!("{host}:80a"),
        format!("user@{own}"),
        format!("user:word@{own}"),
        format!("{own}@{neighbour}"),
        format!("{neighbour}@{own}"),
        format!("{own}/"),
        format!("{own}#x"),
        format!("{own}\0"),
        format!("{own} {neighbour}"),
        format!("{own},{neighbour}"),
        format!("http://{own}/"),
        format!("{ip}.:{APP_PORT}"),
        scene.target.ips()[1].to_string(),
        // A service of which this pod is no endpoint.
        format!("neighbour.{NAMESPACE}.svc.cluster.local:{APP_PORT}"),
    ]);
    table
}

/// Loopback, wildcard, link-local, multicast and metadata addresses in the ways they are written;
/// names that some resolver would know.
const FIXED: &[&str] = &[
    "127.0.0.1:8080",
    "127.1:8080",
    "127.0.0.1.:8080",
    "127.255.255.254:8080",
    "0.0.0.0:8080",
    "0:8080",
    "2130706433:8080",
    "0x7f000001:8080",
    "0x7F.0.0.1:8080",
    "017700000001:8080",
    "0177.0.0.1:8080",
    "[::1]:8080",
    "[0:0:0:0:0:0:0:1]:8080",
    "[::]:8080",
    "[::ffff:127.0.0.1]:8080",
    "[::FFFF:7F00:1]:8080",
    "[::127.0.0.1]:8080",
    "[64:ff9b::7f00:1]:8080",
    "::1:8080",
    "[::1:8080",
    "[127.0.0.1]:8080",
    "localhost:8080",
    "localhost.:8080",
    "LOCALHOST:8080",
    "ip6-localhost:8080",
    "169.254.169.254:80",
    "[fd00:ec2::254]:80",
    "[fe80::1]:8080",
    "[fe80::1%eth0]:8080",
    "[fe80::1%25eth0]:8080",
    "224.0.0.1:8080",
    "255.255.255.255:8080",
    "[ff02::1]:8080",
    "10.66.0.254:15012",
    "metadata.google.internal:80",
    "example.com:80",
    "kubernetes.default.svc:443",
    "n2:8080",
    ":8080",
    "",
    "*:8080",
    "..:8080",
];

fn count(places: &[&Place]) -> Result<Vec<Counters>> {
    places.iter().map(|place| Counters::of(place)).collect()
}

/// The same measurement sees the one connection that is allowed: it could have seen the others.
fn the_counters_count(scene: &Scene<'_>, connection: &str, ip: IpAddr) -> Result<()> {
    let before = Counters::of(&scene.target)?;
    let accepted = scene.app.accepted();
    let own = SocketAddr::new(ip, APP_PORT).to_string();
    let answer = scene.peer.connect(connection, &own)?;
    ensure!(answer["status"] == json!("200"), "CONNECT {own}: {answer}");
    // The echo proves that the application has accepted, not only its kernel.
    scene.peer.echo(connection, &answer["stream"], "here", 0)?;
    let after = Counters::of(&scene.target)?;
    ensure!(
        after.connects == before.connects + 1,
        "{before:?}, then {after:?}"
    );
    ensure!(
        scene.app.accepted() == accepted + 1,
        "the application was not reached"
    );
    Ok(())
}
