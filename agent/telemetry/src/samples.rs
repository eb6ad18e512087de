//! Values that other rooms hold and a scrape asks for: tunnels, certificates, xDS, eBPF counters.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

/// Rows a sampled metric may have in one scrape; further ones are left out.
pub const MAX_SAMPLES_PER_METRIC: usize = 4096;

/// What samplers add at a scrape.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<&'static str, Family>);

#[derive(Debug)]
struct Family {
    help: &'static str,
    kind: MetricType,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    labels: Vec<(&'static str, String)>,
    value: Value,
}

#[derive(Debug, Clone, Copy)]
enum Value {
    Gauge(f64),
    Counter(u64),
    Seconds(f64),
}

impl Samples {
    /// Adds one row of a gauge. `help` is a sentence without its full stop. Label values must come
    /// from configuration or a closed list, never from what a peer sent.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: f64,
    ) {
        self.add(name, help, MetricType::Gauge, labels, Value::Gauge(value));
    }

    /// Adds one row of a counter; `name` comes without `_total`. Otherwise as [`Samples::gauge`].
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: u64,
    ) {
        let value = Value::Counter(value);
        self.add(name, help, MetricType::Counter, labels, value);
    }

    /// Adds one row of a counter of time; `name` ends in `_seconds`. Otherwise as
    /// [`Samples::counter`].
    pub fn seconds(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: Duration,
    ) {
        let value = Value::Seconds(value.as_secs_f64());
        self.add(name, help, MetricType::Counter, labels, value);
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        labels: &[(&'static str, &str)],
        value: Value,
    ) {
        let family = self.0.entry(name).or_insert_with(|| Family {
            help,
            kind,
            rows: Vec::new(),
        });
        if family.rows.len() < MAX_SAMPLES_PER_METRIC {
            let labels = labels.iter().map(|&(k, v)| (k, v.to_owned())).collect();
            family.rows.push(Row { labels, value });
        }
    }

    pub(crate) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, family) in &self.0 {
            let help = format!("{}.", family.help);
            let mut metric = encoder.encode_descriptor(name, &help, None, family.kind)?;
            for row in &family.rows {
                // A row without labels must not get empty braces.
                if row.labels.is_empty() {
                    row.value.encode(&mut metric)?;
                } else {
                    row.value.encode(&mut metric.encode_family(row)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(value) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            Self::Seconds(value) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            // Whole numbers are written as such: a script may read them.
            Self::Gauge(value) if value.fract() == 0.0 && value.abs() < MAX_EXACT => {
                encoder.encode_gauge(&(value as i64))
            }
            Self::Gauge(value) => encoder.encode_gauge(&value),
        }
    }
}

/// Whole numbers below this are exact in a double.
const MAX_EXACT: f64 = (1u64 << 53) as f64;

impl EncodeLabelSet for Row {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (key, value) in &self.labels {
            (*key, value.as_str()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}
