//! The predecessor's end, as a pure state machine.

use super::message::{Message, PROTOCOL, Refused};

/// What the predecessor's end hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GiverHears {
    /// The successor said something.
    Message(Message),
    /// Enrolment pauses, or cannot.
    Paused(bool),
    /// Everything was sent.
    Sent,
    /// The successor is gone, or silent for too long.
    Lost,
}

/// What the predecessor is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiverShall {
    /// Pause enrolment and say whether it does.
    Pause,
    /// Cede the kernel side, send everything, and say so.
    Offer,
    /// Wait for the successor's next word.
    Wait,
    /// Say this and end; nothing was ceded.
    Refuse(Refused),
    /// Stop accepting, say `Retired`, drain, end.
    Retire,
    /// Claim the kernel side again, let enrolment go on, end.
    TakeBack,
    /// End; nothing was begun.
    End,
}

/// The predecessor's end of one hand-over.
#[derive(Debug)]
pub struct Giver {
    state: State,
    /// Instance that this agent followed itself.
    followed: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Listening,
    Pausing,
    Offering,
    Waiting,
    Over,
}

impl Giver {
    /// For one that asks; `followed` is the instance that this agent followed itself, if any.
    pub fn new(followed: Option<String>) -> Self {
        Self {
            state: State::Listening,
            followed,
        }
    }

    /// What is to be done about what was heard.
    pub fn hear(&mut self, heard: &GiverHears) -> GiverShall {
        let (next, shall) = match (self.state, heard) {
            (State::Listening, GiverHears::Message(Message::Hello(hello))) => {
                if hello.protocol != PROTOCOL {
                    (State::Over, GiverShall::Refuse(Refused::Protocol))
                } else if self.followed.as_ref() == Some(&hello.instance) {
                    (State::Over, GiverShall::Refuse(Refused::Superseded))
                } else {
                    (State::Pausing, GiverShall::Pause)
                }
            }
            (State::Pausing, GiverHears::Paused(true)) => (State::Offering, GiverShall::Offer),
            (State::Pausing, GiverHears::Paused(false)) => {
                (State::Over, GiverShall::Refuse(Refused::Busy))
            }
            (State::Offering, GiverHears::Sent) => (State::Waiting, GiverShall::Wait),
            (State::Waiting, GiverHears::Message(Message::Serving)) => {
                (State::Over, GiverShall::Retire)
            }
            (State::Offering | State::Waiting, _) => (State::Over, GiverShall::TakeBack),
            _ => (State::Over, GiverShall::End),
        };
        self.state = next;
        shall
    }
}
