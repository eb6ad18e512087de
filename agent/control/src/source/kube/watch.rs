//! One kind's watch: list, watch, and every way back when that fails.

use std::pin::pin;
use std::time::Duration;

use agent_net::backoff::Backoff;
use futures_util::StreamExt as _;
use kube::core::ApiResource;
use kube::runtime::watcher::{Config, Error, Event, InitialListStrategy, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::item::Item;
use super::kinds::Watched;
use super::store::Change;
use crate::source::ObjectRef;

/// Every watch is asked to end after so many seconds and resumed where it was. One that is silent
/// five seconds longer has stalled and is given up, so a dead connection costs a minute at most.
const WATCH_SECONDS: u32 = 45;
/// Objects of a page of a list.
const PAGE: u32 = 500;
/// Pauses between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(12));
/// How often a kind that is not defined is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// After a failure, a watch that has said nothing for this long is one that works; and one that has
/// worked for this long is tried again soon when it fails.
const QUIET: Duration = Duration::from_secs(10);
/// Streamed lists that broke off before the server gets to send pages instead.
const BROKEN_STREAMS: u32 = 2;

/// What a watch is of.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// Every object of the kind at this index.
    Kind(usize),
    /// One object.
    Name(ObjectRef),
}

/// Where a watch reports to.
#[derive(Debug, Clone)]
pub(super) struct Reports {
    pub(super) subject: Subject,
    pub(super) changes: mpsc::Sender<(Subject, Change)>,
}

impl Reports {
    /// False when nobody listens any more.
    async fn send(&self, change: Change) -> bool {
        let report = (self.subject.clone(), change);
        self.changes.send(report).await.is_ok()
    }
}

/// Watches a kind, or one object of it, for ever.
pub(super) async fn follow(client: Client, watched: &'static Watched, reports: Reports) {
    let following = Following {
        client,
        plan: Plan::new(watched),
        backoff: Backoff::new(PAUSE.0, PAUSE.1),
        works_since: None,
        reports,
    };
    if watched.is_metadata_only {
        following.run::<true>().await;
    } else {
        following.run::<false>().await;
    }
}

struct Following {
    client: Client,
    plan: Plan,
    backoff: Backoff,
    /// Since when the watch has gone on behind a complete list. That a list was read proves
    /// nothing: what fails right after it would have it read again and again.
    works_since: Option<Instant>,
    reports: Reports,
}

/// Why a watcher was left.
enum Left {
    /// For another one.
    StartOver,
    /// Nobody listens.
    Closed,
}

impl Following {
    async fn run<const METADATA: bool>(mut self) {
        while let Left::StartOver = self.watch::<METADATA>().await {}
    }

    async fn watch<const METADATA: bool>(&mut self) -> Left {
        let resource = self.plan.resource();
        let client = self.client.clone();
        let (api, config) = match &self.reports.subject {
            Subject::Kind(_) => (Api::all_with(client, &resource), self.plan.config()),
            // Asked for in this form, the right to read objects of this name suffices.
            Subject::Name(name) => (
                Api::namespaced_with(client, &name.namespace, &resource),
                self.plan
                    .config()
                    .fields(&format!("metadata.name={}", name.name)),
            ),
        };
        let mut events = pin!(watcher::<Item<METADATA>>(api, config));
        let mut is_failing = false;
        loop {
            let next = if is_failing {
                timeout(QUIET, events.next()).await
            } else {
                Ok(events.next().await)
            };
            let sent = match next {
                // A list that takes its time proves nothing.
                Err(_) if !self.plan.is_watching() => true,
                Err(_) => {
                    is_failing = false;
                    self.works_since.get_or_insert_with(Instant::now);
                    self.reports.send(Change::Recovered).await
                }
                Ok(None) => return Left::StartOver,
                Ok(Some(Ok(event))) => {
                    // A list is said to begin before anything is asked.
                    if !matches!(event, Event::Init) {
                        is_failing = false;
                    }
                    if self.plan.saw(&event) == Verdict::StartOver {
                        return Left::StartOver;
                    }
                    if self.plan.is_watching() {
                        self.works_since.get_or_insert_with(Instant::now);
                    }
                    match change(event, &resource) {
                        Some(change) => self.reports.send(change).await,
                        None => true,
                    }
                }
                Ok(Some(Err(error))) => {
                    is_failing = true;
                    match self.failed(&error).await {
                        Verdict::GoOn => true,
                        Verdict::StartOver => return Left::StartOver,
                    }
                }
            };
            if !sent {
                return Left::Closed;
            }
        }
    }

    /// Reports a failure and waits as long as it deserves.
    async fn failed(&mut self, error: &Error) -> Verdict {
        let kind = self.plan.watched.kind;
        let worked = self.works_since.take().map(|since| since.elapsed());
        if worked.is_some_and(|worked| worked >= QUIET) {
            self.backoff.reset();
        }
        let (change, pause, verdict) = match self.plan.judge(failure(error)) {
            Judged::OtherForm => {
                debug!(target: "source", ?kind, %error, "asking in another form");
                return Verdict::StartOver;
            }
            Judged::Absent => (Change::Absent, LOOK_AGAIN, Verdict::StartOver),
            Judged::Forbidden => {
                warn!(target: "source", ?kind, %error, "the kind may not be read");
                (
                    Change::Forbidden(error.to_string()),
                    LOOK_AGAIN,
                    Verdict::GoOn,
                )
            }
            Judged::Retry(verdict) => {
                let pause = self.backoff.next(rand::random());
                warn!(target: "source", ?kind, %error, ?pause, "the API server cannot be watched");
                (Change::Failed(error.to_string()), pause, verdict)
            }
        };
        // A receiver that is gone is noticed with the next event.
        let _ = self.reports.send(change).await;
        sleep(pause).await;
        verdict
    }
}

fn change<const METADATA: bool>(
    event: Event<Item<METADATA>>,
    resource: &ApiResource,
) -> Option<Change> {
    match event {
        Event::Init => Some(Change::ListBegins),
        Event::InitApply(item) => item.read(resource).map(Change::Listed),
        Event::InitDone => Some(Change::ListEnds),
        Event::Apply(item) => item.read(resource).map(Change::Changed),
        Event::Delete(item) => item
            .read(resource)
            .map(|found| Change::Gone(found.reference)),
    }
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// The API server refused with this HTTP status.
    Refused(u16),
    /// It said something that cannot be read: something may have been missed.
    Unreadable,
    /// Anything else.
    Other,
}

fn failure(error: &Error) -> Failure {
    let source = match error {
        Error::InitialListFailed(source)
        | Error::WatchStartFailed(source)
        | Error::WatchFailed(source) => source,
        Error::WatchError(status) if status.code == 410 => return Failure::Refused(410),
        Error::WatchError(_) => return Failure::Other,
        Error::NoResourceVersion => return Failure::Unreadable,
    };
    match source {
        kube::Error::Api(status) => Failure::Refused(status.code),
        kube::Error::SerdeError(_) => Failure::Unreadable,
        _ => Failure::Other,
    }
}

/// What becomes of the watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It goes on.
    GoOn,
    /// Another one takes its place and begins with a list.
    StartOver,
}

/// What a failure asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    /// Another version or another form of list, at once.
    OtherForm,
    /// Patience: the kind is not defined.
    Absent,
    /// Patience: the kind is not for us to read.
    Forbidden,
    /// A pause.
    Retry(Verdict),
}

/// In which form the API server is asked.
#[derive(Debug)]
struct Plan {
    watched: &'static Watched,
    /// Index of the version that is asked for.
    version: usize,
    /// The next list is asked for as a stream: the first one at most. A stream may show an older
    /// state than one that is known already, and what came since would be taken for gone.
    is_streamed: bool,
    /// A list was complete.
    has_list: bool,
    is_listing: bool,
    broken_streams: u32,
}

impl Plan {
    fn new(watched: &'static Watched) -> Self {
        Self {
            watched,
            version: 0,
            is_streamed: watched.is_streamed,
            has_list: false,
            is_listing: false,
            broken_streams: 0,
        }
    }

    fn resource(&mut self) -> ApiResource {
        self.has_list = false;
        self.is_listing = false;
        let version = self.watched.versions.get(self.version);
        self.watched.resource(version.copied().unwrap_or("v1"))
    }

    fn is_watching(&self) -> bool {
        self.has_list && !self.is_listing
    }

    fn config(&self) -> Config {
        Config {
            timeout: Some(WATCH_SECONDS),
            page_size: Some(PAGE),
            initial_list_strategy: if self.is_streamed {
                InitialListStrategy::StreamingList
            } else {
                InitialListStrategy::ListWatch
            },
            ..Config::default()
        }
    }

    fn saw<K>(&mut self, event: &Event<K>) -> Verdict {
        match event {
            Event::Init => {
                // The list before this one ended without its end.
                self.broken_streams += u32::from(self.is_listing);
                self.is_listing = true;
                if self.is_streamed && self.broken_streams >= BROKEN_STREAMS {
                    self.is_streamed = false;
                    return Verdict::StartOver;
                }
            }
            Event::InitDone => {
                self.has_list = true;
                self.is_listing = false;
                self.is_streamed = false;
            }
            Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
        }
        Verdict::GoOn
    }

    fn judge(&mut self, failure: Failure) -> Judged {
        match failure {
            Failure::Refused(404) => {
                self.version += 1;
                if self.version < self.watched.versions.len() {
                    return Judged::OtherForm;
                }
                self.version = 0;
                if self.watched.is_optional {
                    Judged::Absent
                } else {
                    Judged::Retry(Verdict::StartOver)
                }
            }
            Failure::Refused(403) if self.watched.is_dispensable() => Judged::Forbidden,
            // A server that knows no streamed lists refuses their parameters.
            Failure::Refused(400 | 422) if self.is_streamed && !self.has_list => {
                self.is_streamed = false;
                Judged::OtherForm
            }
            // Where the watch wanted to go on is no longer known.
            Failure::Refused(410) | Failure::Unreadable => Judged::Retry(Verdict::StartOver),
            Failure::Refused(_) | Failure::Other => Judged::Retry(Verdict::GoOn),
        }
    }
}
