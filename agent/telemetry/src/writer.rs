//! The bounded buffer between the threads that log and the one thread that writes.
//!
//! A full buffer (the reader of our log is stuck or slow) drops the new line and counts it: a log
//! storm costs the data path a short lock and a copy, never a wait.

use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Bytes of log lines held for a slow reader before lines are dropped.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;
/// How long the end of the process waits for the last lines to be written.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Where lines wait for the writer thread.
#[derive(Debug)]
pub(crate) struct Buffer {
    state: Mutex<State>,
    changed: Condvar,
    dropped: Arc<AtomicU64>,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    closing: bool,
    finished: bool,
}

impl Buffer {
    /// Makes a buffer of `limit` bytes and the thread that empties it into `sink`.
    pub(crate) fn start(limit: usize, sink: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        let buffer = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            dropped: Arc::default(),
            limit,
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

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.finished || state.lines.len() + line.len() > self.limit {
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        drop(state);
        if was_empty {
            self.changed.notify_all();
        }
    }

    fn write_until_closed(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        while self.take(&mut batch) {
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

    /// Swaps the waiting lines into the empty `batch`; false when closed and empty.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| {
                state.lines.is_empty() && !state.closing
            })
            .unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut state.lines, batch);
        !batch.is_empty()
    }

    /// The state stays consistent when a holder panics: every change is one statement.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one line per call, as the formatting layer does.
pub(crate) struct LineWriter<'a>(&'a Buffer);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
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
        let buffer = Buffer::start(1024, Channel(sender)).unwrap();
        for n in 0..100 {
            buffer.push(format!("{n}\n").as_bytes());
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
        let buffer = Buffer::start(100, Stuck(stuck)).unwrap();
        buffer.push(&[b'x'; 10]);
        while !buffer.lock().lines.is_empty() {
            thread::yield_now();
        }
        let start = std::time::Instant::now();
        for _ in 0..1000 {
            buffer.push(&[b'x'; 10]);
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
        let buffer = Buffer::start(100, Channel(sender)).unwrap();
        buffer.close();
        buffer.push(b"late\n");
        assert_eq!(buffer.dropped.load(Ordering::Relaxed), 1);
    }
}
