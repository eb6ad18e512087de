//! What becomes of a pod's connect. The table of the same-node path goes here: until it exists
//! every connect goes to the agent, which decides.

use ebpf_common::SocketAddress;

/// A decision about one connect.
pub(crate) enum Verdict {
    /// Rewrite to the pod's outbound listener.
    Capture,
}

/// Decides a connect of the pod in `_netns` to `_destination`.
#[inline(always)]
pub(crate) fn verdict(_netns: u64, _destination: &SocketAddress) -> Verdict {
    Verdict::Capture
}
