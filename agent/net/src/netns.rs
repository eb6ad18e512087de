//! Network namespaces: entering one for the moment in which a socket is made.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;

use nix::sched::{CloneFlags, setns};

use crate::NetnsCookie;

/// An open network namespace. While it is open the namespace lives, and with it the veth of a
/// deleted pod: drop it on un-enrolment.
#[derive(Debug)]
pub struct Netns {
    namespace: OwnedFd,
    cookie: NetnsCookie,
}

impl Netns {
    /// Opens the namespace a path names (`/proc/PID/ns/net`, `/run/netns/NAME`). Fails when the
    /// path is not a network namespace or the caller may not enter it (CAP_SYS_ADMIN).
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_fd(File::open(path)?.into())
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Takes an already open namespace.
    pub fn from_fd(namespace: OwnedFd) -> io::Result<Self> {
        let socket = inside(namespace.as_fd(), datagram_socket)??;
        Ok(Self {
            cookie: cookie_of_socket(socket.as_fd())?,
            namespace,
        })
    }

    /// The namespace's cookie.
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// Runs `work` with the calling thread inside the namespace. The thread is back in the
    /// process's namespace (that of its main thread) when this returns; should that fail the
    /// process aborts, because every later socket of the thread would belong to the wrong pod.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        inside(self.namespace.as_fd(), work)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// The namespace every thread of the process returns to, opened once: a descriptor per thread
/// would grow with the number of threads, and opening one per socket costs as much as the socket.
static HOME: LazyLock<io::Result<File>> = LazyLock::new(|| File::open("/proc/self/ns/net"));

fn inside<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T) -> io::Result<T> {
    let home = HOME
        .as_ref()
        .map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let guard = ReturnHome(home);
    let result = work();
    drop(guard);
    Ok(result)
}

/// Returns the thread to its own namespace, also when `work` panics.
struct ReturnHome<'a>(&'a File);

impl Drop for ReturnHome<'_> {
    fn drop(&mut self) {
        if setns(self.0, CloneFlags::CLONE_NEWNET).is_err() {
            std::process::abort();
        }
    }
}

fn datagram_socket() -> io::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    Ok(socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// The cookie of the namespace a socket belongs to.
pub fn cookie_of_socket(socket: BorrowedFd<'_>) -> io::Result<NetnsCookie> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: cookie and len live across the call and len is the size of cookie.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(NetnsCookie(cookie))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `SO_NETNS_COOKIE` of `asm-generic/socket.h` (Linux 5.14), absent from libc.
const SO_NETNS_COOKIE: libc::c_int = 71;
