//! The kernel side on a real kernel, as root: sockets of real network namespaces through the
//! hooks. Needs the eBPF object (`cargo xtask build-ebpf`); `CULVERT_SKIP_KERNEL_TESTS=1` skips.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panic, also in the functions it calls"
)]

mod builds;
mod debug;
mod enrolment;
mod handover;
mod inbound;
mod lab;
mod lifetime;
mod outbound;
mod running;
