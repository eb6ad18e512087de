//! A forwarder that counts what the server sends and can cut the connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Forwards connections on loopback; clones of what it shares live in its task.
#[derive(Debug)]
pub(super) struct Forward {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    received: Arc<AtomicU64>,
    cuts: watch::Sender<u64>,
}

impl Forward {
    /// Forwards to `target`.
    pub(super) fn start(runtime: &Runtime, target: SocketAddr) -> Result<Self> {
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .context("the forwarder's listener")?;
        let forward = Self {
            address: listener.local_addr()?,
            target: Arc::new(Mutex::new(target)),
            received: Arc::default(),
            cuts: watch::Sender::new(0),
        };
        let (target, received) = (Arc::clone(&forward.target), Arc::clone(&forward.received));
        let cut = forward.cuts.subscribe();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let target = *target.lock().unwrap_or_else(PoisonError::into_inner);
                tokio::spawn(carry(client, target, Arc::clone(&received), cut.clone()));
            }
        });
        Ok(forward)
    }

    /// Where clients connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends later connections elsewhere.
    pub(super) fn point_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Ends every connection.
    pub(super) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Bytes the server has sent since the last call.
    pub(super) fn take(&self) -> u64 {
        self.received.swap(0, Ordering::Relaxed)
    }
}

async fn carry(
    client: TcpStream,
    target: SocketAddr,
    received: Arc<AtomicU64>,
    mut cut: watch::Receiver<u64>,
) {
    cut.mark_unchanged();
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let back = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            received.fetch_add(count as u64, Ordering::Relaxed);
            if to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        _ = there => {}
        () = back => {}
        _ = cut.changed() => {}
    }
}
