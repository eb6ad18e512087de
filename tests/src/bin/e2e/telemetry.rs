//! What a gateway tells of requests: metrics, one access-log line each, spans, `culvert routes`; at
//! the edge and at a waypoint, for HTTP and gRPC.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use agent_model::HBONE_PORT;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::apps::Nginx;
use tests::cluster::service_sockets;
use tests::gateway::{Gateway, waypoint, with_classes};
use tests::manifests::{ServiceSpec, peer_authentication};
use tests::metrics::Metrics;
use tests::peer::{PYTHON, script};
use tests::process::Process;
use tests::topology::Addresses;
use tests::{Cluster, Place, Pod, PodSpec, poll};

use crate::scene::{MESHED, OUTSIDE, PORT, namespaces};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "telemetry: metrics, access log and routes of real requests, at the edge and at a waypoint",
        requests,
    ),
    shared(
        "telemetry: spans of two gateways join their callers' traces at a collector",
        spans,
    ),
];

/// Port of the edge's listener.
const LISTEN: u16 = 8000;
/// Port of the service of nginx.
const WEB: u16 = 80;
/// Port of the collector.
const COLLECTOR: u16 = 4317;
const PATIENCE: Duration = Duration::from_secs(20);
const BODY: &str = "hello from telemetry\n";

/// A gateway at the edge, one that is a waypoint, nginx and a gRPC server behind both.
struct Scene {
    front: Gateway,
    watch: Gateway,
    front_pod: Pod,
    watch_pod: Pod,
    client: Pod,
    outsider: Pod,
    web: Addresses,
    talk: Addresses,
    /// Bytes of the gateways' logs that other cases have written.
    before: [usize; 2],
    _pods: [Pod; 2],
    _nginx: Nginx,
    _talk: Process,
}

impl Scene {
    /// `ingress` is one more label of the services, `flags` are more of each gateway's.
    fn start(cluster: &Cluster, ingress: &str, flags: [&[&str]; 2]) -> Result<Self> {
        namespaces(cluster)?;
        let strict = peer_authentication(MESHED, "STRICT");
        cluster.manifests().write("mode", &strict)?;
        let gateway = |name| {
            let spec = PodSpec::new(MESHED, name)
                .label("culvert.dev/mesh", "disabled")
                .label("gateway.networking.k8s.io/gateway-name", name);
            cluster.pod(&spec.outside())
        };
        let (front_pod, watch_pod) = (gateway("front")?, gateway("watch")?);
        let client = cluster.pod(&PodSpec::new(MESHED, "client").account("client"))?;
        let outsider = cluster.pod(&PodSpec::new(OUTSIDE, "outsider").outside())?;
        let web_pod = cluster.pod(&PodSpec::new(MESHED, "web").account("web").on(2))?;
        let talk_pod = cluster.pod(&PodSpec::new(MESHED, "talk").account("talk").on(2))?;
        cluster.service(&ServiceSpec::new(MESHED, "watch", HBONE_PORT))?;
        let labels = format!("  labels: {{culvert.dev/use-waypoint: watch{ingress}}}\n");
        let behind = |name: &str, spec: ServiceSpec| {
            let addresses = cluster.service(&spec)?;
            let yaml = spec.yaml(addresses);
            let bound = yaml.replacen("metadata:\n", &format!("metadata:\n{labels}"), 1);
            cluster
                .manifests()
                .write(&format!("service-app-{name}"), &bound)?;
            anyhow::Ok(addresses)
        };
        let spec = ServiceSpec::new(MESHED, "web", PORT).port(WEB, &PORT.to_string());
        let web = behind("web", spec)?;
        let talk = behind("talk", ServiceSpec::new(MESHED, "talk", PORT))?;
        let gateways = format!("{FRONT}---\n{}", waypoint(MESHED, "watch"));
        cluster
            .manifests()
            .write("gateway", &with_classes(&gateways))?;
        cluster.manifests().write("routes", ROUTES)?;
        cluster.settle()?;
        let nginx = Nginx::start(cluster.run(), web_pod.place(), "telemetry", PORT)?;
        let port = PORT.to_string();
        let talking = python(
            cluster,
            talk_pod.place(),
            "telemetry-talk",
            &["talk.py", "grpc-serve", &port],
        )?;
        let listens = || {
            talking.must_run()?;
            let own = SocketAddr::from(([127, 0, 0, 1], PORT));
            Ok(talk_pod.place().connect(own, PATIENCE)?)
        };
        poll::until("the gRPC server", PATIENCE, listens)?;
        let front = Gateway::start_with(cluster, &front_pod, "app/front", flags[0])?;
        let watch = Gateway::start_with(cluster, &watch_pod, "app/watch", flags[1])?;
        let before = [&front, &watch].map(|gateway| gateway.process().log().len());
        front.wait("the edge", |status| has_routes(status, 2))?;
        watch.wait("the waypoint", |status| has_routes(status, 2))?;
        Ok(Self {
            front,
            watch,
            front_pod,
            watch_pod,
            client,
            outsider,
            web,
            talk,
            before,
            _pods: [web_pod, talk_pod],
            _nginx: nginx,
            _talk: talking,
        })
    }

    fn edge(&self) -> SocketAddr {
        self.front_pod.sockets(LISTEN)[0]
    }

    /// One gRPC call that is answered, a stream that is, and one that fails with status 9.
    fn call(&self, place: &Place, to: SocketAddr) -> Result<()> {
        let script = script("talk.py");
        let script = script.to_str().context("path of a script")?;
        let to = to.to_string();
        let said = place.check(&[PYTHON, script, "grpc-call", &to, "talk.example"])?;
        ensure!(
            said.contains("you said hello; 3 of a stream; FAILED_PRECONDITION"),
            "{said}"
        );
        Ok(())
    }

    /// Access-log lines of the edge (0) or the waypoint (1).
    fn lines(&self, gateway: usize) -> Vec<String> {
        let log = [&self.front, &self.watch][gateway].process().log();
        let log = log.get(self.before[gateway]..).unwrap_or_default();
        let lines = log.lines().filter(|line| line.contains("request complete"));
        lines.map(str::to_owned).collect()
    }
}

fn has_routes(status: &Value, routes: usize) -> bool {
    let told = status["routes"].as_array().map_or(0, Vec::len);
    let missing = status["portsMissing"].as_array().map_or(0, Vec::len);
    told == routes && missing == 0 && status["ports"][0].is_number()
}

fn python(cluster: &Cluster, place: &Place, name: &str, words: &[&str]) -> Result<Process> {
    let mut command = Command::new(PYTHON);
    command.arg(script(words[0])).args(&words[1..]);
    Process::spawn(cluster.run(), place, name, command)
}

/// Status codes of GETs, one after the other over one connection.
fn get(place: &Place, host: &str, to: &str, more: &[&str]) -> Result<Vec<u16>> {
    let host = format!("Host: {host}");
    let words = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}\n",
        "--header",
        &host,
    ];
    let output = place.check(&[&words[..], more, &[to]].concat())?;
    let codes = output.lines().map(|line| Ok(line.parse()?));
    codes.collect()
}

fn requests(cluster: &Cluster) -> Result<()> {
    let scene = Scene::start(cluster, "", [&["--log-json"], &[]])?;
    let (to, outside) = (scene.edge(), scene.outsider.place());
    let codes = get(outside, "shop.example", &format!("http://{to}/?[1-3]"), &[])?;
    ensure!(codes == [200; 3], "at the edge: {codes:?}");
    let url = format!("http://{to}/missing?secret=1");
    let codes = get(outside, "shop.example", &url, &[])?;
    ensure!(codes == [404], "what nginx has not: {codes:?}");
    let codes = get(outside, "other.example", &format!("http://{to}/"), &[])?;
    ensure!(codes == [404], "without a route: {codes:?}");
    scene.call(outside, to)?;
    let [vip, _] = service_sockets(scene.web, WEB);
    let inside = scene.client.place();
    let url = format!("http://{vip}/?[1-2]");
    let codes = get(inside, "web", &url, &[])?;
    ensure!(codes == [200; 2], "through the waypoint: {codes:?}");
    scene.call(inside, service_sockets(scene.talk, PORT)[0])?;

    // A client may have its answer before the gateway has counted it.
    poll::until("counted at the edge", PATIENCE, || {
        counted_at_the_edge(&scene.front.metrics(&scene.front_pod)?)
    })?;
    poll::until("counted at the waypoint", PATIENCE, || {
        counted_at_the_waypoint(&scene.watch.metrics(&scene.watch_pod)?)
    })?;
    logged_as_json(&scene)?;
    logged_as_text(&scene)?;
    shown(cluster, &scene)?;
    logged_to_the_last(&scene)
}

const REQUESTS: &str = "istio_requests_total";

/// What every series of a request has.
const LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

fn must_count(metrics: &Metrics, name: &str, labels: &[&str], want: f64) -> Result<()> {
    let found = metrics.sum(name, labels);
    let lines = metrics.text().lines().filter(|line| line.starts_with(name));
    ensure!(
        found == want,
        "{name} {labels:?} is {found} instead of {want}:\n{}",
        lines.collect::<Vec<_>>().join("\n")
    );
    Ok(())
}

fn counted_at_the_edge(metrics: &Metrics) -> Result<()> {
    let from = [
        "reporter=\"source\"",
        "source_workload=\"front\"",
        "source_workload_namespace=\"app\"",
    ];
    let web = [
        "destination_workload=\"web\"",
        "destination_workload_namespace=\"app\"",
        "destination_principal=\"spiffe://cluster.local/ns/app/sa/web\"",
        "destination_service=\"web.app.svc.cluster.local\"",
        "destination_service_name=\"web\"",
        "destination_service_namespace=\"app\"",
        "request_protocol=\"http\"",
        "connection_security_policy=\"mutual_tls\"",
        "response_flags=\"-\"",
    ];
    let web = [&from[..], &web[..]].concat();
    let with = |labels: &[&'static str], more: &[&'static str]| [labels, more].concat();
    let (good, missing) = ("response_code=\"200\"", "response_code=\"404\"");
    must_count(metrics, REQUESTS, &with(&web, &[good]), 3.0)?;
    must_count(metrics, REQUESTS, &with(&web, &[missing]), 1.0)?;
    let unrouted = [missing, "response_flags=\"NR\""];
    must_count(metrics, REQUESTS, &with(&from, &unrouted), 1.0)?;
    let grpc = [
        "request_protocol=\"grpc\"",
        "destination_workload=\"talk\"",
        good,
    ];
    let grpc = with(&from, &grpc);
    let status = |code| with(&grpc, &[code]);
    let answered = status("grpc_response_status=\"0\"");
    must_count(metrics, REQUESTS, &answered, 2.0)?;
    let failed = status("grpc_response_status=\"9\"");
    must_count(metrics, REQUESTS, &failed, 1.0)?;
    must_count(metrics, REQUESTS, &[], 8.0)?;
    let bodies = 3.0 * BODY.len() as f64;
    let good_web = with(&web, &[good]);
    must_count(metrics, "istio_response_bytes_sum", &good_web, bodies)?;
    must_count(metrics, "istio_response_bytes_count", &good_web, 3.0)?;
    must_count(metrics, "istio_request_bytes_sum", &good_web, 0.0)?;
    // Each message has five bytes before it.
    let sent = metrics.sum("istio_request_bytes_sum", &grpc);
    ensure!(sent > 15.0, "{sent} bytes of gRPC's requests");
    const DURATION: &str = "istio_request_duration_milliseconds";
    must_count(metrics, &format!("{DURATION}_count"), &[], 8.0)?;
    let all = with(&good_web, &["le=\"+Inf\""]);
    must_count(metrics, &format!("{DURATION}_bucket"), &all, 3.0)?;
    let rule = ["route=\"HTTPRoute/app/shop\"", "outcome=\"success\""];
    must_count(metrics, "culvert_route_requests_total", &rule, 3.0)?;
    let lines = metrics.text().lines();
    for line in lines.filter(|line| line.starts_with("istio_requests_total{")) {
        let lacks = LABELS
            .iter()
            .find(|name| !line.contains(&format!("{name}=\"")));
        ensure!(lacks.is_none(), "{lacks:?} is not in {line}");
    }
    Ok(())
}

fn counted_at_the_waypoint(metrics: &Metrics) -> Result<()> {
    let from = [
        "reporter=\"waypoint\"",
        "source_workload=\"client\"",
        "source_workload_namespace=\"app\"",
        "source_principal=\"spiffe://cluster.local/ns/app/sa/client\"",
        "connection_security_policy=\"mutual_tls\"",
        "response_code=\"200\"",
    ];
    let to = |labels: &[&'static str]| [&from[..], labels].concat();
    let web = to(&[
        "destination_workload=\"web\"",
        "destination_principal=\"spiffe://cluster.local/ns/app/sa/web\"",
        "destination_service=\"web.app.svc.cluster.local\"",
        "request_protocol=\"http\"",
    ]);
    must_count(metrics, REQUESTS, &web, 2.0)?;
    let grpc = |status| {
        to(&[
            "destination_workload=\"talk\"",
            "request_protocol=\"grpc\"",
            status,
        ])
    };
    let answered = grpc("grpc_response_status=\"0\"");
    must_count(metrics, REQUESTS, &answered, 2.0)?;
    let failed = grpc("grpc_response_status=\"9\"");
    must_count(metrics, REQUESTS, &failed, 1.0)?;
    must_count(metrics, REQUESTS, &[], 5.0)
}

/// Fields of the access log that every request has, in the words of README.
const ALWAYS: [&str; 14] = [
    "src.addr",
    "src.workload",
    "src.namespace",
    "src.identity",
    "listener.port",
    "http.method",
    "http.host",
    "http.path",
    "http.version",
    "http.status",
    "bytes_recv",
    "bytes_sent",
    "duration",
    "reason",
];
/// Those of a request that an endpoint answered by a rule.
const ANSWERED: [&str; 6] = [
    "dst.addr",
    "dst.service",
    "dst.workload",
    "dst.namespace",
    "route",
    "rule",
];

fn logged_as_json(scene: &Scene) -> Result<()> {
    let lines = poll::until("lines of the access log", PATIENCE, || {
        let lines = scene.lines(0);
        ensure!(lines.len() == 8, "{} lines:\n{lines:#?}", lines.len());
        Ok(lines)
    })?;
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect::<Result<_>>()?;
    let one = |what: &dyn Fn(&Value) -> bool| {
        let found = lines.iter().find(|line| what(line));
        found.with_context(|| format!("no such line among {lines:#?}"))
    };
    let fields = |line: &Value, want: &[&str]| {
        let object = line.as_object().into_iter().flatten();
        let found: BTreeSet<_> = object.map(|(name, _)| name.as_str()).collect();
        let frame = ["level", "time", "scope", "message"];
        let want: BTreeSet<_> = frame.iter().chain(want).copied().collect();
        ensure!(found == want, "{found:?} instead of {want:?}");
        Ok(())
    };
    let good = one(&|line| line["http.status"] == 200 && line["http.method"] == "GET")?;
    fields(good, &[&ALWAYS[..], &ANSWERED[..]].concat())?;
    let told = json!({
        "scope": "access",
        "src.workload": "front",
        "src.namespace": "app",
        "src.identity": "spiffe://cluster.local/ns/app/sa/front",
        "dst.service": "web.app.svc.cluster.local",
        "dst.workload": "web",
        "dst.namespace": "app",
        "listener.port": LISTEN,
        "http.host": "shop.example",
        "http.path": "/",
        "http.version": "HTTP/1.1",
        "route": "HTTPRoute/app/shop",
        "rule": "0",
        "bytes_recv": 0,
        "bytes_sent": BODY.len(),
        "reason": "ok",
    });
    let told = told.as_object().into_iter().flatten();
    for (name, value) in told {
        ensure!(
            good[name] == *value,
            "{name} is {} and not {value}",
            good[name]
        );
    }
    let missing = one(&|line| line["http.path"] == "/missing")?;
    ensure!(
        !missing.to_string().contains("secret"),
        "a query is logged: {missing}"
    );
    let unrouted = one(&|line| line["reason"] == "no-route")?;
    fields(unrouted, &[&ALWAYS[..], &["error"]].concat())?;
    let failed = one(&|line| line["grpc.status"] == 9)?;
    let with_status = [&ALWAYS[..], &ANSWERED[..], &["grpc.status"]].concat();
    fields(failed, &with_status)?;
    ensure!(failed["http.version"] == "HTTP/2.0", "{failed}");
    ensure!(failed["http.path"] == "/culvert.demo.Echo/Fail", "{failed}");
    Ok(())
}

/// A gateway that ends has written the lines of all its requests, those of the last moment, too.
fn logged_to_the_last(scene: &Scene) -> Result<()> {
    let before = scene.lines(0).len();
    let url = format!("http://{}/?[1-50]", scene.edge());
    let codes = get(scene.outsider.place(), "shop.example", &url, &[])?;
    ensure!(codes.len() == 50, "{codes:?}");
    let status = scene.front.process().terminate(PATIENCE)?;
    ensure!(status.success(), "it did not end well: {status}");
    let lines = scene.lines(0).len() - before;
    ensure!(lines == 50, "{lines} lines of 50 requests");
    Ok(())
}

fn logged_as_text(scene: &Scene) -> Result<()> {
    let lines = poll::until("lines of the waypoint's access log", PATIENCE, || {
        let lines = scene.lines(1);
        ensure!(lines.len() == 5, "{} lines:\n{lines:#?}", lines.len());
        Ok(lines)
    })?;
    let line = lines.iter().find(|line| line.contains("http.path=\"/\""));
    let line = line.with_context(|| format!("no GET among {lines:#?}"))?;
    let parts: Vec<&str> = line.split('\t').collect();
    let [time, "info", "access", "request complete", fields] = parts[..] else {
        anyhow::bail!("not a line of the access log: {line:?}");
    };
    ensure!(time.len() == 27 && time.ends_with('Z'), "{time}");
    let found: BTreeSet<_> = fields
        .split(' ')
        .filter_map(|field| Some(field.split_once('=')?.0))
        .collect();
    let want: BTreeSet<_> = ALWAYS.iter().chain(&ANSWERED).copied().collect();
    ensure!(found == want, "{found:?} instead of {want:?}");
    let client = scene.client.ips()[0];
    for part in [
        &format!("src.addr=\"{client}:"),
        "src.workload=\"client\" src.namespace=\"app\"",
        "src.identity=\"spiffe://cluster.local/ns/app/sa/client\"",
        "dst.service=\"web.app.svc.cluster.local\" dst.workload=\"web\"",
        "listener.port=80 ",
        "http.status=200 ",
        &format!("bytes_sent={} ", BODY.len()),
    ] {
        ensure!(line.contains(part), "no {part} in {line}");
    }
    let failed = lines.iter().find(|line| line.contains("grpc.status=9 "));
    let failed = failed.with_context(|| format!("no failed call among {lines:#?}"))?;
    ensure!(failed.contains("route=\"GRPCRoute/app/mesh\""), "{failed}");
    Ok(())
}

/// What an operator sees of the same requests, and of a change.
fn shown(cluster: &Cluster, scene: &Scene) -> Result<()> {
    let routes = || -> Result<Value> {
        let text = scene.front.say(&["routes", "--json"])?;
        serde_json::from_str(&text).context("culvert routes --json")
    };
    let told = routes()?;
    let listener = json!({
        "name": "http", "port": LISTEN, "protocol": "HTTP", "hostname": null
    });
    ensure!(told["listeners"] == json!([listener]), "{told}");
    let all = told["routes"].as_array().context("no routes")?;
    let rule = |route: &str| {
        let found = all.iter().find(|one| one["route"] == route);
        found.map_or(&Value::Null, |one| &one["rules"][0])
    };
    let shop = rule("HTTPRoute/app/shop");
    ensure!(
        shop["requests"] == 4
            && shop["clientErrors"] == 1
            && shop["serverErrors"] == 0
            && shop["success"] == 1.0,
        "{shop}"
    );
    let [half, most] = ["p50", "p99"].map(|share| shop["latencyMs"][share].as_f64());
    ensure!(
        half.is_some_and(|half| half > 0.0) && half <= most,
        "{shop}"
    );
    let talk = rule("GRPCRoute/app/talk");
    ensure!(talk["requests"] == 3 && talk["clientErrors"] == 1, "{talk}");
    let backends = told["backends"].as_array().context("no backends")?;
    ensure!(
        backends.len() == 2
            && backends
                .iter()
                .all(|one| one["endpoints"][0]["state"] == "ready"),
        "{backends:?}"
    );
    let text = scene.front.say(&["routes"])?;
    let line = text
        .lines()
        .find(|line| line.contains("HTTPRoute/app/shop"));
    let line = line.with_context(|| format!("no rule in {text}"))?;
    ensure!(
        line.contains("every request") && line.contains("app/web.") && line.contains("100.00%"),
        "{line}"
    );
    let status = scene.front.say(&["status"])?;
    ensure!(
        status.contains("5 succeeded, 2 client errors, 0 server errors"),
        "{status}"
    );
    let other = ROUTES.replace("shop.example", "store.example");
    cluster.manifests().write("routes", &other)?;
    poll::until("the change is shown", PATIENCE, || {
        let told = routes()?;
        ensure!(told.to_string().contains("store.example"), "{told}");
        // The same rule: what was counted stays.
        ensure!(told.to_string().contains("\"requests\":4"), "{told}");
        Ok(())
    })
}

/// A caller's context: header lines, its trace and its span.
struct Caller {
    headers: &'static [&'static str],
    trace: &'static str,
    span: &'static str,
}

const CALLERS: [Caller; 3] = [
    Caller {
        headers: &[
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "tracestate: vendor=1",
        ],
        trace: "0af7651916cd43dd8448eb211c80319c",
        span: "b7ad6b7169203331",
    },
    Caller {
        headers: &["b3: 1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-1"],
        trace: "1af7651916cd43dd8448eb211c80319c",
        span: "c7ad6b7169203331",
    },
    Caller {
        headers: &[
            "x-b3-traceid: 2af7651916cd43dd8448eb211c80319c",
            "x-b3-spanid: d7ad6b7169203331",
            "x-b3-sampled: 1",
        ],
        trace: "2af7651916cd43dd8448eb211c80319c",
        span: "d7ad6b7169203331",
    },
];

/// Callers that do not want to be sampled, by each of the three forms.
const UNSAMPLED: [&[&str]; 3] = [
    &["traceparent: 00-3af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"],
    &["b3: 0"],
    &[
        "x-b3-traceid: 4af7651916cd43dd8448eb211c80319c",
        "x-b3-spanid: d7ad6b7169203331",
        "x-b3-sampled: 0",
    ],
];

/// What is sent last.
const LAST: &str = "ffffffffffffffffffffffffffffffff";
/// Requests whose callers do not decide, of which a half are sampled.
const UNDECIDED: usize = 100;

fn spans(cluster: &Cluster) -> Result<()> {
    // The address of the collector is known before the gateways are started.
    namespaces(cluster)?;
    let pod = cluster.pod(&PodSpec::new(OUTSIDE, "collector").outside())?;
    let port = COLLECTOR.to_string();
    let words = ["collector.py", port.as_str()];
    let collector = python(cluster, pod.place(), "collector", &words)?;
    let before = poll::until("the collector", PATIENCE, || {
        collector.must_run()?;
        let log = collector.log();
        ensure!(log.ends_with("listening\n"), "{log}");
        Ok(log.len())
    })?;
    let endpoint = format!("http://{}", pod.sockets(COLLECTOR)[0]);
    let half = [
        "--trace-endpoint",
        &endpoint,
        "--trace-sampling",
        "50",
        "--log-json",
    ];
    let none = ["--trace-endpoint", &endpoint, "--trace-sampling", "0"];
    let through = ", culvert.dev/ingress-use-waypoint: 'true'";
    let scene = Scene::start(cluster, through, [&half, &none])?;
    let (to, outside) = (scene.edge(), scene.outsider.place());
    let ask = |headers: &[&str], path: &str| {
        let words: Vec<&str> = headers.iter().flat_map(|line| ["--header", line]).collect();
        let codes = get(
            outside,
            "shop.example",
            &format!("http://{to}{path}"),
            &words,
        )?;
        ensure!(
            codes.iter().all(|code| *code == 200),
            "{headers:?}: {codes:?}"
        );
        Ok(codes.len())
    };
    for caller in &CALLERS {
        ask(caller.headers, "/")?;
    }
    for headers in UNSAMPLED {
        ask(headers, "/")?;
    }
    let asked = ask(&[], &format!("/?[1-{UNDECIDED}]"))?;
    ensure!(asked == UNDECIDED, "{asked} requests");
    // A waypoint whose share is 0 samples nothing of its own accord.
    let vip = service_sockets(scene.web, WEB)[0];
    let codes = get(scene.client.place(), "web", &format!("http://{vip}/"), &[])?;
    ensure!(codes == [200], "{codes:?}");
    let last = format!("traceparent: 00-{LAST}-b7ad6b7169203331-01");
    ask(&[&last], "/")?;
    let told = || -> Result<Vec<Value>> {
        let log = collector.log();
        // The last line may be on its way.
        let all = log.get(before..).unwrap_or_default();
        let lines = all.rsplit_once('\n').map_or("", |(lines, _)| lines).lines();
        lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    poll::until("the spans of both", PATIENCE, || {
        let spans = told()?;
        let last = spans.iter().filter(|span| span["trace"] == LAST);
        ensure!(last.count() == 2, "{} spans so far", spans.len());
        joined(&spans)?;
        sampled(&scene, &spans)
    })
}

fn by<'a>(spans: &'a [Value], gateway: &'a str) -> impl Iterator<Item = &'a Value> {
    let is_by = move |span: &&Value| span["resource"]["service.name"] == gateway;
    spans.iter().filter(is_by)
}

fn joined(spans: &[Value]) -> Result<()> {
    for caller in &CALLERS {
        let of = |gateway| {
            let found: Vec<_> = by(spans, gateway)
                .filter(|span| span["trace"] == caller.trace)
                .collect();
            ensure!(found.len() == 1, "{gateway}: {found:?}");
            Ok(found[0])
        };
        let (front, watch) = (of("front")?, of("watch")?);
        ensure!(front["parent"] == caller.span, "{front}");
        ensure!(watch["parent"] == front["span"], "{watch} after {front}");
        ensure!(front["span"] != caller.span, "{front}");
        for span in [front, watch] {
            ensure!(
                span["kind"] == 2
                    && span["flags"] == 1
                    && span["scope"] == "culvert"
                    && span["error"].is_null()
                    && span["resource"]["service.namespace"] == "app"
                    && span["attributes"]["http.response.status_code"] == 200
                    && span["attributes"]["http.request.method"] == "GET"
                    && span["attributes"]["url.path"] == "/"
                    && span["end"].as_u64() > span["start"].as_u64(),
                "{span}"
            );
        }
        ensure!(front["name"] == "GET HTTPRoute/app/shop", "{front}");
        let principal = "spiffe://cluster.local/ns/app/sa/front";
        ensure!(
            watch["attributes"]["culvert.source.principal"] == principal,
            "{watch}"
        );
    }
    let of_w3c = by(spans, "watch").find(|span| span["trace"] == CALLERS[0].trace);
    let state = of_w3c.map(|span| &span["state"]);
    ensure!(state == Some(&json!("vendor=1")), "{state:?}");
    Ok(())
}

fn sampled(scene: &Scene, spans: &[Value]) -> Result<()> {
    let own = |gateway| {
        let is_own = |span: &&Value| {
            let trace = span["trace"].as_str().unwrap_or_default();
            let callers = CALLERS.iter().map(|caller| caller.trace);
            !callers.chain([LAST]).any(|known| known == trace)
        };
        by(spans, gateway).filter(is_own).collect::<Vec<_>>()
    };
    let (front, watch) = (own("front"), own("watch"));
    // Six standard deviations, and nothing of those whose callers did not want it.
    ensure!((20..=80).contains(&front.len()), "{} spans", front.len());
    ensure!(front.iter().all(|span| span["parent"] == ""), "{front:?}");
    let ids = |spans: &[&Value], id: &str| -> BTreeSet<String> {
        spans.iter().map(|span| span[id].to_string()).collect()
    };
    ensure!(
        ids(&front, "span") == ids(&watch, "parent") && front.len() == watch.len(),
        "the waypoint samples what the edge does: {} and {}",
        front.len(),
        watch.len()
    );
    // What is sampled says so in its access-log line.
    let traced = poll::until("lines of what is sampled", PATIENCE, || {
        let lines = scene.lines(0);
        let traced = lines.iter().filter(|line| line.contains("\"trace.id\":"));
        let traced = traced.count();
        ensure!(
            traced == front.len() + CALLERS.len() + 1,
            "{traced} lines with a trace"
        );
        Ok(traced)
    })?;
    let metrics = scene.front.metrics(&scene.front_pod)?;
    let exported = metrics.sum("culvert_spans_exported_total", &[]);
    ensure!(exported == traced as f64, "{exported} exported");
    must_count(&metrics, "culvert_spans_dropped_total", &[], 0.0)?;
    println!("  {} of {UNDECIDED} were sampled", front.len());
    Ok(())
}

const FRONT: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: app}
spec:
  gatewayClassName: culvert
  listeners: [{name: http, port: 8000, protocol: HTTP}]
";

const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: app}
spec:
  parentRefs: [{name: front}]
  hostnames: [shop.example]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: talk, namespace: app}
spec:
  parentRefs: [{name: front}]
  hostnames: [talk.example]
  rules: [{backendRefs: [{name: talk, port: 8080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: mesh, namespace: app}
spec:
  parentRefs: [{group: '', kind: Service, name: talk}]
  rules: [{backendRefs: [{name: talk, port: 8080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mesh, namespace: app}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";
