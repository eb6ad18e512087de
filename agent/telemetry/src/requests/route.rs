//! Figures by rule of a route.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

use super::latency::{Latency, Quantiles};
use super::sharded::{Counts, Overflow, add};

/// Which rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteName {
    /// The route, `KIND/NAMESPACE/NAME`.
    pub route: Arc<str>,
    /// Its rule: the name, or the number where it has none.
    pub rule: Arc<str>,
}

impl RouteName {
    /// The rule at `place` of a route, under its own name where it has one.
    pub fn of(route: &str, rule: Option<&str>, place: usize) -> Self {
        Self {
            route: route.into(),
            rule: rule.map_or_else(|| place.to_string().into(), Into::into),
        }
    }
}

impl Overflow for RouteName {
    fn overflow() -> Self {
        Self {
            route: "overflow".into(),
            rule: "".into(),
        }
    }
}

/// What came of a request, as its route's success rate counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Success,
    /// It was wrong, or not allowed: 4xx.
    ClientError,
    /// It was not answered, or by 5xx.
    ServerError,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Success, Self::ClientError, Self::ServerError];

    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
        }
    }
}

/// One thread's requests of one rule.
#[derive(Debug, Default)]
pub(super) struct RouteCounts {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    latency: Latency,
    micros: AtomicU64,
}

impl RouteCounts {
    pub(super) fn count(&self, outcome: Outcome, duration: Duration) {
        add(&self.outcomes[outcome as usize], 1);
        self.latency.count(duration);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        add(&self.micros, micros);
    }
}

impl Counts for RouteCounts {
    fn total(&self) -> u64 {
        self.latency.total()
    }
}

/// What is known of the requests of a rule since the process began, or since the rule came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFigures {
    outcomes: [u64; Outcome::ALL.len()],
    quantiles: Quantiles,
    /// Of all requests together.
    pub time: Duration,
}

impl RouteFigures {
    pub(super) fn sum(cells: &[&RouteCounts]) -> Self {
        let total = |of: fn(&RouteCounts) -> &AtomicU64| -> u64 {
            let values = cells.iter().map(|cell| of(cell).load(Ordering::Relaxed));
            values.fold(0, u64::wrapping_add)
        };
        Self {
            outcomes: [
                total(|cell| &cell.outcomes[0]),
                total(|cell| &cell.outcomes[1]),
                total(|cell| &cell.outcomes[2]),
            ],
            quantiles: Quantiles::of(cells.iter().map(|cell| &cell.latency)),
            time: Duration::from_micros(total(|cell| &cell.micros)),
        }
    }

    /// Requests with this outcome.
    pub fn with(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// The share of requests that did not end in [`Outcome::ServerError`], 0 to 1. `None` when
    /// there was none.
    pub fn success(&self) -> Option<f64> {
        let requests = self.requests();
        let failed = self.with(Outcome::ServerError);
        (requests > 0).then(|| (requests - failed) as f64 / requests as f64)
    }

    /// The duration that the share `of` (0 to 1) of the requests stayed within; at most a fifth
    /// too high.
    pub fn within(&self, of: f64) -> Option<Duration> {
        self.quantiles.within(of)
    }
}

pub(super) fn encode(
    rows: &[(RouteName, RouteFigures)],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let mut requests = encoder.encode_descriptor(
        "culvert_route_requests",
        "Requests by rule of a route and by what came of them.",
        None,
        MetricType::Counter,
    )?;
    for (name, figures) in rows {
        for outcome in Outcome::ALL {
            let labels = Row {
                name,
                last: Some(("outcome", outcome.as_str())),
            };
            requests
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(&figures.with(outcome), None)?;
        }
    }
    let mut times = encoder.encode_descriptor(
        "culvert_route_request_seconds",
        "Time of all requests of a rule together.",
        None,
        MetricType::Counter,
    )?;
    for (name, figures) in rows {
        times
            .encode_family(&Row { name, last: None })?
            .encode_counter::<NoLabelSet, _, f64>(&figures.time.as_secs_f64(), None)?;
    }
    let mut quantiles = encoder.encode_descriptor(
        "culvert_route_request_quantile_seconds",
        "Duration that a share of a rule's requests stays within, since the rule came.",
        None,
        MetricType::Gauge,
    )?;
    for (name, figures) in rows {
        for (quantile, of) in [("0.5", 0.5), ("0.99", 0.99)] {
            let labels = Row {
                name,
                last: Some(("quantile", quantile)),
            };
            let within = figures.within(of).unwrap_or_default();
            quantiles
                .encode_family(&labels)?
                .encode_gauge(&within.as_secs_f64())?;
        }
    }
    Ok(())
}

struct Row<'a> {
    name: &'a RouteName,
    last: Option<(&'static str, &'static str)>,
}

impl EncodeLabelSet for Row<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("route", &*self.name.route).encode(encoder.encode_label())?;
        ("rule", &*self.name.rule).encode(encoder.encode_label())?;
        match self.last {
            Some(last) => last.encode(encoder.encode_label()),
            None => Ok(()),
        }
    }
}
