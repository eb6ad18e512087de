//! Both ends in memory: whatever breaks, and whenever, one agent owns the node in the end.

use std::collections::VecDeque;

use agent_model::{NodeWishes, PodInfo};

use super::*;

fn hello(instance: &str) -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: "2".into(),
        instance: instance.into(),
        namespace: 7,
    }
}

fn pod() -> Message {
    Message::Pod(PodRecord {
        info: PodInfo {
            container_id: "c1".into(),
            uid: String::new(),
            name: "web".into(),
            namespace: "shop".into(),
            netns: "/run/netns/web".into(),
            ips: vec!["10.0.0.1".parse().unwrap()],
        },
        netns: 42,
        older: Vec::new(),
    })
}

fn estate() -> Vec<Message> {
    let listener = Message::Listener {
        name: ListenerName::Enrolment,
    };
    let offer = Message::Offer(Offer {
        version: "1".into(),
        instance: "old".into(),
        pods: 2,
        certificates: 0,
        listeners: 1,
        wishes: Some(NodeWishes {
            pods: Vec::new(),
            meshed_namespaces: ["shop".to_owned()].into(),
        }),
    });
    vec![offer, pod(), pod(), listener, Message::End]
}

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    PredecessorDies,
    SuccessorDies,
    /// Both live and take each other for dead.
    LinkBreaks,
    /// The successor cannot serve.
    AdoptionFails,
    /// The predecessor's enrolment cannot pause.
    CannotPause,
}

#[derive(Debug, Default)]
struct Agent {
    /// Its claim to the kernel side.
    claim: Option<u64>,
    accepts: bool,
    over: bool,
    dead: bool,
    inbox: VecDeque<Message>,
    lost: bool,
}

/// The kernel side as both see it, and the two agents.
#[derive(Debug, Default)]
struct World {
    generation: u64,
    predecessor: Agent,
    successor: Agent,
    /// Pods the successor has been given.
    given: usize,
    ended: Option<TakerShall>,
}

fn claim(generation: &mut u64, agent: &mut Agent) {
    *generation += 1;
    agent.claim = Some(*generation);
    agent.accepts = true;
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        claim(&mut world.generation, &mut world.predecessor);
        world
            .predecessor
            .inbox
            .push_back(Message::Hello(hello("new")));
        world
    }

    fn predecessor(&mut self, giver: &mut Giver, fault: Fault) {
        let Self {
            predecessor: own,
            successor: other,
            generation,
            ..
        } = self;
        let mut heard = match own.inbox.pop_front() {
            Some(message) => GiverHears::Message(message),
            None if own.lost => GiverHears::Lost,
            None => return,
        };
        loop {
            heard = match giver.hear(&heard) {
                GiverShall::Pause => GiverHears::Paused(fault != Fault::CannotPause),
                GiverShall::Offer => {
                    own.claim = None;
                    if !own.lost {
                        other.inbox.extend(estate());
                        GiverHears::Sent
                    } else {
                        GiverHears::Lost
                    }
                }
                GiverShall::Wait => return,
                GiverShall::Refuse(because) => {
                    other.inbox.push_back(Message::Refused { because });
                    own.over = true;
                    return;
                }
                GiverShall::Retire => {
                    own.accepts = false;
                    other.inbox.push_back(Message::Retired);
                    own.over = true;
                    return;
                }
                GiverShall::TakeBack => {
                    claim(generation, own);
                    own.over = true;
                    return;
                }
                GiverShall::End => {
                    own.over = true;
                    return;
                }
            };
        }
    }

    fn successor(&mut self, taker: &mut Taker, fault: Fault) {
        let Self {
            predecessor: other,
            successor: own,
            generation,
            given,
            ended,
        } = self;
        let mut heard = match own.inbox.pop_front() {
            Some(message) => {
                *given += usize::from(matches!(message, Message::Pod(_)));
                TakerHears::Message(message)
            }
            None if own.lost => TakerHears::Lost,
            None => return,
        };
        loop {
            let shall = taker.hear(&heard);
            heard = match shall {
                TakerShall::Receive => return,
                TakerShall::Adopt => {
                    let works = fault != Fault::AdoptionFails;
                    if works {
                        claim(generation, own);
                    }
                    TakerHears::Adopted(works)
                }
                TakerShall::SayServing => {
                    other.inbox.push_back(Message::Serving);
                    return;
                }
                TakerShall::SayFailed => {
                    let error = "no".into();
                    other.inbox.push_back(Message::Failed { error });
                    *own = Agent {
                        dead: true,
                        ..Agent::default()
                    };
                    *ended = Some(shall);
                    return;
                }
                TakerShall::LookWhoOwns => TakerHears::Owns(own.claim == Some(*generation)),
                TakerShall::StartAlone => {
                    claim(generation, own);
                    own.over = true;
                    *ended = Some(shall);
                    return;
                }
                TakerShall::GiveUp => {
                    own.dead = true;
                    own.accepts = false;
                    *ended = Some(shall);
                    return;
                }
                TakerShall::Serve | TakerShall::AskAgain | TakerShall::StandBy => {
                    own.over = true;
                    *ended = Some(shall);
                    return;
                }
            };
        }
    }

    fn strike(&mut self, fault: Fault) {
        let (near, far) = (&mut self.predecessor, &mut self.successor);
        match fault {
            Fault::PredecessorDies => {
                near.dead = true;
                near.accepts = false;
                far.lost = true;
            }
            Fault::SuccessorDies => {
                far.dead = true;
                far.accepts = false;
                near.lost = true;
            }
            Fault::LinkBreaks => {
                near.lost = true;
                far.lost = true;
                near.inbox.clear();
                far.inbox.clear();
            }
            Fault::None | Fault::AdoptionFails | Fault::CannotPause => {}
        }
    }
}

/// Runs a hand-over in which `fault` strikes before turn `at`; the predecessor has `stride` turns
/// for each of the successor's, or the other way round.
fn run(fault: Fault, at: usize, stride: (usize, usize)) -> World {
    let mut world = World::new();
    let (mut giver, mut taker) = (Giver::new(None), Taker::default());
    for turn in 0..60 {
        if turn == at {
            world.strike(fault);
        }
        let predecessors = turn % (stride.0 + stride.1) < stride.0;
        if predecessors && !world.predecessor.dead && !world.predecessor.over {
            world.predecessor(&mut giver, fault);
            // Who has ended closes its socket.
            world.successor.lost |= world.predecessor.over;
        }
        if !predecessors && !world.successor.dead && !world.successor.over {
            world.successor(&mut taker, fault);
            world.predecessor.lost |= world.successor.over || world.successor.dead;
        }
    }
    world
}

#[test]
fn whatever_breaks_and_whenever_one_agent_owns_the_node() {
    let faults = [
        Fault::None,
        Fault::PredecessorDies,
        Fault::SuccessorDies,
        Fault::LinkBreaks,
        Fault::AdoptionFails,
        Fault::CannotPause,
    ];
    let mut ends = std::collections::BTreeSet::new();
    for fault in faults {
        for at in 0..30 {
            for stride in [(1, 1), (1, 3), (3, 1), (9, 1), (1, 9)] {
                let world = run(fault, at, stride);
                let what = format!("{fault:?} at {at}, {stride:?}: {world:?}");
                let owns = |agent: &Agent| !agent.dead && agent.claim == Some(world.generation);
                let alive = [&world.predecessor, &world.successor].map(|agent| !agent.dead);
                let owners: Vec<_> = [&world.predecessor, &world.successor]
                    .into_iter()
                    .filter(|agent| owns(agent))
                    .collect();
                // A successor that dies after the predecessor has retired is a crash like any.
                let crashed = !alive[1] && !world.predecessor.accepts;
                assert_eq!(owners.len(), usize::from(!crashed), "{what}");
                assert!(owners.iter().all(|owner| owner.accepts), "{what}");
                ends.insert(format!("{:?}", world.ended));
                match fault {
                    Fault::None => {
                        assert_eq!(world.ended, Some(TakerShall::Serve), "{what}");
                        assert!(!world.predecessor.accepts && world.given == 2, "{what}");
                    }
                    Fault::CannotPause => {
                        assert_eq!(world.ended, Some(TakerShall::AskAgain), "{what}");
                        assert_eq!(world.generation, 1, "{what}");
                    }
                    _ => {}
                }
            }
        }
    }
    let seen: Vec<_> = ends.iter().map(String::as_str).collect();
    let all = [
        "None",
        "Some(AskAgain)",
        "Some(GiveUp)",
        "Some(SayFailed)",
        "Some(Serve)",
        "Some(StartAlone)",
    ];
    assert_eq!(seen, all);
}

#[test]
fn another_protocol_is_not_followed() {
    let mut giver = Giver::new(None);
    let mut stranger = hello("new");
    stranger.protocol += 1;
    let shall = giver.hear(&GiverHears::Message(Message::Hello(stranger)));
    assert_eq!(shall, GiverShall::Refuse(Refused::Protocol));
    let because = Refused::Protocol;
    let shall = Taker::default().hear(&TakerHears::Message(Message::Refused { because }));
    assert_eq!(shall, TakerShall::StartAlone);
}

/// A supervisor that starts the predecessor again must not set two agents on each other.
#[test]
fn who_was_followed_does_not_come_back_while_its_successor_lives() {
    let mut giver = Giver::new(Some("old".into()));
    let shall = giver.hear(&GiverHears::Message(Message::Hello(hello("old"))));
    assert_eq!(shall, GiverShall::Refuse(Refused::Superseded));
    let because = Refused::Superseded;
    let shall = Taker::default().hear(&TakerHears::Message(Message::Refused { because }));
    assert_eq!(shall, TakerShall::StandBy);
    let mut giver = Giver::new(Some("old".into()));
    let shall = giver.hear(&GiverHears::Message(Message::Hello(hello("newer"))));
    assert_eq!(shall, GiverShall::Pause);
}

#[test]
fn messages_survive_the_way_and_must_fit_what_comes_with_them() {
    let mut all = estate();
    all.push(Message::Hello(hello("new")));
    all.push(Message::Certificate(Certificate {
        identity: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
        chain_pem: "chain".into(),
        roots_pem: "roots".into(),
        obtained_ms: 5,
    }));
    all.extend([Message::Serving, Message::Retired]);
    for message in all {
        let header = message.header().unwrap();
        let body = usize::from(matches!(message, Message::Certificate(_)));
        let descriptors = message.descriptors();
        assert_eq!(Message::read(&header, body, descriptors).unwrap(), message);
        assert!(Message::read(&header, body, descriptors + 1).is_err());
        assert!(Message::read(&header, 1 - body, descriptors).is_err());
        assert!(Message::read(&header[1..], body, descriptors).is_err());
    }
}
