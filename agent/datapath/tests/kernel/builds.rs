//! Agents of two builds follow each other, forth and back, where a map is not the same to both
//! (F-08): what is allowed is served at every instant, and nothing else.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use agent_datapath::{Datapath, EnrolledPod, TABLES, Table};
use agent_net::{OriginalDst, socket::canonical};

use crate::lab::{Lab, TestPod, accept, connect, nothing_arrives, turn};

/// The maps of another build: those that say what is enrolled have other sizes, and so other
/// versions.
fn of_another_build() -> &'static [Table] {
    let mut tables = TABLES.to_vec();
    for table in &mut tables {
        if ["PODS", "OWN", "LOCAL", "LISTENERS", "SETTINGS", "AYA_LOGS"].contains(&table.name) {
            table.version += 1;
            if table.is_hashed() {
                table.entries *= 2;
            }
        }
    }
    tables.leak()
}

/// A node with a pod, a stranger, and a server that the pod reaches when it is not captured.
struct Scene {
    lab: Lab,
    pod: TestPod,
    stranger: TestPod,
    /// Where a connect that escapes capture arrives.
    escape: TcpListener,
    outside: SocketAddr,
    /// What a stranger must not reach.
    application: TcpListener,
}

impl Scene {
    fn new() -> Self {
        let mut lab = Lab::new();
        let (pod, stranger) = (lab.pod(1), lab.pod(2));
        Self {
            escape: stranger.serve(8080),
            outside: SocketAddr::new(stranger.v4, 8080),
            application: pod.serve(8080),
            lab,
            pod,
            stranger,
        }
    }

    fn inside(&self) -> SocketAddr {
        SocketAddr::new(self.pod.v4, 8080)
    }

    fn load(&self, tables: &'static [Table]) -> Datapath {
        let mut config = self.lab.config.clone();
        config.tables = tables;
        Datapath::load(&config).unwrap_or_else(|error| panic!("{error}"))
    }

    fn nothing_escaped(&self) {
        assert!(nothing_arrives(&self.escape), "a connect was not captured");
        assert!(
            nothing_arrives(&self.application),
            "a stranger got past the agent"
        );
    }
}

/// Everybody who accepts from the pod's listeners at a moment.
#[derive(Default)]
struct Accepting(Mutex<Vec<Arc<Datapath>>>);

impl Accepting {
    /// Takes the next connection. Whichever agent has accepted it: each must know where it goes.
    fn next(&self, pod: &EnrolledPod, going: SocketAddr) {
        let agents = self.0.lock().unwrap().clone();
        let (_stream, peer) = accept(&pod.outbound).expect("a captured connect is lost");
        for agent in agents {
            let found = agent.original_dst(pod.netns.cookie(), canonical(peer));
            assert_eq!(found, Some(going), "of generation {}", agent.generation());
        }
    }
}

#[test]
fn two_builds_follow_each_other_forth_and_back_and_nobody_notices() {
    let Some(_turn) = turn() else { return };
    let scene = Scene::new();
    let other = of_another_build();
    let first = Arc::new(scene.load(&TABLES));
    let enrolled = scene.pod.enrol(&first);
    let accepting = Accepting(Mutex::new(vec![Arc::clone(&first)]));
    let (done, served) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        // One after the other without a pause: each is served, inbound and outbound.
        let clients = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _client = connect(&scene.pod.netns, scene.outside).unwrap();
                accepting.next(&enrolled, scene.outside);
                let _stranger = connect(&scene.stranger.netns, scene.inside()).unwrap();
                accept(&enrolled.inbound).expect("a stranger's connect is lost");
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut before = first;
        for tables in [other, &TABLES, other, &TABLES] {
            let some = served.load(Ordering::Relaxed) + 3;
            while served.load(Ordering::Relaxed) < some && !clients.is_finished() {
                std::thread::yield_now();
            }
            before.cede();
            let next = Arc::new(scene.load(tables));
            next.adopt(enrolled.share().unwrap()).unwrap();
            accepting.0.lock().unwrap().push(Arc::clone(&next));
            // The one before stops accepting, and lives on for a while.
            accepting.0.lock().unwrap().remove(0);
            assert!(next.enrolled_at_start().unwrap().is_empty());
            assert!(next.pods()[0].verified, "{:?}", next.pods());
            next.upkeep().unwrap();
            assert!(!before.is_owner());
            before = next;
        }
        done.store(true, Ordering::Relaxed);
        clients.join().unwrap();
    });
    scene.nothing_escaped();
    let maps = scene.lab.pinned("maps");
    // And the claim.
    assert_eq!(maps.len(), TABLES.len() + 1, "{maps:?}");
}

#[test]
fn another_build_that_starts_after_a_crash_opens_nothing() {
    let Some(_turn) = turn() else { return };
    let scene = Scene::new();
    let first = scene.load(&TABLES);
    drop(scene.pod.enrol(&first));
    drop(first);
    let done = AtomicBool::new(false);
    for tables in [of_another_build(), &TABLES] {
        done.store(false, Ordering::Relaxed);
        let loaded = std::thread::scope(|scope| {
            let tries = scope.spawn(|| {
                let mut tries = 0;
                while !done.load(Ordering::Relaxed) {
                    connect(&scene.pod.netns, scene.outside).unwrap_err();
                    connect(&scene.stranger.netns, scene.inside()).unwrap_err();
                    tries += 1;
                }
                tries
            });
            let loaded = scene.load(tables);
            done.store(true, Ordering::Relaxed);
            assert!(tries.join().unwrap() > 10);
            loaded
        });
        connect(&scene.pod.netns, scene.outside).unwrap_err();
        assert_eq!(loaded.enrolled_at_start().unwrap().len(), 1);
        let enrolled = scene.pod.enrol(&loaded);
        let _client = connect(&scene.pod.netns, scene.outside).unwrap();
        Accepting(Mutex::new(vec![Arc::new(loaded)])).next(&enrolled, scene.outside);
    }
    scene.nothing_escaped();
}

#[test]
fn who_takes_back_what_another_build_had_serves_as_before() {
    let Some(_turn) = turn() else { return };
    let scene = Scene::new();
    let first = scene.load(&TABLES);
    let enrolled = scene.pod.enrol(&first);
    let pinned = ["links", "maps", "pods"].map(|kind| scene.lab.pinned(kind));
    first.cede();
    let second = scene.load(of_another_build());
    second.adopt(enrolled.share().unwrap()).unwrap();
    first.reclaim().unwrap();
    drop(second);
    assert_eq!(
        ["links", "maps", "pods"].map(|kind| scene.lab.pinned(kind)),
        pinned
    );
    assert!(first.pods()[0].verified, "{:?}", first.pods());
    first.upkeep().unwrap();
    let captured = first.counters().captured;
    let _client = connect(&scene.pod.netns, scene.outside).unwrap();
    Accepting(Mutex::new(vec![Arc::new(first)])).next(&enrolled, scene.outside);
    assert!(captured > 0);
    scene.nothing_escaped();
}
