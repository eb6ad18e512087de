//! Web servers that tell which requests they saw: what a proxy let through, as its backend
//! understood it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::http;
use crate::place::Place;
use crate::poll;
use crate::process::Process;
use crate::run::Run;

/// What stands in what nobody is to get at.
pub const SECRET: &str = "TOP SECRET";
/// Header of an answer that says which path the server saw.
pub const SEEN: &str = "X-Seen";

/// Bytes that nginx returns for `/public/big`.
pub const BIG: usize = 4 << 20;

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// nginx, which resolves dot segments and escapes.
    Nginx,
    /// HAProxy, which here resolves dot segments and then decodes once more.
    Haproxy,
    /// Apache, which has rules of its own for both.
    Apache,
}

/// A running server. Below `/public` it answers everything, below `/secret` with [`SECRET`].
#[derive(Debug)]
pub struct Witness {
    process: Process,
    kind: Kind,
    log: std::path::PathBuf,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Apache];

    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache",
        }
    }

    fn command(self, folder: &Path, port: u16) -> Result<Command> {
        let config = folder.join("server.conf");
        let (program, text) = match self {
            Self::Nginx => ("/usr/sbin/nginx", nginx(port)),
            Self::Haproxy => ("/usr/sbin/haproxy", haproxy(port)),
            Self::Apache => ("/usr/sbin/apache2", apache(folder, port)),
        };
        fs::write(&config, text).context("writing a server's configuration")?;
        let mut command = Command::new(program);
        match self {
            Self::Nginx => command.arg("-p").arg(folder).arg("-c").arg(&config),
            Self::Haproxy => command.args(["-db", "-f"]).arg(&config),
            Self::Apache => command.args(["-D", "FOREGROUND", "-f"]).arg(&config),
        };
        Ok(command)
    }
}

impl Witness {
    /// Starts a server in a place, on a port of both families.
    pub fn start(run: &Run, place: &Place, kind: Kind, port: u16) -> Result<Self> {
        let folder = run.path(format!("app-witness-{}", kind.name()));
        for child in ["www/public", "www/secret"] {
            fs::create_dir_all(folder.join(child)).context("creating a server's folder")?;
        }
        fs::write(folder.join("www/public/index.html"), "public\n")?;
        fs::write(folder.join("www/public/big"), vec![b'x'; BIG])?;
        fs::write(folder.join("www/secret/key"), format!("{SECRET}\n"))?;
        let command = kind.command(&folder, port)?;
        let process = Process::spawn(run, place, &format!("witness-{}", kind.name()), command)?;
        let to = (std::net::Ipv4Addr::LOCALHOST, port).into();
        poll::until("the server up", Duration::from_secs(10), || {
            process.must_run()?;
            http::get(place, to, "/public/up")
        })?;
        let log = match kind {
            Kind::Haproxy => process.log_path().to_path_buf(),
            Kind::Nginx | Kind::Apache => folder.join("access.log"),
        };
        Ok(Self { process, kind, log })
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The first line of each request so far, as the server read it.
    pub fn requests(&self) -> Vec<String> {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().map(str::to_owned).collect()
    }
}

fn nginx(port: u16) -> String {
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid nginx.pid;\nerror_log error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         log_format seen '$request'; access_log access.log seen;\n\
         client_body_temp_path tmp-body; proxy_temp_path tmp-proxy; fastcgi_temp_path tmp-f;\n\
         uwsgi_temp_path tmp-u; scgi_temp_path tmp-s;\n\
         server {{ listen {port}; listen [::]:{port}; root www;\n\
         location = /public/big {{ }}\n\
         location /public {{ add_header {SEEN} $request_uri always; return 200 'public\\n'; }} }}\n}}\n"
    )
}

fn haproxy(port: u16) -> String {
    format!(
        "global\n  log stdout len 8192 format raw local0\n  expose-experimental-directives\n\
         defaults\n  mode http\n  log global\n  timeout client 30s\n  timeout server 30s\n\
         \x20 timeout connect 5s\n  timeout http-request 30s\n\
         frontend web\n  bind :::{port} v4v6\n  log-format \"%r\"\n\
         \x20 http-request normalize-uri percent-decode-unreserved\n\
         \x20 http-request normalize-uri path-strip-dot\n\
         \x20 http-request normalize-uri path-strip-dotdot full\n\
         \x20 http-request return status 200 content-type text/plain string \"{SECRET}\" if {{ path,url_dec -m beg /secret }}\n\
         \x20 http-request return status 200 content-type text/plain string \"public\" hdr {SEEN} \"%[path]\"\n"
    )
}

fn apache(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    let modules: String = ["mpm_event", "authz_core", "alias", "headers"]
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .concat();
    format!(
        "ServerRoot {folder}\nServerName witness\nPidFile apache.pid\nDefaultRuntimeDir {folder}\n\
         Listen 0.0.0.0:{port}\nListen [::]:{port}\n{modules}\
         ErrorLog error.log\nLogFormat \"%r\" seen\nCustomLog access.log seen\n\
         DocumentRoot {folder}/www\nAllowEncodedSlashes On\n\
         AliasMatch ^/public {folder}/www/public/index.html\n\
         <Directory {folder}/www>\nRequire all granted\n</Directory>\n\
         Header always set {SEEN} \"expr=%{{REQUEST_URI}}\"\n"
    )
}
