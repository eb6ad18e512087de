//! Addresses as the programs have them: four words in network byte order, IPv4 as v4-mapped.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ebpf_common::{Ip, SocketAddress};

/// An address for a map.
pub(crate) fn to_kernel_ip(ip: IpAddr) -> Ip {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let word =
        |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
    [word(0), word(4), word(8), word(12)]
}

/// An address of a map; v4-mapped becomes IPv4.
pub(crate) fn from_kernel_ip(ip: Ip) -> IpAddr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(4).zip(ip) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
}

/// A socket address for a map.
pub(crate) fn to_kernel(address: SocketAddr) -> SocketAddress {
    SocketAddress {
        ip: to_kernel_ip(address.ip()),
        port: u32::from(address.port()),
    }
}

/// A socket address of a map; `None` when its port is none.
pub(crate) fn from_kernel(address: SocketAddress) -> Option<SocketAddr> {
    let port = u16::try_from(address.port).ok().filter(|port| *port != 0)?;
    Some(SocketAddr::new(from_kernel_ip(address.ip), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_way_through_a_map() {
        for text in ["10.1.2.3:80", "[2001:db8::1]:443", "127.0.0.1:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_kernel(to_kernel(address)), Some(address));
        }
    }

    #[test]
    fn mapped_and_plain_ipv4_are_one_key() {
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:80".parse().unwrap();
        let plain: SocketAddr = "10.1.2.3:80".parse().unwrap();
        assert_eq!(to_kernel(mapped), to_kernel(plain));
        assert!(ebpf_common::is_ipv4(&to_kernel(plain).ip));
    }

    #[test]
    fn no_port_and_impossible_ports_are_no_address() {
        let ip = to_kernel_ip("10.1.2.3".parse().unwrap());
        assert_eq!(from_kernel(SocketAddress { ip, port: 0 }), None);
        assert_eq!(from_kernel(SocketAddress { ip, port: 65536 }), None);
    }

    #[test]
    fn loopback_as_the_programs_see_it() {
        for (text, expected) in [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("0.0.0.0", true),
            ("::", true),
            ("::1", true),
            ("128.0.0.1", false),
            ("10.0.0.127", false),
            ("::2", false),
            ("fe80::1", false),
            ("2001:db8::1", false),
        ] {
            let ip = to_kernel_ip(text.parse().unwrap());
            assert_eq!(ebpf_common::is_loopback(&ip), expected, "{text}");
        }
    }
}
