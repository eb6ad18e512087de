//! The debug switch.

use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::lab::{Lab, accept, connect, eventually, turn};

static LINES: AtomicUsize = AtomicUsize::new(0);

#[test]
fn programs_speak_only_when_they_are_asked_to() {
    let Some(_turn) = turn() else { return };
    tracing::subscriber::set_global_default(CountLines).unwrap();
    let mut lab = Lab::new();
    for debug in [false, true] {
        lab.config.debug = debug;
        let pod = lab.pod(1 + u8::from(debug));
        let datapath = lab.load();
        let enrolled = pod.enrol(&datapath);
        let _client = connect(&pod.netns, "198.51.100.7:80".parse().unwrap()).unwrap();
        assert!(accept(&enrolled.outbound).is_some());
        if debug {
            eventually("a line", || LINES.load(Ordering::Relaxed) > 0);
        } else {
            assert_eq!(LINES.load(Ordering::Relaxed), 0);
        }
    }
}

/// Counts the lines of the programs.
struct CountLines;

impl Subscriber for CountLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "ebpf"
    }

    fn event(&self, _: &Event<'_>) {
        LINES.fetch_add(1, Ordering::Relaxed);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
