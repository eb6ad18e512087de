//! Connections into an enrolled pod.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::Command;

use agent_net::{SocketTags, socket::canonical};

use crate::lab::{
    Lab, accept, cgroup_root, connect, connect_prepared, eventually, nothing_arrives, say, serve,
    turn,
};

#[test]
fn strangers_arrive_at_the_agents_listeners() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, stranger) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let application = pod.serve(8080);
    let enrolled = pod.enrol(&datapath);
    for address in pod.addresses() {
        for (port, listener) in [
            (8080, &enrolled.inbound),
            (15008, &enrolled.hbone),
            (15001, &enrolled.inbound),
        ] {
            let target = SocketAddr::new(address, port);
            let client = connect(&stranger.netns, target).unwrap();
            let (agent, peer) = accept(listener).unwrap_or_else(|| panic!("{target}"));
            say(&client, &agent);
            assert_eq!(canonical(peer), canonical(client.local_addr().unwrap()));
            assert_eq!(canonical(agent.local_addr().unwrap()), target);
        }
    }
    assert!(nothing_arrives(&application));
}

#[test]
fn without_a_listener_strangers_are_refused_and_the_application_is_not_reached() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, stranger) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let application = pod.serve(8080);
    let squatter = serve(&pod.netns, SocketAddr::new(pod.v4, 15008));
    drop(pod.enrol(&datapath));
    for address in pod.addresses() {
        for port in [8080, 15008] {
            let error = connect(&stranger.netns, SocketAddr::new(address, port)).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
    }
    assert!(nothing_arrives(&application));
    assert!(nothing_arrives(&squatter));
}

#[test]
fn tunnels_pass_an_application_that_holds_their_port() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, stranger) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let squatter = pod.serve(15008);
    let enrolled = pod.enrol(&datapath);
    for address in pod.addresses() {
        connect(&stranger.netns, SocketAddr::new(address, 15008)).unwrap();
        assert!(accept(&enrolled.hbone).is_some());
    }
    assert!(nothing_arrives(&squatter));
}

#[test]
fn an_application_sees_the_client_the_agent_names() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let _enrolled = pod.enrol(&datapath);
    let dual_stack = pod.serve(8080);
    let v4_only = serve(&pod.netns, SocketAddr::new(pod.v4, 8081));
    let client4: SocketAddr = "203.0.113.5:4711".parse().unwrap();
    let client6: SocketAddr = "[2001:db8::5]:4712".parse().unwrap();
    for (listener, target, client) in [
        (&dual_stack, SocketAddr::new(pod.v4, 8080), client4),
        (&dual_stack, SocketAddr::new(pod.v6, 8080), client6),
        (&dual_stack, SocketAddr::new(pod.v6, 8080), client4),
        (&v4_only, SocketAddr::new(pod.v4, 8081), client4),
    ] {
        let agent = connect_prepared(&pod.netns, target, |socket| {
            datapath.show_client(socket.as_fd(), client)
        });
        let agent = agent.unwrap();
        let (server, peer) = accept(listener).unwrap();
        say(&agent, &server);
        assert_eq!(canonical(peer), client);
        assert_eq!(canonical(server.peer_addr().unwrap()), client);
    }
    assert_eq!(datapath.counters().client_shown, 4);
    // A dial that the application refuses leaves nothing for the next.
    let refused = SocketAddr::new(pod.v4, 8089);
    let dial = connect_prepared(&pod.netns, refused, |socket| {
        datapath.show_client(socket.as_fd(), client4)
    });
    assert!(dial.is_err());
    eventually("no hand-over outlives its dial", || {
        entries(&lab, "PEER") == 0
    });
    // An IPv6 client cannot be shown on an IPv4 socket: the pod's own address stays.
    let target = SocketAddr::new(pod.v4, 8081);
    let _agent = connect_prepared(&pod.netns, target, |socket| {
        datapath.show_client(socket.as_fd(), client6)
    });
    assert_eq!(accept(&v4_only).unwrap().1.ip(), pod.v4);
}

#[test]
fn the_host_reaches_applications_of_its_own_pods() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let application = pod.serve(8080);
    let enrolled = pod.enrol(&datapath);
    for address in pod.addresses() {
        let client = connect(&lab.host, SocketAddr::new(address, 8080)).unwrap();
        let (server, _) = accept(&application).unwrap();
        say(&client, &server);
    }
    assert!(nothing_arrives(&enrolled.inbound));
    assert_eq!(datapath.counters().host_approved, 2);
    // The application refuses: the approval of a connect that failed does not stay either.
    assert!(connect(&lab.host, SocketAddr::new(pod.v4, 8081)).is_err());
    eventually("no approval outlives its connect", || {
        entries(&lab, "APPROVED") == 0
    });
}

#[test]
fn pods_on_the_hosts_network_are_not_the_host() {
    let Some(_turn) = turn() else { return };
    let kubepods = cgroup_root().join("kubepods");
    let cgroup = kubepods.join(format!("cvdp{}", std::process::id()));
    fs::create_dir_all(&cgroup).unwrap();
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let application = pod.serve(8080);
    let enrolled = pod.enrol(&datapath);
    let script = format!(
        "echo 0 > {}/cgroup.procs && exec nsenter --net={} bash -c 'exec 3<>/dev/tcp/{}/8080'",
        cgroup.display(),
        lab.config.host_netns.display(),
        pod.v4,
    );
    let status = Command::new("bash").args(["-c", &script]).status().unwrap();
    fs::remove_dir(&cgroup).unwrap();
    let _ = fs::remove_dir(&kubepods);
    assert!(status.success());
    assert!(accept(&enrolled.inbound).is_some());
    assert!(nothing_arrives(&application));
    assert_eq!(datapath.counters().host_approved, 0);
}

fn entries(lab: &Lab, map: &str) -> usize {
    let path = lab
        .config
        .bpffs
        .join("culvert/maps")
        .join(format!("{map}-v1"));
    let output = Command::new("bpftool")
        .args(["-j", "map", "dump", "pinned"])
        .arg(path)
        .output()
        .expect("bpftool");
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .matches("\"key\"")
        .count()
}
