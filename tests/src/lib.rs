//! The harness, the end-to-end tests, and the programs demo, lab and bench.
