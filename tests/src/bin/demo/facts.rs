//! The facts. Each function does what its line says and gives the evidence, or says why not.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests::apps::{SMALL_BODY, SMALL_PATH};
use tests::capture::Capture;
use tests::cluster::service_sockets;
use tests::lab::{Lab, MESHED, WEB_PORT};
use tests::manifests::{authorization_policy, peer_authentication};
use tests::stopwatch::Stopwatch;
use tests::{Place, http, poll};

/// Shows one fact.
pub(crate) type Show = fn(&Lab) -> Result<String>;

/// Every fact, in the order shown.
pub(crate) const ALL: &[(&str, Show)] = &[
    (
        "HTTP works unchanged, by name, over IPv4 and IPv6",
        http_works,
    ),
    (
        "Redis works unchanged, by name, over IPv4 and IPv6",
        redis_works,
    ),
    (
        "the link between the nodes carries only TLS",
        link_is_encrypted,
    ),
    (
        "the servers see the true client address",
        true_client_address,
    ),
    (
        "an unauthorised service account is refused, and the log names the policy",
        unauthorised,
    ),
    (
        "plaintext from outside: refused under STRICT, accepted under PERMISSIVE",
        plaintext,
    ),
    (
        "a probe from the node's own namespace passes under STRICT",
        host_probe,
    ),
    ("a policy edit takes effect on a live connection", live_edit),
    (
        "certificates rotate under traffic without an error",
        rotation,
    ),
];

const HBONE_PORT: u16 = 15008;
const CLIENT: &str = "cluster.local/ns/demo/sa/client";
const INTRUDER: &str = "cluster.local/ns/demo/sa/intruder";
const RECHECK_LIMIT: Duration = Duration::from_secs(2);

fn http_works(lab: &Lab) -> Result<String> {
    let mut seen = Vec::new();
    for family in ["-4", "-6"] {
        let answer = lab.client.check(&[
            "curl",
            "-sS",
            family,
            "-m",
            "15",
            "-w",
            "%{http_code} %{remote_ip}",
            "http://web/",
        ])?;
        ensure!(
            answer.starts_with("hello from web\n200 "),
            "curl says {answer:?}"
        );
        seen.push(answer.lines().last().unwrap_or_default().to_owned());
    }
    Ok(format!("curl http://web/ -> {}", seen.join(", ")))
}

fn redis_works(lab: &Lab) -> Result<String> {
    for ip in [
        IpAddr::from(lab.cache_service.v4),
        lab.cache_service.v6.into(),
    ] {
        let value = format!("set through {ip}");
        let ip = ip.to_string();
        let set = lab
            .client
            .check(&["redis-cli", "-h", &ip, "set", "demo", &value])?;
        ensure!(set.trim() == "OK", "SET answers {set:?}");
        let got = lab
            .client
            .check(&["redis-cli", "-h", "cache", "get", "demo"])?;
        ensure!(got.trim() == value, "GET answers {got:?}");
    }
    Ok("redis-cli: SET and GET through both cluster IPs".to_owned())
}

/// Both pairs send the same file over the same captured link.
fn link_is_encrypted(lab: &Lab) -> Result<String> {
    let marker = format!("plaintext-marker-of-run-{}", std::process::id());
    let body = format!("{marker}\n").repeat((1 << 20) / marker.len());
    fs::write(lab.web_app.root().join("marked"), &body)?;
    fs::write(lab.outside_app.root().join("marked"), &body)?;
    let node = lab.cluster.node(1)?;
    let capture = Capture::start(lab.cluster.run(), node.host(), "up0", "link")?;
    let meshed: Vec<SocketAddr> = lab.web.sockets(WEB_PORT).into();
    for to in &meshed {
        ensure!(
            http::get(&lab.client, *to, "/marked")?.body == body,
            "{to} sent something else"
        );
    }
    for to in lab.outside_web.sockets(WEB_PORT) {
        ensure!(
            http::get(&lab.outsider, to, "/marked")?.body == body,
            "{to} sent something else"
        );
    }
    let captured = capture.finish()?;
    let outside = lab.outsider.ips();
    let (unmeshed, meshed): (Vec<_>, Vec<_>) = captured.segments.into_iter().partition(|segment| {
        outside.contains(&segment.source.0) || outside.contains(&segment.destination.0)
    });
    let unmeshed = tests::capture::Captured { segments: unmeshed };
    let meshed = tests::capture::Captured { segments: meshed };
    let payload = 2 * body.len() as u64;
    let tls = meshed.tls_bytes(HBONE_PORT)?;
    let leaked = meshed.count(marker.as_bytes());
    let plain = unmeshed.count(marker.as_bytes());
    ensure!(
        tls >= payload,
        "{tls} TLS bytes on {HBONE_PORT} for {payload} bytes of payload"
    );
    ensure!(
        leaked == 0,
        "the marker was seen {leaked} times between meshed pods"
    );
    ensure!(
        plain > 0,
        "the capture does not even see the marker of the unmeshed pair"
    );
    Ok(format!(
        "{payload} bytes sent, {tls} TLS bytes on {HBONE_PORT}, marker seen 0 times; \
         unmeshed pair: {plain} times"
    ))
}

fn true_client_address(lab: &Lab) -> Result<String> {
    for (index, to) in lab.web.sockets(WEB_PORT).into_iter().enumerate() {
        let path = format!("/?who{index}");
        http::get(&lab.client, to, &path)?;
        let line = poll::until("nginx' log", Duration::from_secs(10), || {
            lab.web_app
                .requests()
                .into_iter()
                .find(|line| line.contains(&path))
                .context("not logged")
        })?;
        let expected = lab.client.ips()[index].to_string();
        ensure!(
            line.starts_with(&format!("{expected} ")),
            "nginx saw {line:?}, not {expected}"
        );
    }
    let [v4, _] = lab.client.ips();
    let command = ["redis-cli", "-h", "cache", "client", "list"];
    let clients = lab.client.check(&command)?;
    ensure!(
        clients.contains(&format!("addr={v4}:"))
            || clients.contains(&format!("addr=[{}]:", lab.client.ips()[1])),
        "redis saw {clients:?}"
    );
    Ok(format!(
        "nginx logged {v4} and {}; redis CLIENT LIST agrees",
        lab.client.ips()[1]
    ))
}

fn unauthorised(lab: &Lab) -> Result<String> {
    let rules = format!("[{{from: [{{source: {{principals: [\"{INTRUDER}\"]}}}}]}}]");
    let policy = authorization_policy(MESHED, "no-intruders", "DENY", Some("web"), &rules);
    lab.cluster.apply("no-intruders", &policy)?;
    for to in service_sockets(lab.web_service, WEB_PORT) {
        must_not_answer(&lab.intruder, to)?;
        must_answer(&lab.client, to)?;
    }
    let agent = lab.cluster.node(2)?.agent()?;
    let line = agent.wait_log(&["no-intruders", "policy-denied"], Duration::from_secs(10))?;
    lab.cluster.unapply("no-intruders")?;
    Ok(format!(
        "client 200, intruder reset; log: {}",
        shorten(&line)
    ))
}

fn plaintext(lab: &Lab) -> Result<String> {
    mode(lab, "STRICT")?;
    for to in lab.web.sockets(WEB_PORT) {
        must_not_answer(&lab.outsider, to)?;
        must_answer(&lab.client, to)?;
    }
    mode(lab, "PERMISSIVE")?;
    for to in lab.web.sockets(WEB_PORT) {
        must_answer(&lab.outsider, to)?;
    }
    Ok("outsider -> web: STRICT reset, PERMISSIVE 200; client 200 in both".to_owned())
}

fn host_probe(lab: &Lab) -> Result<String> {
    mode(lab, "STRICT")?;
    let node = lab.cluster.node(2)?;
    for to in lab.web.sockets(WEB_PORT) {
        must_answer(node.host(), to)?;
        must_not_answer(&lab.outsider, to)?;
    }
    lab.cluster.unapply("mode")?;
    Ok(format!(
        "{} -> web: 200, while the outsider is refused",
        node.host().name()
    ))
}

fn live_edit(lab: &Lab) -> Result<String> {
    let rules = format!("[{{from: [{{source: {{principals: [\"{CLIENT}\"]}}}}]}}]");
    let policy = authorization_policy(MESHED, "no-client", "DENY", Some("web"), &rules);
    let mut times = Vec::new();
    for to in service_sockets(lab.web_service, WEB_PORT) {
        let mut live = KeepAlive::open(&lab.client, to)?;
        live.request().context("before the edit")?;
        let (start, watch) = (Instant::now(), Stopwatch::start());
        lab.cluster.manifests().write("no-client", &policy)?;
        while live.request().is_ok() {
            let open = watch.took();
            ensure!(
                open <= RECHECK_LIMIT,
                "still served {open:?} after the edit"
            );
            thread::sleep(Duration::from_millis(10));
        }
        times.push(format!("{} ms", start.elapsed().as_millis()));
        lab.cluster.unapply("no-client")?;
        must_answer(&lab.client, to).context("after the policy was removed")?;
    }
    Ok(format!(
        "denied connections closed {} after the edit; served again when removed",
        times.join(" and ")
    ))
}

fn rotation(lab: &Lab) -> Result<String> {
    let before = serials(lab)?;
    let (stop, requests) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let start = Instant::now();
    let rotated = thread::scope(|scope| -> Result<()> {
        let load: Vec<_> = service_sockets(lab.web_service, WEB_PORT)
            .into_iter()
            .map(|to| scope.spawn(move || keep_busy(&lab.client, to, stop, requests)))
            .collect();
        let waited = poll::until("new certificates", Duration::from_secs(60), || {
            all_renewed(&before, &serials(lab)?)
        });
        // Live a moment with the new ones.
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::SeqCst);
        for thread in load {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a load thread panicked"),
            }
        }
        waited
    });
    rotated?;
    Ok(format!(
        "{} certificates replaced in {:.0} s; {} requests, new and kept-alive connections, 0 errors",
        before.len(),
        start.elapsed().as_secs_f64(),
        requests.load(Ordering::SeqCst)
    ))
}

/// Serial numbers by node and identity, of the identities the demo's traffic uses.
fn serials(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let mut serials = BTreeMap::new();
    for (number, account) in [(1, "client"), (2, "web")] {
        let status = lab.cluster.node(number)?.agent()?.status()?;
        let identity = format!("spiffe://cluster.local/ns/demo/sa/{account}");
        let serial = status["certificates"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["identity"] == identity.as_str())
            .and_then(|entry| entry["serial"].as_str())
            .with_context(|| format!("node {number} has no certificate of {identity}"))?;
        serials.insert(format!("n{number} {identity}"), serial.to_owned());
    }
    Ok(serials)
}

fn all_renewed(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Result<()> {
    for (name, serial) in before {
        ensure!(
            now.get(name).is_some_and(|now| now != serial),
            "{name} is not renewed"
        );
    }
    Ok(())
}

/// A request on a kept connection and one on a new connection, again and again.
fn keep_busy(place: &Place, to: SocketAddr, stop: &AtomicBool, requests: &AtomicU64) -> Result<()> {
    let mut kept = KeepAlive::open(place, to)?;
    while !stop.load(Ordering::SeqCst) {
        kept.request()
            .context("on a kept connection during rotation")?;
        must_answer(place, to).context("on a new connection during rotation")?;
        requests.fetch_add(2, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn mode(lab: &Lab, mode: &str) -> Result<()> {
    lab.cluster
        .apply("mode", &peer_authentication(MESHED, mode))
}

/// A new connection and a request on it.
pub(crate) fn must_answer(place: &Place, to: SocketAddr) -> Result<()> {
    let answer = http::get(place, to, SMALL_PATH)?;
    ensure!(
        answer.status == 200 && answer.body == SMALL_BODY,
        "{} -> {to}: {answer:?}",
        place.name()
    );
    Ok(())
}

/// A refusal is a reset or an end, soon; an answer or a hang is none.
fn must_not_answer(place: &Place, to: SocketAddr) -> Result<()> {
    let Ok(mut stream) = place.connect(to, Duration::from_secs(2)) else {
        return Ok(());
    };
    // The write may already meet the reset.
    let _ = stream.write_all(b"GET /small HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    ensure!(answer.is_empty(), "{} -> {to} was answered", place.name());
    if let Err(error) = ended {
        let hangs = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        ensure!(
            !hangs,
            "{} -> {to} hangs instead of being refused",
            place.name()
        );
    }
    Ok(())
}

/// One HTTP connection kept alive.
pub(crate) struct KeepAlive {
    stream: BufReader<TcpStream>,
}

impl KeepAlive {
    /// Connects.
    pub(crate) fn open(place: &Place, to: SocketAddr) -> Result<Self> {
        let stream = place.connect(to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// One request and its answer.
    pub(crate) fn request(&mut self) -> Result<()> {
        let request = format!("GET {SMALL_PATH} HTTP/1.1\r\nHost: web\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            ensure!(
                self.stream.read_line(&mut line)? > 0,
                "the connection ended"
            );
        }
        let mut body = vec![0; SMALL_BODY.len()];
        self.stream.read_exact(&mut body)?;
        ensure!(body == SMALL_BODY.as_bytes(), "another body: {body:?}");
        Ok(())
    }
}

/// The tail of a log line, where the fields that matter here are.
fn shorten(line: &str) -> String {
    let fields: Vec<&str> = line
        .split('\t')
        .flat_map(|part| part.split(' '))
        .filter(|field| {
            ["src.identity", "reason", "policy"]
                .iter()
                .any(|name| field.starts_with(name))
        })
        .collect();
    if fields.is_empty() {
        line.to_owned()
    } else {
        fields.join(" ")
    }
}
