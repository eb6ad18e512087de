//! GOAWAY from both ends.

use std::time::Duration;

use agent_model::Reason;
use agent_net::flow::{FlowRead, FlowWrite};
use bytes::Bytes;
use tokio::net::TcpListener;

use super::harness::*;
use crate::{PoolStats, Settings};

#[test]
fn a_draining_server_finishes_its_streams_and_takes_no_more() {
    worker(async {
        let server = Server::start(echo).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        let pool = pool();
        let target = server.target(&client());
        let mut stream = server.open(&pool).await.unwrap();
        ping(&mut stream, "before").await;
        let ends = std::rc::Rc::clone(&server.ends);
        let draining =
            tokio::task::spawn_local(
                async move { server.drain.drain(Duration::from_secs(5)).await },
            );
        settle().await;
        ping(&mut stream, "during").await;
        // The tunnel takes no more: the pool dials, to where nobody listens any more.
        let refused = pool.open(&target, &request(), to(nobody)).await;
        assert_eq!(refused.unwrap_err().reason(), Reason::ConnectRefused);
        stream
            .write
            .write(Bytes::from_static(b"last"))
            .await
            .unwrap();
        stream.write.finish().await.unwrap();
        assert_eq!(stream.read.read(100).await.unwrap().unwrap(), "last");
        assert_eq!(stream.read.read(100).await.unwrap(), None);
        drop(stream);
        settle().await;
        assert!(ends.borrow().iter().any(Result::is_ok), "{ends:?}");
        draining.abort();
        assert_eq!(pool.stats(), PoolStats::default());
    });
}

#[test]
fn after_goaway_the_next_stream_gets_a_new_tunnel() {
    worker(async {
        let first = Server::start(echo).await;
        let second = Server::start(echo).await;
        let pool = pool();
        let target = first.target(&client());
        let mut old = first.open(&pool).await.unwrap();
        let (drain, kept) = (first.drain, first.ends);
        let draining =
            tokio::task::spawn_local(async move { drain.drain(Duration::from_secs(5)).await });
        settle().await;
        // Whoever listens there now: the pool asks for a new connection.
        let mut new = pool
            .open(&target, &request(), to(second.address))
            .await
            .unwrap();
        ping(&mut new, "new").await;
        ping(&mut old, "old").await;
        assert_eq!(kept.borrow().len(), 0);
        draining.abort();
    });
}

#[test]
fn a_drained_pool_says_goodbye_after_its_last_stream() {
    worker(async {
        let server = Server::start(echo).await;
        let pool = pool();
        let mut stream = server.open(&pool).await.unwrap();
        pool.drain();
        ping(&mut stream, "still").await;
        assert_eq!(server.ends.borrow().len(), 0);
        drop(stream);
        assert!(server.ended(1).await[0].is_ok());
        // The pool can be used again.
        server.open(&pool).await.unwrap();
    });
}

#[test]
fn a_server_lets_idle_tunnels_go() {
    worker(async {
        let settings = Settings {
            server_idle: Duration::from_millis(100),
            ping_interval: Duration::from_millis(30),
            ..Settings::default()
        };
        let server = Server::with(certificate("server"), settings, echo).await;
        let pool = pool();
        let mut stream = server.open(&pool).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        ping(&mut stream, "a stream keeps it").await;
        drop(stream);
        assert!(server.ended(1).await[0].is_ok());
        // And the next stream gets a new one.
        let mut stream = server.open(&pool).await.unwrap();
        ping(&mut stream, "hello").await;
    });
}

#[test]
fn who_waits_for_a_dial_when_the_drain_begins_is_served() {
    worker(async {
        let server = Server::start(echo).await;
        let pool = pool();
        let opening = server.open(&pool);
        let draining = async {
            tokio::task::yield_now().await;
            assert_eq!(pool.stats().dials, 1);
            pool.drain();
        };
        let (stream, ()) = tokio::join!(opening, draining);
        let mut stream = stream.unwrap();
        ping(&mut stream, "still").await;
        drop(stream);
        assert!(server.ended(1).await[0].is_ok());
    });
}

/// The peer hands over to its successor at the moment in which the tunnel is made.
#[test]
fn a_new_peer_hears_goodbye_only_after_its_first_request() {
    worker(async {
        let server = Server::start(echo).await;
        let ends = std::rc::Rc::clone(&server.ends);
        let pool = pool();
        let target = server.target(&client());
        let address = server.address;
        let draining =
            tokio::task::spawn_local(
                async move { server.drain.drain(Duration::from_secs(5)).await },
            );
        let mut stream = pool.open(&target, &request(), to(address)).await.unwrap();
        settle().await;
        ping(&mut stream, "served").await;
        drop(stream);
        settle().await;
        assert!(ends.borrow().iter().any(Result::is_ok), "{ends:?}");
        draining.abort();
    });
}
