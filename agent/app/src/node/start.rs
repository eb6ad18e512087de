//! The way into service: after another agent, or alone, and with whatever is missing awaited.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use agent_datapath::DatapathError;
use agent_net::Netns;
use agent_net::backoff::Backoff;
use agent_proxy::handover::{self, Estate, Heir, Hello, PROTOCOL, Taken};
use tokio::runtime::Runtime;

use super::{BroughtUp, MeshView, VERSION};
use crate::config::NodeConfig;
use crate::readiness::Pending;
use crate::shutdown::Signals;

/// Time between two looks for a predecessor that this agent waits for, or that waits for this.
const LOOK: Duration = Duration::from_millis(250);
/// Time between two tries when something is missing: the first, and the longest.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Brings the agent into service. Where another one runs, this one follows it as soon as it knows
/// the mesh, and until then leaves everything to it; where none does, it starts as after a crash.
/// `None` when a signal came first.
pub(super) fn start(
    config: &NodeConfig,
    view: &MeshView,
    control: &Runtime,
    signals: &mut Signals,
    bring_up: impl Fn(Option<Estate>) -> anyhow::Result<BroughtUp>,
) -> anyhow::Result<Option<BroughtUp>> {
    let pending = &view.kernel_side;
    let mut way = Way {
        control,
        signals,
        pending,
    };
    let hello = Hello {
        protocol: PROTOCOL,
        version: VERSION.to_owned(),
        instance: config.instance.clone(),
        namespace: Netns::current()?.cookie().0,
    };
    while let Ok(stream) = UnixStream::connect(&config.handover_socket) {
        // What was read from disk is older than what the other one knows.
        if !*view.synced.borrow() || view.sync.borrow().restored.is_some() {
            if way.waits("another agent serves until the mesh is known here", LOOK) {
                return Ok(None);
            }
            continue;
        }
        let mut successor = Successor {
            bring_up: &bring_up,
            brought: None,
        };
        let taken = handover::take(&stream, hello.clone(), &mut successor);
        drop(stream);
        let why = match taken {
            Taken::Over => {
                pending.done();
                return Ok(successor.brought);
            }
            Taken::Failed => anyhow::bail!("cannot follow the agent that runs, which goes on"),
            Taken::Alone => break,
            Taken::AskAgain => "another agent cannot hand over now",
            Taken::StandBy => "another agent has followed this one",
        };
        if way.waits(why, LOOK) {
            return Ok(None);
        }
    }
    way.alone(&bring_up)
}

/// What the start waits with.
struct Way<'a> {
    control: &'a Runtime,
    signals: &'a mut Signals,
    pending: &'a Pending,
}

impl Way<'_> {
    /// Waits and says why; true when a signal came.
    fn waits(&mut self, why: &str, time: Duration) -> bool {
        self.pending.pending(why);
        let signals = &mut *self.signals;
        self.control.block_on(async {
            tokio::select! {
                signal = signals.next() => {
                    tracing::info!(signal, "ended before it served");
                    true
                }
                () = tokio::time::sleep(time) => false,
            }
        })
    }

    /// Starts without a predecessor. What is missing (a mount, a folder, a namespace) is awaited,
    /// however long; a program that the kernel refuses is not.
    fn alone(
        &mut self,
        bring_up: &impl Fn(Option<Estate>) -> anyhow::Result<BroughtUp>,
    ) -> anyhow::Result<Option<BroughtUp>> {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            let error = match bring_up(None) {
                Ok(brought) => {
                    self.pending.done();
                    return Ok(Some(brought));
                }
                Err(error) if may_pass(&error) => error,
                Err(error) => return Err(error),
            };
            let why = format!("{error:#}");
            tracing::warn!(error = why, "something is missing, waiting");
            if self.waits(&why, backoff.next(rand::random())) {
                return Ok(None);
            }
        }
    }
}

fn may_pass(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<DatapathError>();
    kind.is_some_and(|error| {
        matches!(
            error,
            DatapathError::File { .. }
                | DatapathError::Kernel { .. }
                | DatapathError::Namespace { .. }
        )
    })
}

/// This agent, while it follows another.
struct Successor<'a, F> {
    bring_up: &'a F,
    brought: Option<BroughtUp>,
}

impl<F: Fn(Option<Estate>) -> anyhow::Result<BroughtUp>> Heir for Successor<'_, F> {
    fn adopt(&mut self, estate: Estate) -> Result<(), String> {
        tracing::info!(
            predecessor = estate.instance,
            version = estate.version,
            pods = estate.pods.len(),
            certificates = estate.certificates.len(),
            "following another agent"
        );
        let brought = (self.bring_up)(Some(estate)).map_err(|error| format!("{error:#}"))?;
        self.brought = Some(brought);
        Ok(())
    }

    fn owns(&self) -> bool {
        let brought = self.brought.as_ref();
        brought.is_some_and(|brought| brought.datapath.is_owner())
    }
}
