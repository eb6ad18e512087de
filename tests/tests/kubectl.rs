//! The API server fixture through `kubectl`, where there is one; otherwise every case counts as
//! left out (`ignored`, in the words of cargo).
//!
//! What is not here: `kubectl create THING` and `kubectl create token`. They speak protobuf,
//! which the fixture does not.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use tests::apiserver::{ApiServer, Options};

type Case = (&'static str, fn(&Kubectl) -> Result<()>);

const CASES: [Case; 5] = [
    ("kubectl_shows_what_is_there", shows),
    ("kubectl_labels_patches_and_deletes", changes),
    ("kubectl_applies_on_either_side", applies),
    ("kubectl_installs_culvert_twice_and_removes_it", installs),
    ("kubectl_does_what_the_install_page_says", install_page),
];

/// What libtest does, as far as cargo and `cargo xtask test` use it.
fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted: Vec<Case> = CASES
        .into_iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|word| name.contains(*word)))
        .collect();
    if words.iter().any(|word| word == "--list") {
        for (name, _) in wanted {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let there = Command::new("kubectl")
        .args(["version", "--client"])
        .output()
        .is_ok_and(|output| output.status.success());
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, case) in wanted {
        if !there {
            println!("test {name} ... ignored, no kubectl here");
            ignored += 1;
            continue;
        }
        // A panic is one failed case, not the end of the others.
        let outcome = catch_unwind(AssertUnwindSafe(|| Kubectl::start().and_then(|k| case(&k))));
        match outcome {
            Ok(Ok(())) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Ok(Err(error)) => {
                println!("test {name} ... FAILED\n{error:?}");
                failed += 1;
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                failed += 1;
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; \
         0 filtered out\n"
    );
    ExitCode::from(u8::from(failed > 0))
}

/// A server and a kubectl that knows it.
struct Kubectl {
    server: ApiServer,
    folder: PathBuf,
}

impl Kubectl {
    fn start() -> Result<Self> {
        let server = ApiServer::start_with(&Options {
            custom_resources: false,
            ..Options::default()
        })?;
        let port = server.address().port();
        let folder =
            std::env::temp_dir().join(format!("culvert-kubectl-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).context("making a folder")?;
        server.write_kubeconfig(&folder.join("kubeconfig"))?;
        Ok(Self { server, folder })
    }

    /// What it prints; an error when it fails.
    fn run(&self, words: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(self.folder.join("kubeconfig"))
            .arg("--cache-dir")
            .arg(self.folder.join("cache"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(input.as_bytes())
                .context("writing to kubectl")?;
        }
        let output = child.wait_with_output().context("waiting for kubectl")?;
        ensure!(
            output.status.success(),
            "kubectl {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a line of a shell, as an administrator would in this folder.
    fn shell(&self, line: &str, folder: &str) -> Result<()> {
        let output = Command::new("sh")
            .args(["-ec", line])
            .current_dir(folder)
            .env("KUBECONFIG", self.folder.join("kubeconfig"))
            .env("HOME", &self.folder)
            .output()
            .context("starting a shell")?;
        ensure!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn says(&self, words: &[&str], wanted: &str) -> Result<()> {
        let found = self.run(words, "")?;
        ensure!(
            found.contains(wanted),
            "kubectl {words:?} says {found}, not {wanted}"
        );
        Ok(())
    }
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        // It is in the folder for temporary files.
        let _left = std::fs::remove_dir_all(&self.folder);
    }
}

fn shows(kubectl: &Kubectl) -> Result<()> {
    kubectl.says(&["version"], "Server Version: v1.33.0")?;
    kubectl.says(&["api-resources"], "endpointslices")?;
    kubectl.says(&["get", "namespaces"], "kube-system")?;
    kubectl.says(&["get", "sa", "-A"], "default")?;
    kubectl.server.put(
        "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {nodeName: node-1}, \
         status: {phase: Running}}",
    )?;
    let running = [
        "get",
        "pods",
        "--field-selector=status.phase=Running",
        "-o",
        "name",
    ];
    kubectl.says(&running, "pod/web")?;
    let condition = "--for=jsonpath={.status.phase}=Running";
    kubectl.says(
        &["wait", condition, "pod/web", "--timeout=20s"],
        "condition met",
    )
}

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: one, namespace: shop}
data: {a: '1'}
";

fn changes(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["create", "-f", "-"], SHOP)?;
    kubectl.run(
        &[
            "label",
            "namespace",
            "shop",
            "istio.io/dataplane-mode=ambient",
        ],
        "",
    )?;
    kubectl.says(
        &["get", "ns", "-l", "istio.io/dataplane-mode=ambient"],
        "shop",
    )?;
    kubectl.run(
        &["label", "namespace", "shop", "istio.io/dataplane-mode-"],
        "",
    )?;
    kubectl.says(&["get", "ns", "-l", "!istio.io/dataplane-mode"], "shop")?;
    let patch = [
        "patch",
        "configmap",
        "one",
        "-n",
        "shop",
        "--type=merge",
        "-p",
    ];
    kubectl.run(&[&patch[..], &[r#"{"data":{"b":"2"}}"#]].concat(), "")?;
    kubectl.says(
        &[
            "get",
            "configmap",
            "one",
            "-n",
            "shop",
            "-o",
            "jsonpath={.data.b}",
        ],
        "2",
    )?;
    kubectl.run(&["delete", "namespace", "shop", "--timeout=30s"], "")?;
    ensure!(kubectl.server.get("namespaces", "", "shop").is_none());
    Ok(())
}

fn applies(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["apply", "-f", "-"], SHOP)?;
    let again = kubectl.run(&["apply", "-f", "-"], SHOP)?;
    ensure!(again.matches("unchanged").count() == 2, "{again}");
    let without = SHOP.replace("a: '1'", "b: '2'");
    kubectl.run(&["apply", "-f", "-"], &without)?;
    let data = [
        "get",
        "configmap",
        "one",
        "-n",
        "shop",
        "-o",
        "jsonpath={.data}",
    ];
    kubectl.says(&data, r#"{"b":"2"}"#)?;

    let server_side = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let other = without.replace("b: '2'", "b: '3'");
    let refused = kubectl.run(&server_side, &other);
    let refused = format!(
        "{:#}",
        refused.err().context("two managers and no conflict")?
    );
    ensure!(refused.contains("conflict"), "{refused}");
    kubectl.run(&[&server_side[..], &["--force-conflicts"]].concat(), &other)?;
    kubectl.says(&data, r#"{"b":"3"}"#)
}

fn installs(kubectl: &Kubectl) -> Result<()> {
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes");
    kubectl.run(&["apply", "-k", manifests], "")?;
    let again = kubectl.run(&["apply", "-k", manifests], "")?;
    // kubectl itself patches a disruption budget's selector each time.
    let changed: Vec<&str> = again
        .lines()
        .filter(|line| !line.ends_with("unchanged") && !line.starts_with("poddisruptionbudget"))
        .collect();
    ensure!(changed.is_empty(), "the second time changed {changed:?}");
    kubectl.says(
        &["get", "daemonsets", "-A", "-o", "name"],
        "daemonset.apps/",
    )?;
    kubectl.says(&["get", "meshconfigs"], "")?;
    kubectl.run(&["delete", "-k", manifests, "--timeout=60s"], "")?;
    let left: Vec<_> = [
        "daemonsets.apps",
        "customresourcedefinitions.apiextensions.k8s.io",
    ]
    .iter()
    .flat_map(|resource| kubectl.server.names(resource))
    .collect();
    ensure!(left.is_empty(), "left over: {left:?}");
    Ok(())
}

/// Every `kubectl` line of README's *Install*, in order.
fn install_page(kubectl: &Kubectl) -> Result<()> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let readme = std::fs::read_to_string(format!("{root}/README.md"))?;
    let (_, page) = readme.split_once("\n## Install\n").context("no page")?;
    let (page, _) = page.split_once("\n## ").context("no end of the page")?;
    let server = &kubectl.server;
    server.put(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: culvert-ca-root-cert\n  \
         namespace: shop\n  labels: {app.kubernetes.io/name: culvert}\n",
    )?;
    let mut lines = 0;
    for line in page.lines().filter(|line| line.starts_with("kubectl ")) {
        kubectl.shell(line, root)?;
        lines += 1;
        // What each step is there for.
        let shop = server.get("namespaces", "", "shop").context("no shop")?;
        let label = &shop["metadata"]["labels"]["culvert.dev/mesh"];
        let agents = server.get("daemonsets.apps", "culvert-system", "culvert-node");
        let agents = agents.map_or_else(String::new, |agents| agents.to_string());
        if line.starts_with("kubectl label namespace ") {
            ensure!(label == "enabled", "{line}: {shop}");
        } else if line.starts_with("kubectl label namespaces ") {
            ensure!(label.is_null(), "{line}: {shop}");
        } else if line.contains("patch daemonset") {
            ensure!(agents.contains("\"maxUnavailable\":\"100%\""), "{agents}");
        } else if line.contains("set env") {
            ensure!(agents.contains("CULVERT_RELEASE"), "{agents}");
        }
    }
    ensure!(lines >= 10, "only {lines} lines");
    for resource in [
        "daemonsets.apps",
        "deployments.apps",
        "clusterroles.rbac.authorization.k8s.io",
        "customresourcedefinitions.apiextensions.k8s.io",
    ] {
        let left = server.names(resource);
        ensure!(left.is_empty(), "left over: {left:?}");
    }
    ensure!(server.get("namespaces", "", "culvert-system").is_none());
    ensure!(server.get("namespaces", "", "shop").is_some());
    let map = server.get("configmaps", "shop", "culvert-ca-root-cert");
    ensure!(map.is_none(), "left over: {map:?}");
    Ok(())
}
