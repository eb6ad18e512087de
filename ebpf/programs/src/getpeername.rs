//! `getpeername4`, `getpeername6`: an application sees the peer it meant, not the agent. The hook
//! also runs inside `accept`.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ebpf_common::{
    ClientKey, OUTBOUND_PORT, SocketAddress, SocketState, ipv4_mapped, is_ipv4, role,
};

use crate::address::{field, set_user_address, user_address, words};
use crate::maps::{ORIG, SOCKET};

/// The kernel takes no other answer from this hook.
const DONE: i32 = 1;

/// Peer of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    getpeername::<false>(&ctx)
}

/// Peer of an IPv6 socket, v4-mapped connections included.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    getpeername::<true>(&ctx)
}

#[inline(always)]
fn getpeername<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let shown = state_of(ctx)
        .and_then(|state| {
            let has_peer = state.role == role::CAPTURED
                || state.role == role::ACCEPTED
                || state.role == role::NAMES;
            has_peer.then_some(state.address)
        })
        .or_else(|| destination_of_parent::<V6>(ctx));
    if let Some(address) = shown
        && address.port != 0
        && (V6 || is_ipv4(&address.ip))
    {
        set_user_address::<V6>(ctx.sock_addr, &address);
    }
    DONE
}

#[inline(always)]
fn state_of(ctx: &SockAddrContext) -> Option<&SocketState> {
    // SAFETY: null or a pointer to this socket's state.
    unsafe { SOCKET.get_ptr_mut(ctx).as_ref() }
}

/// The destination of an MPTCP connection: the state is in its first subflow, this hook sees the
/// parent, but both have the same local address.
#[inline(always)]
fn destination_of_parent<const V6: bool>(ctx: &SockAddrContext) -> Option<SocketAddress> {
    if user_address::<V6>(ctx.sock_addr).port != u32::from(OUTBOUND_PORT) {
        return None;
    }
    // SAFETY: the verifier checks the read of the context.
    let socket: *mut bpf_sock = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if socket.is_null() {
        return None;
    }
    let ip = if V6 {
        words!(socket, src_ip6)
    } else {
        ipv4_mapped(field!(socket, src_ip4))
    };
    let key = ClientKey {
        // SAFETY: the helper takes this program's context.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        client: SocketAddress {
            ip,
            port: field!(socket, src_port),
        },
        pad: 0,
    };
    // SAFETY: entries are written whole by one socket.
    unsafe { ORIG.get(&key) }.map(|entry| entry.address)
}
