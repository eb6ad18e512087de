//! Keys and values of the eBPF maps, shared by kernel and user space. no_std.
//!
//! Everything is plain old data without implicit padding, so that a value is the same bytes on
//! both sides. Addresses are four words in network byte order, IPv4 as v4-mapped
//! (`::ffff:a.b.c.d`), so that one body of code serves both families and the IPv4 packet of a
//! v4-mapped socket has the same key as the socket. Ports are in host byte order.
#![no_std]
#![cfg_attr(
    feature = "user",
    expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")
)]

mod layout;
mod tables;

pub use layout::{
    Approval, ClientKey, Flow, FlowKey, Ip, Listener, NamePlace, OriginalDestination, OwnKey, Peer,
    Pod, Settings, SocketAddress, SocketState, ipv4_mapped, is_ipv4, is_loopback,
};
pub use tables::{Kind, NO_PREALLOC, TABLES, Table, sizes};

/// Destination port of rewritten connects. Nothing is bound to it: the pod's `sk_lookup` program
/// steers it to the outbound listener.
pub const OUTBOUND_PORT: u16 = 15001;
/// Port of the tunnel listener.
pub const HBONE_PORT: u16 = 15008;
/// Port of name servers.
pub const NAME_PORT: u16 = 53;
/// Name servers of one family that a pod's queries are captured to: one more than a stub resolver
/// has. Those to others are left alone.
pub const NAME_SERVERS: u32 = 4;

/// What a socket is to us ([`SocketState::role`]).
pub mod role {
    /// The agent's own socket: never captured.
    pub const EXEMPT: u32 = 1;
    /// The agent's own socket towards an application: never captured, and the application sees
    /// `address` as its peer.
    pub const DIAL: u32 = 2;
    /// An application's captured socket; `address` is where it wanted to go.
    pub const CAPTURED: u32 = 3;
    /// An application's accepted socket whose peer is the agent; `address` is the client.
    pub const ACCEPTED: u32 = 4;
    /// A socket of the host namespace on its way to a pod of this node.
    pub const HOST: u32 = 5;
    /// An application's socket that is connected to a name server, which `address` is.
    pub const NAMES: u32 = 6;
}

/// Which of a pod's listeners ([`Listener::purpose`]).
pub mod purpose {
    /// Receives captured connects of the pod's applications.
    pub const OUTBOUND: u32 = 1;
    /// Receives tunnels of peers on port 15008.
    pub const HBONE: u32 = 2;
    /// Receives everything else that is sent to the pod.
    pub const INBOUND: u32 = 3;
}

/// Slots of the counters, each a number of events since the map was made.
pub mod counter {
    /// Connects rewritten to the outbound listener.
    pub const CAPTURED: u32 = 0;
    /// Connects refused because the pod has no address of the family asked for.
    pub const NO_ADDRESS: u32 = 1;
    /// Connects of the host namespace approved on their way to a pod.
    pub const HOST_APPROVED: u32 = 2;
    /// Map entries that could not be written (map full).
    pub const INSERT_FAILED: u32 = 3;
    /// Packets dropped because the pod has no listener for them.
    pub const NO_LISTENER: u32 = 4;
    /// New connections given to the tunnel listener.
    pub const TO_HBONE: u32 = 5;
    /// New connections given to the plaintext listener.
    pub const TO_INBOUND: u32 = 6;
    /// New connections given to the outbound listener.
    pub const TO_OUTBOUND: u32 = 7;
    /// New connections let through because they were approved.
    pub const APPROVED: u32 = 8;
    /// Applications' accepted sockets that were given their client's address.
    pub const CLIENT_SHOWN: u32 = 9;
    /// Number of slots.
    pub const SLOTS: u32 = 10;
}
