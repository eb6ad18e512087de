//! `culvert gateway`: one Gateway object, served. Follows the control plane, compiles what it is
//! told and gives it to the workers; everything but requests is on the control runtime or the
//! admin thread.

mod backends;
mod in_force;
mod log;
mod routes;
mod spans;
mod trials;
mod view;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_gateway::traffic::Policies;
use agent_gateway::tuning::Tuning;
use agent_gateway::{
    Follower, Gateway, Mesh, Outcomes, Place, Records, Told, Uncounted, bind, keys,
};
use agent_identity::{Certificates, GrpcCaClient, GrpcCaConfig};
use agent_model::Workload;
use agent_net::drain::{self, Watcher};
use agent_net::lookup::Lookup;
use agent_net::socket::listen_on;
use agent_telemetry::{Collector, Limits, Metrics, Spans};
use agent_xds::client::{self, Means};
use agent_xds::{ClientConfig, ClientStatus, NodeFacts};
use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::admin;
use crate::config::GatewayConfig;
use crate::listen::{Listeners, Serving, metrics_route, readiness_route};
use crate::readiness::{Pending, Readiness};
use crate::shutdown::Signals;
use in_force::InForce;
use log::Observer;
use routes::RoutesView;
use trials::Trials;
use view::GatewayView;

/// Time between two tries for a port that cannot be had.
const RETRY: Duration = Duration::from_secs(1);
/// Lifetime asked for; the certificate service may give less.
const CERTIFICATE_TTL: Duration = Duration::from_secs(24 * 3600);
/// Time that spans have to reach their collector at the end.
const SPANS_DRAIN: Duration = Duration::from_secs(1);
/// Time the control runtime's tasks have to end after the requests.
const CONTROL_DRAIN: Duration = Duration::from_millis(100);

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(config: GatewayConfig) -> anyhow::Result<()> {
    let logging = agent_telemetry::init(&config.log.filter, config.log.format)?;
    crate::secrecy::keep();
    let control = crate::control_runtime(1)?;
    let mut signals = control.block_on(async { Signals::catch() })?;
    let (drain, draining) = drain::channel();
    let metrics = Metrics::new(crate::VERSION, Limits::default(), Instant::now());
    crate::sample_log_drops(&metrics, logging.dropped_lines());
    let readiness = Readiness::default();
    let pending = readiness.wait_for("configuration");

    let lookup = Arc::new(Lookup::new(config.resolv_conf.clone()));
    let asked = Arc::clone(&lookup);
    metrics.sample_with(move |samples| crate::sample_lookups(samples, &asked));
    let known = follow(&config, lookup, &control, &draining);
    let trials = Trials::shown_by(&metrics);
    let spans = spans(&config, &control)?;
    if let Some(spans) = spans.clone() {
        metrics.sample_with(move |samples| spans.sample(samples));
    }
    let records: Arc<dyn Records> = Arc::new(Observer {
        access: logging.access(),
        spans: spans.clone(),
        trials,
    });
    let settings = agent_gateway::Config {
        workers: config.workers,
        network: config.network.as_str().into(),
        tells_reasons: config.reason_header,
        tells_certified: config.client_cert_header,
        requests: Arc::clone(metrics.requests()),
        traced: config.tracing.as_ref().map(|tracing| tracing.share),
        own: Some(Arc::new(own_workload(&config))),
        ..agent_gateway::Config::default()
    };
    control.spawn(keys::run(
        settings.keys.clone(),
        keys::Limits {
            loopback: config.jwks_loopback,
            tls: keys::system_tls(),
            ..keys::Limits::default()
        },
        draining.clone(),
    ));
    show_uncounted(&metrics, Arc::clone(&settings.uncounted));
    let mesh = mesh(&config, &control)?;
    let gateway = Gateway::start(&settings, &known.mesh, Some(&mesh), &records)?;
    let gateway = Arc::new(gateway);
    let (in_force, shown) = watch::channel(InForce::default());
    let view = GatewayView {
        key: config.gateway.clone(),
        sync: known.sync.clone(),
        in_force: shown.clone(),
        keys: settings.keys,
        gateway: Arc::clone(&gateway),
        requests: Arc::clone(metrics.requests()),
    };
    let routes = RoutesView {
        key: config.gateway.clone(),
        network: config.network.clone(),
        in_force: shown,
        mesh: known.mesh.clone(),
        requests: Arc::clone(metrics.requests()),
        talked: {
            let gateway = Arc::clone(&gateway);
            Box::new(move || gateway.backends())
        },
    };
    let _listeners = listen(&config, &metrics, &readiness, (view, routes))?;
    control.spawn(serve(
        Arc::clone(&gateway),
        config.listen_address,
        known,
        in_force,
        pending,
    ));
    drop(draining);
    tracing::info!(gateway = %config.gateway, workers = config.workers, version = crate::VERSION,
        "started");

    let signal = control.block_on(signals.next());
    tracing::info!(signal, deadline = ?config.drain_deadline, "draining");
    if !gateway.stop(config.drain_deadline) {
        tracing::warn!("requests outlived the drain deadline and were ended");
    }
    if let Some(spans) = spans {
        control.block_on(spans.flush(SPANS_DRAIN));
    }
    if !control.block_on(drain.drain(CONTROL_DRAIN)) {
        tracing::warn!("control tasks outlived the drain");
    }
    control.shutdown_timeout(CONTROL_DRAIN);
    Ok(())
}

/// Where spans go, if they go anywhere.
fn spans(config: &GatewayConfig, control: &Runtime) -> anyhow::Result<Option<Spans>> {
    let Some(tracing) = &config.tracing else {
        return Ok(None);
    };
    let collector = Collector {
        address: tracing.endpoint.clone(),
        root_cert: tracing.root_cert.clone(),
        resource: vec![
            ("service.name", config.gateway.name.to_string()),
            ("service.namespace", config.gateway.namespace.to_string()),
            ("service.version", crate::VERSION.to_owned()),
        ],
        version: crate::VERSION,
    };
    Ok(Some(Spans::start(&collector, control.handle())?))
}

/// What metrics call the gateway.
fn own_workload(config: &GatewayConfig) -> Workload {
    let GatewayConfig { gateway, .. } = config;
    Workload {
        namespace: Arc::clone(&gateway.namespace),
        workload_name: Arc::clone(&gateway.name),
        canonical_name: Arc::clone(&gateway.name),
        cluster_id: config.cluster_id.as_str().into(),
        ..Workload::default()
    }
}

/// Who the gateway is in the mesh; its certificate is asked for at once.
fn mesh(config: &GatewayConfig, control: &Runtime) -> anyhow::Result<Mesh> {
    let client = GrpcCaClient::new(GrpcCaConfig {
        address: config.ca_address.clone(),
        root_cert: config.root_cert.clone(),
        token_file: config.token_file.clone(),
        cluster_id: config.cluster_id.clone(),
    })?;
    let runtime = control.handle().clone();
    let certificates = Certificates::new(Arc::new(client), runtime, CERTIFICATE_TTL);
    certificates.prefetch([config.identity.clone()]);
    Ok(Mesh {
        certificates,
        identity: config.identity.clone(),
    })
}

/// Tells of requests that limits of all gateways did not count, as their Redis was gone.
fn show_uncounted(metrics: &Metrics, uncounted: Arc<Uncounted>) {
    metrics.sample_with(move |samples| {
        for (policy, Outcomes { passed, refused }) in uncounted.by_policy() {
            for (outcome, count) in [("pass", passed), ("refuse", refused)] {
                samples.counter(
                    "culvert_gateway_uncounted",
                    "Requests that a global rate limit did not count, as its Redis was gone",
                    &[("policy", &policy.to_string()), ("outcome", outcome)],
                    count,
                );
            }
        }
    });
}

/// What the control plane says.
struct Known {
    mesh: agent_state::Reader,
    told: watch::Receiver<Told>,
    sync: watch::Receiver<ClientStatus>,
}

/// Starts following the control plane until the drain begins.
fn follow(
    config: &GatewayConfig,
    lookup: Arc<Lookup>,
    control: &Runtime,
    draining: &Watcher,
) -> Known {
    let (writer, mesh) = agent_state::channel();
    let (follower, told) = Follower::new(writer);
    control.spawn(follower.names().follow(lookup, draining.clone()));
    let (status, sync) = watch::channel(ClientStatus::default());
    let GatewayConfig { gateway, .. } = config;
    let client = ClientConfig {
        address: config.xds_address.clone(),
        root_cert: config.root_cert.clone(),
        token_file: config.token_file.clone(),
        node: NodeFacts {
            pod_namespace: gateway.namespace.to_string(),
            ..NodeFacts::new(&gateway.name, &config.cluster_id, &config.network)
        },
    };
    let means = Means {
        of_gateway: true,
        ..Means::default()
    };
    control.spawn(client::run_with(
        client,
        means,
        follower,
        status,
        draining.clone(),
    ));
    Known { mesh, told, sync }
}

/// Serves what the gateway is told, from the first moment that is the whole of it.
async fn serve(
    gateway: Arc<Gateway>,
    address: IpAddr,
    mut known: Known,
    in_force: watch::Sender<InForce>,
    pending: Pending,
) {
    if known.sync.wait_for(|status| status.synced).await.is_err() {
        return;
    }
    loop {
        let told = known.told.borrow_and_update().clone();
        let now = apply(&gateway, address, &told);
        match (&told.gateway, now.ports_missing.first()) {
            (None, _) => pending.pending("the control plane does not know this gateway"),
            (_, Some(problem)) => pending.pending(problem.clone()),
            _ => pending.done(),
        }
        let is_missing = !now.ports_missing.is_empty();
        in_force.send_replace(now);
        tokio::select! {
            changed = known.told.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(RETRY), if is_missing => {}
        }
    }
}

fn apply(gateway: &Gateway, address: IpAddr, told: &Told) -> InForce {
    let began = Instant::now();
    let (plan, faults) = told.plan(Some(&gateway.plan()));
    for fault in &faults {
        tracing::warn!(subject = %fault.subject, problem = fault.what,
            "cannot be used: a listener is not served, requests of a rule get 500");
    }
    if let Some(object) = &told.gateway {
        let policies = Policies::new(told.traffic.values());
        gateway.tune(Tuning::told(policies, &object.key));
    }
    let ports: Vec<Place> = plan.places().collect();
    let errors = gateway.apply(plan, |place| bind(address, place));
    for error in &errors {
        tracing::warn!(error = chain(error), "port not served");
    }
    let took = began.elapsed();
    tracing::info!(
        routes = told.routes.len(),
        ?ports,
        faults = faults.len(),
        ?took,
        "configuration in force"
    );
    InForce {
        listeners: (told.gateway.as_ref()).map_or_else(Vec::new, |one| one.listeners.clone()),
        routes: told.routes.clone(),
        ports,
        faults,
        ports_missing: errors.iter().map(|error| chain(error)).collect(),
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

fn listen(
    config: &GatewayConfig,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
    (view, routes): (GatewayView, RoutesView),
) -> anyhow::Result<Serving> {
    let bound = |address| listen_on(address).with_context(|| format!("listening on {address}"));
    let metrics = metrics_route(Arc::clone(metrics));
    let status = admin::answer_route("/status", move || view.json());
    let routes = admin::answer_route("/routes", move || routes.json());
    Listeners::default()
        .tcp(bound(config.metrics_listen)?, &[Arc::clone(&metrics)])?
        .tcp(
            bound(config.ready_listen)?,
            &[readiness_route(readiness.clone())],
        )?
        .unix(&config.admin_socket, &[status, routes, metrics])?
        .start()
}
