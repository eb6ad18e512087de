//! What a scrape reads from the rooms.

use std::sync::{Arc, Weak};

use agent_datapath::Datapath;
use agent_identity::Certificates;
use agent_proxy::Workers;
use agent_proxy::dns::Outcome;
use agent_telemetry::{Metrics, Samples};
use agent_xds::ClientStatus;
use tokio::runtime::RuntimeMetrics;
use tokio::sync::watch;

/// Registers everything that is read when somebody scrapes.
pub(super) fn register(
    metrics: &Arc<Metrics>,
    datapath: &Arc<Datapath>,
    workers: &Arc<Workers>,
    certificates: &Certificates,
    sync: watch::Receiver<ClientStatus>,
    control: RuntimeMetrics,
) {
    metrics.sample_with(runtimes(&control, workers.runtimes()));
    let datapath = Arc::clone(datapath);
    metrics.sample_with(move |samples| kernel(samples, &datapath));
    // The workers hold the metrics.
    let workers = Arc::downgrade(workers);
    metrics.sample_with(move |samples| proxy(samples, &workers));
    let certificates = certificates.clone();
    metrics.sample_with(move |samples| identities(samples, &certificates));
    metrics.sample_with(move |samples| control_plane(samples, &sync.borrow()));
}

/// The workers under their index, and the control runtime under its name.
fn runtimes(
    control: &RuntimeMetrics,
    workers: Vec<RuntimeMetrics>,
) -> impl Fn(&mut Samples) + Send + Sync + use<> {
    let workers = workers.into_iter().enumerate();
    let runtimes: Vec<_> = workers
        .map(|(index, worker)| (index.to_string(), worker))
        .chain([("control".to_owned(), control.clone())])
        .collect();
    move |samples| tokio(samples, &runtimes)
}

/// What tokio tells of its runtimes without its unstable interface.
fn tokio(samples: &mut Samples, runtimes: &[(String, RuntimeMetrics)]) {
    let sum = |of: fn(&RuntimeMetrics) -> usize| {
        runtimes.iter().map(|(_, one)| of(one)).sum::<usize>() as f64
    };
    let workers = sum(RuntimeMetrics::num_workers);
    let queued = sum(RuntimeMetrics::global_queue_depth);
    let alive = sum(RuntimeMetrics::num_alive_tasks);
    samples.gauge("tokio_num_workers", "Threads of the runtimes", &[], workers);
    let help = "Tasks that wait to be run and belong to no worker yet";
    samples.gauge("tokio_global_queue_depth", help, &[], queued);
    samples.gauge("tokio_num_alive_tasks", "Tasks alive", &[], alive);
    for (name, runtime) in runtimes {
        let labels = [("worker", name.as_str())];
        let workers = || 0..runtime.num_workers();
        let busy = workers().map(|one| runtime.worker_total_busy_duration(one));
        let parks: u64 = workers().map(|one| runtime.worker_park_count(one)).sum();
        let both: u64 = workers()
            .map(|one| runtime.worker_park_unpark_count(one))
            .sum();
        samples.seconds(
            "tokio_worker_total_busy_duration_seconds",
            "Time spent with tasks",
            &labels,
            busy.sum(),
        );
        let help = "Times a worker has gone to sleep";
        samples.gauge("tokio_worker_park_count", help, &labels, parks as f64);
        let help = "Times a worker has gone to sleep or woken up";
        samples.gauge("tokio_worker_park_unpark_count", help, &labels, both as f64);
    }
}

fn kernel(samples: &mut Samples, datapath: &Datapath) {
    let waiting = datapath.waiting().len() as f64;
    let help = "Pods captured and not served yet";
    samples.gauge("istio_pending_proxy_count", help, &[], waiting);
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
    if let Some(workers) = workers {
        let (started, stopped) = (workers.pods_started(), workers.pods_stopped());
        let help = "Pods taken into service since start";
        samples.counter("istio_proxies_started", help, &[], started);
        let help = "Pods taken out of service since start";
        samples.counter("istio_proxies_stopped", help, &[], stopped);
        for outcome in Outcome::ALL {
            let help = "Questions of pods for names over DNS, by what became of them";
            let labels = [("outcome", outcome.as_str())];
            let count = workers.names().get(outcome);
            samples.counter("culvert_dns_questions", help, &labels, count);
        }
        crate::sample_lookups(samples, workers.lookup());
        let stats = workers.tunnels();
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
    samples.gauge(
        "culvert_trust_bundle_problems",
        "Roots of the control plane's bundle that are left out, or that none of it could be used",
        &[],
        certificates.trust_problems().len() as f64,
    );
    let trusted = certificates.trusted();
    samples.gauge(
        "culvert_trusted_roots",
        "Roots that peers' certificates may come from, as the control plane told",
        &[],
        trusted.map_or(0, |bundle| bundle.roots().len()) as f64,
    );
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
    let from = status.restored.or(status.last_update);
    if let Some(age) = from.and_then(|time| time.elapsed().ok()) {
        samples.gauge(
            "culvert_xds_state_age_seconds",
            "Time since the control plane said something; from disk: since it was written",
            &[],
            age.as_secs_f64(),
        );
    }
    for (url, received) in &status.received {
        let labels = [("url", *url)];
        let help = "Messages from the control plane";
        samples.counter("istio_xds_message", help, &labels, received.messages);
        let help = "Size of the messages from the control plane, in bytes";
        samples.counter("istio_xds_message_bytes", help, &labels, received.bytes);
    }
    samples.counter(
        "istio_xds_connection_terminations",
        "Streams to the control plane that ended",
        &[("reason", "Error")],
        status.failures,
    );
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use agent_telemetry::Limits;
    use agent_xds::Received;

    use super::*;

    fn scrape(sampler: impl Fn(&mut Samples) + Send + Sync + 'static) -> String {
        let metrics = Metrics::new("1", Limits::default(), Instant::now());
        metrics.sample_with(sampler);
        metrics.encode(Instant::now())
    }

    #[test]
    fn runtimes_are_told_apart_and_summed() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1).build().unwrap()
        };
        let (control, worker) = (runtime(), runtime());
        worker.block_on(async { tokio::spawn(async {}).await.unwrap() });
        let text = scrape(runtimes(&control.metrics(), vec![worker.metrics()]));
        for row in [
            "tokio_num_workers 2",
            "tokio_num_alive_tasks ",
            "tokio_global_queue_depth 0",
            "tokio_worker_park_count{worker=\"0\"} ",
            "tokio_worker_park_unpark_count{worker=\"0\"} ",
            "tokio_worker_total_busy_duration_seconds_total{worker=\"control\"} ",
        ] {
            assert!(text.contains(row), "{row} in\n{text}");
        }
    }

    #[test]
    fn messages_of_the_control_plane_are_counted_by_type() {
        let received = Received {
            messages: 2,
            bytes: 300,
        };
        let status = ClientStatus {
            received: [("some.Type", received)].into(),
            restored: Some(std::time::SystemTime::UNIX_EPOCH),
            ..ClientStatus::default()
        };
        let text = scrape(move |samples| control_plane(samples, &status));
        for row in [
            "istio_xds_message_total{url=\"some.Type\"} 2",
            "istio_xds_message_bytes_total{url=\"some.Type\"} 300",
            "culvert_xds_state_age_seconds 1",
        ] {
            assert!(text.contains(row), "{row} in\n{text}");
        }
    }
}
