//! A gateway's status for people.

use std::fmt::Write;

use serde_json::Value;

use super::table::{table, text};

/// `culvert status` of a gateway.
pub(crate) fn gateway_text(status: &Value) -> String {
    let control = &status["controlPlane"];
    let sync = match (control["connected"].as_bool(), control["synced"].as_bool()) {
        (Some(true), Some(true)) => "in sync",
        (Some(true), _) => "connected, not in sync yet",
        (_, Some(true)) => "lost; serving what was told last",
        _ => "never reached",
    };
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<14}{value}");
    };
    let version = text(&status["version"]);
    line(
        "Gateway",
        format!("{}, culvert {version}", text(&status["gateway"])),
    );
    line("Control plane", sync.to_owned());
    if let Some(error) = control["lastError"].as_str() {
        line("Last error", error.to_owned());
    }
    let list = |name: &str| {
        let values = status[name].as_array().into_iter().flatten();
        values.map(text).collect::<Vec<_>>()
    };
    let requests = ["success", "clientErrors", "serverErrors"];
    let [good, client, server] = requests.map(|part| text(&status["requests"][part]));
    line(
        "Requests",
        format!("{good} succeeded, {client} client errors, {server} server errors"),
    );
    line("Ports", list("ports").join(", "));
    for problem in list("portsMissing") {
        line("Not served", problem);
    }
    let routes: Vec<_> = list("routes").into_iter().map(|name| vec![name]).collect();
    if !routes.is_empty() {
        let _ = write!(
            out,
            "\nRoutes ({})\n{}",
            routes.len(),
            table(&["ROUTE"], &routes)
        );
    }
    out.push_str(&backends(&status["backends"]));
    let faults: Vec<_> = status["faults"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|fault| {
            ["subject", "problem"]
                .map(|part| text(&fault[part]))
                .to_vec()
        })
        .collect();
    if !faults.is_empty() {
        let head = ["SUBJECT", "PROBLEM"];
        let _ = write!(
            out,
            "\nNot usable ({})\n{}",
            faults.len(),
            table(&head, &faults)
        );
    }
    out
}

/// The services that were sent to, and which of their endpoints are left out.
fn backends(all: &Value) -> String {
    let all = all.as_array().map_or(&[][..], Vec::as_slice);
    let endpoints = |backend: &Value| backend["endpoints"].as_array().cloned().unwrap_or_default();
    let row = |backend: &Value| {
        let endpoints = endpoints(backend);
        let usable = endpoints.iter().filter(|one| one["usable"] == true).count();
        let circuit = backend["circuit"].as_array().into_iter().flatten();
        let refused: u64 = circuit.filter_map(|one| one["refused"].as_u64()).sum();
        vec![
            format!("{}:{}", text(&backend["service"]), backend["port"]),
            format!("{usable} of {}", endpoints.len()),
            text(&backend["ejections"]),
            text(&backend["retries"]),
            refused.to_string(),
        ]
    };
    let left_out = |backend: &Value| {
        let service = format!("{}:{}", text(&backend["service"]), backend["port"]);
        let mut rows = Vec::new();
        for one in endpoints(backend) {
            let why = match &one["ejected"] {
                Value::Null if one["healthy"] == false => "unhealthy".to_owned(),
                Value::Null => continue,
                ejected => format!(
                    "ejected for {} s: {}",
                    ejected["secondsLeft"],
                    text(&ejected["cause"])
                ),
            };
            rows.push(vec![text(&one["address"]), service.clone(), why]);
        }
        rows
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = ["SERVICE", "USABLE", "EJECTIONS", "RETRIES", "REFUSED"];
    let mut out = format!("\nBackends ({})\n{}", rows.len(), table(&head, &rows));
    let out_of_use: Vec<_> = all.iter().flat_map(left_out).collect();
    if !out_of_use.is_empty() {
        let head = ["ENDPOINT", "SERVICE", "LEFT OUT"];
        let _ = write!(
            out,
            "\nLeft out ({})\n{}",
            out_of_use.len(),
            table(&head, &out_of_use)
        );
    }
    out
}
