//! A Gateway of a cluster: what is made for it, a process as that says, and what its status says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::apiserver::ApiServer;
use tests::apps::Nginx;
use tests::control::BUNDLE;
use tests::gateway::{EDGE, with_classes};
use tests::manifests::ServiceSpec;
use tests::process::Process;
use tests::programs::Programs;
use tests::{Cluster, Pod, PodSpec, poll};

use super::{LIMIT, api_server};
use crate::scene::{MESHED, OUTSIDE, PORT, namespaces};
use crate::{Case, on_kubernetes};

pub(crate) const CASES: &[Case] = &[on_kubernetes(
    "kubernetes: a Gateway gets its Deployment; the pod is admitted by its token and serves",
    deployed,
)];

const GATEWAYS: &str = "gateways.gateway.networking.k8s.io";
const DEPLOYMENTS: &str = "deployments.apps";
/// Where a load balancer would have put it.
const ADDRESS: &str = "203.0.113.9";

fn deployed(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    // The harness runs it outside of any pod, so it has no image of its own.
    control.stop()?;
    control.set_extra(&["--gateway-image=culvert:e2e"]);
    control.start()?;
    let result = served(cluster);
    control.stop()?;
    control.set_extra(&[]);
    control.start()?;
    // The fixture collects no garbage.
    let server = api_server(cluster)?;
    for kind in ["apps/v1, kind: Deployment", "v1, kind: Service"] {
        let object =
            format!("{{apiVersion: {kind}, metadata: {{name: edge, namespace: {MESHED}}}}}");
        server.remove(&object)?;
    }
    result?;
    cluster.settle()
}

fn served(cluster: &Cluster) -> Result<()> {
    let server = api_server(cluster)?;
    namespaces(cluster)?;
    let app = cluster.pod(&PodSpec::new(MESHED, "shop").on(2))?;
    let _nginx = Nginx::start(cluster.run(), app.place(), "deployed", PORT)?;
    let client = cluster.pod(&PodSpec::new(OUTSIDE, "outsider").outside())?;
    cluster.service(&ServiceSpec::new(MESHED, "shop", PORT).port(80, &PORT.to_string()))?;
    cluster
        .manifests()
        .write("gateway", &with_classes(&format!("{EDGE}---\n{ROUTE}")))?;
    cluster.settle()?;
    let deployment = poll::until("the Deployment", LIMIT, || {
        server
            .get("services", MESHED, "edge")
            .context("no Service")?;
        let deployment = server.get(DEPLOYMENTS, MESHED, "edge");
        deployment.context("no Deployment")
    })?;
    let template = &deployment["spec"]["template"];
    let mut spec = PodSpec::new(MESHED, "edge-0").outside().unready();
    let account = template["spec"]["serviceAccountName"].as_str();
    spec = spec.account(account.context("no account")?);
    for (key, value) in template["metadata"]["labels"]
        .as_object()
        .context("labels")?
    {
        spec = spec.label(key, value.as_str().unwrap_or_default());
    }
    let pod = cluster.pod(&spec)?;
    programmed(server, "Pending")?;
    let gateway = kubelet(cluster, server, &pod, &template["spec"])?;
    poll::until("a request through it", LIMIT, || {
        gateway.must_run()?;
        pod.sockets(8000).into_iter().try_for_each(|to| {
            let url = format!("http://{to}/");
            let words = ["curl", "--silent", "--fail", "--max-time", "5", &url];
            let body = client.place().check(&words)?;
            ensure!(body.contains("hello from deployed"), "{to}: {body}");
            Ok(())
        })
    })
    .with_context(|| format!("log of the gateway:\n{}", gateway.log_tail(15)))?;
    pod.update(|pod| pod.ready = true)?;
    balanced(server)?;
    programmed(server, "Programmed")?;
    acknowledged(cluster, server)?;
    let status = server.get(GATEWAYS, MESHED, "edge").context("no Gateway")?;
    let addresses = &status["status"]["addresses"];
    ensure!(
        *addresses == json!([{"type": "IPAddress", "value": ADDRESS}]),
        "{addresses}"
    );
    Ok(())
}

/// What a kubelet does: the container as its pod says, with the files of its volumes where this
/// machine has them.
fn kubelet(cluster: &Cluster, server: &ApiServer, pod: &Pod, spec: &Value) -> Result<Process> {
    let folder = cluster.run().path("gateway-deployed");
    fs::create_dir_all(&folder)?;
    let source = &spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"];
    let audience = source["audience"].as_str().context("no audience")?;
    let token = server.pod_token(MESHED, "edge-0", audience, Duration::from_secs(3600))?;
    write(&folder.join("token"), &token)?;
    let roots = poll::until("the roots in the namespace", LIMIT, || {
        server
            .get("configmaps", MESHED, BUNDLE)
            .context("no roots yet")
    })?;
    for (name, text) in roots["data"].as_object().context("no data")? {
        write(&folder.join(name), text.as_str().unwrap_or_default())?;
    }
    let container = &spec["containers"][0];
    let mut command = Command::new(Programs::find()?.culvert());
    for argument in container["args"].as_array().context("no arguments")? {
        let argument = argument.as_str().context("no word")?;
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        let mut paths = mounts.filter_map(|mount| mount["mountPath"].as_str());
        // One path below one of them; what replaces it may hold another one's.
        let path = paths.find(|path| argument.contains(&format!("{path}/")));
        let argument = match path {
            Some(path) => argument.replace(path, &folder.display().to_string()),
            None => argument.to_owned(),
        };
        command.arg(argument);
    }
    command
        .arg("--admin-socket")
        .arg(folder.join("admin.sock"))
        .args(["--workers", "1"]);
    pod.spawn_command("gateway-deployed", command)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// A load balancer of the cloud gives the Service an address.
fn balanced(server: &ApiServer) -> Result<()> {
    let service = server.get("services", MESHED, "edge");
    let mut service = (*service.context("no Service")?).clone();
    service["apiVersion"] = json!("v1");
    service["kind"] = json!("Service");
    service["status"] = json!({"loadBalancer": {"ingress": [{"ip": ADDRESS}]}});
    server.put_value(service).map(drop)
}

/// What the pod has taken is noted on it, and follows a change of the Gateway.
fn acknowledged(cluster: &Cluster, server: &ApiServer) -> Result<()> {
    let noted = || {
        let pod = server.get("pods", MESHED, "edge-0").context("no pod")?;
        let text = pod["metadata"]["annotations"]["culvert.dev/configuration"].as_str();
        let note: Value = serde_json::from_str(text.context("no note")?)?;
        let listeners = note["listeners"].as_str().context("no listeners")?;
        Ok(listeners.to_owned())
    };
    let before = poll::until("the note on the pod", LIMIT, noted)?;
    let changed = EDGE.replace(
        "protocol: HTTP}",
        "protocol: HTTP}, {name: more, port: 8001, protocol: HTTP}",
    );
    let manifest = with_classes(&format!("{changed}---\n{ROUTE}"));
    cluster.manifests().write("gateway", &manifest)?;
    poll::until("the note of the change", LIMIT, || {
        ensure!(noted()? != before, "still {before}");
        let gateway = server.get(GATEWAYS, MESHED, "edge").context("no Gateway")?;
        let listeners = gateway["status"]["listeners"].as_array();
        let names = listeners.into_iter().flatten().map(|of| &of["name"]);
        ensure!(names.eq(["http", "more"].iter()), "{gateway}");
        Ok(())
    })?;
    programmed(server, "Programmed")
}

/// Waits until the condition `Programmed` has the reason, or says that there is no address.
fn programmed(server: &ApiServer, reason: &str) -> Result<()> {
    poll::until(reason, LIMIT, || {
        let gateway = server.get(GATEWAYS, MESHED, "edge").context("no Gateway")?;
        let conditions = gateway["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let programmed = conditions.find(|condition| condition["type"] == "Programmed");
        let programmed = programmed.context("no condition")?;
        let is_pending = reason == "Pending" && programmed["status"] == "False";
        ensure!(is_pending || programmed["reason"] == reason, "{programmed}");
        Ok(())
    })
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: app}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: shop, port: 80}]}]
";
