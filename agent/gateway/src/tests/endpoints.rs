//! What users see of the way from a rule to an endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use agent_model::gateway::{Persistence, SessionPersistence};
use agent_model::{Locality, Reason};
use agent_xds::{Apply, Update};
use http::{Request, Response};
use http_body_util::Full;

use super::backend::Backend;
use super::bed::{Bed, endpoint, get, route, rule, service, to};
use crate::balance::Algorithm;
use crate::outlier::Cause;
use crate::tuning::{HashOn, HealthCheck, Nearness, Probe, Settings, Tuning};
use crate::{Affinity, BackendView, Config, circuit, outlier};

fn tuned(bed: &Bed, settings: Settings) {
    let of_one = (service("one").key(), None, settings);
    bed.gateway.tune(Tuning::new([of_one]));
}

fn workers(workers: usize) -> Bed {
    let config = Config {
        workers,
        ..Config::default()
    };
    let bed = Bed::with(&config, None);
    assert_eq!(bed.apply(&[route(vec![rule("/", "one")])]), []);
    bed
}

fn who(response: &Response<bytes::Bytes>) -> String {
    let name = response.headers()["x-backend"].to_str().unwrap();
    name.to_owned()
}

fn view(bed: &Bed) -> BackendView {
    let mut all = bed.gateway.backends();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

async fn counts(bed: &Bed, requests: usize) -> BTreeMap<(u16, String), usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let response = bed.get("a", "/").await;
        let seen = (response.status().as_u16(), who(&response));
        *counts.entry(seen).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn who_fails_is_out_for_every_worker_and_comes_back() {
    let (bad, good) = (Backend::start("bad").await, Backend::start("good").await);
    let mut bed = workers(2);
    bed.service("one", &[&bad, &good]);
    let settings = Settings {
        algorithm: Algorithm::RoundRobin,
        outlier: Some(outlier::Settings {
            consecutive: Some(3),
            ..outlier::Settings::default()
        }),
        ..Settings::default()
    };
    tuned(&bed, settings.clone());
    // Three of the six requests fail; then nobody is sent there any more, by either worker.
    let seen = counts(&bed, 40).await;
    assert_eq!(seen[&(503, "bad".to_owned())], 3, "{seen:?}");
    let shown = view(&bed);
    assert_eq!((shown.ejections, shown.returns), (1, 0));
    let ejected = &shown.endpoints[0];
    let (left, cause) = ejected.ejected.unwrap();
    assert_eq!(cause, Cause::Consecutive);
    assert!(left <= Duration::from_secs(30) && left > Duration::from_secs(20));
    assert!(!ejected.usable && shown.endpoints[1].usable);
    // What does not concern it does not bring it back: other settings, another endpoint.
    tuned(
        &bed,
        Settings {
            algorithm: Algorithm::Random,
            ..settings.clone()
        },
    );
    tuned(&bed, settings);
    let third = Backend::start("good-too").await;
    bed.service("one", &[&bad, &good, &third]);
    let seen = counts(&bed, 10).await;
    assert!(!seen.contains_key(&(503, "bad".to_owned())), "{seen:?}");
    // Time does.
    bed.gateway.judge(Instant::now() + Duration::from_secs(31));
    assert_eq!(view(&bed).returns, 1);
    let seen = counts(&bed, 30).await;
    assert_eq!(seen[&(503, "bad".to_owned())], 3, "{seen:?}");
    assert_eq!(view(&bed).ejections, 2);
}

#[tokio::test]
async fn a_hash_is_a_place_for_every_worker() {
    let names = ["a", "b", "c", "d"];
    let mut backends = Vec::new();
    for name in names {
        backends.push(Backend::start(name).await);
    }
    let mut bed = workers(3);
    bed.service("one", &backends.iter().collect::<Vec<_>>());
    let by_user = |user: usize| {
        let request = Request::get("/").header("host", "a");
        let request = request.header("x-user", format!("user-{user}"));
        bed.ask(request.body(Full::default()).unwrap())
    };
    tuned(
        &bed,
        Settings {
            algorithm: Algorithm::ConsistentHash,
            hash: Some(HashOn::Header("x-user".parse().unwrap())),
            ..Settings::default()
        },
    );
    let mut places = Vec::new();
    for user in 0..12 {
        let place = who(&by_user(user).await);
        for _ in 0..5 {
            assert_eq!(who(&by_user(user).await), place, "user {user}");
        }
        places.push(place);
    }
    let used: BTreeSet<_> = places.iter().collect();
    assert!(used.len() > 1, "{places:?}");
}

#[tokio::test]
async fn those_without_their_endpoint_move_and_nobody_else() {
    let mut backends = Vec::new();
    for name in ["a", "b", "c", "d"] {
        backends.push(Backend::start(name).await);
    }
    let mut bed = workers(1);
    bed.service("one", &backends.iter().collect::<Vec<_>>());
    let hash = HashOn::Cookie("user".into());
    tuned(
        &bed,
        Settings {
            algorithm: Algorithm::ConsistentHash,
            hash: Some(hash),
            ..Settings::default()
        },
    );
    let mut before = Vec::new();
    for user in 0..20 {
        before.push(who(&bed.ask(as_user(user)).await));
    }
    let gone = Update::RemoveAddress("c//Pod/ns/one-3".to_owned());
    assert!(bed.writer.apply(vec![gone]).is_empty());
    let mut moved = 0;
    for (user, before) in before.iter().enumerate() {
        let after = who(&bed.ask(as_user(user)).await);
        assert_ne!(after, "d");
        if before != "d" && after != *before {
            moved += 1;
        }
    }
    assert!(moved <= 2, "{moved} of 20 moved without need");
}

#[tokio::test]
async fn who_has_no_cookie_to_hash_is_given_one_and_comes_back_to_its_endpoint() {
    let names = ["a", "b", "c", "d"];
    let mut backends = Vec::new();
    for name in names {
        backends.push(Backend::start(name).await);
    }
    let mut bed = workers(2);
    bed.service("one", &backends.iter().collect::<Vec<_>>());
    let affinity = Affinity {
        name: "stick".into(),
        path: "/".into(),
        ttl: Duration::from_secs(60),
    };
    tuned(
        &bed,
        Settings {
            algorithm: Algorithm::ConsistentHash,
            hash: Some(HashOn::Cookie("stick".into())),
            affinity: Some(affinity),
            ..Settings::default()
        },
    );
    let mut places = BTreeSet::new();
    for _ in 0..12 {
        let first = bed.get("a", "/").await;
        let told = first.headers()["set-cookie"].to_str().unwrap().to_owned();
        assert!(told.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=60"));
        let cookie = told.split(';').next().unwrap();
        for _ in 0..4 {
            let request = Request::get("/").header("host", "a");
            let request = request.header("cookie", format!("x=1; {cookie}"));
            let again = bed.ask(request.body(Full::default()).unwrap()).await;
            assert_eq!(who(&again), who(&first), "{cookie}");
            assert!(!again.headers().contains_key("set-cookie"), "it has one");
        }
        places.insert(who(&first));
    }
    assert!(places.len() > 1, "{places:?}");
    let told = backends.iter().flat_map(Backend::seen);
    let told = told.filter(|seen| !seen.headers.contains_key("cookie"));
    assert_eq!(told.count(), 12, "backends see what clients sent");
}

fn as_user(user: usize) -> Request<Full<bytes::Bytes>> {
    let request = Request::get("/").header("host", "a");
    let request = request.header("cookie", format!("x=1; user=u{user}"));
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn what_is_above_a_limit_fails_at_once() {
    let one = Backend::start("one").await;
    let mut bed = workers(2);
    bed.service("one", &[&one]);
    let limits = circuit::Limits {
        connections: 100,
        pending: 100,
        requests: 2,
    };
    tuned(
        &bed,
        Settings {
            circuit: Some(limits),
            ..Settings::default()
        },
    );
    let slow = || bed.get("a", "/delay/400");
    let ask = || async {
        // Later than the slow ones, which hold the circuit by then.
        one.wait_for(2).await;
        bed.get("a", "/").await
    };
    let (a, b, c, d) = tokio::join!(slow(), slow(), ask(), ask());
    assert_eq!([a.status(), b.status()], [200, 200]);
    assert_eq!([c.status(), d.status()], [503, 503]);
    let records = bed.records(4).await;
    let open = records
        .iter()
        .filter(|one| one.reason == Reason::CircuitOpen);
    assert_eq!(open.count(), 2);
    let requests = view(&bed).circuit[2];
    assert_eq!((requests.held, requests.refused, requests.limit), (0, 2, 2));
    // Without the policy there is no limit.
    bed.gateway.tune(Tuning::default());
    let (a, b, c) = tokio::join!(slow(), slow(), slow());
    assert_eq!([a.status(), b.status(), c.status()], [200, 200, 200]);
}

#[tokio::test]
async fn connections_that_a_limit_allows_serve_all_workers_in_turn() {
    let one = Backend::start("one").await;
    let mut bed = workers(3);
    bed.service("one", &[&one]);
    let limits = circuit::Limits {
        connections: 1,
        pending: 20,
        requests: 100,
    };
    tuned(
        &bed,
        Settings {
            circuit: Some(limits),
            ..Settings::default()
        },
    );
    // The connection that a worker keeps for later is another worker's to make.
    for _ in 0..12 {
        assert_eq!(bed.get("a", "/").await.status(), 200);
    }
    let together = futures_util::future::join_all((0..8).map(|_| bed.get("a", "/delay/5"))).await;
    assert!(together.iter().all(|response| response.status() == 200));
    let connections = view(&bed).circuit[0];
    assert_eq!((connections.limit, connections.refused), (1, 0));
    assert!(connections.held <= 1);
    // Nobody may wait: who cannot be served now is refused.
    let limits = circuit::Limits {
        pending: 1,
        ..limits
    };
    tuned(
        &bed,
        Settings {
            circuit: Some(limits),
            ..Settings::default()
        },
    );
    let together = futures_util::future::join_all((0..8).map(|_| bed.get("a", "/delay/200"))).await;
    let refused = together.iter().filter(|one| one.status() == 503).count();
    assert!(refused >= 6, "{refused} of 8 refused");
}

#[tokio::test]
async fn the_near_ones_are_enough() {
    let (near, far) = (Backend::start("near").await, Backend::start("far").await);
    let place = |zone: &str| Locality {
        region: "eu".into(),
        zone: zone.into(),
        ..Locality::default()
    };
    let config = Config {
        locality: Some(place("a")),
        ..Config::default()
    };
    let mut bed = Bed::with(&config, None);
    assert_eq!(bed.apply(&[route(vec![rule("/", "one")])]), []);
    let mut updates = vec![Update::Service(Box::new(service("one")))];
    for (number, (backend, zone)) in [(&near, "a"), (&far, "b")].into_iter().enumerate() {
        let mut workload = endpoint(&format!("one-{number}"), "one", backend.address);
        workload.locality = place(zone);
        updates.push(Update::Workload(Box::new(workload)));
    }
    assert!(bed.writer.apply(updates).is_empty());
    let seen = counts(&bed, 40).await;
    assert_eq!(seen.len(), 2, "nobody asked for the near ones: {seen:?}");
    tuned(
        &bed,
        Settings {
            locality: Some(Nearness::Failover),
            ..Settings::default()
        },
    );
    let seen = counts(&bed, 20).await;
    assert_eq!(seen[&(200, "near".to_owned())], 20);
    let gone = Update::RemoveAddress("c//Pod/ns/one-0".to_owned());
    assert!(bed.writer.apply(vec![gone]).is_empty());
    assert_eq!(who(&bed.ask(get("a", "/")).await), "far");
}

/// Waits until an endpoint may or may not be chosen.
async fn usable(bed: &Bed, expected: &[bool]) {
    let wait = async {
        let seen = || -> Vec<bool> { view(bed).endpoints.iter().map(|one| one.usable).collect() };
        while seen() != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), wait).await;
    assert!(waited.is_ok(), "{:?} and not {expected:?}", view(bed));
}

#[tokio::test]
async fn who_fails_its_checks_is_left_out_unless_nearly_all_do() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let c = Backend::start("c").await;
    let mut bed = workers(2);
    bed.service("one", &[&a, &b, &c]);
    let health = HealthCheck {
        probe: Probe::Http {
            path: "/healthz".into(),
            host: Some("health.example".into()),
            statuses: (200, 299),
        },
        interval: Duration::from_millis(50),
        timeout: Duration::from_secs(2),
        unhealthy: 2,
        healthy: 2,
        ..HealthCheck::default()
    };
    b.set_well(false);
    tuned(
        &bed,
        Settings {
            health: Some(health.clone()),
            ..Settings::default()
        },
    );
    // Nobody has asked for the service yet.
    let wait = async {
        while bed.gateway.backends().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    wait.await;
    usable(&bed, &[true, false, true]).await;
    assert!(!view(&bed).endpoints[1].healthy);
    let seen = counts(&bed, 20).await;
    assert!(!seen.contains_key(&(200, "b".to_owned())), "{seen:?}");
    // Of three one is left: the gateway does not believe it.
    c.set_well(false);
    usable(&bed, &[true, true, true]).await;
    assert!(!view(&bed).endpoints[2].healthy);
    b.set_well(true);
    c.set_well(true);
    let wait = async {
        while !view(&bed).endpoints.iter().all(|one| one.healthy) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .unwrap();
    let asked = a.seen().into_iter().find(|seen| seen.target == "/healthz");
    assert_eq!(asked.unwrap().host, "health.example");
    // A port that nobody listens on, of one of them.
    let closed = HealthCheck {
        probe: Probe::Tcp,
        port: Some(super::bed::free_port().port()),
        panic_percent: 0,
        ..health
    };
    tuned(
        &bed,
        Settings {
            health: Some(closed),
            ..Settings::default()
        },
    );
    usable(&bed, &[false, false, false]).await;
    assert_eq!(bed.get("a", "/").await.status(), 503);
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint_and_its_share() {
    let mut backends = Vec::new();
    for name in ["a", "b", "c", "d"] {
        backends.push(Backend::start(name).await);
    }
    let mut split = rule("/", "one");
    split.backends = vec![to("one", 1), to("two", 1)];
    split.session_persistence = Some(SessionPersistence {
        name: "stay".into(),
        kind: Persistence::Cookie { permanent: false },
        absolute_timeout: None,
        idle_timeout: None,
    });
    let mut bed = workers(3);
    assert_eq!(bed.apply(&[route(vec![split])]), []);
    bed.service("one", &[&backends[0], &backends[1]]);
    bed.service("two", &[&backends[2], &backends[3]]);
    let ask = |cookie: Option<String>| {
        let mut request = Request::get("/").header("host", "a");
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        bed.ask(request.body(Full::default()).unwrap())
    };
    let given = |response: &Response<bytes::Bytes>| {
        let cookie = response.headers().get("set-cookie")?.to_str().unwrap();
        Some(cookie.split(';').next().unwrap().to_owned())
    };
    let at_random = |name| {
        let settings = Settings {
            algorithm: Algorithm::Random,
            ..Settings::default()
        };
        (service(name).key(), None, settings)
    };
    bed.gateway.tune(Tuning::new(["one", "two"].map(at_random)));
    let mut seen = BTreeSet::new();
    let mut cookies = Vec::new();
    for _ in 0..80 {
        let response = ask(None).await;
        seen.insert(who(&response));
        cookies.push((given(&response).unwrap(), who(&response)));
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    for (cookie, name) in &cookies {
        let response = ask(Some(cookie.clone())).await;
        assert_eq!(who(&response), *name);
        assert_eq!(given(&response), None, "it knows");
    }
    // What nobody wrote is as nothing.
    let forged = cookies[0].0.replace(['0', '1'], "2");
    assert!(given(&ask(Some(forged)).await).is_some());
    // Its endpoint goes: another one, and that is told.
    let (lost, _) = cookies.iter().find(|(_, name)| name == "d").unwrap();
    let (kept, _) = cookies.iter().find(|(_, name)| name == "c").unwrap();
    let gone = Update::RemoveAddress("c//Pod/ns/two-1".to_owned());
    assert!(bed.writer.apply(vec![gone]).is_empty());
    let ask = |cookie: &str| {
        let request = Request::get("/").header("host", "a");
        let request = request.header("cookie", cookie);
        bed.ask(request.body(Full::default()).unwrap())
    };
    let response = ask(lost).await;
    assert_eq!(who(&response), "c", "its share is still that service");
    assert!(given(&response).is_some());
    let response = ask(kept).await;
    assert_eq!((who(&response).as_str(), given(&response)), ("c", None));
}
