//! Accept loops. The workers share a port's listener by duplicate descriptors.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use agent_net::backoff::Backoff;
use agent_net::drain::Watcher;
use agent_net::socket::{canonical, set_leg_options};
use agent_net::tasks::spawn_local;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::serve::serve;
use crate::worker::Worker;

/// Accepts on a port until it drains; each connection becomes a task, which lets its requests
/// finish when the port drains.
pub(crate) async fn run(
    worker: Rc<Worker>,
    listener: TcpListener,
    port: u16,
    mut draining: Watcher,
) {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining.signalled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                backoff.reset();
                let Some(slot) = worker.connection() else {
                    tracing::warn!(port, "connection refused: this worker has enough");
                    continue;
                };
                if set_leg_options(&stream).is_err() {
                    continue;
                }
                let (worker, draining) = (Rc::clone(&worker), draining.clone());
                spawn_local(async move {
                    let _slot = slot;
                    // Boxed: it is large, and a task is copied when it is made.
                    Box::pin(serve(worker, stream, canonical(client), port, draining)).await;
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                let delay = backoff.next(rand::random());
                tracing::warn!(port, %error, ?delay, "accept failed, waiting");
                sleep(delay).await;
            }
        }
    }
}

/// Errors that say nothing about the listener: the client was gone before we looked.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
    )
}
