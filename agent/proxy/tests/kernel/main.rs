//! The proxy as a whole, in network namespaces. Needs root; the kernel side is played by the test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;
mod lifetime;
mod paths;
mod policy;
