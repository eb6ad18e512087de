use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{io, thread};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::event::tests::{Capture, logged};

/// An access log over a place to look at.
fn log(format: LogFormat) -> (AccessLog, Capture) {
    let capture = Capture::default();
    let pause = Duration::from_millis(1);
    let buffer = Buffer::start(1 << 16, pause, capture.clone()).unwrap();
    (AccessLog::new(format, buffer), capture)
}

/// The lines that `work` writes, without their time.
fn written(format: LogFormat, work: impl FnOnce(&AccessLog)) -> String {
    let (log, capture) = log(format);
    work(&log);
    log.buffer.close();
    without_time(&capture.text())
}

/// Length of a time.
const TIME: usize = 27;

fn without_time(lines: &str) -> String {
    let strip = |line: &str| match line.split_once("\"time\":\"") {
        Some((before, after)) => format!("{before}{}\n", &after[TIME + 2..]),
        None => format!("{}\n", &line[TIME..]),
    };
    lines.lines().map(strip).collect()
}

const NASTY: &str = "a\"b\\c\nd\te\u{1b}[2J\u{202e}\u{7f}é\0";

/// What the event beside it has.
fn fill(line: &mut Line<'_>, client: SocketAddr) {
    line.address("src.addr", client);
    line.text("src.workload", "web-1");
    line.text("src.namespace", None);
    line.display("src.identity", Some(NASTY));
    line.address("dst.addr", None);
    line.number("listener.port", 8080);
    line.text("http.host", NASTY);
    line.debug("http.version", Some(Some(NASTY)));
    line.number("grpc.status", None);
    line.number("bytes", u64::MAX);
    line.millis("duration", Duration::from_micros(1_024_007));
    line.hex("trace.id", Some(&[0x0a, 0xff, 0x00]));
    line.text("error", "");
}

#[test]
fn a_line_is_that_of_the_same_event() {
    for format in [LogFormat::Text, LogFormat::Json] {
        for client in ["192.0.2.255:65535", "0.0.0.0:0", "[2001:db8::1]:80"] {
            let client: SocketAddr = client.parse().unwrap();
            let event = logged(format, || {
                tracing::event!(
                    target: "access",
                    Level::INFO,
                    src.addr = %client,
                    src.workload = "web-1",
                    src.namespace = None::<&str>,
                    src.identity = %NASTY,
                    dst.addr = None::<SocketAddr>.map(tracing::field::display),
                    listener.port = 8080u16,
                    http.host = NASTY,
                    http.version = ?Some(NASTY),
                    grpc.status = None::<u16>,
                    bytes = u64::MAX,
                    duration = "1024.007ms",
                    trace.id = "0aff00",
                    error = "",
                    "request complete"
                );
            });
            let line = written(format, |log| {
                log.push(SystemTime::now(), "request complete", |line| {
                    fill(line, client);
                });
            });
            assert_eq!(line, without_time(&event));
        }
    }
}

#[test]
fn lines_are_as_documented() {
    let work = |log: &AccessLog| {
        log.push(SystemTime::now(), "request complete", |line| {
            line.address("src.addr", SocketAddr::from(([10, 0, 0, 1], 5)));
            line.text("http.path", "/\u{1b}\"\u{202e}");
            line.number("http.status", 200);
            line.millis("duration", Duration::from_micros(40));
        });
    };
    assert_eq!(
        written(LogFormat::Text, work),
        "\tinfo\taccess\trequest complete\tsrc.addr=\"10.0.0.1:5\" \
         http.path=\"/\\u{1b}\\\"\\u{202e}\" http.status=200 duration=\"0.040ms\"\n"
    );
    // The time is cut out.
    assert_eq!(
        written(LogFormat::Json, work),
        "{\"level\":\"info\",\"scope\":\"access\",\"message\":\"request complete\",\
         \"src.addr\":\"10.0.0.1:5\",\"http.path\":\"/\\u001b\\\"\u{202e}\",\
         \"http.status\":200,\"duration\":\"0.040ms\"}\n"
    );
}

#[test]
fn lines_come_out_whole_and_each_threads_in_order() {
    let lines = written(LogFormat::Text, |log| {
        thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for n in 0..100 {
                        log.push(SystemTime::now(), "x", |line| {
                            line.number("thread", thread);
                            line.number("n", n);
                        });
                    }
                });
            }
        });
    });
    assert_eq!(lines.lines().count(), 400);
    for thread in 0..4 {
        let own = format!("\tinfo\taccess\tx\tthread={thread} n=");
        let own: Vec<_> = lines
            .lines()
            .filter_map(|l| l.strip_prefix(&*own))
            .collect();
        let want: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(own, want);
    }
}

#[test]
fn what_finds_no_room_is_counted() {
    /// Takes one batch and then no more, until it is let go.
    struct Stuck(Arc<Mutex<()>>);

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.0.lock().unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let buffer = Buffer::start(1000, Duration::ZERO, Stuck(Arc::clone(&gate))).unwrap();
    let log = AccessLog::new(LogFormat::Text, Arc::clone(&buffer));
    for _ in 0..100 {
        log.push(SystemTime::now(), "x", |line| {
            line.text("path", &*"y".repeat(60))
        });
    }
    // At most what the writer holds, and what the buffer does.
    let dropped = buffer.dropped().load(Ordering::Relaxed);
    assert!((80..100).contains(&dropped), "{dropped}");
    drop(held);
    buffer.close();
}

#[test]
fn the_filter_decides_and_a_long_line_leaves_no_long_buffer() {
    for (filter, lines) in [("info", 2), ("info,access=off", 0), ("access=warn", 0)] {
        let filter = EnvFilter::builder().parse(filter).unwrap();
        let (log, capture) = log(LogFormat::Text);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filter), || {
            log.write("x", |line| line.text("path", &*"y".repeat(3 * KEPT)));
            log.write("x", |_| {});
        });
        log.buffer.close();
        assert_eq!(capture.text().lines().count(), lines);
        let scratch = SCRATCH.take();
        assert!(scratch.capacity() <= KEPT && scratch.is_empty());
    }
}
