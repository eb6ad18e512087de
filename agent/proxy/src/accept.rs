//! Accept loops. One listener per purpose and pod; the workers share it by duplicate descriptors.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use agent_net::backoff::Backoff;
use agent_net::drain::Watcher;
use agent_net::socket::{canonical, set_leg_options};
use agent_net::tasks::spawn_local;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::local::LocalPod;

/// An accepted connection with both its addresses in canonical form (IPv4 is never mapped).
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// Our end: where the connection was going, the listeners being steered to by the kernel.
    pub(crate) local: SocketAddr,
}

/// Closes with RST: the peer must not take a refusal for an empty answer, and the port, which may
/// be the application's own, is free at once.
pub(crate) fn refuse(stream: TcpStream) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// Connections that were captured a moment before their pod left arrive within this time of each
/// other.
const LAST_ARRIVALS: Duration = Duration::from_millis(100);
/// All of them have by then.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Accepts until the pod is removed or the agent drains; each connection becomes a task. When the
/// pod leaves the mesh, as `leaving` says, those that wait are still taken.
pub(crate) async fn run<F>(
    pod: LocalPod,
    listener: TcpListener,
    mut draining: Watcher,
    mut leaving: Watcher,
    purpose: &'static str,
    handle: fn(LocalPod, Accepted) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = pod.ended() => return,
            () = draining.signalled() => return,
            () = leaving.signalled() => break,
            accepted = listener.accept() => accepted.and_then(describe),
        };
        match accepted {
            Ok(accepted) => {
                backoff.reset();
                spawn_local(handle(pod.clone(), accepted));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                let delay = backoff.next(rand::random());
                tracing::warn!(target: "accept", pod = %pod.pod.info().name, purpose, %error, ?delay,
                    "accept failed, waiting");
                tokio::time::sleep(delay).await;
            }
        }
    }
    last_call(&pod, listener, handle).await;
}

/// Takes the connections that wait, and those that are on their way.
async fn last_call<F>(pod: &LocalPod, listener: TcpListener, handle: fn(LocalPod, Accepted) -> F)
where
    F: Future<Output = ()> + 'static,
{
    let take = async {
        while let Ok(accepted) = timeout(LAST_ARRIVALS, listener.accept()).await {
            match accepted.and_then(describe) {
                Ok(accepted) => {
                    spawn_local(handle(pod.clone(), accepted));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LAST_CALL, take).await;
}

fn describe((stream, peer): (TcpStream, SocketAddr)) -> io::Result<Accepted> {
    set_leg_options(&stream)?;
    let local = canonical(stream.local_addr()?);
    Ok(Accepted {
        stream,
        peer: canonical(peer),
        local,
    })
}

/// Errors that say nothing about the listener: the peer was gone before we looked.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
    )
}
