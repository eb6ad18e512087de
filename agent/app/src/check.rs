//! `culvert check`: says what is wrong with manifests, or with a cluster.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_control::{Check, ClusterConfig, Finding, Findings, Scene, Severity};
use anyhow::{Context, ensure};

use crate::admin::printable;
use crate::cli::CheckFlags;
use crate::verbs::print;

/// One byte more than the control plane reads of a file: it says so then.
const MAX_FILE: u64 = (4 << 20) + 1;
/// Folders below one that is named.
const MAX_DEPTH: usize = 32;
/// Ends of the names of manifests in folders.
const ENDS: [&str; 3] = ["yaml", "yml", "json"];

/// It could not look.
const UNABLE: u8 = 2;

/// Looks, prints, and says how to exit.
pub(crate) fn run(flags: &CheckFlags) -> ExitCode {
    match look(flags) {
        Ok(findings) => verdict(&findings, flags.strict),
        Err(error) => {
            eprintln!("culvert: {error:#}");
            ExitCode::from(UNABLE)
        }
    }
}

fn verdict(findings: &Findings, is_strict: bool) -> ExitCode {
    let worth = if is_strict {
        Severity::Warning
    } else {
        Severity::Error
    };
    let mut found = findings.findings.iter();
    if found.any(|finding| finding.severity >= worth) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn look(flags: &CheckFlags) -> anyhow::Result<Findings> {
    let scene = Scene {
        trust_domain: flags.trust_domain.clone(),
        root_namespace: flags.root_namespace.clone(),
    };
    let mut files = Vec::new();
    for path in &flags.paths {
        gather(path, 0, &mut files)?;
    }
    ensure!(
        flags.kubernetes || !files.is_empty(),
        "no manifest (*.yaml, *.yml, *.json) there"
    );
    let mut check = if flags.kubernetes {
        of_cluster(&scene, flags.kubeconfig.clone())?
    } else {
        Check::new(&scene)
    };
    for file in &files {
        check.add(&file.display().to_string(), &read(file)?);
    }
    let findings = check.finish();
    if flags.json {
        let text = serde_json::to_string_pretty(&findings).context("writing JSON")?;
        print(&format!("{text}\n"))?;
    } else {
        print(&text(&findings))?;
    }
    Ok(findings)
}

fn of_cluster(scene: &Scene, kubeconfig: Option<PathBuf>) -> anyhow::Result<Check> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    let config = ClusterConfig { kubeconfig };
    Ok(runtime.block_on(Check::of_cluster(scene, &config))?)
}

/// Files as they are, and those of folders by their names' ends. Hidden ones are left out.
fn gather(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if path == Path::new("-") || !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    ensure!(
        depth <= MAX_DEPTH,
        "{}: folders nested too deeply",
        path.display()
    );
    let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.with_context(|| path.display().to_string())?.path());
    }
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_manifest = path
            .extension()
            .is_some_and(|end| ENDS.iter().any(|known| end == *known));
        if !name.starts_with('.') && (path.is_dir() || is_manifest) {
            gather(&path, depth + 1, files)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    let outcome = if path == Path::new("-") {
        io::stdin().lock().take(MAX_FILE).read_to_end(&mut content)
    } else {
        File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut content))
    };
    outcome.with_context(|| path.display().to_string())?;
    Ok(content)
}

/// One paragraph a finding, and a line at the end.
fn text(findings: &Findings) -> String {
    let mut text = String::new();
    for finding in &findings.findings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", paragraph(finding));
    }
    if findings.left_out > 0 {
        let _ = writeln!(text, "and {} more\n", findings.left_out);
    }
    let counted = |severity, one: &str| {
        let count = findings.count(severity);
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {one}{plural}")
    };
    let _ = writeln!(
        text,
        "{} objects: {}, {}, {}",
        findings.objects,
        counted(Severity::Error, "error"),
        counted(Severity::Warning, "warning"),
        counted(Severity::Info, "note"),
    );
    text
}

fn paragraph(finding: &Finding) -> String {
    let severity = finding.severity.as_str();
    let code = finding.code.as_str();
    let mut head = format!("{severity}[{code}]");
    if let Some(object) = &finding.object {
        let _ = write!(head, " {}", printable(&object.to_string()));
    }
    if !finding.field.is_empty() {
        let _ = write!(head, " {}", printable(&finding.field));
    }
    let place = finding.place.as_ref().map_or_else(String::new, |place| {
        let file = printable(&place.file);
        let line = place
            .line
            .map_or_else(String::new, |line| format!(":{line}"));
        format!("  at {file}{line}\n")
    });
    let message = printable(&finding.message);
    let advice = finding.code.advice();
    format!("{head}: {message}\n{place}  {advice}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                          metadata: {name: p, namespace: shop}\n";

    fn findings(spec: &str) -> Findings {
        let mut check = Check::new(&Scene {
            trust_domain: "cluster.local".to_owned(),
            root_namespace: "culvert-system".to_owned(),
        });
        check.add("p.yaml", format!("{POLICY}{spec}\n").as_bytes());
        check.finish()
    }

    #[test]
    fn people_read_what_where_and_what_to_do() {
        let found = findings("spec: {action: DENY}");
        assert_eq!(
            text(&found),
            "warning[denies-nothing] AuthorizationPolicy shop/p: has no rule, so it denies \
             nothing\n  at p.yaml:1\n  Add a rule, or delete the policy.\n\n\
             1 objects: 0 errors, 1 warning, 0 notes\n"
        );
    }

    #[test]
    fn the_exit_code_follows_the_worst() {
        let clean = findings("spec: {rules: [{}]}");
        let warning = findings("spec: {action: DENY}");
        let error = findings("spec: {action: AUDIT}");
        for (found, is_strict, expected) in [
            (&clean, false, ExitCode::SUCCESS),
            (&clean, true, ExitCode::SUCCESS),
            (&warning, false, ExitCode::SUCCESS),
            (&warning, true, ExitCode::FAILURE),
            (&error, false, ExitCode::FAILURE),
        ] {
            let code = verdict(found, is_strict);
            assert_eq!(format!("{code:?}"), format!("{expected:?}"), "{found:?}");
        }
    }

    #[test]
    fn folders_are_gathered_in_order_and_without_what_is_no_manifest() {
        let folder = std::env::temp_dir().join(format!("culvert-check-{}", std::process::id()));
        fs::create_dir_all(folder.join("b")).unwrap();
        for name in ["z.yml", "a.yaml", "b/c.json", "notes.txt", ".hidden.yaml"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let mut files = Vec::new();
        gather(&folder, 0, &mut files).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let names: Vec<String> = files
            .iter()
            .map(|file| file.strip_prefix(&folder).unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["a.yaml", "b/c.json", "z.yml"]);
    }
}
