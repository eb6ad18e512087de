//! Load: wrk for HTTP/1.1, h2load for HTTP/2, on the cores that are not the routers'.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::scene::{Scene, Stage};
use super::workload::{Kind, Protocol, Workload};

/// Requests that share a connection of HTTP/2 at most.
const STREAMS: u32 = 16;

/// What one slot measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    /// Requests a second.
    pub rate: f64,
    /// Time that half of the requests stayed within, in microseconds.
    pub p50: f64,
    /// Time that 99 of 100 stayed within, in microseconds.
    pub p99: f64,
}

impl Slot {
    pub(super) fn json(&self) -> Value {
        json!({ "rate": self.rate, "p50Us": self.p50, "p99Us": self.p99 })
    }
}

/// Runs a slot against a router. Every request has to be answered with 200.
pub(super) fn run(
    stage: &Stage,
    scene: &Scene,
    workload: &Workload,
    to: SocketAddr,
    length: Duration,
) -> Result<Slot> {
    let url = format!("http://{to}{}", scene.path);
    let bearer = format!("authorization: Bearer {}", stage.token.token);
    let mut header = Vec::new();
    if scene.kind == Kind::Jwt {
        header.extend(["-H", &bearer]);
    }
    match workload.protocol {
        Protocol::Http1 => wrk(stage, workload.at_a_time, &header, &url, length),
        Protocol::Http2 => h2load(stage, workload.at_a_time, &header, &url, length),
    }
}

fn wrk(
    stage: &Stage,
    connections: u32,
    header: &[&str],
    url: &str,
    length: Duration,
) -> Result<Slot> {
    let connections = format!("-c{connections}");
    let length = format!("-d{}s", length.as_secs());
    let mut command = vec!["taskset", "--cpu-list", &stage.cores.others];
    command.extend(["wrk", "-t1", &connections, &length, "--latency"]);
    command.extend(header);
    command.push(url);
    parse_wrk(&stage.client.check(&command)?)
}

fn parse_wrk(out: &str) -> Result<Slot> {
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
    Ok(Slot {
        rate,
        p50: micros(after("50%")?)?,
        p99: micros(after("99%")?)?,
    })
}

/// `12.34us`, `1.23ms` or `1.20s` in microseconds.
fn micros(text: &str) -> Result<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let value = units.iter().find_map(|(unit, scale)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        Some(number * scale)
    });
    value.with_context(|| format!("{text:?} is no time"))
}

fn h2load(
    stage: &Stage,
    at_a_time: u32,
    header: &[&str],
    url: &str,
    length: Duration,
) -> Result<Slot> {
    let log = std::env::temp_dir().join(format!("culvert-h2load-{}", std::process::id()));
    let log_file = format!("--log-file={}", log.display());
    let streams = at_a_time.min(STREAMS);
    let (clients, streams) = (format!("-c{}", at_a_time / streams), format!("-m{streams}"));
    let length_flag = format!("-D{}", length.as_secs());
    let mut command = vec!["taskset", "--cpu-list", &stage.cores.others];
    command.extend(["h2load", "-t1", &clients, &streams, &length_flag, &log_file]);
    command.extend(header);
    command.push(url);
    let _ = fs::remove_file(&log);
    let out = stage.client.check(&command)?;
    let requests = fs::read_to_string(&log).context("reading h2load's log");
    let _ = fs::remove_file(&log);
    parse_h2load(&out, &requests?, length)
}

/// Each line of the log is a request: when it began, its status, how long it took; microseconds.
fn parse_h2load(out: &str, log: &str, length: Duration) -> Result<Slot> {
    ensure!(out.contains(" 0 errored"), "h2load saw errors:\n{out}");
    let mut times = Vec::new();
    for line in log.lines() {
        let mut fields = line.split_whitespace().skip(1);
        let (status, took) = (fields.next(), fields.next());
        let took: Option<f64> = took.and_then(|took| took.parse().ok());
        match (status, took) {
            (Some("200"), Some(took)) => times.push(took),
            // Cut off by the end of the slot.
            (Some("-1" | "0"), _) => {}
            _ => anyhow::bail!("h2load saw a bad answer: {line}\n{out}"),
        }
    }
    ensure!(!times.is_empty(), "not one request was answered:\n{out}");
    times.sort_by(f64::total_cmp);
    let within = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Ok(Slot {
        rate: times.len() as f64 / length.as_secs_f64(),
        p50: within(0.5),
        p99: within(0.99),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_read() {
        let out = "  Latency Distribution\n     50%  812.00us\n     75%    1.00ms\n     \
                   90%    1.40ms\n     99%    2.50ms\n  20000 requests in 1.00s, 1.00MB read\n\
                   Requests/sec:  20001.5\nTransfer/sec:      1.00MB\n";
        let slot = Slot {
            rate: 20001.5,
            p50: 812.0,
            p99: 2500.0,
        };
        assert_eq!(parse_wrk(out).unwrap(), slot);
        let bad = format!("{out}  Non-2xx or 3xx responses: 1\n");
        assert!(parse_wrk(&bad).is_err());
        assert!(parse_wrk("").is_err());
    }

    #[test]
    fn what_h2load_writes_is_read() {
        let out =
            "requests: 4 total, 4 started, 4 done, 4 succeeded, 0 failed, 0 errored, 0 timeout";
        let log = "1\t200\t100\n2\t200\t300\n3\t200\t200\n4\t-1\t9\n";
        let slot = parse_h2load(out, log, Duration::from_secs(1)).unwrap();
        assert_eq!((slot.rate, slot.p50), (3.0, 200.0));
        assert!(parse_h2load(out, "1\t503\t100\n", Duration::from_secs(1)).is_err());
        assert!(parse_h2load("", log, Duration::from_secs(1)).is_err());
    }
}
