//! `sk_lookup`: which socket of a pod a new inbound connection belongs to. One program is loaded
//! per pod, with the cookie of its namespace as a constant: this program type cannot ask for it,
//! and two pods of two nodes on one kernel may have the same address.

use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_SK_LOOKUP_F_NO_REUSEPORT, BPF_SK_LOOKUP_F_REPLACE, bpf_sk_lookup,
    sk_action::{SK_DROP, SK_PASS},
};
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use aya_log_ebpf::debug;
use ebpf_common::{
    Flow, FlowKey, HBONE_PORT, Ip, Listener, OUTBOUND_PORT, OwnKey, SocketAddress, counter,
    ipv4_mapped, is_loopback, purpose,
};

use crate::address::{AF_INET6, TCP, field, port, shown, words};
use crate::maps::{APPROVED, LISTENERS, OWN, count};

/// Cookie of the pod's network namespace, set when the program is loaded.
#[unsafe(no_mangle)]
static POD_NETNS: Global<u64> = Global::new(0);

/// New inbound connections of one pod.
#[sk_lookup]
pub(crate) fn pod_ingress(ctx: SkLookupContext) -> u32 {
    if field!(ctx.lookup, protocol) != TCP {
        return SK_PASS;
    }
    let (remote, local) = ends(ctx.lookup);
    if is_loopback(&remote.ip) || is_own(&remote.ip) {
        from_the_pod(&ctx, &local)
    } else if is_approved(remote, local) {
        count(counter::APPROVED);
        SK_PASS
    } else if local.port == u32::from(HBONE_PORT) {
        give_to(&ctx, purpose::HBONE, counter::TO_HBONE, &local)
    } else {
        give_to(&ctx, purpose::INBOUND, counter::TO_INBOUND, &local)
    }
}

/// The pod talks to itself, and the agent to the pod's applications: not our business, but for
/// captured connects. Those go to the listener found in the map, never to who holds the port.
#[inline(always)]
fn from_the_pod(ctx: &SkLookupContext, local: &SocketAddress) -> u32 {
    if local.port == u32::from(OUTBOUND_PORT) && !is_loopback(&local.ip) {
        give_to(ctx, purpose::OUTBOUND, counter::TO_OUTBOUND, local)
    } else {
        SK_PASS
    }
}

/// Hands the connection to one of the pod's listeners; without that listener it is refused. The
/// selection ignores SO_REUSEPORT groups and replaces what a program before us selected.
#[inline(always)]
fn give_to(ctx: &SkLookupContext, purpose: u32, given: u32, local: &SocketAddress) -> u32 {
    let key = Listener {
        netns: POD_NETNS.load(),
        purpose,
        pad: 0,
    };
    let flags = u64::from(BPF_SK_LOOKUP_F_NO_REUSEPORT | BPF_SK_LOOKUP_F_REPLACE);
    if LISTENERS.redirect_sk_lookup(ctx, &key, flags).is_ok() {
        count(given);
        SK_PASS
    } else {
        debug!(
            ctx,
            "drop: no listener {} for {:i} port {}",
            purpose,
            shown(&local.ip),
            local.port
        );
        count(counter::NO_LISTENER);
        SK_DROP
    }
}

#[inline(always)]
fn is_own(ip: &Ip) -> bool {
    let key = OwnKey {
        netns: POD_NETNS.load(),
        ip: *ip,
    };
    OWN.get_ptr(&key).is_some()
}

#[inline(always)]
fn is_approved(remote: SocketAddress, local: SocketAddress) -> bool {
    let key = FlowKey {
        netns: POD_NETNS.load(),
        flow: Flow {
            source: remote,
            destination: local,
        },
    };
    APPROVED.get_ptr(&key).is_some()
}

/// Remote and local end of the packet.
#[inline(always)]
fn ends(lookup: *mut bpf_sk_lookup) -> (SocketAddress, SocketAddress) {
    let (remote4, local4) = (field!(lookup, remote_ip4), field!(lookup, local_ip4));
    let (remote6, local6): (Ip, Ip) = (words!(lookup, remote_ip6), words!(lookup, local_ip6));
    let (remote_port, local_port) = (field!(lookup, remote_port), field!(lookup, local_port));
    let v6 = field!(lookup, family) == AF_INET6;
    let remote = SocketAddress {
        ip: if v6 { remote6 } else { ipv4_mapped(remote4) },
        port: port(u32::from(remote_port)),
    };
    let local = SocketAddress {
        ip: if v6 { local6 } else { ipv4_mapped(local4) },
        port: local_port,
    };
    (remote, local)
}
