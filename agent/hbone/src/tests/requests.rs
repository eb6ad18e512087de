//! What a request looks like on the wire, and what answers look like.

use agent_identity::{client_config, dummy_server_name};
use agent_model::{Reason, WorkloadType};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};
use std::cell::RefCell;
use std::rc::Rc;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_rustls::TlsConnector;

use super::harness::*;
use crate::headers::{Authority, Baggage, ConnectRequest, Forwarded, RequestError, TraceParent};
use crate::server::IncomingRequest;

/// A peer that is not this room's client.
async fn raw(server: &Server) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let config = client_config(&client(), &[identity("server")]).unwrap();
    let tls = TlsConnector::from(config)
        .connect(dummy_server_name(), tcp)
        .await
        .unwrap();
    let (send, connection) = h2::client::handshake(tls).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    send.ready().await.unwrap()
}

fn connect(authority: &str) -> Request<()> {
    Request::builder()
        .version(Version::HTTP_2)
        .method(Method::CONNECT)
        .uri(Uri::builder().authority(authority).build().unwrap())
        .body(())
        .unwrap()
}

/// Answers 400 to what is no CONNECT request, else the status named by the authority's port.
fn judge(request: IncomingRequest) {
    let status = match &request.request {
        Err(_) => 400,
        Ok(request) => match &request.authority {
            Authority::Ip(address) => address.port(),
            Authority::Host { .. } => 503,
        },
    };
    match StatusCode::from_u16(status).unwrap() {
        StatusCode::OK => drop(request.accept(Some("service.name=web")).unwrap()),
        refused => request.reject(refused),
    }
}

#[test]
fn refusals_are_headers_with_an_end_and_a_reset_without_error() {
    worker(async {
        let server = Server::start(judge).await;
        let mut send = raw(&server).await;
        for (authority, status) in [
            ("10.0.0.1:400", 400),
            ("10.0.0.1:401", 401),
            ("10.0.0.1:503", 503),
            ("web.shop:80", 503),
            ("10.0.0.1", 400),
            ("10.0.0.1:0", 400),
            ("user@10.0.0.1:401", 400),
            ("[::ffff:10.0.0.1]:401", 400),
        ] {
            let (response, mut body) = send.send_request(connect(authority), false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{authority}");
            assert!(response.body().is_end_stream(), "{authority}");
            let reset = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
            assert_eq!(reset.unwrap(), h2::Reason::NO_ERROR, "{authority}");
        }
    });
}

#[test]
fn anything_but_connect_is_400() {
    worker(async {
        let server = Server::start(judge).await;
        let mut send = raw(&server).await;
        let get = Request::get("https://10.0.0.1:200/").body(()).unwrap();
        let (response, _) = send.send_request(get, true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::BAD_REQUEST);
    });
}

#[test]
fn connect_with_a_path_is_a_protocol_error() {
    worker(async {
        let server = Server::start(judge).await;
        let mut send = raw(&server).await;
        // h2 itself does not send such a request, except as an extended CONNECT.
        let mut extended = Request::builder()
            .version(Version::HTTP_2)
            .method(Method::CONNECT)
            .uri("https://10.0.0.1:200/path")
            .body(())
            .unwrap();
        extended
            .extensions_mut()
            .insert(h2::ext::Protocol::from_static("websocket"));
        let (response, _) = send.send_request(extended, false).unwrap();
        match response.await {
            Ok(response) => assert_eq!(response.status(), StatusCode::BAD_REQUEST),
            Err(error) => assert_eq!(error.reason(), Some(h2::Reason::PROTOCOL_ERROR)),
        }
        let (response, _) = send.send_request(connect("10.0.0.1:200"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    });
}

#[test]
fn the_answer_names_the_destination() {
    worker(async {
        let server = Server::start(judge).await;
        let mut send = raw(&server).await;
        let (response, _) = send.send_request(connect("10.0.0.1:200"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["baggage"], "service.name=web");
    });
}

#[test]
fn a_request_arrives_as_it_was_made() {
    worker(async {
        let seen: Rc<RefCell<Vec<ConnectRequest>>> = Rc::default();
        let log = Rc::clone(&seen);
        let server = Server::start(move |request: IncomingRequest| {
            log.borrow_mut().push(request.request.clone().unwrap());
            drop(request.accept(None).unwrap());
        })
        .await;
        let full = ConnectRequest {
            authority: Authority::Host {
                hostname: "web.shop.svc.cluster.local".to_owned(),
                port: 80,
            },
            baggage: Baggage {
                cluster: "one".to_owned(),
                namespace: "shop".to_owned(),
                workload: Some((WorkloadType::Deployment, "client".to_owned())),
                service: "client".to_owned(),
                ..Baggage::default()
            },
            forwarded: Forwarded {
                client: Some("[2001:db8::1]:4711".parse().unwrap()),
                host: "web.shop.svc.cluster.local".to_owned(),
            },
            traceparent: Some(TraceParent::new(1, 2)),
            source: Some("spiffe://cluster.local/ns/shop/sa/client".parse().unwrap()),
        };
        let bare = ConnectRequest::to(Authority::Ip("[2001:db8::2]:8080".parse().unwrap()));
        let pool = pool();
        for request in [&full, &bare] {
            let target = server.target(&client());
            pool.open(&target, request, to(server.address))
                .await
                .unwrap();
        }
        assert_eq!(*seen.borrow(), [full, bare]);
    });
}

#[test]
fn the_client_tells_refusals_apart() {
    worker(async {
        let server = Server::start(judge).await;
        let pool = pool();
        for (port, reason) in [
            (401, Reason::PeerDenied),
            (400, Reason::PeerRejected),
            (503, Reason::PeerRejected),
        ] {
            let authority = Authority::Ip(([10, 0, 0, 1], port).into());
            let target = server.target(&client());
            let error = pool
                .open(&target, &ConnectRequest::to(authority), to(server.address))
                .await
                .unwrap_err();
            assert_eq!(error.reason(), reason);
        }
        // A refusal keeps the tunnel.
        settle().await;
        assert_eq!(pool.stats().tunnels, 1);
        assert_eq!(pool.stats().streams, 0);
        assert_eq!(server.ends.borrow().len(), 0);
    });
}

#[test]
fn a_client_that_gives_up_is_noticed() {
    worker(async {
        let noticed = Rc::new(RefCell::new(0));
        let count = Rc::clone(&noticed);
        let server = Server::start(move |mut request: IncomingRequest| {
            let count = Rc::clone(&count);
            spawn_local(async move {
                request.abandoned().await;
                *count.borrow_mut() += 1;
            });
        })
        .await;
        let pool = pool();
        let open = server.open(&pool);
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(100), open)
                .await
                .is_err()
        );
        settle().await;
        assert_eq!(*noticed.borrow(), 1);
        assert_eq!(pool.stats().streams, 0);
    });
}

#[test]
fn requests_are_read_strictly() {
    let read = |request: Request<()>| ConnectRequest::read(&request.into_parts().0);
    assert!(matches!(
        read(Request::get("https://a:1/").body(()).unwrap()),
        Err(RequestError::Method(_))
    ));
    assert!(matches!(
        read(Request::connect("https://a:1/").body(()).unwrap()),
        Err(RequestError::Form)
    ));
    let mut protocol = connect("10.0.0.1:80");
    protocol
        .extensions_mut()
        .insert(h2::ext::Protocol::from_static("x"));
    assert_eq!(read(protocol), Err(RequestError::Form));
    let mut odd = connect("10.0.0.1:80");
    odd.headers_mut().insert(
        "baggage",
        HeaderValue::from_bytes(b"k8s.cluster.name=\xff").unwrap(),
    );
    odd.headers_mut()
        .insert("traceparent", HeaderValue::from_static("00-1-2-00"));
    let read = read(odd).unwrap();
    assert_eq!(
        read,
        ConnectRequest::to(Authority::Ip("10.0.0.1:80".parse().unwrap()))
    );
}
