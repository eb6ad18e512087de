//! Names, numbers and routes of the simulated network. Everything lies inside the run's own
//! namespaces; nothing is made in the machine's.
//!
//! ```text
//!  cv-R-net   br0 ------- up0 cv-R-cp   10.66.0.254      control plane
//!              |--------- up0 cv-R-n1   10.66.0.1        node 1: cni0 10.67.1.1
//!              |                          |-- cv-R-n1a   10.67.1.2  the agent
//!              |                          '-- pods       10.67.1.10 - .250
//!              '--------- up0 cv-R-n2   10.66.0.2        node 2 likewise
//! ```
//! IPv6 is the same with fd00:66::/64, fd00:67:N::/64. No NAT anywhere.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::place::Place;

/// Host number of the control plane on the underlay.
pub const CONTROL_HOST: u8 = 254;

/// The two addresses a thing has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

/// A node's (or the control plane's) address on the underlay.
pub fn underlay(host: u8) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(10, 66, 0, host),
        v6: Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, u16::from(host)),
    }
}

/// An address in a node's pod range; host 1 is the bridge, host 2 the agent.
pub fn pod_range(node: u8, host: u8) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(10, 67, node, host),
        v6: Ipv6Addr::new(0xfd00, 0x67, u16::from(node), 0, 0, 0, 0, u16::from(host)),
    }
}

/// The cluster IPs of the nth service.
pub fn service(index: u16) -> Addresses {
    let [high, low] = index.to_be_bytes();
    Addresses {
        v4: Ipv4Addr::new(10, 96, high, low),
        v6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, index),
    }
}

/// The switch between the nodes.
pub fn make_underlay(switch: &Place) -> Result<()> {
    switch.ip(&["link add br0 type bridge", "link set br0 up"])
}

/// Plugs a namespace into the switch and gives it its underlay addresses.
pub fn plug(switch: &Place, place: &Place, host: u8) -> Result<()> {
    let port = format!("p{host}");
    let addresses = underlay(host);
    switch.ip(&[
        format!(
            "link add {port} type veth peer name up0 netns {}",
            place.name()
        ),
        format!("link set {port} master br0 up"),
    ])?;
    place.ip(&[
        format!("addr add {}/24 dev up0", addresses.v4),
        format!("addr add {}/64 dev up0 nodad", addresses.v6),
        "link set up0 up".to_owned(),
    ])
}

/// Makes the pod bridge of a node and turns forwarding on. The bridge has a fixed MAC, or it would
/// change with its ports and leave stale neighbours behind.
pub fn make_bridge(place: &Place, node: u8) -> Result<()> {
    place.sysctl("net/ipv4/ip_forward", "1")?;
    place.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    let gateway = pod_range(node, 1);
    place.ip(&[
        format!("link add cni0 address 02:cb:00:00:00:{node:02x} type bridge"),
        format!("addr add {}/24 dev cni0", gateway.v4),
        format!("addr add {}/64 dev cni0 nodad", gateway.v6),
        "link set cni0 up".to_owned(),
    ])
}

/// Plugs the agent's own namespace into the node's pod bridge.
pub fn plug_agent(host: &Place, agent: &Place, node: u8) -> Result<()> {
    plug_as(host, agent, "agent0", pod_range(node, 2), node)
}

/// The same for a second agent of the node, as an update has one.
pub fn plug_second_agent(host: &Place, agent: &Place, node: u8) -> Result<()> {
    plug_as(host, agent, "agent1", pod_range(node, 3), node)
}

fn plug_as(host: &Place, agent: &Place, link: &str, addresses: Addresses, node: u8) -> Result<()> {
    let gateway = pod_range(node, 1);
    host.ip(&[
        format!(
            "link add {link} type veth peer name eth0 netns {}",
            agent.name()
        ),
        format!("link set {link} master cni0 up"),
    ])?;
    agent.ip(&[
        format!("addr add {}/24 dev eth0", addresses.v4),
        format!("addr add {}/64 dev eth0 nodad", addresses.v6),
        "link set eth0 up".to_owned(),
        format!("route add default via {}", gateway.v4),
        format!("route add default via {}", gateway.v6),
    ])
}

/// Routes from one machine to the pods of a node.
pub fn route_to(place: &Place, node: u8) -> Result<()> {
    let range = pod_range(node, 0);
    let via = underlay(node);
    place.ip(&[
        format!("route add {}/24 via {}", range.v4, via.v4),
        format!("route add {}/64 via {}", range.v6, via.v6),
    ])
}
