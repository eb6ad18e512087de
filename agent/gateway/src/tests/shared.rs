//! HTTP/2 connections of a waypoint to a backend: one for each client, and none at another's expense.

use std::time::{Duration, Instant};

use agent_model::gateway::BackendProtocol;
use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::backend::Backend;
use super::bed::{endpoint, rule, service, target};
use super::waypoint::{Site, attached, worker};
use crate::circuit;
use crate::tuning::{Settings, Tuning};

/// More than a connection on loopback takes, and less than the gateway waits for one.
const SOON: Duration = Duration::from_secs(3);

/// A waypoint whose service speaks HTTP/2.
fn site(address: std::net::SocketAddr) -> Site {
    let site = Site::start(endpoint("one-0", "one", address));
    let mut spoken = rule("/", "one");
    spoken.backends[0].target = target("one", BackendProtocol::H2c);
    site.apply(&[attached("all", None, None, vec![spoken])]);
    site
}

/// F-100: each client waits for its own connection.
#[tokio::test]
async fn a_client_whose_connection_is_not_made_holds_no_other() {
    worker(async {
        let backend = Backend::start("one").await;
        let address = backend.address;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = site(listener.local_addr().unwrap());
        let (accepted, is_accepted) = oneshot::channel();
        spawn_local(async move {
            // The first connection gets nothing but acceptance.
            let _silent = listener.accept().await.unwrap();
            accepted.send(()).unwrap();
            while let Ok((mut client, _)) = listener.accept().await {
                spawn_local(async move {
                    let mut server = TcpStream::connect(address).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        let began = Instant::now();
        let mut held = std::pin::pin!(site.get("first", "/"));
        tokio::select! {
            answer = &mut held => panic!("{answer:?}"),
            accepted = is_accepted => accepted.unwrap(),
        }
        for _ in 0..2 {
            let answer = timeout(SOON, site.get("second", "/")).await;
            assert_eq!(answer.expect("nobody holds it").status(), StatusCode::OK);
        }
        assert_eq!(backend.connections(), 1, "it keeps its connection");
        assert!(began.elapsed() < SOON);
        // Who comes after the one that is held waits with it, and then makes the next.
        let both = async { tokio::join!(held, site.get("first", "/")) };
        let (first, next) = timeout(Duration::from_secs(8), both).await.unwrap();
        assert_eq!(first.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(matches!(next.status().as_u16(), 200 | 503));
        assert_eq!(site.get("first", "/").await.status(), StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn clients_take_turns_where_a_service_may_have_one_connection() {
    worker(async {
        let backend = Backend::start("one").await;
        let site = site(backend.address);
        let settings = Settings {
            circuit: Some(circuit::Limits {
                connections: 1,
                pending: 20,
                requests: 100,
            }),
            ..Settings::default()
        };
        let of_one = (service("one").key(), None, settings);
        site.bed.gateway.tune(Tuning::new([of_one]));
        let turns = async {
            // What nobody uses gives way.
            for client in ["first", "second", "first", "third"] {
                assert_eq!(site.get(client, "/").await.status(), StatusCode::OK);
            }
            assert_eq!(backend.connections(), 4);
            assert_eq!(site.get("third", "/").await.status(), StatusCode::OK);
            assert_eq!(backend.connections(), 4, "nobody waited for it");
            // What is in use gives way when it no longer is.
            let late = async {
                backend.wait_for(6).await;
                site.get("fourth", "/").await
            };
            let (slow, late) = tokio::join!(site.get("third", "/delay/300"), late);
            assert_eq!([slow.status(), late.status()], [StatusCode::OK; 2]);
            let clients = ["first", "second", "third"].into_iter().cycle().take(12);
            let together = clients.map(|client| async {
                let answer = site.get(client, "/delay/5");
                answer.await.status()
            });
            let statuses = futures_util::future::join_all(together).await;
            assert_eq!(statuses, [StatusCode::OK; 12]);
        };
        timeout(SOON, turns).await.expect("each in its turn");
        let connections = site.bed.gateway.backends().remove(0).circuit[0];
        assert_eq!((connections.limit, connections.refused), (1, 0));
    })
    .await;
}
