use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::known::{Known, Step};
use super::message::{Kind, Reply, Told, is_name, question, read};
use super::servers::servers;
use super::*;

const HOST: &str = "api.example.com";

fn told(addresses: &[&str], ttl: u64) -> Told {
    Told {
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        ttl: Duration::from_secs(ttl),
    }
}

/// The reply to `question` with flags and records, each with a pointer for a name.
fn reply(question: &[u8], flags: u16, records: &[(u16, u32, &[u8])]) -> Vec<u8> {
    let mut message = question.to_vec();
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    for (kind, ttl, data) in records {
        message.extend([0xc0, 12]);
        message.extend(kind.to_be_bytes());
        message.extend(1u16.to_be_bytes());
        message.extend(ttl.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend_from_slice(data);
    }
    message
}

#[test]
fn addresses_of_a_chain_of_aliases_last_as_long_as_its_shortest() {
    let question = question(7, HOST, Kind::A);
    let alias: &[u8] = &[3, b'c', b'd', b'n', 0];
    let records: &[(u16, u32, &[u8])] = &[
        (5, 20, alias),
        (1, 300, &[192, 0, 2, 1]),
        (1, 300, &[192, 0, 2, 2]),
        (28, 300, &[0; 16]),
    ];
    let message = reply(&question, 0x8180, records);
    let expected = told(&["192.0.2.1", "192.0.2.2"], 20);
    assert_eq!(read(&question, &message), Reply::Told(expected));
    let none = reply(&question, 0x8180, &[(5, 20, alias)]);
    assert_eq!(read(&question, &none), Reply::Told(told(&[], 20)));
}

#[test]
fn f_96_what_is_no_reply_is_none() {
    let question = question(7, HOST, Kind::Aaaa);
    let good = reply(&question, 0x8180, &[(28, 60, &[1; 16])]);
    let changed = |at: usize, to: u8| {
        let mut message = good.clone();
        message[at] = to;
        read(&question, &message)
    };
    assert!(matches!(read(&question, &good), Reply::Told(_)));
    assert_eq!(changed(1, 8), Reply::Other, "another id");
    assert_eq!(changed(2, 0x01), Reply::Other, "a question");
    assert_eq!(changed(13, b'z'), Reply::Other, "another name");
    assert_eq!(changed(5, 0), Reply::Other, "no question");
    assert_eq!(changed(13, b'A'), read(&question, &good), "another case");
    assert_eq!(changed(2, 0x83), Reply::Truncated);
    assert_eq!(changed(3, 0x83), Reply::NoSuchName);
    assert_eq!(changed(3, 0x82), Reply::Failed(2));
    assert_eq!(changed(3, 0x85), Reply::Failed(5));
    for length in 0..good.len() {
        let cut = read(&question, &good[..length]);
        assert!(!matches!(cut, Reply::Told(_)), "{length}: {cut:?}");
    }
    // A name without an end, and a length that is none.
    let mut endless = good.clone();
    endless.truncate(question.len());
    endless.extend([63; 400]);
    assert_eq!(read(&question, &endless), Reply::Other);
    endless[question.len()] = 0x80;
    assert_eq!(read(&question, &endless), Reply::Other);
}

#[test]
fn only_host_names_are_asked_for() {
    for good in ["a", HOST, "a_b.c-d", &"x".repeat(63)] {
        assert!(is_name(good), "{good}");
    }
    let long = ["x".repeat(63).as_str(); 4].join(".");
    for bad in ["", ".", "a..b", "a b", "\u{e9}", &"x".repeat(64), &long] {
        assert!(!is_name(bad), "{bad}");
    }
}

#[test]
fn servers_are_the_first_three_that_can_be_read() {
    let text = "search a.b\n# nameserver 1.1.1.1\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n\
                nameserver  ::1 \noptions ndots:5\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n";
    let found = servers(text);
    let expected = ["10.0.0.1:53", "[::1]:53", "10.0.0.2:53"];
    assert_eq!(found, expected.map(|server| server.parse().unwrap()));
    assert!(servers("").is_empty());
}

#[test]
fn addresses_are_kept_for_their_time_within_limits() {
    let start = Instant::now();
    for (ttl, kept) in [(0, 5), (60, 60), (86_400, 300)] {
        let mut known = Known::default();
        assert_eq!(known.step(start), Step::Ask { last: None });
        assert_eq!(known.counts_until(), None);
        let (outcome, learnt) = known.learn(Ok(told(&["192.0.2.1"], ttl)), start);
        assert_eq!(outcome, Outcome::Answered);
        let end = start + Duration::from_secs(kept);
        let before = end - Duration::from_millis(1);
        assert_eq!(known.counts_until(), Some(end));
        assert_eq!(known.step(before), Step::Take(learnt.clone()), "{ttl}");
        let last = learnt.ok();
        assert_eq!(known.step(end), Step::Ask { last }, "{ttl}");
    }
}

#[test]
fn the_last_good_ones_count_while_nobody_answers_and_not_when_the_name_is_gone() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut known = Known::default();
    let fault = || Err(LookupError::Unanswered("silence".to_owned()));
    let good = known.learn(Ok(told(&["192.0.2.1"], 10)), start).1;
    assert_eq!(
        known.learn(fault(), at(10)),
        (Outcome::LastGood, good.clone())
    );
    // Not asked again at once.
    assert_eq!(known.step(at(14)), Step::Take(good.clone()));
    assert_eq!(known.counts_until(), Some(at(15)));
    let last = good.ok();
    assert_eq!(known.step(at(15)), Step::Ask { last });
    // After an hour they are too old.
    assert_eq!(known.step(at(3610)), Step::Ask { last: None });
    let (outcome, failed) = known.learn(fault(), at(3610));
    assert_eq!((outcome, failed.is_err()), (Outcome::Failed, true));
    assert!(matches!(known.step(at(3611)), Step::Take(Err(_))));

    let mut known = Known::default();
    let _ = known.learn(Ok(told(&["192.0.2.1"], 10)), start);
    let gone = (Outcome::NotFound, Err(LookupError::NotFound));
    assert_eq!(known.learn(Err(LookupError::NotFound), at(10)), gone);
    assert_eq!(
        known.step(at(14)),
        Step::Take(Err(LookupError::NotFound)),
        "remembered"
    );
    assert_eq!(known.step(at(15)), Step::Ask { last: None });
}

#[tokio::test]
async fn names_are_remembered_in_limited_number_and_those_in_use_stay() {
    let lookup = Lookup::new("/nonexistent".into());
    let held = lookup.name("held").unwrap();
    for number in 1..MAX_NAMES {
        lookup.name(&format!("n{number}")).unwrap();
    }
    assert!(lookup.name("one-more").is_some());
    assert_eq!(lock(&lookup.names).len(), MAX_NAMES);
    assert!(Arc::ptr_eq(&held, &lookup.name("held").unwrap()));
    // Without a file there is nobody to ask.
    let error = lookup.addresses(HOST).await.unwrap_err();
    assert!(matches!(error, LookupError::Unanswered(_)), "{error}");
    assert_eq!(lookup.count(Outcome::Failed), 1);
    let error = lookup.addresses("not a name").await.unwrap_err();
    assert_eq!(error, LookupError::NotAName);
}

#[test]
fn read_addresses_gives_what_a_reply_says() {
    let question = question(1, HOST, Kind::A);
    let message = reply(&question, 0x8180, &[(1, 1, &[192, 0, 2, 9])]);
    let ip: IpAddr = "192.0.2.9".parse().unwrap();
    assert_eq!(read_addresses(&question, &message), Ok(vec![ip]));
}
