//! The kernel side on a real kernel, as root: sockets of real network namespaces through the
//! hooks. Needs the eBPF object (`cargo xtask build-ebpf`); `CULVERT_SKIP_KERNEL_TESTS=1` skips.

mod enrolment;
mod inbound;
mod lab;
mod lifetime;
mod outbound;
