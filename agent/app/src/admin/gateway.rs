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
