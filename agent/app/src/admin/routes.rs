//! A gateway's routes for people.

use std::fmt::Write;

use serde_json::Value;

use super::escape::printable;
use super::table::{table, text};

const LISTENER_HEAD: [&str; 4] = ["LISTENER", "PORT", "PROTOCOL", "HOST"];
const RULE_HEAD: [&str; 9] = [
    "ROUTE", "RULE", "MATCH", "BACKENDS", "REQUESTS", "SUCCESS", "P50", "P99", "PROBLEM",
];
const ENDPOINT_HEAD: [&str; 4] = ["BACKEND", "ENDPOINT", "STATE", "WORKLOAD"];

/// `culvert routes`.
pub(crate) fn routes_text(routes: &Value) -> String {
    let mut out = format!("Gateway {}\n", printable(&text(&routes["gateway"])));
    let listeners = list(&routes["listeners"]).map(|listener| {
        ["name", "port", "protocol", "hostname"]
            .map(|part| text(&listener[part]))
            .to_vec()
    });
    section(&mut out, "Listeners", &LISTENER_HEAD, listeners.collect());
    let rules = list(&routes["routes"]).flat_map(|route| {
        let rules = list(&route["rules"]);
        rules.map(|rule| rule_row(route, rule))
    });
    section(&mut out, "Rules", &RULE_HEAD, rules.collect());
    let endpoints = list(&routes["backends"]).flat_map(endpoint_rows);
    section(&mut out, "Endpoints", &ENDPOINT_HEAD, endpoints.collect());
    out
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn section(out: &mut String, title: &str, head: &[&str], rows: Vec<Vec<String>>) {
    if !rows.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n{title} ({})\n{}", rows.len(), table(head, &rows));
    }
}

fn rule_row(route: &Value, rule: &Value) -> Vec<String> {
    let matches: Vec<String> = list(&rule["matches"]).map(text).collect();
    let success = rule["success"].as_f64();
    let latency = |quantile: &str| match rule["latencyMs"][quantile].as_f64() {
        Some(millis) => format!("{millis}ms"),
        None => "-".to_owned(),
    };
    vec![
        text(&route["route"]),
        text(&rule["rule"]),
        match matches.is_empty() {
            true => "every request".to_owned(),
            false => matches.join(", "),
        },
        list(&rule["backends"])
            .map(backend)
            .collect::<Vec<_>>()
            .join(", "),
        text(&rule["requests"]),
        success.map_or("-".to_owned(), |share| format!("{:.2}%", share * 100.0)),
        latency("p50"),
        latency("p99"),
        rule["problem"].as_str().unwrap_or_default().to_owned(),
    ]
}

fn backend(backend: &Value) -> String {
    let weight = text(&backend["weight"]);
    match backend["problem"].as_str() {
        Some(problem) => format!("{weight} 500: {problem}"),
        None => format!(
            "{weight} {}:{}",
            text(&backend["service"]),
            text(&backend["port"])
        ),
    }
}

/// `ready`, or how long it is still out and why.
fn state(endpoint: &Value) -> String {
    let state = text(&endpoint["state"]);
    match (
        endpoint["ejectedFor"].as_str(),
        endpoint["ejectedMs"].as_f64(),
    ) {
        (Some(cause), Some(left)) => format!("{state} ({cause}, {:.1} s left)", left / 1000.0),
        _ => state,
    }
}

fn endpoint_rows(backend: &Value) -> Vec<Vec<String>> {
    let name = format!("{}:{}", text(&backend["service"]), text(&backend["port"]));
    let row = |endpoint: &Value| {
        vec![
            name.clone(),
            text(&endpoint["address"]),
            state(endpoint),
            text(&endpoint["workload"]),
        ]
    };
    let rows: Vec<_> = list(&backend["endpoints"]).map(row).collect();
    if !rows.is_empty() {
        return rows;
    }
    let why = match backend["known"].as_bool() {
        Some(true) => "no endpoint is ready",
        _ => "the service is not known",
    };
    vec![vec![
        name.clone(),
        "-".to_owned(),
        why.to_owned(),
        String::new(),
    ]]
}
