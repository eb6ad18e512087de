//! Which streams share which tunnels, and for how long.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agent_identity::{Authority, CaClient, Certificates, IssueFuture};
use agent_model::{Identity, Reason};
use agent_net::NetnsCookie;
use agent_net::flow::FlowRead;
use proptest::prelude::*;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::harness::*;
use crate::{HboneError, Pool, PoolStats, Settings, Target};

/// A dial that counts.
fn counted(
    address: SocketAddr,
    count: &Rc<Cell<usize>>,
) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<TcpStream>>>> + use<> {
    let (dial, count) = (to(address), Rc::clone(count));
    move || {
        count.set(count.get() + 1);
        dial()
    }
}

#[test]
fn concurrent_callers_share_one_dial() {
    worker(async {
        let server = Server::start(echo).await;
        let (pool, target) = (pool(), server.target(&client()));
        let dials = Rc::new(Cell::new(0));
        let mut tasks = Vec::new();
        for n in 0..50 {
            let (pool, target, dial) = (
                pool.clone(),
                target.clone(),
                counted(server.address, &dials),
            );
            tasks.push(spawn_local(async move {
                let mut stream = pool.open(&target, &request(), dial).await.unwrap();
                ping(&mut stream, &format!("stream {n}")).await;
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(pool.stats().tunnels, 1);
        // A dial that was not needed is never polled, but it is asked for.
        assert_eq!(pool.stats().dials, 0);
    });
}

#[test]
fn a_failed_dial_fails_all_its_callers_alike() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        let target = Target::new(POD, client(), nobody, vec![identity("server")]);
        let pool = pool();
        let request = request();
        let open = || pool.open(&target, &request, to(nobody));
        let (a, b, c) = tokio::join!(open(), open(), open());
        for result in [a, b, c] {
            let error = result.unwrap_err();
            assert_eq!(error.reason(), Reason::ConnectRefused);
            assert!(error.is_unreachable());
        }
        assert_eq!(pool.stats(), PoolStats::default());
    });
}

#[test]
fn three_hundred_streams_take_several_tunnels() {
    worker(async {
        let server = Server::start(echo).await;
        let pool = pool();
        let all: Rc<RefCell<Vec<_>>> = Rc::default();
        let address = server.address;
        let target = server.target(&client());
        let opens = (0..300).map(|_| {
            let (pool, target, all) = (pool.clone(), target.clone(), Rc::clone(&all));
            spawn_local(async move {
                let stream = pool.open(&target, &request(), to(address)).await.unwrap();
                all.borrow_mut().push(stream);
            })
        });
        for open in opens.collect::<Vec<_>>() {
            open.await.unwrap();
        }
        let stats = pool.stats();
        assert_eq!((stats.keys, stats.tunnels, stats.streams), (1, 3, 300));
        let streams = std::mem::take(&mut *all.borrow_mut());
        let pings = streams.into_iter().enumerate().map(|(n, mut stream)| {
            spawn_local(async move { ping(&mut stream, &format!("{n}").repeat(500)).await })
        });
        for ping in pings.collect::<Vec<_>>() {
            ping.await.unwrap();
        }
        settle().await;
        assert_eq!(pool.stats().streams, 0);
    });
}

#[test]
fn tunnels_to_one_peer_are_bounded() {
    worker(async {
        let server = Server::start(echo).await;
        let pool = pool_with(Settings {
            pool_streams: 2,
            pool_tunnels: 2,
            ..Settings::default()
        });
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(server.open(&pool).await.unwrap());
        }
        let error = server.open(&pool).await.unwrap_err();
        assert_eq!(error.reason(), Reason::LimitExceeded);
        streams.pop();
        server.open(&pool).await.unwrap();
    });
}

#[test]
fn idle_tunnels_are_released_with_their_keys() {
    worker(async {
        let server = Server::start(echo).await;
        let pool = pool_with(Settings {
            idle_release: Duration::from_millis(100),
            ping_interval: Duration::from_millis(30),
            ..Settings::default()
        });
        let mut stream = server.open(&pool).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        ping(&mut stream, "a stream keeps it").await;
        drop(stream);
        let ends = server.ended(1).await;
        assert!(ends[0].is_ok(), "a polite end: {ends:?}");
        settle().await;
        assert_eq!(pool.stats(), PoolStats::default());
    });
}

#[test]
fn a_stale_tunnel_is_replaced_without_the_caller_noticing() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let std_listener = listener.into_std().unwrap();
        let again = std_listener.try_clone().unwrap();
        let on = |std: std::net::TcpListener| {
            let listener = TcpListener::from_std(std).unwrap();
            Server::on(listener, certificate("server"), Settings::default(), echo)
        };
        let first = on(std_listener);
        let pool = pool();
        let target = first.target(&client());
        drop(pool.open(&target, &request(), to(address)).await.unwrap());
        // The connections die without a word while the pool's tasks do not run.
        first.crash_now();
        let _second = on(again);
        let mut stream = pool.open(&target, &request(), to(address)).await.unwrap();
        ping(&mut stream, "hello again").await;
    });
}

#[test]
fn a_peer_that_answers_no_ping_is_lost() {
    worker(async {
        let settings = Settings {
            ping_interval: Duration::from_millis(50),
            ping_timeout: Duration::from_millis(100),
            ..Settings::default()
        };
        let server = Server::start(echo).await;
        let frozen = Freezer::before(server.address).await;
        let pool = pool_with(settings);
        let target = Target::new(POD, client(), frozen.address, vec![identity("server")]);
        let mut stream = pool
            .open(&target, &request(), to(frozen.address))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        ping(&mut stream, "answered PINGs keep it").await;
        frozen.freeze();
        let start = Instant::now();
        let error = stream.read.read(1).await.unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionAborted,
            "{error}"
        );
        assert!(start.elapsed() < Duration::from_millis(1000));
        settle().await;
        assert_eq!(pool.stats().tunnels, 0);
    });
}

#[test]
fn a_server_drops_a_client_that_answers_no_ping() {
    worker(async {
        let settings = Settings {
            ping_interval: Duration::from_millis(50),
            ping_timeout: Duration::from_millis(100),
            ..Settings::default()
        };
        let server = Server::with(certificate("server"), settings, echo).await;
        let frozen = Freezer::before(server.address).await;
        let pool = pool();
        let target = Target::new(POD, client(), frozen.address, vec![identity("server")]);
        let _stream = pool
            .open(&target, &request(), to(frozen.address))
            .await
            .unwrap();
        frozen.freeze();
        let ends = server.ended(1).await;
        assert!(
            matches!(ends[0], Err(HboneError::Timeout(crate::Phase::Ping))),
            "{ends:?}"
        );
    });
}

/// A TCP relay that can stop relaying without closing anything.
struct Freezer {
    address: SocketAddr,
    frozen: Rc<Cell<bool>>,
}

impl Freezer {
    async fn before(server: SocketAddr) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let frozen = Rc::new(Cell::new(false));
        let relay = |frozen: Rc<Cell<bool>>,
                     mut from: tokio::net::tcp::OwnedReadHalf,
                     mut to: tokio::net::tcp::OwnedWriteHalf| async move {
            let mut buffer = [0; 4096];
            loop {
                match from.read(&mut buffer).await {
                    Ok(n) if n > 0 => {
                        if frozen.get() {
                            std::future::pending::<()>().await;
                        }
                        to.write_all(&buffer[..n]).await.unwrap();
                    }
                    _ => return,
                }
            }
        };
        let flag = Rc::clone(&frozen);
        spawn_local(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(server).await.unwrap();
                let ((nr, nw), (fr, fw)) = (near.into_split(), far.into_split());
                spawn_local(relay(Rc::clone(&flag), nr, fw));
                spawn_local(relay(Rc::clone(&flag), fr, nw));
            }
        });
        Self { address, frozen }
    }

    fn freeze(&self) {
        self.frozen.set(true);
    }
}

#[test]
fn the_tunnels_of_a_removed_pod_end() {
    worker(async {
        let server = Server::start(echo).await;
        let pool = pool_with(Settings {
            removal_grace: Duration::from_millis(150),
            ..Settings::default()
        });
        let mut mine = server.open(&pool).await.unwrap();
        let other = Target::new(
            NetnsCookie(8),
            client(),
            server.address,
            vec![identity("server")],
        );
        let mut others = pool
            .open(&other, &request(), to(server.address))
            .await
            .unwrap();
        assert_eq!(pool.stats().tunnels, 2, "pods share no tunnel");
        pool.drop_source(POD);
        ping(&mut mine, "within the grace").await;
        let error = mine.read.read(1).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        ping(&mut others, "not concerned").await;
        settle().await;
        assert_eq!(pool.stats().tunnels, 1);
    });
}

#[test]
fn dials_of_a_removed_pod_fail() {
    worker(async {
        let pool = pool();
        let target = Target::new(
            POD,
            client(),
            "127.0.0.1:1".parse().unwrap(),
            vec![identity("server")],
        );
        let opening = {
            let pool = pool.clone();
            spawn_local(async move {
                pool.open(&target, &request(), std::future::pending)
                    .await
                    .map(drop)
            })
        };
        settle().await;
        assert_eq!(pool.stats().dials, 1);
        pool.drop_source(POD);
        let error = opening.await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Reason::PodRemoved);
    });
}

#[test]
fn a_new_certificate_gets_new_tunnels_and_the_old_run_dry() {
    worker(async {
        let server = Server::start(echo).await;
        let pool = pool();
        let (old, new) = (certificate("client"), certificate("client"));
        let open = |certificate: &Arc<_>| {
            let (pool, target) = (pool.clone(), server.target(certificate));
            let dial = to(server.address);
            async move { pool.open(&target, &request(), dial).await.unwrap() }
        };
        let mut first = open(&old).await;
        let mut second = open(&new).await;
        assert_eq!(pool.stats().tunnels, 2);
        ping(&mut first, "the old one lives on").await;
        ping(&mut second, "beside the new one").await;
        assert_eq!(server.ends.borrow().len(), 0);
        drop(first);
        // No idle time: superseded tunnels end with their last stream.
        assert!(server.ended(1).await[0].is_ok());
        settle().await;
        assert_eq!(pool.stats().tunnels, 1);
    });
}

/// The authority of every test here, asked as a service.
struct Mesh;

impl CaClient for Mesh {
    fn issue<'a>(
        &'a self,
        identity: &'a Identity,
        csr_pem: &'a str,
        ttl: Duration,
    ) -> IssueFuture<'a> {
        Box::pin(async move { mesh().sign(csr_pem, identity, ttl, SystemTime::now()) })
    }
}

#[test]
fn f_25_a_tunnel_to_a_server_of_a_withdrawn_root_takes_no_new_stream() {
    worker(async {
        let control = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handle = control.handle().clone();
        std::thread::spawn(move || control.block_on(std::future::pending::<()>()));
        let certificates = Certificates::new(Arc::new(Mesh), handle, HOUR);
        let server = Server::start(echo).await;
        let pool = pool();
        let open = async || {
            let own = certificates.get(&identity("client")).await.unwrap();
            let dial = to(server.address);
            pool.open(&server.target(&own), &request(), dial).await
        };
        let mut before = open().await.unwrap();
        let next = Authority::in_memory("cluster.local", SystemTime::now()).unwrap();
        // Both are trusted: who is verified by either is served.
        let both = mesh().bundle().with(next.bundle().roots());
        certificates.trust(&both);
        let mut meanwhile = open().await.unwrap();
        ping(&mut meanwhile, "under both").await;
        // The server has still a leaf of the old one.
        certificates.trust(&next.bundle());
        open().await.unwrap_err();
        ping(&mut before, "what was open goes on").await;
        certificates.trust(&both);
        let mut again = open().await.unwrap();
        ping(&mut again, "under both again").await;
    });
}

#[test]
fn f_27_a_tunnel_to_a_revoked_peer_ends_with_its_streams() {
    worker(async {
        let server = Server::start(echo).await;
        let (pool, revoked) = revoking_pool();
        let mut stream = server.open(&pool).await.unwrap();
        ping(&mut stream, "before").await;
        revoked.replace(Some(identity("other")));
        assert_eq!(pool.drop_revoked(), 0);
        ping(&mut stream, "others are revoked").await;
        revoked.replace(Some(identity("server")));
        assert_eq!(pool.drop_revoked(), 1);
        let end = tokio::time::timeout(Duration::from_secs(5), stream.read.read(usize::MAX));
        assert!(end.await.expect("the stream lives on").is_err());
        settle().await;
        assert_eq!(pool.stats().tunnels, 0);
    });
}

/// The list comes while the client dials, and verifies the peer by the lists that it began with.
#[test]
fn f_27_a_dial_under_way_finds_its_peer_revoked() {
    worker(async {
        let requests = Rc::new(Cell::new(0));
        let count = Rc::clone(&requests);
        let serve = move |request| {
            count.set(count.get() + 1);
            echo(request);
        };
        let server = Server::start(serve).await;
        let (pool, revoked) = revoking_pool();
        let (began, go) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let waiters = [(); 2].map(|()| {
            let (began, go, connect) = (Rc::clone(&began), Rc::clone(&go), to(server.address));
            let (pool, target) = (pool.clone(), server.target(&client()));
            spawn_local(async move {
                let dial = || {
                    let (began, go, tcp) = (Rc::clone(&began), Rc::clone(&go), connect());
                    async move {
                        began.notify_one();
                        go.notified().await;
                        tcp.await
                    }
                };
                pool.open(&target, &request(), dial).await.err()
            })
        });
        began.notified().await;
        revoked.replace(Some(identity("server")));
        assert_eq!(pool.drop_revoked(), 0, "there is no tunnel to drop yet");
        go.notify_one();
        for waiter in waiters {
            let error = waiter.await.unwrap().expect("served by a revoked peer");
            assert_eq!(error.reason(), Reason::PeerRevoked, "{error}");
        }
        assert_eq!(pool.stats(), PoolStats::default());
        server.ended(1).await;
        assert_eq!(requests.get(), 0, "asked a revoked peer");
        revoked.replace(None);
        let mut stream = server.open(&pool).await.unwrap();
        ping(&mut stream, "off the list again").await;
    });
}

/// A pool and whom it takes for revoked.
fn revoking_pool() -> (Pool, Rc<RefCell<Option<Identity>>>) {
    let revoked: Rc<RefCell<Option<Identity>>> = Rc::default();
    let known = Rc::clone(&revoked);
    // The peer showed its leaf and was verified by it.
    let is_revoked = move |chain: &[rustls::pki_types::CertificateDer<'_>]| {
        let revoked = known.borrow();
        revoked.is_some() && agent_identity::spiffe_identity(&chain[0]) == *revoked
    };
    (Pool::new(Settings::default(), is_revoked), revoked)
}

#[test]
fn certificates_renewed_under_use_fail_no_stream() {
    worker(async {
        let authority = Arc::new(Authority::in_memory("cluster.local", SystemTime::now()).unwrap());
        // The CA has a thread of its own, as in the agent.
        let control = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let certificates =
            Certificates::new(authority, control.handle().clone(), Duration::from_secs(2));
        std::thread::spawn(move || control.block_on(std::future::pending::<()>()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let servers = certificates.clone();
        spawn_local(async move {
            let (_drain, watcher) = agent_net::drain::channel();
            let settings = Rc::new(Settings::default());
            while let Ok((tcp, _)) = listener.accept().await {
                let (servers, mut watcher) = (servers.clone(), watcher.clone());
                let settings = Rc::clone(&settings);
                spawn_local(async move {
                    let own = servers.get(&identity("server")).await.unwrap();
                    let config = agent_identity::server_config(&own).unwrap();
                    let connection = crate::server::accept(tcp, config, settings).await.unwrap();
                    let _ = connection.serve(echo, watcher.signalled()).await;
                });
            }
        });
        let pool = pool();
        let mut generations = std::collections::BTreeSet::new();
        let mut long_lived = None;
        let start = Instant::now();
        let mut streams = 0;
        while start.elapsed() < Duration::from_secs(6) {
            let own = certificates.get(&identity("client")).await.unwrap();
            generations.insert(own.generation());
            let target = Target::new(POD, own, address, vec![identity("server")]);
            let mut stream = pool.open(&target, &request(), to(address)).await.unwrap();
            ping(&mut stream, "hello").await;
            streams += 1;
            long_lived.get_or_insert(stream);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ping(long_lived.as_mut().unwrap(), "outlived its certificate").await;
        assert!(streams > 100, "{streams}");
        assert!(generations.len() >= 4, "{generations:?}");
        settle().await;
        assert!(pool.stats().tunnels <= 2, "{:?}", pool.stats());
    });
}

#[test]
fn opening_from_outside_changes_no_counts_when_given_up() {
    worker(async {
        let server = Server::start(echo).await;
        let pool = pool();
        for _ in 0..20 {
            let open = server.open(&pool);
            let _ = tokio::time::timeout(Duration::from_micros(300), open).await;
        }
        // The dials go on for whoever comes next.
        let mut stream = server.open(&pool).await.unwrap();
        ping(&mut stream, "hello").await;
        drop(stream);
        settle().await;
        assert_eq!(pool.stats().streams, 0);
        assert_eq!(pool.stats().dials, 0);
    });
}

fn accounts() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..4, 0..5)
}

proptest! {
    #[test]
    fn keys_are_equal_exactly_when_everything_that_matters_is(
        a in (0u64..2, 0u16..2, accounts()),
        b in (0u64..2, 0u16..2, accounts()),
        renewed in any::<bool>(),
    ) {
        let own = client();
        let other = if renewed { certificate("client") } else { client() };
        let key = |(source, port, accounts): &(u64, u16, Vec<u8>), certificate: &Arc<_>| {
            let expected = accounts.iter().map(|n| identity(&format!("sa-{n}"))).collect();
            let peer = ([10, 0, 0, 1], 15008 + port).into();
            Target::new(NetnsCookie(*source), Arc::clone(certificate), peer, expected)
        };
        let set = |accounts: &Vec<u8>| accounts.iter().copied().collect::<std::collections::BTreeSet<_>>();
        let same = a.0 == b.0 && a.1 == b.1 && set(&a.2) == set(&b.2) && !renewed;
        prop_assert_eq!(key(&a, &own).same_tunnels(&key(&b, &other)), same);
    }
}
