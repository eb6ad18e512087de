//! `sockops`: the moments at which a connection's addresses become known and cease to be.
//!
//! - A connect is about to send its SYN, the local port is chosen: publish what the other side
//!   needs to find.
//! - A connection is accepted: take over what its source published.
//! - A socket that published something closes: take it back.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, bpf_sock,
};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_boot_ns,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::debug;
use ebpf_common::{
    Approval, ClientKey, Flow, FlowKey, Ip, OriginalDestination, Peer, SocketAddress, SocketState,
    counter, ipv4_mapped, role,
};

use crate::address::{AF_INET6, field, shown, words};
use crate::maps::{APPROVED, LOCAL, ORIG, PEER, PODS, count, socket_state, written};

/// Every TCP socket of the node.
#[sock_ops]
pub(crate) fn socket_events(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => closed(&ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let Some(state) = state_of(ctx) else { return };
    let (local, remote) = ends(ctx);
    match state.role {
        role::CAPTURED => {
            let entry = OriginalDestination {
                socket: socket_cookie(ctx),
                address: state.address,
                pad: 0,
            };
            written(ORIG.insert(client_key(ctx, local), &entry, 0));
        }
        role::DIAL => {
            let entry = Peer {
                socket: socket_cookie(ctx),
                made: now(),
                client: state.address,
                pad: 0,
            };
            let key = flow_key(netns(ctx), local, remote);
            written(PEER.insert(&key, &entry, 0));
        }
        role::HOST => approve(ctx, local, remote),
        _ => return,
    }
    // Only sockets that published something report their end. Without the report an entry would
    // outlive its socket, so the flag is part of publishing.
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    written(ctx.set_cb_flags(flags as i32));
}

#[inline(always)]
fn approve(ctx: &SockOpsContext, local: SocketAddress, remote: SocketAddress) {
    let Some(pod) = pod_at(&remote.ip) else {
        return;
    };
    let entry = Approval {
        socket: socket_cookie(ctx),
        made: now(),
    };
    written(APPROVED.insert(flow_key(pod, local, remote), &entry, 0));
    count(counter::HOST_APPROVED);
    debug!(
        ctx,
        "approve host to {:i} port {}",
        shown(&remote.ip),
        remote.port
    );
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let netns = netns(ctx);
    if PODS.get_ptr(netns).is_none() {
        return;
    }
    let (local, remote) = ends(ctx);
    let key = flow_key(netns, remote, local);
    // SAFETY: entries are written whole by one socket.
    if let Some(peer) = unsafe { PEER.get(&key) } {
        let mut state = SocketState {
            role: role::ACCEPTED,
            address: peer.client,
        };
        if socket_state(socket(ctx), Some(&mut state)).is_some() {
            count(counter::CLIENT_SHOWN);
        } else {
            count(counter::INSERT_FAILED);
        }
        let _ = PEER.remove(&key);
    } else {
        // The approval ends here: kept longer, a forged packet of the same addresses would be
        // let through after the connection is gone.
        let _ = APPROVED.remove(&key);
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let Some(state) = state_of(ctx) else { return };
    let (local, remote) = ends(ctx);
    let cookie = socket_cookie(ctx);
    match state.role {
        role::CAPTURED => {
            let key = client_key(ctx, local);
            // SAFETY: entries are written whole by one socket.
            if unsafe { ORIG.get(&key) }.is_some_and(|entry| entry.socket == cookie) {
                let _ = ORIG.remove(&key);
            }
        }
        role::DIAL => {
            let key = flow_key(netns(ctx), local, remote);
            // SAFETY: entries are written whole by one socket.
            if unsafe { PEER.get(&key) }.is_some_and(|entry| entry.socket == cookie) {
                let _ = PEER.remove(&key);
            }
        }
        role::HOST => {
            let Some(pod) = pod_at(&remote.ip) else {
                return;
            };
            let key = flow_key(pod, local, remote);
            // SAFETY: entries are written whole by one socket.
            if unsafe { APPROVED.get(&key) }.is_some_and(|entry| entry.socket == cookie) {
                let _ = APPROVED.remove(&key);
            }
        }
        _ => {}
    }
}

/// Local and remote end of the socket.
#[inline(always)]
fn ends(ctx: &SockOpsContext) -> (SocketAddress, SocketAddress) {
    let ops = ctx.ops;
    let (local4, remote4) = (field!(ops, local_ip4), field!(ops, remote_ip4));
    let (local6, remote6): (Ip, Ip) = (words!(ops, local_ip6), words!(ops, remote_ip6));
    // The remote port is in network byte order in a whole word, the local one is not.
    let (local_port, remote_port) = (field!(ops, local_port), field!(ops, remote_port));
    let v6 = field!(ops, family) == AF_INET6;
    let local = SocketAddress {
        ip: if v6 { local6 } else { ipv4_mapped(local4) },
        port: local_port,
    };
    let remote = SocketAddress {
        ip: if v6 { remote6 } else { ipv4_mapped(remote4) },
        port: u32::from_be(remote_port),
    };
    (local, remote)
}

#[inline(always)]
fn client_key(ctx: &SockOpsContext, client: SocketAddress) -> ClientKey {
    ClientKey {
        netns: netns(ctx),
        client,
        pad: 0,
    }
}

#[inline(always)]
fn flow_key(netns: u64, source: SocketAddress, destination: SocketAddress) -> FlowKey {
    FlowKey {
        netns,
        flow: Flow {
            source,
            destination,
        },
    }
}

/// The namespace of the pod of this node that has an address.
#[inline(always)]
fn pod_at(ip: &Ip) -> Option<u64> {
    // SAFETY: entries are only replaced whole, by user space.
    unsafe { LOCAL.get(ip) }.copied()
}

#[inline(always)]
fn socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: a context field, checked by the verifier.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk }
}

#[inline(always)]
fn state_of(ctx: &SockOpsContext) -> Option<SocketState> {
    // SAFETY: a pointer to this socket's state.
    socket_state(socket(ctx), None).map(|state| unsafe { state.read() })
}

#[inline(always)]
fn netns(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes this program's context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn socket_cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes this program's context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}
