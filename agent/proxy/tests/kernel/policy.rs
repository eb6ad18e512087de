//! Policy at the destination, at the start of a connection and while it lives.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use agent_model::{Action, PolicyKey, Reason, Scope};
use agent_xds::Update;

use crate::lab::{APP, echo, lab, must_be_reset, ping, policy, put};

#[test]
fn a_denied_connection_names_its_policy_and_reaches_nobody() {
    lab(|lab| {
        let (client, mut server) = lab.pair();
        let app = echo(lab.at(2, APP));
        let deny = policy("nobody", Action::Deny, Scope::Namespace);
        server.apply(vec![Update::Policy(deny)]);
        must_be_reset(&mut client.connect(lab.at(2, APP)));
        let key = PolicyKey::new("shop", "nobody");
        assert_eq!(server.refused(Reason::PolicyDenied), Some(key));
        client.refused(Reason::PeerDenied);
        assert_eq!(app.accepted(), 0);
        assert!(server.shown().is_empty(), "a connect was made");
    });
}

#[test]
fn plaintext_is_decided_too() {
    lab(|lab| {
        let (_client, mut server) = lab.pair();
        let deny = policy("nobody", Action::Deny, Scope::Namespace);
        server.apply(vec![Update::Policy(deny)]);
        must_be_reset(&mut TcpStream::connect(server.inbound).unwrap());
        server.refused(Reason::PolicyDenied);
        assert!(server.shown().is_empty(), "a connect was made");
    });
}

#[test]
fn a_change_closes_what_it_denies() {
    lab(|lab| {
        let (client, mut server) = lab.pair();
        let app = echo(lab.at(2, APP));
        let mut stream = client.connect(lab.at(2, APP));
        ping(&mut stream).unwrap();
        let start = Instant::now();
        let deny = policy("nobody", Action::Deny, Scope::Namespace);
        server.apply(vec![Update::Policy(deny)]);
        must_be_reset(&mut stream);
        app.must_be_reset();
        assert!(start.elapsed() < Duration::from_secs(2));
        let key = PolicyKey::new("shop", "nobody");
        assert_eq!(server.refused(Reason::PolicyChanged), Some(key));
    });
}

/// On a new stream to the control plane a workload comes before the policies it names.
#[test]
fn a_policy_that_comes_late_cuts_nothing_it_allows() {
    lab(|lab| {
        let (client, mut server) = lab.pair();
        echo(lab.at(2, APP));
        let mut stream = client.connect(lab.at(2, APP));
        ping(&mut stream).unwrap();
        let mut listing = lab.workload("server", 2);
        listing.authorization_policies = vec![PolicyKey::new("shop", "late")];
        server.apply(vec![put(listing)]);
        // A new connection waits for nothing.
        must_be_reset(&mut client.connect(lab.at(2, APP)));
        server.refused(Reason::PolicyUnknown);
        std::thread::sleep(Duration::from_millis(300));
        let allow = policy("late", Action::Allow, Scope::WorkloadSelector);
        server.apply(vec![Update::Policy(allow)]);
        std::thread::sleep(Duration::from_millis(1500));
        ping(&mut stream).unwrap();
    });
}

#[test]
fn a_policy_that_never_comes_denies() {
    lab(|lab| {
        let (client, mut server) = lab.pair();
        echo(lab.at(2, APP));
        let mut stream = client.connect(lab.at(2, APP));
        ping(&mut stream).unwrap();
        let start = Instant::now();
        let mut listing = lab.workload("server", 2);
        listing.authorization_policies = vec![PolicyKey::new("shop", "never")];
        server.apply(vec![put(listing.clone())]);
        // Other changes do not put it off.
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            listing.capacity += 1;
            server.apply(vec![put(listing.clone())]);
        }
        must_be_reset(&mut stream);
        assert!(start.elapsed() < Duration::from_secs(2));
    });
}
