//! Ends that break off, and many at once.

use std::time::Duration;

use agent_model::Reason;
use agent_model::gateway::BackendProtocol;
use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::backend::Backend;
use super::bed::{Bed, get, route, rule, target, whole};

/// A backend that says the same to every connection, and closes it.
async fn scripted(bed: &mut Bed, answer: &'static [u8]) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    bed.service_at("one", &[listener.local_addr().unwrap()]);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
            });
        }
    });
}

async fn bed(answer: &'static [u8]) -> Bed {
    let mut bed = Bed::start(&[route(vec![rule("/", "one")])]);
    scripted(&mut bed, answer).await;
    bed
}

#[tokio::test]
async fn a_backend_that_says_nothing_is_unavailable() {
    let bed = bed(b"").await;
    assert_eq!(
        bed.get("a", "/").await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    let record = bed.records(1).await.remove(0);
    assert_eq!(record.reason, Reason::ConnectionReset);
}

#[tokio::test]
async fn a_response_that_breaks_off_does_not_look_whole() {
    let bed = bed(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let mut client = bed.http1().await;
    // The head may still wait to be sent when the body breaks off.
    if let Ok(response) = client.send_request(get("a", "/")).await {
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        assert!(body.is_err());
    }
    let record = bed.records(1).await.remove(0);
    assert_eq!((record.reason, record.sent), (Reason::ConnectionReset, 4));
}

#[tokio::test]
async fn a_backend_cannot_change_the_protocol_by_itself() {
    let bed =
        bed(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nraw")
            .await;
    let response = bed.get("a", "/").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn what_a_backend_says_of_its_connection_stays_there() {
    let answer = b"HTTP/1.1 200 OK\r\nconnection: close, x-private\r\nkeep-alive: timeout=9\r\n\
                   x-private: 1\r\nx-public: 2\r\ncontent-length: 2\r\n\r\nok";
    let bed = bed(answer).await;
    let response = bed.get("a", "/").await;
    assert_eq!(response.body(), "ok");
    assert_eq!(response.headers()["x-public"], "2");
    for name in ["x-private", "keep-alive", "connection"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection() {
    let bed = bed(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    assert_eq!(bed.get("a", "/").await.body(), "until the end");
}

/// F-91: the answer counts, whether or not the backend wanted the rest of the request.
#[tokio::test]
async fn a_backend_may_answer_before_it_has_read_everything() {
    let bed = bed(
        b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmuch",
    )
    .await;
    for _ in 0..20 {
        let body = bytes::Bytes::from(vec![b'x'; 2_000_000]);
        let request = http::Request::post("/").header("host", "a");
        let response = bed.ask(request.body(body.into()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(response.body(), "much");
    }
}

/// F-100: who waits for a connection waits by himself, and the next one is served.
#[tokio::test]
async fn a_backend_that_accepts_and_is_silent_holds_nobody_for_long() {
    let backend = Backend::start("one").await;
    let address = backend.address;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut speaking = rule("/", "one");
    speaking.backends[0].target = target("one", BackendProtocol::H2c);
    let mut bed = Bed::start(&[route(vec![speaking])]);
    bed.service_at("one", &[listener.local_addr().unwrap()]);
    tokio::spawn(async move {
        // The first connection gets nothing but acceptance.
        let _silent = listener.accept().await.unwrap();
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(address).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let began = std::time::Instant::now();
    let waiting = (0..8).map(|_| bed.get("a", "/"));
    let answers = futures_util::future::join_all(waiting).await;
    // Who comes last may still see the first one give up, and is served by another connection.
    let late = |status: &StatusCode| *status == StatusCode::SERVICE_UNAVAILABLE;
    let statuses: Vec<_> = answers.iter().map(Response::status).collect();
    assert!(statuses.iter().any(late), "{statuses:?}");
    let expected = |status: &StatusCode| late(status) || *status == StatusCode::OK;
    assert!(statuses.iter().all(expected), "{statuses:?}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(bed.get("a", "/").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_backend() {
    let backend = Backend::start("one").await;
    let mut bed = Bed::start(&[route(vec![rule("/", "one")])]);
    bed.service("one", &[&backend]);
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    let head = "POST /stream HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"ab\r\n") {
        assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0);
    }
    drop(stream);
    let record = bed.records(1).await.remove(0);
    assert_eq!(record.reason, Reason::ConnectionReset);
    assert_eq!(bed.get("a", "/").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn many_clients_at_once() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let mut bed = Bed::start(&[route(vec![rule("/", "both")])]);
    bed.service("both", &[&one, &two]);
    let clients = (0..40).map(|number| {
        let (address, http2) = (&bed, number % 2 == 0);
        async move {
            for round in 0..10 {
                let target = format!("http://a/{number}-{round}");
                let request = http::Request::get(&target)
                    .body(Default::default())
                    .unwrap();
                let response = match http2 {
                    true => address.http2().await.send_request(request).await.unwrap(),
                    false => {
                        let request = get("a", &format!("/{number}-{round}"));
                        address.http1().await.send_request(request).await.unwrap()
                    }
                };
                assert_eq!(whole(response).await.status(), StatusCode::OK);
            }
        }
    });
    let all = futures_util::future::join_all(clients);
    tokio::time::timeout(Duration::from_secs(30), all)
        .await
        .unwrap();
    let seen = [one.seen().len(), two.seen().len()];
    assert_eq!(seen.iter().sum::<usize>(), 400);
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    assert!(one.connections() + two.connections() <= 80);
}
