//! What a peer with a certificate may say to the tunnel server: bytes inside TLS. Its connection
//! ends in order, whatever they are, and every request that gets through names a target.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use agent_hbone::server::{IncomingRequest, accept};
use agent_hbone::{Settings, headers};
use agent_identity::{
    Authority, Certificate, PendingKey, client_config, dummy_server_name, server_config,
};
use agent_model::Identity;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A connection must be over by then.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const WORDS: &[&str] = &[
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\0\0\0\x04\0\0\0\0\0",
    "\0\0\0\x04\x01\0\0\0\0",
    "\0\0\x08\x06\0\0\0\0\0",
    "\0\0\x04\x08\0\0\0\0\0\0\0\0\x01",
    "\0\0\x04\x03\0\0\0\0\x01",
    "\0\0\x08\x07\0\0\0\0\0",
    "\0\0\x05\0\0\0\0\0\x01hello",
    "\0\0\0\0\x01\0\0\0\x01",
    "\x01\x25",
    "\x01\x04",
    "\0\0\0\x09\x04\0\0\0\x01",
    "CONNECT",
    "10.0.0.1:80",
    "\0\0\x06\x04\0\0\0\0\0",
];

/// A server that says nothing for so long has done what it was asked.
const QUIET: Duration = Duration::from_millis(2);

struct Mesh {
    client: Arc<Certificate>,
    server: Arc<Certificate>,
}

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let now = SystemTime::now();
    let authority = Authority::in_memory("cluster.local", now).expect("an authority can be made");
    let certificate = |account| {
        let identity = identity(account);
        let key = PendingKey::generate(&identity).expect("a key can be made");
        let hour = Duration::from_secs(3600);
        let answer = authority.sign(key.csr_pem(), &identity, hour, now);
        let answer = answer.expect("the authority signs");
        Arc::new(key.complete(&answer, now).expect("its answer is good"))
    };
    Mesh {
        client: certificate("client"),
        server: certificate("server"),
    }
});

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "shop", account).expect("a valid identity")
}

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
}

/// Bytes are what the peer sends after the handshake, all at once; then it closes.
pub(super) fn run(bytes: &[u8]) {
    let bytes = bytes.to_vec();
    RUNTIME.with(|runtime| {
        let both = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
            let address = listener
                .local_addr()
                .expect("a bound socket has an address");
            let server = tokio::task::spawn_local(serve(listener));
            let tcp = TcpStream::connect(address)
                .await
                .expect("the server listens");
            talk(tcp, &bytes).await;
            server.await.expect("the server does not panic");
        };
        let limited = async {
            timeout(PATIENCE, both)
                .await
                .expect("the connection never ends")
        };
        LocalSet::new().block_on(runtime, limited);
    });
}

async fn talk(tcp: TcpStream, bytes: &[u8]) {
    let config = client_config(&MESH.client, &[identity("server")]).expect("a configuration");
    let connector = TlsConnector::from(config);
    let tls = connector.connect(dummy_server_name(), tcp).await;
    let mut tls = tls.expect("the handshake is in order");
    // The server may have had enough before the end of them.
    let _ = tls.write_all(bytes).await;
    // What arrives together with the end is not looked at any more, so requests need a moment.
    let mut answer = [0; 4096];
    while let Ok(Ok(1..)) = timeout(QUIET, tls.read(&mut answer)).await {}
    let _ = tls.shutdown().await;
    let _ = tls.read_to_end(&mut Vec::new()).await;
}

async fn serve(listener: TcpListener) {
    let (tcp, _) = listener.accept().await.expect("somebody dials");
    let config = server_config(&MESH.server).expect("a configuration");
    let connection = accept(tcp, config, Rc::new(Settings::default())).await;
    let connection = connection.expect("the handshake is in order");
    assert_eq!(*connection.peer(), identity("client"));
    let streams = Rc::new(RefCell::new(Vec::new()));
    let opened = Rc::clone(&streams);
    let on_request = move |request: IncomingRequest| match &request.request {
        Ok(asked) => {
            let port = match &asked.authority {
                headers::Authority::Ip(address) => address.port(),
                headers::Authority::Host { port, .. } => *port,
            };
            assert_ne!(port, 0);
            opened
                .borrow_mut()
                .extend(request.accept(Some("service.name=web")).ok());
        }
        Err(_) => request.reject(StatusCode::BAD_REQUEST),
    };
    // How it ends is the peer's choice; that it ends is ours.
    let _ = connection.serve(on_request, std::future::pending()).await;
    let most = usize::try_from(Settings::default().max_streams).unwrap_or(usize::MAX);
    assert!(
        streams.borrow().len() <= most,
        "more streams than were offered"
    );
}
