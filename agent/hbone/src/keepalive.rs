//! PING: notices a peer that is gone.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

/// Sends a PING after `interval` of quiet and expects its answer within `timeout`.
pub(crate) struct Keepalive {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    interval: Duration,
    timeout: Duration,
}

/// What [`Keepalive::poll`] reports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// A PING went out: one interval has passed.
    Sent,
    /// The peer did not answer.
    Dead,
}

impl Keepalive {
    pub(crate) fn new(pings: PingPong, interval: Duration, timeout: Duration) -> Self {
        Self {
            pings,
            timer: Box::pin(tokio::time::sleep(interval)),
            waiting: false,
            interval,
            timeout,
        }
    }

    /// To be polled by the task that drives the connection.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Beat> {
        // An error here means that the connection is ending: its own poll will say so.
        if self.waiting && matches!(self.pings.poll_pong(cx), Poll::Ready(Ok(_))) {
            self.waiting = false;
            self.timer.as_mut().reset(Instant::now() + self.interval);
        }
        ready!(self.timer.as_mut().poll(cx));
        if self.waiting || self.pings.send_ping(Ping::opaque()).is_err() {
            return Poll::Ready(Beat::Dead);
        }
        self.waiting = true;
        self.timer.as_mut().reset(Instant::now() + self.timeout);
        // Registers for the answer and for the new deadline.
        cx.waker().wake_by_ref();
        Poll::Ready(Beat::Sent)
    }
}
