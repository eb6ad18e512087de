//! Identities, a server, and data that proves itself.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use agent_identity::{Authority, Certificate, PendingKey, server_config};
use agent_model::Identity;
use agent_net::NetnsCookie;
use agent_net::drain::{self, Drain};
use agent_net::flow::{FlowRead, FlowWrite};
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::headers::{self, ConnectRequest};
use crate::server::{IncomingRequest, accept};
use crate::{HboneError, Pool, Settings, Target, TunnelReader, TunnelStream};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const POD: NetnsCookie = NetnsCookie(7);

/// Runs a test as a worker runs: one thread, one local set. A test that hangs fails.
pub(super) fn worker(test: impl Future<Output = ()> + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async {
        let task = spawn_local(test);
        tokio::time::timeout(Duration::from_secs(90), task)
            .await
            .expect("the test hangs")
            .unwrap();
    };
    runtime.block_on(LocalSet::new().run_until(limited));
}

pub(super) fn authority(trust_domain: &str) -> Authority {
    Authority::in_memory(trust_domain, SystemTime::now()).unwrap()
}

/// The authority most tests share.
pub(super) fn mesh() -> &'static Authority {
    static MESH: LazyLock<Authority> = LazyLock::new(|| authority("cluster.local"));
    &MESH
}

pub(super) fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "shop", account).unwrap()
}

pub(super) fn certificate(account: &str) -> Arc<Certificate> {
    issue(mesh(), &identity(account), SystemTime::now(), HOUR)
}

/// A certificate that `authority` signed at `now`.
pub(super) fn issue(
    authority: &Authority,
    identity: &Identity,
    now: SystemTime,
    ttl: Duration,
) -> Arc<Certificate> {
    let key = PendingKey::generate(identity).unwrap();
    let answer = authority.sign(key.csr_pem(), identity, ttl, now).unwrap();
    Arc::new(key.complete(&answer, now).unwrap())
}

/// A listening HBONE server.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) drain: Drain,
    /// How connections ended so far.
    pub(super) ends: Rc<RefCell<Vec<Result<(), HboneError>>>>,
    accepting: JoinHandle<()>,
    connections: Rc<RefCell<Vec<JoinHandle<()>>>>,
}

impl Server {
    pub(super) async fn start(on_request: impl Fn(IncomingRequest) + Clone + 'static) -> Self {
        Self::with(certificate("server"), Settings::default(), on_request).await
    }

    pub(super) async fn with(
        certificate: Arc<Certificate>,
        settings: Settings,
        on_request: impl Fn(IncomingRequest) + Clone + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, certificate, settings, on_request)
    }

    pub(super) fn on(
        listener: TcpListener,
        certificate: Arc<Certificate>,
        settings: Settings,
        on_request: impl Fn(IncomingRequest) + Clone + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let (drain, watcher) = drain::channel();
        let ends: Rc<RefCell<Vec<_>>> = Rc::default();
        let connections: Rc<RefCell<Vec<_>>> = Rc::default();
        let (results, tasks) = (Rc::clone(&ends), Rc::clone(&connections));
        let settings = Rc::new(settings);
        let accepting = spawn_local(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                let (on_request, mut watcher) = (on_request.clone(), watcher.clone());
                let config = server_config(&certificate).unwrap();
                let (settings, results) = (Rc::clone(&settings), Rc::clone(&results));
                let task = spawn_local(async move {
                    let result = match accept(tcp, config, settings).await {
                        Ok(connection) => connection.serve(on_request, watcher.signalled()).await,
                        Err(error) => Err(error),
                    };
                    results.borrow_mut().push(result);
                });
                tasks.borrow_mut().push(task);
            }
        });
        Self {
            address,
            drain,
            ends,
            accepting,
            connections,
        }
    }

    /// Ends every task without letting any run.
    pub(super) fn crash_now(&self) {
        self.accepting.abort();
        for task in self.connections.borrow().iter() {
            task.abort();
        }
    }

    /// Drops everything at once, as a crash does.
    pub(super) async fn crash(self) {
        self.crash_now();
        // Aborted tasks are dropped on their next turn.
        settle().await;
    }

    /// What a client asks for that expects this server.
    pub(super) fn target(&self, source: &Arc<Certificate>) -> Target {
        Target::new(
            POD,
            Arc::clone(source),
            self.address,
            vec![identity("server")],
        )
    }

    pub(super) async fn open(&self, pool: &Pool) -> Result<TunnelStream, HboneError> {
        let target = self.target(&client());
        pool.open(&target, &request(), to(self.address)).await
    }

    /// Waits until `count` connections ended.
    pub(super) async fn ended(&self, count: usize) -> Vec<Result<(), HboneError>> {
        while self.ends.borrow().len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.ends.borrow().clone()
    }
}

/// The certificate of the client, the same for the whole test run.
pub(super) fn client() -> Arc<Certificate> {
    static CLIENT: LazyLock<Arc<Certificate>> = LazyLock::new(|| certificate("client"));
    Arc::clone(&CLIENT)
}

pub(super) fn pool() -> Pool {
    pool_with(Settings::default())
}

/// A pool that knows no revocation list.
pub(super) fn pool_with(settings: Settings) -> Pool {
    Pool::new(settings, |_| false)
}

pub(super) fn request() -> ConnectRequest {
    ConnectRequest::to(headers::Authority::Ip("10.1.2.3:80".parse().unwrap()))
}

/// A dial to `address`.
pub(super) fn to(
    address: SocketAddr,
) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<TcpStream>>>> {
    move || {
        Box::pin(async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok(tcp)
        })
    }
}

/// Lets every task that can run do so.
pub(super) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Accepts and sends back what comes, then ends.
pub(super) fn echo(request: IncomingRequest) {
    spawn_local(async move {
        let mut stream = request.accept(None).unwrap();
        loop {
            let max = stream.write.max_chunk();
            let Ok(Some(chunk)) = stream.read.read(max).await else {
                break;
            };
            let bytes = chunk.len();
            if stream.write.write(chunk).await.is_err() {
                return;
            }
            stream.read.release(bytes);
        }
        let _ = stream.write.finish().await;
    });
}

/// Sends `message` and reads as many bytes back.
pub(super) async fn ping(stream: &mut TunnelStream, message: &str) {
    stream
        .write
        .write(Bytes::copy_from_slice(message.as_bytes()))
        .await
        .unwrap();
    let mut answer = Vec::new();
    while answer.len() < message.len() {
        let chunk = stream.read.read(usize::MAX).await.unwrap().unwrap();
        stream.read.release(chunk.len());
        answer.extend_from_slice(&chunk);
    }
    assert_eq!(answer, message.as_bytes());
}

/// Bytes that never look the same twice: their period is a prime.
static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(1_000_003).collect()
});

/// Sends `total` bytes of the pattern and ends.
pub(super) async fn send_pattern(write: &mut crate::TunnelWriter, total: usize) {
    let mut sent = 0;
    while sent < total {
        let at = sent % PATTERN.len();
        let n = write.max_chunk().min(total - sent).min(PATTERN.len() - at);
        write.write(PATTERN.slice(at..at + n)).await.unwrap();
        sent += n;
    }
    write.finish().await.unwrap();
}

/// Reads to the end; every byte must be the pattern's.
pub(super) async fn receive_pattern(read: &mut TunnelReader) -> usize {
    let mut received = 0;
    while let Some(chunk) = read.read(usize::MAX).await.unwrap() {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let at = received % PATTERN.len();
            let n = rest.len().min(PATTERN.len() - at);
            assert!(rest[..n] == PATTERN[at..at + n], "corrupt at {received}");
            rest = &rest[n..];
            received += n;
        }
        read.release(chunk.len());
    }
    received
}
