//! The enrolment socket: a unix socket on which the CNI plugin asks, one line of JSON each way.
//! It also enrols the pods of the agent's own list again, and does the kernel side's upkeep.

mod follow;
mod left;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use agent_model::{CniReply, CniRequest, CniVerb, PodInfo, WantedPod};
use agent_net::{NetnsCookie, drain::Watcher, private::PrivateListener};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use self::left::LeftPods;
use crate::pause::{PauseRequests, Verdict};
use crate::wishes::{Call, Follow, Wishes};
use crate::{Datapath, DatapathError, EnrolledPod, PodSink, PodStatus};

/// Longest request, in bytes.
const LINE_LIMIT: u64 = 64 << 10;
/// Requests served at one time; more wait in the socket's backlog.
const CONCURRENCY: usize = 32;
/// Time a client may take to send its request, and to take its answer.
const CLIENT_TIME: Duration = Duration::from_secs(5);
/// Time the requests under way have to end before a pause.
const PAUSE_WAIT: Duration = Duration::from_secs(1);
const SOCKET: &str = "use the enrolment socket";
/// Time between two rounds of upkeep, and between two tries for a pod that waits.
const UPKEEP: Duration = Duration::from_secs(5);
/// Time an `Add` waits for the control plane to know its pod. The runtime calls again.
const CALL_WAIT: Duration = Duration::from_secs(8);

/// Serves enrolment until the drain begins, and finishes the requests it took.
///
/// First every pod of the agent's own list is enrolled again; one that cannot be stays closed and
/// is tried again every few seconds. The socket has mode 0600. An `Add` is answered when the pod
/// is captured, verified and taken by `sink`; a `Del` when `sink` has let go of it. With wishes in
/// `follow`, an `Add` goes by them, and pods that run already are enrolled and leave as they say.
/// Whoever asks by
/// `pauses` gets the socket and decides whether this goes on. Fails when the list cannot be read, or
/// when another agent has taken the node over without asking.
pub async fn serve_enrolment(
    datapath: Arc<Datapath>,
    sink: Arc<dyn PodSink>,
    socket: PrivateListener,
    pauses: PauseRequests,
    follow: Follow,
    drain: Watcher,
) -> Result<(), DatapathError> {
    serve(datapath, sink, socket, pauses, follow, drain).await
}

/// What enrolment asks of the kernel side; an interface so that the server is tested without.
trait Enroller: Send + Sync + 'static {
    fn enrol(&self, pod: PodInfo) -> Result<Option<EnrolledPod>, DatapathError>;
    fn unenrol(&self, container_id: &str) -> Result<Option<NetnsCookie>, DatapathError>;
    fn check(&self, container_id: &str) -> Result<(), DatapathError>;
    fn enrolled_at_start(&self) -> Result<Vec<PodInfo>, DatapathError>;
    fn waiting(&self) -> Vec<PodInfo>;
    fn unserved(&self, container_id: &str, error: String);
    fn upkeep(&self) -> Result<(), DatapathError>;
    fn gone(&self) -> Vec<String>;
    fn enrolled(&self) -> Vec<PodInfo>;
    fn statuses(&self) -> Vec<PodStatus>;
    fn locate(&self, pods: &[WantedPod]) -> Vec<Result<PodInfo, DatapathError>>;
    fn leave(&self, container_id: &str) -> Result<Option<NetnsCookie>, DatapathError>;
    fn found_as(&self, pod: &PodInfo) -> Option<String>;
    /// Why this agent has no more business here, if so.
    fn superseded(&self) -> Option<DatapathError>;
}

impl Enroller for Datapath {
    fn enrol(&self, pod: PodInfo) -> Result<Option<EnrolledPod>, DatapathError> {
        self.enrol(pod)
    }

    fn unenrol(&self, container_id: &str) -> Result<Option<NetnsCookie>, DatapathError> {
        self.unenrol(container_id)
    }

    fn check(&self, container_id: &str) -> Result<(), DatapathError> {
        self.check(container_id)
    }

    fn enrolled_at_start(&self) -> Result<Vec<PodInfo>, DatapathError> {
        self.enrolled_at_start()
    }

    fn waiting(&self) -> Vec<PodInfo> {
        self.waiting()
    }

    fn unserved(&self, container_id: &str, error: String) {
        self.unserved(container_id, error);
    }

    fn upkeep(&self) -> Result<(), DatapathError> {
        self.upkeep()
    }

    fn gone(&self) -> Vec<String> {
        self.gone()
    }

    fn enrolled(&self) -> Vec<PodInfo> {
        self.enrolled()
    }

    fn statuses(&self) -> Vec<PodStatus> {
        self.pods()
    }

    fn locate(&self, pods: &[WantedPod]) -> Vec<Result<PodInfo, DatapathError>> {
        self.locate(pods)
    }

    fn leave(&self, container_id: &str) -> Result<Option<NetnsCookie>, DatapathError> {
        self.leave(container_id)
    }

    fn found_as(&self, pod: &PodInfo) -> Option<String> {
        self.found_as(pod)
    }

    fn superseded(&self) -> Option<DatapathError> {
        let error = self.must_own().err()?;
        matches!(error, DatapathError::Superseded { .. }).then_some(error)
    }
}

async fn serve<E: Enroller>(
    enroller: Arc<E>,
    sink: Arc<dyn PodSink>,
    socket: PrivateListener,
    mut pauses: PauseRequests,
    follow: Follow,
    mut drain: Watcher,
) -> Result<(), DatapathError> {
    let desk = Arc::new(Desk::new(enroller, sink, follow.wishes.clone()));
    desk.enrol_again().await?;
    let shared = socket.share().map_err(DatapathError::kernel(SOCKET))?;
    let PrivateListener { listener, file } = socket;
    let listener = UnixListener::from_std(listener).map_err(DatapathError::kernel(SOCKET))?;
    let slots = Arc::new(Semaphore::new(CONCURRENCY));
    let mut requests = JoinSet::new();
    let mut upkeep = JoinSet::new();
    upkeep.spawn(keep_up(Arc::clone(&desk)));
    // Ends with this function.
    let mut following = JoinSet::new();
    following.spawn(follow::follow(Arc::clone(&desk), follow));
    loop {
        tokio::select! {
            () = drain.signalled() => break,
            Some(_) = requests.join_next() => {}
            Some(lost) = upkeep.join_next() => {
                // The socket is the other agent's by now, or will be.
                return Err(lost.unwrap_or_else(|error| DatapathError::kernel("upkeep")(error.into())));
            }
            request = pauses.next() => {
                // Those under way come first; those that come now wait in the backlog.
                let idle = async { while requests.join_next().await.is_some() {} };
                let _ = timeout(PAUSE_WAIT, idle).await;
                let _turn = desk.turn.lock().await;
                if request.pause(&shared).await == Verdict::HandedOver {
                    // Who still waits, for its turn or for the control plane, has changed nothing:
                    // it hears no answer and asks the successor.
                    requests.abort_all();
                    following.abort_all();
                    upkeep.abort_all();
                    file.leave();
                    return Ok(());
                }
            }
            accepted = accept(&listener, &slots) => {
                let (stream, slot) = accepted;
                let desk = Arc::clone(&desk);
                requests.spawn(async move {
                    desk.answer(stream).await;
                    drop(slot);
                });
            }
        }
    }
    upkeep.abort_all();
    following.abort_all();
    drop((listener, shared, file));
    while requests.join_next().await.is_some() {}
    Ok(())
}

/// Ends only when another agent has taken the node over.
async fn keep_up<E: Enroller>(desk: Arc<Desk<E>>) -> DatapathError {
    let mut ticks = interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut missed = BTreeSet::new();
    loop {
        ticks.tick().await;
        if let Some(superseded) = desk.keep_up().await {
            return superseded;
        }
        missed = desk.give_up_gone(&missed).await;
        desk.try_waiting(desk.enroller.waiting()).await;
    }
}

/// The next client, once there is a slot for it.
async fn accept(
    listener: &UnixListener,
    slots: &Arc<Semaphore>,
) -> (UnixStream, tokio::sync::OwnedSemaphorePermit) {
    loop {
        let Ok(slot) = Arc::clone(slots).acquire_owned().await else {
            // Nobody closes the semaphore.
            std::future::pending::<()>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) => {
                tracing::warn!(%error, "enrolment socket");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Where requests are worked off, one at a time: an `Add` and a `Del` of one pod that overlap must
/// not leave it half there.
struct Desk<E> {
    enroller: Arc<E>,
    sink: Arc<dyn PodSink>,
    /// What is wanted; without it the runtime's word is enough.
    wishes: Option<watch::Receiver<Wishes>>,
    left: LeftPods,
    turn: Mutex<()>,
    /// A request was worked off.
    worked: Notify,
}

impl<E: Enroller> Desk<E> {
    fn new(
        enroller: Arc<E>,
        sink: Arc<dyn PodSink>,
        wishes: Option<watch::Receiver<Wishes>>,
    ) -> Self {
        Self {
            enroller,
            sink,
            wishes,
            left: LeftPods::default(),
            turn: Mutex::new(()),
            worked: Notify::new(),
        }
    }

    async fn answer(&self, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let reply = match read_request(&mut stream).await {
            Ok(request) => {
                let (verb, container) = (request.verb, request.pod.container_id.clone());
                let result = self.work(request).await;
                self.worked.notify_one();
                match &result {
                    Ok(()) => tracing::info!(?verb, container, "enrolment"),
                    Err(error) => tracing::warn!(?verb, container, error, "enrolment failed"),
                }
                CniReply {
                    error: result.err(),
                }
            }
            Err(error) => CniReply {
                error: Some(format!("request: {error}")),
            },
        };
        if let Ok(mut line) = serde_json::to_vec(&reply) {
            line.push(b'\n');
            let _ = timeout(CLIENT_TIME, stream.get_mut().write_all(&line)).await;
        }
    }

    async fn work(&self, request: CniRequest) -> Result<(), String> {
        if request.verb == CniVerb::Add && !self.is_wanted(&request.pod).await? {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        match request.verb {
            CniVerb::Add => self.add(request.pod).await,
            CniVerb::Del => self.delete_called(request.pod).await,
            CniVerb::Check => self.check(request.pod).await,
        }
    }

    /// Whether a pod that is being added belongs into the mesh; waits a while to learn it. A pod
    /// that stays unknown is held up in the mesh's namespaces only; elsewhere it is found later,
    /// should it be wanted after all.
    async fn is_wanted(&self, pod: &PodInfo) -> Result<bool, String> {
        let Some(mut wishes) = self.wishes.clone() else {
            return Ok(true);
        };
        let known = wishes.wait_for(|wishes| wishes.call(pod) != Call::Wait);
        let call = match timeout(CALL_WAIT, known).await {
            Ok(Ok(wishes)) => wishes.call(pod),
            _ => Call::Wait,
        };
        let is_outside = wishes.borrow().is_outside(&pod.namespace);
        let reason = match call {
            Call::Enrol => return Ok(true),
            Call::Pass(reason) => reason,
            Call::Wait if is_outside => "unknown, and its namespace is not meshed".to_owned(),
            Call::Wait => return Err("the control plane does not know this pod yet".to_owned()),
        };
        tracing::info!(container = pod.container_id, reason, "not for the mesh");
        Ok(false)
    }

    /// A pod that is not wanted in the mesh is as it should be when it is not there.
    async fn check(&self, pod: PodInfo) -> Result<(), String> {
        let is_outside = self.wishes.as_ref().is_some_and(|wishes| {
            let call = wishes.borrow().call(&pod);
            matches!(call, Call::Pass(_)) && !self.enroller.enrolled().contains(&pod)
        });
        if is_outside {
            return Ok(());
        }
        let found = self.enroller.found_as(&pod);
        let container = found.unwrap_or(pod.container_id);
        self.blocking(move |e| e.check(&container)).await
    }

    /// A runtime's `Del`: of a pod it named when it added it, of one that was found, or of one that
    /// is not enrolled any more and still has connections.
    async fn delete_called(&self, pod: PodInfo) -> Result<(), String> {
        self.delete(pod.container_id.clone()).await?;
        if let Some(found) = self.enroller.found_as(&pod) {
            self.delete(found).await?;
        }
        for cookie in self.left.take(&pod) {
            self.let_go(cookie).await;
        }
        Ok(())
    }

    async fn add(&self, pod: PodInfo) -> Result<(), String> {
        if let Some(found) = self.enroller.found_as(&pod) {
            // It is served already, under the name it was found by.
            return self.blocking(move |e| e.check(&found)).await;
        }
        let container = pod.container_id.clone();
        let Some(enrolled) = self.blocking(move |e| e.enrol(pod)).await? else {
            return Ok(());
        };
        let cookie = enrolled.netns.cookie();
        if let Err(error) = self.sink.add(enrolled) {
            self.let_go(cookie).await;
            let undone = self.blocking(move |e| e.unenrol(&container)).await;
            return Err(match undone {
                Ok(_) => format!("the proxy did not take the pod: {error}"),
                Err(undo) => format!("the proxy did not take the pod: {error}; {undo}"),
            });
        }
        Ok(())
    }

    async fn delete(&self, container: String) -> Result<(), String> {
        if let Some(cookie) = self.blocking(move |e| e.unenrol(&container)).await? {
            self.let_go(cookie).await;
        }
        Ok(())
    }

    /// One round of upkeep; says when this agent has no more business here.
    async fn keep_up(&self) -> Option<DatapathError> {
        let _turn = self.turn.lock().await;
        if let Err(error) = self.blocking(|e| e.upkeep()).await {
            tracing::warn!(error, "upkeep");
        }
        self.enroller.superseded()
    }

    /// Gives up the pods whose namespace was gone in the round before and still is: the runtime
    /// never sent the `Del`, and what the agent holds of them keeps their namespace and veth
    /// alive. Returns what is gone now.
    async fn give_up_gone(&self, before: &BTreeSet<String>) -> BTreeSet<String> {
        let gone = self.blocking(|e| Ok(e.gone())).await.unwrap_or_default();
        let gone = BTreeSet::from_iter(gone);
        for container in gone.intersection(before) {
            let _turn = self.turn.lock().await;
            match self.delete(container.clone()).await {
                Ok(()) => tracing::warn!(container, "its namespace is gone: given up"),
                Err(error) => tracing::warn!(container, error, "its namespace is gone"),
            }
        }
        gone
    }

    /// Has the sink let go of a pod. It waits for the pod's connections to end, so not here.
    async fn let_go(&self, pod: NetnsCookie) {
        let sink = Arc::clone(&self.sink);
        if let Err(error) = tokio::task::spawn_blocking(move || sink.remove(pod)).await {
            tracing::error!(%error, ?pod, "the proxy did not let go of a pod");
        }
    }

    /// Enrols the pods of the agent's own list.
    async fn enrol_again(&self) -> Result<(), DatapathError> {
        let enroller = Arc::clone(&self.enroller);
        let pods = tokio::task::spawn_blocking(move || enroller.enrolled_at_start()).await;
        let pods = pods.map_err(|error| DatapathError::kernel("enrol again")(error.into()))??;
        self.try_waiting(pods).await;
        Ok(())
    }

    async fn try_waiting(&self, pods: Vec<PodInfo>) {
        for pod in pods {
            let container = pod.container_id.clone();
            let _turn = self.turn.lock().await;
            // A request may have ended the wait, or the pod.
            if !self.enroller.waiting().contains(&pod) {
                continue;
            }
            match self.take_again(pod).await {
                Ok(()) => tracing::info!(container, "enrolled again"),
                Err(error) => tracing::warn!(container, error, "stays closed"),
            }
        }
    }

    /// Like [`Self::add`], but a pod that the proxy does not take stays captured.
    async fn take_again(&self, pod: PodInfo) -> Result<(), String> {
        let container = pod.container_id.clone();
        let Some(enrolled) = self.blocking(move |e| e.enrol(pod)).await? else {
            return Ok(());
        };
        let cookie = enrolled.netns.cookie();
        let Err(error) = self.sink.add(enrolled) else {
            return Ok(());
        };
        self.let_go(cookie).await;
        let error = format!("the proxy did not take the pod: {error}");
        self.enroller.unserved(&container, error.clone());
        Err(error)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&E) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, String> {
        let enroller = Arc::clone(&self.enroller);
        match tokio::task::spawn_blocking(move || work(&enroller)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

async fn read_request(stream: &mut BufReader<UnixStream>) -> io::Result<CniRequest> {
    let mut line = Vec::new();
    let mut limited = stream.take(LINE_LIMIT);
    timeout(CLIENT_TIME, limited.read_until(b'\n', &mut line))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if line.last() != Some(&b'\n') {
        let reason = if line.len() as u64 == LINE_LIMIT {
            "too long"
        } else {
            "ends before the line does"
        };
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(serde_json::from_slice(&line)?)
}
