//! What the kernel counted in a namespace: the proof that something was not done.

use std::fs;

use anyhow::{Context, Result};

use crate::place::Place;

/// Counts of one namespace since it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// TCP connections begun by connect(), both families.
    pub connects: u64,
    /// UDP datagrams sent, both families: a name look-up would show here.
    pub datagrams: u64,
}

impl Counters {
    /// Reads them.
    pub fn of(place: &Place) -> Result<Self> {
        let (ipv4, ipv6) = place.within(|| {
            let ipv4 = fs::read_to_string("/proc/thread-self/net/snmp");
            (ipv4, fs::read_to_string("/proc/thread-self/net/snmp6"))
        })?;
        let (ipv4, ipv6) = (ipv4.context("net/snmp")?, ipv6.context("net/snmp6")?);
        Ok(Self {
            connects: ipv4_counter(&ipv4, "Tcp:", "ActiveOpens")?,
            datagrams: ipv4_counter(&ipv4, "Udp:", "OutDatagrams")?
                + ipv6_counter(&ipv6, "Udp6OutDatagrams")?,
        })
    }
}

/// `net/snmp` holds a line of names and a line of numbers for each protocol.
fn ipv4_counter(text: &str, protocol: &str, name: &str) -> Result<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(protocol));
    let names = lines.next().context("no names")?;
    let numbers = lines.next().context("no numbers")?;
    names
        .split_whitespace()
        .zip(numbers.split_whitespace())
        .find(|(found, _)| *found == name)
        .and_then(|(_, number)| number.parse().ok())
        .with_context(|| format!("no {name} in net/snmp"))
}

fn ipv6_counter(text: &str, name: &str) -> Result<u64> {
    text.lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .find(|(found, _)| *found == name)
        .and_then(|(_, number)| number.trim().parse().ok())
        .with_context(|| format!("no {name} in net/snmp6"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_name() {
        let text = "Ip: A\nIp: 1\nTcp: RtoMin ActiveOpens\nTcp: 200 7\nUdp: InDatagrams OutDatagrams\nUdp: 3 4\n";
        assert_eq!(ipv4_counter(text, "Tcp:", "ActiveOpens").unwrap(), 7);
        assert_eq!(ipv4_counter(text, "Udp:", "OutDatagrams").unwrap(), 4);
        assert!(ipv4_counter(text, "Tcp:", "NoSuch").is_err());
        assert_eq!(
            ipv6_counter("Udp6OutDatagrams   \t 9\n", "Udp6OutDatagrams").unwrap(),
            9
        );
    }
}
