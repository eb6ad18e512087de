//! `culvert node`: the agent of one node. Wires the rooms and owns their life:
//!
//! control-plane client -> certificates -> kernel side -> proxy workers -> enrolment, each on the
//! threads it may use: the data path on its workers, everything else on the control runtime or
//! the admin threads. An agent that finds another one running follows it (see
//! [`agent_proxy::handover`]): it takes the kernel side, pods and keys over from it, and is in turn
//! followed by the next.

mod attach;
mod discovery;
mod follow;
mod installer;
mod ports;
mod predecessor;
mod samples;
mod start;
mod view;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use agent_datapath::{Datapath, DatapathError, EnrolledPod, PodSink, pauses, serve_enrolment};
use agent_identity::{Certificates, GrpcCaClient, GrpcCaConfig};
use agent_model::NodeWishes;
use agent_net::Netns;
use agent_net::drain::{self, Watcher};
use agent_net::lookup::Lookup;
use agent_net::private::PrivateListener;
use agent_proxy::handover::{Estate, ListenerName};
use agent_proxy::{Mesh, Workers};
use agent_telemetry::{Limits, Metrics};
use agent_xds::{ClientConfig, ClientStatus, NodeFacts};
use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin;
use crate::config::{KernelConfig, NodeConfig, ReleaseConfig};
use crate::listen::{Listeners, Serving};
use crate::readiness::{Pending, Readiness};
use crate::shutdown::Signals;
use attach::{Attachment, Line};
use installer::Installer;
use ports::Ports;
use predecessor::{Predecessor, Retired};
use view::NodeView;

/// Version of the program.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Lifetime asked for; the certificate service may give less.
const CERTIFICATE_TTL: Duration = Duration::from_secs(24 * 3600);
/// Connections the agent carries for one pod.
const CONNECTIONS_PER_POD: u32 = 4096;
/// TLS handshakes one worker serves for one pod at a time.
const HANDSHAKES_PER_POD: usize = 64;
/// Time the control runtime's tasks have to end after the data path has drained, and once more for
/// what does not end by itself.
const CONTROL_DRAIN: Duration = Duration::from_millis(100);

/// Detaches everything and removes the pins: pods stay connected, un-meshed. Then takes the CNI
/// plugin out of the runtime's chain, where it was installed; an agent that still runs does not put
/// it back, its hooks being gone. The program goes when no chain names it any more, and what the agent
/// keeps on disk last: an agent that comes later asks the control plane for the pods.
pub(crate) fn release(config: &ReleaseConfig) -> anyhow::Result<()> {
    let released =
        Datapath::release(&(&config.kernel).into()).context("cannot release the kernel side");
    if released.is_ok() {
        println!("released: no pod of this node is captured any more");
    }
    if let Some(installation) = &config.installation {
        for file in installation.remove_entry()? {
            println!("released: {} no longer names culvert-cni", file.display());
        }
        installation.remove_program()?;
        Datapath::forget(&(&config.kernel).into()).context("cannot remove the list of pods")?;
        discovery::forget(&config.kernel.state_dir).context("cannot remove the saved mesh")?;
    }
    released
}

/// Runs the agent until SIGTERM or SIGINT, or until a successor has taken over.
pub(crate) fn run(config: NodeConfig) -> anyhow::Result<()> {
    let logging = agent_telemetry::init(&config.log.filter, config.log.format)?;
    crate::secrecy::keep();
    let control = crate::control_runtime(1)?;
    let mut signals = control.block_on(async { Signals::catch() })?;
    let (drain, draining) = drain::channel();

    let view = MeshView::watch(&config, &control, &draining)?;
    let ports = Ports::bind(&config, &view)?;
    let bring_up = |estate| BroughtUp::by(&config, &view, estate);
    let Some(brought) = start::start(&config, &view, &control, &mut signals, bring_up)? else {
        return Ok(());
    };
    let mut agent = Agent::start(
        &config,
        &control,
        &draining,
        (view, ports, brought),
        logging.dropped_lines(),
    )?;
    drop(draining);
    tracing::info!(node = %config.node_name, workers = config.workers, version = VERSION,
        generation = agent.generation, "started");

    let ended = control.block_on(async {
        tokio::select! {
            biased;
            () = agent.retired.wait() => {
                tracing::info!(deadline = ?config.drain_deadline, "a successor has taken over, draining");
                Ok(())
            }
            signal = signals.next() => {
                tracing::info!(signal, deadline = ?config.drain_deadline, "draining");
                Ok(())
            }
            // Without enrolment no pod of this node starts: who restarts the agent must see it end.
            ended = &mut agent.enrolment => match ended {
                // The successor's doing too.
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(anyhow::Error::new(error).context("enrolment ended")),
                Err(error) => Err(anyhow::Error::new(error).context("enrolment ended")),
            },
        }
    });
    agent
        .retired
        .leave(&agent.ports, &mut agent.admin, &mut agent.attachment);
    if !agent.workers.stop(config.drain_deadline) {
        tracing::warn!("connections outlived the drain deadline and were ended");
    }
    if !control.block_on(drain.drain(CONTROL_DRAIN)) {
        tracing::warn!("control tasks outlived the drain");
    }
    control.shutdown_timeout(CONTROL_DRAIN);
    ended
}

/// The mesh as this agent sees it before it serves anybody.
struct MeshView {
    started: Instant,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    /// What the agent waits for besides, named from the start: the readiness port answers already.
    kernel_side: Pending,
    proxy: Pending,
    pods: Pending,
    state: agent_state::Reader,
    sync: watch::Receiver<ClientStatus>,
    synced: watch::Receiver<bool>,
    certificates: Certificates,
}

impl MeshView {
    fn watch(config: &NodeConfig, control: &Runtime, draining: &Watcher) -> anyhow::Result<Self> {
        let started = Instant::now();
        let readiness = Readiness::default();
        let (status, sync) = watch::channel(ClientStatus::default());
        let state = discovery::follow(config, control, status, draining);
        let synced = follow::synced(control, sync.clone(), readiness.wait_for("state manager"));
        Ok(Self {
            started,
            metrics: Metrics::new(VERSION, Limits::default(), started),
            kernel_side: readiness.wait_for("kernel side"),
            proxy: readiness.wait_for("proxy"),
            pods: readiness.wait_for("pods"),
            readiness,
            state,
            sync,
            synced,
            certificates: certificates(config, control)?,
        })
    }
}

/// What serves the node's pods: made anew, or with what a predecessor handed over.
struct BroughtUp {
    datapath: Arc<Datapath>,
    workers: Arc<Workers>,
    enrolment: PrivateListener,
    handover: PrivateListener,
    /// Metrics and readiness of the predecessor.
    ports: BTreeMap<ListenerName, TcpListener>,
    /// Instance of the predecessor.
    followed: Option<String>,
    /// What the control plane wanted of the predecessor.
    wishes: Option<Arc<NodeWishes>>,
}

impl BroughtUp {
    /// Claims the kernel side and serves every pod of the estate that is what it should be; the
    /// others are enrolled again.
    fn by(config: &NodeConfig, view: &MeshView, estate: Option<Estate>) -> anyhow::Result<Self> {
        let mut estate = estate.unwrap_or_default();
        let datapath = Datapath::load(&(&config.kernel).into())
            .context("cannot load the kernel side; nothing was left attached")?;
        let datapath = Arc::new(datapath);
        view.certificates.take_over(estate.certificates);
        let workers = Arc::new(Workers::start(Mesh {
            state: view.state.clone(),
            synced: view.synced.clone(),
            certificates: view.certificates.clone(),
            kernel: Arc::<Datapath>::clone(&datapath),
            metrics: Arc::clone(&view.metrics),
            names: Arc::default(),
            lookup: Arc::new(Lookup::new(config.resolv_conf.clone())),
            config: agent_proxy::Config {
                network: config.network.as_str().into(),
                workers: config.workers,
                connections_per_pod: CONNECTIONS_PER_POD,
                handshakes_per_pod: HANDSHAKES_PER_POD,
                names: config.names.clone(),
            },
        })?);
        if let Some(wishes) = &estate.wishes {
            workers.heed(Arc::clone(wishes));
        }
        for pod in estate.pods {
            adopt(&datapath, &workers, pod);
        }
        let socket = &config.cni_socket;
        let enrolment = match estate.listeners.remove(&ListenerName::Enrolment) {
            Some(listener) => PrivateListener::inherit(listener, socket),
            None => PrivateListener::bind(socket),
        };
        let socket = &config.handover_socket;
        Ok(Self {
            datapath,
            workers,
            enrolment: enrolment
                .with_context(|| format!("listening on {}", config.cni_socket.display()))?,
            handover: PrivateListener::bind(socket)
                .with_context(|| format!("listening on {}", socket.display()))?,
            ports: estate
                .listeners
                .into_iter()
                .map(|(name, listener)| (name, TcpListener::from(listener)))
                .collect(),
            wishes: estate.wishes,
            followed: Some(estate.instance).filter(|instance| !instance.is_empty()),
        })
    }
}

/// A pod that cannot be taken over as it is stays captured and is enrolled again.
fn adopt(datapath: &Datapath, workers: &Workers, pod: EnrolledPod) {
    let container = pod.info.container_id.clone();
    let adopted = match datapath.adopt(pod) {
        Ok(pod) => pod,
        Err(error) => {
            tracing::warn!(container, %error, "pod not taken over");
            return;
        }
    };
    if let Err(error) = workers.add(adopted) {
        tracing::warn!(container, %error, "pod not taken over");
        datapath.unserved(&container, error.to_string());
    }
}

/// The running agent.
struct Agent {
    workers: Arc<Workers>,
    /// Ends before the drain only by an error, or because a successor has the socket.
    enrolment: JoinHandle<Result<(), DatapathError>>,
    retired: Retired,
    generation: u64,
    _installer: Option<Installer>,
    ports: Ports,
    admin: Option<Serving>,
    attachment: Option<Attachment>,
}

impl Agent {
    fn start(
        config: &NodeConfig,
        control: &Runtime,
        draining: &Watcher,
        (view, ports, brought): (MeshView, Ports, BroughtUp),
        dropped_lines: Arc<AtomicU64>,
    ) -> anyhow::Result<Self> {
        let BroughtUp {
            datapath,
            workers,
            enrolment,
            handover,
            ports: inherited,
            followed,
            wishes,
        } = brought;
        control.spawn(follow::certificates(
            view.state.clone(),
            view.certificates.clone(),
            config.node_name.clone(),
            draining.clone(),
        ));
        control.spawn(agent_proxy::watch_older(
            Arc::clone(&workers),
            draining.clone(),
        ));
        let line = Line {
            config,
            certificates: &view.certificates,
            datapath: &datapath,
            wishes,
            pending: view.pods,
        };
        let (attachment, follow) = attach::attach(control, line, draining);
        let wishes = follow.wishes.clone();
        control.spawn(follow::names(
            Arc::clone(&workers),
            attachment.wishes.clone(),
        ));
        let (pauses, requests) = pauses();
        let enrolment = serve_enrolment(
            Arc::clone(&datapath),
            Arc::<Workers>::clone(&workers) as Arc<dyn PodSink>,
            enrolment,
            requests,
            follow,
            draining.clone(),
        );
        let enrolment = follow::enrolment(control, enrolment, Arc::clone(&datapath), view.proxy);
        ports.watch(&workers);
        ports.inherit(inherited, config, control)?;
        let predecessor = Predecessor {
            runtime: control.handle().clone(),
            pauses,
            datapath: Arc::clone(&datapath),
            workers: Arc::clone(&workers),
            certificates: view.certificates.clone(),
            ports: ports.clone(),
            wishes,
            namespace: Netns::current()?.cookie(),
            instance: config.instance.clone(),
            followed,
        };
        let retired = predecessor.serve(
            handover,
            config.handover_socket.clone(),
            &view.readiness,
            draining.clone(),
        );

        crate::sample_log_drops(&view.metrics, Arc::clone(&dropped_lines));
        samples::register(
            &view.metrics,
            &datapath,
            &workers,
            &view.certificates,
            view.sync.clone(),
            control.metrics(),
        );
        let installer = installer(config, &datapath)?;
        let generation = datapath.generation();
        let metrics = Arc::clone(&view.metrics);
        let answers = Arc::new(NodeView {
            started: view.started,
            node: config.node_name.clone(),
            network: config.network.clone(),
            xds_address: config.xds_address.clone(),
            readiness: view.readiness,
            state: view.state,
            sync: view.sync,
            certificates: view.certificates,
            datapath,
            workers: Arc::clone(&workers),
            metrics: view.metrics,
            dropped_lines,
            installation: installer.as_ref().map(Installer::problem),
            reports: attachment.reports.clone(),
        });
        let admin = Listeners::default()
            .unix(&config.admin_socket, &admin::routes(answers, metrics))?
            .start()?;
        Ok(Self {
            workers,
            enrolment,
            retired,
            generation,
            _installer: installer,
            ports,
            admin: Some(admin),
            attachment: Some(attachment),
        })
    }
}

/// Installs the CNI plugin where that is asked for, from now on that somebody answers it. An agent
/// whose hooks were taken away by `--release`, or that has a successor, does not.
fn installer(config: &NodeConfig, datapath: &Arc<Datapath>) -> anyhow::Result<Option<Installer>> {
    let Some(installation) = config.installation.clone() else {
        return Ok(None);
    };
    let datapath = Arc::clone(datapath);
    let is_wanted = move || datapath.is_owner() && datapath.attached();
    let installer = Installer::start(installation, is_wanted);
    Ok(Some(installer.context("starting the installer")?))
}

fn xds_config(config: &NodeConfig) -> ClientConfig {
    ClientConfig {
        address: config.xds_address.clone(),
        root_cert: config.root_cert.clone(),
        token_file: config.token_file.clone(),
        node: NodeFacts {
            pod_namespace: config.pod_namespace.clone(),
            ..NodeFacts::new(&config.node_name, &config.cluster_id, &config.network)
        },
    }
}

fn certificates(config: &NodeConfig, control: &Runtime) -> anyhow::Result<Certificates> {
    let client = GrpcCaClient::new(GrpcCaConfig {
        address: config.ca_address.clone(),
        root_cert: config.root_cert.clone(),
        token_file: config.token_file.clone(),
        cluster_id: config.cluster_id.clone(),
    })?;
    Ok(Certificates::new(
        Arc::new(client),
        control.handle().clone(),
        CERTIFICATE_TTL,
    ))
}

impl From<&KernelConfig> for agent_datapath::Config {
    fn from(config: &KernelConfig) -> Self {
        Self {
            object: config.object.clone(),
            bpffs: config.bpffs.clone(),
            cgroup_root: config.cgroup_root.clone(),
            host_netns: config.host_netns.clone(),
            host_proc: config.host_proc.clone(),
            state_dir: config.state_dir.clone(),
            tables: &agent_datapath::TABLES,
            names: config.names,
            debug: config.debug,
        }
    }
}
