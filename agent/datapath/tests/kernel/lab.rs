//! A node made of network namespaces: one for the host with a bridge, one per pod.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_datapath::{Config, Datapath, EnrolledPod};
use agent_model::PodInfo;
use agent_net::Netns;
use socket2::{Domain, Protocol, Socket, Type};

/// Time anything in a lab may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

static LABS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Lab {
    name: String,
    directory: PathBuf,
    namespaces: Vec<String>,
    pub(crate) host: Netns,
    pub(crate) config: Config,
}

pub(crate) struct TestPod {
    pub(crate) name: String,
    pub(crate) netns: Netns,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    pub(crate) info: PodInfo,
}

/// The turn of one test; none when the environment says that kernel tests are not to run here.
///
/// One after the other, because a lab starts programs: between fork and exec such a child holds
/// every listener of this process, also one that another test has just closed.
pub(crate) fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    if std::env::var_os("CULVERT_SKIP_KERNEL_TESTS").is_some_and(|value| value == "1") {
        eprintln!("skipped: CULVERT_SKIP_KERNEL_TESTS=1");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Lab {
    pub(crate) fn new() -> Self {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = format!("cvdp{}x{number}", std::process::id());
        let host = format!("{name}h");
        ip(&["netns", "add", &host]);
        ip(&["-n", &host, "link", "set", "lo", "up"]);
        ip(&["-n", &host, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &host, "addr", "add", "10.77.0.254/24", "dev", "br0"]);
        ip(&[
            "-n",
            &host,
            "addr",
            "add",
            "fd77::fe/64",
            "dev",
            "br0",
            "nodad",
        ]);
        ip(&["-n", &host, "link", "set", "br0", "up"]);
        let directory = PathBuf::from("/run").join(&name);
        let config = Config {
            object: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bpf/culvert.bpf.o"),
            bpffs: directory.join("bpf"),
            cgroup_root: cgroup_root(),
            host_netns: netns_path(&host),
            host_proc: "/proc".into(),
            state_dir: directory.join("state"),
            tables: &agent_datapath::TABLES,
            names: true,
            debug: false,
        };
        Self {
            host: Netns::open(&netns_path(&host)).unwrap(),
            namespaces: vec![host],
            directory,
            name,
            config,
        }
    }

    /// Makes a pod with the addresses 10.77.0.`number` and fd77::`number`.
    pub(crate) fn pod(&mut self, number: u8) -> TestPod {
        let (host, name) = (
            self.namespaces[0].clone(),
            format!("{}p{number}", self.name),
        );
        let (v4, v6) = (
            Ipv4Addr::new(10, 77, 0, number),
            Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()),
        );
        let veth = format!("veth{number}");
        ip(&["netns", "add", &name]);
        self.namespaces.push(name.clone());
        ip(&[
            "-n", &host, "link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns",
            &name,
        ]);
        ip(&["-n", &host, "link", "set", &veth, "master", "br0", "up"]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        ip(&[
            "-n",
            &name,
            "addr",
            "add",
            &format!("{v4}/24"),
            "dev",
            "eth0",
        ]);
        ip(&[
            "-n",
            &name,
            "addr",
            "add",
            &format!("{v6}/64"),
            "dev",
            "eth0",
            "nodad",
        ]);
        ip(&["-n", &name, "link", "set", "eth0", "up"]);
        ip(&["-n", &name, "route", "add", "default", "via", "10.77.0.254"]);
        let path = netns_path(&name);
        TestPod {
            netns: Netns::open(&path).unwrap(),
            v4: v4.into(),
            v6: v6.into(),
            info: PodInfo {
                container_id: format!("container-{number}"),
                uid: format!("uid-{number}"),
                name: format!("pod-{number}"),
                namespace: "default".into(),
                netns: path.to_string_lossy().into_owned(),
                ips: vec![v4.into(), v6.into()],
            },
            name,
        }
    }

    /// Name of the host's namespace.
    pub(crate) fn host_name(&self) -> String {
        self.namespaces[0].clone()
    }

    pub(crate) fn load(&self) -> Datapath {
        Datapath::load(&self.config).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        fs::create_dir_all(&self.directory).unwrap();
        self.directory.join(name)
    }

    /// Names of what is pinned in a directory of this lab, `maps`, `links` or `pods`.
    pub(crate) fn pinned(&self, kind: &str) -> Vec<String> {
        let directory = self.config.bpffs.join("culvert").join(kind);
        let Ok(entries) = fs::read_dir(directory) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn bpffs_is_mounted(&self) -> bool {
        let path = self.config.bpffs.to_string_lossy().into_owned();
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(&path)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Datapath::release(&self.config);
        for name in &self.namespaces {
            // A test may have removed it itself.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl TestPod {
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [self.v4, self.v6]
    }

    /// An application that listens on a port of both families.
    pub(crate) fn serve(&self, port: u16) -> TcpListener {
        serve(
            &self.netns,
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
        )
    }

    pub(crate) fn enrol(&self, datapath: &Datapath) -> EnrolledPod {
        datapath
            .enrol(self.info.clone())
            .unwrap_or_else(|error| panic!("{error}"))
            .expect("enrolled already")
    }
}

pub(crate) fn serve(netns: &Netns, address: SocketAddr) -> TcpListener {
    let listener = netns.run(|| TcpListener::bind(address)).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Connects from a namespace as an application would.
pub(crate) fn connect(from: &Netns, to: SocketAddr) -> io::Result<TcpStream> {
    connect_prepared(from, to, |_| Ok(()))
}

pub(crate) fn connect_prepared(
    from: &Netns,
    to: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<TcpStream> {
    from.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        prepare(&socket)?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket.into())
    })?
}

/// The next connection, or nothing when none comes.
pub(crate) fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    accept_within(listener, PATIENCE)
}

pub(crate) fn nothing_arrives(listener: &TcpListener) -> bool {
    accept_within(listener, Duration::from_millis(100)).is_none()
}

fn accept_within(listener: &TcpListener, time: Duration) -> Option<(TcpStream, SocketAddr)> {
    let deadline = Instant::now() + time;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false).unwrap();
                return Some((stream, peer));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() > deadline {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends a word from one end to the other.
pub(crate) fn say(mut from: &TcpStream, mut to: &TcpStream) {
    from.write_all(b"culvert").unwrap();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut word = [0; 7];
    to.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"culvert");
}

/// Waits for something to come true.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn netns_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

pub(crate) fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    line.expect("cgroup2 is not mounted")
        .split(' ')
        .nth(1)
        .unwrap()
        .into()
}

pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip");
    assert!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
