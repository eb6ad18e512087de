//! ServiceEntry and WorkloadEntry: what lies outside of the cluster. Unlike policies they are
//! read as Kubernetes' own objects are: fields that are not known here pass.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::source::decode::FieldError;
use crate::source::kubernetes::Labels;
use crate::source::lenient::{IpBlock, host_ip, nullable, optional_port, port};
use crate::source::object::Lenient;

/// Hosts of one ServiceEntry; each becomes a service of its own.
const MAX_HOSTS: usize = 1_000;
/// RFC 1035 section 2.3.4.
const MAX_HOST: usize = 253;

/// `networking.istio.io ServiceEntry`.
pub(crate) type ServiceEntry = Lenient<ServiceEntrySpec, ServiceEntryStatus>;

/// `spec` of a ServiceEntry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceEntrySpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) hosts: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) addresses: Vec<IpBlock>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ports: Vec<EntryPort>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) resolution: Resolution,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) endpoints: Vec<EntryEndpoint>,
    #[serde(default)]
    pub(crate) workload_selector: Option<WorkloadSelector>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) subject_alt_names: Vec<String>,
    /// Namespaces that it is for; `.` is its own, `*` are all, and so is nothing.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) export_to: Vec<String>,
}

impl ServiceEntrySpec {
    /// True for an entry that every namespace may go by.
    pub(crate) fn is_for_all(&self) -> bool {
        self.export_to.is_empty() || self.export_to.iter().any(|to| to == "*")
    }

    /// The namespaces that an entry of the namespace `own` names beside it, where it is not for all.
    pub(crate) fn named_others(&self, own: &str) -> impl Iterator<Item = &str> {
        let is_for_all = self.is_for_all();
        let named = self.export_to.iter().map(String::as_str);
        named.filter(move |to| !is_for_all && !matches!(*to, "." | "~") && *to != own)
    }

    /// True where `namespace` may go by an entry of the namespace `own`.
    pub(crate) fn is_for(&self, own: &str, namespace: &str) -> bool {
        own == namespace || self.is_for_all() || self.named_others(own).any(|to| to == namespace)
    }
}

/// A port of a ServiceEntry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EntryPort {
    #[serde(deserialize_with = "port")]
    pub(crate) number: u16,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    /// Any case; of what it may say only UDP matters here.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) protocol: String,
    #[serde(default, deserialize_with = "optional_port")]
    pub(crate) target_port: Option<u16>,
}

impl EntryPort {
    pub(crate) fn is_tcp(&self) -> bool {
        !self.protocol.eq_ignore_ascii_case("udp")
    }
}

/// `resolution`: how the addresses of endpoints are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Resolution {
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

impl Resolution {
    pub(crate) fn is_by_name(self) -> bool {
        matches!(self, Self::Dns | Self::DnsRoundRobin | Self::DynamicDns)
    }
}

/// `workloadSelector`, all of whose labels must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct WorkloadSelector {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) labels: Labels,
}

impl WorkloadSelector {
    /// An empty selector selects nothing.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        let mut wanted = self.labels.iter();
        !self.labels.is_empty() && wanted.all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// `status`, where Istio's own control plane notes the addresses it has given out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct ServiceEntryStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) addresses: Vec<GivenAddress>,
}

/// One of `status.addresses`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct GivenAddress {
    /// Text: a status is no reason to refuse an object.
    #[serde(default, deserialize_with = "nullable")]
    value: String,
    /// The host it is for; every one when empty.
    #[serde(default, deserialize_with = "nullable")]
    host: String,
}

impl GivenAddress {
    pub(crate) fn of(&self, host: &str) -> Option<IpAddr> {
        let is_for_host = self.host.is_empty() || self.host == host;
        is_for_host.then(|| host_ip(&self.value).ok()).flatten()
    }
}

/// `networking.istio.io WorkloadEntry`.
pub(crate) type WorkloadEntry = Lenient<EntryEndpoint>;

impl WorkloadEntry {
    /// The labels of both places; the specification's win.
    pub(crate) fn labels(&self) -> Labels {
        let mut labels = self.metadata.labels.clone();
        labels.extend(self.spec.labels.clone());
        labels
    }
}

/// One of the endpoints of a ServiceEntry, or the `spec` of a WorkloadEntry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EntryEndpoint {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) address: Address,
    /// Port numbers by the names of ports.
    #[serde(default, deserialize_with = "named_ports")]
    pub(crate) ports: BTreeMap<String, u16>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) labels: Labels,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) network: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) locality: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) weight: u32,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) service_account: String,
}

impl EntryEndpoint {
    /// The port it serves a port of a service on: its own word for the port's name, else the
    /// service's target, else the same number.
    pub(crate) fn target(&self, name: &str, target: Option<u16>, number: u16) -> u16 {
        let own = self.ports.get(name).copied();
        own.or(target).unwrap_or(number)
    }
}

/// `address` of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Address {
    /// None is given.
    #[default]
    Missing,
    Ip(IpAddr),
    /// A host name.
    Host(String),
    /// A socket in the file system of whoever connects.
    Unix,
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            Ok(Self::Missing)
        } else if text.starts_with("unix://") {
            Ok(Self::Unix)
        } else if text.parse::<IpAddr>().is_ok() {
            host_ip(&text).map(Self::Ip).map_err(D::Error::custom)
        } else if is_host(&text) {
            Ok(Self::Host(text))
        } else {
            let message = format!("{text:?} is neither an IP address nor a host name");
            Err(D::Error::custom(message))
        }
    }
}

fn named_ports<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, u16>, D::Error> {
    let ports = Option::<BTreeMap<String, u16>>::deserialize(from)?.unwrap_or_default();
    match ports.iter().find(|(_, port)| **port == 0) {
        Some((name, _)) => Err(D::Error::custom(format!("port {name:?} is 0"))),
        None => Ok(ports),
    }
}

/// Checks across fields that types cannot express.
pub(in crate::source) fn check_service_entry(entry: &ServiceEntry) -> Result<(), FieldError> {
    let spec = &entry.spec;
    if spec.hosts.is_empty() || spec.hosts.len() > MAX_HOSTS {
        let message = format!("expected 1 to {MAX_HOSTS} hosts");
        return Err(FieldError::new("spec.hosts", message));
    }
    for (index, host) in spec.hosts.iter().enumerate() {
        if !is_host(host.strip_prefix("*.").unwrap_or(host)) {
            let path = format!("spec.hosts[{index}]");
            return Err(FieldError::new(
                path,
                format!("{host:?} is not a host name"),
            ));
        }
    }
    for (index, IpBlock(block)) in spec.addresses.iter().enumerate() {
        if block.prefix_len() == block.max_prefix_len()
            && let Err(message) = host_ip(&block.addr().to_string())
        {
            return Err(FieldError::new(format!("spec.addresses[{index}]"), message));
        }
    }
    if spec.workload_selector.is_some() && !spec.endpoints.is_empty() {
        let message = "not together with workloadSelector";
        return Err(FieldError::new("spec.endpoints", message));
    }
    Ok(())
}

/// Checks across fields that types cannot express.
pub(in crate::source) fn check_workload_entry(entry: &WorkloadEntry) -> Result<(), FieldError> {
    if entry.spec.address == Address::Missing && entry.spec.network.is_empty() {
        let message = "missing, and no network is given that could lead there";
        return Err(FieldError::new("spec.address", message));
    }
    Ok(())
}

/// A host name in the form in which names are compared: lower case, no dot at the end.
fn is_host(text: &str) -> bool {
    let valid = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(valid);
    text.len() <= MAX_HOST && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in [
            "example.com",
            "a",
            "_sip.example.com",
            "xn--bcher-kva.example",
        ] {
            assert!(is_host(good), "{good}");
        }
        let long = "a.".repeat(127) + "a";
        for bad in [
            "",
            "*",
            "a/b",
            "a..b",
            "a.",
            ".a",
            "A.example",
            "a b",
            &long,
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
