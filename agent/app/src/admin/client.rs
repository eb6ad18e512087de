//! The other end of the admin socket, for the operator's verbs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::ADMIN_HOST;

/// How long a verb waits for the agent.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer, in bytes: the dump of a very large mesh.
const MAX_ANSWER: usize = 1 << 30;

/// Asks the agent behind `socket` for `path`; fails with the agent's own words where it refuses.
pub(crate) fn get(socket: &Path, path: &str) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(async { tokio::time::timeout(TIMEOUT, request(socket, path)).await })
        .context("the node agent did not answer in 15 s")?
}

async fn request(socket: &Path, path: &str) -> anyhow::Result<String> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!(
            "no node agent answers on {} (is it running, and are you root?)",
            socket.display()
        )
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, ADMIN_HOST)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    let body = body
        .map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?
        .to_bytes();
    driver.abort();
    let text = String::from_utf8_lossy(&body).into_owned();
    if !status.is_success() {
        bail!("{}", text.trim());
    }
    Ok(text)
}
