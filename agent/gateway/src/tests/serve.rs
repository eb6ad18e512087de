//! What works.

use std::time::Duration;

use agent_model::Reason;
use agent_model::gateway::BackendProtocol;
use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::backend::Backend;
use super::bed::{Bed, free_port, get, route, rule, target, whole};

async fn one_backend() -> (Bed, Backend) {
    let backend = Backend::start("one").await;
    let mut bed = Bed::start(&[route(vec![rule("/", "one")])]);
    bed.service("one", &[&backend]);
    (bed, backend)
}

fn post(target: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(target).header("host", "shop.org");
    request.body(Full::new(body.into())).unwrap()
}

#[tokio::test]
async fn a_request_and_its_answer() {
    let (bed, backend) = one_backend().await;
    let response = bed.ask(post("/a/b?c=d", "hello")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-backend"], "one");
    assert_eq!(response.body(), "hello");
    let seen = backend.last();
    assert_eq!((&*seen.method, &*seen.target), ("POST", "/a/b?c=d"));
    assert_eq!((&*seen.host, &*seen.body), ("shop.org", &b"hello"[..]));
    assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen.headers["x-forwarded-proto"], "http");
    let record = bed.records(1).await.remove(0);
    assert_eq!(
        (record.status, record.reason, record.sent),
        (Some(200), Reason::Ok, 5)
    );
    assert_eq!(record.endpoint, Some(backend.address));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let (bed, backend) = one_backend().await;
    let mut client = bed.http1().await;
    for number in 0..20 {
        let sent = client.send_request(post("/", format!("{number}"))).await;
        let response = whole(sent.unwrap()).await;
        assert_eq!(response.body(), &format!("{number}"));
        client.ready().await.unwrap();
    }
    for _ in 0..5 {
        assert_eq!(bed.get("a", "/").await.status(), StatusCode::OK);
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_backend_that_closes_its_connections_costs_no_request() {
    let (bed, backend) = one_backend().await;
    let mut client = bed.http1().await;
    for _ in 0..20 {
        let response = whole(client.send_request(get("a", "/close")).await.unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!response.headers().contains_key("connection"));
        client.ready().await.unwrap();
    }
    assert_eq!(backend.connections(), 20);
}

#[tokio::test]
async fn http2_in_http1_out() {
    let (bed, backend) = one_backend().await;
    let mut client = bed.http2().await;
    let request = Request::post("http://Shop.org:8080/x?y=z")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::new(Bytes::from("hello")))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(whole(response).await.body(), "hello");
    let seen = backend.last();
    assert_eq!((&*seen.target, &*seen.host), ("/x?y=z", "shop.org:8080"));
    assert_eq!(seen.headers["cookie"], "a=1; b=2");
}

#[tokio::test]
async fn http2_out_with_trailers() {
    let (mut bed, backend) = one_backend().await;
    let mut h2c = rule("/", "two");
    h2c.backends[0].target = target("two", BackendProtocol::H2c);
    bed.service("two", &[&backend]);
    assert_eq!(bed.apply(&[route(vec![h2c])]), []);
    let mut client = bed.http2().await;
    for _ in 0..3 {
        let request = Request::post("http://a.org/trailers").body(Full::default());
        let response = client.send_request(request.unwrap()).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), "body");
    }
    assert_eq!(backend.last().host, "a.org");
    assert_eq!(backend.connections(), 1);
    // Trailers of an HTTP/1.1 backend come through as well.
    assert_eq!(bed.apply(&[route(vec![rule("/", "one")])]), []);
    let request = Request::post("http://a.org/trailers")
        .header("te", "trailers")
        .body(Full::default());
    let response = client.send_request(request.unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let (bed, _backend) = one_backend().await;
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    let head = "POST /stream HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    for number in 0..5 {
        let chunk = format!("4\r\nnr-{number}\r\n");
        stream.write_all(chunk.as_bytes()).await.unwrap();
        // Its echo comes before the next is sent.
        let wanted = format!("nr-{number}");
        while !String::from_utf8_lossy(&got).contains(&wanted) {
            assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0);
        }
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    while !got.ends_with(b"0\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn large_bodies_come_through_whole() {
    let (bed, backend) = one_backend().await;
    let large: Bytes = (0..4_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let response = bed.ask(post("/", large.clone())).await;
    assert!(*response.body() == large);
    let mut client = bed.http2().await;
    let request = Request::post("http://a/").body(Full::new(large.clone()));
    let response = client.send_request(request.unwrap()).await.unwrap();
    assert!(*whole(response).await.body() == large);
    assert!(backend.last().body == large);
}

#[tokio::test]
async fn websockets() {
    let (bed, backend) = one_backend().await;
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    let head = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\n\
                upgrade: websocket\r\nsec-websocket-key: x\r\n\r\n";
    // What follows the head at once is not lost.
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"early").await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"early") {
        assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0);
    }
    let answer = String::from_utf8(got.clone()).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(answer.contains("upgrade: websocket"), "{answer}");
    assert!(answer.contains("connection: upgrade"), "{answer}");
    stream.write_all(b"more").await.unwrap();
    while !got.ends_with(b"more") {
        assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0);
    }
    assert_eq!(backend.last().headers["sec-websocket-key"], "x");
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read_to_end(&mut got).await.unwrap(), 0);
}

#[tokio::test]
async fn an_upgrade_that_the_backend_ignores_is_the_last_request() {
    let (bed, _backend) = one_backend().await;
    let request = Request::get("/")
        .header("host", "a")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(Full::default());
    let mut client = bed.http1().await;
    let response = whole(client.send_request(request.unwrap()).await.unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["connection"], "close");
    assert!(client.ready().await.is_err());
}

#[tokio::test]
async fn a_new_plan_counts_from_the_next_request_on() {
    let (mut bed, _one) = one_backend().await;
    let two = Backend::start("two").await;
    bed.service("two", &[&two]);
    let mut client = bed.http1().await;
    let asked = client.send_request(get("a", "/")).await.unwrap();
    assert_eq!(whole(asked).await.headers()["x-backend"], "one");
    assert_eq!(bed.apply(&[route(vec![rule("/", "two")])]), []);
    client.ready().await.unwrap();
    let asked = client.send_request(get("a", "/")).await.unwrap();
    assert_eq!(whole(asked).await.headers()["x-backend"], "two");
}

#[tokio::test]
async fn endpoints_come_and_go() {
    let (mut bed, _one) = one_backend().await;
    let two = Backend::start("two").await;
    assert_eq!(bed.get("a", "/").await.headers()["x-backend"], "one");
    bed.service("one", &[&two]);
    assert_eq!(bed.get("a", "/").await.headers()["x-backend"], "two");
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_passed_over() {
    let (mut bed, one) = one_backend().await;
    bed.service_at("one", &[free_port(), one.address]);
    for _ in 0..10 {
        assert_eq!(bed.get("a", "/").await.status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_end_before_the_gateway_does() {
    let (bed, _backend) = one_backend().await;
    let mut client = bed.http1().await;
    let asked = tokio::spawn(client.send_request(get("a", "/delay/300")));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stopped = tokio::task::block_in_place(|| bed.gateway.stop(Duration::from_secs(5)));
    assert!(stopped);
    let response = whole(asked.await.unwrap().unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
}
