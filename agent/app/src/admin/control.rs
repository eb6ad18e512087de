//! `culvert status` of the control plane, for people: what is in force, who is connected, and where
//! a change of roots stands. The JSON form has the rest.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::escape::printable;
use super::table::{table, text};

/// Rows shown of each list.
const SHOWN: usize = 20;

/// The text of a control plane's status.
pub(crate) fn control_text(status: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<15}{}", printable(&value));
    };
    let serving = match status["serving"].as_bool() {
        Some(true) => "serving",
        _ => "NOT serving",
    };
    let leader = match status["leader"].as_bool() {
        Some(true) => ", leader",
        Some(false) => ", follower",
        None => "",
    };
    let version = text(&status["version"]);
    line(
        "Control plane",
        format!("culvert {version}, {serving}{leader}"),
    );
    line("Nodes", format!("{} connected", count(status, "nodes")));
    let certificates = &status["certificates"];
    line(
        "Certificates",
        format!(
            "{} issued, {} refused",
            text(&certificates["issued"]),
            text(&certificates["refused"])
        ),
    );
    let trust = &status["trust"];
    line("Issuer", issuer(trust));
    if let Some(waited) = waited_for(trust) {
        line("Waiting for", waited);
    }
    if let Some(problem) = trust["problem"].as_str() {
        line("Issuer problem", problem.to_owned());
    }
    let conditions = &status["conditions"];
    if conditions.is_object() {
        line(
            "Conditions",
            format!(
                "of {} objects, {} still to be written, looked at in {} ms",
                text(&conditions["objects"]),
                text(&conditions["unwritten"]),
                text(&conditions["reviewMillis"])
            ),
        );
    }
    let roots = rows(&trust["roots"], |root| {
        vec![
            text(&root["role"]),
            text(&root["fingerprint"]).chars().take(16).collect(),
            date(&root["notAfter"]),
            text(&root["subject"]),
        ]
    });
    let head = ["ROLE", "FINGERPRINT", "ENDS", "SUBJECT"];
    section(&mut out, "Roots", roots.len(), &head, &roots);
    let problems = rows(&status["problems"], |problem| {
        let object = &problem["object"];
        let names = ["kind", "namespace", "name"].map(|part| text(&object[part]));
        let named: Vec<_> = names.into_iter().filter(|name| name != "-").collect();
        vec![
            named.join(" "),
            text(&problem["field"]),
            text(&problem["message"]),
        ]
    });
    let head = ["OBJECT", "FIELD", "PROBLEM"];
    let total = count(status, "problems");
    section(&mut out, "Not in force", total, &head, &problems);
    out
}

/// What signs, and which part of a change of roots it is.
fn issuer(trust: &Value) -> String {
    let stage = match trust["stage"].as_str() {
        Some("distributing") => "a new root is being distributed, the one before signs",
        Some("retiring") => "the new root signs, the one before is trusted for a while",
        Some(_) => "no change under way",
        None => return "-".to_owned(),
    };
    format!(
        "{}, ends {}, {stage}",
        text(&trust["source"]),
        date(&trust["issuerNotAfter"])
    )
}

/// Whose acknowledgement is missing.
fn waited_for(trust: &Value) -> Option<String> {
    let Some(nodes) = trust["unacknowledged"].as_array() else {
        let unknown = "it is not known which nodes trust what: the API server does not answer";
        return trust["stage"].is_string().then(|| unknown.to_owned());
    };
    let left_out = trust["unacknowledgedLeftOut"].as_u64().unwrap_or(0) as usize;
    let total = nodes.len() + left_out;
    let named: Vec<_> = nodes.iter().take(SHOWN).map(text).collect();
    let more = match total - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (total > 0).then(|| format!("{}{more}", named.join(", ")))
}

fn section(out: &mut String, title: &str, total: usize, head: &[&str], rows: &[Vec<String>]) {
    if !rows.is_empty() {
        let _ = write!(out, "\n{title} ({total})\n{}", table(head, rows));
    }
}

fn rows(list: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    let list = list.as_array().into_iter().flatten();
    list.take(SHOWN).map(row).collect()
}

/// How many there are, those left out of the list too.
fn count(status: &Value, name: &str) -> usize {
    let left_out = status[format!("{name}LeftOut")].as_u64().unwrap_or(0);
    status[name].as_array().map_or(0, Vec::len) + left_out as usize
}

fn date(seconds: &Value) -> String {
    let time = seconds.as_u64().map(Duration::from_secs);
    let time = time.and_then(|since| UNIX_EPOCH.checked_add(since));
    time.map_or_else(
        || "-".to_owned(),
        |time| humantime::format_rfc3339_seconds(time).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_of_roots_is_shown_with_who_is_waited_for() {
        let status = json!({
            "version": "1.2.3", "serving": true, "leader": true,
            "nodes": [{}, {}], "nodesLeftOut": 1,
            "certificates": {"issued": 7, "refused": 0},
            "conditions": {"objects": 12, "unwritten": 3, "reviewMillis": 45},
            "problems": [{"object": {"kind": "Pod", "namespace": "shop", "name": "web"},
                "field": "spec", "message": "is\u{7}bad"}],
            "trust": {
                "source": "secret-given", "stage": "distributing", "problem": null,
                "issuerNotAfter": 1_900_000_000, "unacknowledged": ["n1", "n2"],
                "unacknowledgedLeftOut": 3,
                "roots": [
                    {"role": "active", "fingerprint": "aa".repeat(32), "subject": "CN=old",
                        "notAfter": 1_900_000_000},
                    {"role": "next", "fingerprint": "bb".repeat(32), "subject": "CN=new",
                        "notAfter": 2_000_000_000},
                ],
            },
        });
        let text = control_text(&status);
        for part in [
            "culvert 1.2.3, serving, leader",
            "3 connected",
            "7 issued, 0 refused",
            "of 12 objects, 3 still to be written, looked at in 45 ms",
            "secret-given, ends 2030-03-17T17:46:40Z, a new root is being distributed",
            "n1, n2 and 3 more",
            "Roots (2)",
            "active  aaaaaaaaaaaaaaaa  2030-03-17T17:46:40Z  CN=old",
            "next    bbbbbbbbbbbbbbbb",
            "Pod shop web",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains('\u{7}'), "{text:?}");
    }

    #[test]
    fn a_control_plane_that_has_said_nothing_yet_is_shown_all_the_same() {
        let text = control_text(&json!({"version": "1", "role": "control"}));
        assert!(
            text.contains("NOT serving") && !text.contains("Waiting"),
            "{text}"
        );
        let away = json!({"trust": {"stage": "retiring", "unacknowledged": null}});
        assert!(control_text(&away).contains("API server does not answer"));
    }
}
