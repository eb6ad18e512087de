//! What a link carried: tcpdump writes, this reads.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::place::Place;
use crate::poll;
use crate::process::Process;
use crate::run::Run;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// One TCP segment with payload.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Sender.
    pub source: (IpAddr, u16),
    /// Receiver.
    pub destination: (IpAddr, u16),
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// What was captured.
#[derive(Debug, Default)]
pub struct Captured {
    /// Segments in the order of the wire.
    pub segments: Vec<Segment>,
}

impl Capture {
    /// Captures TCP on one interface of a place until [`Capture::finish`].
    pub fn start(run: &Run, place: &Place, interface: &str, name: &str) -> Result<Self> {
        let file = run.path(format!("{name}.pcap"));
        let mut command = Command::new("/usr/bin/tcpdump");
        // Whole packets, a large kernel buffer, no change of user, direct to the file.
        command
            .args([
                "-i", interface, "-s", "0", "-B", "65536", "-Z", "root", "-U", "-w",
            ])
            .arg(&file)
            .arg("tcp");
        let process = Process::spawn(run, place, &format!("tcpdump-{name}"), command)?;
        poll::until("tcpdump listening", Duration::from_secs(15), || {
            process.must_run()?;
            ensure!(process.log().contains("listening on"), "not yet");
            Ok(())
        })?;
        Ok(Self { process, file })
    }

    /// Ends the capture and reads it. A capture that lost packets proves nothing and is an error.
    pub fn finish(self) -> Result<Captured> {
        self.wait_written()?;
        self.process.signal(Signal::SIGINT)?;
        poll::until("tcpdump ended", Duration::from_secs(20), || {
            self.process.ended().context("still running")
        })?;
        let log = self.process.log();
        ensure!(
            log.contains("0 packets dropped by kernel"),
            "the capture lost packets:\n{log}"
        );
        let bytes = fs::read(&self.file).context("reading the capture")?;
        Ok(Captured {
            segments: parse(&bytes)?,
        })
    }

    /// The last packets are still on their way to the program: waits until its file grows no more.
    fn wait_written(&self) -> Result<()> {
        const QUIET: usize = 4;
        let (mut size, mut quiet) = (0, 0);
        while quiet < QUIET {
            std::thread::sleep(Duration::from_millis(150));
            let now = fs::metadata(&self.file)
                .context("the capture's file")?
                .len();
            quiet = if now == size { quiet + 1 } else { 0 };
            size = now;
        }
        Ok(())
    }
}

impl Captured {
    /// Segments to or from a port.
    pub fn on_port(&self, port: u16) -> impl Iterator<Item = &Segment> {
        self.segments
            .iter()
            .filter(move |segment| segment.source.1 == port || segment.destination.1 == port)
    }

    /// How often a byte string appears inside segments.
    pub fn count(&self, needle: &[u8]) -> usize {
        self.segments
            .iter()
            .map(|segment| occurrences(&segment.payload, needle))
            .sum()
    }

    /// Puts the streams on a port together and counts the bytes that are TLS application data,
    /// headers of records left out. Fails when anything on the port is not TLS.
    pub fn tls_bytes(&self, port: u16) -> Result<u64> {
        let mut streams: BTreeMap<_, Vec<&Segment>> = BTreeMap::new();
        for segment in self.on_port(port) {
            streams
                .entry((segment.source, segment.destination))
                .or_default()
                .push(segment);
        }
        let mut total = 0;
        for ((source, destination), segments) in streams {
            let bytes = assemble(&segments);
            total += application_data(&bytes)
                .with_context(|| format!("{source:?} -> {destination:?}"))?;
        }
        Ok(total)
    }
}

fn occurrences(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .filter(|window| *window == needle)
        .count()
}

/// One direction's bytes in order; retransmissions are laid over each other. The capture starts
/// before the connections do, so the first segment begins the stream.
fn assemble(segments: &[&Segment]) -> Vec<u8> {
    let Some(first) = segments.first() else {
        return Vec::new();
    };
    let start = first.sequence;
    let mut bytes = Vec::new();
    for segment in segments {
        let offset = segment.sequence.wrapping_sub(start) as usize;
        if offset > 1 << 30 {
            continue; // A retransmission from before the first segment seen.
        }
        let end = offset + segment.payload.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset..end].copy_from_slice(&segment.payload);
    }
    bytes
}

/// Walks TLS records; gives the sum of the lengths of application-data records.
fn application_data(mut bytes: &[u8]) -> Result<u64> {
    const APPLICATION_DATA: u8 = 23;
    let mut total = 0;
    while let [kind, 3, 1..=3, high, low, rest @ ..] = bytes {
        ensure!((20..=24).contains(kind), "record type {kind} is not TLS");
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind == APPLICATION_DATA {
            total += length.min(rest.len()) as u64;
        }
        bytes = rest.get(length..).unwrap_or_default();
    }
    ensure!(bytes.len() < 5, "{} bytes are not TLS records", bytes.len());
    Ok(total)
}

fn parse(file: &[u8]) -> Result<Vec<Segment>> {
    const LITTLE_ENDIAN_MICROSECONDS: [u8; 4] = [0xd4, 0xc3, 0xb2, 0xa1];
    ensure!(
        file.starts_with(&LITTLE_ENDIAN_MICROSECONDS),
        "not a capture file"
    );
    let mut segments = Vec::new();
    let mut rest = file.get(24..).context("a capture without header")?;
    while let Some((header, after)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some((frame, after)) = after.split_at_checked(length) else {
            break;
        };
        segments.extend(segment_of(frame));
        rest = after;
    }
    Ok(segments)
}

fn segment_of(frame: &[u8]) -> Option<Segment> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let (source, destination, tcp) = match kind {
        [0x08, 0x00] => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
            // Offloaded packets of 64 KiB and more carry length 0; short ones are padded.
            let end = if total == 0 { packet.len() } else { total };
            (
                IpAddr::from(
                    <[u8; 4]>::try_from(packet.get(12..16)?)
                        .map(Ipv4Addr::from)
                        .ok()?,
                ),
                IpAddr::from(
                    <[u8; 4]>::try_from(packet.get(16..20)?)
                        .map(Ipv4Addr::from)
                        .ok()?,
                ),
                packet.get(header..end)?,
            )
        }
        [0x86, 0xdd] => {
            let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
            let end = if length == 0 {
                packet.len()
            } else {
                40 + length
            };
            (
                IpAddr::from(
                    <[u8; 16]>::try_from(packet.get(8..24)?)
                        .map(Ipv6Addr::from)
                        .ok()?,
                ),
                IpAddr::from(
                    <[u8; 16]>::try_from(packet.get(24..40)?)
                        .map(Ipv6Addr::from)
                        .ok()?,
                ),
                packet.get(40..end)?,
            )
        }
        _ => return None,
    };
    let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    if payload.is_empty() {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    Some(Segment {
        source: (source, port(0)?),
        destination: (destination, port(2)?),
        sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        payload: payload.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(sequence: u32, payload: &[u8]) -> Segment {
        Segment {
            source: (Ipv4Addr::LOCALHOST.into(), 1),
            destination: (Ipv4Addr::LOCALHOST.into(), 15008),
            sequence,
            payload: payload.to_vec(),
        }
    }

    #[test]
    fn tls_bytes_are_counted_over_reordered_segments() {
        let captured = Captured {
            segments: vec![
                segment(100, &[22, 3, 1, 0, 2, 9]),
                segment(112, &[7, 7, 7]),
                segment(106, &[9, 23, 3, 3, 0]),
                segment(111, &[4]),
            ],
        };
        // A handshake record of 2, application data announcing 4 of which 3 were captured.
        assert_eq!(captured.tls_bytes(15008).unwrap(), 3);
    }

    #[test]
    fn plaintext_on_the_port_is_an_error() {
        let captured = Captured {
            segments: vec![segment(1, b"GET / HTTP/1.1\r\n")],
        };
        assert!(captured.tls_bytes(15008).is_err());
        assert_eq!(captured.count(b"HTTP"), 1);
    }
}
