//! Pauses of enrolment: while one lasts nothing is enrolled or given up, and whoever asked for it
//! may take the enrolment socket elsewhere.

use std::os::fd::OwnedFd;

use tokio::sync::{mpsc, oneshot};

/// Makes both ends: one asks for pauses, the other grants them.
pub fn pauses() -> (Pauses, PauseRequests) {
    let (sender, receiver) = mpsc::channel(1);
    (Pauses(sender), PauseRequests(receiver))
}

/// Asks for pauses.
#[derive(Debug, Clone)]
pub struct Pauses(mpsc::Sender<Request>);

impl Pauses {
    /// Waits until requests under way have ended and no more are taken. `None` when enrolment has
    /// ended or cannot pause now. Safe to drop before it completes.
    pub async fn pause(&self) -> Option<Pause> {
        let (granted, grant) = oneshot::channel();
        self.0.send(Request { granted }).await.ok()?;
        grant.await.ok()
    }
}

/// A pause that lasts. Dropped, enrolment goes on as if nothing had been.
#[derive(Debug)]
pub struct Pause {
    /// The enrolment socket; requests wait in it.
    pub socket: OwnedFd,
    decided: oneshot::Sender<Verdict>,
}

impl Pause {
    /// Ends enrolment for good: the socket and its file are somebody else's now.
    pub fn handed_over(self) {
        let _ = self.decided.send(Verdict::HandedOver);
    }
}

/// What becomes of enrolment after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    GoOn,
    HandedOver,
}

/// Grants pauses.
#[derive(Debug)]
pub struct PauseRequests(mpsc::Receiver<Request>);

impl PauseRequests {
    /// The next request; never when nobody can ask any more. Safe to drop.
    pub(crate) async fn next(&mut self) -> Request {
        match self.0.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

/// Somebody asks for a pause. Dropped, there is none.
#[derive(Debug)]
pub(crate) struct Request {
    granted: oneshot::Sender<Pause>,
}

impl Request {
    /// Grants it and waits for its end.
    pub(crate) async fn pause(self, socket: &OwnedFd) -> Verdict {
        let Ok(socket) = socket.try_clone() else {
            return Verdict::GoOn;
        };
        let (decided, decision) = oneshot::channel();
        if self.granted.send(Pause { socket, decided }).is_err() {
            return Verdict::GoOn;
        }
        decision.await.unwrap_or(Verdict::GoOn)
    }
}
