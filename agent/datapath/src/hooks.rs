//! The hooks of the node, at the root of the cgroup hierarchy. A hook that is there already gets
//! the new program in place of the old one, so that there is no moment without.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::bpffs::{self, Pins};
use crate::error::DatapathError;
use crate::sys::{self, AttachPoint, LinkTarget};

/// A hook: the name of its program and of its pin, and where it is attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    pub(crate) name: &'static str,
    point: AttachPoint,
}

/// Every hook, in the order in which they are attached: those that show and publish come before
/// those that capture, so that nothing is captured that is not published.
pub(crate) const HOOKS: [Hook; 9] = [
    hook("socket_events", AttachPoint::SockOps),
    hook("getpeername4", AttachPoint::GetPeerName4),
    hook("getpeername6", AttachPoint::GetPeerName6),
    hook("recvmsg4", AttachPoint::RecvMsg4),
    hook("recvmsg6", AttachPoint::RecvMsg6),
    hook("sendmsg4", AttachPoint::SendMsg4),
    hook("sendmsg6", AttachPoint::SendMsg6),
    hook("connect4", AttachPoint::Connect4),
    hook("connect6", AttachPoint::Connect6),
];

const fn hook(name: &'static str, point: AttachPoint) -> Hook {
    Hook { name, point }
}

impl Hook {
    /// Every datagram passes it, and only name queries are of interest to it.
    fn is_for_names(&self) -> bool {
        use AttachPoint::{RecvMsg4, RecvMsg6, SendMsg4, SendMsg6};
        matches!(self.point, RecvMsg4 | RecvMsg6 | SendMsg4 | SendMsg6)
    }
}

/// The hooks of a node: all of them, or those it has where pods ask for names themselves.
pub(crate) fn wanted(names: bool) -> impl Iterator<Item = &'static Hook> {
    HOOKS
        .iter()
        .filter(move |hook| names || !hook.is_for_names())
}

/// Attaches the programs of the [`wanted`] hooks, in their order, then detaches the others that an
/// agent before has left. On failure everything is as it was.
pub(crate) fn attach_all(
    programs: &[OwnedFd],
    names: bool,
    cgroup_root: &Path,
    pins: &Pins,
) -> Result<(), DatapathError> {
    let cgroup = File::open(cgroup_root).map_err(DatapathError::file(cgroup_root))?;
    let id = cgroup
        .metadata()
        .map_err(DatapathError::file(cgroup_root))?
        .ino();
    let mut done = Undo(Vec::new());
    for (hook, program) in wanted(names).zip(programs) {
        let step = attach(
            hook,
            program.as_fd(),
            cgroup.as_fd(),
            id,
            &pins.link(hook.name),
        )?;
        done.0.push(step);
    }
    done.0.clear();
    let is_left_over = |hook: &&Hook| wanted(names).all(|other| other.name != hook.name);
    for hook in HOOKS.iter().filter(is_left_over) {
        // Without a name socket of this agent it changes nothing.
        if let Err(error) = detach(&pins.link(hook.name)) {
            tracing::warn!(hook = hook.name, %error, "a hook that is not needed stays");
        }
    }
    Ok(())
}

/// Names of the [`wanted`] hooks that are not pinned and attached to that cgroup.
pub(crate) fn missing(names: bool, cgroup_root: &Path, pins: &Pins) -> Vec<&'static str> {
    let id = fs::metadata(cgroup_root).map(|meta| meta.ino()).ok();
    let is_attached = |hook: &Hook| {
        id.is_some_and(|id| attached_program(hook, id, &pins.link(hook.name)).is_some())
    };
    let missing = wanted(names).filter(|hook| !is_attached(hook));
    missing.map(|hook| hook.name).collect()
}

/// Detaches and unpins every hook.
pub(crate) fn detach_all(pins: &Pins) -> Result<(), DatapathError> {
    for path in bpffs::list(&pins.links())? {
        detach(&path)?;
    }
    Ok(())
}

/// Detaches what is pinned there, whoever holds it besides, and removes the pin.
pub(crate) fn detach(path: &Path) -> Result<(), DatapathError> {
    if let Ok(link) = sys::open(path) {
        // A link whose cgroup or namespace is gone is detached already.
        let _ = sys::detach(link.as_fd());
    }
    bpffs::unpin(path)
}

/// A step taken, with what takes it back.
enum Step {
    Made(std::path::PathBuf),
    Replaced {
        link: OwnedFd,
        old: OwnedFd,
        new: OwnedFd,
    },
}

/// Takes the steps back, last first.
struct Undo(Vec<Step>);

impl Drop for Undo {
    fn drop(&mut self) {
        for step in self.0.drain(..).rev() {
            let result = match &step {
                Step::Made(path) => detach(path),
                Step::Replaced { link, old, new } => {
                    sys::replace(link.as_fd(), old.as_fd(), new.as_fd())
                        .map_err(DatapathError::kernel("put back the old program"))
                }
            };
            if let Err(error) = result {
                tracing::error!(%error, "a hook could not be put back");
            }
        }
    }
}

fn attach(
    hook: &Hook,
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    id: u64,
    path: &Path,
) -> Result<Step, DatapathError> {
    if let Some((link, old)) = attached_program(hook, id, path) {
        let new = program
            .try_clone_to_owned()
            .map_err(DatapathError::kernel("duplicate a program"))?;
        sys::replace(link.as_fd(), program, old.as_fd())
            .map_err(DatapathError::kernel("update a hook"))?;
        return Ok(Step::Replaced { link, old, new });
    }
    let link =
        sys::attach(program, cgroup, hook.point).map_err(DatapathError::kernel("attach a hook"))?;
    // What is pinned there is not our hook (any more): the new one is in place by now.
    detach(path)?;
    sys::pin(link.as_fd(), path).map_err(DatapathError::file(path))?;
    Ok(Step::Made(path.to_owned()))
}

/// The link pinned at `path` and its program, when it is this hook on that cgroup. The kernel
/// would take a connect6 program in a connect4 link, so the attach type is compared here.
fn attached_program(hook: &Hook, id: u64, path: &Path) -> Option<(OwnedFd, OwnedFd)> {
    let link = sys::open(path).ok()?;
    let info = sys::link_info(link.as_fd()).ok()?;
    let wanted = LinkTarget::Cgroup {
        id,
        attach_type: hook.point as u32,
    };
    if info.target != wanted {
        return None;
    }
    Some((link, sys::program_by_id(info.program).ok()?))
}
