//! An API server for tests: the Kubernetes API as its clients see it, kept in memory.
//!
//! **This is a fixture.** It follows the documented behaviour of the API (1.33) where Culvert and
//! its tests depend on it: discovery, every verb, paging, watches with bookmarks and streaming
//! lists, expired versions, conflicts, all four kinds of patches, status subresources, finalizers,
//! graceful deletion of pods, the life of a namespace, EndpointSlices, CustomResourceDefinitions,
//! TokenRequest and TokenReview, and the rules of RBAC for callers with a service
//! account's token. It does not validate objects, runs no admission (no webhooks), collects no garbage by owner, and has no kubelet, scheduler nor
//! other controllers: tests speak for those with [`ApiServer::put`].
//!
//! It runs in a thread of its own, so that scripts without a runtime can use it, in the network
//! namespace it is given.

mod access;
mod apply;
mod controls;
mod credentials;
mod discovery;
mod failure;
mod faults;
mod fields;
mod handle;
mod kinds;
mod lifecycle;
mod lists;
mod load;
mod object;
mod patch;
mod path;
mod reads;
mod selector;
mod serve;
mod shared;
mod slices;
mod store;
mod tokens;
mod view;
mod watching;
mod world;
mod writes;

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

pub use self::faults::Refusal;

use self::credentials::{Credentials, admin_token, kubeconfig};
use self::failure::Failure;
use self::shared::Shared;
use self::world::World;
use crate::place::Place;
use crate::poll;

/// Changes that are kept of each resource, as a cluster's watch cache does.
const HISTORY: usize = 20_000;
/// Time between bookmarks; shorter than in a cluster, where it is a minute.
const BOOKMARKS: Duration = Duration::from_secs(5);
/// How long going down or coming up may take.
const SWITCH: Duration = Duration::from_secs(10);

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0 for a free one.
    pub listen: SocketAddr,
    /// The network namespace it listens in; none for this one.
    pub place: Option<Place>,
    /// TLS with an authority of its own; otherwise plain HTTP.
    pub tls: bool,
    /// The custom resources that Culvert reads are defined from the start, without schemas. Tests
    /// that install CustomResourceDefinitions themselves turn this off.
    pub custom_resources: bool,
    /// Changes that are kept of each resource, for watches that start at an older version.
    pub history: usize,
    /// Time between the bookmarks of a watch.
    pub bookmark_every: Duration,
    /// EndpointSlices follow Services and Pods, as their controller in a cluster sees to it.
    pub endpoint_slices: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            place: None,
            tls: true,
            custom_resources: true,
            history: HISTORY,
            bookmark_every: BOOKMARKS,
            endpoint_slices: false,
        }
    }
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    kubeconfig: String,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Starts a server on loopback, with everything defined that Culvert reads.
    pub fn start() -> Result<Self> {
        Self::start_with(&Options::default())
    }

    /// Starts a server.
    pub fn start_with(options: &Options) -> Result<Self> {
        let listener = listen(options)?;
        let address = listener.local_addr().context("the listening address")?;
        let credentials = options
            .tls
            .then(|| Credentials::make(&names(address)))
            .transpose()
            .context("making the server's certificate")?;
        let token = admin_token();
        let root = credentials.as_ref().map(|made| made.root.clone());
        let mut world = World::new(
            options.history,
            root.clone().unwrap_or_default(),
            token.clone(),
        );
        furnish(&mut world, options.custom_resources).map_err(|failure| refused(&failure))?;
        let shared = Arc::new(Shared::new(
            world,
            options.bookmark_every,
            options.endpoint_slices,
        ));
        let thread = spawn(
            Arc::clone(&shared),
            listener,
            credentials.map(|made| made.tls),
            options.place.as_ref(),
        )?;
        Ok(Self {
            shared,
            address,
            kubeconfig: kubeconfig(address, root.as_deref(), &token),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig by which clients may do everything.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// A kubeconfig for a service account: its token lives as long as this, and what it may do is
    /// up to RBAC.
    pub fn account_kubeconfig(
        &self,
        namespace: &str,
        account: &str,
        life: Duration,
    ) -> Result<String> {
        let mut world = self.shared.world();
        let token = load::account_token(&mut world, namespace, account, life)
            .map_err(|failure| refused(&failure))?;
        let root = Some(world.root.as_str()).filter(|root| !root.is_empty());
        Ok(kubeconfig(self.address, root, &token))
    }

    /// Writes the kubeconfig into a file.
    pub fn write_kubeconfig(&self, file: &Path) -> Result<()> {
        fs::write(file, &self.kubeconfig).with_context(|| format!("writing {}", file.display()))
    }

    /// Creates or replaces the objects of a YAML or JSON text as they are: status, uid and node
    /// too. Missing namespaces are made.
    pub fn put(&self, manifests: &str) -> Result<()> {
        let documents = load::documents(manifests).map_err(|failure| refused(&failure))?;
        for document in documents {
            load::put(&mut self.shared.world(), document).map_err(|failure| refused(&failure))?;
        }
        Ok(())
    }

    /// The same for one object that is a value already; returns it as stored, without its type.
    pub fn put_value(&self, manifest: Value) -> Result<Arc<Value>> {
        load::put(&mut self.shared.world(), manifest).map_err(|failure| refused(&failure))
    }

    /// Puts every `*.yaml`, `*.yml` and `*.json` of a folder, by name.
    pub fn load(&self, folder: &Path) -> Result<()> {
        let mut files = Vec::new();
        let entries =
            fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
        for entry in entries {
            let path = entry.context("listing manifests")?.path();
            let known = ["yaml", "yml", "json"];
            if path
                .extension()
                .is_some_and(|end| known.iter().any(|one| end == *one))
            {
                files.push(path);
            }
        }
        files.sort();
        for file in files {
            let text =
                fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            self.put(&text)
                .with_context(|| format!("loading {}", file.display()))?;
        }
        Ok(())
    }

    /// Removes the objects that a text names, at once: no grace, no finalizers (a namespace goes
    /// with its content). No error when one is not there.
    pub fn remove(&self, manifests: &str) -> Result<()> {
        let documents = load::documents(manifests).map_err(|failure| refused(&failure))?;
        for document in documents {
            load::remove(&mut self.shared.world(), &document)
                .map_err(|failure| refused(&failure))?;
        }
        Ok(())
    }

    /// Puts the objects of `new` and removes those that only `old` names.
    pub fn replace(&self, old: &str, new: &str) -> Result<()> {
        load::replace(&mut self.shared.world(), old, new).map_err(|failure| refused(&failure))
    }

    /// An object as stored, without `kind` and `apiVersion`. The resource is `plural.group`, the
    /// namespace empty for cluster-scoped objects.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.shared
            .world()
            .store
            .get(resource, &key)
            .map(Arc::clone)
    }

    /// Namespace and name of every object of a resource (`plural.group`).
    pub fn names(&self, resource: &str) -> Vec<(String, String)> {
        self.shared.world().store.keys(resource, None)
    }

    /// The newest resource version.
    pub fn version(&self) -> u64 {
        self.shared.world().store.version()
    }

    /// A token as kubelet would project it into a pod: bound to the pod, for one audience. At
    /// least ten minutes.
    pub fn pod_token(
        &self,
        namespace: &str,
        pod: &str,
        audience: &str,
        life: Duration,
    ) -> Result<String> {
        load::pod_token(&mut self.shared.world(), namespace, pod, audience, life)
            .map_err(|failure| refused(&failure))
    }

    /// The server's clock goes ahead: for the expiry of tokens, and for timestamps.
    pub fn advance(&self, by: Duration) {
        self.shared.world().ahead += by;
    }

    /// Every version handed out so far expires: lists and watches that start there get 410.
    /// Running watches go on.
    pub fn compact(&self) {
        self.shared.world().store.compact();
    }

    /// While on, a watch from an expired version is refused with HTTP status 410. Otherwise it is
    /// accepted and gets an ERROR event with code 410, as API servers with a watch cache do it.
    /// Clients have to understand both.
    pub fn gone_as_status(&self, on: bool) {
        self.shared.world().gone_as_status = on;
    }

    /// Ends every watch, as a server does at a watch's timeout.
    pub fn drop_watches(&self) {
        let signal = &self.shared.signals.drop_watches;
        signal.send_modify(|count| *count += 1);
    }

    /// While on, watches stay connected and say nothing.
    pub fn stall_watches(&self, on: bool) {
        self.shared.signals.stalled.send_replace(on);
    }

    /// Every watch that runs now says nothing any more, for ever, and stays connected, as behind
    /// a firewall that has forgotten the connection. Watches that begin later are not concerned.
    pub fn silence_watches(&self) {
        self.shared.signals.silenced.send_replace(true);
    }

    /// Every watch sends a bookmark now.
    pub fn bookmark(&self) {
        self.shared
            .signals
            .bookmark
            .send_modify(|count| *count += 1);
    }

    /// Watches that are running.
    pub fn watches(&self) -> usize {
        self.shared.signals.watches.borrow().len()
    }

    /// Waits until every running watch has told what is true now; controllers have done theirs.
    pub fn wait_told(&self, limit: Duration) -> Result<()> {
        // Two looks of the controllers.
        std::thread::sleep(serve::CONTROLLERS * 2);
        let version = self.version();
        poll::until("watches caught up", limit, || {
            let running = self.shared.signals.watches.borrow();
            ensure!(
                running.values().all(|position| *position >= version),
                "version {version} is not told: {running:?}"
            );
            Ok(())
        })
    }

    /// Answers some of the coming requests with an error.
    pub fn refuse(&self, refusal: Refusal) {
        self.shared.faults().refuse(refusal);
    }

    /// Every request for a resource waits so long before it is done; also those that wait now.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.faults().latency = latency;
        self.shared.signals.hurry.send_modify(|count| *count += 1);
    }

    /// Ends refusals, latency and stalls, and the watches that have fallen silent.
    pub fn clear_faults(&self) {
        self.shared.faults().clear();
        self.stall_watches(false);
        self.shared.signals.silenced.send_replace(false);
        self.shared.signals.hurry.send_modify(|count| *count += 1);
    }

    /// Requests so far with this verb (as in audit logs) for this resource (`plural.group`, or
    /// `plural.group/subresource`), refused ones too.
    pub fn count(&self, verb: &str, resource: &str) -> u64 {
        self.shared.faults().count(verb, resource)
    }

    /// Closes the socket and every connection. The objects stay.
    pub fn down(&self) -> Result<()> {
        self.switch(false)
    }

    /// Listens again, on the same port.
    pub fn up(&self) -> Result<()> {
        self.switch(true)
    }

    /// Ends the server for good; the same as dropping it.
    pub fn stop(&self) {
        self.shared.signals.stop.send_replace(true);
    }

    fn switch(&self, up: bool) -> Result<()> {
        self.shared.signals.up.send_replace(up);
        poll::until("switching the API server", SWITCH, || {
            ensure!(*self.shared.signals.listening.borrow() == up, "it did not");
            Ok(())
        })
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread has been printed.
            let _panicked = thread.join();
        }
    }
}

fn listen(options: &Options) -> Result<TcpListener> {
    let bind = || TcpListener::bind(options.listen);
    let bound = match &options.place {
        Some(place) => place.within(bind)?,
        None => bind(),
    };
    let listener = bound.with_context(|| format!("listening on {}", options.listen))?;
    listener
        .set_nonblocking(true)
        .context("the listening socket")?;
    Ok(listener)
}

/// Addresses in the certificate.
fn names(address: SocketAddr) -> Vec<IpAddr> {
    let mut names = vec![IpAddr::from([127, 0, 0, 1])];
    if !address.ip().is_unspecified() && !names.contains(&address.ip()) {
        names.push(address.ip());
    }
    names
}

/// What every cluster has from the start.
fn furnish(world: &mut World, custom_resources: bool) -> Result<(), Failure> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        load::put(
            world,
            serde_json::json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name},
            }),
        )?;
    }
    if custom_resources {
        for definition in kinds::definitions() {
            load::put(world, definition)?;
        }
    }
    Ok(())
}

fn spawn(
    shared: Arc<Shared>,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    place: Option<&Place>,
) -> Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the server's runtime")?;
    let server = Arc::clone(&shared);
    let run = move || {
        if let Err(error) = runtime.block_on(serve::serve(server, listener, tls)) {
            eprintln!("API server fixture: {error:#}");
        }
    };
    let thread = match place {
        None => std::thread::Builder::new()
            .name("apiserver".into())
            .spawn(run)
            .context("starting the server's thread")?,
        Some(place) => {
            let inside = place.thread(run);
            std::thread::spawn(move || {
                if let Ok(Err(error)) = inside.join() {
                    eprintln!("API server fixture: {error:#}");
                }
            })
        }
    };
    poll::until("starting the API server", SWITCH, || {
        ensure!(*shared.signals.listening.borrow(), "it does not listen");
        Ok(())
    })?;
    Ok(thread)
}

fn refused(failure: &Failure) -> anyhow::Error {
    anyhow!("{} ({} {})", failure.message, failure.code, failure.reason)
}
