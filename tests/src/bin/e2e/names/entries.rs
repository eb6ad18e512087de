//! Hosts of ServiceEntries by name, and pods that are left alone.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::apps::Nginx;
use tests::gateway::{EDGE, Gateway, with_classes};
use tests::manifests::ServiceSpec;
use tests::server::{Behaviour, Server};
use tests::traffic::{must_refuse, must_serve};
use tests::{Cluster, PodSpec, http, poll};

use super::resolver::{DNS, Mode, Resolver};
use super::{OF_SERVER, OWN_NAME, udp};
use crate::scene::{MESHED, OUTSIDE, PORT, Scene, namespaces};

const BY_NAME: &str = "api.example.com";
const BY_ADDRESS: &str = "db.example.com";
const NOBODY: &str = "gone.example.com";

pub(super) fn egress(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let outside = cluster.pod(&PodSpec::new(OUTSIDE, "outside").on(2).outside())?;
    let resolver = cluster.pod(&PodSpec::new(OUTSIDE, "resolver").on(2).outside())?;
    let server = Resolver::start(&resolver, outside.ips())?;
    let application = Server::start(outside.place(), PORT, Behaviour::Echo)?;
    let node = cluster.node(1)?;
    let agent = node.agent()?;
    fs::write(
        agent.resolv_conf(),
        format!("nameserver {}\n", resolver.addresses().v4),
    )?;
    let entry = |name: &str, host: &str, spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: {name}, namespace: {MESHED}}}\nspec: {{hosts: [{host}], {spec}, \
             ports: [{{number: 80, name: tcp, targetPort: {PORT}}}]}}\n"
        )
    };
    let [v4, v6] = outside.ips();
    let fixed =
        format!("resolution: STATIC, endpoints: [{{address: {v4}}}, {{address: \"{v6}\"}}]");
    let manifests = cluster.manifests();
    manifests.write("by-name", &entry("by-name", BY_NAME, "resolution: DNS"))?;
    manifests.write("by-address", &entry("by-address", BY_ADDRESS, &fixed))?;
    cluster.apply("nobody", &entry("nobody", NOBODY, "resolution: DNS"))?;
    let to = resolver.sockets(DNS)[0];
    server.forget();
    for host in [BY_NAME, BY_ADDRESS] {
        let given = udp(&scene.client, to, false, host).with_context(|| host.to_owned())?;
        ensure!(is_given(given), "{host}: {given:?}");
        ensure!(
            udp(&scene.client, to, true, host)? == given,
            "{host}: others"
        );
        for ip in given {
            must_serve(&scene.client, SocketAddr::new(ip, 80)).with_context(|| host.to_owned())?;
        }
    }
    // Once for both families; the second connection knew.
    ensure!(
        server.asked() == 2,
        "the server was asked {} times",
        server.asked()
    );
    ensure!(application.accepted() == 4, "{}", application.accepted());
    ensure!(
        application
            .peers()
            .iter()
            .all(|peer| scene.client.ips().contains(&peer.ip().to_canonical())),
        "not from the pod: {:?}",
        application.peers()
    );
    server.set(Mode::Deny);
    let [nobody, _] = udp(&scene.client, to, false, NOBODY)?;
    must_refuse(&scene.client, SocketAddr::new(nobody, 80))?;
    agent.wait_log(&["reason=\"dns-failed\"", NOBODY], Duration::from_secs(15))?;
    server.stop()
}

pub(super) fn through_a_gateway(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let edge = PodSpec::new(MESHED, "edge").label("culvert.dev/mesh", "disabled");
    let edge = cluster.pod(&edge.outside())?;
    let outside = cluster.pod(&PodSpec::new(OUTSIDE, "outside").on(2).outside())?;
    let resolver = cluster.pod(&PodSpec::new(OUTSIDE, "resolver").on(2).outside())?;
    let server = Resolver::start(&resolver, outside.ips())?;
    let _nginx = Nginx::start(cluster.run(), outside.place(), "by-name", PORT)?;
    let manifests = cluster.manifests();
    manifests.write("gateway", &with_classes(&format!("{EDGE}---\n{BEHIND}")))?;
    cluster.settle()?;
    let servers = cluster.run().path("edge-resolv.conf");
    fs::write(
        &servers,
        format!("nameserver {}\n", resolver.addresses().v4),
    )?;
    let servers = servers.to_string_lossy();
    let flags = ["--resolv-conf", &*servers];
    let _gateway = Gateway::start_with(cluster, &edge, "app/edge", &flags)?;
    poll::until("the host is reached", Duration::from_secs(15), || {
        let answer = http::get(resolver.place(), edge.sockets(8000)[0], "/")?;
        ensure!(answer.status == 200, "{}", answer.status);
        ensure!(answer.body.contains("by-name"), "{}", answer.body);
        Ok(())
    })?;
    // Once for both families, ahead of the requests.
    ensure!(server.asked() == 2, "asked {} times", server.asked());
    server.stop()
}

const BEHIND: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: by-name, namespace: app}
spec:
  hosts: [api.example.com]
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: outside, namespace: app}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{group: networking.istio.io, kind: Hostname, name: api.example.com, port: 80}]}]
";

/// Of the ranges that nothing else has.
fn is_given([v4, v6]: [IpAddr; 2]) -> bool {
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4, v6) else {
        return false;
    };
    v4.octets()[..2] == [240, 240] && v6.segments()[..2] == [0x2001, 2]
}

pub(super) fn left_alone(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let resolver = cluster.pod(&PodSpec::new(OUTSIDE, "resolver").on(2).outside())?;
    let service = cluster.service(&ServiceSpec::new(MESHED, "server", PORT))?;
    cluster.settle()?;
    let of_server = [OF_SERVER[0].parse()?, OF_SERVER[1].parse()?];
    let vips = [IpAddr::from(service.v4), service.v6.into()];
    let server = Resolver::start(&resolver, of_server)?;
    let tells = |expected: [IpAddr; 2]| {
        poll::until("who answers", Duration::from_secs(15), || {
            for to in resolver.sockets(DNS) {
                let told = udp(&scene.client, to, false, OWN_NAME)?;
                ensure!(told == expected, "{to}: {told:?}");
            }
            Ok(())
        })
    };
    tells(vips)?;
    let key = "culvert.dev/dns-capture".to_owned();
    scene
        .client
        .update(|pod| pod.labels.push((key.clone(), "disabled".to_owned())))?;
    tells(of_server)?;
    scene
        .client
        .update(|pod| pod.labels.retain(|(label, _)| *label != key))?;
    tells(vips)?;
    server.stop()
}
