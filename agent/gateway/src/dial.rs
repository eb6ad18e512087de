//! Connections to addresses that policies name: issuers of tokens, and Redises. Who writes policies
//! is not who runs the gateway, so what they name must not lead to what only the gateway's host may
//! speak with.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use agent_policy::jwt::KeySets;
use tokio::net::{TcpStream, ToSocketAddrs, lookup_host};
use tokio::time::timeout;

/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(2);
/// Most addresses of one name that are tried.
const ADDRESSES: usize = 4;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialFault {
    /// The last address that was tried took too long.
    #[error("no connection in time")]
    Timeout,
    /// No address may be dialled; this is the first of them.
    #[error("{0} may not be dialled")]
    Address(IpAddr),
    /// The name could not be resolved, or the last address that was tried refused.
    #[error(transparent)]
    Transport(#[from] io::Error),
}

/// Connects to the first address that answers of those that may be dialled; addresses of this host
/// are among them where `loopback` says so.
pub(crate) async fn connect(
    host: impl ToSocketAddrs,
    loopback: bool,
) -> Result<TcpStream, DialFault> {
    let resolved: Vec<SocketAddr> = lookup_host(host).await?.collect();
    let mut fault = DialFault::Transport(io::Error::other("the name has no address"));
    for address in allowed(&resolved, loopback)? {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => fault = error.into(),
            Err(_) => fault = DialFault::Timeout,
        }
    }
    Err(fault)
}

/// The addresses that may be dialled, of which one has to be left when there were any.
fn allowed(resolved: &[SocketAddr], loopback: bool) -> Result<Vec<SocketAddr>, DialFault> {
    let all = resolved.iter().copied();
    let good: Vec<_> = all
        .filter(|address| KeySets::may_dial(address.ip(), loopback))
        .take(ADDRESSES)
        .collect();
    match (good.is_empty(), resolved.first()) {
        (true, Some(bad)) => Err(DialFault::Address(bad.ip())),
        _ => Ok(good),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    fn at(ips: &[&str]) -> Vec<SocketAddr> {
        let ips = ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap());
        ips.map(|ip| (ip, 6379).into()).collect()
    }

    #[test]
    fn some_of_the_addresses_that_may_be_dialled_are_tried() {
        let mixed = at(&["169.254.169.254", "10.0.0.1", "127.0.0.1", "fe80::1"]);
        assert_eq!(allowed(&mixed, false).unwrap(), at(&["10.0.0.1"]));
        let beside = at(&["10.0.0.1", "127.0.0.1"]);
        assert_eq!(allowed(&mixed, true).unwrap(), beside);
        let many = vec![mixed[1]; ADDRESSES + 1];
        assert_eq!(allowed(&many, false).unwrap().len(), ADDRESSES);
        assert!(allowed(&[], true).unwrap().is_empty());
    }

    #[test]
    fn f_82_what_clouds_keep_on_link_local_addresses_is_never_dialled() {
        for bad in ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254"] {
            let refused = allowed(&at(&[bad]), true);
            assert!(
                matches!(refused, Err(DialFault::Address(ip)) if ip == bad.parse::<IpAddr>().unwrap()),
                "{refused:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_does_not_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        // Bound, so that nobody else takes the port, but nobody listens.
        let bound = TcpSocket::new_v4().unwrap();
        bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let closed = bound.local_addr().unwrap();
        let stream = connect([closed, open].as_slice(), true).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        let refused = connect(closed, true).await;
        assert!(
            matches!(refused, Err(DialFault::Transport(_))),
            "{refused:?}"
        );
    }
}
