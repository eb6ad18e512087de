//! The demo and the lab are tests too: what a stranger sees first must be true.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::stopwatch::Stopwatch;
use tests::{poll, run};

use crate::{Case, alone, keep_logs};

pub(crate) const CASES: &[Case] = &[
    alone(
        "demo: every line true, in under 90 s, nothing left behind",
        demo,
    ),
    alone(
        "demo: --kubernetes: every line true there too, nothing left behind",
        demo_on_kubernetes,
    ),
    alone("demo: Ctrl-C removes everything", interrupted),
    alone("lab: up, described, usable from a script, down", lab),
];

/// Facts of both acts; a cluster has some of its own.
const ACTS: usize = 19;

fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.with_file_name(name))
}

fn report_file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("culvert-{name}-{}.json", std::process::id()))
}

fn demo() -> Result<()> {
    shows(&[], ACTS, Duration::from_secs(90))
}

fn demo_on_kubernetes() -> Result<()> {
    shows(&["--kubernetes"], ACTS + 5, Duration::from_secs(150))
}

/// The demo with these flags shows at least so many lines, all of them true, within a time.
fn shows(flags: &[&str], least: usize, limit: Duration) -> Result<()> {
    let report = report_file("demo");
    let watch = Stopwatch::start();
    let status = Command::new(program("demo")?)
        .args(flags)
        .arg("--json")
        .arg(&report)
        .status()
        .context("starting the demo")?;
    let took = watch.took();
    let text = fs::read_to_string(&report);
    let _ = fs::remove_file(&report);
    if !status.success() {
        // The next demo removes them.
        let name = ["demo", flags.first().copied().unwrap_or_default()].concat();
        keep_logs(&Path::new(run::RUNS).join("demo/logs"), &name);
    }
    ensure!(status.success(), "the demo ended with {status}");
    ensure!(took < limit, "the demo took {took:?}");
    let report: Value = serde_json::from_str(&text?)?;
    let lines = report["lines"].as_array().context("no lines")?;
    ensure!(
        lines.iter().all(|line| line["true"] == true),
        "a line is false: {report}"
    );
    ensure!(
        report["schema"] == 1 && lines.len() >= least,
        "the report is short: {report}"
    );
    nothing_left("demo")
}

fn interrupted() -> Result<()> {
    let mut child = quiet(Command::new(program("demo")?))?;
    let pid = i32::try_from(child.id())?;
    // Pods exist, applications run: the middle of the work.
    poll::until("the demo under way", Duration::from_secs(60), || {
        ensure!(
            Path::new("/run/netns/cv-demo-p-demo-web").exists(),
            "not yet"
        );
        Ok(())
    })?;
    std::thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(pid), Signal::SIGINT).context("interrupting the demo")?;
    let status = poll::until("the demo ended", Duration::from_secs(40), || {
        child.try_wait()?.context("still running")
    })?;
    ensure!(status.code() == Some(130), "the demo ended with {status}");
    nothing_left("demo")
}

fn quiet(mut command: Command) -> Result<Child> {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("starting a program")
}

fn lab() -> Result<()> {
    let description = report_file("lab");
    let status = Command::new(program("lab")?)
        .arg("--detach")
        .arg("--json")
        .arg(&description)
        .stdout(Stdio::null())
        .status()
        .context("starting the lab")?;
    let used = if status.success() {
        use_lab(&description)
    } else {
        Err(anyhow::anyhow!("the lab ended with {status}"))
    };
    let _ = fs::remove_file(&description);
    let down = Command::new(program("lab")?).arg("--down").status()?;
    used?;
    ensure!(down.success(), "lab --down ended with {down}");
    nothing_left("lab")
}

/// What a script does with nothing but the description.
fn use_lab(description: &Path) -> Result<()> {
    let lab: Value = serde_json::from_str(&fs::read_to_string(description)?)?;
    let named = |list: &str, name: &str| -> Result<Value> {
        let found = lab[list]
            .as_array()
            .into_iter()
            .flatten()
            .find(|item| item["name"] == name);
        found
            .cloned()
            .with_context(|| format!("no {name} in {list}"))
    };
    let client = named("pods", "client")?;
    let web = named("services", "web")?;
    let netns = client["netnsPath"].as_str().context("netnsPath")?;
    for address in web["addresses"].as_array().context("addresses")? {
        let address = address.as_str().context("address")?;
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.to_owned()
        };
        let url = format!("http://{host}/");
        let net = format!("--net={netns}");
        let body = tests::command::check("nsenter", &[&net, "curl", "-sSgm", "5", &url])?;
        ensure!(body == "hello from web\n", "{url} says {body:?}");
    }
    let outsider = named("pods", "outsider")?;
    let netns = outsider["netnsPath"].as_str().context("netnsPath")?;
    for url in lab["gateway"]["urls"].as_array().context("urls")? {
        let url = url.as_str().context("url")?;
        let net = format!("--net={netns}");
        let curl = ["curl", "-sSgm", "5", "-H", "Host: web.example", url];
        let body = tests::command::check("nsenter", &[&[&*net][..], &curl].concat())?;
        ensure!(body == "hello from web\n", "{url} says {body:?}");
    }
    let node = named("nodes", "n1")?;
    for pid in [&node["agent"]["pid"], &lab["gateway"]["pid"]] {
        let pid = pid.as_u64().context("pid")?;
        let process = format!("/proc/{pid}");
        ensure!(Path::new(&process).exists(), "{pid} does not run");
    }
    Ok(())
}

fn nothing_left(run: &str) -> Result<()> {
    ensure!(!run::is_running(run), "namespaces of {run} are left");
    let directory = Path::new("/run/culvert-test").join(run);
    ensure!(!directory.exists(), "{} is left", directory.display());
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(
        !mounts.contains(&directory.display().to_string()),
        "a mount of {run} is left"
    );
    Ok(())
}
