//! What the control plane reads, as Kubernetes YAML: a folder that it watches, or an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::apiserver::ApiServer;
use crate::topology::Addresses;

/// Named texts, in force at once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Manifests {
    target: Target,
    accounts: Arc<Mutex<BTreeSet<(String, String)>>>,
}

/// Where they are.
#[derive(Debug, Clone)]
enum Target {
    Folder(PathBuf),
    Cluster(Arc<Objects>),
}

/// The objects of texts on an API server.
#[derive(Debug)]
struct Objects {
    server: Arc<ApiServer>,
    texts: Mutex<BTreeMap<String, String>>,
}

impl Manifests {
    /// Makes the folder.
    pub fn create(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        Ok(Self {
            target: Target::Folder(directory),
            accounts: Arc::default(),
        })
    }

    /// The texts become objects of an API server.
    pub fn on(server: Arc<ApiServer>) -> Self {
        let texts = Mutex::default();
        Self {
            target: Target::Cluster(Arc::new(Objects { server, texts })),
            accounts: Arc::default(),
        }
    }

    /// The folder's path; none on an API server.
    pub fn directory(&self) -> Option<&Path> {
        match &self.target {
            Target::Folder(directory) => Some(directory),
            Target::Cluster(_) => None,
        }
    }

    /// The API server; none with a folder.
    pub fn server(&self) -> Option<&Arc<ApiServer>> {
        match &self.target {
            Target::Folder(_) => None,
            Target::Cluster(objects) => Some(&objects.server),
        }
    }

    /// Writes the text of that name. In a folder it is `NAME.yaml`, written in one step, as an
    /// editor or a ConfigMap mount does: no reader ever sees half a file.
    pub fn write(&self, name: &str, yaml: &str) -> Result<()> {
        let directory = match &self.target {
            Target::Folder(directory) => directory,
            Target::Cluster(objects) => return objects.write(name, yaml),
        };
        let target = directory.join(format!("{name}.yaml"));
        let draft = directory.join(format!(".{name}.draft"));
        fs::write(&draft, yaml).with_context(|| format!("writing {}", draft.display()))?;
        fs::rename(&draft, &target).with_context(|| format!("renaming to {}", target.display()))
    }

    /// Removes the text of that name; it is no error when it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let directory = match &self.target {
            Target::Folder(directory) => directory,
            Target::Cluster(objects) => return objects.remove(name),
        };
        let path = directory.join(format!("{name}.yaml"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes every text but the nodes'.
    pub fn clear(&self) -> Result<()> {
        for name in self.names()? {
            if !name.starts_with("node-") {
                self.remove(&name)?;
            }
        }
        self.accounts
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clear();
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>> {
        let directory = match &self.target {
            Target::Folder(directory) => directory,
            Target::Cluster(objects) => return Ok(objects.texts().keys().cloned().collect()),
        };
        let entries = fs::read_dir(directory).context("listing manifests")?;
        let name = |entry: fs::DirEntry| {
            let file = entry.file_name().into_string().ok()?;
            file.strip_suffix(".yaml").map(str::to_owned)
        };
        Ok(entries.flatten().filter_map(name).collect())
    }

    /// Writes a Namespace; `None` leaves it without a mesh label.
    pub fn namespace(&self, name: &str, mesh: Option<bool>) -> Result<()> {
        let label = match mesh {
            Some(true) => "\n  labels:\n    culvert.dev/mesh: enabled",
            Some(false) => "\n  labels:\n    culvert.dev/mesh: disabled",
            None => "",
        };
        self.write(
            &format!("namespace-{name}"),
            &format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}{label}\n"),
        )
    }

    /// Writes a Node with its addresses and locality.
    pub fn node(&self, name: &str, zone: &str, addresses: Addresses) -> Result<()> {
        self.write(
            &format!("node-{name}"),
            &format!(
                "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels:\n    \
                 kubernetes.io/hostname: {name}\n    topology.kubernetes.io/region: here\n    \
                 topology.kubernetes.io/zone: {zone}\nstatus:\n  addresses:\n  - type: InternalIP\n    \
                 address: {}\n  - type: InternalIP\n    address: \"{}\"\n",
                addresses.v4, addresses.v6
            ),
        )
    }

    /// Makes sure that a ServiceAccount exists; all of them share one file.
    pub fn account(&self, namespace: &str, name: &str) -> Result<()> {
        let mut accounts = self
            .accounts
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if !accounts.insert((namespace.to_owned(), name.to_owned())) {
            return Ok(());
        }
        let mut yaml = String::new();
        for (namespace, name) in accounts.iter() {
            let _ = write!(
                yaml,
                "---\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n  \
                 namespace: {namespace}\n"
            );
        }
        self.write("accounts", &yaml)
    }
}

impl Objects {
    fn write(&self, name: &str, yaml: &str) -> Result<()> {
        let mut texts = self.texts();
        let old = texts.get(name).map_or("", String::as_str);
        self.server
            .replace(old, yaml)
            .with_context(|| format!("objects of {name}"))?;
        texts.insert(name.to_owned(), yaml.to_owned());
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        match self.texts().remove(name) {
            Some(old) => self.server.remove(&old),
            None => Ok(()),
        }
    }

    fn texts(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a Pod manifest says.
#[derive(Debug, Clone)]
pub struct PodManifest {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Service account.
    pub account: String,
    /// Node it is scheduled on.
    pub node: String,
    /// Labels of the pod.
    pub labels: Vec<(String, String)>,
    /// Named container ports.
    pub ports: Vec<(String, u16)>,
    /// status.podIPs.
    pub ips: Vec<IpAddr>,
    /// Condition Ready.
    pub ready: bool,
    /// spec.hostNetwork.
    pub host_network: bool,
}

impl PodManifest {
    /// The manifest as a cluster's API would print it.
    pub fn yaml(&self) -> String {
        let mut yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: {}\n  uid: {}\n",
            self.name, self.namespace, self.uid
        );
        if !self.labels.is_empty() {
            yaml.push_str("  labels:\n");
        }
        for (key, value) in &self.labels {
            let _ = writeln!(yaml, "    {key}: {value}");
        }
        let _ = write!(
            yaml,
            "spec:\n  serviceAccountName: {}\n  nodeName: {}\n",
            self.account, self.node
        );
        if self.host_network {
            yaml.push_str("  hostNetwork: true\n");
        }
        yaml.push_str("  containers:\n  - name: app\n    image: none\n");
        if !self.ports.is_empty() {
            yaml.push_str("    ports:\n");
        }
        for (name, port) in &self.ports {
            let _ = writeln!(yaml, "    - name: {name}\n      containerPort: {port}");
        }
        // Before it has addresses a pod waits for its sandbox.
        let placed = !self.ips.is_empty();
        let _ = writeln!(
            yaml,
            "status:\n  phase: {}\n  conditions:\n  - type: Ready\n    status: \"{}\"",
            if placed { "Running" } else { "Pending" },
            if self.ready && placed {
                "True"
            } else {
                "False"
            }
        );
        if let Some(first) = self.ips.first() {
            let _ = writeln!(yaml, "  podIP: \"{first}\"\n  podIPs:");
        }
        for ip in &self.ips {
            let _ = writeln!(yaml, "  - ip: \"{ip}\"");
        }
        yaml
    }
}

/// What a Service manifest says. The selector is `app: NAME` unless given.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Value of the selected pods' label `app`.
    pub app: String,
    /// Service port and target port (a number or a name).
    pub ports: Vec<(u16, String)>,
    /// clusterIP: None.
    pub headless: bool,
    /// More lines of `spec:`, each indented by two spaces.
    pub extra: String,
}

impl ServiceSpec {
    /// A service that forwards `port` to the same port of the pods labelled `app: NAME`.
    pub fn new(namespace: &str, name: &str, port: u16) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            app: name.to_owned(),
            ports: vec![(port, port.to_string())],
            headless: false,
            extra: String::new(),
        }
    }

    /// One more port, with a target port of another number or a name.
    pub fn port(mut self, port: u16, target: &str) -> Self {
        self.ports.push((port, target.to_owned()));
        self
    }

    /// Selects pods labelled `app: APP`.
    pub fn selecting(mut self, app: &str) -> Self {
        self.app = app.to_owned();
        self
    }

    /// Adds a line to `spec:`.
    pub fn with(mut self, line: &str) -> Self {
        let _ = writeln!(self.extra, "  {line}");
        self
    }

    /// The manifest.
    pub fn yaml(&self, cluster_ips: Addresses) -> String {
        let mut yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: {}\nspec:\n  \
             selector:\n    app: {}\n  ipFamilyPolicy: PreferDualStack\n  ipFamilies: [IPv4, IPv6]\n",
            self.name, self.namespace, self.app
        );
        if self.headless {
            yaml.push_str("  clusterIP: None\n");
        } else {
            let _ = write!(
                yaml,
                "  clusterIP: {}\n  clusterIPs: [\"{}\", \"{}\"]\n",
                cluster_ips.v4, cluster_ips.v4, cluster_ips.v6
            );
        }
        yaml.push_str(&self.extra);
        yaml.push_str("  ports:\n");
        for (port, target) in &self.ports {
            let _ = writeln!(
                yaml,
                "  - name: p{port}\n    port: {port}\n    targetPort: {target}"
            );
        }
        yaml
    }
}

/// A PeerAuthentication for a namespace, `mode` being STRICT, PERMISSIVE or DISABLE.
pub fn peer_authentication(namespace: &str, mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: default\n  \
         namespace: {namespace}\nspec:\n  mtls:\n    mode: {mode}\n"
    )
}

/// An AuthorizationPolicy. `app` selects pods by their label, `rules` is the YAML of `spec.rules`
/// (a flow sequence on one line reads best).
pub fn authorization_policy(
    namespace: &str,
    name: &str,
    action: &str,
    app: Option<&str>,
    rules: &str,
) -> String {
    let selector = app.map_or_else(String::new, |app| {
        format!("  selector:\n    matchLabels:\n      app: {app}\n")
    });
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  \
         namespace: {namespace}\nspec:\n{selector}  action: {action}\n  rules: {rules}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::service;

    #[test]
    fn a_service_names_its_addresses_and_ports() {
        let yaml = ServiceSpec::new("demo", "web", 80)
            .port(81, "http")
            .with("internalTrafficPolicy: Local")
            .yaml(service(3));
        assert!(
            yaml.contains("clusterIPs: [\"10.96.0.3\", \"fd00:96::3\"]"),
            "{yaml}"
        );
        assert!(
            yaml.contains("\n  internalTrafficPolicy: Local\n  ports:\n"),
            "{yaml}"
        );
        assert!(
            yaml.contains("    port: 81\n    targetPort: http\n"),
            "{yaml}"
        );
    }

    #[test]
    fn a_policy_without_selector_covers_its_namespace() {
        let yaml = authorization_policy("demo", "p", "DENY", None, "[{}]");
        assert!(!yaml.contains("selector"), "{yaml}");
        assert!(yaml.ends_with("  action: DENY\n  rules: [{}]\n"), "{yaml}");
    }
}
