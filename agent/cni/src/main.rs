//! The `culvert-cni` plugin.
fn main() {}
