//! Which core is for whom: the last one is the routers', the others carry load and backends. With
//! a single core everybody shares it.

use std::fs;
use std::thread::available_parallelism;

use anyhow::{Context, Result};

use crate::command;

/// Cores in the words of `taskset`.
pub(super) struct Cores {
    pub(super) router: String,
    pub(super) others: String,
}

impl Cores {
    pub(super) fn find() -> Result<Self> {
        let count = available_parallelism().context("counting cores")?.get();
        let last = count - 1;
        Ok(Self {
            router: last.to_string(),
            others: match last {
                0 | 1 => "0".to_owned(),
                last => format!("0-{}", last - 1),
            },
        })
    }
}

/// Moves a process, its threads and its children; what they start later is there, too.
pub(super) fn place(pid: u32, cores: &str) -> Result<()> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        place(child.parse().context("a child's pid")?, cores)?;
    }
    let pid = pid.to_string();
    let words = ["--all-tasks", "--cpu-list", "--pid", cores, &pid];
    command::check("taskset", &words).map(drop)
}
