//! Name queries of enrolled pods: UDP to port 53 goes to the pod's own name sockets, one for each
//! server the pod asks, and what comes back seems to come from the server. Where the agent serves
//! no such socket, or the pod asks more servers than there are places, nothing is touched.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_map_lookup_elem, bpf_sk_release};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ebpf_common::{
    Ip, NAME_PORT, NAME_SERVERS, NamePlace, Pod, SocketAddress, is_ipv4, is_loopback,
};

use crate::address::{field, set_user_address, user_address};
use crate::maps::{NAME_SOCKETS, PODS, SERVERS};
use crate::own::{is_agents_own, is_own};

const ALLOW: i32 = 1;
/// `BPF_NOEXIST`.
const NEW_ONLY: u64 = 1;

/// IPv4 datagrams of sockets that are not connected.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sendmsg::<false>(&ctx)
}

/// The same of IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sendmsg::<true>(&ctx)
}

/// Sources of IPv4 datagrams.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    recvmsg::<false>(&ctx)
}

/// The same of IPv6 sockets.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    recvmsg::<true>(&ctx)
}

#[inline(always)]
fn sendmsg<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let server = user_address::<V6>(ctx.sock_addr);
    let _ = capture::<V6>(ctx, &server);
    ALLOW
}

/// Sends a query to the pod's name socket for `server`. False when it is left alone.
#[inline(always)]
pub(crate) fn capture<const V6: bool>(ctx: &SockAddrContext, server: &SocketAddress) -> bool {
    if server.port != u32::from(NAME_PORT) || is_loopback(&server.ip) {
        return false;
    }
    // SAFETY: the helper takes this program's context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: entries are only replaced whole, by user space.
    let Some(pod) = (unsafe { PODS.get(netns) }) else {
        return false;
    };
    if is_agents_own(ctx) || is_own(netns, server) {
        return false;
    }
    let own = own_address(pod, is_ipv4(&server.ip));
    if own == [0; 4] {
        return false;
    }
    let Some(port) = place(netns, &server.ip) else {
        return false;
    };
    set_user_address::<V6>(ctx.sock_addr, &SocketAddress { ip: own, port });
    true
}

#[inline(always)]
fn own_address(pod: &Pod, v4: bool) -> Ip {
    if v4 { pod.ipv4 } else { pod.ipv6 }
}

/// The port of the socket for a server, which gets a place when it has none.
#[inline(always)]
fn place(netns: u64, server: &Ip) -> Option<u32> {
    let mut slot = 0;
    while slot < NAME_SERVERS {
        let key = NamePlace {
            netns,
            slot,
            is_ipv4: u32::from(is_ipv4(server)),
        };
        // Without an agent there is no place to give.
        let port = port_of(&key)?;
        // SAFETY: entries are never changed, only made and removed.
        let taken = match unsafe { SERVERS.get(key) } {
            Some(other) => other == server,
            None => SERVERS.insert(key, server, NEW_ONLY).is_ok(),
        };
        if taken {
            return Some(port);
        }
        slot += 1;
    }
    None
}

/// The local port of a name socket, while there is one: the map forgets sockets that close.
#[inline(always)]
fn port_of(key: &NamePlace) -> Option<u32> {
    let map = (&raw const NAME_SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: the map's own key; the helper returns null or a socket, which is released below.
    let socket: *mut bpf_sock =
        unsafe { bpf_map_lookup_elem(map, (&raw const *key).cast()) }.cast();
    if socket.is_null() {
        return None;
    }
    let port = field!(socket, src_port);
    // SAFETY: the socket that the lookup acquired.
    unsafe { bpf_sk_release(socket.cast()) };
    Some(port)
}

#[inline(always)]
fn recvmsg<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the helper takes this program's context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: entries are only replaced whole, by user space.
    let Some(pod) = (unsafe { PODS.get(netns) }) else {
        return ALLOW;
    };
    let source = user_address::<V6>(ctx.sock_addr);
    let v4 = is_ipv4(&source.ip);
    let own = own_address(pod, v4);
    if own == [0; 4] || own != source.ip {
        return ALLOW;
    }
    let mut slot = 0;
    while slot < NAME_SERVERS {
        let key = NamePlace {
            netns,
            slot,
            is_ipv4: u32::from(v4),
        };
        let Some(port) = port_of(&key) else {
            return ALLOW;
        };
        if port == source.port {
            // SAFETY: entries are never changed, only made and removed.
            if let Some(server) = unsafe { SERVERS.get(key) } {
                let server = SocketAddress {
                    ip: *server,
                    port: u32::from(NAME_PORT),
                };
                set_user_address::<V6>(ctx.sock_addr, &server);
            }
            return ALLOW;
        }
        slot += 1;
    }
    ALLOW
}
