//! Fuzz targets: everything that reads bytes which somebody else wrote, and some decisions taken
//! from them. A target is a function of bytes that panics when what it tests does something it
//! must never do, which is always more than crashing: values must survive a round trip, two
//! evaluators must agree, what is doubtful must be refused.
//!
//! The same functions run in two ways: `cargo test -p tests-fuzz` runs the seeds of `corpus/` and
//! a fixed number of mutations of them, always the same ones; the program `fuzz` runs on with
//! others until its time is up, and adds what it finds to the corpus.

pub mod choices;
pub mod corpus;
pub mod mutate;
mod target;

pub use target::{TARGETS, Target};
