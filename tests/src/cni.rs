//! What a container runtime does with a chain of CNI plugins: the same environment, the same
//! standard input, ADD in order and DEL in reverse.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use crate::place::Place;
use crate::topology::pod_range;

/// CNI spec version of the configuration list.
pub const VERSION: &str = "1.0.0";
const DEBIAN_PLUGINS: &str = "/usr/lib/cni";
const INTERFACE: &str = "eth0";

/// Where a node's runtime finds its plugins and what it tells them.
#[derive(Debug, Clone)]
pub struct Chain {
    host: Place,
    search: Vec<PathBuf>,
    plugins: Vec<Value>,
}

/// A sandbox as the runtime knows it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Container id.
    pub id: String,
    /// Path of the network namespace.
    pub netns: PathBuf,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Pod UID.
    pub uid: String,
    /// More `KEY=VALUE` of CNI_ARGS.
    pub arguments: Vec<String>,
}

/// The error object a plugin printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// Type of the plugin.
    pub plugin: String,
    /// Error code of the CNI spec, or of the plugin (100 and above).
    pub code: u64,
    /// Its text.
    pub message: String,
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: code {}: {}", self.plugin, self.code, self.message)
    }
}

impl std::error::Error for CniError {}

impl Chain {
    /// The chain of a node: Debian's bridge plugin with host-local addresses, and `culvert-cni`
    /// after it when the node has an agent.
    pub fn new(host: Place, node: u8, data: &Path, culvert: Option<(&Path, &Path)>) -> Self {
        let mut search = vec![PathBuf::from(DEBIAN_PLUGINS)];
        let mut plugins = vec![bridge(node, data)];
        if let Some((directory, socket)) = culvert {
            search.push(directory.to_owned());
            plugins.push(json!({ "type": "culvert-cni", "agentSocket": socket }));
        }
        Self {
            host,
            search,
            plugins,
        }
    }

    /// Replaces the configuration of `culvert-cni`, to test it with another.
    pub fn with_culvert(mut self, config: Value) -> Self {
        if let Some(last) = self.plugins.last_mut() {
            *last = config;
        }
        self
    }

    /// The first plugin as a configuration of its own, as its maker would write it.
    pub fn network(&self) -> Value {
        self.plugins
            .first()
            .map_or(Value::Null, |plugin| configuration(plugin, None))
    }

    /// The chain that a runtime with these two folders would use: the first file by name, which
    /// must be a list.
    pub fn in_folders(&self, configurations: &Path, programs: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(configurations)? {
            files.push(entry?.path());
        }
        files.sort();
        let first = files.first().context("no configuration")?;
        let list: Value = serde_json::from_slice(&std::fs::read(first)?)?;
        let plugins = list["plugins"]
            .as_array()
            .with_context(|| format!("{} is no list: {list}", first.display()))?;
        Ok(Self {
            host: self.host.clone(),
            search: vec![PathBuf::from(DEBIAN_PLUGINS), programs.to_owned()],
            plugins: plugins.clone(),
        })
    }

    /// Types of the plugins, in order.
    pub fn types(&self) -> Vec<&str> {
        let types = self.plugins.iter().map(|one| one["type"].as_str());
        types.map(Option::unwrap_or_default).collect()
    }

    /// ADD of every plugin. After the first one (which gives the addresses) `between` is called
    /// with them: the moment when a kubelet reports the pod's IPs. A failure undoes what was done.
    pub fn add(
        &self,
        sandbox: &Sandbox,
        between: impl FnOnce(&[IpAddr]) -> Result<()>,
    ) -> Result<Vec<IpAddr>> {
        let mut previous = None;
        let mut between = Some(between);
        let mut addresses = Vec::new();
        for plugin in &self.plugins {
            let result = match self.call("ADD", plugin, sandbox, previous.as_ref()) {
                Ok(result) => result,
                Err(error) => {
                    // A runtime cleans up after a failed ADD.
                    let _ = self.delete(sandbox);
                    return Err(error);
                }
            };
            if let Some(between) = between.take() {
                addresses = ips_of(&result)?;
                between(&addresses)?;
            }
            previous = Some(result);
        }
        Ok(addresses)
    }

    /// DEL of every plugin in reverse order. All are called; the first error is reported.
    pub fn delete(&self, sandbox: &Sandbox) -> Result<()> {
        let mut first = Ok(());
        for plugin in self.plugins.iter().rev() {
            let result = self.call("DEL", plugin, sandbox, None).map(drop);
            if first.is_ok() {
                first = result;
            }
        }
        first
    }

    /// CHECK of the last plugin, with the result its ADD would have had.
    pub fn check(&self, sandbox: &Sandbox, ips: &[IpAddr]) -> Result<()> {
        let plugin = self.plugins.last().context("an empty chain")?;
        let previous = result_with(ips);
        self.call("CHECK", plugin, sandbox, Some(&previous))
            .map(drop)
    }

    /// Calls the last plugin (`culvert-cni`) alone, with a result of our own making before it.
    pub fn call_last(&self, verb: &str, sandbox: &Sandbox, ips: &[IpAddr]) -> Result<Value> {
        let plugin = self.plugins.last().context("an empty chain")?;
        let previous = result_with(ips);
        self.call(verb, plugin, sandbox, Some(&previous))
    }

    fn call(
        &self,
        verb: &str,
        plugin: &Value,
        sandbox: &Sandbox,
        previous: Option<&Value>,
    ) -> Result<Value> {
        let kind = plugin["type"].as_str().context("a plugin without type")?;
        let mut command = Command::new(self.find(kind)?);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &sandbox.id)
            .env("CNI_NETNS", &sandbox.netns)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", arguments_of(sandbox))
            .env("CNI_PATH", self.search_path());
        let input = configuration(plugin, previous).to_string();
        let output = self
            .host
            .run_command(command, &input, Duration::from_secs(60))?;
        if output.ok() {
            return Ok(serde_json::from_str(&output.stdout).unwrap_or(Value::Null));
        }
        Err(error_of(kind, &output.stdout, &output.stderr))
    }

    fn find(&self, kind: &str) -> Result<PathBuf> {
        self.search
            .iter()
            .map(|directory| directory.join(kind))
            .find(|path| path.exists())
            .with_context(|| format!("CNI plugin {kind} not found in {:?}", self.search))
    }

    fn search_path(&self) -> String {
        let paths: Vec<String> = self
            .search
            .iter()
            .map(|p| p.display().to_string())
            .collect();
        paths.join(":")
    }
}

fn bridge(node: u8, data: &Path) -> Value {
    let range = pod_range(node, 0);
    let first = pod_range(node, 10);
    let last = pod_range(node, 250);
    let gateway = pod_range(node, 1);
    json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "ipMasq": false,
        "hairpinMode": false,
        "ipam": {
            "type": "host-local",
            "dataDir": data,
            "ranges": [
                [{ "subnet": format!("{}/24", range.v4), "rangeStart": first.v4,
                   "rangeEnd": last.v4, "gateway": gateway.v4 }],
                [{ "subnet": format!("{}/64", range.v6), "rangeStart": first.v6,
                   "rangeEnd": last.v6, "gateway": gateway.v6 }],
            ],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        },
    })
}

fn configuration(plugin: &Value, previous: Option<&Value>) -> Value {
    let mut config = plugin.clone();
    config["cniVersion"] = json!(VERSION);
    config["name"] = json!("pods");
    if let Some(previous) = previous {
        config["prevResult"] = previous.clone();
    }
    config
}

fn arguments_of(sandbox: &Sandbox) -> String {
    let mut arguments = vec![
        "IgnoreUnknown=1".to_owned(),
        format!("K8S_POD_NAMESPACE={}", sandbox.namespace),
        format!("K8S_POD_NAME={}", sandbox.name),
        format!("K8S_POD_INFRA_CONTAINER_ID={}", sandbox.id),
        format!("K8S_POD_UID={}", sandbox.uid),
    ];
    arguments.extend(sandbox.arguments.iter().cloned());
    arguments.join(";")
}

fn ips_of(result: &Value) -> Result<Vec<IpAddr>> {
    let entries = result["ips"].as_array().context("a result without ips")?;
    entries
        .iter()
        .map(|entry| {
            let text = entry["address"].as_str().unwrap_or_default();
            let address = text.split('/').next().unwrap_or_default();
            address.parse().with_context(|| format!("address {text:?}"))
        })
        .collect()
}

fn result_with(ips: &[IpAddr]) -> Value {
    let entries: Vec<Value> = ips
        .iter()
        .map(|ip| json!({ "address": format!("{ip}/{}", if ip.is_ipv4() { 24 } else { 64 }) }))
        .collect();
    json!({ "cniVersion": VERSION, "interfaces": [], "ips": entries })
}

fn error_of(kind: &str, stdout: &str, stderr: &str) -> anyhow::Error {
    let Ok(object) = serde_json::from_str::<Value>(stdout) else {
        return anyhow!("CNI plugin {kind} failed without an error object: {stdout} {stderr}");
    };
    let details = object["details"].as_str().unwrap_or_default();
    CniError {
        plugin: kind.to_owned(),
        code: object["code"].as_u64().unwrap_or_default(),
        message: format!("{} {details}", object["msg"].as_str().unwrap_or_default()),
    }
    .into()
}
