//! README says the truth: its tables are compared with the code they describe.
#![expect(
    clippy::unwrap_used,
    reason = "a missing file or table fails the test, which is its point"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use agent_control::Code;
use agent_model::Reason;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Rows of the first table below the heading, each as its cells; without head and rule.
fn table(heading: &str) -> Vec<Vec<String>> {
    let readme = read("README.md");
    let mut lines = readme.lines();
    lines.find(|line| *line == format!("## {heading}")).unwrap();
    let section = lines.take_while(|line| !line.starts_with("## "));
    let rows: Vec<Vec<String>> = section
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect();
    assert!(!rows.is_empty(), "no table below {heading}");
    rows
}

/// The words in backticks.
fn code(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn only_code(cell: &str) -> String {
    let mut words = code(cell);
    assert_eq!(words.len(), 1, "one word in backticks: {cell}");
    words.remove(0)
}

#[test]
fn ports_are_the_codes() {
    let source = read("agent/model/src/lib.rs");
    let constants: BTreeSet<(String, String)> = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub const "))
        .filter_map(|line| line.split_once(": u16 = "))
        .map(|(name, value)| (name.to_owned(), value.trim_end_matches(';').to_owned()))
        .collect();
    assert!(constants.contains(&("HBONE_PORT".to_owned(), agent_model::HBONE_PORT.to_string())));
    let told: BTreeSet<(String, String)> = table("Ports")
        .iter()
        .map(|row| (only_code(&row[1]), row[0].clone()))
        .collect();
    assert_eq!(told, constants);
}

#[test]
fn reasons_are_the_codes() {
    let rows = table("Reasons");
    let told: Vec<(String, String)> = rows
        .iter()
        .map(|row| (only_code(&row[0]), row[1].clone()))
        .collect();
    let known: Vec<(String, String)> = Reason::ALL
        .iter()
        .map(|reason| {
            let fault = serde_json::to_value(reason.fault()).unwrap();
            (reason.to_string(), fault.as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(told, known);
    for row in &rows {
        assert_eq!(row.len(), 4, "{row:?}");
        assert!(
            row[2].ends_with('.') && row[3].ends_with('.'),
            "say what and what to do: {row:?}"
        );
    }
}

#[test]
fn findings_are_the_codes() {
    let rows = table("Findings");
    let told: Vec<(String, String)> = rows
        .iter()
        .map(|row| (only_code(&row[0]), row[1].clone()))
        .collect();
    let known: Vec<(String, String)> = Code::ALL
        .iter()
        .map(|code| {
            (
                code.as_str().to_owned(),
                code.severity().as_str().to_owned(),
            )
        })
        .collect();
    assert_eq!(told, known);
    for (row, code) in rows.iter().zip(Code::ALL) {
        assert_eq!(row.len(), 4, "{row:?}");
        assert!(row[2].ends_with('.'), "{row:?}");
        assert_eq!(row[3], code.advice(), "what the program says to do");
    }
}

#[test]
fn access_log_fields_are_the_codes() {
    let source = read("agent/app/src/gateway/log.rs");
    let (_, fields) = source.split_once("fn fields(").unwrap();
    let (fields, _) = fields.split_once("\n}\n").unwrap();
    let known: Vec<&str> = fields
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|name| !name.is_empty())
        .collect();
    let told: Vec<String> = table("What a gateway tells")
        .iter()
        .flat_map(|row| code(&row[0]))
        .collect();
    assert_eq!(told, known);
}

#[test]
fn rooms_are_the_workspaces() {
    let manifest = read("Cargo.toml");
    let (_, list) = manifest.split_once("members = [").unwrap();
    let (list, _) = list.split_once(']').unwrap();
    let members: BTreeSet<String> = list
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    let rows = table("Rooms");
    let told: BTreeSet<String> = rows.iter().map(|row| only_code(&row[0])).collect();
    assert_eq!(told, members);

    // The layers are those that `cargo xtask check` enforces.
    let layers = read("xtask/src/check/layers.rs");
    let layers: String = layers
        .split_inclusive(char::is_whitespace)
        .map(str::trim)
        .collect();
    let (_, layers) = layers.split_once("LAYERS:[&[&str];6]=[").unwrap();
    let (layers, _) = layers.split_once("];").unwrap();
    let lists: Vec<&str> = layers.split("&[").skip(1).collect();
    for row in &rows {
        let package = only_code(&row[0]).replace('/', "-");
        let layer: usize = row[1].parse().unwrap();
        let there = lists[layer].contains(&format!("\"{package}\""));
        assert!(there, "{package} is not in layer {layer}");
    }
    for member in &members {
        let package = read(&format!("{member}/Cargo.toml"));
        let name = format!("name = \"{}\"", member.replace('/', "-"));
        assert!(
            package.lines().any(|line| line == name),
            "{member} is not named after its path"
        );
    }
}

/// What GatewayClasses claim is what works, but for the mesh, which they do not speak for.
#[test]
fn features_are_those_claimed() {
    let rows = table("Gateway API");
    let names: Vec<String> = rows.iter().map(|row| only_code(&row[0])).collect();
    assert!(names.is_sorted(), "{names:?}");
    let works = rows.iter().filter(|row| row[1] == "yes");
    let claimed: Vec<String> = works.map(|row| only_code(&row[0])).collect();
    assert_eq!(claimed, agent_control::GATEWAY_FEATURES);
    for row in &rows {
        let is_shown = !code(&row[2]).is_empty();
        assert_eq!(is_shown, row[1] != "no", "{row:?}");
    }
}

#[test]
fn named_tests_exist() {
    let mut sources = String::new();
    for folder in ["agent", "ebpf", "proto", "tests", "xtask"] {
        collect(&root().join(folder), &mut sources);
    }
    let features = table("Gateway API").into_iter();
    let features = features.filter(|row| row[1] != "no");
    let features = features.map(|row| vec![row[0].clone(), row[2].clone()]);
    for row in table("What proves it").into_iter().chain(features) {
        let names = code(&row[1]);
        assert!(!names.is_empty(), "no test for: {}", row[0]);
        for name in names {
            // A function of that name, or an end-to-end case listed under it.
            let known = [format!("fn {name}("), format!("\"{name}\"")];
            assert!(
                known.iter().any(|form| sources.contains(form)),
                "there is no test {name}"
            );
        }
    }
}

fn collect(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path
            .extension()
            .is_some_and(|kind| kind == "rs" || kind == "py")
        {
            sources.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
