//! The other router, with a configuration that does the same work.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::token::{ISSUER, Token};
use super::workload::{Kind, Protocol};
use crate::Pod;
use crate::process::Process;
use crate::run::Run;

/// Its port for everything, or for HTTP/1.1.
pub(super) const PORT: u16 = 9000;
/// nginx' port for HTTP/2: Debian's cannot tell the two apart.
const PORT_H2: u16 = 9001;

/// What the gateway is compared with.
#[derive(Debug, Clone)]
pub enum Peer {
    /// Envoy, this program.
    Envoy(PathBuf),
    /// Debian's nginx; it verifies no tokens.
    Nginx,
}

impl Peer {
    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Envoy(_) => "Envoy",
            Self::Nginx => "nginx",
        }
    }

    /// Where it listens for that; nowhere when it cannot do it.
    pub(super) fn port(&self, kind: Kind, protocol: Protocol) -> Option<u16> {
        match (self, kind, protocol) {
            (Self::Nginx, Kind::Jwt, _) => None,
            (Self::Nginx, _, Protocol::Http2) => Some(PORT_H2),
            _ => Some(PORT),
        }
    }

    /// Starts it in a pod; returns before it serves.
    pub(super) fn start(&self, run: &Run, pod: &Pod, work: &Work<'_>) -> Result<Process> {
        let name = format!("peer-{}", work.kind.name());
        let folder = run.path(&name);
        fs::create_dir_all(folder.join("tmp")).context("making the other router's folder")?;
        let mut command = match self {
            Self::Envoy(program) => {
                let file = folder.join("envoy.yaml");
                fs::write(&file, envoy(work, &folder)).context("writing its configuration")?;
                let mut command = Command::new(program);
                command.arg("--config-path").arg(file);
                command.args(["--concurrency", "1", "--log-level", "warning"]);
                command.args(["--disable-hot-restart"]);
                command
            }
            Self::Nginx => {
                let file = folder.join("nginx.conf");
                fs::write(&file, nginx(work, &folder)).context("writing its configuration")?;
                let mut command = Command::new("/usr/sbin/nginx");
                command.arg("-p").arg(&folder).arg("-c").arg(file);
                command.args(["-e", "error.log"]);
                command
            }
        };
        command.current_dir(&folder);
        Process::spawn(run, pod.place(), &name, command)
    }
}

/// What a router is to do.
pub(super) struct Work<'a> {
    pub(super) kind: Kind,
    /// Prefixes of paths, one for each route.
    pub(super) prefixes: &'a [String],
    pub(super) backend: SocketAddr,
    pub(super) token: &'a Token,
}

fn envoy(work: &Work<'_>, folder: &Path) -> String {
    let mut routes = String::new();
    for prefix in work.prefixes {
        let _ = write!(
            routes,
            "
              - match: {{path_separated_prefix: {prefix}}}
                route: {{cluster: web}}"
        );
    }
    let log = match work.kind {
        Kind::Logged => format!(
            "
          access_log:
          - name: file
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}",
            folder.join("access.log").display()
        ),
        _ => String::new(),
    };
    let jwt = match work.kind {
        Kind::Jwt => format!(
            "
          - name: envoy.filters.http.jwt_authn
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                bench:
                  issuer: {ISSUER}
                  forward: true
                  local_jwks: {{inline_string: '{}'}}
                  jwt_cache_config: {{jwt_cache_size: 100}}
              rules: [{{match: {{prefix: /}}, requires: {{provider_name: bench}}}}]",
            work.token.keys
        ),
        _ => String::new(),
    };
    let (ip, port) = (work.backend.ip(), work.backend.port());
    format!(
        "static_resources:
  listeners:
  - name: http
    address: {{socket_address: {{address: 0.0.0.0, port_value: {PORT}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          codec_type: AUTO
          generate_request_id: false
          use_remote_address: true{log}
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:{routes}
          http_filters:{jwt}
          - name: envoy.filters.http.router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: web
    type: STATIC
    lb_policy: LEAST_REQUEST
    circuit_breakers:
      thresholds: [{{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}}]
    load_assignment:
      cluster_name: web
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}
"
    )
}

fn nginx(work: &Work<'_>, folder: &Path) -> String {
    let tmp = folder.join("tmp");
    let tmp = tmp.display();
    let log = match work.kind {
        Kind::Logged => "access.log",
        _ => "off",
    };
    let mut routes = String::new();
    for prefix in work.prefixes {
        let _ = writeln!(routes, "location {prefix}/ {{ proxy_pass http://web; }}");
    }
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid nginx.pid;\nerror_log error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\naccess_log {log};\n\
         client_body_temp_path {tmp}/body; proxy_temp_path {tmp}/proxy; fastcgi_temp_path {tmp}/f;\n\
         uwsgi_temp_path {tmp}/u; scgi_temp_path {tmp}/s;\n\
         keepalive_requests 1000000000; keepalive_timeout 3600;\n\
         upstream web {{ server {}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen {PORT} backlog=4096; listen {PORT_H2} http2 backlog=4096;\n\
         proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $host;\n\
         proxy_set_header X-Forwarded-For $remote_addr;\n{routes}}}\n}}\n",
        work.backend
    )
}
