//! Tunnels with what ztunnel and Envoy announce and do on them: windows, frames, numbers of
//! streams, resets that are no errors, headers of theirs.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::Duration;

use agent_model::HBONE_PORT;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{APP_PORT, Scene, merge};
use tests::Cluster;
use tests::traffic::{echo_on, must_refuse, must_serve, pattern};

/// Streams that a ztunnel puts into one tunnel.
const STREAMS: usize = 100;
/// More than any window: 3 MiB.
const LARGE: usize = 3 << 20;
/// A port that exists only behind the peer's tunnel.
const PORT: u16 = 9091;
const SERVER: &str = "proxy";
/// HTTP/2's names of settings and errors.
const MAX_STREAMS: &str = "3";
const WINDOW: &str = "4";
const MAX_FRAME: &str = "5";
const MAX_HEADERS: &str = "6";
const NO_ERROR: u32 = 0;
const CANCEL: u32 = 8;

/// A ztunnel is the client.
pub(super) fn into_a_pod(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    for ip in scene.target.ips() {
        let tunnel = Tunnel::dial(&scene, ip)?;
        tunnel.is_wide_enough()?;
        let mut streams = tunnel.many()?;
        tunnel.large(&streams[0])?;
        // Ends of other streams are theirs alone.
        for (stream, code) in [(streams.remove(1), CANCEL), (streams.remove(1), NO_ERROR)] {
            tunnel.ask(&json!({ "op": "reset", "stream": stream, "code": code }))?;
        }
        for stream in &streams[1..4] {
            tunnel.echo(stream, "after resets")?;
        }
        tunnel.foreign_headers()?;
        tunnel.last_words(&streams[4])?;
    }
    Ok(())
}

/// A tunnel of the peer into the target.
struct Tunnel<'a> {
    scene: &'a Scene<'a>,
    name: String,
    authority: String,
    settings: Value,
}

impl<'a> Tunnel<'a> {
    fn dial(scene: &'a Scene<'_>, ip: IpAddr) -> Result<Self> {
        let name = format!("ztunnel-{ip}");
        let told = scene.peer.must(&json!({
            "op": "dial", "conn": name, "to": [ip.to_string(), HBONE_PORT], "cert": "me",
            "profile": "ztunnel-client",
        }))?;
        Ok(Self {
            scene,
            name,
            authority: SocketAddr::new(ip, APP_PORT).to_string(),
            settings: told["settings"].clone(),
        })
    }

    /// What a ztunnel announces itself, or more.
    fn is_wide_enough(&self) -> Result<()> {
        for (setting, least) in [
            (MAX_STREAMS, STREAMS as u64),
            (WINDOW, 1 << 20),
            (MAX_FRAME, 1 << 20),
            (MAX_HEADERS, 16_384),
        ] {
            let found = self.settings[setting].as_u64().unwrap_or(0);
            ensure!(
                found >= least,
                "setting {setting} is {found}, a ztunnel needs {least}: {}",
                self.settings
            );
        }
        Ok(())
    }

    /// As many streams as a ztunnel has in one tunnel, all open at once.
    fn many(&self) -> Result<Vec<Value>> {
        let mut streams = Vec::new();
        for number in 0..STREAMS {
            let answer = self.scene.peer.connect(&self.name, &self.authority)?;
            ensure!(answer["status"] == "200", "stream {number}: {answer}");
            streams.push(answer["stream"].clone());
        }
        for (number, stream) in streams.iter().enumerate().rev() {
            self.echo(stream, &format!("stream {number}"))?;
        }
        Ok(streams)
    }

    /// More than a window, in frames as large as the agent takes them.
    fn large(&self, stream: &Value) -> Result<()> {
        let before = self.received(stream)?;
        self.ask(&json!({ "op": "send", "stream": stream, "size": LARGE }))?;
        let answer = self.ask(&json!({
            "op": "receive", "stream": stream, "count": before + LARGE as u64, "wait": 20,
        }))?;
        ensure!(answer["in_time"] == true, "{LARGE} bytes: {answer}");
        // Every byte, whatever came before them on this stream.
        self.ask(&json!({ "op": "send", "stream": stream, "text": "", "end": true }))?;
        let end = self.ask(&json!({ "op": "receive", "stream": stream, "until": "end" }))?;
        ensure!(end["received"] == json!(before + LARGE as u64), "{end}");
        let fresh = self.scene.peer.connect(&self.name, &self.authority)?["stream"].take();
        let sent = self.ask(&json!({
            "op": "send", "stream": fresh, "size": LARGE, "end": true,
        }))?;
        let echoed = self.ask(&json!({
            "op": "receive", "stream": fresh, "until": "end", "wait": 20,
        }))?;
        ensure!(echoed["sha256"] == sent["sha256"], "other bytes: {echoed}");
        Ok(())
    }

    /// Headers of gateways and waypoints decide nothing and disturb nothing.
    fn foreign_headers(&self) -> Result<()> {
        let answer = self.ask(&json!({
            "op": "connect", "authority": self.authority, "headers": [
                ["baggage", "k8s.cluster.name=other,k8s.namespace.name=far"],
                ["forwarded", "for=\"192.0.2.9:1\";host=far.example"],
                ["traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00"],
                ["x-forwarded-network", "elsewhere"],
                ["x-istio-source", "gateway"],
            ],
        }))?;
        ensure!(answer["status"] == "200", "{answer}");
        self.echo(&answer["stream"], "with headers")
    }

    /// A ztunnel that is told to stop says GOAWAY on its tunnels and lets their streams end.
    fn last_words(&self, stream: &Value) -> Result<()> {
        self.ask(&json!({ "op": "goaway" }))?;
        self.echo(stream, "after GOAWAY")?;
        self.ask(&json!({ "op": "send", "stream": stream, "text": "", "end": true }))?;
        let end = self.ask(&json!({ "op": "receive", "stream": stream, "until": "end" }))?;
        ensure!(end["ended"] == true, "the stream's end: {end}");
        self.ask(&json!({ "op": "close" })).map(drop)
    }

    fn echo(&self, stream: &Value, text: &str) -> Result<()> {
        let before = usize::try_from(self.received(stream)?)?;
        self.scene.peer.echo(&self.name, stream, text, before)
    }

    fn received(&self, stream: &Value) -> Result<u64> {
        let answer = self.ask(&json!({ "op": "receive", "stream": stream, "count": 0 }))?;
        answer["received"].as_u64().context("no count")
    }

    fn ask(&self, wish: &Value) -> Result<Value> {
        let mut wish = wish.clone();
        merge(&mut wish, json!({ "conn": self.name }));
        self.scene.peer.must(&wish)
    }
}

/// Proxies of both kinds are the servers, and one with room for very little.
pub(super) fn out_of_a_pod(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    for profile in ["ztunnel", "envoy", "narrow"] {
        scene.peer.must(&json!({
            "op": "listen", "name": SERVER, "cert": "me", "profile": profile,
        }))?;
        for to in scene.caller.sockets(PORT) {
            all_bytes(&scene, to).with_context(|| format!("{profile}: all bytes"))?;
            side_by_side(&scene, to).with_context(|| format!("{profile}: side by side"))?;
        }
        scene
            .peer
            .must(&json!({ "op": "unlisten", "name": SERVER }))?;
    }
    scene.peer.must(&json!({
        "op": "listen", "name": SERVER, "cert": "me", "profile": "ztunnel",
    }))?;
    for to in scene.caller.sockets(PORT) {
        ends(&scene, to)?;
    }
    Ok(())
}

/// A million bytes there and back, with a half-close, through whatever windows there are.
fn all_bytes(scene: &Scene<'_>, to: SocketAddr) -> Result<()> {
    let mut stream = scene.client.connect(to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let sent: Vec<u8> = pattern().iter().copied().cycle().take(1 << 20).collect();
    let mut writer = stream.try_clone()?;
    let copy = sent.clone();
    let writing = std::thread::spawn(move || -> std::io::Result<()> {
        writer.write_all(&copy)?;
        writer.shutdown(Shutdown::Write)
    });
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).context("the echo")?;
    writing.join().ok().context("writing panicked")??;
    ensure!(echoed == sent, "{} bytes came back", echoed.len());
    Ok(())
}

/// More connections than the narrow proxy allows streams in a tunnel, all open at once.
fn side_by_side(scene: &Scene<'_>, to: SocketAddr) -> Result<()> {
    let mut open = Vec::new();
    for number in 0..12 {
        let mut stream = scene.client.connect(to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        echo_on(&mut stream, b"one of many").with_context(|| format!("connection {number}"))?;
        open.push(stream);
    }
    for stream in &mut open {
        echo_on(stream, b"still there")?;
    }
    Ok(())
}

/// How a ztunnel ends streams: an error is headers and a reset that is none, a good end may be
/// followed by one too, and its 200 describes the destination.
fn ends(scene: &Scene<'_>, to: SocketAddr) -> Result<()> {
    let behave = |wishes: Value| {
        let mut wish = json!({ "op": "behave", "name": SERVER });
        merge(&mut wish, wishes);
        scene.peer.must(&wish).map(drop)
    };
    behave(json!({ "headers": [["baggage", "k8s.cluster.name=far,service.name=there"]] }))?;
    must_serve(&scene.client, to).context("baggage in the answer")?;
    for status in [401, 503] {
        behave(json!({ "status": status, "then_reset": true }))?;
        must_refuse(&scene.client, to).with_context(|| format!("{status} and a reset"))?;
    }
    behave(json!({ "finish_after": 4 }))?;
    let mut stream = scene.client.connect(to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"word")?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .context("an end that is followed by a reset without error")?;
    ensure!(answer == b"word", "the answer was {answer:?}");
    behave(json!({}))?;
    must_serve(&scene.client, to).context("after the ends")
}
