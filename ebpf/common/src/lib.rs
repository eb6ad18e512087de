//! Keys and values of the eBPF maps, shared by kernel and user space. no_std.
#![no_std]
