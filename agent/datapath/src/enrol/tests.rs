use super::*;

fn pod(container: &str, netns: &str, ip: &str) -> PodInfo {
    PodInfo {
        container_id: container.into(),
        uid: String::new(),
        name: container.into(),
        namespace: "default".into(),
        netns: netns.into(),
        ips: vec![ip.parse().unwrap()],
    }
}

fn enrolled(info: PodInfo, cookie: u64, state: State) -> Pods {
    let entry = Entry {
        info: info.clone(),
        cookie: NetnsCookie(cookie),
        state,
    };
    Pods::from([(info.container_id, entry)])
}

fn waiting() -> State {
    State::Waiting { error: None }
}

#[test]
fn a_pod_nobody_knows_is_new() {
    let pods = enrolled(pod("a", "/a", "10.0.0.1"), 1, waiting());
    let standing = standing(&pods, &pod("b", "/b", "10.0.0.2"), NetnsCookie(2));
    assert_eq!(standing.unwrap(), Standing::New);
}

#[test]
fn the_same_request_again_is_no_contradiction() {
    let request = pod("a", "/a", "10.0.0.1");
    let pods = enrolled(request.clone(), 1, waiting());
    let found = standing(&pods, &request, NetnsCookie(1)).unwrap();
    assert_eq!(found, Standing::Waiting);
    let steered = Steered {
        inode: 1,
        own: Vec::new(),
        outbound: 1,
        hbone: 2,
        inbound: 3,
    };
    let pods = enrolled(request.clone(), 1, State::Enrolled(steered));
    let found = standing(&pods, &request, NetnsCookie(1)).unwrap();
    assert_eq!(found, Standing::Enrolled);
}

#[test]
fn container_namespace_and_address_belong_to_one_pod() {
    let pods = enrolled(pod("a", "/a", "10.0.0.1"), 1, waiting());
    for (request, cookie, what) in [
        (pod("a", "/a", "10.0.0.1"), 2, "the container"),
        (pod("a", "/a", "10.0.0.9"), 1, "the container"),
        (pod("b", "/a", "10.0.0.2"), 1, "/a"),
        (pod("b", "/b", "10.0.0.1"), 2, "10.0.0.1"),
    ] {
        let error = standing(&pods, &request, NetnsCookie(cookie)).unwrap_err();
        let DatapathError::Taken {
            what: found,
            container,
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((found.as_str(), container.as_str()), (what, "a"));
    }
}

#[test]
fn a_request_must_name_container_namespace_and_address() {
    assert!(complete(&pod("a", "/a", "10.0.0.1")).is_ok());
    assert!(complete(&pod("", "/a", "10.0.0.1")).is_err());
    assert!(complete(&pod("a", "", "10.0.0.1")).is_err());
    let mut none = pod("a", "/a", "10.0.0.1");
    none.ips.clear();
    assert!(complete(&none).is_err());
}
