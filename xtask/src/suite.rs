//! `cargo xtask test`, and starting demo, lab and bench.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::program::{cargo, is_root, output, program};
use crate::steps::Steps;
use crate::toolchain::on_path;
use crate::workspace::Workspace;
use crate::{build, chroot, clean, image, room, setup};

/// Says that tests which need root or eBPF may be left out, and counted as skipped.
const SKIP: &str = "CULVERT_SKIP_KERNEL_TESTS";
/// Test targets of this name need root and eBPF, and leave themselves out because of [`SKIP`].
const KERNEL_TARGET: [&str; 2] = ["--test", "kernel"];
/// One more, in a build with places at which it ends the agent. It is asked for with the whole
/// workspace, so that everything below is compiled with the features it has already.
const CRASH_TARGET: [&str; 4] = ["--test", "crash", "--features", "agent-datapath/failpoints"];

/// A program that setup does not install. Tests that need it are marked `#[ignore]`, which nothing
/// else is: without it they are counted as skipped.
const OPTIONAL: &str = "kubectl";

/// Time `--long` gives each fuzz target; a plain test runs some mutations of every corpus.
const FUZZ_SECONDS: u64 = 60;

/// What `cargo xtask test` was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    long: bool,
    json: Option<PathBuf>,
    filter: Option<String>,
}

impl Request {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut request = Self::default();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--long" => request.long = true,
                "--json" => {
                    let file = words.next().context("--json needs a file")?;
                    request.json = Some(PathBuf::from(file));
                }
                flag if flag.starts_with('-') => {
                    bail!("test knows --long, --json FILE and a filter, not `{flag}`")
                }
                filter if request.filter.is_none() => request.filter = Some(filter.to_owned()),
                more => bail!("test takes one filter; `{more}` is a second one"),
            }
        }
        Ok(request)
    }
}

/// How many tests ended in which way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Every test: the crates' own, then the end-to-end ones (the demo is one of them).
pub(crate) fn test(
    workspace: &Workspace,
    steps: &mut Steps,
    arguments: &[String],
) -> Result<ExitCode> {
    let request = Request::parse(arguments)?;
    let skip = std::env::var(SKIP).is_ok_and(|value| value == "1");
    if !is_root() && !skip {
        bail!(
            "the end-to-end tests need root (network namespaces, eBPF). Run this as root, or set \
             {SKIP}=1: they are then counted as skipped"
        );
    }
    room::check(workspace)?;
    setup::install(workspace, steps, request.long)?;
    if request.long && !skip {
        setup::envoy(workspace, steps)?;
    }
    clean::run(steps, false)?;
    build::everything(workspace, steps)?;

    let mut counts = Counts::default();
    let mut failures = Vec::new();
    let unit = steps.step("test: every crate's own tests", || {
        unit_tests(workspace, &request, skip)
    });
    note(unit, &mut counts, &mut failures);
    let crash = steps.step("test: crashes in the middle of an enrolment", || {
        crash_tests(workspace, &request, skip)
    });
    note(crash, &mut counts, &mut failures);
    // Should cargo have put its own, dynamic build there.
    build::cni(workspace, steps)?;
    let kernel = if skip {
        skipped_cases(workspace, &request)
    } else {
        let title = "test: end to end (namespaces, eBPF, two nodes, the demo)";
        steps.step(title, || end_to_end(workspace, &request))
    };
    note(kernel, &mut counts, &mut failures);
    if request.filter.is_none() {
        let image = image_trial(workspace, steps, skip);
        note(image, &mut counts, &mut failures);
    }
    if request.long {
        let title = format!("test: fuzz targets, {FUZZ_SECONDS} s each");
        let fuzz = steps.step(&title, || fuzz(workspace));
        note(fuzz, &mut counts, &mut failures);
    }
    if request.long && !skip {
        let title = "test: both commands on a fresh Debian 12 (chroot)";
        let fresh = steps.step(title, || chroot::run_fresh(workspace, &chroot::BOTH));
        note(
            fresh.map(|()| Counts {
                passed: 1,
                ..Counts::default()
            }),
            &mut counts,
            &mut failures,
        );
    }
    clean::run(steps, false)?;
    if counts == Counts::default() && failures.is_empty() {
        failures.push(anyhow::anyhow!(
            "no test ran: is there one named like the filter?"
        ));
    }
    steps.print_table();
    for failure in &failures {
        eprintln!("failed: {failure:#}");
    }
    if !failures.is_empty() && counts.failed == 0 {
        counts.failed = 1;
    }
    if let Some(file) = &request.json {
        write_json(file, counts)?;
    }
    println!(
        "\n{} passed, {} failed, {} skipped",
        counts.passed, counts.failed, counts.skipped
    );
    Ok(if failures.is_empty() && counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn note(outcome: Result<Counts>, counts: &mut Counts, failures: &mut Vec<anyhow::Error>) {
    match outcome {
        Ok(found) => counts.add(found),
        Err(error) => match error.downcast::<Failed>() {
            Ok(Failed(found, what)) => {
                counts.add(found);
                failures.push(anyhow::anyhow!(what));
            }
            Err(other) => failures.push(other),
        },
    }
}

/// A test program that ended badly, with what it had counted.
#[derive(Debug)]
struct Failed(Counts, String);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Failed {}

fn unit_tests(workspace: &Workspace, request: &Request, skip: bool) -> Result<Counts> {
    let mut tests = cargo_test(workspace);
    tests.arg("--no-fail-fast").args(request.filter.as_deref());
    if on_path(OPTIONAL) {
        tests.args(["--", "--include-ignored"]);
    }
    let mut counts = counted(&mut tests, "the crates' own tests", cargo_counts)?;
    if skip {
        // Cargo has counted a test that left itself out as passed.
        for name in listed(workspace, &KERNEL_TARGET, request)? {
            println!("skipped ({SKIP}=1): {name}");
            counts.passed = counts.passed.saturating_sub(1);
            counts.skipped += 1;
        }
    }
    Ok(counts)
}

/// What a crash in the middle of an enrolment leaves.
fn crash_tests(workspace: &Workspace, request: &Request, skip: bool) -> Result<Counts> {
    let mut counts = Counts::default();
    if skip {
        for name in listed(workspace, &CRASH_TARGET, request)? {
            println!("skipped ({SKIP}=1): {name}");
            counts.skipped += 1;
        }
        return Ok(counts);
    }
    let mut tests = cargo_test(workspace);
    tests.args(CRASH_TARGET).args(request.filter.as_deref());
    counted(&mut tests, "the crash tests", cargo_counts)
}

/// Every role of the image, in a chroot.
fn image_trial(workspace: &Workspace, steps: &mut Steps, skip: bool) -> Result<Counts> {
    if skip {
        println!("skipped ({SKIP}=1): {}", image::TRIAL);
        return Ok(Counts {
            skipped: 1,
            ..Counts::default()
        });
    }
    let layout = image::make_for_tests(workspace, steps)?;
    steps.step(&format!("test: {}", image::TRIAL), || {
        image::trial(workspace, &layout)
    })?;
    Ok(Counts {
        passed: 1,
        ..Counts::default()
    })
}

fn cargo_test(workspace: &Workspace) -> Command {
    let mut tests = cargo(workspace.root());
    tests.args(["test", "--workspace", "--exclude", "ebpf-programs"]);
    tests
}

/// Names of the wanted tests of a target.
fn listed(workspace: &Workspace, target: &[&str], request: &Request) -> Result<Vec<String>> {
    let mut list = cargo_test(workspace);
    list.arg("--quiet")
        .args(target)
        .args(request.filter.as_deref())
        .args(["--", "--list"]);
    let listed = output(&mut list)?;
    Ok(listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}

fn end_to_end(workspace: &Workspace, request: &Request) -> Result<Counts> {
    if request.filter.is_some() && cases(workspace, request)?.is_empty() {
        return Ok(Counts::default());
    }
    let mut program = program(workspace.program("e2e"), workspace.root());
    if request.long {
        program.arg("--long");
    }
    program.args(request.filter.as_deref());
    counted(&mut program, "the end-to-end tests", closing_counts)
}

/// The fuzz targets, with inputs that no run had before.
fn fuzz(workspace: &Workspace) -> Result<Counts> {
    let mut program = program(workspace.program("fuzz"), workspace.root());
    program.args(["--seconds", &FUZZ_SECONDS.to_string()]);
    counted(&mut program, "the fuzz targets", closing_counts)
}

/// Names of the end-to-end cases that are wanted.
fn cases(workspace: &Workspace, request: &Request) -> Result<Vec<String>> {
    let mut list = program(workspace.program("e2e"), workspace.root());
    let listed = output(list.arg("--list").args(request.filter.as_deref()))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// Names and counts the end-to-end cases that are left out.
fn skipped_cases(workspace: &Workspace, request: &Request) -> Result<Counts> {
    let mut counts = Counts::default();
    for name in cases(workspace, request)? {
        println!("skipped ({SKIP}=1): {name}");
        counts.skipped += 1;
    }
    Ok(counts)
}

/// Runs a test program, shows its lines as they come, and adds up those `count` understands.
fn counted(command: &mut Command, what: &str, count: fn(&str) -> Option<Counts>) -> Result<Counts> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    let lines = child
        .stdout
        .take()
        .context("a test program without an output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(lines).split(b'\n') {
        let line = line.with_context(|| format!("cannot read the output of {what}"))?;
        let text = String::from_utf8_lossy(&line);
        println!("{text}");
        if let Some(found) = count(&text) {
            counts.add(found);
        }
    }
    std::io::stdout()
        .flush()
        .context("cannot write to standard output")?;
    let status = child.wait().with_context(|| format!("lost {what}"))?;
    if !status.success() {
        return Err(Failed(counts, format!("{what} ended with {status}")).into());
    }
    Ok(counts)
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`
fn cargo_counts(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    counts_of(numbers.split(';'))
}

/// `3 passed, 0 failed, 1 skipped`
fn closing_counts(line: &str) -> Option<Counts> {
    let line = line.trim();
    line.starts_with(|first: char| first.is_ascii_digit())
        .then(|| counts_of(line.split(',')))?
}

fn counts_of<'a>(parts: impl Iterator<Item = &'a str>) -> Option<Counts> {
    let mut counts = Counts::default();
    let mut known = 0;
    for part in parts {
        let Some((number, word)) = part.trim().split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        match word {
            "passed" => counts.passed = number,
            "failed" => counts.failed = number,
            "skipped" | "ignored" => counts.skipped = number,
            _ => continue,
        }
        known += 1;
    }
    (known >= 2).then_some(counts)
}

fn write_json(file: &std::path::Path, counts: Counts) -> Result<()> {
    let value = serde_json::json!({
        "schema": 1,
        "passed": counts.passed,
        "failed": counts.failed,
        "skipped": counts.skipped,
    });
    std::fs::write(file, format!("{value:#}\n"))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Sets up, builds, and hands over to `demo`, `lab`, `bench`, `scale` or `l7` of package `tests`.
pub(crate) fn start(
    workspace: &Workspace,
    steps: &mut Steps,
    name: &str,
    arguments: &[String],
) -> Result<ExitCode> {
    let asks_only = arguments
        .iter()
        .any(|word| matches!(word.as_str(), "--help" | "-h" | "--down"));
    let built = workspace.program(name).exists();
    if !(asks_only && built) {
        if !is_root() && name != "scale" {
            bail!("{name} makes network namespaces and loads eBPF programs: run it as root");
        }
        setup::install(workspace, steps, false)?;
        clean::run(steps, false)?;
        build::everything(workspace, steps)?;
    }
    // Started from where the caller stands, so that `--json FILE` means the caller's FILE.
    let here = std::env::current_dir().context("no current directory")?;
    let mut command = program(workspace.program(name), &here);
    command.args(arguments).stdin(Stdio::inherit());
    use std::os::unix::process::CommandExt;
    Err(command.exec()).with_context(|| format!("cannot start {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments_are_understood_or_refused() {
        let request = Request::parse(&words("--long policy --json out.json")).unwrap();
        assert_eq!(request.filter.as_deref(), Some("policy"));
        assert!(request.long && request.json == Some(PathBuf::from("out.json")));
        assert!(Request::parse(&words("--lnog")).is_err());
        assert!(Request::parse(&words("a b")).is_err());
        assert!(Request::parse(&words("--json")).is_err());
    }

    #[test]
    fn closing_lines_are_counted_and_nothing_else_is() {
        let line = "test result: ok. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out";
        assert_eq!(
            cargo_counts(line),
            Some(Counts {
                passed: 12,
                failed: 1,
                skipped: 2
            })
        );
        assert_eq!(cargo_counts("test policy::tests::one ... ok"), None);
        let line = "41 passed, 0 failed, 3 skipped";
        assert_eq!(
            closing_counts(line),
            Some(Counts {
                passed: 41,
                failed: 0,
                skipped: 3
            })
        );
        assert_eq!(closing_counts("41 passed, 0 failed").unwrap().skipped, 0);
        assert_eq!(closing_counts("12 bytes, 3 packets"), None);
        assert_eq!(closing_counts("the 3 passed, 0 failed"), None);
    }

    #[test]
    fn a_failing_program_keeps_its_counts() {
        let mut shell = program("sh", std::path::Path::new("/"));
        shell.args(["-c", "echo '2 passed, 1 failed'; exit 1"]);
        let outcome = counted(&mut shell, "a script", closing_counts);
        let (mut counts, mut failures) = (Counts::default(), Vec::new());
        note(outcome, &mut counts, &mut failures);
        assert_eq!(
            counts,
            Counts {
                passed: 2,
                failed: 1,
                skipped: 0
            }
        );
        assert_eq!(failures.len(), 1);
    }
}
