//! The successor's end, as a pure state machine.

use super::message::{Message, Offer, Refused};

/// What the successor's end hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakerHears {
    /// The predecessor said something.
    Message(Message),
    /// The predecessor is gone, or silent for too long.
    Lost,
    /// This agent serves what it was given, or cannot.
    Adopted(bool),
    /// The predecessor is gone without its last word: whether this agent owns the kernel side.
    Owns(bool),
}

/// What the successor is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakerShall {
    /// Keep what came with the message, if anything, and wait for the next.
    Receive,
    /// Claim the kernel side, adopt what came, serve it, and say whether that worked.
    Adopt,
    /// Say `Serving` and wait for the next word.
    SayServing,
    /// Say `Failed` and give up.
    SayFailed,
    /// Look whether this agent owns the kernel side.
    LookWhoOwns,
    /// It is done: this is the agent of the node.
    Serve,
    /// There is nobody to follow: start as after a crash.
    StartAlone,
    /// Ask again in a moment.
    AskAgain,
    /// This agent has been followed already: stand by until there is nobody.
    StandBy,
    /// The predecessor goes on: end, and change nothing.
    GiveUp,
}

/// The successor's end of one hand-over, from the moment in which it has said `Hello`.
#[derive(Debug)]
pub struct Taker {
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Asking,
    /// What is still to come: pods, certificates, listeners.
    Receiving([u32; 3]),
    Adopting,
    Announced,
    Looking,
    Over,
}

impl Default for Taker {
    fn default() -> Self {
        Self {
            state: State::Asking,
        }
    }
}

impl Taker {
    /// What is to be done about what was heard.
    pub fn hear(&mut self, heard: &TakerHears) -> TakerShall {
        let (next, shall) = match (&mut self.state, heard) {
            (State::Asking, TakerHears::Message(Message::Refused { because })) => {
                let shall = match because {
                    Refused::Protocol => TakerShall::StartAlone,
                    Refused::Superseded => TakerShall::StandBy,
                    Refused::Busy => TakerShall::AskAgain,
                };
                (State::Over, shall)
            }
            (State::Asking, TakerHears::Message(Message::Offer(offer))) => {
                (State::Receiving(Offer::items(offer)), TakerShall::Receive)
            }
            // Dead, hung, or not what it should be: its claim ends with ours.
            (State::Asking, _) => (State::Over, TakerShall::StartAlone),
            (State::Receiving(left), TakerHears::Message(Message::End)) if *left == [0; 3] => {
                (State::Adopting, TakerShall::Adopt)
            }
            (State::Receiving(left), TakerHears::Message(message)) => {
                match one_less(*left, message) {
                    Some(left) => (State::Receiving(left), TakerShall::Receive),
                    None => (State::Adopting, TakerShall::Adopt),
                }
            }
            // What has come is good; the rest is enrolled again.
            (State::Receiving(_), _) => (State::Adopting, TakerShall::Adopt),
            (State::Adopting, TakerHears::Adopted(true)) => {
                (State::Announced, TakerShall::SayServing)
            }
            (State::Adopting, _) => (State::Over, TakerShall::SayFailed),
            (State::Announced, TakerHears::Message(Message::Retired)) => {
                (State::Over, TakerShall::Serve)
            }
            // It has died, or has taken everything back: then its claim is later than ours.
            (State::Announced, _) => (State::Looking, TakerShall::LookWhoOwns),
            (State::Looking, TakerHears::Owns(true)) => (State::Over, TakerShall::Serve),
            (State::Looking | State::Over, _) => (State::Over, TakerShall::GiveUp),
        };
        self.state = next;
        shall
    }
}

/// What is left to come after `message`; `None` when it should not have come.
fn one_less(mut left: [u32; 3], message: &Message) -> Option<[u32; 3]> {
    let place = match message {
        Message::Pod(_) => 0,
        Message::Certificate(_) => 1,
        Message::Listener { .. } => 2,
        _ => return None,
    };
    left[place] = left[place].checked_sub(1)?;
    Some(left)
}
