//! Where requests go.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use tests::poll;
use tests::process::Process;

use super::edge::{Edge, HTTPS, LIMIT};

const V1: usize = 0;
const V2: usize = 1;
const SHADOW: usize = 2;

pub(super) fn canary(edge: &Edge<'_>) -> Result<String> {
    const REQUESTS: usize = 10_000;
    let mut client = edge.client()?;
    let mut answers = [0; 2];
    for _ in 0..REQUESTS {
        let answer = client.get("canary.example", "/?canary", &[])?.must(200)?;
        match answer.body.as_str() {
            "hello from v1\n" => answers[V1] += 1,
            "hello from v2\n" => answers[V2] += 1,
            other => bail!("{other:?} is of neither version"),
        }
    }
    // Four standard deviations: one run in sixteen thousand is outside.
    ensure!((880..=1120).contains(&answers[V2]), "{answers:?}");
    poll::until("the versions' own logs", LIMIT, || {
        let seen = [V1, V2].map(|version| edge.seen(version, "/?canary"));
        ensure!(seen == answers, "{seen:?} for answers {answers:?}");
        Ok(())
    })?;
    Ok(format!(
        "of {REQUESTS} requests v2 answered {}, v1 {}, none failed; their own logs say the same",
        answers[V2], answers[V1]
    ))
}

pub(super) fn by_header(edge: &Edge<'_>) -> Result<String> {
    let mut client = edge.client()?;
    let mut seen = Vec::new();
    for (headers, want) in [(&[][..], "v1"), (&["x-group: b"][..], "v2")] {
        for _ in 0..20 {
            let answer = client.get("shop.example", "/", headers)?.must(200)?;
            ensure!(answer.body == format!("hello from {want}\n"), "{answer:?}");
        }
        let header = headers.first().unwrap_or(&"no x-group");
        seen.push(format!("{header} -> {want}"));
    }
    Ok(format!("20 requests each: {}", seen.join(", ")))
}

pub(super) fn mirror(edge: &Edge<'_>) -> Result<String> {
    const REQUESTS: usize = 200;
    const FROZEN: usize = 20;
    let mut client = edge.client()?;
    for number in 0..REQUESTS {
        let path = format!("/?mirrored={number}");
        client.get("mirror.example", &path, &[])?.must(200)?;
    }
    let (seen, original) = poll::until("the logs of both", LIMIT, || {
        let (seen, original) = (edge.seen(SHADOW, "mirrored"), edge.seen(V1, "mirrored"));
        let least = seen.min(original);
        ensure!(least >= REQUESTS, "{seen} and {original} of {REQUESTS}");
        Ok((seen, original))
    })?;
    ensure!(
        seen == REQUESTS && original == REQUESTS,
        "{seen} and {original}"
    );
    let waited = while_frozen(edge.web[SHADOW].process(), || {
        let start = Instant::now();
        for _ in 0..FROZEN {
            client.get("mirror.example", "/", &[])?.must(200)?;
        }
        Ok(start.elapsed())
    })?;
    ensure!(waited < Duration::from_secs(3), "waited {waited:?}");
    Ok(format!(
        "{original} requests at v1, the same {seen} at the shadow; while it was frozen, {FROZEN} took {} ms",
        waited.as_millis()
    ))
}

/// Runs something while a server and its workers do not.
fn while_frozen<T>(server: &Process, work: impl FnOnce() -> Result<T>) -> Result<T> {
    server.signal_all(Signal::SIGSTOP)?;
    let result = work();
    server.signal_all(Signal::SIGCONT)?;
    result
}

pub(super) fn https(edge: &Edge<'_>) -> Result<String> {
    let mut client = edge.client()?;
    let redirect = client.get("secure.example", "/old/x", &[])?.must(301)?;
    let location = redirect.header("location").unwrap_or_default().to_owned();
    ensure!(
        location == format!("https://secure.example:{HTTPS}/old/x"),
        "{location}"
    );
    let resolve = format!("secure.example:{HTTPS}:{}", edge.pod.ips()[0]);
    let root = edge.root.display().to_string();
    let words = [
        "curl",
        "-sS",
        "-m",
        "15",
        "--cacert",
        &root,
        "--resolve",
        &resolve,
        "-w",
        " %{http_version}",
        &location,
    ];
    let answer = edge.lab.outsider.check(&words)?;
    // What nginx has no file for is a 404 with the path in its log.
    poll::until("v2's log", LIMIT, || {
        let rewritten = edge.seen(V2, "/new/x");
        ensure!(rewritten == 1, "{rewritten} requests for /new/x; {answer}");
        Ok(())
    })?;
    let version = answer.rsplit(' ').next().unwrap_or_default();
    Ok(format!(
        "301 to {location}; curl verified the certificate (HTTP/{version}); v2 saw /new/x"
    ))
}

pub(super) fn other_protocols(edge: &Edge<'_>) -> Result<String> {
    let to = edge.address().to_string();
    let grpc = edge.talk(&["grpc-call", &to, "grpc.example"])?;
    ensure!(
        grpc == "you said hello; 3 of a stream; FAILED_PRECONDITION (not today)",
        "gRPC: {grpc}"
    );
    let websocket = edge.talk(&["websocket-call", &format!("http://{to}"), "talk.example"])?;
    ensure!(
        websocket.starts_with("3 messages, the last: three"),
        "{websocket}"
    );
    Ok(format!("gRPC: {grpc}; WebSocket: {websocket}"))
}
