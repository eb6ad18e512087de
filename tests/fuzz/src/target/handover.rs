//! What one agent reads of another while it follows it: lengths, headers, and their order.

use agent_net::passing::{Lengths, MAX_BODY, MAX_DESCRIPTORS, MAX_HEADER, PREFIX};
use agent_proxy::handover::{
    Giver, GiverHears, GiverShall, Message, Taker, TakerHears, TakerShall,
};

pub(super) const WORDS: &[&str] = &[
    "{\"message\":\"hello\",",
    "\"protocol\":1,",
    "\"version\":\"1\",",
    "\"instance\":\"a\",",
    "\"namespace\":7}",
    "{\"message\":\"refused\",\"because\":\"busy\"}",
    "\"superseded\"",
    "{\"message\":\"offer\",\"version\":\"1\",\"instance\":\"b\",\"pods\":1,\"certificates\":0,\"listeners\":0}",
    ",\"wishes\":{\"pods\":[],\"meshedNamespaces\":[\"a\"]}}",
    "{\"uid\":\"u\",\"namespace\":\"a\",\"name\":\"w\",\"ips\":[\"10.0.0.1\"],\"wanted\":\"enrol\",\"reason\":\"\"}",
    "4294967295",
    "{\"message\":\"pod\",",
    "\"netns\":1,\"older\":[]}",
    "{\"message\":\"listener\",\"name\":\"enrolment\"}",
    "{\"message\":\"end\"}",
    "{\"message\":\"serving\"}",
    "{\"message\":\"failed\",\"error\":\"\"}",
    "{\"message\":\"retired\"}",
    "CVHO",
    "\n",
    "\0",
];

pub(super) fn run(bytes: &[u8]) {
    lengths(bytes);
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let messages: Vec<Message> = lines.iter().filter_map(|line| message(line)).collect();
    taker(&messages);
    giver(&messages);
}

fn lengths(bytes: &[u8]) {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else {
        return;
    };
    if let Ok(lengths) = Lengths::read(prefix) {
        assert!(lengths.header <= MAX_HEADER && lengths.body <= MAX_BODY);
        assert!(lengths.descriptors <= MAX_DESCRIPTORS);
        assert_eq!(lengths.write(), *prefix);
    }
}

/// A header fits one number of descriptors, with a body or without, and no other.
fn message(header: &[u8]) -> Option<Message> {
    let fits = |body, descriptors| Message::read(header, body, descriptors).ok();
    let mut found = None;
    for body in 0..2 {
        for descriptors in 0..6 {
            if let Some(message) = fits(body, descriptors) {
                assert!(found.is_none(), "{message:?} fits twice");
                assert_eq!(message.descriptors(), descriptors);
                let again = message.header().expect("a message has a header");
                assert_eq!(fits(body, descriptors).as_ref(), Some(&message));
                assert_eq!(
                    Message::read(&again, body, descriptors).ok(),
                    Some(message.clone())
                );
                found = Some(message);
            }
        }
    }
    found
}

/// A successor serves only after it has adopted, and never after it was refused.
fn taker(messages: &[Message]) {
    let mut taker = Taker::default();
    let mut adopted = false;
    for message in messages {
        let mut shall = taker.hear(&TakerHears::Message(message.clone()));
        if shall == TakerShall::Adopt {
            adopted = true;
            shall = taker.hear(&TakerHears::Adopted(true));
            assert_eq!(shall, TakerShall::SayServing);
        }
        if shall == TakerShall::LookWhoOwns {
            shall = taker.hear(&TakerHears::Owns(false));
            assert_eq!(shall, TakerShall::GiveUp);
        }
        assert!(shall != TakerShall::Serve || adopted);
        if shall != TakerShall::Receive && shall != TakerShall::SayServing {
            return;
        }
    }
}

/// A predecessor retires only when it was told that its successor serves, after it had offered.
fn giver(messages: &[Message]) {
    let mut giver = Giver::new(Some("b".into()));
    let mut offered = false;
    for message in messages {
        match giver.hear(&GiverHears::Message(message.clone())) {
            GiverShall::Pause => {
                assert_eq!(giver.hear(&GiverHears::Paused(true)), GiverShall::Offer);
                assert_eq!(giver.hear(&GiverHears::Sent), GiverShall::Wait);
                offered = true;
            }
            GiverShall::Retire => {
                assert!(offered && *message == Message::Serving);
                return;
            }
            GiverShall::TakeBack => {
                assert!(offered);
                return;
            }
            GiverShall::Refuse(_) | GiverShall::End => return,
            other => unreachable!("{other:?} after {message:?}"),
        }
    }
}
