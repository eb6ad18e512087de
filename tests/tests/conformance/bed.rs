//! A control plane that reads a folder, and gateways that follow it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_control::{Config, Control, SourceChoice, Status};
use agent_gateway::traffic::Policies;
use agent_gateway::tuning::Tuning;
use agent_gateway::{Door, Follower, Gateway, Passage, Place, Record, Records, Told, bind};
use agent_net::drain::{self, Drain, Watcher};
use agent_xds::client::{self, Means};
use agent_xds::{Apply, ClientConfig, ClientStatus, NodeFacts, Rejection, Update};
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::echo;
use crate::manifests::BASE;

/// As long as the suite waits for things to become so.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Where the ports of a gateway really are.
type Doors = Arc<Mutex<BTreeMap<Place, SocketAddr>>>;

pub(crate) struct Bed {
    folder: PathBuf,
    manifest: String,
    status: Status,
    gateways: BTreeMap<String, Doors>,
    tasks: Vec<JoinHandle<()>>,
    _drain: Drain,
}

impl Bed {
    /// Everything of [`BASE`] and `manifest`, with these Gateways of the namespace `infra` running.
    pub(crate) async fn start(gateways: &[&str], manifest: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        echo::start();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("culvert-conformance-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(folder.join("manifests")).unwrap();
        let mut tokens = String::new();
        for gateway in gateways {
            tokens.push_str(&format!("token-of-{gateway} infra/{gateway}\n"));
            fs::write(folder.join(gateway), format!("token-of-{gateway}\n")).unwrap();
        }
        fs::write(folder.join("tokens"), tokens).unwrap();
        write(&folder, manifest);
        let control = Control::bind(config(&folder)).await.unwrap();
        let address = format!("https://{}", control.local_addr().unwrap());
        let (drain, watcher) = drain::channel();
        let (shown, status) = oneshot::channel();
        let serving = control.serve_with(watcher.clone(), |status| {
            let _ = shown.send(status);
        });
        let mut tasks = vec![tokio::spawn(serving)];
        let status: Status = status.await.unwrap();
        status.until_serving().await;
        let mut doors = BTreeMap::new();
        for gateway in gateways {
            let own = Doors::default();
            let client = ClientConfig {
                address: address.clone(),
                root_cert: folder.join("state/root-cert.pem"),
                token_file: folder.join(gateway),
                node: NodeFacts {
                    pod_namespace: "infra".to_owned(),
                    ..NodeFacts::new(gateway, Config::DEFAULT_CLUSTER_ID, "")
                },
            };
            tasks.extend(follow(client, Arc::clone(&own), &watcher));
            doors.insert((*gateway).to_owned(), own);
        }
        Self {
            folder,
            manifest: manifest.to_owned(),
            status,
            gateways: doors,
            tasks,
            _drain: drain,
        }
    }

    /// Edits the manifest.
    pub(crate) fn edit(&mut self, from: &str, to: &str) {
        assert!(self.manifest.contains(from), "no {from}");
        self.manifest = self.manifest.replace(from, to);
        write(&self.folder, &self.manifest);
    }

    /// Where a port of a gateway really is, once it is there.
    pub(crate) async fn tcp(&self, gateway: &str, port: u16) -> SocketAddr {
        self.door(gateway, Place::tcp(port)).await
    }

    pub(crate) async fn udp(&self, gateway: &str, port: u16) -> SocketAddr {
        self.door(gateway, Place::udp(port)).await
    }

    async fn door(&self, gateway: &str, place: Place) -> SocketAddr {
        let started = Instant::now();
        loop {
            let door = self.gateways[gateway].lock().unwrap().get(&place).copied();
            if let Some(door) = door {
                return door;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{gateway} has no port {place}"
            );
            sleep(LOOK).await;
        }
    }

    /// The conditions of each parent of a route, or ancestor of a policy, as `Type=Status/Reason`.
    pub(crate) fn parents(&self, kind: &str, name: &str) -> Vec<String> {
        let status = self.status(kind, name);
        let parents = status["parents"].as_array();
        let parents = parents.or(status["ancestors"].as_array());
        let parents = parents.cloned().unwrap_or_default();
        parents.iter().map(conditions).collect()
    }

    /// The status of an object of `infra`.
    pub(crate) fn status(&self, kind: &str, name: &str) -> Value {
        let status = self.status.json();
        let statuses = status["statuses"].as_array().unwrap().iter();
        let mut found = statuses.filter(|of| {
            of["object"]["kind"] == kind
                && of["object"]["namespace"] == "infra"
                && of["object"]["name"] == name
        });
        found
            .next()
            .map_or(Value::Null, |found| found["status"].clone())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits until a look finds nothing wrong any more.
pub(crate) async fn until<T>(mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(wrong) => assert!(started.elapsed() < PATIENCE, "{wrong}"),
        }
        sleep(LOOK).await;
    }
}

fn conditions(of: &Value) -> String {
    let all = of["conditions"].as_array().unwrap().iter();
    let all = all.map(|one| {
        let part = |field: &str| one[field].as_str().unwrap();
        format!("{}={}/{}", part("type"), part("status"), part("reason"))
    });
    all.collect::<Vec<_>>().join(" ")
}

/// At once, as a reader of half a file would see half of the objects.
fn write(folder: &std::path::Path, manifest: &str) {
    let text = format!("{}\n---\n{manifest}", *BASE);
    fs::write(folder.join("new"), text).unwrap();
    fs::rename(folder.join("new"), folder.join("manifests/all.yaml")).unwrap();
}

fn config(folder: &std::path::Path) -> Config {
    let source = SourceChoice::Folder(folder.join("manifests"));
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    Config {
        node_tokens: Some(folder.join("tokens")),
        ..Config::new(source, listen, folder.join("state"))
    }
}

/// Serves a gateway as `culvert gateway` does.
fn follow(client: ClientConfig, doors: Doors, draining: &Watcher) -> [JoinHandle<()>; 2] {
    let (writer, mesh) = agent_state::channel();
    let (follower, mut told) = Follower::new(writer);
    let (status, mut sync) = watch::channel(ClientStatus::default());
    let means = Means {
        of_gateway: true,
        ..Means::default()
    };
    let following = client::run_with(client, means, Moved(follower), status, draining.clone());
    let records: Arc<dyn Records> = Arc::new(Nobody);
    let settings = agent_gateway::Config::default();
    let gateway = Gateway::start(&settings, &mesh, None, &records).unwrap();
    let serving = async move {
        if sync.wait_for(|status| status.synced).await.is_err() {
            return;
        }
        loop {
            let now = told.borrow_and_update().clone();
            serve(&gateway, &now, &doors);
            if told.changed().await.is_err() {
                return;
            }
        }
    };
    [tokio::spawn(following), tokio::spawn(serving)]
}

fn serve(gateway: &Gateway, told: &Told, doors: &Doors) {
    // What cannot be used is a backend that fails, which is for the test to see.
    let (plan, _) = told.plan(Some(&gateway.plan()));
    if let Some(object) = &told.gateway {
        let policies = Policies::new(told.traffic.values());
        gateway.tune(Tuning::told(policies, &object.key));
    }
    let places: Vec<Place> = plan.places().collect();
    let errors = gateway.apply(plan, |place| {
        let any = Place { port: 0, ..place };
        let door = bind(Ipv4Addr::LOCALHOST.into(), any)?;
        let address = match &door {
            Door::Connections(listener) => listener.local_addr()?,
            Door::Datagrams(socket) => socket.local_addr()?,
        };
        doors.lock().unwrap().insert(place, address);
        Ok(door)
    });
    assert!(errors.is_empty(), "{errors:?}");
    let mut doors = doors.lock().unwrap();
    doors.retain(|place, _| places.contains(place));
}

/// Moves endpoints to where the echo servers are.
struct Moved(Follower);

impl Apply for Moved {
    fn apply(&mut self, mut updates: Vec<Update>) -> Vec<Rejection> {
        for update in &mut updates {
            if let Update::Workload(workload) = update {
                let addresses = workload.addresses.iter_mut();
                addresses.for_each(|address| *address = echo::moved(*address));
            }
        }
        self.0.apply(updates)
    }
}

struct Nobody;

impl Records for Nobody {
    fn take(&self, _: &Record) {}

    fn passage(&self, _: &Passage) {}
}
