use std::fs;
use std::path::PathBuf;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicU32, Ordering};

use agent_model::{NodeWishes, PodReport, Wanted};
use agent_net::drain::{self, Drain};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::pause::{Pauses, pauses};

/// Answers as told, and notes what it is asked.
#[derive(Default)]
struct Fake {
    asked: Arc<StdMutex<Vec<String>>>,
    waiting: StdMutex<Vec<PodInfo>>,
    /// Cookie that an un-enrolled pod had.
    cookie: Option<NetnsCookie>,
    /// Containers whose namespace is gone.
    gone: StdMutex<Vec<String>>,
    /// Number of the claim that ended this one's, 0 for none.
    superseded_by: Arc<AtomicU32>,
    enrolled: Arc<StdMutex<Vec<PodInfo>>>,
}

impl Fake {
    fn note(&self, what: &str) {
        self.asked.lock().unwrap().push(what.to_owned());
    }

    fn forget(&self, container: &str) {
        let mut enrolled = self.enrolled.lock().unwrap();
        enrolled.retain(|info| info.container_id != container);
    }
}

impl Enroller for Fake {
    fn enrol(&self, pod: PodInfo) -> Result<Option<EnrolledPod>, DatapathError> {
        self.note(&format!("enrol {}", pod.container_id));
        self.waiting
            .lock()
            .unwrap()
            .retain(|waiting| *waiting != pod);
        if pod.netns.is_empty() {
            return Err(DatapathError::Incomplete("a network namespace"));
        }
        self.enrolled.lock().unwrap().push(pod);
        Ok(None)
    }

    fn unenrol(&self, container_id: &str) -> Result<Option<NetnsCookie>, DatapathError> {
        self.note(&format!("unenrol {container_id}"));
        self.forget(container_id);
        Ok(self.cookie)
    }

    fn check(&self, container_id: &str) -> Result<(), DatapathError> {
        self.note(&format!("check {container_id}"));
        Err(DatapathError::NotEnrolled(container_id.to_owned()))
    }

    fn enrolled_at_start(&self) -> Result<Vec<PodInfo>, DatapathError> {
        Ok(self.waiting())
    }

    fn waiting(&self) -> Vec<PodInfo> {
        self.waiting.lock().unwrap().clone()
    }

    fn unserved(&self, _: &str, _: String) {}

    fn upkeep(&self) -> Result<(), DatapathError> {
        Ok(())
    }

    fn gone(&self) -> Vec<String> {
        self.gone.lock().unwrap().clone()
    }

    fn enrolled(&self) -> Vec<PodInfo> {
        self.enrolled.lock().unwrap().clone()
    }

    fn statuses(&self) -> Vec<PodStatus> {
        let enrolled = self.enrolled().into_iter();
        enrolled
            .map(|info| PodStatus {
                info,
                netns: NetnsCookie(7),
                verified: true,
                detail: None,
            })
            .collect()
    }

    /// Finds everything but what is called `lost`.
    fn locate(&self, pods: &[WantedPod]) -> Vec<Result<PodInfo, DatapathError>> {
        pods.iter()
            .map(|wanted| match &*wanted.name {
                "lost" => Err(DatapathError::NotFound {
                    uid: wanted.uid.clone(),
                }),
                name => Ok(PodInfo {
                    name: name.into(),
                    uid: wanted.uid.clone(),
                    ..pod(&format!("pod:{}", wanted.uid))
                }),
            })
            .collect()
    }

    fn leave(&self, container_id: &str) -> Result<Option<NetnsCookie>, DatapathError> {
        self.note(&format!("leave {container_id}"));
        self.forget(container_id);
        Ok(self.cookie)
    }

    fn found_as(&self, pod: &PodInfo) -> Option<String> {
        let enrolled = self.enrolled();
        let mut found = enrolled.iter().filter(|info| {
            info.container_id.starts_with("pod:") && info.container_id != pod.container_id
        });
        let found = found.find(|info| info.name == pod.name);
        found.map(|info| info.container_id.clone())
    }

    fn superseded(&self) -> Option<DatapathError> {
        let generation = self.superseded_by.load(Ordering::SeqCst);
        (generation > 0).then_some(DatapathError::Superseded {
            generation: generation.into(),
        })
    }
}

struct NoteRemovals(Arc<StdMutex<Vec<String>>>);

impl PodSink for NoteRemovals {
    fn add(&self, _: EnrolledPod) -> io::Result<()> {
        Ok(())
    }

    fn leave(&self, pod: NetnsCookie) {
        self.0.lock().unwrap().push(format!("leave {}", pod.0));
    }

    fn remove(&self, pod: NetnsCookie) {
        self.0.lock().unwrap().push(format!("remove {}", pod.0));
    }
}

/// Nobody wants anything, as where there is no control plane with pods.
fn alone() -> Follow {
    Follow {
        wishes: None,
        reports: watch::Sender::new(None),
    }
}

struct Server {
    path: PathBuf,
    asked: Arc<StdMutex<Vec<String>>>,
    drain: Drain,
    pauses: Pauses,
    task: JoinHandle<Result<(), DatapathError>>,
}

async fn server(fake: Fake) -> Server {
    static SERVERS: AtomicU32 = AtomicU32::new(0);
    let number = SERVERS.fetch_add(1, Ordering::Relaxed);
    let name = format!("culvert-enrol-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name).join("enrol.sock");
    let asked = Arc::clone(&fake.asked);
    let (drain, watcher) = drain::channel();
    let sink = Arc::new(NoteRemovals(Arc::clone(&asked)));
    let socket = PrivateListener::bind(&path).unwrap();
    let (pauses, requests) = pauses();
    let task = tokio::spawn(serve(
        Arc::new(fake),
        sink,
        socket,
        requests,
        alone(),
        watcher,
    ));
    Server {
        path,
        asked,
        drain,
        pauses,
        task,
    }
}

impl Server {
    async fn say(&self, text: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        stream.write_all(text).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }

    async fn ask(&self, verb: CniVerb, pod: PodInfo) -> Option<String> {
        let mut line = serde_json::to_vec(&CniRequest { verb, pod }).unwrap();
        line.push(b'\n');
        let reply: CniReply = serde_json::from_str(&self.say(&line).await).unwrap();
        reply.error
    }

    async fn end(self) -> Vec<String> {
        assert!(self.drain.drain(Duration::from_secs(5)).await);
        self.task.await.unwrap().unwrap();
        assert!(!self.path.exists());
        let _ = fs::remove_dir(self.path.parent().unwrap());
        let asked = self.asked.lock().unwrap();
        asked.clone()
    }
}

fn pod(container: &str) -> PodInfo {
    PodInfo {
        container_id: container.into(),
        uid: String::new(),
        name: "web".into(),
        namespace: "shop".into(),
        netns: "/run/netns/web".into(),
        ips: vec!["10.0.0.1".parse().unwrap()],
    }
}

#[tokio::test]
async fn each_verb_is_worked_off_and_answered() {
    let server = server(Fake {
        cookie: Some(NetnsCookie(7)),
        ..Fake::default()
    })
    .await;
    assert_eq!(server.ask(CniVerb::Add, pod("a")).await, None);
    let error = server.ask(CniVerb::Check, pod("a")).await.unwrap();
    assert!(error.contains("not enrolled"), "{error}");
    assert_eq!(server.ask(CniVerb::Del, pod("a")).await, None);
    let asked = server.end().await;
    assert_eq!(asked, ["enrol a", "check a", "unenrol a", "remove 7"]);
}

#[tokio::test]
async fn an_unknown_pod_is_deleted_without_the_proxy() {
    let server = server(Fake::default()).await;
    assert_eq!(server.ask(CniVerb::Del, pod("a")).await, None);
    assert_eq!(server.end().await, ["unenrol a"]);
}

#[tokio::test]
async fn pods_of_the_list_come_first_and_failures_are_told() {
    let server = server(Fake {
        waiting: StdMutex::new(vec![pod("old")]),
        ..Fake::default()
    })
    .await;
    let mut wrong = pod("new");
    wrong.netns.clear();
    let error = server.ask(CniVerb::Add, wrong).await.unwrap();
    assert!(error.contains("network namespace"), "{error}");
    assert_eq!(server.end().await, ["enrol old", "enrol new"]);
}

#[tokio::test]
async fn a_pod_whose_namespace_stays_gone_is_given_up() {
    let fake = Fake {
        cookie: Some(NetnsCookie(7)),
        gone: StdMutex::new(vec!["a".into(), "b".into()]),
        ..Fake::default()
    };
    let asked = Arc::clone(&fake.asked);
    let desk = Desk::new(
        Arc::new(fake),
        Arc::new(NoteRemovals(Arc::clone(&asked))),
        None,
    );
    let missed = desk.give_up_gone(&BTreeSet::new()).await;
    assert!(asked.lock().unwrap().is_empty(), "one look is not enough");
    *desk.enroller.gone.lock().unwrap() = vec!["b".into(), "c".into()];
    let missed = desk.give_up_gone(&missed).await;
    assert_eq!(*asked.lock().unwrap(), ["unenrol b", "remove 7"]);
    assert_eq!(missed, BTreeSet::from(["b".into(), "c".into()]));
}

#[tokio::test]
async fn what_is_not_a_request_is_refused_and_the_next_served() {
    let server = server(Fake::default()).await;
    let long = vec![b' '; LINE_LIMIT as usize];
    for (text, reason) in [
        (&b"nonsense\n"[..], "expected"),
        (&b"{}\n"[..], "missing field"),
        (&long[..], "too long"),
    ] {
        let reply = server.say(text).await;
        assert!(reply.contains(reason), "{reply}");
    }
    assert_eq!(server.ask(CniVerb::Add, pod("a")).await, None);
    assert_eq!(server.end().await, ["enrol a"]);
}

#[tokio::test]
async fn requests_wait_while_enrolment_pauses() {
    let server = server(Fake::default()).await;
    let pause = server.pauses.pause().await.unwrap();
    let asked = Arc::clone(&server.asked);
    let (reply, ()) = tokio::join!(server.ask(CniVerb::Add, pod("a")), async {
        sleep(Duration::from_millis(100)).await;
        assert!(asked.lock().unwrap().is_empty());
        drop(pause);
    });
    assert_eq!(reply, None);
    assert_eq!(server.end().await, ["enrol a"]);
}

/// A request that comes while one agent follows another is served once, by the other.
#[tokio::test]
async fn who_waits_during_a_hand_over_is_served_by_the_successor() {
    let first = server(Fake::default()).await;
    let pause = first.pauses.pause().await.unwrap();
    let waits = first.ask(CniVerb::Add, pod("a"));
    let handed = async {
        sleep(Duration::from_millis(50)).await;
        let shared = pause.socket.try_clone().unwrap();
        let socket = PrivateListener::inherit(shared, &first.path).unwrap();
        pause.handed_over();
        let asked = Arc::new(StdMutex::new(Vec::new()));
        let sink = Arc::new(NoteRemovals(Arc::clone(&asked)));
        let fake = Fake {
            asked: Arc::clone(&asked),
            ..Fake::default()
        };
        let (drain, watcher) = drain::channel();
        let (_pauses, requests) = pauses();
        let task = tokio::spawn(serve(
            Arc::new(fake),
            sink,
            socket,
            requests,
            alone(),
            watcher,
        ));
        (asked, drain, task)
    };
    let (reply, (asked, drain, task)) = tokio::join!(waits, handed);
    assert_eq!(reply, None);
    assert_eq!(*asked.lock().unwrap(), ["enrol a"]);
    assert!(first.asked.lock().unwrap().is_empty());
    // The socket's file is not the first one's to remove.
    first.task.await.unwrap().unwrap();
    assert!(first.path.exists());
    assert!(drain.drain(Duration::from_secs(5)).await);
    task.await.unwrap().unwrap();
    assert!(!first.path.exists());
}

#[tokio::test]
async fn an_agent_that_was_superseded_ends_enrolment() {
    let fake = Fake::default();
    let superseded = Arc::clone(&fake.superseded_by);
    let desk = Desk::new(Arc::new(fake), Arc::new(NoteRemovals(Arc::default())), None);
    assert!(desk.keep_up().await.is_none());
    superseded.store(2, Ordering::SeqCst);
    let end = desk.keep_up().await.unwrap();
    assert!(
        matches!(end, DatapathError::Superseded { generation: 2 }),
        "{end}"
    );
}

/// A desk that follows wishes, what it is asked, and its reports.
struct Following {
    wishes: watch::Sender<Wishes>,
    asked: Arc<StdMutex<Vec<String>>>,
    enrolled: Arc<StdMutex<Vec<PodInfo>>>,
    reports: watch::Receiver<Option<Vec<PodReport>>>,
    desk: Arc<Desk<Fake>>,
    _task: JoinSet<()>,
}

impl Following {
    fn start() -> Self {
        let fake = Fake {
            cookie: Some(NetnsCookie(7)),
            ..Fake::default()
        };
        let (asked, enrolled) = (Arc::clone(&fake.asked), Arc::clone(&fake.enrolled));
        let sink = Arc::new(NoteRemovals(Arc::clone(&asked)));
        let (wishes, wanted) = watch::channel(Wishes::default());
        let (sender, reports) = watch::channel(None);
        let follow = Follow {
            wishes: Some(wanted.clone()),
            reports: sender,
        };
        let desk = Arc::new(Desk::new(Arc::new(fake), sink, Some(wanted)));
        let mut task = JoinSet::new();
        task.spawn(follow::follow(Arc::clone(&desk), follow));
        Self {
            wishes,
            asked,
            enrolled,
            reports,
            desk,
            _task: task,
        }
    }

    fn want(&self, pods: &[(&str, Wanted)]) {
        let pods = pods.iter().map(|&(name, wanted)| WantedPod {
            uid: format!("uid-{name}"),
            namespace: "shop".into(),
            name: name.into(),
            ips: vec!["10.0.0.1".parse().unwrap()],
            wanted,
            reason: "pod-label".into(),
            dns_capture: true,
        });
        let node = NodeWishes {
            pods: pods.collect(),
            meshed_namespaces: BTreeSet::new(),
        };
        self.wishes.send_replace(Wishes {
            current: true,
            node: Some(Arc::new(node)),
            meshed: None,
        });
    }

    /// Time passes until everything that can be done is done.
    async fn settle(&self) {
        sleep(Duration::from_secs(2)).await;
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    async fn call(&self, verb: CniVerb, name: &str) -> Result<(), String> {
        let pod = PodInfo {
            name: name.into(),
            ..pod("container")
        };
        self.desk.work(CniRequest { verb, pod }).await
    }
}

#[tokio::test(start_paused = true)]
async fn running_pods_are_enrolled_and_leave_as_they_are_wanted() {
    let following = Following::start();
    following.settle().await;
    assert!(following.reports.borrow().is_none(), "nothing was heard");
    following.want(&[
        ("lost", Wanted::Enrol),
        ("web", Wanted::Enrol),
        ("out", Wanted::Leave),
    ]);
    following.settle().await;
    assert_eq!(
        following.asked(),
        ["enrol pod:uid-web"],
        "the lost one blocks nobody"
    );
    let reports = following.reports.borrow().clone().unwrap();
    let states: Vec<&str> = reports.iter().map(|report| report.state.as_str()).collect();
    assert_eq!(states, ["failed", "verified"]);
    following.want(&[("web", Wanted::Leave)]);
    following.settle().await;
    assert_eq!(following.asked(), ["leave pod:uid-web", "leave 7"]);
    assert_eq!(following.reports.borrow().as_deref(), Some(&[][..]));
}

#[tokio::test(start_paused = true)]
async fn after_a_hundred_label_flips_the_last_one_counts() {
    for last in [Wanted::Enrol, Wanted::Leave] {
        let following = Following::start();
        for round in 0..100 {
            let wanted = [Wanted::Leave, Wanted::Enrol][round % 2];
            following.want(&[("web", wanted)]);
            sleep(Duration::from_millis(round as u64 * 17 % 900)).await;
        }
        following.want(&[("web", last)]);
        following.settle().await;
        let is_enrolled = !following.enrolled.lock().unwrap().is_empty();
        assert_eq!(is_enrolled, last == Wanted::Enrol);
        let asked = following.asked();
        let count = |what: &str| asked.iter().filter(|line| line.starts_with(what)).count();
        let (enrolled, left) = (count("enrol "), count("leave pod:"));
        assert_eq!(enrolled - left, usize::from(is_enrolled), "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_by_what_is_wanted_and_waits_until_that_is_known() {
    let following = Following::start();
    let start = Instant::now();
    let refused = following.call(CniVerb::Add, "web").await.unwrap_err();
    assert!(refused.contains("does not know"), "{refused}");
    assert_eq!(start.elapsed(), CALL_WAIT);
    let (added, ()) = tokio::join!(following.call(CniVerb::Add, "out"), async {
        sleep(Duration::from_secs(3)).await;
        following.want(&[("out", Wanted::Leave)]);
    });
    assert_eq!(added, Ok(()));
    assert_eq!(following.call(CniVerb::Check, "out").await, Ok(()));
    assert_eq!(following.asked(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_misses_a_pod_holds_up_the_meshs_own_only() {
    let following = Following::start();
    for (meshed, is_held_up) in [("shop", true), ("elsewhere", false)] {
        following.wishes.send_replace(Wishes {
            current: true,
            node: Some(Arc::default()),
            meshed: Some(Arc::new([meshed.to_owned()].into())),
        });
        let start = Instant::now();
        let added = following.call(CniVerb::Add, "web").await;
        assert_eq!(added.is_err(), is_held_up, "{meshed}: {added:?}");
        assert_eq!(start.elapsed(), CALL_WAIT, "it might have been opted in");
    }
    assert_eq!(following.asked(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_found_pod_goes_with_a_runtimes_call_that_names_another_container() {
    let following = Following::start();
    following.want(&[("web", Wanted::Enrol)]);
    following.settle().await;
    assert_eq!(following.asked(), ["enrol pod:uid-web"]);
    let _ = following.call(CniVerb::Add, "web").await;
    assert_eq!(
        following.asked(),
        ["check pod:uid-web"],
        "not enrolled twice"
    );
    // The pod is over, and the control plane knows.
    following.want(&[]);
    following.call(CniVerb::Del, "web").await.unwrap();
    let expected = [
        "unenrol container",
        "remove 7",
        "unenrol pod:uid-web",
        "remove 7",
    ];
    assert_eq!(following.asked(), expected);
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_that_left_has_open_ends_with_the_pod() {
    let following = Following::start();
    following.want(&[("web", Wanted::Enrol)]);
    following.settle().await;
    following.want(&[("web", Wanted::Leave)]);
    following.settle().await;
    following.asked();
    following.call(CniVerb::Del, "other").await.unwrap();
    assert_eq!(following.asked(), ["unenrol container", "remove 7"]);
    following.call(CniVerb::Del, "web").await.unwrap();
    let expected = ["unenrol container", "remove 7", "remove 7"];
    assert_eq!(following.asked(), expected);
}
