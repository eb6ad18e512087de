//! `culvert check` over a folder of manifests in which everything is wrong, and over the examples,
//! in which nothing is.
#![expect(clippy::unwrap_used, reason = "a missing file fails the test")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use agent_control::{Check, Code, Findings, Scene, Severity};

/// Found only where a cluster is seen as a whole, or in large namespaces; other tests have them.
const ELSEWHERE: [Code; 2] = [Code::NamespaceUnknown, Code::CheckBounded];

fn check(folder: &str) -> Findings {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut check = Check::new(&scene());
    for name in names {
        check.add(&name, &std::fs::read(folder.join(&name)).unwrap());
    }
    check.finish()
}

fn scene() -> Scene {
    Scene {
        trust_domain: "cluster.local".to_owned(),
        root_namespace: "culvert-system".to_owned(),
    }
}

#[test]
fn a_folder_of_mistakes() {
    let mut text = String::new();
    for finding in check("tests/bad").findings {
        let place = finding.place.map_or_else(String::new, |place| {
            let line = place
                .line
                .map_or_else(String::new, |line| format!(":{line}"));
            format!("{}{line}", place.file)
        });
        let object = finding
            .object
            .map_or_else(String::new, |object| object.to_string());
        let severity = finding.severity.as_str();
        let code = finding.code.as_str();
        writeln!(
            text,
            "{severity} {code} {place} [{object}] {} {}",
            finding.field, finding.message
        )
        .unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn every_code_can_be_had() {
    let found: BTreeSet<Code> = check("tests/bad")
        .findings
        .iter()
        .map(|finding| finding.code)
        .collect();
    for code in Code::ALL {
        let is_expected = !ELSEWHERE.contains(code);
        assert_eq!(found.contains(code), is_expected, "{}", code.as_str());
    }
}

#[test]
fn the_examples_are_clean_alone_and_together() {
    let together = check("../../deploy/examples");
    let worth = |findings: &Findings| -> Vec<String> {
        let findings = findings.findings.iter();
        let worth = findings.filter(|finding| finding.severity > Severity::Info);
        worth.map(|finding| format!("{finding:?}")).collect()
    };
    assert_eq!(worth(&together), Vec::<String>::new());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut check = Check::new(&scene());
        check.add("example.yaml", &std::fs::read(&path).unwrap());
        assert_eq!(worth(&check.finish()), Vec::<String>::new(), "{path:?}");
    }
}

#[test]
fn the_order_of_files_decides_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names.reverse();
    let mut check_again = Check::new(&scene());
    for name in &names {
        check_again.add(name, &std::fs::read(folder.join(name)).unwrap());
    }
    assert_eq!(check_again.finish(), check("tests/bad"));
}
