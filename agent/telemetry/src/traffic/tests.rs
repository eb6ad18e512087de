use std::sync::Arc;
use std::time::Duration;

use agent_model::{Reason, Workload};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use super::*;

const IDLE: Duration = Duration::from_secs(1800);

#[derive(Debug)]
struct Shown(Arc<Table>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        self.0.encode(&mut encoder)
    }
}

fn encoded(table: &Arc<Table>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Shown(Arc::clone(table))));
    let mut out = String::new();
    prometheus_client::encoding::text::encode(&mut out, &registry).unwrap();
    out
}

fn labels(source: &str) -> Labels {
    let workload = Workload {
        workload_name: source.into(),
        namespace: "shop".into(),
        ..Workload::default()
    };
    Labels {
        source: Some(Arc::new(workload)),
        ..Labels::new(Direction::Outbound)
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn equal_label_values_share_a_series_whatever_object_holds_them() {
    let table = Table::new(10, IDLE);
    let first = table.open(&labels("web"), at(0));
    let second = table.open(&labels("web"), at(1));
    assert!(Arc::ptr_eq(&first, &second));
    assert!(!Arc::ptr_eq(&first, &table.open(&labels("cache"), at(1))));
    let mutual = Labels {
        mutual_tls: true,
        ..labels("web")
    };
    assert!(!Arc::ptr_eq(&first, &table.open(&mutual, at(1))));
}

#[test]
fn past_the_cap_connections_land_in_the_overflow_series() {
    let table = Arc::new(Table::new(2, IDLE));
    for n in 0..1000 {
        table
            .open(&labels(&format!("w{n}")), at(0))
            .close(Flag::None, at(0));
    }
    assert_eq!(table.len(), 2);
    let text = encoded(&table);
    let row = text
        .lines()
        .find(|l| l.starts_with("istio_tcp_connections_opened_total{") && l.contains("overflow"))
        .unwrap();
    assert!(row.ends_with(" 998"), "{row}");
    assert!(row.contains("source_workload=\"overflow\""), "{row}");
}

#[test]
fn a_full_table_makes_room_for_new_pairs_once_old_ones_are_idle() {
    let table = Table::new(1, IDLE);
    table.open(&labels("old"), at(0)).close(Flag::None, at(0));
    let new = table.open(&labels("new"), at(1800));
    assert!(Arc::ptr_eq(&new, &table.open(&labels("new"), at(1800))));
    assert!(!Arc::ptr_eq(&new, &table.open(&labels("newer"), at(1800))));
    assert_eq!(table.len(), 1);
}

#[test]
fn idle_series_expire_and_used_ones_do_not() {
    let table = Table::new(10, IDLE);
    table.open(&labels("idle"), at(0)).close(Flag::None, at(5));
    let long = table.open(&labels("long-lived"), at(0));
    table.expire(at(1804));
    assert_eq!(table.len(), 2);
    table.expire(at(1805));
    assert_eq!(table.len(), 1);
    table.expire(at(1_000_000));
    assert_eq!(table.len(), 1, "a live connection keeps its series");
    long.close(Flag::None, at(1_000_000));
    table.expire(at(1_001_799));
    assert_eq!(table.len(), 1);
    table.expire(at(1_001_800));
    assert_eq!(table.len(), 0);
}

#[test]
fn every_label_is_present_and_missing_values_are_unknown() {
    let table = Arc::new(Table::new(10, IDLE));
    let series = table.open(&labels("we\"b\n"), at(0));
    series.transferred(7, 11);
    series.close(Flag::Deny, at(1));
    let text = encoded(&table);
    for expected in [
        "istio_tcp_received_bytes_total{reporter=\"source\",source_workload=\"we\\\"b\\n\",",
        "# TYPE istio_tcp_connections_failed counter",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    let failed = text
        .lines()
        .find(|l| l.starts_with("istio_tcp_connections_failed_total{"))
        .unwrap();
    for label in [
        "source_canonical_service=\"unknown\"",
        "source_workload_namespace=\"shop\"",
        "source_principal=\"unknown\"",
        "source_cluster=\"Kubernetes\"",
        "destination_service=\"unknown\"",
        "destination_service_namespace=\"unknown\"",
        "destination_workload=\"unknown\"",
        "request_protocol=\"tcp\"",
        "response_flags=\"DENY\"",
        "connection_security_policy=\"unknown\"",
    ] {
        assert!(failed.contains(label), "{label} in {failed}");
    }
    assert!(!failed.contains("source_region"), "{failed}");
    assert!(text.contains("response_flags=\"-\",connection_security_policy=\"unknown\"} 11"));
}

#[test]
fn only_ok_has_no_flag() {
    for reason in Reason::ALL {
        let flag = Flag::from(*reason);
        assert_eq!(flag == Flag::None, *reason == Reason::Ok, "{reason}");
    }
    for (index, flag) in Flag::ALL.iter().enumerate() {
        assert_eq!(*flag as usize, index);
    }
}
