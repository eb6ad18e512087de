//! What a scrape reads from the rooms.

use std::sync::{Arc, Weak};

use agent_datapath::Datapath;
use agent_identity::Certificates;
use agent_proxy::Workers;
use agent_telemetry::{Metrics, Samples};
use agent_xds::ClientStatus;
use tokio::sync::watch;

/// Registers everything that is read when somebody scrapes.
pub(super) fn register(
    metrics: &Arc<Metrics>,
    datapath: &Arc<Datapath>,
    workers: &Arc<Workers>,
    certificates: &Certificates,
    sync: watch::Receiver<ClientStatus>,
) {
    let datapath = Arc::clone(datapath);
    metrics.sample_with(move |samples| kernel(samples, &datapath));
    // The workers hold the metrics.
    let workers = Arc::downgrade(workers);
    metrics.sample_with(move |samples| proxy(samples, &workers));
    let certificates = certificates.clone();
    metrics.sample_with(move |samples| identities(samples, &certificates));
    metrics.sample_with(move |samples| control_plane(samples, &sync.borrow()));
}

fn kernel(samples: &mut Samples, datapath: &Datapath) {
    let (verified, broken): (Vec<_>, Vec<_>) =
        datapath.pods().into_iter().partition(|pod| pod.verified);
    for (state, pods) in [("verified", verified.len()), ("unverified", broken.len())] {
        let help = "Enrolled pods, by whether capture was seen to work";
        samples.gauge(
            "culvert_enrolled_pods",
            help,
            &[("state", state)],
            pods as f64,
        );
    }
    let counters = datapath.counters();
    for (event, value) in [
        ("captured", counters.captured),
        ("no-address", counters.no_address),
        ("host-approved", counters.host_approved),
        ("insert-failed", counters.insert_failed),
        ("no-listener", counters.no_listener),
        ("to-hbone", counters.to_hbone),
        ("to-inbound", counters.to_inbound),
        ("to-outbound", counters.to_outbound),
        ("approved", counters.approved),
        ("client-shown", counters.client_shown),
    ] {
        let help = "Events in the kernel since its maps were made";
        samples.counter("culvert_kernel_events", help, &[("event", event)], value);
    }
}

fn proxy(samples: &mut Samples, workers: &Weak<Workers>) {
    let workers = workers.upgrade();
    let pods = workers.as_ref().map_or(0, |workers| workers.pods().len());
    samples.gauge("istio_active_proxy_count", "Pods served", &[], pods as f64);
    if let Some(stats) = workers.map(|workers| workers.tunnels()) {
        let (tunnels, streams) = (stats.tunnels as f64, stats.streams as f64);
        samples.gauge(
            "culvert_tunnels",
            "Pooled tunnels that are open",
            &[],
            tunnels,
        );
        samples.gauge(
            "culvert_tunnel_streams",
            "Streams in pooled tunnels",
            &[],
            streams,
        );
    }
    let tasks = agent_net::tasks::alive();
    samples.gauge("culvert_tasks", "Data-path tasks alive", &[], tasks as f64);
}

fn identities(samples: &mut Samples, certificates: &Certificates) {
    for row in certificates.status() {
        if let Some(not_after) = row.not_after {
            samples.gauge(
                "culvert_certificate_expiry_seconds",
                "Unix time at which a workload certificate expires",
                &[("identity", &row.identity.to_string())],
                not_after as f64,
            );
        }
    }
}

fn control_plane(samples: &mut Samples, status: &ClientStatus) {
    let connected = f64::from(u8::from(status.connected));
    samples.gauge(
        "culvert_xds_connected",
        "Whether a stream is open",
        &[],
        connected,
    );
    let help = "Messages from the control plane";
    samples.counter("culvert_xds_messages", help, &[], status.messages);
    samples.counter(
        "istio_xds_connection_terminations",
        "Streams to the control plane that ended",
        &[("reason", "Error")],
        status.failures,
    );
}
