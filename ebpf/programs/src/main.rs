//! The eBPF programs. Builds for the bpf target only (`cargo xtask build-ebpf`).
//!
//! What a program may read and write is checked by the kernel's verifier at load; the shapes used
//! here (all context fields read first and unconditionally, then selected) are the ones it takes.
#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "contexts and socket storage are raw pointers that the verifier checks"
)]

mod address;
mod connect;
mod getpeername;
mod maps;
mod names;
mod own;
mod sk_lookup;
mod sockops;
mod verdict;

/// The verifier refuses programs that can panic; this only satisfies the linker.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Licence string for the kernel. No helper that is kept for GPL programs is used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
