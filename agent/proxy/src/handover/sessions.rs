//! The two ends at work: they block, so each has a thread.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::estate::{self, Estate};
use super::giver::{Giver, GiverHears, GiverShall};
use super::message::{Hello, Message, Refused};
use super::taker::{Taker, TakerHears, TakerShall};

/// Time the other end may take for one word, while it has nothing else to do.
const WORD: Duration = Duration::from_secs(5);
/// Time the predecessor may take to pause enrolment, and more.
const PAUSE: Duration = Duration::from_secs(4);
/// Time the successor may take to load the kernel side and to adopt every pod.
const ADOPTION: Duration = Duration::from_secs(60);

/// The predecessor's hands.
pub trait Incumbent {
    /// Pauses enrolment; false when that is not possible now.
    fn pause(&mut self) -> bool;

    /// Cedes the kernel side and collects what is to be handed to `heir`. When this fails it is
    /// taken back.
    fn cede(&mut self, heir: &Hello) -> io::Result<Estate>;

    /// Claims the kernel side again and lets enrolment go on.
    fn take_back(&mut self);

    /// Stops accepting; the enrolment socket is the successor's. Must not wait for the drain.
    fn retire(&mut self);
}

/// How it went for the predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It goes on.
    Goes,
    /// It has a successor.
    Retired,
}

/// Serves one that asks, as its predecessor.
pub fn give(stream: &UnixStream, followed: Option<String>, own: &mut impl Incumbent) -> Left {
    let mut giver = Giver::new(followed);
    let mut heard = hear_giver(stream, WORD);
    let hello = match &heard {
        GiverHears::Message(Message::Hello(hello)) => Some(hello.clone()),
        _ => None,
    };
    loop {
        heard = match giver.hear(&heard) {
            GiverShall::Pause => GiverHears::Paused(own.pause()),
            GiverShall::Offer => {
                let offered = hello
                    .as_ref()
                    .ok_or_else(|| io::ErrorKind::InvalidData.into())
                    .and_then(|heir| own.cede(heir))
                    .and_then(|estate| estate.send(stream));
                match offered {
                    Ok(()) => GiverHears::Sent,
                    Err(error) => {
                        tracing::warn!(%error, "hand-over: cannot offer");
                        GiverHears::Lost
                    }
                }
            }
            GiverShall::Wait => hear_giver(stream, ADOPTION),
            GiverShall::Refuse(because) => {
                // Asked again four times a second by one that stands by.
                if because != Refused::Superseded {
                    tracing::info!(?because, successor = ?hello, "hand-over refused");
                }
                let _ = estate::say(stream, &Message::Refused { because });
                return Left::Goes;
            }
            GiverShall::Retire => {
                own.retire();
                let _ = estate::say(stream, &Message::Retired);
                return Left::Retired;
            }
            GiverShall::TakeBack => {
                tracing::warn!(?heard, "hand-over: the successor does not serve, going on");
                own.take_back();
                return Left::Goes;
            }
            GiverShall::End => return Left::Goes,
        };
    }
}

fn hear_giver(stream: &UnixStream, limit: Duration) -> GiverHears {
    match hear(stream, limit) {
        Some((message, _)) => GiverHears::Message(message),
        None => GiverHears::Lost,
    }
}

/// The successor's hands.
pub trait Heir {
    /// Claims the kernel side, adopts what came, and accepts on its listeners.
    fn adopt(&mut self, estate: Estate) -> Result<(), String>;

    /// Whether this agent owns the kernel side.
    fn owns(&self) -> bool;
}

/// How it went for the successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// This is the agent of the node; [`Heir::adopt`] has succeeded.
    Over,
    /// There is nobody to follow: start as after a crash.
    Alone,
    /// Ask again in a moment.
    AskAgain,
    /// This agent was followed already: stand by until there is nobody.
    StandBy,
    /// The predecessor goes on, or this agent cannot serve.
    Failed,
}

/// Follows the agent at the other end.
pub fn take(stream: &UnixStream, hello: Hello, own: &mut impl Heir) -> Taken {
    let mut taker = Taker::default();
    let mut came = Estate::default();
    let mut failure = String::new();
    let mut heard = match estate::say(stream, &Message::Hello(hello)) {
        Ok(()) => hear_taker(stream, PAUSE, &mut came),
        Err(_) => TakerHears::Lost,
    };
    loop {
        heard = match taker.hear(&heard) {
            TakerShall::Receive => hear_taker(stream, WORD, &mut came),
            TakerShall::Adopt => {
                let adopted = own.adopt(std::mem::take(&mut came));
                if let Err(error) = &adopted {
                    failure.clone_from(error);
                }
                TakerHears::Adopted(adopted.is_ok())
            }
            TakerShall::SayServing => match estate::say(stream, &Message::Serving) {
                Ok(()) => hear_taker(stream, WORD, &mut came),
                Err(_) => TakerHears::Lost,
            },
            TakerShall::SayFailed => {
                tracing::error!(error = failure, "hand-over: cannot take over");
                let _ = estate::say(stream, &Message::Failed { error: failure });
                return Taken::Failed;
            }
            TakerShall::LookWhoOwns => TakerHears::Owns(own.owns()),
            TakerShall::Serve => return Taken::Over,
            TakerShall::StartAlone => return Taken::Alone,
            TakerShall::AskAgain => return Taken::AskAgain,
            TakerShall::StandBy => return Taken::StandBy,
            TakerShall::GiveUp => return Taken::Failed,
        };
    }
}

fn hear_taker(stream: &UnixStream, limit: Duration, came: &mut Estate) -> TakerHears {
    match hear(stream, limit) {
        Some((message, parcel)) => {
            came.keep(message.clone(), parcel);
            TakerHears::Message(message)
        }
        None => TakerHears::Lost,
    }
}

fn hear(stream: &UnixStream, limit: Duration) -> Option<(Message, agent_net::passing::Parcel)> {
    let heard = stream
        .set_read_timeout(Some(limit))
        .and_then(|()| stream.set_write_timeout(Some(WORD)))
        .and_then(|()| estate::hear(stream));
    heard
        .inspect_err(|error| tracing::debug!(%error, "hand-over: the other end is lost"))
        .ok()
}

#[cfg(test)]
mod tests;
