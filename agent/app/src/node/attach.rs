//! The agent's line to the control plane beside discovery: which pods are wanted, what became of
//! them, which roots are trusted.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use agent_cni::{MESHED_FILE, Meshed, read_meshed, write_meshed};
use agent_datapath::{Datapath, Follow, Wishes};
use agent_identity::Certificates;
use agent_model::{NodeWishes, PodReport};
use agent_net::drain::Watcher;
use agent_xds::ClientConfig;
use agent_xds::attach::{AttachConfig, AttachStatus, Attached, NodeReport};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{VERSION, xds_config};
use crate::cli::Enrolment;
use crate::config::NodeConfig;
use crate::readiness::Pending;

/// The line to the control plane. Dropped, nothing more is said or heard on it.
pub(super) struct Attachment {
    /// What became of the pods, as the control plane is told; `None` until it is known.
    pub(super) reports: watch::Receiver<Option<Vec<PodReport>>>,
    /// What it has said of the node's pods.
    pub(super) wishes: watch::Receiver<Wishes>,
    _tasks: JoinSet<()>,
}

/// What the line is made with.
pub(super) struct Line<'a> {
    pub(super) config: &'a NodeConfig,
    pub(super) certificates: &'a Certificates,
    pub(super) datapath: &'a Arc<Datapath>,
    /// What the predecessor has heard last.
    pub(super) wishes: Option<Arc<NodeWishes>>,
    /// Done when the pods that are wanted have each been tried once, at once where the runtime
    /// alone decides.
    pub(super) pending: Pending,
}

/// Attaches, and says by what enrolment goes from now on.
pub(super) fn attach(
    control: &Runtime,
    line: Line<'_>,
    draining: &Watcher,
) -> (Attachment, Follow) {
    let Line {
        config,
        certificates,
        datapath,
        wishes: handed,
        pending,
    } = line;
    let attached = Attached {
        wishes: watch::Sender::new(None),
        trust: watch::Sender::new(None),
        status: watch::Sender::new(AttachStatus::default()),
    };
    let list = config.kernel.state_dir.join(MESHED_FILE);
    let (wishes, wanted) = watch::channel(Wishes {
        current: false,
        meshed: match &handed {
            Some(handed) => Some(Arc::new(handed.meshed_namespaces.clone())),
            None => known_namespaces(&list),
        },
        node: handed,
    });
    let (pods, told) = watch::channel(None);
    let known = told.clone();
    let (reports, reported) = watch::channel(None);
    let hashes = watch::Sender::new(String::new());
    let by_labels = config.enrolment == Enrolment::Labels;
    if !by_labels {
        pending.done();
    }
    let mut tasks = JoinSet::new();
    let runtime = control.handle();
    let datapath = Arc::clone(datapath);
    let list = List {
        path: list,
        is_ours: Box::new(move || datapath.is_owner()),
    };
    tasks.spawn_on(follow_wishes(attached.clone(), wishes, list), runtime);
    let in_use = hashes.subscribe();
    let (certificates, issues) = (certificates.clone(), config.enrolment_server.issues);
    let told_trust = attached.clone();
    let trust = async move {
        if issues {
            trust(certificates, told_trust, hashes).await;
        } else {
            // Reports go on with the hash that never changes.
            let _hashes = hashes;
            std::future::pending::<()>().await;
        }
    };
    tasks.spawn_on(trust, runtime);
    tasks.spawn_on(report(told, in_use, reports, pending), runtime);
    let settings = AttachConfig {
        server: server(config),
        version: VERSION.to_owned(),
        instance: config.instance.clone(),
    };
    let attaching = agent_xds::attach::run(settings, reported, attached, draining.clone());
    tasks.spawn_on(attaching, runtime);
    let follow = Follow {
        wishes: by_labels.then(|| wanted.clone()),
        reports: pods,
    };
    let attachment = Attachment {
        reports: known,
        wishes: wanted,
        _tasks: tasks,
    };
    (attachment, follow)
}

/// The list that the plugin reads while no agent runs.
struct List {
    path: PathBuf,
    /// No other agent has taken over.
    is_ours: Box<dyn Fn() -> bool + Send>,
}

impl List {
    fn write(&self, namespaces: &BTreeSet<String>) {
        if !(self.is_ours)() {
            return;
        }
        if let Err(error) = write_meshed(&self.path, namespaces) {
            tracing::warn!(list = %self.path.display(), %error, "list of meshed namespaces");
        }
    }
}

/// Who says which pods are wanted. It names roots only where it is the issuer too: those of
/// another's certificates are none of its business.
fn server(config: &NodeConfig) -> ClientConfig {
    let server = &config.enrolment_server;
    ClientConfig {
        address: server.address.clone(),
        root_cert: server.root_cert.clone(),
        token_file: server.token_file.clone(),
        ..xds_config(config)
    }
}

/// What an agent before this one has heard. A list that cannot be read is none: then every pod
/// that is not known waits.
fn known_namespaces(list: &std::path::Path) -> Option<Arc<BTreeSet<String>>> {
    match read_meshed(list) {
        Meshed::Listed(namespaces) => Some(Arc::new(namespaces)),
        Meshed::Absent => None,
        Meshed::Unreadable(error) => {
            tracing::warn!(list = %list.display(), error, "list of meshed namespaces");
            None
        }
    }
}

/// Puts together what was heard and whether it is up to date; keeps the list that the plugin
/// reads while no agent runs.
async fn follow_wishes(attached: Attached, wishes: watch::Sender<Wishes>, list: List) {
    let mut heard = attached.wishes.subscribe();
    let mut status = attached.status.subscribe();
    loop {
        let changed = tokio::select! {
            changed = heard.changed() => changed,
            changed = status.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let node = heard.borrow_and_update().clone();
        let current = status.borrow_and_update().current;
        let meshed = node.as_ref().map(|node| {
            list.write(&node.meshed_namespaces);
            Arc::new(node.meshed_namespaces.clone())
        });
        wishes.send_modify(|wishes| {
            wishes.current = current;
            // Until this agent has heard something itself, its predecessor's word counts.
            if node.is_some() {
                wishes.node = node;
                wishes.meshed = meshed;
            }
        });
    }
}

/// Trusts the roots that the control plane names. What makes no sense is left out and never all
/// there was: without one usable root those before stay. The hash names what is in use: a bundle
/// that is not whole is not acknowledged.
async fn trust(certificates: Certificates, attached: Attached, hashes: watch::Sender<String>) {
    let mut bundles = attached.trust.subscribe();
    // Whatever has come before this task ran counts, too.
    bundles.mark_changed();
    while bundles.changed().await.is_ok() {
        let Some(bundle) = bundles.borrow_and_update().clone() else {
            continue;
        };
        match certificates.trust_text(bundle.pem.as_bytes()) {
            Ok(roots) => {
                hashes.send_replace(roots.sha256().to_owned());
                for problem in certificates.trust_problems() {
                    tracing::error!(problem, "a root of the trust bundle is left out");
                }
            }
            Err(error) => tracing::error!(error, "trust bundle refused; the one before stays"),
        }
    }
}

/// Puts together what the control plane is told. Nothing before the pods are known: an empty
/// report would say that none is captured.
async fn report(
    mut pods: watch::Receiver<Option<Vec<PodReport>>>,
    mut hashes: watch::Receiver<String>,
    reports: watch::Sender<Option<NodeReport>>,
    pending: Pending,
) {
    loop {
        if let Some(pods) = pods.borrow_and_update().clone() {
            pending.done();
            reports.send_replace(Some(NodeReport {
                pods,
                trust_bundle_hash: hashes.borrow_and_update().clone(),
            }));
        }
        let changed = tokio::select! {
            changed = pods.changed() => changed,
            changed = hashes.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readiness::Readiness;

    fn attached() -> Attached {
        Attached {
            wishes: watch::Sender::new(None),
            trust: watch::Sender::new(None),
            status: watch::Sender::new(AttachStatus::default()),
        }
    }

    #[tokio::test]
    async fn the_list_of_meshed_namespaces_follows_and_outlives_the_agent() {
        let folder = std::env::temp_dir().join(format!("culvert-attach-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let list = folder.join(MESHED_FILE);
        assert_eq!(known_namespaces(&list), None);
        let attached = attached();
        let (sender, mut wishes) = watch::channel(Wishes::default());
        tokio::spawn(follow_wishes(attached.clone(), sender, at(&list, true)));
        let namespaces = BTreeSet::from(["shop".to_owned()]);
        attached.status.send_replace(AttachStatus {
            current: true,
            ..AttachStatus::default()
        });
        // Until the task has subscribed, changes are not seen.
        while wishes.borrow().node.is_none() {
            attached.wishes.send_replace(Some(Arc::new(NodeWishes {
                pods: Vec::new(),
                meshed_namespaces: namespaces.clone(),
            })));
            tokio::task::yield_now().await;
        }
        assert_eq!(known_namespaces(&list).as_deref(), Some(&namespaces));
        // The stream ends: what was heard stays, and is known to be old.
        attached.status.send_replace(AttachStatus::default());
        let old = wishes.wait_for(|wishes| !wishes.current && wishes.node.is_some());
        assert_eq!(old.await.unwrap().meshed.as_deref(), Some(&namespaces));
        std::fs::write(&list, "nonsense").unwrap();
        assert_eq!(known_namespaces(&list), None);
        std::fs::remove_dir_all(folder).unwrap();
    }

    fn at(path: &std::path::Path, is_ours: bool) -> List {
        List {
            path: path.to_owned(),
            is_ours: Box::new(move || is_ours),
        }
    }

    #[tokio::test]
    async fn what_the_predecessor_heard_counts_and_its_list_is_left_alone() {
        let list = std::env::temp_dir().join(format!("culvert-heir-{}", std::process::id()));
        let _ = std::fs::remove_file(&list);
        let handed = Arc::new(NodeWishes::default());
        let (sender, mut wishes) = watch::channel(Wishes {
            node: Some(Arc::clone(&handed)),
            ..Wishes::default()
        });
        let attached = attached();
        tokio::spawn(follow_wishes(attached.clone(), sender, at(&list, false)));
        while !wishes.borrow_and_update().current {
            attached.status.send_modify(|status| status.current = true);
            tokio::task::yield_now().await;
        }
        assert_eq!(wishes.borrow().node, Some(handed));
        let heard = NodeWishes {
            pods: Vec::new(),
            meshed_namespaces: BTreeSet::from(["shop".to_owned()]),
        };
        attached.wishes.send_replace(Some(Arc::new(heard.clone())));
        let new = wishes.wait_for(|wishes| wishes.node.as_deref() == Some(&heard));
        assert!(new.await.is_ok());
        assert!(!list.exists(), "another agent's by now");
    }

    #[tokio::test]
    async fn nothing_is_reported_before_the_pods_are_known() {
        let readiness = Readiness::default();
        let (pods, told) = watch::channel(None);
        let (hashes, in_use) = watch::channel("a".to_owned());
        let (sender, mut reports) = watch::channel(None);
        tokio::spawn(report(told, in_use, sender, readiness.wait_for("pods")));
        tokio::task::yield_now().await;
        hashes.send_replace("b".to_owned());
        tokio::task::yield_now().await;
        assert_eq!(*reports.borrow(), None);
        assert_eq!(readiness.pending(), ["pods"]);
        pods.send_replace(Some(Vec::new()));
        let told = reports.wait_for(Option::is_some).await.unwrap().clone();
        assert_eq!(told.unwrap().trust_bundle_hash, "b");
        assert!(readiness.pending().is_empty());
    }
}
