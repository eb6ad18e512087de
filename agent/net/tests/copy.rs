//! The copy loop between real loopback sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::rc::Rc;

use agent_net::copy::{Counters, End, Ending, Side, bidirectional, farewell};
use agent_net::flow::{TcpReader, TcpWriter, split};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (near.unwrap(), far.unwrap().0)
}

fn end(stream: TcpStream) -> End<TcpReader, TcpWriter> {
    let (read, write) = split(stream);
    End { read, write }
}

/// A client and a server with the copy loop between them.
async fn relayed() -> (TcpStream, TcpStream, tokio::task::JoinHandle<RelayResult>) {
    let (client, from_client) = pair().await;
    let (to_server, server) = pair().await;
    let relay = tokio::task::spawn_local(async move {
        let counters = Rc::new(Counters::default());
        let (mut client, mut server) = (end(from_client), end(to_server));
        let result = bidirectional(&mut client, &mut server, &counters, &Ending::default()).await;
        (
            result.map_err(|error| error.side),
            counters.forward.get(),
            counters.backward.get(),
        )
    });
    (client, server, relay)
}

type RelayResult = (Result<(), Side>, u64, u64);

fn on_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn half_close_leaves_the_other_direction_open() {
    on_worker(async {
        let (mut client, mut server, relay) = relayed().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");

        let answer = vec![7u8; 5 << 20];
        let sent = answer.clone();
        let writer = tokio::task::spawn_local(async move {
            server.write_all(&sent).await.unwrap();
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        writer.await.unwrap();
        assert!(received == answer, "{} bytes", received.len());
        assert_eq!(relay.await.unwrap(), (Ok(()), 8, 5 << 20));
    });
}

#[test]
fn a_reset_of_one_end_resets_the_other() {
    on_worker(async {
        let (client, mut server, relay) = relayed().await;
        socket2::SockRef::from(&client)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        drop(client);
        let error = server.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(relay.await.unwrap().0, Err(Side::Client));
    });
}

#[test]
fn a_slow_reader_holds_the_sender_back() {
    on_worker(async {
        let (mut client, server, _relay) = relayed().await;
        let chunk = vec![0u8; 1 << 20];
        let mut sent = 0usize;
        let flood = async {
            loop {
                client.write_all(&chunk).await.unwrap();
                sent += chunk.len();
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), flood).await;
        // Four socket buffers and one chunk lie between the ends, no more.
        assert!(sent < 64 << 20, "{sent} bytes accepted with nobody reading");
        drop(server);
    });
}

/// What the agent's sockets hold when a flow is asked to end reaches both applications, and both
/// see a clean end.
#[test]
fn a_flow_that_is_asked_to_end_delivers_what_has_arrived() {
    on_worker(async {
        let (mut client, from_client) = pair().await;
        let (to_server, mut server) = pair().await;
        client.write_all(&[1; 100_000]).await.unwrap();
        server.write_all(&[2; 100_000]).await.unwrap();
        // Loopback delivers in the call.
        from_client.readable().await.unwrap();
        to_server.readable().await.unwrap();
        let (mut near, mut far) = (end(from_client), end(to_server));
        let (counters, ending) = (Counters::default(), Ending::default());
        ending.end_forward();
        ending.end_backward();
        bidirectional(&mut near, &mut far, &counters, &ending)
            .await
            .unwrap();
        assert_eq!(
            (counters.forward.get(), counters.backward.get()),
            (100_000, 100_000)
        );
        // What comes too late does not turn the clean end into a reset.
        client.write_all(b"too late").await.unwrap();
        let applications = async {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            server.read_to_end(&mut up).await.unwrap();
            client.read_to_end(&mut down).await.unwrap();
            assert_eq!((up, down), (vec![1; 100_000], vec![2; 100_000]));
            drop((client, server));
        };
        tokio::join!(farewell(&mut near, &mut far), applications);
    });
}

/// Only the direction that is asked ends: the answer still comes back.
#[test]
fn one_direction_ends_and_the_other_goes_on() {
    on_worker(async {
        let (mut client, from_client) = pair().await;
        let (to_server, mut server) = pair().await;
        client.write_all(b"question").await.unwrap();
        from_client.readable().await.unwrap();
        let (mut near, mut far) = (end(from_client), end(to_server));
        let (counters, ending) = (Counters::default(), Ending::default());
        ending.end_forward();
        let applications = async {
            let mut question = String::new();
            server.read_to_string(&mut question).await.unwrap();
            assert_eq!(question, "question");
            server.write_all(b"answer").await.unwrap();
            drop(server);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answer");
        };
        let (copied, ()) = tokio::join!(
            bidirectional(&mut near, &mut far, &counters, &ending),
            applications
        );
        copied.unwrap();
    });
}
