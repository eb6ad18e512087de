//! What is measured: wrk against nginx, iperf3 against iperf3.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::apps::SMALL_PATH;
use tests::lab::{Lab, WEB_PORT};
use tests::process::{Process, cpu_of};
use tests::{Pod, poll};

const IPERF_PORT: u16 = 5201;

/// A workload by its name in tables and floors.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Name.
    pub(crate) name: &'static str,
    /// Unit of its figure; more is better.
    pub(crate) unit: &'static str,
    load: Load,
}

#[derive(Debug)]
enum Load {
    /// Requests on connections that stay open, or on a new connection each.
    Requests { connections: u32, keep_alive: bool },
    /// Bulk data from client to server.
    Streams(u32),
}

/// All of them.
pub(crate) const WORKLOADS: &[Workload] = &[
    requests("keep-alive c1", 1, true),
    requests("keep-alive c64", 64, true),
    requests("connection per request", 8, false),
    streams("one stream", 1),
    streams("four streams", 4),
];

const fn requests(name: &'static str, connections: u32, keep_alive: bool) -> Workload {
    let load = Load::Requests {
        connections,
        keep_alive,
    };
    Workload {
        name,
        unit: "req/s",
        load,
    }
}

const fn streams(name: &'static str, count: u32) -> Workload {
    Workload {
        name,
        unit: "Gbit/s",
        load: Load::Streams(count),
    }
}

/// One slot's figure and what may explain it.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// In the workload's unit.
    pub(crate) value: f64,
    /// Latencies, where the load has them.
    pub(crate) details: Value,
    /// CPU seconds of both agents during the slot.
    pub(crate) agents_cpu: f64,
    /// Part of the machine's time that the hypervisor took.
    pub(crate) steal: f64,
}

impl Slot {
    /// For the JSON file.
    pub(crate) fn json(&self) -> Value {
        json!({
            "value": self.value, "details": self.details, "agentsCpuSeconds": self.agents_cpu,
            "steal": self.steal,
        })
    }
}

impl Workload {
    /// Measures once.
    pub(crate) fn slot(&self, lab: &Lab, ends: (&Pod, &Pod), length: Duration) -> Result<Slot> {
        let (cpu, machine) = (agents_cpu(lab)?, Machine::now()?);
        let (value, details) = match self.load {
            Load::Requests {
                connections,
                keep_alive,
            } => wrk(ends, connections, keep_alive, length),
            Load::Streams(count) => iperf(ends, count, length),
        }
        .with_context(|| format!("{}: {} -> {}", self.name, ends.0.name(), ends.1.name()))?;
        Ok(Slot {
            value,
            details,
            agents_cpu: agents_cpu(lab)? - cpu,
            steal: Machine::now()?.steal_since(&machine),
        })
    }
}

fn wrk(
    (from, to): (&Pod, &Pod),
    connections: u32,
    keep_alive: bool,
    length: Duration,
) -> Result<(f64, Value)> {
    let url = format!("http://{}:{WEB_PORT}{SMALL_PATH}", to.addresses().v4);
    let connections = format!("-c{connections}");
    let length = format!("-d{}s", length.as_secs());
    let mut command = vec!["wrk", "-t1", &connections, &length, "--latency"];
    if !keep_alive {
        command.extend(["-H", "Connection: close"]);
    }
    command.push(&url);
    let out = from.check(&command)?;
    ensure!(!out.contains("Socket errors"), "wrk saw errors:\n{out}");
    ensure!(!out.contains("Non-2xx"), "wrk saw bad answers:\n{out}");
    let after = |key: &str| {
        let found = out.lines().find_map(|line| line.trim().strip_prefix(key));
        found
            .map(str::trim)
            .with_context(|| format!("no {key} in\n{out}"))
    };
    let rate: f64 = after("Requests/sec:")?.parse().context("request rate")?;
    ensure!(rate > 0.0, "not one request was answered:\n{out}");
    Ok((rate, json!({ "p50": after("50%")?, "p99": after("99%")? })))
}

fn iperf((from, to): (&Pod, &Pod), streams: u32, length: Duration) -> Result<(f64, Value)> {
    let (ip, port) = (to.addresses().v4.to_string(), IPERF_PORT.to_string());
    let (streams, length) = (streams.to_string(), length.as_secs().to_string());
    let out = from.check(&[
        "iperf3", "-c", &ip, "-p", &port, "-t", &length, "-P", &streams, "-J",
    ])?;
    let report: Value = serde_json::from_str(&out).context("iperf3's report")?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    let bits = bits.with_context(|| format!("iperf3 measured nothing: {}", report["error"]))?;
    let sender = &report["end"]["sum_sent"];
    let details = json!({
        "retransmits": sender["retransmits"],
        "congestion": report["end"]["sender_tcp_congestion"],
    });
    Ok((bits / 1e9, details))
}

/// The iperf3 servers of both arms; nginx runs in the lab already.
pub(crate) struct Servers {
    iperf: Vec<Process>,
}

impl Servers {
    /// Starts them.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let port = IPERF_PORT.to_string();
        let mut iperf = Vec::new();
        for pod in [&lab.web, &lab.outside_web] {
            iperf.push(pod.spawn("iperf3", &["iperf3", "-s", "-p", &port])?);
            poll::until("iperf3 listening", Duration::from_secs(5), || {
                let sockets = pod.check(&["ss", "-Hltn", &format!("sport = :{IPERF_PORT}")])?;
                ensure!(!sockets.trim().is_empty(), "not yet");
                Ok(())
            })?;
        }
        Ok(Self { iperf })
    }

    /// Every server process, the lab's included.
    pub(crate) fn pids(&self, lab: &Lab) -> Vec<u32> {
        let apps = [
            lab.web_app.process(),
            lab.outside_app.process(),
            lab.cache_app.process(),
        ];
        apps.into_iter()
            .chain(&self.iperf)
            .map(Process::pid)
            .collect()
    }
}

/// CPU seconds the agents have used.
fn agents_cpu(lab: &Lab) -> Result<f64> {
    let nodes = lab.cluster.nodes().iter();
    let agents = nodes.filter_map(|node| node.agent_if_any());
    let times = agents.map(|agent| Ok(cpu_of(agent.pid()?)?.as_secs_f64()));
    times.sum()
}

/// Time of the whole machine so far, from /proc/stat.
struct Machine {
    steal: u64,
    all: u64,
}

impl Machine {
    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let first = text.lines().next().unwrap_or_default();
        let times = first.split_whitespace().skip(1).take(8);
        let times: Vec<u64> = times.filter_map(|time| time.parse().ok()).collect();
        Ok(Self {
            steal: times.get(7).copied().unwrap_or_default(),
            all: times.iter().sum(),
        })
    }

    fn steal_since(&self, before: &Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.steal.saturating_sub(before.steal) as f64 / all as f64
    }
}
