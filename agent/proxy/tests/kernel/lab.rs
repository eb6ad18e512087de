//! Nodes without eBPF: a network namespace of the test's own, workers, and pods that are addresses
//! in it. Where a captured connection was going is said by the test instead of the kernel.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime};

use agent_datapath::{EnrolledPod, PodSink};
use agent_identity::{Authority, Certificates};
use agent_model::{
    Action, Authorization, NamespacedHostname, NetworkAddress, PodInfo, PolicyKey, Reason, Rule,
    Scope, Service, ServicePort, TunnelProtocol, Workload,
};
use agent_net::{NamePlace, NameSockets, Netns, NetnsCookie, OriginalDst, SocketTags};
use agent_proxy::{Config, Mesh, Workers};
use agent_state::Writer;
use agent_telemetry::{Limits, Metrics};
use agent_xds::{Apply, Update};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;

/// Time anything may take that is not said to take long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);
/// Port of the application of every pod that has one.
pub(crate) const APP: u16 = 8080;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Runs a test in a network namespace of its own, once for each family.
pub(crate) fn lab(test: fn(&Lab)) {
    if std::env::var_os("CULVERT_SKIP_KERNEL_TESTS").is_some_and(|value| value == "1") {
        eprintln!("skipped: CULVERT_SKIP_KERNEL_TESTS=1");
        return;
    }
    for family in [Family::V4, Family::V6] {
        let running = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root: CLONE_NEWNET");
            let lab = Lab { family };
            ip("link set lo up");
            for host in 1..=9 {
                // The first pod is whom all others see, unless a socket says otherwise.
                let route = format!("table local local {} dev lo", lab.ip(host));
                let prefix = if family == Family::V4 { 32 } else { 128 };
                ip(&format!("addr add {}/{prefix} dev lo", lab.ip(host)));
                // The kernel adds it a moment after the address.
                let del = format!("route del {route}");
                wait(&del, || try_ip(&del));
                ip(&format!("route add {route} src {}", lab.ip(1)));
            }
            test(&lab);
        });
        if let Err(panic) = running.join() {
            eprintln!("the case of {family:?}:");
            std::panic::resume_unwind(panic);
        }
    }
}

/// The namespace of this thread. Who looks into one returns to that of the process afterwards, so
/// this enters it again.
fn here() -> Netns {
    let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let netns = Netns::from_fd(namespace.try_clone().unwrap().into()).unwrap();
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
    netns
}

fn ip(words: &str) {
    assert!(try_ip(words), "ip {words}");
}

fn try_ip(words: &str) -> bool {
    let output = Command::new("ip").args(words.split(' ')).output();
    output.unwrap().status.success()
}

pub(crate) struct Lab {
    family: Family,
}

impl Lab {
    pub(crate) fn ip(&self, host: u8) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(10, 9, 0, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    pub(crate) fn at(&self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(host), port)
    }

    /// An address that nobody has.
    pub(crate) fn vip(&self) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(10, 96, 0, 1).into(),
            Family::V6 => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// The pod `name` of the mesh at `host`, as the control plane describes it.
    pub(crate) fn workload(&self, name: &str, host: u8) -> Workload {
        Workload {
            uid: format!("c//Pod/shop/{name}").into(),
            name: name.into(),
            namespace: "shop".into(),
            service_account: name.into(),
            addresses: vec![self.ip(host)],
            tunnel_protocol: TunnelProtocol::Hbone,
            node: name.into(),
            ..Workload::default()
        }
    }

    /// A service on port 80 of the vip, with the application's port behind it.
    pub(crate) fn service(&self) -> Service {
        Service {
            name: "web".into(),
            namespace: "shop".into(),
            hostname: "web.shop.svc.cluster.local".into(),
            vips: vec![NetworkAddress {
                network: "".into(),
                address: self.vip(),
            }],
            ports: vec![WEB_PORT],
            subject_alt_names: Vec::new(),
            waypoint: None,
            ingress_use_waypoint: false,
            load_balancing: agent_model::LoadBalancing::default(),
            ip_families: agent_model::IpFamilies::Automatic,
            canonical: true,
            visibility: agent_model::Visibility::Public,
        }
    }

    /// The workload as an endpoint of [`Self::service`].
    pub(crate) fn endpoint(&self, name: &str, host: u8) -> Workload {
        let key = NamespacedHostname::new("shop", "web.shop.svc.cluster.local");
        Workload {
            services: BTreeMap::from([(key, vec![WEB_PORT])]),
            ..self.workload(name, host)
        }
    }

    /// A node with the pod `name` at `host`.
    pub(crate) fn node(&self, name: &str, host: u8) -> Node {
        Node::start(self, name, host, |_| {})
    }

    /// A client's and a server's node that know both pods; the server's pod echoes.
    pub(crate) fn pair(&self) -> (Node, Node) {
        let (mut client, mut server) = (self.node("client", 1), self.node("server", 2));
        let mesh = || {
            vec![
                put(self.workload("client", 1)),
                put(self.workload("server", 2)),
            ]
        };
        client.apply(mesh());
        server.apply(mesh());
        (client, server)
    }
}

const WEB_PORT: ServicePort = ServicePort::new(80, APP);

pub(crate) fn put(workload: Workload) -> Update {
    Update::Workload(Box::new(workload))
}

/// A policy of the namespace `shop` that matches every connection.
pub(crate) fn policy(name: &str, action: Action, scope: Scope) -> Authorization {
    Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope,
        action,
        rules: vec![Rule::default()],
        dry_run: false,
    }
}

/// What the kernel would know.
#[derive(Default)]
pub(crate) struct Kernel {
    going: Mutex<HashMap<SocketAddr, SocketAddr>>,
    shown: Mutex<Vec<SocketAddr>>,
}

impl OriginalDst for Kernel {
    fn original_dst(&self, _pod: NetnsCookie, client: SocketAddr) -> Option<SocketAddr> {
        self.going.lock().unwrap().get(&client).copied()
    }
}

impl SocketTags for Kernel {
    fn exempt(&self, _socket: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn show_client(&self, _socket: BorrowedFd<'_>, client: SocketAddr) -> io::Result<()> {
        self.shown.lock().unwrap().push(client);
        Ok(())
    }
}

impl NameSockets for Kernel {
    fn serve_names(&self, _: NetnsCookie, _: NamePlace, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn leave_names(&self, _: NetnsCookie) -> io::Result<()> {
        Ok(())
    }

    fn name_server(&self, _: NetnsCookie, _: NamePlace) -> Option<IpAddr> {
        None
    }
}

/// A node with one pod.
pub(crate) struct Node {
    pub(crate) workers: Workers,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) synced: watch::Sender<bool>,
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: SocketAddr,
    pub(crate) pod: NetnsCookie,
    pub(crate) ip: IpAddr,
    writer: Writer,
    _control: tokio::runtime::Runtime,
}

impl Node {
    pub(crate) fn start(lab: &Lab, name: &str, host: u8, change: fn(&mut Config)) -> Self {
        static AUTHORITY: LazyLock<Arc<Authority>> = LazyLock::new(|| {
            Arc::new(Authority::in_memory("cluster.local", SystemTime::now()).unwrap())
        });
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (writer, state) = agent_state::channel();
        let (synced, is_synced) = watch::channel(true);
        let kernel = Arc::new(Kernel::default());
        let metrics = Metrics::new("test", Limits::default(), Instant::now());
        let mut config = Config {
            network: "".into(),
            workers: 2,
            connections_per_pod: 64,
            handshakes_per_pod: 8,
            names: None,
        };
        change(&mut config);
        let workers = Workers::start(Mesh {
            state,
            synced: is_synced,
            certificates: Certificates::new(
                Arc::clone(&AUTHORITY) as Arc<dyn agent_identity::CaClient>,
                control.handle().clone(),
                Duration::from_secs(3600),
            ),
            kernel: Arc::<Kernel>::clone(&kernel),
            metrics: Arc::clone(&metrics),
            names: Arc::default(),
            lookup: Arc::new(agent_net::lookup::Lookup::new("/etc/resolv.conf".into())),
            config,
        })
        .unwrap();
        let netns = Arc::new(here());
        let pod = netns.cookie();
        let (outbound, inbound) = (listen(lab.at(host, 0)), listen(lab.at(host, 0)));
        let hbone = listen(lab.at(host, agent_model::HBONE_PORT));
        let node = Self {
            kernel,
            metrics,
            synced,
            outbound: outbound.local_addr().unwrap(),
            inbound: inbound.local_addr().unwrap(),
            pod,
            ip: lab.ip(host),
            writer,
            workers,
            _control: control,
        };
        let info = PodInfo {
            container_id: name.to_owned(),
            uid: String::new(),
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            netns: "/proc/thread-self/ns/net".to_owned(),
            ips: vec![lab.ip(host)],
        };
        let enrolled = EnrolledPod {
            info,
            netns,
            outbound,
            inbound,
            hbone,
            older: Vec::new(),
        };
        node.workers.add(enrolled).unwrap();
        node
    }

    pub(crate) fn apply(&mut self, updates: Vec<Update>) {
        assert!(self.writer.apply(updates).is_empty());
    }

    /// The workers, and beside them a way to apply.
    pub(crate) fn split(&mut self) -> (&Workers, impl FnMut(Vec<Update>) + '_) {
        let writer = &mut self.writer;
        let apply = |updates| assert!(writer.apply(updates).is_empty());
        (&self.workers, apply)
    }

    /// Connects as the pod's application would, captured on its way to `destination`.
    pub(crate) fn connect(&self, destination: SocketAddr) -> TcpStream {
        let socket = Socket::new(Domain::for_address(self.outbound), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(self.ip, 0).into()).unwrap();
        let own = socket.local_addr().unwrap().as_socket().unwrap();
        self.kernel.going.lock().unwrap().insert(own, destination);
        socket.connect(&self.outbound.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(3 * PATIENCE)).unwrap();
        stream
    }

    /// Clients that applications of the pod were shown.
    pub(crate) fn shown(&self) -> Vec<SocketAddr> {
        self.kernel.shown.lock().unwrap().clone()
    }

    /// Waits for a refusal with that reason; the policy it names.
    pub(crate) fn refused(&self, reason: Reason) -> Option<PolicyKey> {
        let mut policy = None;
        wait(&format!("a refusal by {reason}"), || {
            let refusals = self.metrics.refusals();
            let found = refusals
                .into_iter()
                .find(|refusal| refusal.reason == reason);
            policy = found.as_ref().and_then(|refusal| refusal.policy.clone());
            found.is_some()
        });
        policy
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// What an application has seen.
#[derive(Clone, Default)]
pub(crate) struct App {
    accepted: Arc<Mutex<usize>>,
    ends: Arc<Mutex<Vec<Result<(), io::ErrorKind>>>>,
}

impl App {
    pub(crate) fn accepted(&self) -> usize {
        *self.accepted.lock().unwrap()
    }

    /// Its one connection must end in a reset.
    #[track_caller]
    pub(crate) fn must_be_reset(&self) {
        assert_eq!(self.end(), Err(io::ErrorKind::ConnectionReset));
    }

    /// How its one connection ends.
    #[track_caller]
    pub(crate) fn end(&self) -> Result<(), io::ErrorKind> {
        wait("the end at the application", || {
            !self.ends.lock().unwrap().is_empty()
        });
        let ends = self.ends.lock().unwrap();
        assert_eq!(ends.len(), 1);
        ends[0]
    }
}

/// An application that sends back what it gets and ends when its client has.
pub(crate) fn echo(address: SocketAddr) -> App {
    let listener = TcpListener::bind(address).unwrap();
    let app = App::default();
    let seen = app.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            *seen.accepted.lock().unwrap() += 1;
            let seen = seen.clone();
            std::thread::spawn(move || {
                let end = send_back(&mut stream).map_err(|error| error.kind());
                seen.ends.lock().unwrap().push(end);
            });
        }
    });
    app
}

fn send_back(stream: &mut TcpStream) -> io::Result<()> {
    let mut block = [0; 16 * 1024];
    loop {
        match stream.read(&mut block)? {
            0 => return stream.shutdown(std::net::Shutdown::Write),
            n => stream.write_all(&block[..n])?,
        }
    }
}

/// One word there and back.
pub(crate) fn ping(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

/// Reads until the end, which must be a reset: a clean end would look like a complete answer.
#[track_caller]
pub(crate) fn must_be_reset(stream: &mut TcpStream) {
    let end = stream.read_to_end(&mut Vec::new());
    let kind = end.map_err(|error| error.kind());
    assert_eq!(kind, Err(io::ErrorKind::ConnectionReset));
}

#[track_caller]
pub(crate) fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} was waited for in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}
