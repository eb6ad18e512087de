//! This agent as the predecessor of the next: what it hands over, and what it does afterwards.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_datapath::{Datapath, Pause, Pauses, Wishes};
use agent_identity::Certificates;
use agent_model::NodeWishes;
use agent_net::NetnsCookie;
use agent_net::drain::Watcher;
use agent_net::private::PrivateListener;
use agent_proxy::Workers;
use agent_proxy::handover::{self, Estate, Hello, Incumbent, Left, ListenerName};
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::VERSION;
use super::attach::Attachment;
use super::ports::Ports;
use crate::listen::Serving;
use crate::readiness::{Pending, Readiness};

/// Time enrolment may take to pause; the successor waits longer.
const PAUSE: Duration = Duration::from_secs(3);

/// What is handed over, and by whom.
pub(super) struct Predecessor {
    pub(super) runtime: Handle,
    pub(super) pauses: Pauses,
    pub(super) datapath: Arc<Datapath>,
    pub(super) workers: Arc<Workers>,
    pub(super) certificates: Certificates,
    pub(super) ports: Ports,
    /// What is wanted of the pods, where the control plane says so.
    pub(super) wishes: Option<watch::Receiver<Wishes>>,
    /// Namespace of the agent itself.
    pub(super) namespace: NetnsCookie,
    pub(super) instance: String,
    /// Instance that this agent has followed itself.
    pub(super) followed: Option<String>,
}

/// Says when a successor has taken over.
pub(super) struct Retired {
    heir: watch::Receiver<Option<Heir>>,
    pending: Pending,
}

/// Who has taken over.
#[derive(Debug, Clone, Copy)]
struct Heir {
    /// It has this agent's ports too.
    has_ports: bool,
}

impl Predecessor {
    /// Hands over to the first successor that comes.
    pub(super) fn serve(
        self,
        socket: PrivateListener,
        path: PathBuf,
        readiness: &Readiness,
        draining: Watcher,
    ) -> Retired {
        let (retired, heir) = watch::channel(None);
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            if let Err(error) = serve(self, socket, &path, retired, draining).await {
                tracing::error!(%error, socket = %path.display(), "nobody can follow this agent");
            }
        });
        Retired {
            heir,
            pending: readiness.handed_over(),
        }
    }

    fn namespace_of(&self, heir: &Hello) -> bool {
        heir.namespace == self.namespace.0
    }
}

impl Retired {
    /// Completes when a successor has taken over. Safe to drop.
    pub(super) async fn wait(&mut self) {
        if self.heir.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Leaves to the successor, if there is one, what is its by now.
    pub(super) fn leave(
        &self,
        ports: &Ports,
        admin: &mut Option<Serving>,
        attachment: &mut Option<Attachment>,
    ) {
        let Some(heir) = *self.heir.borrow() else {
            return;
        };
        // Two agents that say different things about the same pods confuse everybody.
        attachment.take();
        if let Some(admin) = admin.take() {
            admin.leave();
        }
        if heir.has_ports {
            ports.close();
        } else {
            self.pending.pending("another agent has taken over");
        }
    }
}

async fn serve(
    mut own: Predecessor,
    socket: PrivateListener,
    path: &Path,
    retired: watch::Sender<Option<Heir>>,
    mut draining: Watcher,
) -> io::Result<()> {
    let mut socket = socket;
    loop {
        let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
        let stream = tokio::select! {
            () = draining.signalled() => return Ok(()),
            accepted = listener.accept() => accepted?.0.into_std()?,
        };
        stream.set_nonblocking(false)?;
        let retired = retired.clone();
        let followed = own.followed.clone();
        let given = tokio::task::spawn_blocking(move || {
            let mut session = Session {
                own: &own,
                pause: None,
                shares_ports: false,
                ceded: false,
                retired,
            };
            let left = handover::give(&stream, followed, &mut session);
            let ceded = session.ceded;
            (own, left, ceded)
        });
        let (back, left, ceded) = given.await.map_err(io::Error::other)?;
        own = back;
        if left == Left::Retired {
            return Ok(());
        }
        if ceded {
            // A successor that failed may have put its own in the place of ours.
            socket = PrivateListener::bind(path)?;
        }
    }
}

/// One hand-over.
struct Session<'a> {
    own: &'a Predecessor,
    pause: Option<Pause>,
    shares_ports: bool,
    ceded: bool,
    retired: watch::Sender<Option<Heir>>,
}

impl Session<'_> {
    fn wishes(&self) -> Option<Arc<NodeWishes>> {
        let wishes = self.own.wishes.as_ref()?.borrow();
        wishes.node.clone()
    }

    fn estate(&self) -> io::Result<Estate> {
        let mut listeners: BTreeMap<ListenerName, OwnedFd> = BTreeMap::new();
        if let Some(pause) = &self.pause {
            listeners.insert(ListenerName::Enrolment, pause.socket.try_clone()?);
        }
        if self.shares_ports {
            let ports = self.own.ports.share()?;
            listeners.extend(ports.into_iter().map(|(name, port)| (name, port.into())));
        }
        Ok(Estate {
            instance: self.own.instance.clone(),
            version: VERSION.to_owned(),
            pods: self.own.workers.hand_over()?,
            certificates: self.own.certificates.hand_over(),
            listeners,
            wishes: self.wishes(),
        })
    }
}

impl Incumbent for Session<'_> {
    fn pause(&mut self) -> bool {
        let paused = tokio::time::timeout(PAUSE, self.own.pauses.pause());
        self.pause = self
            .own
            .runtime
            .block_on(async { paused.await.ok().flatten() });
        self.pause.is_some()
    }

    fn cede(&mut self, heir: &Hello) -> io::Result<Estate> {
        tracing::info!(
            successor = heir.instance,
            version = heir.version,
            "handing over"
        );
        self.shares_ports = self.own.namespace_of(heir);
        self.ceded = true;
        self.own.datapath.cede();
        self.estate()
    }

    fn take_back(&mut self) {
        if let Err(error) = self.own.datapath.reclaim() {
            tracing::error!(%error, "the kernel side cannot be claimed again");
        }
        self.pause = None;
    }

    fn retire(&mut self) {
        let heir = Heir {
            has_ports: self.shares_ports,
        };
        self.retired.send_replace(Some(heir));
        if let Some(pause) = self.pause.take() {
            pause.handed_over();
        }
    }
}
