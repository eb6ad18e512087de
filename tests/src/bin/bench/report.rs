//! What was measured, as a table, as JSON, and against floors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ::tests::agent::Agent;
use ::tests::lab::Lab;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::layout::Layout;
use crate::workload::{Slot, Workload};

/// One slot of each arm, next to each other in time.
#[derive(Debug)]
pub(crate) struct Round {
    /// Which came first.
    pub(crate) plain_first: bool,
    /// Without mesh.
    pub(crate) plain: Slot,
    /// Through both agents.
    pub(crate) mesh: Slot,
}

impl Round {
    /// Mesh to plain.
    pub(crate) fn ratio(&self) -> f64 {
        self.mesh.value / self.plain.value
    }
}

/// All rounds of a workload in a layout.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Where the programs ran.
    pub(crate) layout: Layout,
    /// What was measured.
    pub(crate) workload: &'static Workload,
    /// In order of time.
    pub(crate) rounds: Vec<Round>,
}

impl Cell {
    /// The median of the rounds' ratios: the figure that counts.
    pub(crate) fn ratio(&self) -> f64 {
        median(self.rounds.iter().map(Round::ratio))
    }

    fn key(&self) -> String {
        format!("{} {}", self.layout.name(), self.workload.name)
    }

    fn plain(&self) -> f64 {
        median(self.rounds.iter().map(|round| round.plain.value))
    }

    fn mesh(&self) -> f64 {
        median(self.rounds.iter().map(|round| round.mesh.value))
    }

    fn json(&self) -> Value {
        let rounds: Vec<Value> = self
            .rounds
            .iter()
            .map(|round| {
                json!({
                    "plainFirst": round.plain_first, "ratio": round.ratio(),
                    "plain": round.plain.json(), "mesh": round.mesh.json(),
                })
            })
            .collect();
        json!({
            "layout": self.layout.name(), "workload": self.workload.name,
            "unit": self.workload.unit, "ratio": self.ratio(), "plain": self.plain(),
            "mesh": self.mesh(), "rounds": rounds,
        })
    }
}

/// Resident memory of the agents at one moment, in bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    when: &'static str,
    agents: Vec<u64>,
}

impl Memory {
    /// Reads it.
    pub(crate) fn of(lab: &Lab, when: &'static str) -> Result<Self> {
        let agents = lab
            .cluster
            .nodes()
            .iter()
            .filter_map(|node| node.agent_if_any());
        let agents = agents.map(Agent::rss).collect::<Result<_>>()?;
        Ok(Self { when, agents })
    }
}

/// Everything of one run.
#[derive(Debug)]
pub(crate) struct Report {
    /// Cells in order of time.
    pub(crate) cells: Vec<Cell>,
    /// At the start and after each layout.
    pub(crate) memory: Vec<Memory>,
    /// Congestion control of both arms.
    pub(crate) congestion: String,
    /// Whether it was the short run.
    pub(crate) quick: bool,
    /// Whether no arm had a mesh.
    pub(crate) noise: bool,
    /// Length of a slot.
    pub(crate) slot: Duration,
    /// Of the whole run.
    pub(crate) took: Duration,
}

impl Report {
    /// The table for people.
    pub(crate) fn print(&self) {
        println!(
            "\nplain against {}, across two nodes, {} in both arms, slots of {} s, {:.0} s in all",
            if self.noise { "plain" } else { "mesh" },
            self.congestion,
            self.slot.as_secs(),
            self.took.as_secs_f64()
        );
        println!(
            "\n  {:<8}{:<24}{:>10}{:>10}  {:<7}{:>7}{:>16}",
            "layout", "workload", "plain", "mesh", "", "ratio", "lowest-highest"
        );
        for cell in &self.cells {
            let ratios = cell.rounds.iter().map(Round::ratio);
            let lowest = ratios.clone().fold(f64::INFINITY, f64::min);
            let highest = ratios.fold(0.0, f64::max);
            println!(
                "  {:<8}{:<24}{:>10}{:>10}  {:<7}{:>7.3}{:>16}",
                cell.layout.name(),
                cell.workload.name,
                figure(cell.plain()),
                figure(cell.mesh()),
                cell.workload.unit,
                cell.ratio(),
                format!("{lowest:.3}-{highest:.3}")
            );
        }
        for memory in &self.memory {
            let agents: Vec<String> = memory
                .agents
                .iter()
                .map(|bytes| megabytes(*bytes))
                .collect();
            println!("  agents' memory, {:<8}{}", memory.when, agents.join("  "));
        }
    }

    /// Everything for scripts.
    pub(crate) fn json(&self, verdicts: &[Verdict]) -> Value {
        let memory: Vec<Value> = self
            .memory
            .iter()
            .map(|memory| json!({ "when": memory.when, "agentsRssBytes": memory.agents }))
            .collect();
        json!({
            "schema": 1,
            "quick": self.quick,
            "noise": self.noise,
            "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "congestionControl": self.congestion,
            "slotSeconds": self.slot.as_secs(),
            "seconds": self.took.as_secs_f64(),
            "cells": self.cells.iter().map(Cell::json).collect::<Vec<_>>(),
            "memory": memory,
            "floors": verdicts.iter().map(Verdict::json).collect::<Vec<_>>(),
        })
    }

    fn highest_memory(&self) -> Option<u64> {
        self.memory
            .iter()
            .flat_map(|memory| &memory.agents)
            .copied()
            .max()
    }
}

/// What a run must reach.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Floors {
    /// Least ratio by `LAYOUT WORKLOAD`.
    ratios: BTreeMap<String, f64>,
    /// Most memory of an agent, in bytes.
    memory: Option<u64>,
}

/// One floor and what was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    what: String,
    floor: f64,
    measured: f64,
    /// Whether it was reached.
    pub(crate) good: bool,
}

impl Verdict {
    fn json(&self) -> Value {
        json!({
            "what": self.what, "floor": self.floor, "measured": self.measured, "good": self.good,
        })
    }
}

const MEMORY: &str = "agentRssBytes";

impl Floors {
    /// Those every build has to reach.
    pub(crate) fn of_the_issue() -> Self {
        let ratios = [
            ("pinned keep-alive c1", 0.25),
            ("pinned keep-alive c64", 0.27),
            ("pinned connection per request", 0.20),
            ("pinned one stream", 0.26),
        ];
        Self {
            ratios: ratios.map(|(key, floor)| (key.to_owned(), floor)).into(),
            memory: Some(40_000_000),
        }
    }

    /// Those of a file: `{"schema": 1, "ratios": {"LAYOUT WORKLOAD": R}, "agentRssBytes": N}`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let value = serde_json::from_slice(&text);
        value
            .context("not JSON")
            .and_then(|value| Self::parse(&value))
            .with_context(|| format!("floors of {}", path.display()))
    }

    fn parse(value: &Value) -> Result<Self> {
        ensure!(value["schema"] == 1, "schema is {}, not 1", value["schema"]);
        let ratios = value["ratios"].as_object().context("no object `ratios`")?;
        let ratios = ratios.iter().map(|(key, floor)| {
            let floor = floor
                .as_f64()
                .with_context(|| format!("{key}: not a number"))?;
            Ok((key.clone(), floor))
        });
        Ok(Self {
            ratios: ratios.collect::<Result<_>>()?,
            memory: value[MEMORY].as_u64(),
        })
    }

    /// Every floor that the run has a figure for.
    pub(crate) fn judge(&self, report: &Report) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for cell in &report.cells {
            if let Some(floor) = self.ratios.get(&cell.key()) {
                let measured = cell.ratio();
                let good = measured >= *floor;
                verdicts.push(Verdict {
                    what: cell.key(),
                    floor: *floor,
                    measured,
                    good,
                });
            }
        }
        if let Some((most, measured)) = self.memory.zip(report.highest_memory()) {
            verdicts.push(Verdict {
                what: MEMORY.to_owned(),
                floor: most as f64,
                measured: measured as f64,
                good: measured <= most,
            });
        }
        verdicts
    }
}

/// One line for each floor.
pub(crate) fn print_verdicts(verdicts: &[Verdict]) {
    println!();
    for verdict in verdicts {
        let sign = if verdict.good { '\u{2713}' } else { '\u{2717}' };
        if verdict.what == MEMORY {
            let [most, measured] =
                [verdict.floor, verdict.measured].map(|bytes| megabytes(bytes as u64));
            println!("  {sign} an agent's memory {measured}, at most {most}");
        } else {
            let Verdict {
                what,
                floor,
                measured,
                ..
            } = verdict;
            println!("  {sign} {what}: {measured:.3}, at least {floor:.2}");
        }
    }
}

/// A rate in four digits or so.
pub(crate) fn figure(value: f64) -> String {
    if value < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// The middle value, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::WORKLOADS;

    fn slot(value: f64) -> Slot {
        Slot {
            value,
            details: Value::Null,
            agents_cpu: 0.0,
            steal: 0.0,
        }
    }

    fn report(ratios: &[f64], memory: u64) -> Report {
        let round = |ratio: &f64| Round {
            plain_first: true,
            plain: slot(100.0),
            mesh: slot(100.0 * ratio),
        };
        Report {
            cells: vec![Cell {
                layout: Layout::Pinned,
                workload: &WORKLOADS[0],
                rounds: ratios.iter().map(round).collect(),
            }],
            memory: vec![Memory {
                when: "idle",
                agents: vec![1, memory],
            }],
            congestion: "cubic".into(),
            quick: true,
            noise: false,
            slot: Duration::from_secs(1),
            took: Duration::from_secs(1),
        }
    }

    #[test]
    fn the_median_of_ratios_is_held_against_the_floor() {
        let floors = Floors::of_the_issue();
        let good = |ratios: &[f64], memory: u64| -> Vec<bool> {
            let verdicts = floors.judge(&report(ratios, memory));
            verdicts.iter().map(|verdict| verdict.good).collect()
        };
        assert_eq!(good(&[0.1, 0.26, 0.3], 40_000_000), [true, true]);
        assert_eq!(good(&[0.1, 0.24, 0.9], 40_000_000), [false, true]);
        assert_eq!(good(&[0.2, 0.3], 40_000_001), [true, false]);
    }

    #[test]
    fn the_file_of_floors_is_the_issues() {
        let text = include_str!("../../../bench-floors.json");
        let value = serde_json::from_str(text).unwrap();
        assert_eq!(Floors::parse(&value).unwrap(), Floors::of_the_issue());
    }

    #[test]
    fn a_file_of_another_schema_is_refused() {
        assert!(Floors::parse(&json!({ "schema": 2, "ratios": {} })).is_err());
        assert!(Floors::parse(&json!({ "schema": 1, "ratios": { "a": "b" } })).is_err());
    }
}
