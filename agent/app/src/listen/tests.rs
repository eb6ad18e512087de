use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use agent_net::socket::listen_on;
use agent_telemetry::Limits;

use super::*;
use crate::http::MAX_CONNECTIONS;

fn free_port() -> SocketAddr {
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap()
}

fn get(address: SocketAddr, path: &str, more: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn readiness_names_what_is_pending() {
    let readiness = Readiness::default();
    let state = readiness.wait_for("state manager");
    let address = free_port();
    let _serving = Listeners::default()
        .tcp(listen_on(address).unwrap(), &[readiness_route(readiness)])
        .unwrap()
        .start()
        .unwrap();
    let answer = get(address, "/healthz/ready", "");
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(answer.ends_with("pending: state manager\n"), "{answer}");
    state.done();
    let answer = get(address, "/healthz/ready", "");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nready\n"), "{answer}");
    assert!(get(address, "/metrics", "").starts_with("HTTP/1.1 404"));
}

#[test]
fn metrics_come_in_the_format_asked_for() {
    let metrics = Metrics::new("test", Limits::default(), Instant::now());
    let address = free_port();
    let _serving = Listeners::default()
        .tcp(listen_on(address).unwrap(), &[metrics_route(metrics)])
        .unwrap()
        .start()
        .unwrap();
    let plain = get(address, "/metrics", "");
    assert!(
        plain.contains("content-type: text/plain; version=0.0.4"),
        "{plain}"
    );
    assert!(plain.ends_with("# EOF\n"), "{plain}");
    let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let open = get(address, "/stats/prometheus", accept);
    assert!(
        open.contains("content-type: application/openmetrics-text"),
        "{open}"
    );
}

#[test]
fn clients_that_say_nothing_hold_their_slots_for_seconds_only() {
    let address = free_port();
    let _serving = Listeners::default()
        .tcp(
            listen_on(address).unwrap(),
            &[readiness_route(Readiness::default())],
        )
        .unwrap()
        .start()
        .unwrap();
    let connect = |_| TcpStream::connect(address).unwrap();
    let silent: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(connect).collect();
    // Every slot is taken; the read timeout of `get` is the bound.
    assert!(get(address, "/healthz/ready", "").starts_with("HTTP/1.1 200"));
    drop(silent);
}

#[test]
fn dropping_it_frees_the_port() {
    let address = free_port();
    let listeners = || {
        Listeners::default()
            .tcp(listen_on(address).unwrap(), &[])
            .unwrap()
    };
    drop(listeners().start().unwrap());
    drop(listeners().start().unwrap());
}
