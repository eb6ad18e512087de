//! The servers of a resolv.conf.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::NAME_PORT;

/// As many as the C library asks.
const MAX_SERVERS: usize = 3;
/// Longest file that is read.
const MAX_FILE: u64 = 64 << 10;

/// The servers of the file, in order; an error for people when there are none.
pub(super) fn read(path: &Path) -> Result<Vec<SocketAddr>, String> {
    let failed = |error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let servers = servers(&text);
    match servers.is_empty() {
        true => Err(format!("{} names no server", path.display())),
        false => Ok(servers),
    }
}

pub(super) fn servers(text: &str) -> Vec<SocketAddr> {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        let ip = words.next().filter(|_| is_server)?.parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(ip, NAME_PORT))
    };
    text.lines().filter_map(of_line).take(MAX_SERVERS).collect()
}
