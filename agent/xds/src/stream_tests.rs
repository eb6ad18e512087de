//! Both shells over TLS on loopback: credentials, first sync, changes, reconnects.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::server::ConnectedNodes;
use crate::{
    Apply, Authenticate, Client, ClientConfig, ClientStatus, Demand, Discovery, NodeFacts,
    NotAdmitted, Published, Rejection, Update, client,
};
use agent_model::Workload;
use agent_net::drain::{self, Drain};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};

const PATIENCE: Duration = Duration::from_secs(20);

/// `good-<node>` is the token of `<node>`.
struct Tokens;

impl Authenticate for Tokens {
    async fn client(&self, token: &str) -> Result<Client, NotAdmitted> {
        let node = token.strip_prefix("good-").map(Arc::from);
        node.map(Client::Node).ok_or(NotAdmitted::Invalid)
    }
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Update>>>);

impl Apply for Seen {
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection> {
        self.0.lock().unwrap().extend(updates);
        Vec::new()
    }
}

impl Seen {
    fn uids(&self) -> Vec<String> {
        let updates = self.0.lock().unwrap();
        let uids = updates.iter().filter_map(|update| match update {
            Update::Workload(workload) => Some(workload.uid.to_string()),
            Update::RemoveAddress(name) => Some(format!("-{name}")),
            _ => None,
        });
        uids.collect()
    }
}

/// A root, and a folder with it and a token, gone with the test.
struct Credentials {
    dir: PathBuf,
    server: Identity,
}

impl Credentials {
    fn new(name: &str, token: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("xds-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.join("root.pem"), root.pem()).unwrap();
        std::fs::write(dir.join("token"), token).unwrap();
        let server = Identity::from_pem(leaf.pem(), key.serialize_pem());
        Self { dir, server }
    }

    fn client(&self, server: SocketAddr) -> ClientConfig {
        ClientConfig {
            address: server.to_string(),
            root_cert: self.dir.join("root.pem"),
            token_file: self.dir.join("token"),
            node: NodeFacts::new("n1", "Kubernetes", ""),
        }
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A running server; the drain ends its streams, dropping it ends the listener.
struct Running {
    address: SocketAddr,
    nodes: ConnectedNodes,
    drain: Drain,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(credentials: &Credentials, address: &str, catalog: &Arc<Published>) -> Self {
        let (drain, watcher) = drain::channel();
        let discovery = Discovery::new(Arc::new(Tokens), Arc::clone(catalog), watcher);
        let nodes = discovery.nodes();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = ServerTlsConfig::new().identity(credentials.server.clone());
        let server = Server::builder().tls_config(tls).unwrap();
        let service = discovery.into_service();
        let task = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            server.serve_with_incoming(service, incoming).await.unwrap();
        });
        Self {
            address,
            nodes,
            drain,
            task,
        }
    }

    async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
        self.drain.drain(PATIENCE).await;
    }
}

async fn until(status: &mut watch::Receiver<ClientStatus>, is_so: impl Fn(&ClientStatus) -> bool) {
    let in_time = tokio::time::timeout(PATIENCE, status.wait_for(|status| is_so(status))).await;
    assert!(matches!(in_time, Ok(Ok(_))), "not in time: {in_time:?}");
}

fn workload(uid: &str) -> Workload {
    Workload {
        uid: uid.into(),
        ..Workload::default()
    }
}

fn put(catalog: &Published, uid: &str) {
    catalog.change(|catalog| catalog.put_workload(&workload(uid)));
}

#[tokio::test]
async fn a_node_syncs_follows_and_reconnects() {
    let credentials = Credentials::new("follow", "wrong");
    let catalog = Arc::new(Published::default());
    put(&catalog, "a");
    let server = Running::start(&credentials, "127.0.0.1:0", &catalog).await;
    let address = server.address;

    let seen = Seen::default();
    let (status, mut current) = watch::channel(ClientStatus::default());
    let (end, watcher) = drain::channel();
    let client = tokio::spawn(client::run(
        credentials.client(address),
        seen.clone(),
        status,
        watcher,
    ));

    // A token that is none, until the file holds one.
    let refused = "stream ended: no valid node token (Unauthenticated)";
    until(&mut current, |status| {
        status.last_error.as_deref() == Some(refused)
    })
    .await;
    assert!(!current.borrow().synced);
    std::fs::write(credentials.dir.join("token"), "good-n1\n").unwrap();
    until(&mut current, |status| status.synced).await;
    assert_eq!(current.borrow().last_error, None);
    assert_eq!(seen.uids(), ["a"]);
    assert_eq!(&*server.nodes.list()[0].node, "n1");

    let before = current.borrow().received.clone();
    put(&catalog, "b");
    until(&mut current, |status| status.addresses == 2).await;
    assert_eq!(seen.uids(), ["a", "b"]);
    let after = current.borrow().received.clone();
    let of_nodes = crate::ResourceType::OF_NODES;
    let [addresses, policies] = [of_nodes[0].url(), of_nodes[1].url()];
    assert_eq!(after[addresses].messages, before[addresses].messages + 1);
    assert!(after[addresses].bytes > before[addresses].bytes + 20);
    assert_eq!(after[policies], before[policies]);

    // The server goes away, the catalog changes, and it comes back on the same port.
    server.stop().await;
    until(&mut current, |status| !status.connected).await;
    assert!(current.borrow().synced, "the state is kept");
    catalog.change(|catalog| {
        catalog.remove(crate::ResourceType::Address, "a");
        catalog.put_workload(&workload("c"))
    });
    let server = Running::start(&credentials, &address.to_string(), &catalog).await;
    until(&mut current, |status| {
        status.connected && status.last_error.is_none()
    })
    .await;
    put(&catalog, "d");
    until(&mut current, |status| status.addresses == 3).await;
    assert_eq!(
        seen.uids(),
        ["a", "b", "c", "-a", "d"],
        "b was not sent again"
    );

    assert!(end.drain(PATIENCE).await, "the client ends when asked");
    client.await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn t_xds_1_an_impostor_gets_no_token() {
    let credentials = Credentials::new("impostor", "good-n1");
    let impostor = Credentials::new("impostor-2", "good-n1");
    let catalog = Arc::new(Published::default());
    let server = Running::start(&impostor, "127.0.0.1:0", &catalog).await;
    let (status, mut current) = watch::channel(ClientStatus::default());
    let (end, watcher) = drain::channel();
    let config = credentials.client(server.address);
    let client = tokio::spawn(client::run(config, Seen::default(), status, watcher));
    until(&mut current, |status| {
        let error = status.last_error.as_deref();
        error.is_some_and(|error| error.contains("invalid peer certificate"))
    })
    .await;
    assert!(server.nodes.list().is_empty());
    end.drain(PATIENCE).await;
    client.await.unwrap();
    server.stop().await;
}

/// The server's issuer was replaced while the node kept its stream; a kubelet renews the file.
#[tokio::test]
async fn f_25_the_file_of_roots_is_read_again_for_every_stream() {
    let old = Credentials::new("roots", "good-n1");
    let new = Credentials::new("roots-2", "good-n1");
    let catalog = Arc::new(Published::default());
    let server = Running::start(&old, "127.0.0.1:0", &catalog).await;
    let address = server.address.to_string();
    let (status, mut current) = watch::channel(ClientStatus::default());
    let (end, watcher) = drain::channel();
    let config = old.client(server.address);
    let client = tokio::spawn(client::run(config, Seen::default(), status, watcher));
    until(&mut current, |status| status.connected).await;
    server.stop().await;
    let server = Running::start(&new, &address, &catalog).await;
    until(&mut current, |status| {
        let error = status.last_error.as_deref();
        error.is_some_and(|error| error.contains("invalid peer certificate"))
    })
    .await;
    std::fs::copy(new.dir.join("root.pem"), old.dir.join("root.pem")).unwrap();
    until(&mut current, |status| status.connected).await;
    end.drain(PATIENCE).await;
    client.await.unwrap();
    server.stop().await;
}

/// The connection lives, and nothing passes it any more.
#[tokio::test]
async fn f_18_a_stream_that_falls_silent_is_given_up_within_a_minute() {
    let credentials = Credentials::new("silent", "good-n1");
    let catalog = Arc::new(Published::default());
    put(&catalog, "a");
    let server = Running::start(&credentials, "127.0.0.1:0", &catalog).await;
    let relay = Relay::start(server.address).await;
    let seen = Seen::default();
    let (status, mut current) = watch::channel(ClientStatus::default());
    let (end, watcher) = drain::channel();
    let config = credentials.client(relay.address);
    let client = tokio::spawn(client::run(config, seen.clone(), status, watcher));
    until(&mut current, |status| status.synced).await;

    relay.silent.send_replace(true);
    put(&catalog, "b");
    for seconds in [29, 2] {
        // First nothing, then the PING, which nobody answers.
        pass(Duration::from_secs(seconds)).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(current.borrow().connected, "given up too early");
        assert_eq!(seen.uids(), ["a"], "it is not silent");
    }
    pass(Duration::from_secs(11)).await;
    until(&mut current, |status| status.addresses == 2).await;
    assert_eq!((current.borrow().failures, seen.uids().len()), (1, 2));
    relay.silent.send_replace(false);

    assert!(end.drain(PATIENCE).await, "the client ends when asked");
    client.await.unwrap();
    server.stop().await;
}

/// Time goes by at once for everybody in this test.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Passes bytes on, until those connections that it has fall silent.
struct Relay {
    address: SocketAddr,
    silent: watch::Sender<bool>,
}

impl Relay {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = watch::Sender::new(false);
        let signal = silent.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                let mut silenced = signal.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = silenced.changed() => {
                            // Until they are let go.
                            let _ = silenced.changed().await;
                        }
                    }
                });
            }
        });
        Self { address, silent }
    }
}

#[tokio::test]
async fn t_node_2_a_token_never_goes_over_plaintext() {
    let credentials = Credentials::new("plaintext", "good-n1");
    let mut config = credentials.client(SocketAddr::from(([127, 0, 0, 1], 9)));
    config.address = "http://127.0.0.1:9".to_owned();
    let (status, mut current) = watch::channel(ClientStatus::default());
    let (end, watcher) = drain::channel();
    let client = tokio::spawn(client::run(config, Seen::default(), status, watcher));
    until(&mut current, |status| {
        let error = status.last_error.as_deref();
        error.is_some_and(|error| error.contains("only https is allowed"))
    })
    .await;
    end.drain(PATIENCE).await;
    client.await.unwrap();
}

#[tokio::test]
async fn a_node_holds_only_so_many_streams() {
    let credentials = Credentials::new("streams", "good-n1");
    let catalog = Arc::new(Published::default());
    catalog.change(|_| false);
    let server = Running::start(&credentials, "127.0.0.1:0", &catalog).await;
    let (end, watcher) = drain::channel();
    let mut clients = Vec::new();
    for _ in 0..9 {
        let (status, current) = watch::channel(ClientStatus::default());
        let config = credentials.client(server.address);
        let run = client::run(config, Seen::default(), status, watcher.clone());
        clients.push((tokio::spawn(run), current));
    }
    drop(watcher);
    for (_, current) in &mut clients {
        until(current, |status| {
            let refusal = "stream ended: n1 has too many streams (ResourceExhausted)";
            status.synced || status.last_error.as_deref() == Some(refusal)
        })
        .await;
    }
    let synced = clients.iter().filter(|(_, status)| status.borrow().synced);
    assert_eq!(synced.count(), 8);
    end.drain(PATIENCE).await;
    server.stop().await;
}

/// What a node is, and so what it is sent unasked, goes by its token and by nothing that it says.
#[tokio::test]
async fn t_xds_2_a_node_asks_by_name_and_is_no_other_node() {
    let credentials = Credentials::new("demand", "good-n1");
    let catalog = Arc::new(Published::default());
    let on_node = |uid: &str, node: &str, last: u8| Workload {
        node: node.into(),
        addresses: vec![[10, 0, 0, last].into()],
        ..workload(uid)
    };
    catalog.change(|catalog| {
        catalog.put_workload(&on_node("of n1", "n1", 1));
        catalog.put_workload(&on_node("of n2", "n2", 2));
        catalog.put_workload(&on_node("of n3", "n3", 3))
    });
    let server = Running::start(&credentials, "127.0.0.1:0", &catalog).await;
    let seen = Seen::default();
    let (status, mut current) = watch::channel(ClientStatus::default());
    let (end, watcher) = drain::channel();
    let demand = Demand::new();
    let mut config = credentials.client(server.address);
    config.node = NodeFacts::new("n2", "Kubernetes", "");
    let means = client::Means {
        of_gateway: false,
        demand: Some(demand.clone()),
        saved: None,
    };
    let client = tokio::spawn(client::run_with(
        config,
        means,
        seen.clone(),
        status,
        watcher,
    ));
    until(&mut current, |status| status.synced).await;
    assert_eq!(seen.uids(), ["of n1"]);

    let names = ["/10.0.0.3", "/10.0.0.9"].map(str::to_owned);
    demand.know(&names, PATIENCE).await.unwrap();
    assert_eq!(seen.uids(), ["of n1", "of n3", "-/10.0.0.9"]);
    // What was asked for is told when it comes.
    catalog.change(|catalog| {
        catalog.put_workload(&on_node("stranger", "n3", 8));
        catalog.put_workload(&on_node("late", "n3", 9))
    });
    until(&mut current, |status| status.addresses == 3).await;
    assert_eq!(seen.uids().last().map(String::as_str), Some("late"));

    assert!(end.drain(PATIENCE).await, "the client ends when asked");
    client.await.unwrap();
    server.stop().await;
}

/// With nobody to ask, what was written down counts; a server that has not read its source yet
/// says nothing, and so takes nothing away.
#[tokio::test]
async fn f_15_f_16_a_node_that_starts_in_an_outage_goes_on_with_what_was_written_down() {
    let credentials = Credentials::new("saved", "good-n1");
    let file = credentials.dir.join("mesh");
    let (old, kept) = (workload("old"), workload("kept"));
    let known = [&old, &kept].map(client::Kept::Workload);
    std::fs::write(&file, client::save(known.into_iter(), SystemTime::now())).unwrap();
    // A port that nobody listens on any more.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);

    let seen = Seen::default();
    let (status, mut current) = watch::channel(ClientStatus::default());
    let (end, watcher) = drain::channel();
    let means = client::Means {
        of_gateway: false,
        demand: None,
        saved: Some(file),
    };
    let client = tokio::spawn(client::run_with(
        credentials.client(address),
        means,
        seen.clone(),
        status,
        watcher,
    ));
    until(&mut current, |status| status.restored.is_some()).await;
    assert!(current.borrow().synced && !current.borrow().connected);
    assert_eq!(seen.uids(), ["old", "kept"]);

    // Back, but without its source: the stream opens and nothing is taken away.
    let catalog = Arc::new(Published::default());
    let server = Running::start(&credentials, &address.to_string(), &catalog).await;
    until(&mut current, |status| status.connected).await;
    catalog.change(|catalog| {
        catalog.put_workload(&workload("kept"));
        catalog.put_workload(&workload("new"))
    });
    until(&mut current, |status| {
        status.restored.is_none() && status.addresses == 2
    })
    .await;
    assert_eq!(seen.uids(), ["old", "kept", "kept", "new", "-old"]);
    assert!(end.drain(PATIENCE).await, "the client ends when asked");
    client.await.unwrap();
    server.stop().await;
}
