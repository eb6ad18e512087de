use agent_model::NamespacedHostname;
use agent_net::drain;
use agent_state::{Reader, channel};

use super::*;

fn put(uid: &str, hostname: &str) -> Vec<Update> {
    let service = NamespacedHostname::new("ns", "api.example.com");
    vec![Update::Workload(Box::new(Workload {
        uid: uid.into(),
        hostname: hostname.into(),
        services: [(service, Vec::new())].into(),
        ..Workload::default()
    }))]
}

fn remove(uid: &str) -> Vec<Update> {
    vec![Update::RemoveAddress(uid.into())]
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn endpoints(state: &Reader) -> Vec<String> {
    let service = NamespacedHostname::new("ns", "api.example.com");
    let snapshot = state.load();
    let mut found = Vec::new();
    for one in snapshot.endpoints(&service) {
        found.extend(one.addresses.iter().map(|ip| format!("{} {ip}", one.uid)));
    }
    found.sort();
    found
}

#[test]
fn each_address_of_a_name_is_an_endpoint() {
    let (writer, state) = channel();
    let names = Names::new(writer);
    let due = Instant::now() + LOOK;
    names.apply(put("w", "api.example.com"));
    assert_eq!(endpoints(&state), Vec::<String>::new());
    let answer = [
        "192.0.2.2",
        "192.0.2.1",
        "127.0.0.1",
        "169.254.169.254",
        "192.0.2.1",
    ];
    names.table().resolve("api.example.com", &ips(&answer), due);
    let two = ["w/192.0.2.1 192.0.2.1", "w/192.0.2.2 192.0.2.2"];
    assert_eq!(endpoints(&state), two);
    let answer = ["2001:db8::1", "192.0.2.2"];
    names.table().resolve("api.example.com", &ips(&answer), due);
    let moved = ["w/192.0.2.2 192.0.2.2", "w/2001:db8::1 2001:db8::1"];
    assert_eq!(endpoints(&state), moved);

    // Another endpoint of the same name has the answer at once, and one that is told again keeps it.
    names.apply(put("v", "api.example.com"));
    assert_eq!(endpoints(&state).len(), 4);
    names.apply(put("v", "api.example.com"));
    assert_eq!(endpoints(&state).len(), 4);
    names.apply(remove("w"));
    assert_eq!(endpoints(&state), moved.map(|one| one.replace("w/", "v/")));
    // Another name, of which nothing is known yet.
    names.apply(put("v", "other.example.com"));
    assert_eq!(endpoints(&state), Vec::<String>::new());
    names.apply(remove("v"));
    assert!(names.table().names.is_empty());
    // An answer that comes too late is nobody's.
    names
        .table()
        .resolve("other.example.com", &ips(&answer), due);
    assert_eq!(endpoints(&state), Vec::<String>::new());
}

#[test]
fn a_name_is_asked_for_again_when_its_answer_counts_no_more() {
    let (writer, state) = channel();
    let names = Names::new(writer);
    names.apply(put("w", "api.example.com"));
    let start = Instant::now();
    let due = |at| names.table().due(at, AT_A_TIME).0.len();
    assert_eq!(due(start), 1);
    assert_eq!(due(start), 0, "it is under way");
    let answer = |counts: u64| {
        let addresses = Addresses::from(ips(&["192.0.2.1"]));
        Ok((addresses, start + Duration::from_secs(counts)))
    };
    let at = |seconds| start + Duration::from_secs(seconds);
    names.found("api.example.com", answer(60), start);
    assert_eq!(due(at(59)), 0);
    assert_eq!(due(at(71)), 1);
    // However short it counts.
    names.found("api.example.com", answer(0), at(71));
    assert_eq!(due(at(75)), 0);
    assert_eq!(due(at(77)), 1);

    // While no server answers the addresses stay, and they go with the name.
    let silence = Err(LookupError::Unanswered("silence".to_owned()));
    names.found("api.example.com", silence, at(77));
    assert_eq!(endpoints(&state), ["w/192.0.2.1 192.0.2.1"]);
    assert_eq!(due(at(81)), 0);
    assert_eq!(due(at(82)), 1);
    names.found("api.example.com", Err(LookupError::NotFound), at(82));
    assert_eq!(endpoints(&state), Vec::<String>::new());
    assert_eq!(due(at(87)), 1);
    names.found("api.example.com", answer(200), at(88));
    assert_eq!(endpoints(&state), ["w/192.0.2.1 192.0.2.1"]);
}

#[test]
fn there_is_an_end_to_names_and_to_their_addresses() {
    let (writer, state) = channel();
    let names = Names::new(writer);
    for number in 0..MOST_NAMES + 5 {
        names.apply(put(
            &format!("w{number}"),
            &format!("h{number}.example.com"),
        ));
    }
    assert_eq!(names.table().names.len(), MOST_NAMES);
    let (due, next) = names.table().due(Instant::now(), AT_A_TIME);
    assert_eq!(due.len(), AT_A_TIME);
    assert!(next < Instant::now() + LOOK);
    let many: Vec<IpAddr> = (1..=40).map(|last| [192, 0, 2, last].into()).collect();
    let later = Instant::now() + LOOK;
    names.table().resolve("h1.example.com", &many, later);
    assert_eq!(endpoints(&state).len(), MOST_ADDRESSES);
}

/// Knows one address of everybody.
#[derive(Clone)]
struct Same;

impl Lookup for Same {
    async fn addresses(&self, _host: &str) -> Answer {
        Ok((ips(&["192.0.2.9"]).into(), Instant::now()))
    }
}

#[tokio::test]
async fn names_are_looked_up_as_they_come() {
    let (writer, state) = channel();
    let names = Names::new(writer);
    let (_drain, draining) = drain::channel();
    tokio::spawn(names.clone().follow(Same, draining));
    for uid in ["v", "w"] {
        names.apply(put(uid, &format!("{uid}.example.com")));
        let here = format!("{uid}/192.0.2.9 192.0.2.9");
        let seen = async {
            while !endpoints(&state).contains(&here) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), seen)
            .await
            .unwrap();
    }
}
