//! What the maps hold of a pod, made of what the runtime named and the namespace has.

use std::io;
use std::net::IpAddr;

use agent_model::PodInfo;
use agent_net::Netns;
use ebpf_common::{Ip, Pod};
use nix::ifaddrs::getifaddrs;

use crate::address::to_kernel_ip;
use crate::error::DatapathError;

/// Own addresses of a pod that the programs know at most: a pod that gives itself more cannot
/// crowd out the others.
const OWN_LIMIT: usize = 64;

/// The addresses that are the pod's own to the programs: those the runtime named come first.
pub(crate) fn own_keys(pod: &PodInfo, own: &[IpAddr]) -> Vec<Ip> {
    let first = pod.ips.iter().copied().map(|ip| ip.to_canonical());
    let mut keys = Vec::new();
    for key in first.chain(own.iter().copied()).map(to_kernel_ip) {
        if !keys.contains(&key) && keys.len() < OWN_LIMIT {
            keys.push(key);
        }
    }
    keys
}

/// A pod whose connects are captured.
pub(crate) fn pod_value(pod: &PodInfo, generation: u64) -> Pod {
    let address = |v4: bool| {
        let mut ips = pod.ips.iter().map(|ip| ip.to_canonical());
        ips.find(|ip| ip.is_ipv4() == v4)
            .map_or([0; 4], to_kernel_ip)
    };
    Pod {
        generation,
        ipv4: address(true),
        ipv6: address(false),
    }
}

/// The addresses a namespace holds, loopback aside.
pub(crate) fn own_addresses(netns: &Netns) -> Result<Vec<IpAddr>, DatapathError> {
    let read = || -> io::Result<Vec<IpAddr>> {
        let interfaces = netns.run(getifaddrs)??;
        Ok(interfaces
            .filter_map(|interface| interface.address)
            .filter_map(|address| {
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .filter(|ip| !ip.is_loopback())
            .collect())
    };
    read().map_err(DatapathError::kernel("list the pod's addresses"))
}
