//! What was measured, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::edits::Edits;
use super::load::Slot;
use super::scene::Scene;
use super::token::TokenCosts;
use super::workload::{Kind, Workload};
use crate::process::rss_of;

/// One slot of each arm, next to each other in time.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Through the gateway.
    pub ours: Slot,
    /// Through the other router, if it can do it.
    pub peer: Option<Slot>,
}

impl Round {
    /// Requests a second, ours to the other's.
    fn ratio(&self) -> Option<f64> {
        self.peer.map(|peer| self.ours.rate / peer.rate)
    }

    pub(super) fn line(&self, workload: &Workload) -> String {
        let Slot { rate, p99, .. } = self.ours;
        let mut line = format!("{:<26} {rate:>7.0} req/s p99 {p99:>6.0} us", workload.name);
        if let (Some(peer), Some(ratio)) = (self.peer, self.ratio()) {
            let Slot { rate, p99, .. } = peer;
            line.push_str(&format!(
                "  against {rate:>7.0} req/s p99 {p99:>6.0} us  ratio {ratio:.3}"
            ));
        }
        line
    }
}

/// All rounds of a workload.
#[derive(Debug)]
pub struct Cell {
    /// What was measured.
    pub workload: &'static Workload,
    /// In order of time.
    pub rounds: Vec<Round>,
}

impl Cell {
    pub(super) fn new(workload: &'static Workload) -> Self {
        Self {
            workload,
            rounds: Vec::new(),
        }
    }

    /// The median of the rounds' ratios; none without another router.
    pub fn ratio(&self) -> Option<f64> {
        let ratios: Option<Vec<f64>> = self.rounds.iter().map(Round::ratio).collect();
        ratios.map(median)
    }

    /// The median of a figure of ours.
    pub fn ours(&self, figure: fn(&Slot) -> f64) -> f64 {
        median(
            self.rounds
                .iter()
                .map(|round| figure(&round.ours))
                .collect(),
        )
    }

    /// The median of a figure of the other's.
    pub fn peers(&self, figure: fn(&Slot) -> f64) -> Option<f64> {
        let slots = self
            .rounds
            .iter()
            .map(|round| round.peer.as_ref().map(figure));
        slots.collect::<Option<Vec<f64>>>().map(median)
    }

    fn json(&self) -> Value {
        let rounds = self.rounds.iter().map(|round| {
            json!({
                "culvert": round.ours.json(),
                "peer": round.peer.map(|slot| slot.json()),
                "ratio": round.ratio(),
            })
        });
        json!({
            "workload": self.workload.name,
            "rate": self.ours(|slot| slot.rate),
            "p99Us": self.ours(|slot| slot.p99),
            "peerRate": self.peers(|slot| slot.rate),
            "peerP99Us": self.peers(|slot| slot.p99),
            "ratio": self.ratio(),
            "rounds": rounds.collect::<Vec<_>>(),
        })
    }
}

/// Resident memory of both routers of a scene that has had no load yet, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    kind: Kind,
    ours: u64,
    peers: u64,
}

impl Memory {
    pub(super) fn of(scene: &Scene) -> Result<Self> {
        Ok(Self {
            kind: scene.kind,
            ours: rss_of(scene.gateway.process().pid())?,
            peers: rss_of(scene.router.pid())?,
        })
    }
}

/// Everything of one run.
#[derive(Debug)]
pub struct Figures {
    /// Name of the other router.
    pub peer: &'static str,
    /// Routes of the workloads with many.
    pub routes: usize,
    /// One for each workload.
    pub cells: Vec<Cell>,
    /// Before there was load.
    pub memory: Vec<Memory>,
    /// Times of edits, where they were measured.
    pub edits: Option<Edits>,
    /// What tokens cost, where requests bring them.
    pub tokens: Option<TokenCosts>,
    /// Length of a slot.
    pub slot: Duration,
    /// Of the whole run.
    pub took: Duration,
}

impl Figures {
    /// What 1,000 routes more cost the gateway and the other router, in bytes.
    pub fn of_1000_routes(&self) -> Option<(f64, f64)> {
        let of = |kind| self.memory.iter().find(|memory| memory.kind == kind);
        let (one, many) = (of(Kind::One)?, of(Kind::Many)?);
        let more =
            |one: u64, many: u64| (many as f64 - one as f64) * 1000.0 / (self.routes as f64 - 1.0);
        Some((more(one.ours, many.ours), more(one.peers, many.peers)))
    }

    /// Our rate with many routes to that with one, over what else is the same; the median of the
    /// rounds.
    pub fn many_to_one(&self) -> Vec<(&'static str, f64)> {
        let of = |kind| {
            self.cells
                .iter()
                .filter(move |cell| cell.workload.kind == kind)
        };
        let pairs = of(Kind::Many).filter_map(|many| {
            let is_alike = |one: &&Cell| {
                one.workload.protocol == many.workload.protocol
                    && one.workload.at_a_time == many.workload.at_a_time
            };
            let one = of(Kind::One).find(is_alike)?;
            let rounds = many.rounds.iter().zip(&one.rounds);
            let ratios = rounds.map(|(many, one)| many.ours.rate / one.ours.rate);
            Some((many.workload.name, median(ratios.collect())))
        });
        pairs.collect()
    }

    /// Everything for scripts.
    pub fn json(&self) -> Value {
        let memory = self.memory.iter().map(|memory| {
            json!({
                "scene": memory.kind.name(),
                "culvertRssBytes": memory.ours,
                "peerRssBytes": memory.peers,
            })
        });
        let per_1000 = self.of_1000_routes();
        json!({
            "schema": 1,
            "peer": self.peer,
            "routes": self.routes,
            "slotSeconds": self.slot.as_secs(),
            "seconds": self.took.as_secs_f64(),
            "cells": self.cells.iter().map(Cell::json).collect::<Vec<_>>(),
            "memory": memory.collect::<Vec<_>>(),
            "bytesPer1000Routes": per_1000.map(|(ours, _)| ours),
            "peerBytesPer1000Routes": per_1000.map(|(_, peers)| peers),
            "manyToOne": self.many_to_one().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "edits": self.edits.as_ref().map(Edits::json),
            "tokens": self.tokens.as_ref().map(TokenCosts::json),
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.cells.first().map_or(0, |cell| cell.rounds.len());
        writeln!(
            f,
            "culvert gateway against {}: one core for either router, {rounds} rounds of {} s slots \
             in turns, medians, {:.0} s in all\n",
            self.peer,
            self.slot.as_secs(),
            self.took.as_secs_f64()
        )?;
        writeln!(
            f,
            "  {:<26}{:>10}{:>10}{:>8}{:>12}{:>12}",
            "workload", "culvert", self.peer, "ratio", "p99 us", "its p99 us"
        )?;
        let or_dash = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        for cell in &self.cells {
            writeln!(
                f,
                "  {:<26}{:>10.0}{:>10}{:>8}{:>12.0}{:>12}",
                cell.workload.name,
                cell.ours(|slot| slot.rate),
                or_dash(cell.peers(|slot| slot.rate), 0),
                or_dash(cell.ratio(), 3),
                cell.ours(|slot| slot.p99),
                or_dash(cell.peers(|slot| slot.p99), 0),
            )?;
        }
        writeln!(f)?;
        for (name, ratio) in self.many_to_one() {
            writeln!(f, "  {name}: {ratio:.3} of the rate with one route")?;
        }
        for memory in &self.memory {
            writeln!(
                f,
                "  memory before load, {}: {:.1} MB ({} {:.1} MB)",
                memory.kind.name(),
                memory.ours as f64 / 1e6,
                self.peer,
                memory.peers as f64 / 1e6
            )?;
        }
        if let Some((ours, peers)) = self.of_1000_routes() {
            writeln!(
                f,
                "  1,000 routes more: {:.2} MB ({} {:.2} MB)",
                ours / 1e6,
                self.peer,
                peers / 1e6
            )?;
        }
        if let Some(TokenCosts { known, new }) = &self.tokens {
            writeln!(
                f,
                "  a token that is known takes {:.1} us, a new one of RS256 {:.1} us",
                known.as_secs_f64() * 1e6,
                new.as_secs_f64() * 1e6
            )?;
        }
        if let Some(edits) = &self.edits {
            let millis = |share| edits.within(share).as_secs_f64() * 1e3;
            writeln!(
                f,
                "  {} edits of a manifest took effect in {:.1} ms (median), {:.1} ms (99 of 100)",
                edits.count(),
                millis(0.5),
                millis(0.99)
            )?;
        }
        Ok(())
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
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
    use super::super::workload::WORKLOADS;
    use super::*;

    fn slot(rate: f64) -> Slot {
        Slot {
            rate,
            p50: 1.0,
            p99: 2.0,
        }
    }

    #[test]
    fn medians_of_ratios_are_what_counts() {
        let round = |ours, peer| Round {
            ours: slot(ours),
            peer: Some(slot(peer)),
        };
        let cell = Cell {
            workload: &WORKLOADS[0],
            rounds: vec![round(100.0, 50.0), round(10.0, 10.0), round(90.0, 60.0)],
        };
        assert_eq!(cell.ratio(), Some(1.5));
        assert_eq!(cell.ours(|slot| slot.rate), 90.0);
        let alone = Round {
            ours: slot(1.0),
            peer: None,
        };
        let cell = Cell {
            workload: &WORKLOADS[0],
            rounds: vec![alone],
        };
        assert_eq!(cell.ratio(), None);
    }
}
