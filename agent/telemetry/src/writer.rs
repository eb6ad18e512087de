//! The bounded buffer between the threads that log and the one thread that writes.
//!
//! A full buffer (the reader of our log is stuck or slow) drops the new line and counts it: a log
//! storm costs the data path a short lock and a copy, never a wait.
//!
//! An event wakes the writer, a line of a busy access log does so once for many: the first after a
//! pause is written at once, those that follow together when the pause is over again or there are
//! enough. Whatever is written, everything that came before it is.

use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes of log lines held for a slow reader before lines are dropped.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;
/// Bytes of lines that are in no haste and are written before their time.
const BATCH_BYTES: usize = 64 << 10;
/// Time between two batches of lines that are in no haste.
pub(crate) const BATCH_PAUSE: Duration = Duration::from_millis(100);
/// How long the end of the process waits for the last lines to be written.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Where lines wait for the writer thread.
#[derive(Debug)]
pub(crate) struct Buffer {
    state: Mutex<State>,
    changed: Condvar,
    dropped: Arc<AtomicU64>,
    limit: usize,
    pause: Duration,
}

/// When a line is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    /// As soon as the writer can.
    Now,
    /// With others.
    Batched,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// One of the lines is to be written now.
    urgent: bool,
    closing: bool,
    finished: bool,
}

impl Buffer {
    /// Makes a buffer of `limit` bytes and the thread that empties it into `sink`, batches `pause`
    /// apart.
    pub(crate) fn start(
        limit: usize,
        pause: Duration,
        sink: impl Write + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let buffer = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            dropped: Arc::default(),
            limit,
            pause,
        });
        let writer = Arc::clone(&buffer);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.write_until_closed(sink))?;
        Ok(buffer)
    }

    /// Counts the lines that were dropped, since the start.
    pub(crate) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    /// Writes what is left and stops the thread; gives up after two seconds.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        self.changed.notify_all();
        let _ = self
            .changed
            .wait_timeout_while(state, CLOSE_WAIT, |state| !state.finished);
    }

    /// Takes one whole line, or counts it as dropped.
    pub(crate) fn push(&self, line: &[u8], haste: Haste) {
        let mut state = self.lock();
        let before = state.lines.len();
        if state.finished || before + line.len() > self.limit {
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.lines.extend_from_slice(line);
        let wakes = match haste {
            Haste::Now => !mem::replace(&mut state.urgent, true),
            Haste::Batched => before == 0 || (before < BATCH_BYTES && state.is_batch()),
        };
        drop(state);
        if wakes {
            self.changed.notify_all();
        }
    }

    fn write_until_closed(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        let mut due = Instant::now();
        while self.take(&mut batch, due) {
            due = Instant::now() + self.pause;
            // There is nowhere left to report that the log itself cannot be written.
            if sink.write_all(&batch).and_then(|()| sink.flush()).is_err() {
                let lines = batch.iter().filter(|&&byte| byte == b'\n').count();
                self.dropped.fetch_add(lines as u64, Ordering::Relaxed);
            }
            batch.clear();
        }
        self.lock().finished = true;
        self.changed.notify_all();
    }

    /// Swaps the waiting lines into the empty `batch`, before `due` only for a reason; false when
    /// closed and empty.
    fn take(&self, batch: &mut Vec<u8>, due: Instant) -> bool {
        let state = self
            .changed
            .wait_while(self.lock(), |state| {
                state.lines.is_empty() && !state.closing
            })
            .unwrap_or_else(PoisonError::into_inner);
        let left = due.saturating_duration_since(Instant::now());
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, left, |state| {
                !state.urgent && !state.is_batch() && !state.closing
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.urgent = false;
        mem::swap(&mut state.lines, batch);
        !batch.is_empty()
    }

    /// The state stays consistent when a holder panics: every change is one statement.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_batch(&self) -> bool {
        self.lines.len() >= BATCH_BYTES
    }
}

/// Writes one line per call, as the formatting layer does.
pub(crate) struct LineWriter<'a>(&'a Buffer);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line, Haste::Now);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the formatting layer its writer.
#[derive(Debug, Clone)]
pub(crate) struct MakeLineWriter(pub(crate) Arc<Buffer>);

impl<'a> MakeWriter<'a> for MakeLineWriter {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// So long that nothing is written because it is over.
    const LONG: Duration = Duration::from_secs(3600);
    /// So long that whatever happens at all has happened.
    const PATIENCE: Duration = Duration::from_secs(20);

    struct Channel(mpsc::Sender<Vec<u8>>);

    impl Write for Channel {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Blocks until the test lets it go.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn close_writes_what_is_left_in_order() {
        let (sender, receiver) = mpsc::channel();
        let buffer = Buffer::start(1024, LONG, Channel(sender)).unwrap();
        for n in 0..100 {
            buffer.push(format!("{n}\n").as_bytes(), Haste::Now);
        }
        buffer.close();
        let written: Vec<u8> = receiver.try_iter().flatten().collect();
        let expected: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(String::from_utf8(written).unwrap(), expected);
        assert_eq!(buffer.dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_stuck_reader_costs_lines_not_time_and_they_are_counted() {
        let (release, stuck) = mpsc::channel();
        let buffer = Buffer::start(100, LONG, Stuck(stuck)).unwrap();
        buffer.push(&[b'x'; 10], Haste::Now);
        while !buffer.lock().lines.is_empty() {
            thread::yield_now();
        }
        let start = Instant::now();
        for haste in [Haste::Now, Haste::Batched].repeat(500) {
            buffer.push(&[b'x'; 10], haste);
        }
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(buffer.lock().lines.len(), 100);
        assert_eq!(buffer.dropped.load(Ordering::Relaxed), 990);
        drop(release);
        buffer.close();
    }

    #[test]
    fn lines_after_close_are_counted_as_dropped() {
        let (sender, _receiver) = mpsc::channel();
        let buffer = Buffer::start(100, LONG, Channel(sender)).unwrap();
        buffer.close();
        buffer.push(b"late\n", Haste::Now);
        buffer.push(b"later\n", Haste::Batched);
        assert_eq!(buffer.dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_first_line_is_written_at_once_and_those_that_follow_with_the_next_event() {
        let (sender, receiver) = mpsc::channel();
        let buffer = Buffer::start(1024, LONG, Channel(sender)).unwrap();
        buffer.push(b"1\n", Haste::Batched);
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), b"1\n");
        buffer.push(b"2\n", Haste::Batched);
        buffer.push(b"3\n", Haste::Batched);
        buffer.push(b"event\n", Haste::Now);
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), b"2\n3\nevent\n");
        buffer.push(b"4\n", Haste::Batched);
        buffer.push(b"5\n", Haste::Batched);
        buffer.close();
        assert_eq!(receiver.try_recv().unwrap(), b"4\n5\n", "the last ones");
        assert!(receiver.try_recv().is_err());
    }

    #[test]
    fn enough_lines_are_a_batch() {
        let (sender, receiver) = mpsc::channel();
        let buffer = Buffer::start(BUFFER_BYTES, LONG, Channel(sender)).unwrap();
        let mut line = vec![b'x'; 1024];
        line[1023] = b'\n';
        buffer.push(&line, Haste::Batched);
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap().len(), 1024);
        for _ in 0..BATCH_BYTES / 1024 {
            assert!(receiver.try_recv().is_err(), "not yet");
            buffer.push(&line, Haste::Batched);
        }
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap().len(), BATCH_BYTES);
        buffer.close();
    }

    #[test]
    fn a_pause_ends_by_itself() {
        let (sender, receiver) = mpsc::channel();
        let pause = Duration::from_millis(1);
        let buffer = Buffer::start(1024, pause, Channel(sender)).unwrap();
        for line in [b"1\n", b"2\n", b"3\n"] {
            buffer.push(line, Haste::Batched);
            assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), line);
        }
        buffer.close();
    }
}
