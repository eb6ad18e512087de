//! The objects that are made, as they are applied. Pure.

use agent_model::gateway::GatewayKey;
use k8s_openapi::api::core::v1::Container;
use serde_json::{Map, Value, json};

use crate::gateway::{Deployment, GATEWAY_NAME, short_name};
use crate::source::gateway_api::CONTROLLER;
use crate::source::kubernetes::Labels;

/// Names the class on everything that is made.
const GATEWAY_CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";
/// Where `culvert gateway` answers probes and scrapes.
const READY_PORT: u16 = 15021;
const METRICS_PORT: u16 = 15020;
/// Longer than the drain deadline, which is below.
const GRACE_SECONDS: u32 = 60;
const DRAIN: &str = "50s";
/// The account that the program runs as: nobody's.
const USER: u32 = 65532;
/// Where the pod has its token and the roots.
const TOKEN: &str = "/var/run/secrets/culvert/token";
const ROOT: &str = "/var/run/secrets/culvert/root";

/// What is the same of all gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// `https://host:port` of the control plane.
    pub(crate) control: String,
    /// Audience of tokens that it admits.
    pub(crate) audience: String,
    pub(crate) trust_domain: String,
    pub(crate) cluster_id: String,
}

/// What the containers run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    name: String,
    pull_policy: String,
}

impl Image {
    /// Of this name.
    pub(crate) fn named(name: String) -> Self {
        let pull_policy = "IfNotPresent".to_owned();
        Self { name, pull_policy }
    }

    /// That of a container.
    pub(super) fn of(container: &Container) -> Option<Self> {
        let named = Self::named(container.image.clone()?);
        Some(Self {
            pull_policy: match &container.image_pull_policy {
                Some(policy) => policy.clone(),
                None => named.pull_policy,
            },
            ..named
        })
    }
}

/// Which of a Gateway's objects one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Account,
    Deployment,
    Service,
}

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Made {
    pub(super) part: Part,
    pub(super) namespace: String,
    pub(super) name: String,
    /// UID of the Gateway.
    pub(super) owner: String,
    pub(super) object: Value,
}

/// What is made for a Gateway.
pub(super) fn of(
    deployment: &Deployment,
    template: &Template,
    image: &Image,
    network: &str,
) -> Vec<Made> {
    let making = Making {
        of: deployment,
        template,
        image,
        network,
    };
    // A Service needs a port, and a pod somebody that it serves.
    if deployment.ports.is_empty() {
        return Vec::new();
    }
    vec![making.account(), making.deployment(), making.service()]
}

/// A default class.
pub(super) fn class(name: &str) -> Value {
    let description = match name {
        "culvert-waypoint" => "Waypoints - policy on requests for the services of a namespace.",
        _ => "Ingress and egress gateways of the mesh.",
    };
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "culvert"}},
        "spec": {"controllerName": CONTROLLER, "description": description},
    })
}

struct Making<'a> {
    of: &'a Deployment,
    template: &'a Template,
    image: &'a Image,
    network: &'a str,
}

impl Making<'_> {
    fn key(&self) -> &GatewayKey {
        &self.of.gateway
    }

    fn account(&self) -> Made {
        let name = self.key().name.to_string();
        let object = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": self.metadata(&name),
            // It is only a name: the gateway has no business at the API server.
            "automountServiceAccountToken": false,
        });
        self.made(Part::Account, name, object)
    }

    fn service(&self) -> Made {
        let name = short_name(&self.key().name).into_owned();
        let ports = self.of.ports.iter().map(|(port, is_udp)| {
            let (word, protocol) = if *is_udp {
                ("udp", "UDP")
            } else {
                ("tcp", "TCP")
            };
            let name = format!("{word}-{port}");
            json!({"name": name, "port": port, "targetPort": port, "protocol": protocol})
        });
        let parameters = &self.of.parameters;
        let kind = match &parameters.service_type {
            Some(kind) => kind,
            None if self.of.is_waypoint => "ClusterIP",
            None => "LoadBalancer",
        };
        let mut spec = json!({
            "type": kind,
            "selector": self.selector(),
            "ipFamilyPolicy": "PreferDualStack",
            "ports": ports.collect::<Vec<_>>(),
        });
        if let Some(policy) = &parameters.external_traffic_policy
            && kind != "ClusterIP"
        {
            spec["externalTrafficPolicy"] = json!(policy);
        }
        if kind == "LoadBalancer" {
            if let Some(class) = &parameters.load_balancer_class {
                spec["loadBalancerClass"] = json!(class);
            }
            if let Some(address) = self.of.addresses.first() {
                spec["loadBalancerIP"] = json!(address);
            }
        }
        let object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(&name),
            "spec": spec,
        });
        self.made(Part::Service, name, object)
    }

    /// Without `replicas`, unless parameters say it, so that they are whoever scales it's.
    fn deployment(&self) -> Made {
        let name = short_name(&self.key().name).into_owned();
        let mut labels = self.labels();
        // It speaks for itself: nobody captures what it sends and is sent.
        labels.insert("culvert.dev/mesh".to_owned(), json!("disabled"));
        labels.insert("istio.io/dataplane-mode".to_owned(), json!("none"));
        let mut object = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.metadata(&name),
            "spec": {
                "selector": {"matchLabels": self.selector()},
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
                },
                "template": {
                    "metadata": {"labels": labels, "annotations": self.of.annotations},
                    "spec": self.pod(),
                },
            },
        });
        if let Some(replicas) = self.of.parameters.replicas {
            object["spec"]["replicas"] = json!(replicas);
        }
        self.made(Part::Deployment, name, object)
    }

    fn pod(&self) -> Value {
        let spread = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"].map(|key| {
            json!({
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": self.selector()},
            })
        });
        json!({
            "serviceAccountName": self.key().name,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "topologySpreadConstraints": spread,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
                // Listeners may be on any port, and it is nobody.
                "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
            },
            "containers": [self.container()],
            "volumes": [
                {"name": "token", "projected": {
                    // 0440 in octal.
                    "defaultMode": 288,
                    "sources": [{"serviceAccountToken": {
                        "audience": self.template.audience,
                        "expirationSeconds": 3600,
                        "path": "token",
                    }}],
                }},
                // Written by the control plane; the pod waits for it.
                {"name": "root", "configMap": {"name": crate::trust::ROOTS}},
                {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
        })
    }

    fn container(&self) -> Value {
        let probe = |period: u32, failures: u32, check: Value| {
            let mut probe = json!({"periodSeconds": period, "failureThreshold": failures});
            if let (Some(probe), Value::Object(check)) = (probe.as_object_mut(), check) {
                probe.extend(check);
            }
            probe
        };
        let ready = json!({"httpGet": {"path": "/healthz/ready", "port": "http-ready"}});
        let alive = json!({"tcpSocket": {"port": "http-ready"}});
        json!({
            "name": "gateway",
            "image": self.image.name,
            "imagePullPolicy": self.image.pull_policy,
            "args": self.arguments(),
            "ports": [
                {"name": "http-metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
                {"name": "http-ready", "containerPort": READY_PORT, "protocol": "TCP"},
            ],
            "readinessProbe": probe(2, 3, ready),
            "livenessProbe": probe(10, 6, alive),
            "resources": self.resources(),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "token", "mountPath": TOKEN, "readOnly": true},
                {"name": "root", "mountPath": ROOT, "readOnly": true},
                {"name": "run", "mountPath": "/run/culvert"},
            ],
        })
    }

    fn resources(&self) -> Value {
        let said = &self.of.parameters;
        let or = |said: &Option<String>, default: &str| said.clone().unwrap_or(default.to_owned());
        let mut limits = json!({"memory": or(&said.memory_limit, "1Gi")});
        // By default none on CPU: a throttled gateway is late.
        if let Some(cpu) = &said.cpu_limit {
            limits["cpu"] = json!(cpu);
        }
        json!({
            "requests": {
                "cpu": or(&said.cpu_request, "100m"),
                "memory": or(&said.memory_request, "64Mi"),
            },
            "limits": limits,
        })
    }

    fn arguments(&self) -> Vec<String> {
        let Template {
            control,
            trust_domain,
            cluster_id,
            ..
        } = self.template;
        let mut arguments = vec![
            "gateway".to_owned(),
            format!("--gateway={}", self.key()),
            format!("--xds-address={control}"),
            format!("--root-cert={ROOT}/{}", crate::trust::ROOTS_KEY),
            format!("--token-file={TOKEN}/token"),
            format!("--trust-domain={trust_domain}"),
            format!("--cluster-id={cluster_id}"),
            format!("--drain-deadline={DRAIN}"),
        ];
        if !self.network.is_empty() {
            arguments.push(format!("--network={}", self.network));
        }
        if self.of.tells_clients {
            arguments.push("--client-cert-header".to_owned());
        }
        arguments
    }

    fn metadata(&self, name: &str) -> Value {
        json!({
            "name": name,
            "namespace": self.key().namespace,
            "labels": self.labels(),
            "annotations": self.of.annotations,
            "ownerReferences": [{
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "name": self.key().name,
                "uid": self.of.uid,
                "controller": true,
                // To block its deletion would take a permission, and nothing would be won.
                "blockOwnerDeletion": false,
            }],
        })
    }

    /// Those that the Gateway asks for, and ours, which it cannot change.
    fn labels(&self) -> Map<String, Value> {
        let asked = self.of.labels.iter();
        let asked = asked.map(|(key, value)| (key.clone(), json!(value)));
        let ours = [
            ("app.kubernetes.io/name", "culvert"),
            ("app.kubernetes.io/component", "gateway"),
            (GATEWAY_CLASS, self.of.class.as_str()),
        ];
        let ours = ours.map(|(key, value)| (key.to_owned(), json!(value)));
        let selector = self.selector().into_iter();
        let selector = selector.map(|(key, value)| (key, json!(value)));
        asked.chain(ours).chain(selector).collect()
    }

    /// What its pods have and no others. It can never change.
    fn selector(&self) -> Labels {
        let name = short_name(&self.key().name).into_owned();
        Labels::from([(GATEWAY_NAME.to_owned(), name)])
    }

    fn made(&self, part: Part, name: String, object: Value) -> Made {
        Made {
            part,
            namespace: self.key().namespace.to_string(),
            name,
            owner: self.of.uid.clone(),
            object,
        }
    }
}
