//! The protocol, and what becomes of requests when Redis is not there, hangs, or comes back. What
//! the script counts is shown with a real Redis by the end-to-end tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent_model::gateway::{BackendTls, SecretKey, TrustedRoots, VerifiedTls};
use agent_policy::rate::Rate;
use proptest::prelude::*;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;
use crate::tests::authority::Authority;

#[test]
fn answers_are_read_piece_by_piece() {
    let list = |items: &[i64]| Reply::List(items.iter().map(|n| Reply::Number(*n)).collect());
    let cases: [(&[u8], Reply); 8] = [
        (b"+OK\r\n", Reply::Text("OK".into())),
        (b"-NOSCRIPT no\r\n", Reply::Error("NOSCRIPT no".into())),
        (b":-42\r\n", Reply::Number(-42)),
        (b"$4\r\na\r\nb\r\n", Reply::Text("a\r\nb".into())),
        (b"$0\r\n\r\n", Reply::Text(String::new())),
        (b"$-1\r\n", Reply::Nil),
        (b"*-1\r\n", Reply::Nil),
        (b"*2\r\n:1\r\n:250000\r\n", list(&[1, 250_000])),
    ];
    for (bytes, expected) in cases {
        for end in 0..bytes.len() {
            assert_eq!(reply::parse(&bytes[..end]).unwrap(), None, "{expected:?}");
        }
        let more = [bytes, b":7\r\n"].concat();
        let (found, length) = reply::parse(&more).unwrap().unwrap();
        assert_eq!((found, length), (expected, bytes.len()));
    }
    let bad: [&[u8]; 6] = [
        b"HTTP/1.1 400\r\n",
        b"\r\n",
        b":many\r\n",
        b"$1\r\nabc",
        b"*17\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
    ];
    for bytes in bad {
        assert!(reply::parse(bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

proptest! {
    #[test]
    fn nothing_that_is_sent_harms(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = reply::parse(&bytes);
    }
}

#[test]
fn a_rate_in_the_numbers_of_the_script() {
    let rate = |requests, burst| Rate {
        requests,
        per: Duration::from_secs(1),
        burst,
    };
    assert_eq!(Gcra::new(rate(0, 1)), None);
    let gcra = Gcra::new(rate(10, 5)).unwrap();
    assert_eq!(gcra.arguments(), b"100000 500000");
    let answer = |numbers: [i64; 2]| Reply::List(numbers.map(Reply::Number).into());
    let passed = gcra.counted(&answer([1, 200_000])).unwrap();
    assert!(passed.is_allowed && passed.retry_after.is_zero());
    assert_eq!(passed.remaining, 3);
    let refused = gcra.counted(&answer([0, 450_000])).unwrap();
    assert!(!refused.is_allowed);
    assert_eq!(refused.retry_after, Duration::from_millis(50));
    assert_eq!(gcra.counted(&Reply::Nil), None);
    assert_eq!(gcra.counted(&answer([1, -1])), None);
}

/// What a stand-in does with its connections.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Fine,
    Hangs,
    Refuses,
}

/// Answers as a Redis that lets everything pass; counts what it was asked.
async fn stand_in(mood: Mood) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            spawn_local(serve(stream, mood, Arc::clone(&counter)));
        }
    });
    (address, asked)
}

async fn serve(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    mood: Mood,
    asked: Arc<AtomicUsize>,
) {
    let mut read = Vec::new();
    while stream
        .read_buf(&mut read)
        .await
        .is_ok_and(|length| length > 0)
    {
        // Commands have the form of answers, but are longer.
        while let Some((Reply::List(command), length)) = reply::parse(&read).unwrap() {
            read.drain(..length);
            asked.fetch_add(1, Ordering::Relaxed);
            let Some(Reply::Text(verb)) = command.first() else {
                panic!("{command:?}");
            };
            let answer: &[u8] = match (mood, verb.as_str()) {
                (Mood::Hangs, _) => continue,
                (_, "AUTH") => {
                    let parts: Vec<_> = command[1..].iter().collect();
                    let expected = ["gate", "hidden"].map(|text| Reply::Text(text.to_owned()));
                    assert_eq!(parts, expected.iter().collect::<Vec<_>>());
                    b"+OK\r\n"
                }
                (_, "SCRIPT") => b"$3\r\nabc\r\n",
                (Mood::Refuses, _) => b"-OOM no room\r\n",
                _ => b"*2\r\n:1\r\n:1000\r\n",
            };
            stream.write_all(answer).await.unwrap();
        }
    }
}

fn redis(address: SocketAddr) -> Redis {
    Redis {
        address: address.to_string().into(),
        tls: None,
        login: None,
        // Long enough for a machine that does much else.
        timeout: Duration::from_secs(30),
    }
}

fn gcra() -> Gcra {
    let rate = Rate {
        requests: 10,
        per: Duration::from_secs(1),
        burst: 10,
    };
    Gcra::new(rate).unwrap()
}

async fn ask(redises: &Redises, redis: &Redis) -> Result<bool, Gone> {
    let counted = redises.count(redis, b"k".to_vec(), gcra()).await?;
    Ok(counted.is_allowed)
}

#[tokio::test]
async fn requests_share_a_connection_and_are_one_round_trip() {
    let test = async {
        let (address, asked) = stand_in(Mood::Fine).await;
        let redises = Redises::default();
        let redis = Redis {
            login: Some(RedisLogin {
                user: Some("gate".into()),
                password: SecretKey::new("hidden".to_owned()),
            }),
            ..redis(address)
        };
        let together = (0..50).map(|_| ask(&redises, &redis));
        let answers = futures_util::future::join_all(together).await;
        assert!(answers.iter().all(|answer| *answer == Ok(true)));
        assert_eq!(
            asked.load(Ordering::Relaxed),
            52,
            "with a login and a script"
        );
        redises.sweep(Instant::now() + UNUSED);
        assert!(redises.0.borrow().is_empty());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn nobody_waits_long_for_one_that_hangs() {
    let test = async {
        let (address, asked) = stand_in(Mood::Hangs).await;
        let redises = Redises::default();
        let redis = Redis {
            timeout: Duration::from_millis(300),
            ..redis(address)
        };
        const CALLS: u32 = 200;
        let began = Instant::now();
        for _ in 0..CALLS {
            assert_eq!(ask(&redises, &redis).await, Err(Gone));
        }
        // Once in a while one waits, to see whether it is back.
        assert!(began.elapsed() < redis.timeout * CALLS / 4);
        assert!(asked.load(Ordering::Relaxed) < 50);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn one_that_comes_back_counts_again() {
    let test = async {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let redises = Redises::default();
        let redis = redis(address);
        assert_eq!(ask(&redises, &redis).await, Err(Gone), "nobody is there");
        let listener = TcpListener::bind(address).await.unwrap();
        spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, Mood::Fine, Arc::default()).await;
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while ask(&redises, &redis).await.is_err() {
            assert!(Instant::now() < deadline, "it does not come back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_error_of_redis_is_no_answer() {
    let test = async {
        let (address, _) = stand_in(Mood::Refuses).await;
        let redises = Redises::default();
        assert_eq!(ask(&redises, &redis(address)).await, Err(Gone));
    };
    LocalSet::new().run_until(test).await;
}

/// The same behind TLS, with a certificate of `authority` for `redis.test`.
async fn stand_in_behind_tls(authority: &Authority) -> (SocketAddr, Arc<AtomicUsize>) {
    let config = authority.server(&["redis.test"], &rustls::version::TLS13, &[], None);
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counter) = (acceptor.clone(), Arc::clone(&counter));
            spawn_local(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, Mood::Fine, counter).await;
                }
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn one_that_cannot_prove_its_name_is_told_nothing() {
    let test = async {
        let (ours, other) = (Authority::new(), Authority::new());
        let (address, asked) = stand_in_behind_tls(&ours).await;
        let behind_tls = |tls| Redis {
            tls: Some(tls),
            login: Some(RedisLogin {
                user: Some("gate".into()),
                password: SecretKey::new("hidden".to_owned()),
            }),
            ..redis(address)
        };
        let verified = |hostname: &str, authority: &Authority| {
            BackendTls::Verified(VerifiedTls {
                hostname: hostname.into(),
                roots: TrustedRoots::Certificates(authority.root.pem().into()),
                subject_alt_names: Vec::new(),
            })
        };
        let redises = Redises::default();
        for wrong in [
            verified("redis.test", &other),
            verified("other.test", &ours),
            BackendTls::Invalid("there is no such ConfigMap".into()),
        ] {
            assert_eq!(ask(&redises, &behind_tls(wrong)).await, Err(Gone));
        }
        // Nor in the clear.
        let plain = Redis {
            timeout: Duration::from_millis(300),
            ..redis(address)
        };
        assert_eq!(ask(&redises, &plain).await, Err(Gone));
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        let right = behind_tls(verified("redis.test", &ours));
        assert_eq!(ask(&redises, &right).await, Ok(true));
        assert_eq!(asked.load(Ordering::Relaxed), 3, "login, script, call");
    };
    LocalSet::new().run_until(test).await;
}
