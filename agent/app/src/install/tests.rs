//! The manifests are what this program, the port table and kubectl say they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Parser;

use super::*;
use crate::cli::{Arguments, Verb};

/// What can be printed, each as the words after `install --render`, and the folder that says the
/// same to kubectl.
const FORMS: [(&[&str], &str); 7] = [
    (&[], ""),
    (&["--overlay=kind"], "overlays/kind"),
    (&["--overlay=single-node"], "overlays/single-node"),
    (&["--overlay=hardened"], "overlays/hardened"),
    (&["--overlay=beside-istio"], "overlays/beside-istio"),
    (&["--with=istio-crds"], "istio-crds"),
    (&["--with=gateway-classes"], "gateway-classes"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes")
}

fn printed(words: &[&str]) -> Result<String, InstallError> {
    let words = ["culvert", "install", "--render"].iter().chain(words);
    match Arguments::try_parse_from(words).unwrap().verb {
        Verb::Install(flags) => render(&flags),
        other => panic!("{other:?}"),
    }
}

fn objects(words: &[&str]) -> Vec<Value> {
    serde_saphyr::from_multiple(&printed(words).unwrap()).unwrap()
}

fn the<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects
        .iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let one = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    assert!(found.next().is_none(), "two of {kind} {name}");
    one
}

fn container(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]["containers"][0]
}

fn arguments(object: &Value) -> Vec<&str> {
    let words = container(object)["args"].as_array().unwrap();
    words.iter().map(|word| word.as_str().unwrap()).collect()
}

/// Objects by kind, namespace and name.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let name = |object: &Value| {
        format!(
            "{} {}/{}",
            object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]
        )
    };
    let count = objects.len();
    let named: BTreeMap<String, Value> = objects
        .into_iter()
        .map(|object| (name(&object), object))
        .collect();
    assert_eq!(named.len(), count, "an object is there twice");
    named
}

#[test]
fn every_manifest_is_carried() {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                let path = path.strip_prefix(folder()).unwrap();
                found.insert(path.to_str().unwrap().to_owned());
            }
        }
    }
    let carried: BTreeSet<String> = files::ALL
        .iter()
        .map(|(path, _)| (*path).to_owned())
        .collect();
    assert_eq!(carried, found);
}

#[test]
fn every_form_renders_and_reads_back() {
    for (words, directory) in FORMS {
        let built = kustomize::build(files::ALL, directory).unwrap();
        let printed = by_name(objects(words));
        for (name, object) in by_name(built) {
            assert_eq!(printed.get(&name), Some(&object), "{words:?} {name}");
        }
    }
    assert_eq!(
        by_name(objects(&[])).len(),
        kustomize::build(files::ALL, "").unwrap().len()
    );
}

#[test]
fn beside_istio_agents_get_xds_and_certificates_of_istiod_and_pods_of_the_companion() {
    let objects = objects(&["--overlay=beside-istio"]);
    let control = arguments(the(&objects, "Deployment", "culvert-control"));
    assert!(control.contains(&"--companion"), "{control:?}");
    let node = the(&objects, "DaemonSet", "culvert-node");
    let words = arguments(node);
    for word in [
        "--xds-address=https://istiod.istio-system.svc:15012",
        "--root-cert=/var/run/secrets/istio/root-cert.pem",
        "--token-file=/var/run/secrets/istio-token/istio-token",
        "--enrolment-address=https://culvert-control.$(POD_NAMESPACE).svc:15012",
        "--enrolment-root-cert=/var/run/secrets/culvert/root/root-cert.pem",
        "--enrolment-token-file=/var/run/secrets/culvert/token/token",
        "--enrolment=labels",
    ] {
        let count = words.iter().filter(|other| **other == word).count();
        assert_eq!(count, 1, "{word} in {words:?}");
    }
    // Every file that a flag names is mounted.
    let mounts = container(node)["volumeMounts"].to_string();
    let volumes = node["spec"]["template"]["spec"]["volumes"].to_string();
    for mount in ["/var/run/secrets/istio\"", "/var/run/secrets/istio-token\""] {
        assert!(mounts.contains(mount), "{mount}: {mounts}");
    }
    assert!(volumes.contains("\"audience\":\"istio-ca\""), "{volumes}");
    assert!(volumes.contains("istio-ca-root-cert"), "{volumes}");
}

#[test]
fn what_an_overlay_and_an_extra_share_is_printed_once() {
    by_name(objects(&[
        "--overlay=kind",
        "--with=istio-crds,gateway-classes",
    ]));
}

/// The rules of a file that kubectl reads the way this program does.
#[test]
#[ignore = "needs kubectl; `cargo xtask test` runs it where there is one"]
fn kubectl_says_the_same() {
    for (words, directory) in FORMS {
        let theirs = kubectl_kustomize(&folder().join(directory));
        let ours = by_name(objects(words));
        for (name, object) in by_name(theirs) {
            assert_eq!(ours.get(&name), Some(&object), "{words:?} {name}");
        }
        // And it reads the text that was printed as it was meant.
        let temporary =
            std::env::temp_dir().join(format!("culvert-install-{}", std::process::id()));
        std::fs::create_dir_all(&temporary).unwrap();
        std::fs::write(temporary.join("all.yaml"), printed(words).unwrap()).unwrap();
        std::fs::write(
            temporary.join("kustomization.yaml"),
            "resources: [all.yaml]\n",
        )
        .unwrap();
        let read = by_name(kubectl_kustomize(&temporary));
        std::fs::remove_dir_all(&temporary).unwrap();
        assert_eq!(read, ours, "{words:?}");
    }
}

fn kubectl_kustomize(directory: &Path) -> Vec<Value> {
    let output = Command::new("kubectl")
        .arg("kustomize")
        .arg(directory)
        .stderr(Stdio::inherit())
        .output()
        .expect("kubectl starts");
    assert!(output.status.success(), "{}", directory.display());
    serde_saphyr::from_multiple(std::str::from_utf8(&output.stdout).unwrap()).unwrap()
}

#[test]
fn settings_reach_what_they_name() {
    let objects = objects(&[
        "--image=example.org/culvert@sha256:0123",
        "--namespace=mesh",
        "--set=control.replicas=5",
        "--set=control.cert-ttl=2h",
        "--set=trust-domain=example.org",
        "--set=node.log-json=true",
        "--set=host.cni-conf-dir=/var/lib/cni/net.d",
        "--set=node.drain-deadline=5s",
    ]);
    let control = the(&objects, "Deployment", "culvert-control");
    let node = the(&objects, "DaemonSet", "culvert-node");
    assert_eq!(control["spec"]["replicas"], 5);
    for role in [control, node] {
        assert_eq!(container(role)["image"], "example.org/culvert@sha256:0123");
        assert!(arguments(role).contains(&"--trust-domain=example.org"));
    }
    assert!(arguments(control).contains(&"--cert-ttl=2h"));
    assert!(arguments(node).contains(&"--log-json"));
    assert!(!arguments(control).contains(&"--log-json"));
    let deadlines: Vec<&str> = arguments(node)
        .into_iter()
        .filter(|word| word.starts_with("--drain-deadline"))
        .collect();
    assert_eq!(deadlines, ["--drain-deadline=5s"]);
    let volumes = node["spec"]["template"]["spec"]["volumes"]
        .as_array()
        .unwrap();
    assert!(
        volumes
            .iter()
            .any(|volume| volume["hostPath"]["path"] == "/var/lib/cni/net.d")
    );
    let text = serde_json::to_string(&objects).unwrap();
    assert!(
        !text.contains("\"culvert-system\""),
        "a namespace is left behind"
    );
    the(&objects, "Namespace", "mesh");
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    for wrong in [
        "--set=replicas",
        "--set=control.replicas=0",
        "--set=control.replicas=many",
        "--set=control.no-such-flag=1",
        "--set=gateway.listen=x",
        "--set=node.log-json=perhaps",
        "--set=host.cni-bin-dir=relative",
        "--set=control.cert-ttl=soon",
        "--set=node.workers=0",
        "--namespace=Not_A_Name",
        "--image=two words",
    ] {
        assert!(printed(&[wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn ports_are_those_of_the_port_table() {
    let objects = objects(&["--overlay=hardened"]);
    let of = |role: &Value| -> BTreeSet<u64> {
        let ports = container(role)["ports"].as_array().unwrap();
        ports
            .iter()
            .map(|port| port["containerPort"].as_u64().unwrap())
            .collect()
    };
    use agent_model::{
        CONTROL_METRICS_PORT, CONTROL_PORT, METRICS_PORT, READINESS_PORT, WEBHOOK_PORT,
    };
    let control = [CONTROL_PORT, WEBHOOK_PORT, CONTROL_METRICS_PORT].map(u64::from);
    assert_eq!(
        of(the(&objects, "Deployment", "culvert-control")),
        BTreeSet::from(control)
    );
    assert_eq!(
        of(the(&objects, "DaemonSet", "culvert-node")),
        BTreeSet::from([METRICS_PORT, READINESS_PORT].map(u64::from))
    );
    let service = the(&objects, "Service", "culvert-control");
    let ports = service["spec"]["ports"].as_array().unwrap();
    let served: BTreeSet<u64> = ports
        .iter()
        .map(|port| port["port"].as_u64().unwrap())
        .collect();
    assert_eq!(served, BTreeSet::from(control));
    let node = the(&objects, "DaemonSet", "culvert-node");
    let dialled =
        format!("--xds-address=https://culvert-control.$(POD_NAMESPACE).svc:{CONTROL_PORT}");
    assert!(arguments(node).contains(&dialled.as_str()));
    let allowed: BTreeSet<u64> = ["culvert-control", "culvert-node"]
        .into_iter()
        .flat_map(|name| {
            the(&objects, "NetworkPolicy", name)["spec"]["ingress"]
                .as_array()
                .unwrap()
        })
        .flat_map(|rule| rule["ports"].as_array().unwrap())
        .map(|port| port["port"].as_u64().unwrap())
        .collect();
    let node = [METRICS_PORT, READINESS_PORT].map(u64::from);
    assert_eq!(allowed, control.into_iter().chain(node).collect());
}

#[test]
fn the_image_is_this_release() {
    let objects = objects(&[]);
    for (kind, name) in [
        ("Deployment", "culvert-control"),
        ("DaemonSet", "culvert-node"),
    ] {
        let image = &container(the(&objects, kind, name))["image"];
        assert_eq!(image, &format!("culvert:{}", crate::VERSION));
    }
}

/// Time to end is longer than the drain, or the kubelet would cut it short.
#[test]
fn a_pod_may_drain() {
    let objects = objects(&[]);
    for (kind, name) in [
        ("Deployment", "culvert-control"),
        ("DaemonSet", "culvert-node"),
    ] {
        let object = the(&objects, kind, name);
        let deadline = arguments(object)
            .into_iter()
            .find_map(|word| word.strip_prefix("--drain-deadline="))
            .unwrap();
        let deadline = humantime::parse_duration(deadline).unwrap().as_secs();
        let grace = &object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
        assert!(grace.as_u64().unwrap() >= deadline + 10, "{name}");
    }
}

/// Least privilege, as far as a manifest can show it.
#[test]
fn nobody_is_privileged() {
    for (words, _) in FORMS {
        for object in objects(words) {
            let pod = &object["spec"]["template"]["spec"];
            let Some(containers) = pod["containers"].as_array() else {
                continue;
            };
            assert!(pod["initContainers"].is_null());
            for container in containers {
                let security = &container["securityContext"];
                assert_ne!(security["privileged"], true);
                assert_eq!(security["allowPrivilegeEscalation"], false);
                assert_eq!(security["readOnlyRootFilesystem"], true);
                assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
                assert!(container["resources"]["limits"]["memory"].is_string());
            }
        }
    }
    let objects = objects(&[]);
    let control = the(&objects, "Deployment", "culvert-control");
    let pod = &control["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert!(container(control)["securityContext"]["capabilities"]["add"].is_null());
    let node = the(&objects, "DaemonSet", "culvert-node");
    let pod = &node["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_ne!(pod["hostNetwork"], true);
    // Nobody but the control plane has rights at the API server, and never by a wildcard.
    for object in &objects {
        if object["kind"] == "ClusterRoleBinding" || object["kind"] == "RoleBinding" {
            assert_eq!(object["subjects"].as_array().unwrap().len(), 1);
            assert_eq!(object["subjects"][0]["name"], "culvert-control");
        }
        for rule in object["rules"].as_array().into_iter().flatten() {
            let text = rule.to_string();
            assert!(!text.contains('*'), "{text}");
            // What Gateways name is read by a role of its own, which can be left out.
            let of_gateways = object["metadata"]["name"] == "culvert-control-gateways";
            let secrets = text.contains("secrets") && !text.contains("\"create\"");
            let is_own = rule["resourceNames"] == serde_json::json!(["culvert-ca"]);
            assert!(!secrets || is_own || of_gateways, "{text}");
        }
    }
}

/// Every verb has somebody who needs it; one more is a decision to be made here, too.
#[test]
fn the_control_plane_may_do_what_it_does_and_no_more() {
    const MAY: &str = "
        authorizationpolicies         get list watch
        authorizationpolicies/status  patch
        backendtlspolicies            get list watch
        backendtlspolicies/status     patch
        configmaps                    create
        configmaps culvert-ca-root-cert  list patch
        configmaps culvert-trust      get patch
        configmaps                    list watch
        deployments                   get create patch
        endpointslices                get list watch
        events                        create
        gatewayclasses                create
        gatewayclasses                get list watch
        gatewayclasses/status         patch
        gateways                      get list watch
        gateways/status               patch
        grpcroutes                    get list watch
        grpcroutes/status             patch
        httproutes                    get list watch
        httproutes/status             patch
        leases                        create
        leases culvert-control        get update
        listenersets                  get list watch
        listenersets/status           patch
        meshconfigs                   get list watch
        meshconfigs/status            patch
        namespaces                    get list watch
        nodes                         get list watch
        peerauthentications           get list watch
        peerauthentications/status    patch
        pods                          get list watch
        pods/status                   patch
        referencegrants               list watch
        requestauthentications        get list watch
        requestauthentications/status patch
        secrets                       create
        secrets culvert-ca            get patch update
        secrets                       list watch
        serviceaccounts               get create patch
        serviceaccounts               get list watch
        serviceentries                get list watch
        serviceentries/status         patch
        services                      get create patch
        services                      get list watch
        services/status               patch
        tcproutes                     get list watch
        tcproutes/status              patch
        tlsroutes                     get list watch
        tlsroutes/status              patch
        tokenreviews                  create
        trafficpolicies               get list watch
        trafficpolicies/status        patch
        udproutes                     get list watch
        udproutes/status              patch
        validatingwebhookconfigurations culvert-validation  get patch
        workloadentries               get list watch
        workloadentries/status        patch
    ";
    let mut found = BTreeSet::new();
    for object in objects(&[]) {
        for rule in object["rules"].as_array().into_iter().flatten() {
            let words = |field: &str| -> Vec<String> {
                let words = rule[field].as_array().into_iter().flatten();
                words
                    .map(|word| word.as_str().unwrap().to_owned())
                    .collect()
            };
            let what = [words("resourceNames"), words("verbs")].concat().join(" ");
            let resources = words("resources").into_iter();
            found.extend(resources.map(|resource| format!("{resource} {what}")));
        }
    }
    let normal = |row: &str| row.split_whitespace().collect::<Vec<_>>().join(" ");
    let may: BTreeSet<String> = MAY
        .lines()
        .map(normal)
        .filter(|row| !row.is_empty())
        .collect();
    assert_eq!(found, may);
}
