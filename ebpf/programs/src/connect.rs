//! `connect4`, `connect6`: TCP connects of enrolled pods go to their outbound listener; connects
//! of the host to this node's pods are noted for approval.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use ebpf_common::{
    OUTBOUND_PORT, Pod, Settings, SocketAddress, SocketState, counter, is_ipv4, is_loopback, role,
};

use crate::address::{TCP, UDP, field, set_user_address, shown, user_address};
use crate::maps::{LOCAL, PODS, SETTINGS, SOCKET, count};
use crate::names;
use crate::own::{is_agents_own, is_own};
use crate::verdict::{Verdict, verdict};

const ALLOW: i32 = 1;
/// The call fails with EPERM.
const REFUSE: i32 = 0;

/// How deep below the cgroup root the kubepods cgroup is looked for.
const KUBEPODS_DEPTH: i32 = 6;

/// IPv4 connects.
#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    connect::<false>(&ctx)
}

/// IPv6 and v4-mapped connects.
#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    connect::<true>(&ctx)
}

#[inline(always)]
fn connect<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let protocol = field!(ctx.sock_addr, protocol);
    let destination = user_address::<V6>(ctx.sock_addr);
    if protocol == UDP {
        return connect_datagrams::<V6>(ctx, &destination);
    }
    if protocol != TCP {
        return ALLOW;
    }
    // SAFETY: the helper takes this program's context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: entries are only replaced whole, by user space.
    match unsafe { PODS.get(netns) } {
        Some(pod) => from_pod::<V6>(ctx, netns, pod, &destination),
        None => from_elsewhere(ctx, netns, &destination),
    }
}

/// A name query of a connected socket; everything else over UDP is left alone.
#[inline(always)]
fn connect_datagrams<const V6: bool>(ctx: &SockAddrContext, server: &SocketAddress) -> i32 {
    if names::capture::<V6>(ctx, server) {
        // Without memory for it getpeername shows the agent, and nothing else is lost.
        set_role(ctx, role::NAMES, server, true);
    } else if !is_agents_own(ctx) {
        set_role(ctx, 0, &SocketAddress::default(), false);
    }
    ALLOW
}

#[inline(always)]
fn from_pod<const V6: bool>(
    ctx: &SockAddrContext,
    netns: u64,
    pod: &Pod,
    destination: &SocketAddress,
) -> i32 {
    if is_agents_own(ctx) {
        return ALLOW;
    }
    if is_loopback(&destination.ip) || is_own(netns, destination) {
        set_role(ctx, 0, &SocketAddress::default(), false);
        return ALLOW;
    }
    match verdict(netns, destination) {
        Verdict::Capture => capture::<V6>(ctx, pod, destination),
    }
}

#[inline(always)]
fn capture<const V6: bool>(ctx: &SockAddrContext, pod: &Pod, destination: &SocketAddress) -> i32 {
    let v4 = is_ipv4(&destination.ip);
    let own = if v4 { pod.ipv4 } else { pod.ipv6 };
    if own == [0; 4] {
        count(counter::NO_ADDRESS);
        return REFUSE;
    }
    if !set_role(ctx, role::CAPTURED, destination, true) {
        count(counter::INSERT_FAILED);
        return REFUSE;
    }
    debug!(
        ctx,
        "capture {:i} port {}",
        shown(&destination.ip),
        destination.port
    );
    let listener = SocketAddress {
        ip: own,
        port: u32::from(OUTBOUND_PORT),
    };
    set_user_address::<V6>(ctx.sock_addr, &listener);
    count(counter::CAPTURED);
    ALLOW
}

/// A connect of a namespace that is not enrolled: only the host's own, to a pod of this node, is
/// of interest. Never refused here: the destination decides.
#[inline(always)]
fn from_elsewhere(ctx: &SockAddrContext, netns: u64, destination: &SocketAddress) -> i32 {
    if let Some(settings) = SETTINGS.get(0)
        && settings.host_netns != 0
        && settings.host_netns == netns
    {
        // SAFETY: entries are only replaced whole, by user space.
        let is_local = unsafe { LOCAL.get(destination.ip) }.is_some();
        if is_local && !is_pod_process(settings) {
            set_role(ctx, role::HOST, destination, true);
        } else {
            set_role(ctx, 0, &SocketAddress::default(), false);
        }
    }
    ALLOW
}

/// True for a process below a kubepods cgroup: a pod on the host's network is not the host.
#[inline(always)]
fn is_pod_process(settings: &Settings) -> bool {
    let mut level = 1;
    while level <= KUBEPODS_DEPTH {
        // SAFETY: a helper without pointers; 0 below the task's own depth.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id != 0 && (id == settings.kubepods[0] || id == settings.kubepods[1]) {
            return true;
        }
        level += 1;
    }
    false
}

/// Writes the socket's state; without `create` only over what an earlier connect of the same
/// socket left. False when there is no memory for it.
#[inline(always)]
fn set_role(ctx: &SockAddrContext, role: u32, address: &SocketAddress, create: bool) -> bool {
    // SAFETY: null or a pointer to this socket's state.
    let state = unsafe {
        let pointer = if create {
            SOCKET.get_or_insert_ptr_mut(ctx, None)
        } else {
            SOCKET.get_ptr_mut(ctx)
        };
        pointer.as_mut()
    };
    let Some(state) = state else { return false };
    *state = SocketState {
        role,
        address: *address,
    };
    true
}
