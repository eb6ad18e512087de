//! Puts the rooms together and runs them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use agent_model::gateway::GatewayKey;
use agent_net::drain;
use agent_xds::{Discovery, Published};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::ControlError;
use crate::admission::{Admission, NodeAccount, NodeTokens, Reviews};
use crate::ca::{CertificateService, Counters, NodeLimits};
use crate::changes::Changes;
use crate::cluster;
use crate::collection::{Collection, Placement};
use crate::conditions::{self, Conditions};
use crate::config::{Config, SourceChoice};
use crate::infrastructure::{Image, Infrastructure, Template};
use crate::lease::Candidate;
use crate::nodes::{Annotator, AttachedNodes, ClusterPods, NodeService};
use crate::noting::Noting;
use crate::rounds::Cue;
use crate::serve::{self, Services, listen};
use crate::snapshot::Snapshot;
use crate::source::Batch;
use crate::source::file::FileSource;
use crate::source::kube::KubeSource;
use crate::status::{Parts, Progress, Status};
use crate::translate::{Endpoints, Mesh};
use crate::trust::{Acknowledgements, ConfigMaps, Keeper, Ledger, Origin, Terms, Turn, publish};
use crate::webhook::{Registration, Webhook};

/// Lifetime of the server's own certificate: that of workloads within these bounds.
const SERVING_TTL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(24 * 3600));

/// A control plane that has read its manifests and listens, but does not serve yet.
#[derive(Debug)]
pub struct Control {
    listener: TcpListener,
    webhook: Option<Webhook>,
    tls: Arc<ServerConfig>,
    trust: Keeper,
    admission: Arc<Admission>,
    source: Source,
    collection: Arc<RwLock<Collection>>,
    snapshot: Snapshot,
    published: Published,
    /// Where there is a cluster to write to.
    candidate: Option<(Candidate, watch::Receiver<bool>)>,
    /// The whole state, where it is known already.
    first: Option<Batch>,
    max_ttl: Duration,
    companion: bool,
    /// Namespace of what is shared with other replicas.
    root_namespace: String,
    /// What agents run as.
    accounts: Vec<NodeAccount>,
    /// Where pods are annotated and roots handed out; `None` in folder mode.
    cluster: Option<ClusterPods>,
    /// What gateways are made from, where they are.
    gateways: Option<(Template, Option<String>)>,
}

/// Where batches come from.
enum Source {
    Folder(FileSource),
    Cluster(KubeSource),
}

impl Source {
    async fn run(self, output: mpsc::Sender<Batch>, drain: drain::Watcher) {
        match self {
            Self::Folder(folder) => folder.run(output, drain).await,
            Self::Cluster(cluster) => cluster.run(output, drain).await,
        }
    }

    fn progress(&self) -> Progress {
        match self {
            Self::Folder(folder) => Progress::Folder(folder.path().to_owned()),
            Self::Cluster(cluster) => Progress::Cluster(cluster.progress()),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Folder(_) => "Folder",
            Self::Cluster(_) => "Cluster",
        })
    }
}

/// Runs a control plane until the drain begins.
pub async fn run(config: Config, drain: drain::Watcher) -> Result<(), ControlError> {
    Control::bind(config).await?.serve(drain).await;
    Ok(())
}

impl Control {
    /// Opens the authority (writing `root-cert.pem` for the nodes), reads the tokens and, in
    /// folder mode, every manifest, and listens. Nodes that connect from then on see the whole
    /// state or none of it. Bad objects are problems in the status, not errors, and so is an API
    /// server that is away.
    pub async fn bind(config: Config) -> Result<Self, ControlError> {
        config.check()?;
        let (client, source, first) = match &config.source {
            SourceChoice::Folder(folder) => {
                let (source, first) = FileSource::open(folder).await.map_err(at(folder))?;
                (None, Source::Folder(source), Some(first))
            }
            SourceChoice::Kubernetes(cluster) => {
                let client = cluster::connect(cluster).await?;
                let source = KubeSource::new(client.clone());
                (Some(client), Source::Cluster(source), None)
            }
        };
        let collection = Collection::new(Mesh {
            trust_domain: config.trust_domain.as_str().into(),
            cluster_id: config.cluster_id.as_str().into(),
            root_namespace: config.root_namespace.as_str().into(),
            endpoints: match config.source {
                SourceChoice::Folder(_) => Endpoints::Derived,
                SourceChoice::Kubernetes(_) => Endpoints::Given,
            },
            waits_for_capture: matches!(config.source, SourceChoice::Kubernetes(_)),
        });
        let collection = Arc::new(RwLock::new(collection));
        let admission = open_admission(&config, client.as_ref(), &collection)?;
        let candidate = client
            .clone()
            .map(|client| Candidate::new(client, &config.root_namespace));
        let trust = open_trust(&config, client.as_ref()).await?;
        let (shortest, longest) = SERVING_TTL;
        let ttl = config.cert_ttl.clamp(shortest, longest);
        let names = &config.serving_names;
        let tls = trust
            .authority()
            .serving_config(names, ttl, SystemTime::now)?;
        let (snapshot, published) = Snapshot::new();
        let listener = listen(config.listen)?;
        Ok(Self {
            listener,
            webhook: None,
            tls,
            trust,
            admission: Arc::new(admission),
            source,
            collection,
            snapshot,
            published,
            candidate,
            first,
            max_ttl: config.cert_ttl,
            companion: config.companion,
            gateways: client
                .as_ref()
                .and_then(|_| Some((template(&config)?, config.gateway_image.clone()))),
            root_namespace: config.root_namespace,
            accounts: config
                .token_reviews
                .map_or_else(Vec::new, |reviews| reviews.accounts),
            cluster: client.map(ClusterPods),
        })
    }

    /// Listens for the API server's questions, too (`admission.k8s.io`, path `/validate`). A
    /// companion does not: what is in force is for the other control plane to say.
    pub async fn with_webhook(mut self, listen: SocketAddr) -> Result<Self, ControlError> {
        if self.companion {
            return Ok(self);
        }
        self.webhook = Some(Webhook::bind(listen)?);
        Ok(self)
    }

    /// The address the webhook listens on, where there is one.
    pub fn webhook_addr(&self) -> Option<SocketAddr> {
        self.webhook.as_ref()?.local_addr().ok()
    }

    /// The address listened on.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the drain begins. `show` is given the status handle at once; nodes are served
    /// when the whole state is known, which [`Status::is_serving`] tells.
    pub async fn serve_with(self, mut drain: drain::Watcher, show: impl FnOnce(Status)) {
        let counters = Arc::new(Counters::default());
        let attached = AttachedNodes::default();
        let (placement, placed) = watch::channel(Placement::default());
        let node_service = NodeService {
            authenticate: Arc::clone(&self.admission),
            placement: placed.clone(),
            // The roots of workloads are another's in a companion; its own vouch for it alone.
            trust: (!self.companion).then(|| self.trust.bundle()),
            attached: attached.clone(),
            drain: drain.clone(),
        };
        let discovery = Discovery::new(
            Arc::clone(&self.admission),
            Arc::new(self.published),
            drain.clone(),
        );
        let (candidate, leads) = self.candidate.unzip();
        let reviews = conditions::Shown::default();
        let streams = discovery.nodes();
        let status = Status::new(Parts {
            collection: Arc::clone(&self.collection),
            admission: Arc::clone(&self.admission),
            nodes: streams.clone(),
            counters: Arc::clone(&counters),
            progress: self.source.progress(),
            attached: attached.clone(),
            leads: leads.clone(),
            trust: self.trust.shown(),
            conditions: reviews.clone(),
            companion: self.companion,
        });
        // Without others this one leads.
        let leads = leads.unwrap_or_else(|| watch::channel(true).1);
        let certificates = CertificateService {
            authority: self.trust.authority(),
            authenticate: self.admission,
            collection: Arc::clone(&self.collection),
            max_ttl: self.max_ttl,
            limits: NodeLimits::default(),
            counters,
        };
        let (told, problems) = watch::channel(Arc::from([]));
        let told_gateways = problems.clone();
        let mut changes = Changes {
            collection: self.collection,
            snapshot: self.snapshot,
            status: status.clone(),
            problems: Vec::new(),
            told,
            placement,
            attached: attached.clone(),
            streams: streams.clone(),
        };
        show(status.clone());
        let client = self.cluster.as_ref().map(|pods| pods.0.clone());
        let noting = self.cluster.clone().filter(|_| !self.companion);
        let noting = noting.map(|pods| {
            let noting = Noting::new(pods, streams);
            tokio::spawn(noting.run(drain.clone()))
        });
        let annotating = self.cluster.map(|pods| {
            let annotator = Annotator::new(pods, placed, attached.clone());
            tokio::spawn(annotator.run(drain.clone()))
        });
        let (sender, mut batches) = mpsc::channel(1);
        let watching = tokio::spawn(self.source.run(sender, drain.clone()));
        let first = match self.first {
            Some(first) => Some(first),
            None => tokio::select! {
                () = drain.signalled() => None,
                first = batches.recv() => first,
            },
        };
        // Without one the drain has begun, and nobody is told a state that is none.
        let Some(first) = first else {
            let _ = watching.await;
            return;
        };
        changes.take(vec![first]);
        let following = tokio::spawn(changes.follow(batches, drain.clone()));
        // Who does not know the mesh has nothing to write.
        let standing = candidate.map(|candidate| tokio::spawn(candidate.run(drain.clone())));
        let acknowledgements = if self.companion {
            // Agents read its roots from a file at every connect, and are not told of them.
            Acknowledgements::of_nobody()
        } else {
            Acknowledgements {
                attached,
                ledger: client
                    .clone()
                    .map(|client| Ledger::new(client, &self.root_namespace)),
                nodes: agents_nodes(status.collection(), self.accounts),
            }
        };
        // Of a companion's mesh the other control plane says what is in force.
        let conditioning = client.clone().filter(|_| !self.companion);
        let conditioning = conditioning.map(|client| {
            let conditions = Conditions {
                client,
                collection: status.collection(),
                shown: reviews,
            };
            let cue = Cue {
                told: problems,
                leads: leads.clone(),
            };
            tokio::spawn(conditions.run(cue, drain.clone()))
        });
        let turn = Turn {
            bundle: self.trust.bundle(),
            leads: leads.clone(),
        };
        let making = client.clone().zip(self.gateways);
        let making = making.filter(|_| !self.companion);
        let making = making.map(|(client, (template, image))| {
            let infrastructure = Infrastructure {
                client,
                collection: status.collection(),
                namespace: self.root_namespace.clone(),
                image: image.map(Image::named),
                template,
            };
            let cue = Cue {
                told: told_gateways,
                leads: leads.clone(),
            };
            tokio::spawn(infrastructure.run(cue, drain.clone()))
        });
        let registering = client.clone().filter(|_| self.webhook.is_some());
        let registering = registering.map(|client| {
            let registration = Registration { client };
            tokio::spawn(publish(registration, turn.clone(), drain.clone()))
        });
        let asked = self.webhook.map(|webhook| {
            let (tls, collection) = (Arc::clone(&self.tls), status.collection());
            let drain = drain.clone();
            tokio::spawn(async move { webhook.run(&tls, collection, drain).await })
        });
        let mapping = client.map(|client| {
            let maps = ConfigMaps {
                client,
                collection: status.collection(),
                only: self.companion.then(|| self.root_namespace.as_str().into()),
            };
            tokio::spawn(publish(maps, turn, drain.clone()))
        });
        let keeping = tokio::spawn(self.trust.run(acknowledgements, leads, drain.clone()));
        let services = Services {
            discovery: (!self.companion).then(|| discovery.into_service()),
            certificates: (!self.companion).then(|| certificates.into_service()),
            nodes: node_service.into_service(),
        };
        if let Ok(address) = self.listener.local_addr() {
            info!(%address, companion = self.companion, "control plane serves");
        }
        status.serves();
        serve::serve(self.listener, self.tls, services, drain).await;
        // All end with the drain by themselves.
        let _ = tokio::join!(watching, following, keeping);
        if let Some(mapping) = mapping {
            let _ = mapping.await;
        }
        for writing in [conditioning, making, registering, asked]
            .into_iter()
            .flatten()
        {
            let _ = writing.await;
        }
        for noting in [annotating, noting].into_iter().flatten() {
            let _ = noting.await;
        }
        if let Some(standing) = standing {
            let _ = standing.await;
        }
    }

    /// Serves until the drain begins.
    pub async fn serve(self, drain: drain::Watcher) {
        self.serve_with(drain, |_| {}).await;
    }
}

/// The nodes that an agent runs on.
fn agents_nodes(
    collection: Arc<RwLock<Collection>>,
    accounts: Vec<NodeAccount>,
) -> Box<dyn Fn() -> BTreeSet<Arc<str>> + Send + Sync> {
    Box::new(move || {
        let collection = collection.read().unwrap_or_else(PoisonError::into_inner);
        let accounts = accounts.iter();
        collection.nodes_of(accounts.map(|account| (account.namespace(), account.name())))
    })
}

/// What gateways of this control plane are made from.
fn template(config: &Config) -> Option<Template> {
    let name = config.serving_names.first()?;
    let port = config.listen.port();
    let audiences = config
        .token_reviews
        .as_ref()
        .map(|reviews| &reviews.audiences);
    Some(Template {
        control: match name.parse::<std::net::Ipv6Addr>() {
            Ok(address) => format!("https://[{address}]:{port}"),
            Err(_) => format!("https://{name}:{port}"),
        },
        audience: audiences?.first()?.clone(),
        trust_domain: config.trust_domain.clone(),
        cluster_id: config.cluster_id.clone(),
    })
}

/// Every way that is configured; there must be one.
fn open_admission(
    config: &Config,
    client: Option<&kube::Client>,
    collection: &Arc<RwLock<Collection>>,
) -> Result<Admission, ControlError> {
    let tokens = match &config.node_tokens {
        Some(file) => Some(NodeTokens::open(file).map_err(at(file))?),
        None => None,
    };
    let reviews = match (&config.token_reviews, client) {
        (Some(settings), Some(client)) => {
            let collection = Arc::clone(collection);
            let is_gateway = move |key: &GatewayKey| {
                let collection = collection.read().unwrap_or_else(PoisonError::into_inner);
                collection.has_gateway(key)
            };
            Some(Reviews::new(client.clone(), settings.clone(), is_gateway))
        }
        (Some(_), None) => {
            let message = "service account tokens can be reviewed by a cluster only";
            return Err(ControlError::Config(message.to_owned()));
        }
        (None, _) => None,
    };
    if tokens.is_none() && reviews.is_none() {
        let message = "no node can be admitted: neither a node token file nor token reviews";
        return Err(ControlError::Config(message.to_owned()));
    }
    Ok(Admission { tokens, reviews })
}

/// The issuer: of the files given, of the cluster, or of the state directory.
async fn open_trust(
    config: &Config,
    client: Option<&kube::Client>,
) -> Result<Keeper, ControlError> {
    let domain = &config.trust_domain;
    let file = config.state_dir.join("root-cert.pem");
    // In a cluster the roots reach nodes by ConfigMaps, and nothing is kept here.
    let (root_file, (origin, offer)) = match (&config.authority, client) {
        (Some(files), _) => {
            let opened = Origin::files(files.clone(), &file)?;
            (Some(file), opened)
        }
        (None, Some(client)) => {
            let client = client.clone();
            let opened = Origin::secret(client, &config.root_namespace, domain).await;
            (None, opened)
        }
        (None, None) => (Some(file), Origin::kept(&config.state_dir, domain)?),
    };
    let terms = Terms {
        max_ttl: config.cert_ttl,
        overlap: config.root_overlap,
    };
    let keeper = Keeper::new(origin, offer, terms, domain, root_file)?;
    match &config.revocation_lists {
        Some(file) => keeper.with_crl(file.clone()),
        None => Ok(keeper),
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> ControlError {
    let path = path.to_owned();
    move |source| ControlError::File { path, source }
}
