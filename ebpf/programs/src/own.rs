//! What is never captured.

use aya_ebpf::programs::SockAddrContext;
use ebpf_common::{OwnKey, SocketAddress, role};

use crate::maps::{OWN, SOCKET};

/// True for a socket of the agent's.
#[inline(always)]
pub(crate) fn is_agents_own(ctx: &SockAddrContext) -> bool {
    // SAFETY: null or a pointer to this socket's state.
    let state = unsafe { SOCKET.get_ptr_mut(ctx).as_ref() };
    state.is_some_and(|state| state.role == role::EXEMPT || state.role == role::DIAL)
}

/// True for an address of the pod's own.
#[inline(always)]
pub(crate) fn is_own(netns: u64, destination: &SocketAddress) -> bool {
    let key = OwnKey {
        netns,
        ip: destination.ip,
    };
    OWN.get_ptr(&key).is_some()
}
