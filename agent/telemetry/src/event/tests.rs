use std::io;
use std::sync::{Arc, Mutex};

use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

#[derive(Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    /// What was written so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

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
    capture.text()
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
fn numbers_and_booleans_are_bare_in_both_forms() {
    let work = || {
        tracing::info!(
            low = -5i64,
            high = u64::MAX,
            part = 1.5,
            none = f64::NAN,
            yes = true
        )
    };
    let text = logged(LogFormat::Text, work);
    let fields = "low=-5 high=18446744073709551615 part=1.5 none=NaN yes=true\n";
    assert!(text.ends_with(fields), "{text}");
    let json = logged(LogFormat::Json, work);
    let fields =
        "\"low\":-5,\"high\":18446744073709551615,\"part\":1.5,\"none\":null,\"yes\":true}\n";
    assert!(json.ends_with(fields), "{json}");
}
