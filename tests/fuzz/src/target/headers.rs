//! Header values that only inform: what they yield must be writable again, and change nothing.

use agent_hbone::headers::{Baggage, Forwarded, TraceParent};
use http::HeaderValue;

pub(super) const WORDS: &[&str] = &[
    "k8s.cluster.name=",
    "k8s.namespace.name=",
    "k8s.deployment.name=",
    "k8s.pod.name=",
    "k8s.job.name=",
    "k8s.cronjob.name=",
    "service.name=",
    "service.version=",
    "cloud.region=",
    "cloud.availability_zone=",
    ",",
    "=",
    ";",
    " ",
    "\"",
    "for=",
    "host=",
    "[fe80::1%1]:80",
    "10.0.0.1:80",
    "é",
    "\0",
    "\t",
];

pub(super) fn baggage(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let read = Baggage::parse(&text);
    let written = sendable(&read.to_string());
    assert_eq!(Baggage::parse(&written), read, "{written:?}");
    let named = [&read.namespace, &read.service, &read.zone, &read.cluster];
    for value in named
        .into_iter()
        .chain(read.workload.as_ref().map(|(_, name)| name))
    {
        assert!(
            value.is_empty() || text.contains(value.as_str()),
            "{value:?} was not sent"
        );
        assert!(value.len() <= 512);
    }
}

pub(super) fn forwarded(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let read = Forwarded::parse(&text);
    let written = sendable(&read.to_string());
    assert_eq!(Forwarded::parse(&written), read, "{written:?}");
    assert!(read.host.is_empty() || text.contains(&read.host));
    if let Some(trace) = TraceParent::parse(&text) {
        assert_eq!(trace.to_string(), text);
        assert_eq!(sendable(&text).len(), 55);
    }
}

/// A header and a log line may hold it.
fn sendable(value: &str) -> String {
    assert!(
        value.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
        "{value:?}"
    );
    assert!(HeaderValue::from_str(value).is_ok());
    assert!(value.len() <= 8 * 1024);
    value.to_owned()
}
