//! The listeners an operator's tools talk to, on one thread of their own.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use agent_net::private::{PrivateListener, SocketFile};
use agent_telemetry::Metrics;
use anyhow::Context;
use http::StatusCode;
use http::header::ACCEPT;
use http::request::Parts;
use tokio::sync::oneshot;

use crate::http::{Answer, Route, serve};
use crate::readiness::Readiness;

/// Threads that run routes; a slow config dump must not hold up readiness.
const BLOCKING_THREADS: usize = 4;

/// Listeners that are bound but do not serve yet.
#[derive(Default)]
pub(crate) struct Listeners {
    tcp: Vec<(TcpListener, Arc<[Route]>)>,
    unix: Vec<(PrivateListener, Arc<[Route]>)>,
}

impl Listeners {
    /// Serves `listener` for `routes`.
    pub(crate) fn tcp(mut self, listener: TcpListener, routes: &[Route]) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        self.tcp.push((listener, routes.into()));
        Ok(self)
    }

    /// Binds the unix socket `path`, readable and writable by its owner only, for `routes`. The
    /// folder is made when it is missing; a socket left by an earlier process is replaced.
    pub(crate) fn unix(mut self, path: &Path, routes: &[Route]) -> anyhow::Result<Self> {
        let socket = PrivateListener::bind(path)
            .with_context(|| format!("listening on {}", path.display()))?;
        self.unix.push((socket, routes.into()));
        Ok(self)
    }

    /// Starts the thread that serves them.
    pub(crate) fn start(self) -> anyhow::Result<Serving> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()
            .context("admin runtime")?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                let served = runtime.block_on(self.serve_until(stopped));
                // A route that is stuck must not keep the process alive.
                runtime.shutdown_background();
                if let Err(error) = served {
                    tracing::error!(target: "admin", %error, "cannot serve");
                }
            })
            .context("admin thread")?;
        Ok(Serving {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    async fn serve_until(self, stopped: oneshot::Receiver<Leave>) -> io::Result<()> {
        let mut tasks = tokio::task::JoinSet::new();
        for (listener, routes) in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(serve_tcp(listener, routes));
        }
        let mut files = Vec::new();
        for (socket, routes) in self.unix {
            files.push(socket.file);
            let listener = tokio::net::UnixListener::from_std(socket.listener)?;
            tasks.spawn(serve_unix(listener, routes));
        }
        // Also when the owner is gone without a word.
        if let Ok(Leave) = stopped.await {
            files.into_iter().for_each(SocketFile::leave);
        }
        Ok(())
    }
}

/// Named functions, because a generic future that borrows its listener is not provably `Send`.
async fn serve_tcp(listener: tokio::net::TcpListener, routes: Arc<[Route]>) {
    serve(listener, routes).await;
}

async fn serve_unix(listener: tokio::net::UnixListener, routes: Arc<[Route]>) {
    serve(listener, routes).await;
}

/// Running listeners; dropping it stops them and removes the admin socket.
#[derive(Debug)]
pub(crate) struct Serving {
    stop: Option<oneshot::Sender<Leave>>,
    thread: Option<JoinHandle<()>>,
}

/// Said to the thread when the sockets' files are somebody else's from now on.
#[derive(Debug)]
struct Leave;

impl Serving {
    /// Stops them and leaves the files of unix sockets to whoever replaces them.
    pub(crate) fn leave(mut self) {
        if let Some(stop) = self.stop.take() {
            // A thread that has ended has nothing left.
            let _ = stop.send(Leave);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed already.
            let _ = thread.join();
        }
    }
}

/// `/metrics`, also under the ambient data plane's other name for it.
pub(crate) fn metrics_route(metrics: Arc<Metrics>) -> Route {
    Arc::new(move |request| {
        matches!(request.uri.path(), "/metrics" | "/stats/prometheus").then(|| Answer {
            status: StatusCode::OK,
            content_type: metrics_type(request),
            body: metrics.encode(Instant::now()),
        })
    })
}

/// The text is valid in both formats; the name is the one the scraper asked for.
fn metrics_type(request: &Parts) -> &'static str {
    let accepts = request.headers.get(ACCEPT).and_then(|v| v.to_str().ok());
    if accepts.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    }
}

/// `/healthz/ready`: 200 `ready`, else 500 with the names of what is pending.
pub(crate) fn readiness_route(readiness: Readiness) -> Route {
    Arc::new(move |request| {
        (request.uri.path() == "/healthz/ready").then(|| {
            let pending = readiness.pending();
            if pending.is_empty() {
                Answer::text(StatusCode::OK, "ready\n")
            } else {
                let body = format!("not ready, pending: {}\n", pending.join(", "));
                Answer::text(StatusCode::INTERNAL_SERVER_ERROR, body)
            }
        })
    })
}

/// `/healthz/live`: 200 `alive` while `is_alive` says so, else 500. Who hangs as a whole does not answer.
pub(crate) fn liveness_route(is_alive: impl Fn() -> bool + Send + Sync + 'static) -> Route {
    Arc::new(move |request| {
        (request.uri.path() == "/healthz/live").then(|| {
            if is_alive() {
                Answer::text(StatusCode::OK, "alive\n")
            } else {
                Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the data path hangs\n")
            }
        })
    })
}

#[cfg(test)]
mod tests;
