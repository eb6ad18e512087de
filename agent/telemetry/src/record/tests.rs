use agent_model::NetworkAddress;

use super::*;
use crate::event::tests::logged;
use crate::{Limits, LogFormat};

fn metrics() -> Arc<Metrics> {
    Metrics::new("test", Limits::default(), Instant::now())
}

fn ends() -> Ends {
    Ends {
        source: "10.0.0.1:40000".parse().unwrap(),
        destination: "10.96.0.5:80".parse().unwrap(),
    }
}

fn workload(name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: name.into(),
        namespace: "shop".into(),
        workload_name: name.into(),
        ..Workload::default()
    })
}

fn service() -> Arc<Service> {
    Arc::new(Service {
        name: "web".into(),
        namespace: "shop".into(),
        hostname: "web.shop.svc.cluster.local".into(),
        vips: vec![NetworkAddress {
            network: "".into(),
            address: "10.96.0.5".parse().unwrap(),
        }],
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: Default::default(),
        ip_families: Default::default(),
        canonical: false,
        visibility: Default::default(),
        ingress_use_waypoint: false,
    })
}

fn described(metrics: &Arc<Metrics>, direction: Direction, now: Instant) -> Record {
    let mut record = Record::open(metrics, direction, ends(), now);
    record.source(&workload("client"), "spiffe://td/ns/shop/sa/c".parse().ok());
    record.destination(&workload("web-1"), "spiffe://td/ns/shop/sa/w".parse().ok());
    record.service(&service());
    record.hbone_addr("10.0.1.7:8080");
    record.mutual_tls(true);
    record
}

fn row(metrics: &Metrics, prefix: &str) -> Option<String> {
    let text = metrics.encode(Instant::now());
    let row = text.lines().find(|line| line.starts_with(prefix))?;
    row.rsplit(' ').next().map(str::to_owned)
}

#[test]
fn a_finished_connection_logs_every_field_in_order() {
    let metrics = metrics();
    let line = logged(LogFormat::Text, || {
        let now = Instant::now();
        let mut record = described(&metrics, Direction::Outbound, now);
        record.transferred(100, 2000);
        record.finish(Reason::Ok, None, now + Duration::from_millis(13));
    });
    let (_, rest) = line.split_once('\t').unwrap();
    assert_eq!(
        rest,
        "info\taccess\tconnection complete\tsrc.addr=\"10.0.0.1:40000\" src.workload=\"client\" \
         src.namespace=\"shop\" src.identity=\"spiffe://td/ns/shop/sa/c\" \
         src.cluster=\"Kubernetes\" dst.addr=\"10.96.0.5:80\" dst.hbone_addr=\"10.0.1.7:8080\" \
         dst.service=\"web.shop.svc.cluster.local\" dst.workload=\"web-1\" dst.namespace=\"shop\" \
         dst.identity=\"spiffe://td/ns/shop/sa/w\" dst.cluster=\"Kubernetes\" \
         direction=\"outbound\" bytes_sent=100 bytes_recv=2000 duration=\"13ms\" reason=\"ok\"\n"
    );
}

#[test]
fn inbound_sent_bytes_are_the_response() {
    let metrics = metrics();
    let line = logged(LogFormat::Text, || {
        let mut record = described(&metrics, Direction::Inbound, Instant::now());
        record.transferred(100, 2000);
        record.finish(Reason::Ok, None, Instant::now());
    });
    assert!(line.contains("bytes_sent=2000 bytes_recv=100"), "{line}");
    let received = row(&metrics, "istio_tcp_received_bytes_total{reporter=\"dest");
    assert_eq!(received.as_deref(), Some("100"));
}

#[test]
fn a_policy_refusal_names_the_policy_everywhere() {
    let metrics = metrics();
    let line = logged(LogFormat::Text, || {
        let mut record = described(&metrics, Direction::Inbound, Instant::now());
        record.policy(PolicyKey::new("shop", "deny-all"));
        let error = Some("denied".to_owned());
        record.finish(Reason::PolicyDenied, error, Instant::now());
    });
    assert!(line.contains("\terror\taccess\t"), "{line}");
    assert!(
        line.ends_with("reason=\"policy-denied\" policy=\"shop/deny-all\" error=\"denied\"\n"),
        "{line}"
    );
    let refusal = metrics.refusals().remove(0);
    assert_eq!(refusal.policy, Some(PolicyKey::new("shop", "deny-all")));
    assert_eq!(refusal.source_workload.as_deref(), Some("shop/client"));
    let refused =
        "culvert_connections_refused_total{direction=\"inbound\",reason=\"policy-denied\"";
    assert_eq!(row(&metrics, refused).as_deref(), Some("1"));
}

#[test]
fn identities_without_mutual_tls_are_not_logged() {
    let metrics = metrics();
    let line = logged(LogFormat::Text, || {
        let mut record = described(&metrics, Direction::Inbound, Instant::now());
        record.mutual_tls(false);
        record.finish(Reason::Ok, None, Instant::now());
    });
    assert!(!line.contains("identity"), "{line}");
}

#[test]
fn a_failure_before_anything_is_known_is_a_warning_and_no_series() {
    let metrics = metrics();
    let line = logged(LogFormat::Text, || {
        let record = Record::open(&metrics, Direction::Inbound, ends(), Instant::now());
        let error = Some("not TLS".to_owned());
        record.finish(Reason::TlsFailed, error, Instant::now());
    });
    assert!(
        line.contains("\twarn\taccess\tconnection failed\t"),
        "{line}"
    );
    assert!(line.contains("error=\"not TLS\""), "{line}");
    assert_eq!(row(&metrics, "istio_tcp_connections_opened_total{"), None);
    assert_eq!(metrics.refusals().len(), 1);
}

#[test]
fn a_dropped_record_ends_as_drained_once() {
    let metrics = metrics();
    let lines = logged(LogFormat::Text, || {
        let mut record = described(&metrics, Direction::Outbound, Instant::now());
        record.established(Instant::now());
        assert_eq!(metrics.connections(Direction::Outbound), 1);
        drop(record);
    });
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("\tdebug\taccess\tconnection opened\t"));
    assert!(lines[1].contains("reason=\"drained\""));
    assert_eq!(metrics.connections(Direction::Outbound), 0);
    let closed = row(&metrics, "istio_tcp_connections_closed_total{");
    assert_eq!(closed.as_deref(), Some("1"));
    assert!(metrics.refusals().is_empty());
}

#[test]
fn bytes_of_a_running_connection_are_counted_once() {
    let metrics = metrics();
    let mut record = described(&metrics, Direction::Outbound, Instant::now());
    record.established(Instant::now());
    record.transferred(10, 20);
    let sent = || row(&metrics, "istio_tcp_sent_bytes_total{");
    assert_eq!(sent().as_deref(), Some("20"));
    record.transferred(15, 50);
    record.finish(Reason::Ok, None, Instant::now());
    assert_eq!(sent().as_deref(), Some("50"));
    let opened = row(&metrics, "istio_tcp_connections_opened_total{");
    assert_eq!(opened.as_deref(), Some("1"));
}

#[test]
fn the_access_log_can_be_switched_off() {
    let metrics = metrics();
    metrics.set_access_log(false);
    let line = logged(LogFormat::Text, || {
        described(&metrics, Direction::Outbound, Instant::now()).finish(
            Reason::NoEndpoint,
            None,
            Instant::now(),
        );
    });
    assert_eq!(line, "");
    assert_eq!(metrics.refusals().len(), 1);
}
