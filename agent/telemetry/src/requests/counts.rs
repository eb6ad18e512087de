//! What is counted for one label set, and the metrics it is shown as.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::Measured;
use super::histogram::{Histogram, Sum};
use super::labels::RequestLabels;
use super::sharded::Counts;

/// Bounds of durations in microseconds; shown in milliseconds.
const DURATIONS: [u64; 15] = [
    500, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
const MILLISECOND: f64 = 1000.0;
/// Bounds of sizes in bytes.
const SIZES: [u64; 8] = [
    0,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
];

/// One thread's requests of one label set.
#[derive(Debug, Default)]
pub(super) struct RequestCounts {
    durations: Histogram<{ DURATIONS.len() }>,
    received: Histogram<{ SIZES.len() }>,
    sent: Histogram<{ SIZES.len() }>,
}

impl RequestCounts {
    pub(super) fn count(&self, measured: Measured) {
        let micros = u64::try_from(measured.duration.as_micros()).unwrap_or(u64::MAX);
        self.durations.count(&DURATIONS, micros);
        self.received.count(&SIZES, measured.received);
        self.sent.count(&SIZES, measured.sent);
    }
}

impl Counts for RequestCounts {
    fn total(&self) -> u64 {
        Sum::of([&self.durations].into_iter()).count()
    }
}

/// The requests of one label set.
pub(super) struct Summed {
    durations: Sum<{ DURATIONS.len() }>,
    received: Sum<{ SIZES.len() }>,
    sent: Sum<{ SIZES.len() }>,
}

pub(super) fn sum(cells: &[&RequestCounts]) -> Summed {
    Summed {
        durations: Sum::of(cells.iter().map(|cell| &cell.durations)),
        received: Sum::of(cells.iter().map(|cell| &cell.received)),
        sent: Sum::of(cells.iter().map(|cell| &cell.sent)),
    }
}

pub(super) fn encode(
    rows: &[(RequestLabels, Summed)],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let mut total = encoder.encode_descriptor(
        "istio_requests",
        "Requests that ended, whatever came of them.",
        None,
        MetricType::Counter,
    )?;
    for (labels, counts) in rows {
        total
            .encode_family(labels)?
            .encode_counter::<NoLabelSet, _, f64>(&counts.durations.count(), None)?;
    }
    histogram(
        encoder,
        "istio_request_duration_milliseconds",
        "From the head of a request to the end of its response.",
        rows.iter().map(|(labels, all)| (labels, &all.durations)),
        (&DURATIONS, MILLISECOND),
    )?;
    histogram(
        encoder,
        "istio_request_bytes",
        "Bytes of requests' bodies.",
        rows.iter().map(|(labels, all)| (labels, &all.received)),
        (&SIZES, 1.0),
    )?;
    histogram(
        encoder,
        "istio_response_bytes",
        "Bytes of responses' bodies.",
        rows.iter().map(|(labels, all)| (labels, &all.sent)),
        (&SIZES, 1.0),
    )
}

fn histogram<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl Iterator<Item = (&'a RequestLabels, &'a Sum<N>)>,
    (bounds, scale): (&[u64; N], f64),
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (labels, counts) in rows {
        metric
            .encode_family(labels)?
            .encode_histogram::<NoLabelSet>(
                counts.sum(scale),
                counts.count(),
                &counts.buckets(bounds, scale),
                None,
            )?;
    }
    Ok(())
}
