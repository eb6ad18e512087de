//! The `sk_lookup` link of a pod: attached in the pod's namespace, pinned under its cookie.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agent_net::Netns;

use crate::bpffs;
use crate::error::DatapathError;
use crate::hooks;
use crate::sys::{self, AttachPoint, LinkTarget};

/// Attaches `program` in `netns`, in place of an older one when there is one.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    netns: &Netns,
    path: &Path,
) -> Result<(), DatapathError> {
    if let Ok(link) = sys::open(path)
        && let Some(old) = effective_program(link.as_fd(), inode(netns)?)?
        && sys::replace(link.as_fd(), program, old.as_fd()).is_ok()
    {
        return Ok(());
    }
    let link = sys::attach(program, netns.as_fd(), AttachPoint::SkLookup)
        .map_err(DatapathError::kernel("attach sk_lookup"))?;
    // What is pinned there could not be updated; the new link is in force by now.
    hooks::detach(path)?;
    sys::pin(link.as_fd(), path).map_err(DatapathError::file(path))
}

/// The program that steers a namespace, by the link pinned at `path`. Fails when the link is
/// gone, or attached nowhere or elsewhere.
pub(crate) fn program(path: &Path, netns_inode: u32) -> Result<OwnedFd, DatapathError> {
    let link = sys::open(path).map_err(DatapathError::file(path))?;
    effective_program(link.as_fd(), netns_inode)?
        .ok_or_else(|| DatapathError::Unverified("the sk_lookup link is not attached".into()))
}

/// Detaches a pod's link and removes its pin.
pub(crate) fn detach(path: &Path) -> Result<(), DatapathError> {
    hooks::detach(path)
}

/// Removes the pins of links whose namespace is gone.
pub(crate) fn remove_dead(directory: &Path) -> Result<(), DatapathError> {
    for path in bpffs::list(directory)? {
        let alive = sys::open(&path)
            .and_then(|link| sys::link_info(link.as_fd()))
            .is_ok_and(|info| matches!(info.target, LinkTarget::Netns { inode, .. } if inode != 0));
        if !alive {
            detach(&path)?;
        }
    }
    Ok(())
}

/// Inode number of a namespace: how the kernel names it in a link's description. It says where a
/// link is attached now, it is no identity.
pub(crate) fn inode(netns: &Netns) -> Result<u32, DatapathError> {
    let read = || -> io::Result<u64> {
        let file = std::fs::File::from(netns.as_fd().try_clone_to_owned()?);
        Ok(file.metadata()?.ino())
    };
    Ok(read().map_err(DatapathError::kernel("stat a network namespace"))? as u32)
}

fn effective_program(
    link: BorrowedFd<'_>,
    netns_inode: u32,
) -> Result<Option<OwnedFd>, DatapathError> {
    let info = sys::link_info(link).map_err(DatapathError::kernel("describe a link"))?;
    let wanted = LinkTarget::Netns {
        inode: netns_inode,
        attach_type: AttachPoint::SkLookup as u32,
    };
    if info.target != wanted {
        return Ok(None);
    }
    sys::program_by_id(info.program)
        .map(Some)
        .map_err(DatapathError::kernel("open a link's program"))
}
