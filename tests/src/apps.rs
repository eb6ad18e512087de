//! Real applications in pods: nginx and redis, each with a configuration of its own.

mod witness;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::http;
use crate::place::Place;
use crate::poll;
use crate::process::Process;
use crate::run::Run;

pub use witness::{BIG, Kind, SECRET, SEEN, Witness};

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    root: PathBuf,
    access_log: PathBuf,
}

/// Path that nginx serves with a small body, for measurements.
pub const SMALL_PATH: &str = "/small";
/// Body of [`SMALL_PATH`].
pub const SMALL_BODY: &str = "ok\n";

impl Nginx {
    /// Starts nginx in a place, on a port of both families. `name` names its folder and log.
    pub fn start(run: &Run, place: &Place, name: &str, port: u16) -> Result<Self> {
        let folder = run.path(format!("app-{name}"));
        let root = folder.join("www");
        fs::create_dir_all(&root).context("creating nginx' folder")?;
        fs::create_dir_all(folder.join("tmp")).context("creating nginx' folder")?;
        fs::write(root.join("index.html"), format!("hello from {name}\n"))?;
        fs::write(root.join("small"), SMALL_BODY)?;
        let config = folder.join("nginx.conf");
        fs::write(&config, nginx_config(&folder, port))?;
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(&folder).arg("-c").arg(&config);
        command.args(["-e", "error.log"]);
        let process = Process::spawn(run, place, &format!("nginx-{name}"), command)?;
        let to = (std::net::Ipv4Addr::LOCALHOST, port).into();
        poll::until("nginx up", Duration::from_secs(10), || {
            process.must_run()?;
            http::get(place, to, SMALL_PATH)
        })?;
        Ok(Self {
            process,
            root,
            access_log: folder.join("access.log"),
        })
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The folder it serves.
    pub fn root(&self) -> &PathBuf {
        &self.root
    }

    /// Access-log lines: `CLIENT_ADDRESS REQUEST_URI STATUS`.
    pub fn requests(&self) -> Vec<String> {
        fs::read_to_string(&self.access_log)
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

fn nginx_config(folder: &std::path::Path, port: u16) -> String {
    let tmp = folder.join("tmp");
    let tmp = tmp.display();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid nginx.pid;\nerror_log error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         log_format who '$remote_addr $request_uri $status';\n\
         access_log access.log who;\n\
         client_body_temp_path {tmp}/body; proxy_temp_path {tmp}/proxy; fastcgi_temp_path {tmp}/f;\n\
         uwsgi_temp_path {tmp}/u; scgi_temp_path {tmp}/s;\n\
         keepalive_requests 1000000000; keepalive_timeout 3600; sendfile on;\n\
         server {{ listen {port} backlog=4096; listen [::]:{port} backlog=4096; root www;\n\
         location = / {{ if (-f $document_root/broken) {{ return 503; }} }}\n\
         location = {SMALL_PATH} {{ access_log off; }} }}\n}}\n"
    )
}

/// A running redis.
#[derive(Debug)]
pub struct Redis {
    process: Process,
}

impl Redis {
    /// Starts redis in a place, on a port of both families, without persistence.
    pub fn start(run: &Run, place: &Place, name: &str, port: u16) -> Result<Self> {
        let folder = run.path(format!("app-{name}"));
        fs::create_dir_all(&folder).context("creating redis' folder")?;
        let port_text = port.to_string();
        let mut command = Command::new("/usr/bin/redis-server");
        command
            .args(["--port", &port_text, "--bind", "0.0.0.0", "::"])
            .args(["--protected-mode", "no", "--save", "", "--daemonize", "no"])
            .arg("--dir")
            .arg(&folder);
        let process = Process::spawn(run, place, &format!("redis-{name}"), command)?;
        poll::until("redis up", Duration::from_secs(10), || {
            process.must_run()?;
            let ping = ["redis-cli", "-h", "127.0.0.1", "-p", &port_text, "ping"];
            let answer = place.check(&ping)?;
            ensure!(answer.trim() == "PONG", "redis answers {answer:?}");
            Ok(())
        })?;
        Ok(Self { process })
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
