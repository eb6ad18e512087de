//! `culvert node`: the agent of one node. Wires the rooms and owns their life:
//!
//! kernel side -> control-plane client -> certificates -> proxy workers -> enrolment, each on the
//! threads it may use: the data path on its workers, everything else on the control runtime or
//! the admin thread.

mod attach;
mod follow;
mod installer;
mod samples;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_datapath::{Datapath, DatapathError, PodSink, pauses, serve_enrolment};
use agent_identity::{Certificates, GrpcCaClient, GrpcCaConfig};
use agent_net::drain::{self, Watcher};
use agent_net::private::PrivateListener;
use agent_proxy::{Mesh, Workers};
use agent_telemetry::{Limits, Metrics};
use agent_xds::{ClientConfig, ClientStatus, NodeFacts};
use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin;
use crate::config::{KernelConfig, NodeConfig, ReleaseConfig};
use crate::listen::{Listeners, Serving, metrics_route, readiness_route};
use crate::readiness::Readiness;
use crate::shutdown::Signals;
use installer::Installer;
use view::NodeView;

/// Version of the program.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Lifetime asked for; the certificate service may give less.
const CERTIFICATE_TTL: Duration = Duration::from_secs(24 * 3600);
/// Connections the agent carries for one pod.
const CONNECTIONS_PER_POD: u32 = 4096;
/// TLS handshakes one worker serves for one pod at a time.
const HANDSHAKES_PER_POD: usize = 64;
/// Time the control runtime's tasks have to end after the data path has drained.
const CONTROL_DRAIN: Duration = Duration::from_secs(2);

/// Detaches everything and removes the pins: pods stay connected, un-meshed. Then takes the CNI
/// plugin out of the runtime's chain, where it was installed; an agent that still runs does not put
/// it back, its hooks being gone. The program goes last, when no chain names it any more.
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
    }
    released
}

/// Runs the agent until SIGTERM or SIGINT.
pub(crate) fn run(config: NodeConfig) -> anyhow::Result<()> {
    let logging = agent_telemetry::init(&config.log.filter, config.log.format)?;
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("control runtime")?;
    let mut signals = control.block_on(async { Signals::catch() })?;
    let (drain, draining) = drain::channel();

    let mut agent = Agent::start(&config, &control, &draining, logging.dropped_lines())?;
    drop(draining);
    tracing::info!(node = %config.node_name, workers = config.workers, version = VERSION, "started");

    let ended = control.block_on(async {
        tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, deadline = ?config.drain_deadline, "draining");
                Ok(())
            }
            // Without enrolment no pod of this node starts: who restarts the agent must see it end.
            ended = &mut agent.enrolment => Err(match ended {
                Ok(Err(error)) => anyhow::Error::new(error).context("enrolment ended"),
                _ => anyhow::anyhow!("enrolment ended"),
            }),
        }
    });
    if !agent.workers.stop(config.drain_deadline) {
        tracing::warn!("connections outlived the drain deadline and were closed");
    }
    if !control.block_on(drain.drain(CONTROL_DRAIN)) {
        tracing::warn!("control tasks outlived the drain");
    }
    control.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// The running agent.
struct Agent {
    workers: Arc<Workers>,
    /// Ends before the drain only by an error.
    enrolment: JoinHandle<Result<(), DatapathError>>,
    _installer: Option<Installer>,
    _listeners: Serving,
}

impl Agent {
    fn start(
        config: &NodeConfig,
        control: &Runtime,
        draining: &Watcher,
        dropped_lines: Arc<std::sync::atomic::AtomicU64>,
    ) -> anyhow::Result<Self> {
        let started = Instant::now();
        let metrics = Metrics::new(VERSION, Limits::default(), started);
        let readiness = Readiness::default();

        let datapath = Datapath::load(&(&config.kernel).into())
            .context("cannot load the kernel side; nothing was left attached")?;
        let datapath = Arc::new(datapath);

        let (writer, reader) = agent_state::channel();
        let (status, sync) = watch::channel(ClientStatus::default());
        control.spawn(agent_xds::client::run(
            xds_config(config),
            writer,
            status,
            draining.clone(),
        ));
        let synced = follow::synced(control, sync.clone(), readiness.wait_for("state manager"));

        let certificates = certificates(config, control)?;
        control.spawn(follow::certificates(
            reader.clone(),
            certificates.clone(),
            config.node_name.clone(),
            draining.clone(),
        ));

        let mesh = Mesh {
            state: reader.clone(),
            synced,
            certificates: certificates.clone(),
            kernel: Arc::<Datapath>::clone(&datapath),
            metrics: Arc::clone(&metrics),
            config: agent_proxy::Config {
                network: config.network.as_str().into(),
                workers: config.workers,
                connections_per_pod: CONNECTIONS_PER_POD,
                handshakes_per_pod: HANDSHAKES_PER_POD,
            },
        };
        let workers = Arc::new(Workers::start(mesh)?);
        control.spawn(agent_proxy::watch_older(
            Arc::clone(&workers),
            draining.clone(),
        ));

        let socket = PrivateListener::bind(&config.cni_socket)
            .with_context(|| format!("listening on {}", config.cni_socket.display()))?;
        let (_, pauses) = pauses();
        let pods = readiness.wait_for("pods");
        let follow = attach::attach(control, config, &certificates, pods, draining);
        let enrolment = serve_enrolment(
            Arc::clone(&datapath),
            Arc::<Workers>::clone(&workers) as Arc<dyn PodSink>,
            socket,
            pauses,
            follow,
            draining.clone(),
        );
        let enrolment = follow::enrolment(
            control,
            enrolment,
            Arc::clone(&datapath),
            readiness.wait_for("proxy"),
        );

        crate::sample_log_drops(&metrics, Arc::clone(&dropped_lines));
        let runtime = control.metrics();
        samples::register(
            &metrics,
            &datapath,
            &workers,
            &certificates,
            sync.clone(),
            runtime,
        );
        let installer = installer(config, &datapath)?;
        let view = Arc::new(NodeView {
            started,
            node: config.node_name.clone(),
            network: config.network.clone(),
            xds_address: config.xds_address.clone(),
            readiness: readiness.clone(),
            state: reader,
            sync,
            certificates,
            datapath,
            workers: Arc::clone(&workers),
            metrics: Arc::clone(&metrics),
            dropped_lines,
            installation: installer.as_ref().map(Installer::problem),
        });
        let admin = admin::routes(view, Arc::clone(&metrics));
        let listeners = Listeners::default()
            .tcp(config.metrics_listen, &[metrics_route(metrics)])?
            .tcp(config.ready_listen, &[readiness_route(readiness)])?
            .unix(&config.admin_socket, &admin)?
            .start()?;
        Ok(Self {
            workers,
            enrolment,
            _installer: installer,
            _listeners: listeners,
        })
    }
}

/// Installs the CNI plugin where that is asked for, from now on that somebody answers it. An agent
/// whose hooks were taken away by `--release` does not.
fn installer(config: &NodeConfig, datapath: &Arc<Datapath>) -> anyhow::Result<Option<Installer>> {
    let Some(installation) = config.installation.clone() else {
        return Ok(None);
    };
    let datapath = Arc::clone(datapath);
    let installer = Installer::start(installation, move || datapath.attached());
    Ok(Some(installer.context("starting the installer")?))
}

fn xds_config(config: &NodeConfig) -> ClientConfig {
    ClientConfig {
        address: config.xds_address.clone(),
        root_cert: config.root_cert.clone(),
        token_file: config.token_file.clone(),
        node: NodeFacts::new(&config.node_name, &config.cluster_id, &config.network),
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
            debug: config.debug,
        }
    }
}
