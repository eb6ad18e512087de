//! Bytes, ends and resets of one stream.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IoSlice};
use std::rc::Rc;
use std::time::Duration;

use agent_net::flow::{FlowRead, FlowWrite};
use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::harness::*;
use crate::server::IncomingRequest;
use crate::{TunnelIo, TunnelStream};

const SHORT: Duration = Duration::from_millis(200);

/// A server that accepts every stream and puts it aside.
async fn shelf() -> (Server, Rc<RefCell<Vec<TunnelStream>>>) {
    let shelf: Rc<RefCell<Vec<TunnelStream>>> = Rc::default();
    let put = Rc::clone(&shelf);
    let server = Server::start(move |request: IncomingRequest| {
        put.borrow_mut().push(request.accept(None).unwrap());
    })
    .await;
    (server, shelf)
}

async fn pair() -> (Server, crate::Pool, TunnelStream, TunnelStream) {
    let (server, shelf) = shelf().await;
    let pool = pool();
    let near = server.open(&pool).await.unwrap();
    let far = shelf.borrow_mut().pop().unwrap();
    (server, pool, near, far)
}

async fn next(stream: &mut TunnelStream) -> std::io::Result<Option<Bytes>> {
    let result = timeout(Duration::from_secs(5), stream.read.read(usize::MAX)).await;
    result.expect("nothing arrives")
}

#[test]
fn half_close_in_both_directions() {
    worker(async {
        let (_server, _pool, mut near, mut far) = pair().await;
        near.write
            .write(Bytes::from_static(b"question"))
            .await
            .unwrap();
        near.write.finish().await.unwrap();
        assert_eq!(next(&mut far).await.unwrap().unwrap(), "question");
        assert_eq!(next(&mut far).await.unwrap(), None);
        far.write
            .write(Bytes::from_static(b"answer"))
            .await
            .unwrap();
        far.write.finish().await.unwrap();
        assert_eq!(next(&mut near).await.unwrap().unwrap(), "answer");
        assert_eq!(next(&mut near).await.unwrap(), None);

        // And the other way: the server ends first.
        let (_server, _pool, mut near, mut far) = pair().await;
        far.write
            .write(Bytes::from_static(b"banner"))
            .await
            .unwrap();
        far.write.finish().await.unwrap();
        assert_eq!(next(&mut near).await.unwrap().unwrap(), "banner");
        assert_eq!(next(&mut near).await.unwrap(), None);
        near.write.write(Bytes::from_static(b"late")).await.unwrap();
        near.write.finish().await.unwrap();
        assert_eq!(next(&mut far).await.unwrap().unwrap(), "late");
        assert_eq!(next(&mut far).await.unwrap(), None);
    });
}

#[test]
fn slices_that_are_written_together_arrive_together() {
    worker(async {
        let (_server, _pool, near, mut far) = pair().await;
        let most = near.write.max_chunk();
        let mut near = TunnelIo::new(near);
        assert!(near.is_write_vectored());
        let slices = [&b"head"[..], b"", b" and body"].map(IoSlice::new);
        assert_eq!(near.write_vectored(&slices).await.unwrap(), 13);
        assert_eq!(next(&mut far).await.unwrap().unwrap(), "head and body");
        // Of what is more than a chunk, the beginning.
        let long = vec![b'x'; most];
        let slices = [&b"head"[..], &long].map(IoSlice::new);
        let written = near.write_vectored(&slices).await.unwrap();
        assert!((5..=most).contains(&written), "{written}");
        near.shutdown().await.unwrap();
        let mut received = Vec::new();
        while let Some(chunk) = next(&mut far).await.unwrap() {
            far.read.release(chunk.len());
            received.extend_from_slice(&chunk);
        }
        assert!(received == [&b"head"[..], &long].concat()[..written]);
    });
}

#[test]
fn an_abort_is_a_reset_at_the_other_end() {
    worker(async {
        let (_server, pool, mut near, mut far) = pair().await;
        near.write.abort();
        let error = next(&mut far).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        drop((near, far));

        let (_server2, _pool2, mut near, mut far) = pair().await;
        far.write.abort();
        let error = next(&mut near).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        settle().await;
        assert_eq!(pool.stats().streams, 0);
    });
}

#[test]
fn a_dropped_stream_ends_the_other_end() {
    worker(async {
        let (_server, _pool, near, mut far) = pair().await;
        drop(near);
        assert_eq!(next(&mut far).await.unwrap(), None);
        // CANCEL reads as an end, and writing tells the truth.
        let error = far.write.write(Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn bytes_sent_before_an_end_all_arrive() {
    worker(async {
        let (_server, _pool, mut near, mut far) = pair().await;
        let sender = spawn_local(async move {
            send_pattern(&mut near.write, 700_001).await;
            // Dropped right after its end.
        });
        sender.await.unwrap();
        assert_eq!(receive_pattern(&mut far.read).await, 700_001);
    });
}

#[test]
fn chunks_respect_the_readers_limit() {
    worker(async {
        let (_server, _pool, mut near, mut far) = pair().await;
        near.write
            .write(Bytes::from(vec![7; 10_000]))
            .await
            .unwrap();
        let mut total = 0;
        while total < 10_000 {
            let chunk = far.read.read(999).await.unwrap().unwrap();
            assert!((1..=999).contains(&chunk.len()));
            total += chunk.len();
            far.read.release(chunk.len());
        }
    });
}

#[test]
fn sixty_four_megabytes_both_ways_at_once() {
    const TOTAL: usize = 64 * 1024 * 1024;
    worker(async {
        let (_server, _pool, mut near, mut far) = pair().await;
        let there = spawn_local(async move {
            tokio::join!(
                send_pattern(&mut far.write, TOTAL),
                receive_pattern(&mut far.read)
            )
            .1
        });
        let ((), back) = tokio::join!(
            send_pattern(&mut near.write, TOTAL),
            receive_pattern(&mut near.read)
        );
        assert_eq!(back, TOTAL);
        assert_eq!(there.await.unwrap(), TOTAL);
    });
}

#[test]
fn a_reader_that_stalls_bounds_the_writer_and_nobody_else() {
    worker(async {
        let (server, shelf) = shelf().await;
        let pool = pool();
        let mut near = server.open(&pool).await.unwrap();
        let mut far = shelf.borrow_mut().pop().unwrap();
        let accepted = Rc::new(Cell::new(0));
        let count = Rc::clone(&accepted);
        let writer = spawn_local(async move {
            loop {
                let chunk = Bytes::from(vec![1; 64 * 1024]);
                near.write.write(chunk).await.unwrap();
                count.set(count.get() + 64 * 1024);
            }
        });
        tokio::time::sleep(SHORT).await;
        let stalled = accepted.get();
        let limit = 1024 * 1024 + 512 * 1024 + 64 * 1024;
        assert!((512 * 1024..=limit).contains(&stalled), "{stalled}");
        tokio::time::sleep(SHORT).await;
        assert_eq!(accepted.get(), stalled, "it moves without a reader");

        // Reading without releasing gives the writer no more than what is in flight.
        let mut held = 0;
        while let Ok(Ok(Some(chunk))) = timeout(SHORT, far.read.read(usize::MAX)).await {
            held += chunk.len();
        }
        assert!(held <= 1024 * 1024, "{held}");

        // Another stream of the same tunnel is not affected.
        let mut other = server.open(&pool).await.unwrap();
        assert_eq!(pool.stats().tunnels, 1);
        let mut other_far = shelf.borrow_mut().pop().unwrap();
        let sender = spawn_local(async move { send_pattern(&mut other.write, 3_000_000).await });
        assert_eq!(receive_pattern(&mut other_far.read).await, 3_000_000);
        sender.await.unwrap();

        // Release, and it flows again.
        far.read.release(held);
        let before = accepted.get();
        tokio::time::sleep(SHORT).await;
        assert!(accepted.get() > before);
        writer.abort();
    });
}

#[test]
fn ten_thousand_cancelled_streams_leave_the_tunnel_whole() {
    worker(async {
        let (server, shelf) = shelf().await;
        let pool = pool();
        for round in 0..10_000 {
            let mut near = server.open(&pool).await.unwrap();
            let far = shelf.borrow_mut().pop().unwrap();
            // Some with data under way, some ended by the other side.
            if round % 3 == 0 {
                near.write
                    .write(Bytes::from_static(&[1; 3000]))
                    .await
                    .unwrap();
            }
            if round % 2 == 0 {
                near.write.abort();
            }
            drop((near, far));
        }
        let mut near = server.open(&pool).await.unwrap();
        let mut far = shelf.borrow_mut().pop().unwrap();
        let sender = spawn_local(async move { send_pattern(&mut near.write, 20_000_000).await });
        assert_eq!(receive_pattern(&mut far.read).await, 20_000_000);
        sender.await.unwrap();
    });
}

#[test]
fn chunks_shrink_when_streams_share_a_tunnel() {
    worker(async {
        let (server, _shelf) = shelf().await;
        let pool = pool();
        let first = server.open(&pool).await.unwrap();
        assert_eq!(first.write.max_chunk(), 256 * 1024);
        let second = server.open(&pool).await.unwrap();
        assert_eq!(first.write.max_chunk(), 64 * 1024);
        drop(second);
        assert_eq!(first.write.max_chunk(), 256 * 1024);
    });
}

#[test]
fn a_crashed_server_is_a_lost_tunnel() {
    worker(async {
        let (server, shelf) = shelf().await;
        let pool = pool();
        let mut near = server.open(&pool).await.unwrap();
        let far = shelf.borrow_mut().pop().unwrap();
        server.crash().await;
        let error = next(&mut near).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        let mut far = far;
        assert!(
            far.read.read(1).await.is_err(),
            "the server's stream is lost too"
        );
        drop((near, far));
        settle().await;
        assert_eq!(pool.stats(), crate::PoolStats::default());
    });
}
