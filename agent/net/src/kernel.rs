//! What the kernel side (`agent-datapath`) gives to the proxy, as traits so that the proxy is
//! tested without eBPF.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

/// The cookie of a network namespace (`SO_NETNS_COOKIE`). Never reused by the kernel while it
/// runs, unlike inode numbers: the one key of a pod on a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsCookie(pub u64);

impl fmt::Debug for NetnsCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "netns:{}", self.0)
    }
}

/// Finds where a captured connection was going.
pub trait OriginalDst: Send + Sync {
    /// The destination that the socket with local address `client` in namespace `pod` asked for;
    /// `None` when that socket was not captured.
    fn original_dst(&self, pod: NetnsCookie, client: SocketAddr) -> Option<SocketAddr>;
}

/// Marks the agent's own sockets. A pod cannot forge these marks: they are socket-local storage
/// that only the holder of the eBPF map can write.
pub trait SocketTags: Send + Sync {
    /// Exempts `socket` from capture. Call before `connect`.
    fn exempt(&self, socket: BorrowedFd<'_>) -> io::Result<()>;

    /// Exempts `socket` and makes the application that accepts it see `client` as its peer.
    /// Call before `connect`.
    fn show_client(&self, socket: BorrowedFd<'_>, client: SocketAddr) -> io::Result<()>;
}

/// Port of name servers.
pub const NAME_PORT: u16 = 53;
/// Name servers of one family that a pod has a name socket for.
pub const NAME_SERVERS: u32 = 4;

/// Which of a pod's name sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamePlace {
    /// Below [`NAME_SERVERS`].
    pub slot: u32,
    /// The family of the socket and of its name server.
    pub is_ipv4: bool,
}

/// Brings a pod's name queries over UDP to sockets of the agent. A socket stands for one of the
/// servers that the pod asks; which one is decided when the pod first asks it.
pub trait NameSockets: Send + Sync {
    /// Has the kernel send queries to `socket`, for as long as it is open. All the sockets of a
    /// family must be given, in order of their slots.
    fn serve_names(
        &self,
        pod: NetnsCookie,
        place: NamePlace,
        socket: BorrowedFd<'_>,
    ) -> io::Result<()>;

    /// Ends that, for all of the pod's sockets: from now on its queries are left alone.
    fn leave_names(&self, pod: NetnsCookie) -> io::Result<()>;

    /// The server that the pod means by what it sends to that socket.
    fn name_server(&self, pod: NetnsCookie, place: NamePlace) -> Option<IpAddr>;
}
