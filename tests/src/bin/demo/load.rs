//! The small table: latency and throughput, plain against mesh, over the same link.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::apps::SMALL_PATH;
use tests::lab::{Lab, WEB_PORT};
use tests::{Place, Pod, poll};

const IPERF_PORT: u16 = 5201;

/// One measured quantity.
pub(crate) struct Row {
    what: &'static str,
    unit: &'static str,
    plain: f64,
    mesh: f64,
}

/// Measures, alternating between plain and mesh.
pub(crate) fn table(lab: &Lab) -> Result<Vec<Row>> {
    let plain = (&lab.outsider, &lab.outside_web);
    let mesh = (&lab.client, &lab.web);
    let mut rows = Vec::new();
    for (connections, rate, latency) in [
        ("1", "requests, 1 connection", "latency p50, 1 connection"),
        (
            "64",
            "requests, 64 connections",
            "latency p50, 64 connections",
        ),
    ] {
        let (plain_rate, plain_latency) = wrk(plain, connections)?;
        let (mesh_rate, mesh_latency) = wrk(mesh, connections)?;
        rows.push(Row {
            what: rate,
            unit: "1/s",
            plain: plain_rate,
            mesh: mesh_rate,
        });
        rows.push(Row {
            what: latency,
            unit: "us",
            plain: plain_latency,
            mesh: mesh_latency,
        });
    }
    rows.push(Row {
        what: "one stream",
        unit: "Gbit/s",
        plain: iperf(plain)?,
        mesh: iperf(mesh)?,
    });
    Ok(rows)
}

/// Prints it for people.
pub(crate) fn print(rows: &[Row]) {
    println!(
        "\n    {:<30}{:>12}{:>12}{:>8}",
        "across the nodes", "plain", "mesh", "ratio"
    );
    for row in rows {
        println!(
            "    {:<30}{:>12}{:>12}{:>8.2}",
            format!("{} ({})", row.what, row.unit),
            figure(row.plain),
            figure(row.mesh),
            row.mesh / row.plain
        );
    }
}

fn figure(value: f64) -> String {
    if value < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

/// The same for scripts.
pub(crate) fn json(rows: &[Row]) -> Value {
    rows.iter()
        .map(|row| json!({ "what": row.what, "unit": row.unit, "plain": row.plain, "mesh": row.mesh }))
        .collect()
}

fn wrk((from, to): (&Pod, &Pod), connections: &str) -> Result<(f64, f64)> {
    let url = format!("http://{}:{WEB_PORT}{SMALL_PATH}", to.addresses().v4);
    // What wrk calls an error after two seconds is slow, on a machine with other work.
    let out = from.check(&[
        "wrk",
        "-t1",
        "-c",
        connections,
        "-d2s",
        "--timeout",
        "20s",
        "--latency",
        &url,
    ])?;
    let after = |key: &str| {
        out.lines()
            .find_map(|line| line.trim().strip_prefix(key))
            .map(str::trim)
            .with_context(|| format!("no {key} in\n{out}"))
    };
    ensure!(!out.contains("Socket errors"), "wrk saw errors:\n{out}");
    let rate = after("Requests/sec:")?.parse().context("request rate")?;
    Ok((rate, microseconds(after("50%")?)?))
}

fn microseconds(text: &str) -> Result<f64> {
    let number = text.trim_end_matches(char::is_alphabetic);
    let value: f64 = number
        .parse()
        .with_context(|| format!("latency {text:?}"))?;
    Ok(match &text[number.len()..] {
        "us" => value,
        "ms" => value * 1e3,
        _ => value * 1e6,
    })
}

fn iperf((from, to): (&Pod, &Pod)) -> Result<f64> {
    let port = IPERF_PORT.to_string();
    let server = to.spawn("iperf3", &["iperf3", "-s", "-1", "-p", &port])?;
    wait_listening(to.place(), IPERF_PORT)?;
    let ip = to.addresses().v4.to_string();
    let out = from.check(&["iperf3", "-c", &ip, "-p", &port, "-t", "2", "-J"])?;
    drop(server);
    let report: Value = serde_json::from_str(&out).context("iperf3's report")?;
    let bits = report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .with_context(|| format!("iperf3 measured nothing: {}", report["error"]))?;
    Ok(bits / 1e9)
}

fn wait_listening(place: &Place, port: u16) -> Result<()> {
    poll::until("iperf3 listening", Duration::from_secs(15), || {
        let sockets = place.check(&["ss", "-Hltn", &format!("sport = :{port}")])?;
        ensure!(!sockets.trim().is_empty(), "not yet");
        Ok(())
    })
}
