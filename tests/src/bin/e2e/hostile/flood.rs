//! F-86: clients that make an HTTP/2 server work for nothing, or hold what it never gives back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::Cluster;
use tests::apps::Kind;
use tests::gateway::Gateway;
use tests::process::cpu_of;
use tests::stopwatch::Stopwatch;

use super::{PATIENCE, PUBLIC, Scene, Target, read};

/// Frames of a flood.
const FRAMES: u32 = 20_000;
/// What the gateway may work for a flood: a core-second for 100,000 frames, and two for a build
/// that is not optimised.
const WORK: Duration = Duration::from_millis(400);
/// What it may hold afterwards, in KiB.
const MEMORY: u64 = 16 * 1024;
/// Longest time another client may wait meanwhile.
const VICTIM: Duration = Duration::from_secs(1);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Bytes after the preface, and whether the gateway has to end the connection for them.
struct Flood {
    name: &'static str,
    bytes: Vec<u8>,
    is_ended: bool,
}

pub(super) fn floods(cluster: &Cluster) -> Result<()> {
    let scene = Scene::start(cluster, PUBLIC, "")?;
    let nginx = scene
        .backends
        .iter()
        .find(|(_, witness)| witness.kind() == Kind::Nginx);
    let (_, witness) = nginx.context("no nginx")?;
    let target = Target::new(&scene, witness);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let victim = scope.spawn(|| victim(&target, &is_over));
        let outcome = all(&scene.gateway, &target);
        is_over.store(true, Ordering::Relaxed);
        let (served, slowest) = victim
            .join()
            .map_err(|_| anyhow!("the victim panicked"))??;
        println!("  meanwhile {served} requests of another client, the slowest took {slowest:?}");
        ensure!(slowest < VICTIM, "another client waited {slowest:?}");
        outcome
    })
}

fn all(gateway: &Gateway, target: &Target<'_>) -> Result<()> {
    let pid = gateway.process().pid();
    for flood in of_every_kind(&target.host) {
        let name = flood.name;
        let (work, memory) = (cpu_of(pid)?, rss(pid)?);
        let began = Instant::now();
        let is_ended = send(target, &flood).context(name)?;
        let work = cpu_of(pid)?.saturating_sub(work);
        let memory = rss(pid)?.saturating_sub(memory);
        println!(
            "  {name}: {work:?} of work, {memory} KiB, ended: {is_ended}, {:?}",
            began.elapsed()
        );
        gateway.process().must_run()?;
        ensure!(
            is_ended || !flood.is_ended,
            "{name}: the connection goes on"
        );
        ensure!(work <= WORK, "{name}: {work:?} of work");
        ensure!(memory <= MEMORY, "{name}: {memory} KiB more");
    }
    Ok(())
}

/// True when the gateway ended the connection. Where it has to, silence is no answer.
fn send(target: &Target<'_>, flood: &Flood) -> Result<bool> {
    let mut stream = target.place.connect(target.gateway, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    let all = [PREFACE, &settings, &flood.bytes].concat();
    // Nobody reads while it is written: what the gateway says piles up, or it stops listening.
    let written = stream.write_all(&all);
    let quiet = match flood.is_ended {
        true => PATIENCE,
        false => Duration::from_millis(500),
    };
    stream.set_read_timeout(Some(quiet))?;
    let mut buffer = vec![0; 256 * 1024];
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Ok(
                    matches!(written, Err(error) if error.kind() != std::io::ErrorKind::WouldBlock),
                );
            }
            Err(_) => return Ok(true),
        }
    }
    Ok(false)
}

/// Requests over a connection of their own until it is over: how many, and the slowest.
fn victim(target: &Target<'_>, is_over: &AtomicBool) -> Result<(usize, Duration)> {
    let mut stream: TcpStream = target.place.connect(target.gateway, PATIENCE)?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /public/victim HTTP/1.1\r\nHost: {}\r\n\r\n",
        target.host
    );
    let (mut served, mut slowest) = (0, Duration::ZERO);
    let mut buffer = [0; 4096];
    stream.set_read_timeout(Some(PATIENCE))?;
    while !is_over.load(Ordering::Relaxed) {
        let watch = Stopwatch::start();
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"public\n") {
            let length = stream.read(&mut buffer).context("another client")?;
            ensure!(length > 0, "another client's connection ended");
            answer.extend_from_slice(&buffer[..length]);
        }
        ensure!(
            answer.starts_with(b"HTTP/1.1 200 "),
            "another client is refused"
        );
        served += 1;
        slowest = slowest.max(watch.took());
        // What it costs the gateway is not the flood's.
        thread::sleep(Duration::from_millis(10));
    }
    // Its connection is none of those that ended.
    stream.write_all(
        request
            .replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
            .as_bytes(),
    )?;
    ensure!(
        read(&mut stream)?.contains("public"),
        "another client was cut off"
    );
    Ok((served, slowest))
}

fn rss(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|text| text.parse().ok())
        .context("no VmRSS")
}

fn of_every_kind(host: &str) -> Vec<Flood> {
    let streams = || (0..FRAMES).map(|number| number * 2 + 1);
    let open = |stream, path: &str| headers(stream, END_STREAM | END_HEADERS, host, path);
    let body = |stream| headers(stream, END_HEADERS, host, "/public/flood");
    let repeat = |bytes: Vec<u8>| bytes.repeat(FRAMES as usize);
    let flood = |name, is_ended, bytes| Flood {
        name,
        bytes,
        is_ended,
    };
    vec![
        flood(
            "rapid reset",
            true,
            streams()
                .flat_map(|stream| {
                    [
                        open(stream, "/public/flood"),
                        frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
                    ]
                    .concat()
                })
                .collect(),
        ),
        flood(
            "streams that the server has to reset",
            true,
            streams()
                .flat_map(|stream| {
                    [
                        open(stream, "/public/flood"),
                        frame(WINDOW_UPDATE, 0, stream, &[0; 4]),
                    ]
                    .concat()
                })
                .collect(),
        ),
        flood(
            "a head without an end",
            true,
            [
                headers(1, 0, host, "/public/flood"),
                frame(CONTINUATION, 0, 1, &field("x-long", &"x".repeat(100)))
                    .repeat(FRAMES as usize),
            ]
            .concat(),
        ),
        flood(
            "empty DATA",
            false,
            [body(1), repeat(frame(DATA, 0, 1, &[]))].concat(),
        ),
        flood(
            "settings",
            false,
            repeat(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ),
        flood("pings", false, repeat(frame(PING, 0, 0, &[7; 8]))),
        flood(
            "priorities",
            false,
            repeat(frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16])),
        ),
        flood(
            "windows that grow by nothing",
            true,
            repeat(frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ),
        flood(
            "a window beyond its limit",
            true,
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        flood("a stream of the server's", true, open(2, "/public/flood")),
        flood(
            "a stream that is over",
            true,
            [open(5, "/public/flood"), open(3, "/public/flood")].concat(),
        ),
        flood(
            "more padding than frame",
            true,
            frame(DATA, PADDED, 1, &[255, 0]),
        ),
        flood("a head that unpacks to more", false, bomb(host)),
        flood(
            "a table that changes its size",
            false,
            repeat(frame(
                HEADERS,
                END_STREAM | END_HEADERS,
                1,
                &[0x20, 0x3f, 0xe1, 0x1f],
            )),
        ),
        flood(
            "streams after the end",
            false,
            [frame(GOAWAY, 0, 0, &[0; 8]), open(1, "/public/flood")].concat(),
        ),
        flood(
            "answers that nobody reads",
            false,
            (0..200)
                .flat_map(|number| open(number * 2 + 1, "/public/big"))
                .collect(),
        ),
    ]
}

/// Fields that are short on the wire and long in memory: each names an entry of 4,000 bytes.
fn bomb(host: &str) -> Vec<u8> {
    let mut block = block(host, "/public/flood");
    // Literal with incremental indexing, new name.
    block.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    block.extend([b'y'; 4000]);
    block.extend([0xbe; 10_000]);
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

fn headers(stream: u32, flags: u8, host: &str, path: &str) -> Vec<u8> {
    frame(HEADERS, flags, stream, &block(host, path))
}

/// The pseudo-headers of a GET, or of whatever has a body (RFC 7541, appendix A).
fn block(host: &str, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, path.len() as u8];
    block.extend_from_slice(path.as_bytes());
    block.extend([0x01, host.len() as u8]);
    block.extend_from_slice(host.as_bytes());
    block
}

/// A literal field that no table keeps; both lengths are below 127.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend_from_slice(name.as_bytes());
    field.push(value.len() as u8);
    field.extend_from_slice(value.as_bytes());
    field
}
