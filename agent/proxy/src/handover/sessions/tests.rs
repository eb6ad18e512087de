//! Both ends over a real socket, with real descriptors.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::UNIX_EPOCH;

use agent_datapath::EnrolledPod;
use agent_identity::HandedCertificate;
use agent_model::{NodeWishes, PodInfo};
use agent_net::Netns;

use super::*;
use crate::handover::{ListenerName, PROTOCOL};

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

fn pod(outbound: &TcpListener) -> EnrolledPod {
    EnrolledPod {
        info: PodInfo {
            container_id: "c1".into(),
            uid: "u1".into(),
            name: "web".into(),
            namespace: "shop".into(),
            netns: "/run/netns/web".into(),
            ips: vec!["10.0.0.1".parse().unwrap()],
        },
        netns: Arc::new(Netns::current().unwrap()),
        outbound: outbound.try_clone().unwrap(),
        inbound: listener(),
        hbone: listener(),
        older: Vec::new(),
    }
}

fn certificate() -> HandedCertificate {
    HandedCertificate {
        identity: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
        key: b"not for the log".to_vec().into(),
        chain_pem: "chain".into(),
        roots_pem: "roots".into(),
        obtained: UNIX_EPOCH + Duration::from_millis(1234),
    }
}

fn wishes() -> Arc<NodeWishes> {
    Arc::new(NodeWishes {
        pods: Vec::new(),
        meshed_namespaces: ["shop".to_owned()].into(),
    })
}

/// Notes what it is told to do.
struct First<'a> {
    outbound: &'a TcpListener,
    did: Vec<&'static str>,
}

impl<'a> First<'a> {
    fn new(outbound: &'a TcpListener) -> Self {
        Self {
            outbound,
            did: Vec::new(),
        }
    }
}

impl Incumbent for First<'_> {
    fn pause(&mut self) -> bool {
        self.did.push("pause");
        true
    }

    fn cede(&mut self, heir: &Hello) -> io::Result<Estate> {
        assert_eq!(heir.instance, "new");
        self.did.push("cede");
        Ok(Estate {
            instance: "old".into(),
            version: "1".into(),
            pods: vec![pod(self.outbound)],
            certificates: vec![certificate()],
            listeners: BTreeMap::from([(ListenerName::Metrics, listener().into())]),
            wishes: Some(wishes()),
        })
    }

    fn take_back(&mut self) {
        self.did.push("take back");
    }

    fn retire(&mut self) {
        self.did.push("retire");
    }
}

#[derive(Default)]
struct Second {
    came: Option<Estate>,
    fails: bool,
    owns: bool,
}

impl Heir for Second {
    fn adopt(&mut self, estate: Estate) -> Result<(), String> {
        self.came = Some(estate);
        if self.fails {
            return Err("no such program".to_owned());
        }
        Ok(())
    }

    fn owns(&self) -> bool {
        self.owns
    }
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: "2".into(),
        instance: "new".into(),
        namespace: 7,
    }
}

#[test]
fn everything_arrives_and_who_waits_is_accepted_by_the_successor() {
    let outbound = listener();
    let mut waits = TcpStream::connect(outbound.local_addr().unwrap()).unwrap();
    waits.write_all(b"I wait").unwrap();
    let (to_second, to_first) = UnixStream::pair().unwrap();
    let mut first = First::new(&outbound);
    let mut second = Second::default();
    thread::scope(|scope| {
        let giving = scope.spawn(|| give(&to_second, None, &mut first));
        assert_eq!(take(&to_first, hello(), &mut second), Taken::Over);
        assert_eq!(giving.join().unwrap(), Left::Retired);
    });
    assert_eq!(first.did, ["pause", "cede", "retire"]);
    drop(outbound);

    let came = second.came.unwrap();
    assert_eq!((&*came.instance, &*came.version), ("old", "1"));
    assert_eq!(came.wishes, Some(wishes()));
    assert!(came.listeners.contains_key(&ListenerName::Metrics));
    let [handed] = &came.certificates[..] else {
        panic!("{:?}", came.certificates.len());
    };
    let sent = certificate();
    assert_eq!(handed.key, sent.key);
    assert_eq!(handed.identity, sent.identity);
    assert_eq!(handed.obtained, sent.obtained);
    let [pod] = &came.pods[..] else {
        panic!("{:?}", came.pods);
    };
    assert_eq!(pod.info.name, "web");
    assert_eq!(pod.netns.cookie(), Netns::current().unwrap().cookie());
    let (mut accepted, _) = pod.outbound.accept().unwrap();
    let mut text = [0; 6];
    accepted.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"I wait");
}

#[test]
fn a_successor_that_cannot_serve_says_so_and_nothing_is_given_away() {
    let outbound = listener();
    let (to_second, to_first) = UnixStream::pair().unwrap();
    let mut first = First::new(&outbound);
    let mut second = Second {
        fails: true,
        ..Second::default()
    };
    thread::scope(|scope| {
        let giving = scope.spawn(|| give(&to_second, None, &mut first));
        assert_eq!(take(&to_first, hello(), &mut second), Taken::Failed);
        assert_eq!(giving.join().unwrap(), Left::Goes);
    });
    assert_eq!(first.did, ["pause", "cede", "take back"]);
}

#[test]
fn a_successor_that_vanishes_leaves_everything_to_the_predecessor() {
    let outbound = listener();
    for (said, did) in [
        (None, &[][..]),
        (
            Some(Message::Hello(hello())),
            &["pause", "cede", "take back"][..],
        ),
        (Some(Message::Serving), &[][..]),
    ] {
        let (to_second, to_first) = UnixStream::pair().unwrap();
        if let Some(said) = &said {
            estate::say(&to_first, said).unwrap();
        }
        drop(to_first);
        let mut first = First::new(&outbound);
        assert_eq!(give(&to_second, None, &mut first), Left::Goes, "{said:?}");
        assert_eq!(first.did, did, "{said:?}");
    }
}

#[test]
fn a_successor_goes_on_with_what_came_when_it_is_the_owner() {
    for (owns, taken) in [(true, Taken::Over), (false, Taken::Failed)] {
        let (to_second, to_first) = UnixStream::pair().unwrap();
        let mut second = Second {
            owns,
            ..Second::default()
        };
        thread::scope(|scope| {
            scope.spawn(move || {
                // The predecessor dies between two messages.
                estate::hear(&to_second).unwrap();
                let offer = super::super::Offer {
                    version: "1".into(),
                    instance: "old".into(),
                    pods: 9,
                    certificates: 9,
                    listeners: 9,
                    wishes: None,
                };
                estate::say(&to_second, &Message::Offer(offer)).unwrap();
            });
            assert_eq!(take(&to_first, hello(), &mut second), taken);
        });
        assert!(second.came.unwrap().pods.is_empty());
    }
}

#[test]
fn who_does_not_speak_the_language_is_not_followed() {
    let (mut stranger, to_first) = UnixStream::pair().unwrap();
    stranger
        .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .unwrap();
    let mut second = Second::default();
    assert_eq!(take(&to_first, hello(), &mut second), Taken::Alone);
    assert!(second.came.is_none());
}
