//! The eBPF programs. Builds for the bpf target only.
#![no_std]
#![no_main]
