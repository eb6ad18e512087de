//! `baggage`: what the sender says about its workload.

use std::fmt;

use agent_model::{Workload, WorkloadType};

/// A header longer than this is ignored, in bytes.
const MAX_HEADER: usize = 8 * 1024;
/// Members after this many are ignored.
const MAX_MEMBERS: usize = 64;
/// Longer values are ignored, in bytes.
const MAX_VALUE: usize = 512;

const CLUSTER: &str = "k8s.cluster.name";
const NAMESPACE: &str = "k8s.namespace.name";
const SERVICE: &str = "service.name";
const VERSION: &str = "service.version";
const REGION: &str = "cloud.region";
const ZONE: &str = "cloud.availability_zone";
const WORKLOAD_TYPES: [(WorkloadType, &str); 4] = [
    (WorkloadType::Deployment, "k8s.deployment.name"),
    (WorkloadType::CronJob, "k8s.cronjob.name"),
    (WorkloadType::Pod, "k8s.pod.name"),
    (WorkloadType::Job, "k8s.job.name"),
];

/// A workload as its own node describes it. Empty values are unknown and are not sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the workload they describe")]
pub struct Baggage {
    pub cluster: String,
    pub namespace: String,
    /// Kind and name of the owner.
    pub workload: Option<(WorkloadType, String)>,
    pub service: String,
    pub version: String,
    pub region: String,
    pub zone: String,
}

impl Baggage {
    /// Describes a local workload.
    pub fn of(workload: &Workload) -> Self {
        let name = workload.workload_name.to_string();
        Self {
            cluster: workload.cluster_id.to_string(),
            namespace: workload.namespace.to_string(),
            workload: (!name.is_empty()).then_some((workload.workload_type, name)),
            service: workload.canonical_name.to_string(),
            version: workload.canonical_revision.to_string(),
            region: workload.locality.region.to_string(),
            zone: workload.locality.zone.to_string(),
        }
    }

    /// Reads a header. Unknown members, members without `=` and everything beyond the limits are
    /// left out; of a repeated member the first counts.
    pub fn parse(header: &str) -> Self {
        let mut baggage = Self::default();
        if header.len() > MAX_HEADER {
            return baggage;
        }
        let members = header.split(',').take(MAX_MEMBERS);
        for (key, value) in members.filter_map(|member| member.split_once('=')) {
            let (key, value) = (key.trim(), value.trim());
            if !is_value(value) {
                continue;
            }
            if let Some(slot) = baggage.slot(key) {
                if slot.is_empty() {
                    value.clone_into(slot);
                }
            } else if let Some((kind, _)) = WORKLOAD_TYPES.iter().find(|(_, name)| *name == key) {
                baggage
                    .workload
                    .get_or_insert_with(|| (*kind, value.to_owned()));
            }
        }
        baggage
    }

    fn slot(&mut self, key: &str) -> Option<&mut String> {
        match key {
            CLUSTER => Some(&mut self.cluster),
            NAMESPACE => Some(&mut self.namespace),
            SERVICE => Some(&mut self.service),
            VERSION => Some(&mut self.version),
            REGION => Some(&mut self.region),
            ZONE => Some(&mut self.zone),
            _ => None,
        }
    }
}

impl fmt::Display for Baggage {
    /// The header's value. A value that the format has no way to express is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = self.workload.as_ref().and_then(|(kind, name)| {
            let (_, key) = WORKLOAD_TYPES.iter().find(|(known, _)| known == kind)?;
            Some((*key, name.as_str()))
        });
        let members = [
            Some((CLUSTER, self.cluster.as_str())),
            Some((NAMESPACE, self.namespace.as_str())),
            workload,
            Some((SERVICE, self.service.as_str())),
            Some((VERSION, self.version.as_str())),
            Some((REGION, self.region.as_str())),
            Some((ZONE, self.zone.as_str())),
        ];
        let sendable = members.into_iter().flatten().filter(|(_, v)| is_value(v));
        for (index, (key, value)) in sendable.enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

/// The format has no escapes: a value is visible ASCII without a comma.
fn is_value(value: &str) -> bool {
    (1..=MAX_VALUE).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}
