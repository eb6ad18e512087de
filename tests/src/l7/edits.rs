//! How long an edit of a manifest takes to count: from the write of the file to the first answer
//! that shows it, through the control plane and over discovery.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::scene::{Scene, Stage, route};
use crate::Cluster;

/// How long an edit may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The times, shortest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Edits(Vec<Duration>);

impl Edits {
    /// Edits a route of a scene as many times, each while its answers are watched.
    pub(super) fn measure(
        cluster: &Cluster,
        stage: &Stage,
        scene: &Scene,
        count: usize,
    ) -> Result<Self> {
        let edit = |number: usize| {
            let filters = format!(
                "    filters: [{{type: ResponseHeaderModifier, \
                 responseHeaderModifier: {{set: [{{name: x-edit, value: 'e{number}e'}}]}}}}]\n"
            );
            let manifest = route("edited", scene.kind.name(), "/edited", &filters);
            cluster.manifests().write("bench-edited", &manifest)
        };
        let mut times = Vec::new();
        for number in 0..=count {
            let mut watch = Watch::open(stage, scene.ours())?;
            let begun = Instant::now();
            edit(number)?;
            watch.until(&format!("x-edit: e{number}e"))?;
            // The first one is the route's coming, not a change of it.
            if number > 0 {
                times.push(begun.elapsed());
            }
        }
        times.sort();
        Ok(Self(times))
    }

    /// The time that this share (0 to 1) of the edits stayed within.
    pub fn within(&self, share: f64) -> Duration {
        let place = (self.0.len() as f64 * share).ceil() as usize;
        let place = place.clamp(1, self.0.len().max(1)) - 1;
        self.0.get(place).copied().unwrap_or_default()
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn json(&self) -> Value {
        let millis = |share| self.within(share).as_secs_f64() * 1e3;
        json!({ "count": self.count(), "p50Ms": millis(0.5), "p99Ms": millis(0.99) })
    }
}

/// A connection over which the same is asked again and again.
struct Watch(TcpStream);

impl Watch {
    fn open(stage: &Stage, to: SocketAddr) -> Result<Self> {
        let stream = stage.client.connect(to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    fn until(&mut self, field: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let head = self.ask()?;
            if head.contains(field) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{field:?} did not come within {PATIENCE:?}; last answer:\n{head}");
            }
        }
    }

    /// The head of an answer. Bodies are short and have a length.
    fn ask(&mut self) -> Result<String> {
        self.0
            .write_all(b"GET /edited HTTP/1.1\r\nhost: bench\r\n\r\n")
            .context("asking")?;
        let mut bytes = Vec::new();
        let head = loop {
            self.more(&mut bytes)?;
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|length| length.trim().parse::<usize>().ok())
            .with_context(|| format!("an answer without a length:\n{text}"))?;
        while bytes.len() < head + length {
            self.more(&mut bytes)?;
        }
        Ok(text)
    }

    fn more(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let mut part = [0; 4096];
        let count = self.0.read(&mut part).context("reading an answer")?;
        if count == 0 {
            bail!("the gateway closed the connection");
        }
        bytes.extend_from_slice(&part[..count]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_few_edits() {
        let edits = Edits((1..=10).map(Duration::from_millis).collect());
        assert_eq!(edits.within(0.5), Duration::from_millis(5));
        assert_eq!(edits.within(0.99), Duration::from_millis(10));
        assert_eq!(Edits(Vec::new()).within(0.5), Duration::ZERO);
    }
}
