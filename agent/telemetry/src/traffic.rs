//! The traffic metrics: one series per pair of workloads, shared by five metrics.
//!
//! The number of series is capped; past the cap connections are counted in one overflow series per
//! reporter. A series that no connection has used for the idle limit is removed.

mod labels;
mod table;

pub use labels::Direction;
pub(crate) use labels::{
    DESTINATION, Encoder, Flag, Labels, OVERFLOW, SOURCE, UNKNOWN, workload_key,
};
pub(crate) use table::{Series, Table};

#[cfg(test)]
mod tests;
