//! Load, restart, failure and release.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use agent_datapath::{Datapath, DatapathError};
use agent_net::{OriginalDst, socket::canonical};

use crate::lab::{Lab, accept, connect, nothing_arrives, turn};

const ELSEWHERE: &str = "198.51.100.7:80";

#[test]
fn a_restarted_agent_takes_over_what_is_pinned() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, stranger) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let application = pod.serve(8080);
    drop(pod.enrol(&datapath));
    let captured = datapath.counters().captured;
    let pinned = ["links", "maps", "pods"].map(|kind| lab.pinned(kind));
    drop(datapath);
    // Without an agent the pod is closed both ways.
    let elsewhere: SocketAddr = ELSEWHERE.parse().unwrap();
    let inbound = SocketAddr::new(pod.v4, 8080);
    assert!(connect(&pod.netns, elsewhere).is_err());
    assert!(connect(&stranger.netns, inbound).is_err());
    let datapath = lab.load();
    // Same links, same maps, and what they counted.
    assert_eq!(
        ["links", "maps", "pods"].map(|kind| lab.pinned(kind)),
        pinned
    );
    assert!(datapath.counters().captured > captured);
    assert!(connect(&pod.netns, elsewhere).is_err());
    let again = datapath.enrolled_at_start().unwrap();
    assert_eq!(again, std::slice::from_ref(&pod.info));
    assert!(!datapath.pods()[0].verified);
    let enrolled = pod.enrol(&datapath);
    assert!(datapath.pods()[0].verified, "{:?}", datapath.pods());
    let _client = connect(&pod.netns, elsewhere).unwrap();
    let (_, peer) = accept(&enrolled.outbound).unwrap();
    let found = datapath.original_dst(pod.netns.cookie(), canonical(peer));
    assert_eq!(found, Some(elsewhere));
    assert!(connect(&stranger.netns, inbound).is_ok());
    assert!(accept(&enrolled.inbound).is_some());
    assert!(nothing_arrives(&application));
}

#[test]
fn no_connect_escapes_while_programs_are_swapped() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, server) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let _enrolled = pod.enrol(&datapath);
    // Reachable without capture, so that an escape would be seen there.
    let escape = server.serve(8080);
    let target = SocketAddr::new(server.v4, 8080);
    let done = AtomicBool::new(false);
    let tries = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut tries = 0;
            while !done.load(Ordering::Relaxed) {
                let _ = connect(&pod.netns, target);
                tries += 1;
            }
            tries
        });
        for _ in 0..3 {
            drop(lab.load());
        }
        done.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    assert!(tries > 10, "{tries}");
    assert!(nothing_arrives(&escape));
}

#[test]
fn a_map_of_another_shape_is_replaced() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    drop(lab.load());
    let path = lab.config.bpffs.join("culvert/maps/PODS-v1");
    fs::remove_file(&path).unwrap();
    let status = Command::new("bpftool")
        .args(["map", "create"])
        .arg(&path)
        .args([
            "type", "hash", "key", "8", "value", "64", "entries", "7", "name", "wrong",
        ])
        .status()
        .expect("bpftool");
    assert!(status.success());
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    connect(&pod.netns, ELSEWHERE.parse().unwrap()).unwrap();
    assert!(accept(&enrolled.outbound).is_some());
}

#[test]
fn release_leaves_pods_connected_and_nothing_behind() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, server) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    let application = pod.serve(8080);
    let listener = server.serve(8080);
    // Also with an agent that still runs.
    Datapath::release(&lab.config).unwrap();
    assert!(!datapath.attached());
    assert!(!lab.bpffs_is_mounted());
    connect(&pod.netns, SocketAddr::new(server.v4, 8080)).unwrap();
    assert!(accept(&listener).is_some());
    connect(&server.netns, SocketAddr::new(pod.v4, 8080)).unwrap();
    assert!(accept(&application).is_some());
    assert!(nothing_arrives(&enrolled.outbound));
    // And it stays so.
    let error = datapath.upkeep().unwrap_err();
    assert!(matches!(error, DatapathError::Unpinned), "{error}");
    assert!(!datapath.attached());
    Datapath::release(&lab.config).unwrap();
}

/// F-62.
/// A mount within a container would end with it, and every pin with the mount.
#[test]
fn nothing_is_mounted_over_a_volume() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::new();
    let volume = &lab.config.bpffs;
    fs::create_dir_all(volume).unwrap();
    let mount = |words: &[&str]| {
        let output = Command::new(words[0])
            .args(&words[1..])
            .arg(volume)
            .output();
        assert!(output.unwrap().status.success(), "{words:?}");
    };
    mount(&["mount", "--bind", volume.to_str().unwrap()]);
    let refused = Datapath::load(&lab.config).unwrap_err();
    mount(&["umount"]);
    assert!(matches!(refused, DatapathError::File { .. }), "{refused}");
    assert!(refused.to_string().contains("mount -t bpf"), "{refused}");
    drop(lab.load());
}

#[test]
fn what_others_detach_is_attached_again() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, stranger) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    let application = pod.serve(8080);
    let pins = lab.config.bpffs.join("culvert");
    let link = pins.join("pods").join(pod.netns.cookie().0.to_string());
    let inbound = SocketAddr::new(pod.v4, 8080);
    let losses: [&dyn Fn(); 3] = [
        &|| fs::remove_file(pins.join("links/connect4")).unwrap(),
        &|| detach(&pins.join("links/connect4")),
        &|| fs::remove_file(&link).unwrap(),
    ];
    for (which, lose) in losses.into_iter().enumerate() {
        lose();
        assert!(!datapath.pods()[0].verified, "{which}");
        if which == 2 {
            // Without its link the pod is open as soon as the kernel has freed it: that must not last.
            crate::lab::eventually("an open pod", || {
                connect(&stranger.netns, inbound).is_ok() && !nothing_arrives(&application)
            });
        }
        datapath.upkeep().unwrap();
        assert!(datapath.attached(), "{which}");
        assert!(
            datapath.pods()[0].verified,
            "{which}: {:?}",
            datapath.pods()
        );
        while !nothing_arrives(&enrolled.inbound) {}
        let _client = connect(&pod.netns, ELSEWHERE.parse().unwrap()).unwrap();
        assert!(accept(&enrolled.outbound).is_some(), "{which}");
        let _client = connect(&stranger.netns, inbound).unwrap();
        assert!(accept(&enrolled.inbound).is_some(), "{which}");
        assert!(nothing_arrives(&application), "{which}");
    }
    assert_eq!(lab.pinned("pods").len(), 1);
    assert_eq!(lab.pinned("links").len(), HOOKS);
}

fn detach(link: &std::path::Path) {
    let mut command = Command::new("bpftool");
    command.args(["link", "detach", "pinned"]).arg(link);
    assert!(command.status().expect("bpftool").success());
}

#[test]
fn a_refused_program_is_explained_and_leaves_nothing() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let broken = lab.file("broken.o");
    let mut object = fs::read(&lab.config.object).expect("cargo xtask build-ebpf");
    spoil(&mut object, "cgroup/connect6");
    fs::write(&broken, object).unwrap();
    lab.config.object = broken;
    let error = Datapath::load(&lab.config).unwrap_err();
    let DatapathError::Load { program, tail, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*program, "connect6");
    assert!(!tail.is_empty(), "{error}");
    for kind in ["links", "maps", "pods"] {
        assert_eq!(lab.pinned(kind), [""; 0]);
    }
}

#[test]
fn a_failed_load_leaves_the_agent_before_in_force() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    let (links, maps) = (lab.pinned("links"), lab.pinned("maps"));
    let mut wrong = lab.config.clone();
    wrong.cgroup_root = "/tmp".into();
    assert!(Datapath::load(&wrong).is_err());
    wrong.object = "/dev/null".into();
    assert!(Datapath::load(&wrong).is_err());
    assert_eq!((lab.pinned("links"), lab.pinned("maps")), (links, maps));
    assert!(datapath.attached());
    connect(&pod.netns, ELSEWHERE.parse().unwrap()).unwrap();
    assert!(accept(&enrolled.outbound).is_some());
}

#[test]
fn two_nodes_on_one_kernel_do_not_meet() {
    let Some(_turn) = turn() else { return };
    // Same addresses, same ports; only the namespaces differ.
    let (mut left, mut right) = (Lab::new(), Lab::new());
    let pods = [left.pod(1), right.pod(1)];
    let datapaths = [left.load(), right.load()];
    let enrolled = [0, 1].map(|i| pods[i].enrol(&datapaths[i]));
    for (mine, other) in [(0, 1), (1, 0)] {
        let elsewhere: SocketAddr = ELSEWHERE.parse().unwrap();
        let _client = connect(&pods[mine].netns, elsewhere).unwrap();
        let (_, peer) = accept(&enrolled[mine].outbound).unwrap();
        let (peer, cookie) = (canonical(peer), pods[mine].netns.cookie());
        assert_eq!(datapaths[mine].original_dst(cookie, peer), Some(elsewhere));
        assert_eq!(datapaths[other].original_dst(cookie, peer), None);
        assert!(nothing_arrives(&enrolled[other].outbound));
    }
}

/// Hooks of the cgroup: connect, sendmsg, recvmsg and getpeername in both families, and sockops.
const HOOKS: usize = 9;

/// Instructions of each program as the kernel runs them, at most. They run on every connect,
/// accept, datagram or inbound SYN: raise a figure knowingly. About half of `connect` is for
/// datagrams to port 53, and a TCP connect passes it by with one comparison.
const BUDGETS: [(&str, u64); 10] = [
    ("links/socket_events", 900),
    ("links/connect4", 750),
    ("links/connect6", 900),
    ("links/getpeername4", 150),
    ("links/getpeername6", 150),
    ("links/sendmsg4", 500),
    ("links/sendmsg6", 500),
    ("links/recvmsg4", 200),
    ("links/recvmsg6", 200),
    ("pods", 480),
];

#[test]
fn programs_stay_within_their_budgets() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let _enrolled = pod.enrol(&datapath);
    for (pin, budget) in BUDGETS {
        let mut path = lab.config.bpffs.join("culvert").join(pin);
        if pin == "pods" {
            path.push(pod.netns.cookie().0.to_string());
        }
        let link = bpftool(&["link", "show", "pinned", path.to_str().unwrap()]);
        let program = bpftool(&["prog", "show", "id", &link["prog_id"].to_string()]);
        let instructions = program["bytes_xlated"].as_u64().unwrap() / 8;
        println!("{pin}: {instructions}");
        assert!(instructions <= budget, "{pin}: {instructions} > {budget}");
    }
}

#[test]
fn where_names_are_not_looked_at_no_datagram_passes_a_hook() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    for names in [true, false, true] {
        lab.config.names = names;
        let datapath = lab.load();
        assert!(datapath.attached(), "{names}");
        let links = lab.pinned("links");
        let of_datagrams = links.iter().filter(|link| link.contains("msg"));
        assert_eq!(of_datagrams.count(), if names { 4 } else { 0 }, "{links:?}");
        datapath.upkeep().unwrap();
        assert_eq!(lab.pinned("links"), links);
    }
}

fn bpftool(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new("bpftool").arg("-j").args(arguments).output();
    serde_json::from_slice(&output.expect("bpftool").stdout).unwrap()
}

/// Puts an instruction that does not exist at the start of a section of an ELF64 object.
fn spoil(object: &mut [u8], section: &str) {
    let word = |object: &[u8], at: usize| {
        u64::from_le_bytes(object[at..at + 8].try_into().unwrap()) as usize
    };
    let half = |object: &[u8], at: usize| {
        u16::from_le_bytes(object[at..at + 2].try_into().unwrap()) as usize
    };
    let headers = word(object, 40);
    let (size, count, names) = (half(object, 58), half(object, 60), half(object, 62));
    let names = word(object, headers + names * size + 24);
    for header in (0..count).map(|i| headers + i * size) {
        let name = u32::from_le_bytes(object[header..header + 4].try_into().unwrap()) as usize;
        let text = &object[names + name..];
        let end = text.iter().position(|byte| *byte == 0).unwrap();
        if &text[..end] == section.as_bytes() {
            let start = word(object, header + 24);
            object[start..start + 8].fill(0xff);
            return;
        }
    }
    panic!("no section {section}");
}
