//! What `parametersRef` of a GatewayClass or of a Gateway leads to: a ConfigMap that says how what is
//! made for Gateways is to be. README lists the keys.

use std::collections::BTreeMap;

/// The keys that a ConfigMap of parameters may have, in the order of README.
pub(crate) const KEYS: [&str; 8] = [
    "replicas",
    "serviceType",
    "loadBalancerClass",
    "externalTrafficPolicy",
    "cpuRequest",
    "cpuLimit",
    "memoryRequest",
    "memoryLimit",
];
/// Pods of one gateway.
const MOST_REPLICAS: u32 = 1000;
/// Suffixes of quantities, as Kubernetes has them.
const SUFFIXES: [&str; 9] = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi"];

/// Parameters; what is not said is as it is by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// Fixed, so that no autoscaler has a say.
    pub(crate) replicas: Option<u32>,
    /// `LoadBalancer`, `NodePort` or `ClusterIP`.
    pub(crate) service_type: Option<String>,
    pub(crate) load_balancer_class: Option<String>,
    /// `Cluster` or `Local`; not for a Service of type `ClusterIP`.
    pub(crate) external_traffic_policy: Option<String>,
    /// Quantities of Kubernetes.
    pub(crate) cpu_request: Option<String>,
    pub(crate) cpu_limit: Option<String>,
    pub(crate) memory_request: Option<String>,
    pub(crate) memory_limit: Option<String>,
}

impl Parameters {
    /// Nothing is said.
    pub(crate) const NONE: Self = Self {
        replicas: None,
        service_type: None,
        load_balancer_class: None,
        external_traffic_policy: None,
        cpu_request: None,
        cpu_limit: None,
        memory_request: None,
        memory_limit: None,
    };

    /// Reads the data of a ConfigMap. A key that is not known is an error: what it should do would
    /// not happen.
    pub(super) fn read(data: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut found = Self::default();
        for (key, text) in data {
            let value = text.trim();
            let text = || Some(value.to_owned());
            let is_good = match key.as_str() {
                "replicas" => {
                    found.replicas = value.parse().ok();
                    let range = 1..=MOST_REPLICAS;
                    found.replicas.is_some_and(|count| range.contains(&count))
                }
                "serviceType" => {
                    found.service_type = text();
                    ["LoadBalancer", "NodePort", "ClusterIP"].contains(&value)
                }
                "loadBalancerClass" => {
                    found.load_balancer_class = text();
                    is_label(value)
                }
                "externalTrafficPolicy" => {
                    found.external_traffic_policy = text();
                    ["Cluster", "Local"].contains(&value)
                }
                "cpuRequest" => {
                    found.cpu_request = text();
                    is_quantity(value)
                }
                "cpuLimit" => {
                    found.cpu_limit = text();
                    is_quantity(value)
                }
                "memoryRequest" => {
                    found.memory_request = text();
                    is_quantity(value)
                }
                "memoryLimit" => {
                    found.memory_limit = text();
                    is_quantity(value)
                }
                key => return Err(format!("{key:?} is no parameter")),
            };
            if !is_good {
                return Err(format!("{key}: {value:?} is not possible"));
            }
        }
        Ok(found)
    }

    /// These, and where nothing is said, what `others` say.
    pub(crate) fn or(&self, others: &Self) -> Self {
        let text = |own: &Option<String>, other: &Option<String>| own.clone().or(other.clone());
        Self {
            replicas: self.replicas.or(others.replicas),
            service_type: text(&self.service_type, &others.service_type),
            load_balancer_class: text(&self.load_balancer_class, &others.load_balancer_class),
            external_traffic_policy: text(
                &self.external_traffic_policy,
                &others.external_traffic_policy,
            ),
            cpu_request: text(&self.cpu_request, &others.cpu_request),
            cpu_limit: text(&self.cpu_limit, &others.cpu_limit),
            memory_request: text(&self.memory_request, &others.memory_request),
            memory_limit: text(&self.memory_limit, &others.memory_limit),
        }
    }
}

/// A name, with the domain of whoever gives such names before it or without.
fn is_label(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(is_known)
}

fn is_quantity(text: &str) -> bool {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    number.parse::<f64>().is_ok_and(|number| number > 0.0) && SUFFIXES.contains(&suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Parameters, String> {
        let data = pairs.iter();
        Parameters::read(
            &data
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
        )
    }

    #[test]
    fn every_key_is_read_and_no_other() {
        let good = [
            "3",
            "NodePort",
            "example.com/fast",
            "Local",
            "250m",
            "2",
            "128Mi",
            "1.5Gi",
        ];
        let pairs: Vec<_> = KEYS.into_iter().zip(good).collect();
        let found = read(&pairs).unwrap();
        assert_eq!(found.replicas, Some(3));
        assert_eq!(found.memory_limit.as_deref(), Some("1.5Gi"));
        // Each of them was taken: nothing is left to say.
        assert_eq!(found.or(&Parameters::default()), found);
        assert_eq!(Parameters::default().or(&found), found);
        for (key, bad) in KEYS
            .into_iter()
            .zip(["0", "Any", "", "local", "m", "-1", "1Xi", ""])
        {
            let said = read(&[(key, bad)]).unwrap_err();
            assert!(said.starts_with(key), "{said}");
        }
        assert_eq!(
            read(&[("ca.crt", "x")]).unwrap_err(),
            "\"ca.crt\" is no parameter"
        );
    }

    #[test]
    fn the_gateways_own_come_before_those_of_its_class() {
        let own = read(&[("replicas", "2")]).unwrap();
        let class = read(&[("replicas", "5"), ("cpuLimit", "1")]).unwrap();
        let both = own.or(&class);
        assert_eq!(
            (both.replicas, both.cpu_limit.as_deref()),
            (Some(2), Some("1"))
        );
    }
}
