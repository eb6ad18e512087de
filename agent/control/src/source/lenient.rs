//! Field decoders shared by the object types: what Kubernetes itself accepts, no more.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::de::{Deserialize, Deserializer, Error};

/// Takes an explicit `null` for the default, as the API server does.
pub(super) fn nullable<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// A list that is either absent or holds something: an explicit `[]` in a policy is ambiguous
/// (nothing, or anything?), so it is refused.
pub(super) fn non_empty<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    match Option::<Vec<T>>::deserialize(from)? {
        Some(list) if list.is_empty() => Err(D::Error::custom(
            "an empty list; leave the field out or give it a value",
        )),
        list => Ok(list.unwrap_or_default()),
    }
}

/// An address of a pod or a virtual IP: one host can be reached at it from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HostIp(pub(crate) IpAddr);

impl<'de> Deserialize<'de> for HostIp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        host_ip(&text).map(Self).map_err(D::Error::custom)
    }
}

/// Parses an address that can belong to a pod. A loopback, multicast or unspecified "pod" would
/// turn the node agent against its own node.
pub(crate) fn host_ip(text: &str) -> Result<IpAddr, String> {
    let ip = text
        .parse::<IpAddr>()
        .map_err(|_| format!("{text:?} is not an IP address"))?
        .to_canonical();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || link_local {
        return Err(format!(
            "{text:?} cannot be the address of a pod or service"
        ));
    }
    Ok(ip)
}

/// An optional address; `""` is none.
pub(super) fn optional_ip<'de, D: Deserializer<'de>>(from: D) -> Result<Option<HostIp>, D::Error> {
    match Option::<String>::deserialize(from)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => host_ip(text)
            .map(|ip| Some(HostIp(ip)))
            .map_err(D::Error::custom),
    }
}

/// A CIDR block or a single address of a policy; host bits are cleared, as everywhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IpBlock(pub(crate) IpNet);

impl<'de> Deserialize<'de> for IpBlock {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        ip_block(&text).map(Self).map_err(D::Error::custom)
    }
}

/// Parses `10.0.0.0/8`, `2001:db8::/32` or one address.
pub(crate) fn ip_block(text: &str) -> Result<IpNet, String> {
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is not an IP address or CIDR block"))?
        .trunc();
    Ok(unmapped(net))
}

/// An IPv4-mapped block as the IPv4 block it stands for: connections are compared in that form.
fn unmapped(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Ok(net) = Ipv4Net::new(v4, v6.prefix_len() - 96)
    {
        return IpNet::V4(net);
    }
    net
}

/// A port of a policy: a string in Istio's schema, a number in many people's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyPort(pub(crate) u16);

impl<'de> Deserialize<'de> for PolicyPort {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        policy_port(&text).map(Self).map_err(D::Error::custom)
    }
}

/// Parses a port number, 1 to 65535.
pub(crate) fn policy_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(format!("{text:?} is not a port (1 to 65535)")),
    }
}

/// A port of a container, a service or a slice, 1 to 65535.
pub(super) fn port<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    let number = i64::deserialize(from)?;
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(D::Error::custom(format!(
            "{number} is not a port (1 to 65535)"
        ))),
    }
}

/// A port that may be left out, for which 0 is another way of saying so.
pub(super) fn optional_port<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    let number = Option::<u16>::deserialize(from)?;
    Ok(number.filter(|port| *port != 0))
}
