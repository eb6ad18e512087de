//! Input that is wrong in TLS or in HTTP/2: that connection dies, nothing else does.

use std::net::{IpAddr, SocketAddr};

use agent_model::HBONE_PORT;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{APP_PORT, Healthy, NAMESPACE, Scene};
use ::tests::Cluster;
use ::tests::peer::{Peer, spiffe};

/// HTTP/2 frame types used below.
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

/// TLS: versions, suites, ALPN, and every certificate that must not be believed.
pub(super) fn tls(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    forge_credentials(&scene)?;
    let chacha = Peer::with_suites(
        cluster.run(),
        scene.caller.place(),
        "hbone-peer-chacha",
        "TLS_CHACHA20_POLY1305_SHA256",
    )?;
    for ip in scene.target.ips() {
        let mut healthy = Healthy::open(&scene, ip)?;
        let alert = refused_dial(&chacha, ip, json!({}))?;
        ensure!(
            alert.contains("ALERT_HANDSHAKE_FAILURE"),
            "only ChaCha20: {alert}"
        );
        for (what, wishes, alerts) in refusals() {
            let error = refused_dial(&scene.peer, ip, wishes).context(what)?;
            let known = alerts.is_empty() || alerts.iter().any(|alert| error.contains(alert));
            ensure!(
                known,
                "{what}: ended with {error}, expected one of {alerts:?}"
            );
            healthy.check(what)?;
        }
        without_alpn(&scene, ip)?;
        healthy.check("no ALPN")?;
    }
    Ok(())
}

/// What is dialled, and the alerts of which one must come (none: any end will do).
fn refusals() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let cert = |name: &str| json!({ "cert": name });
    vec![
        (
            "TLS 1.2",
            json!({ "cert": "me", "version": "1.2" }),
            &["ALERT_PROTOCOL_VERSION"],
        ),
        (
            "ALPN http/1.1",
            json!({ "cert": "me", "alpn": ["http/1.1"] }),
            &["NO_APPLICATION_PROTOCOL"],
        ),
        (
            "no client certificate",
            json!({ "trust": "me" }),
            &["CERTIFICATE_REQUIRED"],
        ),
        ("another authority", cert("other-root"), &[]),
        ("an expired certificate", cert("expired"), &[]),
        ("another trust domain", cert("other-domain"), &[]),
        ("no URI in the certificate", cert("nameless"), &[]),
        ("a URI that is no identity", cert("not-spiffe"), &[]),
        ("only for servers", cert("server-only"), &[]),
    ]
}

/// Certificates signed by the mesh's own root, which its holder could abuse, and by a stranger.
pub(super) fn forge_credentials(scene: &Scene<'_>) -> Result<()> {
    let state = scene.cluster.control()?.root_cert();
    let state = state
        .parent()
        .context("the root certificate has no folder")?;
    let [certificate, key] = super::signing_files(state);
    scene
        .peer
        .must(&json!({ "op": "authority", "name": "stranger" }))?;
    scene.peer.must(&json!({
        "op": "authority", "name": "mesh", "certificate": certificate, "key": key,
    }))?;
    let caller = spiffe(NAMESPACE, "caller");
    let forge = |name: &str, authority: &str, more: Value| {
        let mut wish = json!({
            "op": "forge", "name": name, "authority": authority, "uris": [caller], "trust": "me",
        });
        super::merge(&mut wish, more);
        scene.peer.must(&wish).map(drop)
    };
    forge("other-root", "stranger", json!({}))?;
    forge("expired", "mesh", json!({ "seconds": -60 }))?;
    forge(
        "other-domain",
        "mesh",
        json!({ "uris": ["spiffe://evil.local/ns/a/sa/b"] }),
    )?;
    forge("nameless", "mesh", json!({ "uris": [] }))?;
    forge(
        "not-spiffe",
        "mesh",
        json!({ "uris": ["https://cluster.local/ns/a/sa/b"] }),
    )?;
    forge("server-only", "mesh", json!({ "usages": ["server"] }))?;
    // The same forgery with nothing wrong is believed: the refusals above have their reasons.
    forge("genuine", "mesh", json!({}))?;
    let to = scene.target.sockets(HBONE_PORT)[0];
    scene.peer.dial("genuine", to, "genuine").map(drop)
}

fn refused_dial(peer: &Peer, ip: IpAddr, wishes: Value) -> Result<String> {
    let mut wish = json!({ "op": "dial", "conn": "refused", "to": [ip.to_string(), HBONE_PORT] });
    super::merge(&mut wish, wishes);
    let error = peer.must_fail(&wish)?;
    ensure!(
        !error.contains("in time"),
        "the connection was not ended: {error}"
    );
    Ok(error)
}

/// A peer that offers no ALPN is spoken to as HTTP/2.
fn without_alpn(scene: &Scene<'_>, ip: IpAddr) -> Result<()> {
    scene.peer.must(&json!({
        "op": "dial", "conn": "no-alpn", "to": [ip.to_string(), HBONE_PORT], "cert": "me", "alpn": [],
    }))?;
    let answer = scene
        .peer
        .connect("no-alpn", &SocketAddr::new(ip, APP_PORT).to_string())?;
    ensure!(answer["status"] == json!("200"), "without ALPN: {answer}");
    scene
        .peer
        .must(&json!({ "op": "close", "conn": "no-alpn" }))
        .map(drop)
}

/// HTTP/2 and below it.
pub(super) fn http2(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    // Some that say nothing; looked at again when all others are done.
    for ip in scene.target.ips() {
        open_raw(&scene, ip, &format!("silent-tcp-{ip}"), false)?;
        open_raw(&scene, ip, &format!("silent-tls-{ip}"), true)?;
    }
    for ip in scene.target.ips() {
        let mut healthy = Healthy::open(&scene, ip)?;
        for (what, tls, bytes) in first_bytes() {
            open_raw(&scene, ip, what, tls)?;
            ends(&scene, what, &bytes)?;
            healthy.check(what)?;
        }
        for (what, frames) in bad_frames() {
            scene.dial(what, ip)?;
            ends(&scene, what, &frames)?;
            healthy.check(what)?;
        }
        let accepted = scene.app.accepted();
        stays_bounded(&scene, ip, &mut healthy)?;
        ensure!(
            scene.app.accepted() == accepted,
            "a bad request reached the application"
        );
        abandoned_streams(&scene, ip, &mut healthy)?;
    }
    for ip in scene.target.ips() {
        for what in ["silent-tcp", "silent-tls"] {
            let connection = format!("{what}-{ip}");
            ends(&scene, &connection, &[]).context("no first request within its time")?;
        }
    }
    Ok(())
}

fn open_raw(scene: &Scene<'_>, ip: IpAddr, name: &str, tls: bool) -> Result<()> {
    let wish = json!({
        "op": "dial", "conn": name, "to": [ip.to_string(), HBONE_PORT], "cert": "me", "tls": tls,
        "h2": false,
    });
    scene.peer.must(&wish).map(drop)
}

/// Sends bytes and awaits the end of the connection, by TCP or by GOAWAY with an error.
fn ends(scene: &Scene<'_>, connection: &str, bytes: &[u8]) -> Result<()> {
    let state = scene
        .peer
        .must(&json!({ "op": "raw", "conn": connection, "hex": hex(bytes), "wait": 12 }))
        .with_context(|| connection.to_owned())?;
    ensure!(
        !state["finished"].is_null(),
        "{connection}: the connection lives on: {state}"
    );
    scene
        .peer
        .must(&json!({ "op": "close", "conn": connection }))
        .map(drop)
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Instead of TLS, and instead of HTTP/2 inside it.
fn first_bytes() -> Vec<(&'static str, bool, Vec<u8>)> {
    let http1 = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let connect = b"CONNECT 127.0.0.1:8080 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let prior = [PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat();
    let huge_settings = [PREFACE, &header(0x00ff_ffff, kind::SETTINGS, 0, 0)].concat();
    vec![
        ("http1-plain", false, http1.clone()),
        ("connect-plain", false, connect.clone()),
        ("h2c", false, prior),
        ("noise-plain", false, vec![0xff; 64]),
        (
            "huge-client-hello",
            false,
            vec![0x16, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 3, 3],
        ),
        ("http1-in-tls", true, http1),
        ("connect-in-tls", true, connect),
        ("noise-in-tls", true, vec![0xff; 64]),
        ("preface-then-noise", true, [PREFACE, &[0xff; 64]].concat()),
        (
            "preface-then-data",
            true,
            [PREFACE, &frame(kind::DATA, 0, 1, b"x")].concat(),
        ),
        ("preface-huge-frame", true, huge_settings),
    ]
}

/// Frames that RFC 9113 calls a connection error.
fn bad_frames() -> Vec<(&'static str, Vec<u8>)> {
    // An indexed header (0x82: `:method: GET`), as a block that HPACK understands.
    let block = [0x82];
    let open = frame(kind::HEADERS, 0, 1, &block);
    let endless: Vec<u8> = std::iter::once(open.clone())
        .chain((0..64).map(|_| frame(kind::CONTINUATION, 0, 1, &literal(1024))))
        .flatten()
        .collect();
    vec![
        ("data-on-stream-0", frame(kind::DATA, 0, 0, b"x")),
        ("data-on-idle-stream", frame(kind::DATA, 0, 7, b"x")),
        ("headers-on-stream-0", frame(kind::HEADERS, 4, 0, &block)),
        ("headers-on-even-stream", frame(kind::HEADERS, 4, 2, &block)),
        (
            "padding-longer-than-frame",
            frame(kind::HEADERS, 4 | 8, 1, &[200, 0x82]),
        ),
        ("hpack-index-0", frame(kind::HEADERS, 4, 1, &[0x80])),
        (
            "hpack-index-out-of-table",
            frame(kind::HEADERS, 4, 1, &[0xff, 0xff, 0xff, 0x0f]),
        ),
        (
            "hpack-table-size-too-big",
            frame(kind::HEADERS, 4, 1, &[0x3f, 0xff, 0xff, 0xff, 0x07]),
        ),
        (
            "settings-with-odd-length",
            frame(kind::SETTINGS, 0, 0, &[0; 5]),
        ),
        ("settings-on-a-stream", frame(kind::SETTINGS, 0, 1, &[0; 6])),
        (
            "settings-ack-with-payload",
            frame(kind::SETTINGS, 1, 0, &[0; 6]),
        ),
        (
            "settings-window-too-big",
            frame(kind::SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "settings-frame-size-too-small",
            frame(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]),
        ),
        ("window-update-0", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "window-overflow",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        ("ping-of-7-bytes", frame(kind::PING, 0, 0, &[0; 7])),
        (
            "reset-of-idle-stream",
            frame(kind::RST_STREAM, 0, 9, &[0; 4]),
        ),
        (
            "push-promise",
            frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x82]),
        ),
        ("goaway-on-a-stream", frame(kind::GOAWAY, 0, 1, &[0; 8])),
        (
            "frame-over-the-limit",
            header(0x00ff_ffff, kind::DATA, 0, 1).to_vec(),
        ),
        (
            "continuation-alone",
            frame(kind::CONTINUATION, 4, 1, &block),
        ),
        (
            "interrupted-headers",
            [open, frame(kind::PING, 0, 0, &[0; 8])].concat(),
        ),
        ("endless-headers", endless),
    ]
}

/// Floods that are legal one by one: they are served or ended, and the tunnel beside them is well.
fn stays_bounded(scene: &Scene<'_>, ip: IpAddr, healthy: &mut Healthy<'_>) -> Result<()> {
    let many = |frame: Vec<u8>| frame.repeat(5000);
    let floods = [
        ("ping-flood", many(frame(kind::PING, 0, 0, &[0; 8]))),
        ("settings-flood", many(frame(kind::SETTINGS, 0, 0, &[]))),
        ("empty-data-flood", many(frame(kind::DATA, 0, 1, &[]))),
        ("rapid-reset", rapid_reset()),
    ];
    for (what, bytes) in floods {
        scene.dial(what, ip)?;
        scene
            .peer
            .must(&json!({ "op": "raw", "conn": what, "hex": hex(&bytes), "wait": 0.3 }))?;
        healthy.check(what)?;
        scene
            .peer
            .must(&json!({ "op": "close", "conn": what, "abort": true }))?;
        healthy.check(what)?;
    }
    Ok(())
}

/// Streams opened and reset at once (the request is a GET: no application is involved).
fn rapid_reset() -> Vec<u8> {
    (0..3000_u32)
        .flat_map(|nth| {
            let stream = nth * 2 + 1;
            let open = frame(kind::HEADERS, 5, stream, &[0x82, 0x84, 0x87]);
            [open, frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        })
        .collect()
}

/// A peer that aborts its TCP connection under open streams, or says GOAWAY and goes on.
fn abandoned_streams(scene: &Scene<'_>, ip: IpAddr, healthy: &mut Healthy<'_>) -> Result<()> {
    let own = SocketAddr::new(ip, APP_PORT).to_string();
    scene.dial("abandoned", ip)?;
    for _ in 0..10 {
        scene.peer.connect("abandoned", &own)?;
    }
    scene
        .peer
        .must(&json!({ "op": "close", "conn": "abandoned", "abort": true }))?;
    healthy.check("ten streams under an aborted connection")?;
    scene.dial("goaway", ip)?;
    let first = scene.peer.connect("goaway", &own)?;
    scene
        .peer
        .must(&json!({ "op": "goaway", "conn": "goaway" }))?;
    // The running stream goes on; what becomes of a new one is the server's choice.
    scene
        .peer
        .echo("goaway", &first["stream"], "after goaway", 0)?;
    scene.peer.must(&json!({
        "op": "connect", "conn": "goaway", "authority": own, "wait": 1,
    }))?;
    scene
        .peer
        .must(&json!({ "op": "close", "conn": "goaway" }))?;
    healthy.check("frames after GOAWAY")
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    [&header(length, kind, flags, stream), payload].concat()
}

/// A frame header whose length may lie.
fn header(length: u32, kind: u8, flags: u8, stream: u32) -> [u8; 9] {
    let [_, high, middle, low] = length.to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    [high, middle, low, kind, flags, a, b, c, d]
}

/// A literal header field without indexing: name `x`, and a value of this length.
fn literal(length: u16) -> Vec<u8> {
    // HPACK: 0x00, name length 1, `x`, value length as 127 and the rest in base 128.
    let rest = length - 127;
    let low = (rest & 0x7f) as u8 | 0x80;
    let mut field = vec![0, 1, b'x', 0x7f, low, (rest >> 7) as u8];
    field.resize(field.len() + usize::from(length), b'y');
    field
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_nine_bytes_of_header() {
        assert_eq!(
            hex(&frame(kind::PING, 1, 0, &[7; 8])),
            "0000080601000000000707070707070707"
        );
        assert_eq!(
            header(0x00ff_ffff, 0, 0, 3),
            [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 3]
        );
    }

    #[test]
    fn a_literal_says_its_length() {
        let field = literal(1024);
        // 127 + 897; 897 = 7 * 128 + 1.
        assert_eq!(field[..6], [0, 1, b'x', 0x7f, 0x81, 7]);
        assert_eq!(field.len(), 6 + 1024);
    }
}
