//! Reading and writing the addresses of contexts.

use core::net::Ipv6Addr;

use aya_ebpf::bindings::bpf_sock_addr;
use ebpf_common::{Ip, SocketAddress, ipv4_mapped};

/// `AF_INET6`.
pub(crate) const AF_INET6: u32 = 10;
/// `IPPROTO_TCP`.
pub(crate) const TCP: u32 = 6;
/// `IPPROTO_UDP`.
pub(crate) const UDP: u32 = 17;

/// Reads a context field. Volatile, so that the compiler cannot merge two loads into one with a
/// computed offset, which the verifier refuses.
macro_rules! field {
    ($context:expr, $($field:tt)+) => {
        // SAFETY: a field of the program's context, checked by the verifier.
        unsafe { core::ptr::read_volatile(&raw const (*$context).$($field)+) }
    };
}
pub(crate) use field;

/// Writes a context field.
macro_rules! set_field {
    ($context:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: a writable field of the program's context, checked by the verifier.
        unsafe { core::ptr::write_volatile(&raw mut (*$context).$($field)+, $value) }
    };
}

/// Reads four words of a context.
macro_rules! words {
    ($context:expr, $field:ident) => {
        [
            crate::address::field!($context, $field[0]),
            crate::address::field!($context, $field[1]),
            crate::address::field!($context, $field[2]),
            crate::address::field!($context, $field[3]),
        ]
    };
}
pub(crate) use words;

/// The address a socket call carries.
#[inline(always)]
pub(crate) fn user_address<const V6: bool>(context: *mut bpf_sock_addr) -> SocketAddress {
    let ip = if V6 {
        words!(context, user_ip6)
    } else {
        ipv4_mapped(field!(context, user_ip4))
    };
    SocketAddress {
        ip,
        port: port(field!(context, user_port)),
    }
}

/// Changes the address a socket call carries.
#[inline(always)]
pub(crate) fn set_user_address<const V6: bool>(
    context: *mut bpf_sock_addr,
    address: &SocketAddress,
) {
    if V6 {
        set_field!(context, address.ip[0], user_ip6[0]);
        set_field!(context, address.ip[1], user_ip6[1]);
        set_field!(context, address.ip[2], user_ip6[2]);
        set_field!(context, address.ip[3], user_ip6[3]);
    } else {
        set_field!(context, address.ip[3], user_ip4);
    }
    set_field!(context, u32::from((address.port as u16).to_be()), user_port);
}

/// A port in network byte order in the low half of a word, in host byte order.
#[inline(always)]
pub(crate) fn port(network: u32) -> u32 {
    u32::from(u16::from_be(network as u16))
}

/// For log lines.
#[inline(always)]
pub(crate) fn shown(ip: &Ip) -> Ipv6Addr {
    let word = |i: usize| {
        let host = u32::from_be(ip[i]);
        ((host >> 16) as u16, host as u16)
    };
    let ((a, b), (c, d), (e, f), (g, h)) = (word(0), word(1), word(2), word(3));
    Ipv6Addr::new(a, b, c, d, e, f, g, h)
}
