//! The maps: name, kind and sizes. The programs take their sizes from here, and a starting agent
//! compares what it finds pinned with it.

use crate::{
    Approval, ClientKey, FlowKey, Ip, Listener, NamePlace, OriginalDestination, OwnKey, Peer, Pod,
    Settings, SocketState, counter,
};

/// Largest number of entries of each map.
pub mod sizes {
    /// Enrolled pods of a node.
    pub const PODS: usize = 1024;
    /// Addresses of all enrolled pods, link-local ones included.
    pub const OWN: usize = 16384;
    /// Routable addresses of all enrolled pods.
    pub const LOCAL: usize = 8192;
    /// Listeners of all enrolled pods.
    pub const LISTENERS: usize = 4096;
    /// Captured connections at one moment.
    pub const ORIG: usize = 131_072;
    /// Connections of the agent to applications, between SYN and accept.
    pub const PEER: usize = 65_536;
    /// Connections of the host to pods, between SYN and accept.
    pub const APPROVED: usize = 65_536;
    /// Name sockets of all enrolled pods.
    pub const NAME_SOCKETS: usize = 8192;
}

/// Kind of a map, with the kernel's number for it (`enum bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hash table without eviction.
    Hash = 1,
    /// Array.
    Array = 2,
    /// Array with a slot per CPU.
    PerCpuArray = 6,
    /// Hash table of sockets.
    SockHash = 18,
    /// Storage in sockets.
    SkStorage = 24,
    /// Ring buffer.
    RingBuf = 27,
}

/// A map as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Name, in the object and, with the version, in the pin directory.
    pub name: &'static str,
    /// Version of its layout and of what it means. A change of a type it holds, or of what an entry
    /// says, needs a new number: agents of two builds that follow each other share the maps that
    /// are the same to both, and each has its own of the others.
    pub version: u32,
    /// Kind.
    pub kind: Kind,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Largest number of entries (bytes of a ring buffer).
    pub entries: usize,
    /// Flags it was made with.
    pub flags: u32,
}

impl Table {
    /// True for a hash table of any kind, whose number of entries is a limit and no layout.
    pub const fn is_hashed(&self) -> bool {
        matches!(self.kind, Kind::Hash | Kind::SockHash)
    }
}

/// `BPF_F_NO_PREALLOC`: an entry takes memory only while it exists. Socket storage demands it;
/// for hash tables it also keeps a removed entry readable to a program that still looks at it.
pub const NO_PREALLOC: usize = 1;

/// Every map that is pinned.
pub const TABLES: [Table; 13] = [
    table::<i32, SocketState>("SOCKET", Kind::SkStorage, 0),
    table::<u64, Pod>("PODS", Kind::Hash, sizes::PODS),
    table::<OwnKey, u32>("OWN", Kind::Hash, sizes::OWN),
    table::<Ip, u64>("LOCAL", Kind::Hash, sizes::LOCAL),
    table::<Listener, u32>("LISTENERS", Kind::SockHash, sizes::LISTENERS),
    table::<ClientKey, OriginalDestination>("ORIG", Kind::Hash, sizes::ORIG),
    table::<FlowKey, Peer>("PEER", Kind::Hash, sizes::PEER),
    table::<FlowKey, Approval>("APPROVED", Kind::Hash, sizes::APPROVED),
    table::<NamePlace, u32>("NAME_SOCKETS", Kind::SockHash, sizes::NAME_SOCKETS),
    table::<NamePlace, Ip>("SERVERS", Kind::Hash, sizes::NAME_SOCKETS),
    table::<u32, Settings>("SETTINGS", Kind::Array, 1),
    table::<u32, u64>("COUNTERS", Kind::PerCpuArray, counter::SLOTS as usize),
    table::<(), ()>("AYA_LOGS", Kind::RingBuf, 1 << 17),
];

const fn table<K, V>(name: &'static str, kind: Kind, entries: usize) -> Table {
    Table {
        name,
        version: 1,
        kind,
        key: size_of::<K>(),
        value: size_of::<V>(),
        entries,
        flags: match kind {
            Kind::Hash | Kind::SkStorage => NO_PREALLOC as u32,
            Kind::Array | Kind::PerCpuArray | Kind::SockHash | Kind::RingBuf => 0,
        },
    }
}
