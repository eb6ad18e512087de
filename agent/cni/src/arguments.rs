//! What the runtime says in the environment.

use std::net::IpAddr;

use agent_model::PodInfo;

use crate::{Code, Failure};

/// Longest interface name of the kernel, in bytes.
const MAX_INTERFACE: usize = 15;
/// Longest value of one variable, in bytes; container ids have 64, paths stay far below.
const MAX_VALUE: usize = 4096;

/// A CNI command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// Is it still attached as it was (since 0.4.0).
    Check,
    /// Which versions the plugin speaks.
    Version,
    /// Can it serve ADD (since 1.1.0).
    Status,
    /// Forget every container that is not listed (since 1.1.0).
    Gc,
}

impl Command {
    pub(crate) fn read(variable: &impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        match required(variable, "CNI_COMMAND")?.as_str() {
            "ADD" => Ok(Self::Add),
            "DEL" => Ok(Self::Del),
            "CHECK" => Ok(Self::Check),
            "VERSION" => Ok(Self::Version),
            "STATUS" => Ok(Self::Status),
            "GC" => Ok(Self::Gc),
            other => Err(invalid(format!("CNI_COMMAND is `{other}`"))),
        }
    }
}

/// The pod of an ADD, DEL or CHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The sandbox's id.
    pub container_id: String,
    /// Path of the network namespace; empty when a DEL comes after it is gone.
    pub netns: String,
    /// Kubernetes name, from CNI_ARGS; may be empty for a DEL.
    pub name: String,
    /// Kubernetes namespace, from CNI_ARGS; may be empty for a DEL.
    pub namespace: String,
    /// Kubernetes UID, from CNI_ARGS; may be empty.
    pub uid: String,
    /// CNI_ARGS carries `CULVERT_MESH=disabled`.
    pub mesh_disabled: bool,
}

impl Arguments {
    pub(crate) fn read(
        command: Command,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let removal = command == Command::Del;
        let container_id = required(variable, "CNI_CONTAINERID")?;
        if !is_container_id(&container_id) {
            return Err(invalid(format!("CNI_CONTAINERID is `{container_id}`")));
        }
        let interface = required(variable, "CNI_IFNAME")?;
        if !is_interface(&interface) {
            return Err(invalid(format!("CNI_IFNAME is `{interface}`")));
        }
        let mut netns = optional(variable, "CNI_NETNS")?;
        if netns.is_empty() && !removal {
            return Err(invalid("CNI_NETNS is missing"));
        }
        if !netns.is_empty() && !netns.starts_with('/') {
            return Err(invalid(format!(
                "CNI_NETNS is `{netns}`, not an absolute path"
            )));
        }
        netns.truncate(netns.trim_end_matches('/').len());
        if netns.is_empty() && !removal {
            return Err(invalid("CNI_NETNS is a directory"));
        }
        let pairs = optional(variable, "CNI_ARGS")?;
        let pod = Self {
            container_id,
            netns,
            ..Self::from_pairs(&pairs)?
        };
        if !removal && (pod.name.is_empty() || pod.namespace.is_empty()) {
            return Err(invalid("CNI_ARGS lacks K8S_POD_NAME or K8S_POD_NAMESPACE"));
        }
        Ok(pod)
    }

    /// CNI_ARGS is `KEY=VALUE;KEY=VALUE`. Keys of others are passed over, as every runtime asks
    /// for with `IgnoreUnknown`.
    fn from_pairs(pairs: &str) -> Result<Self, Failure> {
        let mut pod = Self {
            container_id: String::new(),
            netns: String::new(),
            name: String::new(),
            namespace: String::new(),
            uid: String::new(),
            mesh_disabled: false,
        };
        for pair in pairs.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| invalid(format!("CNI_ARGS has `{pair}`, not KEY=VALUE")))?;
            match key {
                "K8S_POD_NAME" => value.clone_into(&mut pod.name),
                "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
                "K8S_POD_UID" => value.clone_into(&mut pod.uid),
                "CULVERT_MESH" => pod.mesh_disabled = mesh_disabled(value)?,
                _ => {}
            }
        }
        Ok(pod)
    }

    pub(crate) fn pod(&self, ips: Vec<IpAddr>) -> PodInfo {
        PodInfo {
            container_id: self.container_id.clone(),
            uid: self.uid.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            netns: self.netns.clone(),
            ips,
        }
    }
}

/// A word that is neither is refused: guessing could leave a pod out that was meant to be in.
fn mesh_disabled(value: &str) -> Result<bool, Failure> {
    match value {
        "disabled" => Ok(true),
        "enabled" => Ok(false),
        other => Err(invalid(format!(
            "CULVERT_MESH is `{other}`, not enabled or disabled"
        ))),
    }
}

fn required(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<String, Failure> {
    let value = optional(variable, name)?;
    if value.is_empty() {
        Err(invalid(format!("{name} is missing")))
    } else {
        Ok(value)
    }
}

fn optional(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<String, Failure> {
    let value = variable(name).unwrap_or_default();
    if value.len() > MAX_VALUE || value.contains(['\0', '\n']) {
        return Err(invalid(format!("{name} is too long or has a line break")));
    }
    Ok(value)
}

fn invalid(details: impl Into<String>) -> Failure {
    Failure::new(
        Code::Variable,
        "the environment is not as CNI says",
        details,
    )
}

fn is_container_id(id: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(inner)
}

fn is_interface(name: &str) -> bool {
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace();
    name.len() <= MAX_INTERFACE && name != "." && name != ".." && !name.contains(forbidden)
}
