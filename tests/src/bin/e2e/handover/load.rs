//! New connections at a steady rate, whatever becomes of those before, and what clients saw.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tests::Place;
use tests::traffic::echo_on;

use super::LIMIT;

/// So many that one that waits keeps none of the others back.
const CLIENTS: u32 = 50;

/// What is offered, and what a hand-over may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Connections a second, over all clients.
    pub(super) rate: u32,
    /// Part of the rate, in percent, that must really have been offered for times to say anything.
    held: usize,
    /// It has to be: the machine is given to this alone.
    is_alone: bool,
    /// The slowest connection may take that much longer than the slowest without a hand-over in the same
    /// run, and so may the longest time in which none is served. Nobody stops accepting, so what is
    /// seen is the processor time that a starting agent takes from the others on a busy machine.
    cost: Duration,
}

/// For a machine that has nothing else to do. A fifth of what a lost SYN would cost: a client with any
/// timeout does not notice.
pub(super) const FULL: Terms = Terms {
    rate: 500,
    held: 98,
    is_alone: true,
    cost: Duration::from_millis(200),
};

/// For one that has: less than what a lost SYN would cost. Clients that are late at the end have not
/// offered all.
pub(super) const SHORT: Terms = Terms {
    rate: 100,
    held: 90,
    is_alone: false,
    cost: Duration::from_millis(800),
};

/// One connection. Times count from when it was due, not from when the client got round to it.
#[derive(Debug, Clone, Copy)]
struct Sample {
    due: Instant,
    served: Instant,
}

/// The clients' work.
pub(super) struct Load {
    terms: Terms,
    stop: AtomicBool,
    samples: Mutex<Vec<Sample>>,
    failures: Mutex<Vec<(Instant, io::Error)>>,
}

impl Load {
    /// None before [`Load::during`].
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            terms,
            stop: AtomicBool::default(),
            samples: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// Runs `work` under load from `place` to `targets`. Fails with it, or as soon as it is over
    /// when a connection failed.
    pub(super) fn during<T>(
        &self,
        place: &Place,
        targets: [SocketAddr; 2],
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let start = Instant::now() + Duration::from_millis(100);
        let done = thread::scope(|scope| {
            for client in 0..CLIENTS {
                let to = targets[client as usize % 2];
                let first = start + Duration::from_secs(1) * client / self.terms.rate;
                scope.spawn(move || place.within(|| self.client(to, first)));
            }
            let done = work();
            self.stop.store(true, Ordering::SeqCst);
            done
        })?;
        self.must_have_served_all()?;
        Ok(done)
    }

    /// Opens connections on time, never one twice.
    fn client(&self, to: SocketAddr, first: Instant) {
        let mut due = first;
        while !self.stop.load(Ordering::SeqCst) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            match once(to) {
                Ok(()) => lock(&self.samples).push(Sample {
                    due,
                    served: Instant::now(),
                }),
                Err(error) => lock(&self.failures).push((due, error)),
            }
            due += Duration::from_secs(1) * CLIENTS / self.terms.rate;
        }
    }

    /// Fails when a connection failed so far.
    pub(super) fn must_have_served_all(&self) -> Result<()> {
        let failures = lock(&self.failures);
        if let Some((when, error)) = failures.last() {
            bail!(
                "{} connections failed, the last {:?} ago: {error}",
                failures.len(),
                when.elapsed()
            );
        }
        Ok(())
    }

    /// What clients saw of the connections that were due in a time.
    pub(super) fn seen(&self, from: Instant, to: Instant) -> Result<Seen> {
        let mut samples = lock(&self.samples).clone();
        samples.retain(|sample| sample.due >= from && sample.due < to);
        let due = (to.duration_since(from).as_secs_f64() * f64::from(self.terms.rate)) as usize;
        Seen::of(samples, due)
    }
}

/// What clients saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    connections: usize,
    /// Connections that were due.
    due: usize,
    median: Duration,
    /// 99 of 100 took less.
    p99: Duration,
    slowest: Duration,
    /// The longest time in which not one was served.
    gap: Duration,
}

impl Seen {
    fn of(mut samples: Vec<Sample>, due: usize) -> Result<Self> {
        samples.sort_by_key(|sample| sample.served);
        let gaps = samples
            .windows(2)
            .map(|pair| pair[1].served.duration_since(pair[0].served));
        let gap = gaps.max().unwrap_or_default();
        let mut took: Vec<_> = samples
            .iter()
            .map(|sample| sample.served.duration_since(sample.due))
            .collect();
        took.sort();
        let Some(slowest) = took.last() else {
            bail!("no connection");
        };
        Ok(Self {
            connections: took.len(),
            due,
            median: took[took.len() / 2],
            p99: took[took.len() * 99 / 100],
            slowest: *slowest,
            gap,
        })
    }

    /// The rate was offered and served, and who came during a hand-over waited hardly longer than
    /// who came `before`.
    pub(super) fn must_be_hardly_worse_than(&self, before: &Self, terms: Terms) -> Result<()> {
        for seen in [before, self] {
            let (due, opened) = (seen.due, seen.connections);
            if opened * 100 >= due * terms.held {
                continue;
            }
            ensure!(
                !terms.is_alone,
                "{due} connections were due, {opened} were opened in time"
            );
            println!(
                "  {opened} of {due} in time: this machine is too busy to say how long they wait"
            );
            return Ok(());
        }
        for (what, now, then) in [
            ("the slowest took", self.slowest, before.slowest),
            ("none was served for", self.gap, before.gap),
        ] {
            ensure!(
                now <= then + terms.cost,
                "{what} {now:?}, without a hand-over {then:?}"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(
            f,
            "{} connections of {} due, none failed; median {:.1}, p99 {:.1}, slowest {:.1} ms; at most {:.1} ms without one",
            self.connections,
            self.due,
            ms(self.median),
            ms(self.p99),
            ms(self.slowest),
            ms(self.gap)
        )
    }
}

/// Connect, ask, get the answer, half-close, see the end.
pub(super) fn once(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    echo_on(&mut stream, b"is anybody there?")?;
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::new(
            ErrorKind::InvalidData,
            "more than was asked",
        )),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
