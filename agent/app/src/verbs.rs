//! The operator's verbs: ask the node agent or what this release carries, print the answer.

use std::io::{self, Write};

use anyhow::Context;

use crate::admin::{self, Status, Why};
use crate::cli::{AdminFlags, InstallFlags, StatusFlags, WhyFlags};
use crate::install;

/// `culvert status`.
pub(crate) fn status(flags: &StatusFlags) -> anyhow::Result<()> {
    let answer = admin::get(&flags.admin.admin_socket, "/status")?;
    if flags.json {
        return print_json(&answer);
    }
    let value: serde_json::Value = serde_json::from_str(&answer).context("unexpected answer")?;
    match value["role"].as_str() {
        Some("control") => return print(&admin::control_text(&value)),
        Some("gateway") => return print(&admin::gateway_text(&value)),
        _ => {}
    }
    let status: Status = serde_json::from_value(value).context("unexpected answer")?;
    print(&status.to_text())
}

/// `culvert routes`.
pub(crate) fn routes(flags: &StatusFlags) -> anyhow::Result<()> {
    let answer = admin::get(&flags.admin.admin_socket, "/routes")
        .context("only a gateway has routes; name its socket with --admin-socket")?;
    if flags.json {
        return print_json(&answer);
    }
    let value: serde_json::Value = serde_json::from_str(&answer).context("unexpected answer")?;
    print(&admin::routes_text(&value))
}

/// `culvert config-dump`.
pub(crate) fn config_dump(flags: &AdminFlags) -> anyhow::Result<()> {
    print_json(&admin::get(&flags.admin_socket, "/config_dump")?)
}

/// `culvert why`.
pub(crate) fn why(flags: &WhyFlags) -> anyhow::Result<()> {
    let path = admin::why_path(&flags.source, flags.destination);
    let answer = admin::get(&flags.admin.admin_socket, &path)?;
    if flags.json {
        return print_json(&answer);
    }
    let why: Why = serde_json::from_str(&answer).context("unexpected answer")?;
    print(&why.to_text())
}

/// `culvert install --render`.
pub(crate) fn install(flags: &InstallFlags) -> anyhow::Result<()> {
    print(&install::render(flags)?)
}

fn print_json(answer: &str) -> anyhow::Result<()> {
    let value: serde_json::Value = serde_json::from_str(answer).context("unexpected answer")?;
    print(&format!("{value:#}\n"))
}

/// A reader that stops early (`| head`) is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
