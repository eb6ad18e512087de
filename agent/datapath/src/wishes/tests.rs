use agent_net::NetnsCookie;

use super::*;

fn wanted(name: &str, uid: &str, wanted: Wanted) -> WantedPod {
    WantedPod {
        uid: uid.into(),
        namespace: "shop".into(),
        name: name.into(),
        ips: vec!["10.0.0.1".parse().unwrap()],
        wanted,
        reason: "pod-label".into(),
        dns_capture: true,
    }
}

fn info(container: &str, name: &str, uid: &str) -> PodInfo {
    PodInfo {
        container_id: container.into(),
        uid: uid.into(),
        name: name.into(),
        namespace: "shop".into(),
        netns: "/run/netns/web".into(),
        ips: vec!["10.0.0.1".parse().unwrap()],
    }
}

fn node(pods: Vec<WantedPod>) -> NodeWishes {
    NodeWishes {
        pods,
        meshed_namespaces: BTreeSet::new(),
    }
}

fn wishes(current: bool, pods: Option<Vec<WantedPod>>, meshed: Option<&[&str]>) -> Wishes {
    Wishes {
        current,
        node: pods.map(|pods| Arc::new(node(pods))),
        meshed: meshed.map(|names| Arc::new(names.iter().map(|&n| n.to_owned()).collect())),
    }
}

#[test]
fn a_runtimes_call_waits_only_for_what_may_be_meshed() {
    let enrol = || Some(vec![wanted("web", "u1", Wanted::Enrol)]);
    let leave = || Some(vec![wanted("web", "u1", Wanted::Leave)]);
    let (pass, unmeshed) = (
        Call::Pass("pod-label".into()),
        Call::Pass("its namespace is not meshed".into()),
    );
    for (case, wishes, uid, expected) in [
        ("wanted", wishes(true, enrol(), None), "u1", Call::Enrol),
        (
            "without a UID",
            wishes(true, enrol(), None),
            "",
            Call::Enrol,
        ),
        (
            "wanted, heard long ago",
            wishes(false, enrol(), None),
            "u1",
            Call::Enrol,
        ),
        (
            "not wanted",
            wishes(true, leave(), Some(&["shop"])),
            "u1",
            pass,
        ),
        (
            "another of that name",
            wishes(true, leave(), None),
            "u2",
            Call::Wait,
        ),
        (
            "unknown, control plane heard",
            wishes(true, Some(vec![]), Some(&[])),
            "u1",
            Call::Wait,
        ),
        (
            "unknown, not heard",
            wishes(false, Some(vec![]), Some(&["shop"])),
            "u1",
            Call::Wait,
        ),
        (
            "unmeshed, not heard",
            wishes(false, None, Some(&["other"])),
            "u1",
            unmeshed,
        ),
        (
            "nothing was ever heard",
            wishes(false, None, None),
            "u1",
            Call::Wait,
        ),
    ] {
        assert_eq!(wishes.call(&info("c", "web", uid)), expected, "{case}");
    }
}

#[test]
fn the_plan_is_the_difference() {
    let mut unplaced = wanted("unplaced", "u7", Wanted::Enrol);
    unplaced.ips.clear();
    let wishes = node(vec![
        unplaced,
        wanted("new", "u1", Wanted::Enrol),
        wanted("in", "u2", Wanted::Enrol),
        wanted("out", "u3", Wanted::Leave),
        wanted("never", "u4", Wanted::Leave),
        wanted("again", "u6", Wanted::Enrol),
    ]);
    let enrolled = [
        info("c2", "in", "u2"),
        info("c3", "out", ""),
        info("c5", "unknown", "u5"),
        info("c0", "again", "u0"),
    ];
    let plan = plan(&wishes, &enrolled);
    let find: Vec<&str> = plan.find.iter().map(|pod| &*pod.name).collect();
    assert_eq!(find, ["new", "again"]);
    assert_eq!(plan.leave, ["c3"]);
}

#[tokio::test(start_paused = true)]
async fn one_bad_pod_is_tried_ever_more_rarely_and_blocks_no_other() {
    let mut attempts = Attempts::default();
    let (bad, good) = (
        wanted("bad", "u1", Wanted::Enrol),
        wanted("good", "u2", Wanted::Enrol),
    );
    let plan = |pods: &[&WantedPod]| Plan {
        find: pods.iter().map(|&pod| pod.clone()).collect(),
        leave: vec![],
    };
    let start = Instant::now();
    let mut now = start;
    let mut tries = 0;
    while now < start + Duration::from_secs(120) {
        let due = attempts.due(plan(&[&bad]), now);
        if !due.find.is_empty() {
            tries += 1;
            let is_news = attempts.failed(&bad, "no process".into(), now, 0.5);
            assert_eq!(is_news, tries == 1);
        }
        now = attempts.next().unwrap();
    }
    assert!((8..16).contains(&tries), "{tries}");
    assert_eq!(attempts.due(plan(&[&bad, &good]), start).find, [good]);
    assert!(attempts.failed(&bad, "another reason".into(), now, 0.5));
    // A pod that is wanted no longer is forgotten, and starts anew.
    attempts.due(Plan::default(), now);
    assert_eq!(attempts.due(plan(&[&bad]), now).find.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_label_that_flaps_moves_nobody() {
    let mut attempts = Attempts::default();
    let leave = || Plan {
        find: vec![],
        leave: vec!["c".to_owned()],
    };
    let mut now = Instant::now();
    for _ in 0..100 {
        assert_eq!(attempts.due(leave(), now).leave, Vec::<String>::new());
        now += Duration::from_millis(300);
        assert_eq!(attempts.due(Plan::default(), now), Plan::default());
        now += Duration::from_millis(300);
    }
    attempts.due(leave(), now);
    now += LEAVE_GRACE;
    assert_eq!(attempts.due(leave(), now).leave, ["c"]);
    attempts.stays("c", now);
    assert_eq!(attempts.due(leave(), now), Plan::default());
    assert_eq!(attempts.next(), Some(now + LEAVE_RETRY));
    assert_eq!(attempts.due(leave(), now + LEAVE_RETRY).leave, ["c"]);
}

#[test]
fn everything_that_is_or_should_be_captured_is_reported() {
    let status = |info: PodInfo, detail: Option<&str>| PodStatus {
        info,
        netns: NetnsCookie(1),
        verified: detail.is_none(),
        detail: detail.map(str::to_owned),
    };
    let wishes = node(vec![
        wanted("verified", "u1", Wanted::Enrol),
        wanted("closed", "u2", Wanted::Enrol),
        wanted("failed", "u3", Wanted::Enrol),
        wanted("pending", "u4", Wanted::Enrol),
        wanted("leaving", "u5", Wanted::Leave),
        wanted("outside", "u6", Wanted::Leave),
    ]);
    let statuses = [
        status(info("c1", "verified", ""), None),
        status(info("c2", "closed", "u2"), Some("checking")),
        status(info("c5", "leaving", "u5"), None),
        status(info("c7", "unknown", "u7"), None),
    ];
    let mut attempts = Attempts::default();
    attempts.failed(&wishes.pods[2], "no process".into(), Instant::now(), 0.5);
    let reports = report(Some(&wishes), &statuses, &attempts);
    let lines: Vec<String> = reports
        .iter()
        .map(|r| format!("{} {} {} {}", r.name, r.uid, r.state.as_str(), r.detail))
        .collect();
    assert_eq!(
        lines,
        [
            "closed u2 enrolled checking",
            "failed u3 failed no process",
            "leaving u5 verified ",
            "pending u4 pending ",
            "unknown u7 verified ",
            "verified u1 verified ",
        ]
    );
}
