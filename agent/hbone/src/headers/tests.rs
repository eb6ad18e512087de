use agent_model::{Workload, WorkloadType};
use proptest::prelude::*;

use super::*;

#[test]
fn authorities_that_mean_one_thing() {
    for (text, expected) in [
        ("10.1.2.3:80", Authority::Ip("10.1.2.3:80".parse().unwrap())),
        (
            "[2001:db8::1]:65535",
            Authority::Ip("[2001:db8::1]:65535".parse().unwrap()),
        ),
        // The same address to everybody.
        (
            "[2001:DB8:0::1]:1",
            Authority::Ip("[2001:db8::1]:1".parse().unwrap()),
        ),
        (
            "web.shop.svc.cluster.local:80",
            host("web.shop.svc.cluster.local", 80),
        ),
        ("Web.Shop:80", host("web.shop", 80)),
        ("a_b-c.x:8080", host("a_b-c.x", 8080)),
        ("web-0:1", host("web-0", 1)),
    ] {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }
}

fn host(hostname: &str, port: u16) -> Authority {
    Authority::Host {
        hostname: hostname.to_owned(),
        port,
    }
}

#[test]
fn authorities_that_could_mean_another_are_refused() {
    let long_name = format!("{}:80", vec!["a".repeat(60); 5].join("."));
    let long_label = format!("{}.x:80", "a".repeat(64));
    for text in [
        "",
        ":",
        ":80",
        "10.1.2.3",
        "10.1.2.3:",
        "10.1.2.3:0",
        "10.1.2.3:65536",
        "10.1.2.3:080",
        "10.1.2.3:+80",
        "10.1.2.3:-1",
        "10.1.2.3:80 ",
        " 10.1.2.3:80",
        "10.1.2.3:80:90",
        "10.1.2.3:http",
        "10.1.2.3:８０",
        "user@10.1.2.3:80",
        "user:pass@10.1.2.3:80",
        "10.1.2.3:80/path",
        "http://10.1.2.3:80",
        "127.1:80",
        "2130706433:80",
        "0x7f.0.0.1:80",
        "0x7f000001:80",
        "0177.0.0.1:80",
        "010.1.2.3:80",
        "10.1.2:80",
        "10.1.2.3.4:80",
        "10.1.2.256:80",
        "10.1.2.3.:80",
        "::1:80",
        "2001:db8::1:80",
        "[::1]",
        "[::1]80",
        "[::1:80",
        "::1]:80",
        "[[::1]]:80",
        "[::ffff:127.0.0.1]:80",
        "[::ffff:7f00:1]:80",
        "[fe80::1%eth0]:80",
        "[fe80::1%25eth0]:80",
        "[10.1.2.3]:80",
        "[]:80",
        "web.shop.:80",
        ".web:80",
        "web..shop:80",
        "-web:80",
        "web-:80",
        "web.shop\0:80",
        "web\0.shop:80",
        "web shop:80",
        "web%2eshop:80",
        "web.1:80",
        "wéb:80",
        "*.shop:80",
        long_name.as_str(),
        long_label.as_str(),
    ] {
        assert!(text.parse::<Authority>().is_err(), "{text:?}");
    }
}

#[test]
fn baggage_of_a_workload_in_the_order_of_the_wire() {
    let workload = Workload {
        namespace: "shop".into(),
        cluster_id: "one".into(),
        workload_type: WorkloadType::Deployment,
        workload_name: "web".into(),
        canonical_name: "web".into(),
        canonical_revision: "v2".into(),
        ..Workload::default()
    };
    assert_eq!(
        Baggage::of(&workload).to_string(),
        "k8s.cluster.name=one,k8s.namespace.name=shop,k8s.deployment.name=web,\
         service.name=web,service.version=v2"
    );
    assert_eq!(Baggage::default().to_string(), "");
}

#[test]
fn baggage_of_strangers() {
    let read =
        Baggage::parse("a, =x,k8s.job.name=j,service.name=a=b, cloud.region = r ,service.name=c");
    assert_eq!(read.workload, Some((WorkloadType::Job, "j".to_owned())));
    assert_eq!(read.service, "a=b");
    assert_eq!(read.region, "r");
    assert_eq!(
        Baggage::parse(&format!("service.name={}", "x".repeat(600))),
        Baggage::default()
    );
    assert_eq!(
        Baggage::parse(&"service.name=x,".repeat(1000)),
        Baggage::default()
    );
}

#[test]
fn forwarded_quoted_or_not() {
    let client = Some("10.0.0.1:4711".parse().unwrap());
    for (text, expected) in [
        ("for=\"10.0.0.1:4711\";host=web.shop", (client, "web.shop")),
        ("for=10.0.0.1:4711;host=\"web.shop\"", (client, "web.shop")),
        ("host=web.shop", (None, "web.shop")),
        ("for=unknown;host=a b", (None, "")),
        ("For=\"10.0.0.1:4711\" ; HOST=x", (client, "x")),
        ("for=\"10.0.0.1:4711\";höst=x", (None, "")),
        ("", (None, "")),
    ] {
        let read = Forwarded::parse(text);
        assert_eq!((read.client, read.host.as_str()), expected, "{text}");
    }
}

#[test]
fn trace_parents() {
    let made = TraceParent::new(0xabc, 0xdef);
    let text = "00-00000000000000000000000000000abc-0000000000000def-00";
    assert_eq!(made.to_string(), text);
    assert_eq!(TraceParent::parse(text), Some(made));
    assert_eq!(TraceParent::parse(&text[1..]), None);
    assert_eq!(TraceParent::parse(&text.replace('a', "\n")), None);
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[!-+\\--~]{1,40}"]
}

proptest! {
    #[test]
    fn authorities_survive_the_wire(text in "\\PC{0,40}") {
        if let Ok(authority) = text.parse::<Authority>() {
            prop_assert_eq!(authority.to_string().parse(), Ok(authority.clone()));
            let read = ConnectRequest::read(&ConnectRequest::to(authority.clone()).write().into_parts().0);
            prop_assert_eq!(read.unwrap().authority, authority);
        }
    }

    #[test]
    fn every_address_is_an_authority(ip in any::<std::net::IpAddr>(), port in 1u16..) {
        let mapped = matches!(ip, std::net::IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        let authority = Authority::Ip((ip, port).into());
        let read = authority.to_string().parse::<Authority>();
        prop_assert_eq!(read.ok(), (!mapped).then_some(authority));
    }

    #[test]
    fn baggage_survives_the_wire(
        values in prop::array::uniform6(value()),
        kind in 0usize..4,
        name in "[!-+\\--~]{1,40}",
    ) {
        let kinds = [WorkloadType::Deployment, WorkloadType::CronJob, WorkloadType::Pod, WorkloadType::Job];
        let [cluster, namespace, service, version, region, zone] = values;
        let baggage = Baggage {
            cluster, namespace, workload: Some((kinds[kind], name)), service, version, region, zone,
        };
        prop_assert_eq!(Baggage::parse(&baggage.to_string()), baggage);
    }

    #[test]
    fn any_text_is_read_without_harm(text in "\\PC{0,200}") {
        let baggage = Baggage::parse(&text);
        prop_assert_eq!(Baggage::parse(&baggage.to_string()), baggage);
        let forwarded = Forwarded::parse(&text);
        prop_assert_eq!(Forwarded::parse(&forwarded.to_string()), forwarded);
    }
}
