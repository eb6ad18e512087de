use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

#[derive(Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Vec<u8>>>);

impl io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Capture {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What `work` logs, at any level.
pub(crate) fn logged(format: LogFormat, work: impl FnOnce()) -> String {
    let capture = Capture::default();
    let subscriber = tracing_subscriber::registry().with(
        tracing_subscriber::fmt::layer()
            .event_format(LineFormat(format))
            .with_writer(capture.clone()),
    );
    tracing::subscriber::with_default(subscriber, work);
    let bytes = capture.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn text_is_tab_separated_with_quoted_fields() {
    let line = logged(LogFormat::Text, || {
        tracing::event!(target: "access", Level::INFO, src.addr = %"10.0.0.1:5", n = 7u64, ok = true,
            name = "web", missing = Option::<&str>::None, "connection complete");
    });
    let columns: Vec<&str> = line.trim_end_matches('\n').split('\t').collect();
    assert_eq!(columns[0].len(), "2026-11-21T10:00:00.000000Z".len());
    assert_eq!(
        columns[1..],
        [
            "info",
            "access",
            "connection complete",
            r#"src.addr="10.0.0.1:5" n=7 ok=true name="web""#
        ]
    );
}

#[test]
fn no_value_and_no_message_can_forge_a_line() {
    let line = logged(LogFormat::Text, || {
        tracing::warn!(error = "x\"\n2026\tinfo\taccess", "a\tb\nc");
    });
    assert_eq!(line.matches('\n').count(), 1);
    assert_eq!(line.matches('\t').count(), 4);
    assert!(line.ends_with("a\\tb\\nc\terror=\"x\\\"\\n2026\\tinfo\\taccess\"\n"));
}

#[test]
fn json_has_the_known_keys_and_typed_fields() {
    let line = logged(LogFormat::Json, || {
        tracing::error!(target: "access", reason = "policy-denied", bytes_sent = 5u64,
            dst.addr = %"[::1]:80", "say \"no\"\n");
    });
    assert_eq!(line.matches('\n').count(), 1);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["level"], "error");
    assert_eq!(value["scope"], "access");
    assert_eq!(value["message"], "say \"no\"\n");
    assert_eq!(value["reason"], "policy-denied");
    assert_eq!(value["bytes_sent"], 5);
    assert_eq!(value["dst.addr"], "[::1]:80");
    assert!(value["time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn times_are_utc_with_fixed_width() {
    let mut out = String::new();
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(1_700_000_000_000_042);
    write_time(&mut out, time).unwrap();
    assert_eq!(out, "2023-11-14T22:13:20.000042Z");
}
