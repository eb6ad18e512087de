//! What was measured, as a table and as JSON, and what it must not exceed.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::Settings;

/// What is promised.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Memory of the control plane, in bytes.
    pub memory: u64,
    /// From a change in the API to an agent, for 99 of 100.
    pub delay: Duration,
    /// Of a full push, the part a reconnect may cost.
    pub reconnect: f64,
}

/// The promises for 200 agents and 100,000 workloads.
pub const LIMITS: Limits = Limits {
    memory: 1_500_000_000,
    delay: Duration::from_secs(1),
    reconnect: 0.02,
};

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Agents.
    pub agents: usize,
    /// Workloads.
    pub workloads: usize,
    /// Changes a second.
    pub rate: u32,
    /// From the control plane's start until it served.
    pub reading: Duration,
    /// Until all agents but the first had everything.
    pub syncing: Duration,
    /// From the first change until everyone had the last.
    pub changing: Duration,
    /// From each change to each agent, sorted.
    pub delays: Vec<Duration>,
    /// Processor time of the control plane while there were changes.
    pub cpu: Duration,
    /// One look at every object, for their conditions.
    pub review: Duration,
    /// Objects with conditions.
    pub with_conditions: u64,
    /// Its memory after the changes, in bytes.
    pub memory: u64,
    /// The most it ever had, reading the cluster and syncing everyone included.
    pub memory_peak: u64,
    /// Bytes that one agent was sent at first, TLS included.
    pub full_push: u64,
    /// Bytes that it was sent when it came back.
    pub reconnect: u64,
    /// Bytes that it was sent when it came back to another replica.
    pub other_replica: u64,
}

impl Figures {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            agents: settings.agents,
            workloads: settings.workloads,
            rate: settings.rate,
            ..Self::default()
        }
    }

    /// A part of 1000 of the delays.
    pub fn delay(&self, permille: usize) -> Duration {
        let at = self.delays.len() * permille / 1000;
        let last = self.delays.len().saturating_sub(1);
        self.delays.get(at.min(last)).copied().unwrap_or_default()
    }

    /// What exceeds `limits`.
    pub fn excesses(&self, limits: Limits) -> Vec<String> {
        let mut excesses = Vec::new();
        if self.memory_peak > limits.memory {
            excesses.push(format!("memory: {} of {}", self.memory_peak, limits.memory));
        }
        if self.delays.is_empty() || self.delay(990) > limits.delay {
            excesses.push(format!("p99: {:?} of {:?}", self.delay(990), limits.delay));
        }
        let pushes = [
            ("reconnect", self.reconnect),
            ("other replica", self.other_replica),
        ];
        for (what, bytes) in pushes {
            if bytes as f64 > self.full_push as f64 * limits.reconnect {
                excesses.push(format!("{what}: {bytes} of {} bytes", self.full_push));
            }
        }
        excesses
    }

    /// As tools read it.
    pub fn json(&self) -> Value {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        json!({
            "schema": 1,
            "agents": self.agents,
            "workloads": self.workloads,
            "changesPerSecond": self.rate,
            "readingMs": ms(self.reading),
            "syncingMs": ms(self.syncing),
            "changingMs": ms(self.changing),
            "samples": self.delays.len(),
            "delayP50Ms": ms(self.delay(500)),
            "delayP99Ms": ms(self.delay(990)),
            "delayMaxMs": ms(self.delay(1000)),
            "cpuMs": ms(self.cpu),
            "reviewMs": ms(self.review),
            "objectsWithConditions": self.with_conditions,
            "memoryBytes": self.memory,
            "memoryPeakBytes": self.memory_peak,
            "fullPushBytes": self.full_push,
            "reconnectBytes": self.reconnect,
            "otherReplicaBytes": self.other_replica,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1000.0);
        let s = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let cores = self.cpu.as_secs_f64() / self.changing.as_secs_f64().max(f64::EPSILON);
        let rows = [
            ("agents", self.agents.to_string()),
            ("workloads", self.workloads.to_string()),
            ("changes a second", self.rate.to_string()),
            ("control plane serves after", s(self.reading)),
            ("all agents in sync after", s(self.syncing)),
            ("change to agent, p50", ms(self.delay(500))),
            ("change to agent, p99", ms(self.delay(990))),
            ("change to agent, longest", ms(self.delay(1000))),
            ("control plane, processors", format!("{cores:.2}")),
            ("a look at all for conditions", ms(self.review)),
            ("control plane, memory", mb(self.memory)),
            ("control plane, memory at most", mb(self.memory_peak)),
            ("first push to one agent", mb(self.full_push)),
            ("its reconnect", format!("{} bytes", self.reconnect)),
            (
                "its move to another replica",
                format!("{} bytes", self.other_replica),
            ),
        ];
        for (what, value) in rows {
            writeln!(f, "{what:<32}{value:>16}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excesses_are_named() {
        let good = Figures {
            delays: vec![Duration::from_millis(1); 100],
            memory_peak: 1,
            full_push: 1_000_000,
            reconnect: 5_000,
            other_replica: 5_000,
            ..Figures::default()
        };
        assert_eq!(good.excesses(LIMITS), Vec::<String>::new());
        let mut bad = good.clone();
        bad.delays[98..].fill(Duration::from_secs(2));
        bad.memory_peak = 2_000_000_000;
        bad.other_replica = 1_000_000;
        assert_eq!(bad.excesses(LIMITS).len(), 3);
        let unmeasured = Figures {
            delays: Vec::new(),
            ..good
        };
        assert_eq!(unmeasured.excesses(LIMITS).len(), 1);
    }
}
