use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const FAILURES: [Failure; 6] = [
    Failure::NotConnected,
    Failure::NotProcessed,
    Failure::Broken,
    Failure::Timeout,
    Failure::Status(503),
    Failure::Status(404),
];

fn policy() -> Policy {
    Policy {
        codes: vec![502, 503],
        grpc_codes: vec![8],
        attempts: 2,
        back_off: Duration::from_millis(100),
    }
}

fn request(method: &str) -> Request<'_> {
    Request {
        method,
        is_whole: true,
        is_answered: false,
        attempts: 1,
        time_left: None,
    }
}

fn stops(method: &str, failure: Failure) -> Option<Stop> {
    match policy().decide(request(method), failure, 0.0) {
        Decision::Again(_) => None,
        Decision::Stop(stop) => Some(stop),
    }
}

#[test]
fn what_is_safe() {
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
        assert_eq!(stops(method, Failure::Broken), None, "{method}");
        assert_eq!(stops(method, Failure::Timeout), None, "{method}");
    }
    for method in ["POST", "PATCH", "CONNECT", "get", "LOCK"] {
        assert_eq!(
            stops(method, Failure::Broken),
            Some(Stop::NotIdempotent),
            "{method}"
        );
        assert_eq!(
            stops(method, Failure::Timeout),
            Some(Stop::NotIdempotent),
            "{method}"
        );
        // The backend did not see it, or the rule lists its answer.
        assert_eq!(stops(method, Failure::NotConnected), None, "{method}");
        assert_eq!(stops(method, Failure::NotProcessed), None, "{method}");
        assert_eq!(stops(method, Failure::Status(503)), None, "{method}");
    }
    assert_eq!(stops("GET", Failure::Status(404)), Some(Stop::NotAsked));
    assert_eq!(stops("GET", Failure::Status(500)), Some(Stop::NotAsked));
}

#[test]
fn codes_of_grpc_count_by_themselves_or_as_what_they_stand_for() {
    for method in ["POST", "GET"] {
        assert_eq!(stops(method, Failure::Grpc(8)), None, "listed");
        assert_eq!(stops(method, Failure::Grpc(14)), None, "503");
        for code in [1, 2, 4, 5, 13, 16, 99] {
            let stop = stops(method, Failure::Grpc(code));
            assert_eq!(stop, Some(Stop::NotAsked), "{code}");
        }
    }
    assert_eq!(stops("POST", Failure::Status(429)), Some(Stop::NotAsked));
    let headers = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", value.parse().unwrap());
        grpc_code(&headers)
    };
    assert_eq!((headers("14"), headers("0")), (Some(14), None));
    assert_eq!((headers("-1"), headers("x")), (None, None));
    assert_eq!(grpc_code(&HeaderMap::new()), None);
}

#[test]
fn what_is_gone_is_gone() {
    for failure in [Failure::NotConnected, Failure::Broken, Failure::Status(503)] {
        let consumed = Request {
            is_whole: false,
            ..request("GET")
        };
        let decided = policy().decide(consumed, failure, 0.0);
        assert_eq!(decided, Decision::Stop(Stop::Consumed));
        let answered = Request {
            is_answered: true,
            ..request("GET")
        };
        let decided = policy().decide(answered, failure, 0.0);
        assert_eq!(decided, Decision::Stop(Stop::Answered));
    }
}

#[test]
fn attempts_and_delays() {
    let after = |attempts, random| {
        let request = Request {
            attempts,
            ..request("GET")
        };
        policy().decide(request, Failure::Broken, random)
    };
    let millis = |n| Decision::Again(Duration::from_millis(n));
    assert_eq!(after(1, 0.0), millis(100));
    assert_eq!(after(1, 1.0), millis(150));
    assert_eq!(after(2, 0.0), millis(200));
    assert_eq!(after(3, 0.0), Decision::Stop(Stop::Attempts));
    let many = Policy {
        attempts: 100,
        ..policy()
    };
    let late = Request {
        attempts: 90,
        ..request("GET")
    };
    assert_eq!(many.decide(late, Failure::Broken, 0.0), millis(1000));
    let never = Policy {
        attempts: 0,
        ..policy()
    };
    let decided = never.decide(request("GET"), Failure::NotConnected, 0.0);
    assert_eq!(decided, Decision::Stop(Stop::Attempts));
}

#[test]
fn not_longer_than_the_request_may_take() {
    let left = |millis| Request {
        time_left: Some(Duration::from_millis(millis)),
        ..request("GET")
    };
    let decided = |millis| policy().decide(left(millis), Failure::Broken, 0.0);
    assert_eq!(decided(100), Decision::Stop(Stop::Time));
    assert_eq!(decided(101), Decision::Again(Duration::from_millis(100)));
}

#[test]
fn a_budget_is_a_part_of_what_is_in_flight() {
    let budget = Arc::new(Budget::new(20, 1));
    let first = budget.retry();
    assert!(first.is_some() && budget.retry().is_none(), "always one");
    let requests: Vec<_> = (0..50).map(|_| budget.begin()).collect();
    let retries: Vec<_> = (0..50).filter_map(|_| budget.retry()).collect();
    assert_eq!(retries.len() + 1, 10);
    drop(retries);
    assert!(budget.retry().is_some());
    drop(requests);
    assert!(budget.retry().is_none(), "the first is still under way");
    drop(first);
    assert!(budget.retry().is_some());
}

proptest! {
    #[test]
    fn never_what_is_unsafe_and_never_for_ever(
        method in prop::sample::select(vec!["GET", "POST", "PUT", "PATCH"]),
        is_whole in any::<bool>(),
        is_answered in any::<bool>(),
        attempts in 1u32..200,
        limit in 0u32..20,
        failure in prop::sample::select(FAILURES.to_vec()),
        left in prop::option::of(0u64..3000),
        random in 0.0f64..1.0,
    ) {
        let policy = Policy { attempts: limit, ..policy() };
        let time_left = left.map(Duration::from_millis);
        let request = Request { method, is_whole, is_answered, attempts, time_left };
        if let Decision::Again(delay) = policy.decide(request, failure, random) {
            prop_assert!(is_whole && !is_answered && attempts <= limit);
            let is_unseen = matches!(failure, Failure::NotConnected | Failure::NotProcessed);
            prop_assert!(is_unseen || failure == Failure::Status(503) || ["GET", "PUT"].contains(&method));
            prop_assert!(time_left.is_none_or(|left| delay < left));
            prop_assert!(delay >= policy.back_off && delay <= policy.back_off * 15);
        }
    }
}
