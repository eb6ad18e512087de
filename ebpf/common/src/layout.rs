//! The types, with their sizes fixed.

/// An IP address: four words in network byte order, IPv4 as v4-mapped.
pub type Ip = [u32; 4];

/// The third word of a v4-mapped address.
const MAPPED: u32 = 0xffff_u32.to_be();

/// The v4-mapped form of an IPv4 address in network byte order.
#[inline(always)]
pub const fn ipv4_mapped(address: u32) -> Ip {
    [0, 0, MAPPED, address]
}

/// True when `ip` is a v4-mapped IPv4 address.
#[inline(always)]
pub const fn is_ipv4(ip: &Ip) -> bool {
    ip[0] == 0 && ip[1] == 0 && ip[2] == MAPPED
}

/// True for 127.0.0.0/8, `::1`, and the unspecified addresses, which a connect takes for
/// loopback.
#[inline(always)]
pub const fn is_loopback(ip: &Ip) -> bool {
    if is_ipv4(ip) {
        ip[3] == 0 || u32::from_be(ip[3]) >> 24 == 127
    } else {
        ip[0] == 0 && ip[1] == 0 && ip[2] == 0 && u32::from_be(ip[3]) <= 1
    }
}

/// Declares a plain-old-data type and the size it must have.
macro_rules! layout {
    ($(#[$doc:meta])* $name:ident: $size:literal { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        const _: () = assert!(size_of::<$name>() == $size);

        // SAFETY: repr(C), integers only, and the size assertion above leaves no padding: the
        // fields add up to it.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}

        const _: () = assert!($size == 0 $(+ size_of::<$kind>())*);
    };
}

layout! {
    /// An IP address and a TCP port.
    SocketAddress: 20 {
        /// Address.
        ip: Ip,
        /// Port, host byte order, at most 65535.
        port: u32,
    }
}

layout! {
    /// What a socket is to us; lives in the socket and dies with it.
    SocketState: 24 {
        /// One of [`crate::role`].
        role: u32,
        /// The peer to show, or zero.
        address: SocketAddress,
    }
}

layout! {
    /// The two ends of a connection as its source sees them.
    Flow: 40 {
        /// Source.
        source: SocketAddress,
        /// Destination.
        destination: SocketAddress,
    }
}

layout! {
    /// A connection on its way into a namespace.
    FlowKey: 48 {
        /// Cookie of the destination's network namespace.
        netns: u64,
        /// Its ends.
        flow: Flow,
    }
}

layout! {
    /// The client's end of a captured connection.
    ClientKey: 32 {
        /// Cookie of the pod's network namespace.
        netns: u64,
        /// Local address of the captured socket.
        client: SocketAddress,
        /// Zero.
        pad: u32,
    }
}

layout! {
    /// Where a captured connection wanted to go.
    OriginalDestination: 32 {
        /// Cookie of the captured socket: only the socket that wrote an entry removes it.
        socket: u64,
        /// Address asked for.
        address: SocketAddress,
        /// Zero.
        pad: u32,
    }
}

layout! {
    /// The client an application is to see, handed from the agent's socket to the accepted one.
    Peer: 40 {
        /// Cookie of the agent's socket.
        socket: u64,
        /// Time the entry was made, nanoseconds since boot.
        made: u64,
        /// The client.
        client: SocketAddress,
        /// Zero.
        pad: u32,
    }
}

layout! {
    /// Permission for one connection attempt to reach the application.
    Approval: 16 {
        /// Cookie of the source's socket.
        socket: u64,
        /// Time the entry was made, nanoseconds since boot.
        made: u64,
    }
}

layout! {
    /// An address of a pod's own.
    OwnKey: 24 {
        /// Cookie of the pod's network namespace.
        netns: u64,
        /// The address.
        ip: Ip,
    }
}

layout! {
    /// An enrolled pod.
    Pod: 40 {
        /// Enrolments so far: a decision cached for an older one is stale.
        generation: u64,
        /// IPv4 address that captured connects are rewritten to; zero when it has none.
        ipv4: Ip,
        /// IPv6 address that captured connects are rewritten to; zero when it has none.
        ipv6: Ip,
    }
}

layout! {
    /// A listener of a pod.
    Listener: 16 {
        /// Cookie of the pod's network namespace.
        netns: u64,
        /// One of [`crate::purpose`].
        purpose: u32,
        /// Zero.
        pad: u32,
    }
}

layout! {
    /// A name socket of a pod.
    NamePlace: 16 {
        /// Cookie of the pod's network namespace.
        netns: u64,
        /// Which of them, below [`crate::NAME_SERVERS`].
        slot: u32,
        /// 1 for IPv4, 0 for IPv6.
        is_ipv4: u32,
    }
}

layout! {
    /// What the programs need to know of the node.
    Settings: 24 {
        /// Cookie of the host's network namespace; zero approves nothing.
        host_netns: u64,
        /// Ids of the cgroups whose processes are pods, zero for none.
        kubepods: [u64; 2],
    }
}
