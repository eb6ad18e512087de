//! The network configuration on standard input.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::{Code, Command, Failure, MAX_CONFIG, SUPPORTED_VERSIONS};

/// Where the node agent listens when the configuration does not say.
pub const DEFAULT_SOCKET: &str = "/run/culvert/cni.sock";
/// Most addresses taken from one result: a pod has one or two of each family.
const MAX_ADDRESSES: usize = 64;

/// The parts of the configuration this plugin reads; runtimes and other plugins add their own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Version of the CNI specification the runtime speaks.
    #[serde(default)]
    pub cni_version: String,
    /// Absolute path of the node agent's socket.
    #[serde(default = "default_socket")]
    pub agent_socket: String,
    /// Namespaces whose pods stay outside the mesh on this node.
    #[serde(default)]
    pub exclude_namespaces: Vec<String>,
    /// Absolute path of the agent's list of meshed namespaces; without it every pod waits for an
    /// agent that does not answer.
    #[serde(default)]
    pub meshed_namespaces: Option<String>,
    /// What the plugin before this one made.
    #[serde(default)]
    prev_result: Option<Value>,
}

fn default_socket() -> String {
    DEFAULT_SOCKET.to_owned()
}

impl Config {
    pub(crate) fn parse(stdin: &[u8]) -> Result<Self, Failure> {
        if stdin.len() > MAX_CONFIG {
            return Err(undecodable(format!("it has more than {MAX_CONFIG} bytes")));
        }
        let value: Value =
            serde_json::from_slice(stdin).map_err(|error| undecodable(error.to_string()))?;
        if !value.is_object() {
            // A list would be taken for the fields in order.
            return Err(undecodable("it is not a JSON object".to_owned()));
        }
        let config: Self =
            serde_json::from_value(value).map_err(|error| undecodable(error.to_string()))?;
        if !config.agent_socket.starts_with('/') {
            let socket = &config.agent_socket;
            return Err(wrong(format!(
                "agentSocket is `{socket}`, not an absolute path"
            )));
        }
        if let Some(list) = &config.meshed_namespaces
            && !list.starts_with('/')
        {
            return Err(wrong(format!(
                "meshedNamespaces is `{list}`, not an absolute path"
            )));
        }
        Ok(config)
    }

    /// Whether the configuration's version is spoken here and has the command.
    pub(crate) fn allow(&self, command: Command) -> Result<(), Failure> {
        let since = match command {
            Command::Add | Command::Del | Command::Version => "0.3.1",
            Command::Check => "0.4.0",
            Command::Status | Command::Gc => "1.1.0",
        };
        let place = |wanted: &str| SUPPORTED_VERSIONS.iter().position(|known| *known == wanted);
        match place(&self.cni_version) {
            Some(own) if Some(own) >= place(since) => Ok(()),
            Some(_) => Err(version_failure(format!(
                "{command:?} needs cniVersion {since} or later"
            ))),
            None => Err(version_failure(format!(
                "cniVersion is `{}`",
                self.cni_version
            ))),
        }
    }

    /// The result to pass through, which a chained plugin always has.
    pub(crate) fn previous_result(&self) -> Result<String, Failure> {
        let mut result = self.result()?.clone();
        if let Some(fields) = result.as_object_mut() {
            // The one field a result must have; runtimes put it in, hand-made chains forget it.
            fields
                .entry("cniVersion")
                .or_insert_with(|| self.cni_version.clone().into());
        }
        Ok(result.to_string())
    }

    /// The pod's own addresses in the previous result.
    pub(crate) fn addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        let result = self.result()?;
        let listed = match &result["ips"] {
            Value::Array(listed) => listed.as_slice(),
            Value::Null => &[],
            _ => return Err(wrong("prevResult.ips is not a list")),
        };
        let mut ips = Vec::new();
        for entry in listed {
            if is_pods(entry, &result["interfaces"]) {
                let ip = address(entry)?;
                if !ips.contains(&ip) {
                    ips.push(ip);
                }
            }
        }
        match ips.len() {
            0 => Err(wrong("prevResult has no address of the pod")),
            1..=MAX_ADDRESSES => Ok(ips),
            many => Err(wrong(format!("prevResult has {many} addresses"))),
        }
    }

    fn result(&self) -> Result<&Value, Failure> {
        match &self.prev_result {
            Some(result) if result.is_object() => Ok(result),
            Some(_) => Err(wrong("prevResult is not an object")),
            None => Err(wrong(
                "there is no prevResult: culvert-cni is chained behind the plugin that makes the \
                 pod's network",
            )),
        }
    }
}

/// An address may belong to an interface on the host's side (the bridge's own), which has no
/// sandbox. One that names no interface is the pod's.
fn is_pods(entry: &Value, interfaces: &Value) -> bool {
    let Some(index) = entry["interface"]
        .as_u64()
        .and_then(|index| usize::try_from(index).ok())
    else {
        return true;
    };
    let sandbox = interfaces[index]["sandbox"].as_str().unwrap_or_default();
    !sandbox.is_empty()
}

fn address(entry: &Value) -> Result<IpAddr, Failure> {
    let text = entry["address"].as_str().unwrap_or_default();
    let (ip, prefix) = text.split_once('/').ok_or_else(|| {
        wrong(format!(
            "prevResult has the address `{text}`, not IP/PREFIX"
        ))
    })?;
    let ip: IpAddr = ip
        .parse()
        .map_err(|_| wrong(format!("prevResult has the address `{text}`")))?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    if !prefix.parse::<u8>().is_ok_and(|prefix| prefix <= longest) {
        return Err(wrong(format!("prevResult has the prefix of `{text}`")));
    }
    Ok(ip)
}

/// The version a configuration names, where that much of it can be read.
pub(crate) fn version(stdin: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(stdin).ok()?;
    Some(value["cniVersion"].as_str()?.to_owned())
}

/// The answer to VERSION. Its own version repeats the runtime's, which may be one not spoken here.
pub(crate) fn supported(stdin: &[u8]) -> Result<String, Failure> {
    let newest = SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1];
    let asked = if stdin.iter().all(u8::is_ascii_whitespace) {
        None
    } else {
        serde_json::from_slice::<Value>(stdin)
            .map_err(|error| undecodable(error.to_string()))?["cniVersion"]
            .as_str()
            .map(str::to_owned)
    };
    let answer = serde_json::json!({
        "cniVersion": asked.as_deref().unwrap_or(newest),
        "supportedVersions": SUPPORTED_VERSIONS,
    });
    Ok(answer.to_string())
}

fn undecodable(details: String) -> Failure {
    Failure::new(
        Code::Decode,
        "the network configuration cannot be read",
        details,
    )
}

fn wrong(details: impl Into<String>) -> Failure {
    Failure::new(Code::Config, "the network configuration is wrong", details)
}

fn version_failure(details: String) -> Failure {
    Failure::new(Code::Version, "incompatible CNI version", details)
}
