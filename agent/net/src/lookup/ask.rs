//! Asking name servers: over UDP, and over TCP what does not fit.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::LookupError;
use super::message::{self, Kind, Reply, Told};

/// How long one server may take before the next one is asked.
const PER_SERVER: Duration = Duration::from_secs(2);
/// How often the list is gone through.
const ROUNDS: usize = 2;
/// Longest datagram.
const MAX_DATAGRAM: usize = 4096;

/// The first answer of any of the servers, in turn.
pub(super) async fn any_of(servers: &[SocketAddr], host: &str) -> Result<Told, LookupError> {
    let mut last = LookupError::Unanswered("nobody to ask".to_owned());
    for server in servers.iter().cycle().take(ROUNDS * servers.len()) {
        let asked = timeout(PER_SERVER, one(*server, host)).await;
        last = match asked {
            Ok(Ok(told)) => return Ok(told),
            Ok(Err(LookupError::NotFound)) => return Err(LookupError::NotFound),
            Ok(Err(error)) => error,
            Err(_) => LookupError::Unanswered(format!("{server}: no answer in {PER_SERVER:?}")),
        };
    }
    Err(last)
}

/// One server's answer for both families. One family is enough when the other fails.
async fn one(server: SocketAddr, host: &str) -> Result<Told, LookupError> {
    let (v4, v6) = tokio::join!(
        of_kind(server, host, Kind::A),
        of_kind(server, host, Kind::Aaaa)
    );
    let (mut told, fault) = match (v4, v6) {
        (Ok(mut v4), Ok(v6)) => {
            v4.addresses.extend(v6.addresses);
            v4.ttl = v4.ttl.min(v6.ttl);
            (v4, None)
        }
        (Ok(told), Err(fault)) | (Err(fault), Ok(told)) => (told, Some(fault)),
        (Err(fault), Err(_)) => return Err(fault),
    };
    told.addresses.retain(is_dialled);
    match fault {
        _ if !told.addresses.is_empty() => Ok(told),
        Some(fault) => Err(fault),
        None => Err(LookupError::NotFound),
    }
}

/// Nobody else's than the host's own.
fn is_dialled(address: &IpAddr) -> bool {
    let address = address.to_canonical();
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

async fn of_kind(server: SocketAddr, host: &str, kind: Kind) -> Result<Told, LookupError> {
    let question = message::question(rand::random(), host, kind);
    let asked = over_udp(server, &question).await;
    let asked = match asked {
        Ok(Reply::Truncated) => over_tcp(server, &question).await,
        asked => asked,
    };
    match asked {
        Ok(Reply::Told(told)) => Ok(told),
        Ok(Reply::NoSuchName) => Err(LookupError::NotFound),
        Ok(Reply::Failed(code)) => Err(LookupError::Unanswered(format!(
            "{server}: response code {code}"
        ))),
        Ok(Reply::Truncated | Reply::Other) => Err(LookupError::Unanswered(format!(
            "{server}: not a reply that can be read"
        ))),
        Err(error) => Err(LookupError::Unanswered(format!("{server}: {error}"))),
    }
}

/// From a port of its own, and connected, so that only the server's datagrams arrive; what is not
/// the reply is passed over.
async fn over_udp(server: SocketAddr, question: &[u8]) -> io::Result<Reply> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match message::read(question, &buffer[..length]) {
            Reply::Other => {}
            reply => return Ok(reply),
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = (question.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(question);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    Ok(message::read(question, &reply))
}
