//! The API server fixture as a program, for labs and for clients in other namespaces.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result};
use clap::Parser;
use tests::apiserver::{ApiServer, Options};

/// An API server for tests: Kubernetes' API in memory. It is a fixture, not a cluster.
#[derive(Parser)]
struct Arguments {
    /// Listen here.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Write a kubeconfig for clients.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Put the manifests of this folder from the start, status too.
    #[arg(long)]
    load: Option<PathBuf>,
    /// Plain HTTP instead of TLS.
    #[arg(long)]
    plain: bool,
    /// Define no custom resources: somebody will install them.
    #[arg(long)]
    no_custom_resources: bool,
    /// EndpointSlices follow Services and Pods.
    #[arg(long)]
    endpoint_slices: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let server = ApiServer::start_with(&Options {
        listen: arguments.listen,
        tls: !arguments.plain,
        custom_resources: !arguments.no_custom_resources,
        endpoint_slices: arguments.endpoint_slices,
        ..Options::default()
    })?;
    if let Some(folder) = &arguments.load {
        server.load(folder)?;
    }
    server.write_kubeconfig(&arguments.kubeconfig)?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "ready on {}", server.address()).context("writing to standard output")?;
    output.flush().context("writing to standard output")?;
    drop(output);
    loop {
        thread::park();
    }
}
