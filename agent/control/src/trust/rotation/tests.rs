use std::time::UNIX_EPOCH;

use agent_identity::{Authority, NewRoot};

use super::*;

const TTL: Duration = Duration::from_secs(24 * 3600);
const OVERLAP: Duration = Duration::from_secs(300);
const MARGIN: Duration = Duration::from_secs(600);
const TERMS: Terms = Terms {
    max_ttl: TTL,
    overlap: OVERLAP,
};
const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

fn wall() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn root() -> Arc<Signer> {
    Authority::in_memory("cluster.local", wall())
        .unwrap()
        .signer()
}

fn offer(active: &Arc<Signer>) -> Offer {
    Offer {
        active: Arc::clone(active),
        prepared: None,
        remembered: Vec::new(),
    }
}

fn prepared(active: &Arc<Signer>, next: &Arc<Signer>) -> Offer {
    Offer {
        prepared: Some(Arc::clone(next)),
        ..offer(active)
    }
}

/// The roots trusted, by their role.
fn roles(rotation: &Rotation) -> Vec<&'static str> {
    let bundle = rotation.bundle();
    let roots = bundle.roots().iter();
    roots.map(|root| rotation.role_of(root)).collect()
}

#[test]
fn f_25_old_then_both_then_new() {
    let (old, new) = (root(), root());
    let start = Instant::now();
    let mut rotation = Rotation::new(offer(&old), TERMS, start);
    assert_eq!(
        (rotation.stage(), rotation.due(true, start, wall())),
        (Stage::Single, None)
    );
    assert_eq!(rotation.bundle(), *old.roots());

    rotation.offered(offer(&new), start);
    assert_eq!(rotation.stage(), Stage::Distributing);
    assert!(rotation.active().is_same(&old), "the old one signs");
    assert_eq!(roles(&rotation), ["active", "next"]);
    // The same again does not begin anew.
    let later = start + OVERLAP - Duration::from_secs(1);
    rotation.offered(offer(&new), later);
    assert_eq!(rotation.due(true, later, wall()), None, "too early");
    let later = start + OVERLAP;
    assert_eq!(
        rotation.due(false, later, wall()),
        None,
        "not everybody knows"
    );
    assert_eq!(
        rotation.due(false, later + TTL * 30, wall()),
        None,
        "nor ever without them"
    );
    assert_eq!(rotation.due(true, later, wall()), Some(Due::Switch));

    rotation.switch(later);
    assert!(rotation.active().is_same(&new));
    assert_eq!(
        (rotation.stage(), roles(&rotation)),
        (Stage::Retiring, vec!["active", "retiring"])
    );
    rotation.offered(offer(&new), later);
    assert_eq!(
        rotation.due(true, later + TTL, wall()),
        None,
        "leaves of the old one live"
    );
    let end = later + TTL + MARGIN;
    assert_eq!(rotation.due(false, end, wall()), None);
    assert_eq!(rotation.due(true, end, wall()), Some(Due::Withdraw));
    rotation.withdraw(end, wall());
    assert_eq!(
        (rotation.stage(), rotation.bundle()),
        (Stage::Single, new.roots().clone())
    );
}

#[test]
fn what_is_prepared_waits_for_the_word_of_who_prepared_it() {
    let (old, new) = (root(), root());
    let start = Instant::now();
    let mut rotation = Rotation::new(offer(&old), TERMS, start);
    rotation.offered(prepared(&old, &new), start);
    assert_eq!(rotation.next_is_prepared(), Some(true));
    // The same word again, and the old one alone by somebody who read late.
    rotation.offered(prepared(&old, &new), start);
    rotation.offered(offer(&old), start);
    assert_eq!(roles(&rotation), ["active", "next"]);
    rotation.offered(offer(&new), start);
    assert!(rotation.active().is_same(&new), "the word counts at once");
    assert_eq!(roles(&rotation), ["active", "retiring"]);
}

#[test]
fn a_new_start_in_the_middle_forgets_no_root() {
    let (old, new) = (root(), root());
    let start = Instant::now();
    let mut resumed = offer(&new);
    resumed.remembered = old.roots().roots().to_vec();
    let mut rotation = Rotation::new(resumed, TERMS, start);
    assert_eq!(roles(&rotation), ["active", "retiring"]);
    assert_eq!(rotation.due(true, start + TTL, wall()), None);
    rotation.withdraw(start + TTL + MARGIN, wall());
    assert_eq!(roles(&rotation), ["active"]);

    let rotation = Rotation::new(prepared(&old, &new), TERMS, start);
    assert_eq!(roles(&rotation), ["active", "next"]);
}

#[test]
fn an_issuer_of_trusted_roots_signs_at_once() {
    let make = || NewRoot::make("cluster.local", wall()).unwrap();
    let (one, other) = (make(), make());
    let both = format!("{}{}", one.certificate, other.certificate);
    let signer = |root: &NewRoot, roots: &str| {
        Arc::new(Signer::from_pem(&root.certificate, &root.key, roots).unwrap())
    };
    let start = Instant::now();
    let mut rotation = Rotation::new(offer(&signer(&one, &both)), TERMS, start);
    let renewed = signer(&other, &other.certificate);
    rotation.offered(offer(&renewed), start);
    assert!(rotation.active().is_same(&renewed));
    assert_eq!(roles(&rotation), ["active", "retiring"]);
}

#[test]
fn a_change_of_mind_leaves_nothing_untrusted() {
    let (one, two, three) = (root(), root(), root());
    let start = Instant::now();
    let mut rotation = Rotation::new(offer(&one), TERMS, start);
    rotation.offered(offer(&two), start);
    rotation.offered(offer(&three), start);
    // Another replica may have signed with the second.
    assert_eq!(roles(&rotation), ["active", "next", "retiring"]);
    rotation.offered(offer(&one), start);
    assert_eq!(roles(&rotation), ["active", "retiring", "retiring"]);
    // Back to one that retires: it does not leave in the middle.
    rotation.offered(offer(&two), start);
    rotation.switch(start + OVERLAP);
    assert!(rotation.active().is_same(&two));
    rotation.withdraw(start + OVERLAP + TTL + MARGIN, wall());
    assert_eq!(roles(&rotation), ["active"]);
}

#[test]
fn an_issuer_that_ended_is_replaced_without_waiting() {
    let (old, new) = (root(), root());
    let start = Instant::now();
    let mut rotation = Rotation::new(offer(&old), TERMS, start);
    rotation.offered(offer(&new), start);
    let after = wall() + YEARS;
    assert_eq!(rotation.due(false, start, after), Some(Due::Switch));
    rotation.switch(start);
    assert_eq!(
        rotation.due(true, start, after),
        Some(Due::Withdraw),
        "its leaves ended with it"
    );
}

#[test]
fn a_root_is_due_at_four_fifths_of_its_life() {
    let old = root();
    let start = Instant::now();
    let mut rotation = Rotation::new(offer(&old), TERMS, start);
    assert!(!rotation.wants_successor(wall()));
    assert!(!rotation.wants_successor(wall() + YEARS.mul_f64(0.79)));
    assert!(
        !rotation.wants_successor(wall() - YEARS),
        "a clock far behind"
    );
    let late = wall() + YEARS.mul_f64(0.81);
    assert!(rotation.wants_successor(late));
    rotation.offered(prepared(&old, &root()), start);
    assert!(!rotation.wants_successor(late), "one at a time");
}

#[test]
fn f_25_a_replica_that_is_behind_waits_for_nobody_that_is_ahead() {
    let (old, new) = (root(), root());
    let start = Instant::now();
    let mut resumed = offer(&new);
    resumed.remembered = old.roots().roots().to_vec();
    let mut rotation = Rotation::new(resumed, TERMS, start);
    let hash = |bundle: &TrustBundle| Arc::<str>::from(bundle.sha256());
    let both = hash(&rotation.bundle());
    assert_eq!(both, hash(&old.roots().with(new.roots().roots())));
    let known = rotation.acknowledging(start + TTL, wall());
    assert!(
        known.iter().all(|hash| *hash == both),
        "what the old one signed lives"
    );
    let known = rotation.acknowledging(start + TTL + MARGIN, wall());
    assert_eq!(known, [both, hash(new.roots())]);

    // The one that decides says what is trusted; one that has said nothing yet decides nothing.
    rotation.follow(&[]);
    rotation.follow(rotation.bundle().roots());
    assert_eq!(roles(&rotation), ["active", "retiring"]);
    rotation.follow(new.roots().roots());
    assert_eq!(roles(&rotation), ["active"]);
    // What signs here is trusted here, whoever has not heard of it yet.
    rotation.follow(old.roots().roots());
    assert_eq!(roles(&rotation), ["active"]);
}
