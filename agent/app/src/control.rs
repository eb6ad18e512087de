//! `culvert control`: the control plane and certificate authority.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use agent_control::{Control, Status};
use agent_net::drain;
use agent_net::socket::listen_on;
use agent_telemetry::{Limits, Metrics, Samples};
use anyhow::Context;
use serde_json::{Value, json};

use crate::admin;
use crate::config::ControlConfig;
use crate::listen::{Listeners, Serving, metrics_route, readiness_route};
use crate::readiness::Readiness;
use crate::shutdown::Signals;

/// Threads for translation, discovery streams and signing.
const THREADS: usize = 2;

/// The room's status, once it has one.
type Shown = Arc<Mutex<Option<Status>>>;

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(config: ControlConfig) -> anyhow::Result<()> {
    let logging = agent_telemetry::init(&config.log.filter, config.log.format)?;
    crate::secrecy::keep();
    let metrics = Metrics::new(crate::VERSION, Limits::default(), Instant::now());
    crate::sample_log_drops(&metrics, logging.dropped_lines());
    let readiness = Readiness::default();
    let shown = Shown::default();
    let _listeners = listen(&config, &metrics, &readiness, &shown)?;
    let runtime = crate::control_runtime(THREADS)?;
    runtime.block_on(serve(config, &readiness, shown))
}

async fn serve(config: ControlConfig, readiness: &Readiness, shown: Shown) -> anyhow::Result<()> {
    let serving = readiness.wait_for("control plane");
    let deadline = config.drain_deadline;
    let mut signals = Signals::catch().context("catching signals")?;
    let (drain, watcher) = drain::channel();
    // Takes as long as the issuer takes to be there.
    let control = tokio::select! {
        control = open(config) => control?,
        signal = signals.next() => {
            tracing::info!(target: "control", signal, "stopped before it could serve");
            return Ok(());
        }
    };
    let mut running = tokio::spawn(control.serve_with(watcher, move |status| {
        *shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(status.clone());
        tokio::spawn(async move {
            status.until_serving().await;
            serving.done();
        });
    }));
    let signal = tokio::select! {
        ended = &mut running => {
            ended.context("the control plane failed")?;
            anyhow::bail!("the control plane ended by itself");
        }
        signal = signals.next() => signal,
    };
    tracing::info!(target: "control", signal, "draining");
    if !drain.drain(deadline).await {
        tracing::warn!(target: "control", "the drain deadline passed");
        return Ok(());
    }
    running.await.context("the control plane failed")
}

async fn open(config: ControlConfig) -> Result<Control, agent_control::ControlError> {
    let webhook = config.webhook_listen;
    let control = Control::bind(settings(config)).await?;
    match webhook {
        Some(listen) => control.with_webhook(listen).await,
        None => Ok(control),
    }
}

fn settings(config: ControlConfig) -> agent_control::Config {
    agent_control::Config {
        source: config.source,
        companion: config.companion,
        listen: config.listen,
        node_tokens: config.node_tokens,
        token_reviews: config.token_reviews,
        state_dir: config.state_dir,
        authority: config.authority,
        revocation_lists: config.revocation_lists,
        trust_domain: config.trust_domain,
        cluster_id: config.cluster_id,
        cert_ttl: config.cert_ttl,
        root_overlap: config.root_overlap,
        serving_names: config.serving_names,
        root_namespace: config.root_namespace,
        gateway_image: config.gateway_image,
    }
}

fn listen(
    config: &ControlConfig,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
    shown: &Shown,
) -> anyhow::Result<Serving> {
    let sampled = Arc::clone(shown);
    metrics.sample_with(move |samples| sample(&status_json(&sampled), samples));
    let shown = Arc::clone(shown);
    let metrics = metrics_route(Arc::clone(metrics));
    let status = admin::answer_route("/status", move || status_json(&shown));
    let port = listen_on(config.metrics_listen)
        .with_context(|| format!("listening on {}", config.metrics_listen))?;
    Listeners::default()
        .tcp(
            port,
            &[Arc::clone(&metrics), readiness_route(readiness.clone())],
        )?
        .unix(&config.admin_socket, &[status, metrics])?
        .start()
}

/// The status with what `culvert status` tells the roles apart by.
fn status_json(shown: &Shown) -> Value {
    let status = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut json = status.map_or_else(|| json!({}), |status| status.json());
    json["schema"] = json!(admin::SCHEMA);
    json["role"] = json!("control");
    json["version"] = json!(crate::VERSION);
    json
}

fn sample(status: &Value, samples: &mut Samples) {
    let listed = |name: &str, left_out: &str| {
        let listed = status[name].as_array().map_or(0, Vec::len) as u64;
        (listed + status[left_out].as_u64().unwrap_or(0)) as f64
    };
    let problems = listed("problems", "problemsLeftOut");
    samples.gauge(
        "culvert_control_problems",
        "Manifests that are not in force",
        &[],
        problems,
    );
    let nodes = listed("nodes", "nodesLeftOut");
    samples.gauge(
        "culvert_control_nodes",
        "Nodes with an open stream",
        &[],
        nodes,
    );
    let source = &status["source"];
    if let Some(failing) = source["failingSeconds"].as_u64() {
        samples.gauge(
            "culvert_control_source_failing_seconds",
            "How long the API server could not be read; 0 while it can",
            &[],
            failing as f64,
        );
    }
    for kind in source["kinds"].as_array().into_iter().flatten() {
        let labels = [("kind", kind["kind"].as_str().unwrap_or_default())];
        samples.gauge(
            "culvert_control_source_objects",
            "Objects of the cluster in force",
            &labels,
            kind["objects"].as_u64().unwrap_or(0) as f64,
        );
    }
    for outcome in ["issued", "refused"] {
        samples.counter(
            "culvert_control_certificates",
            "Certificate requests answered",
            &[("outcome", outcome)],
            status["certificates"][outcome].as_u64().unwrap_or(0),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_form_is_valid_before_the_room_has_one() {
        let json = status_json(&Shown::default());
        assert_eq!(json["schema"], 1);
        assert_eq!(json["role"], "control");
    }

    #[test]
    fn metrics_follow_the_status() {
        let metrics = Metrics::new("test", Limits::default(), Instant::now());
        let status = json!({
            "problems": ["a"], "problemsLeftOut": 2, "nodes": [{}],
            "certificates": {"issued": 5, "refused": 1},
            "source": {"failingSeconds": 7, "kinds": [{"kind": "Pod", "objects": 9}]},
        });
        metrics.sample_with(move |samples| sample(&status, samples));
        let text = metrics.encode(Instant::now());
        for row in [
            "culvert_control_problems 3",
            "culvert_control_nodes 1",
            "culvert_control_source_failing_seconds 7",
            "culvert_control_source_objects{kind=\"Pod\"} 9",
            "culvert_control_certificates_total{outcome=\"issued\"} 5",
            "culvert_control_certificates_total{outcome=\"refused\"} 1",
        ] {
            assert!(text.lines().any(|line| line == row), "{row} in {text}");
        }
    }
}
