//! What a gateway is started with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_model::{Locality, Workload};
use agent_telemetry::Requests;

use crate::keys::Keys;
use crate::uncounted::Uncounted;

/// Settings of the gateway.
#[derive(Debug, Clone)]
pub struct Config {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Network the gateway is in (`""` is the default).
    pub network: Arc<str>,
    /// Connections of clients that one worker has at a time; more are closed. Default 16384.
    pub connections_per_worker: usize,
    /// Copies of requests (mirrors) that one worker has under way; more are not made. Default 1024.
    pub mirrors_per_worker: usize,
    /// Where the gateway is; `None`: where the mesh says that the workload of its address is.
    pub locality: Option<Locality>,
    /// Sessions of datagrams that one worker has at a time; of more, those that have been quiet
    /// for the longest end. Default 4096.
    pub sessions_per_worker: usize,
    /// How long a session of datagrams may be quiet. Default 60 s.
    pub session_idle: Duration,
    /// Keys of those who issue tokens; [`keys::run`](crate::keys::run) fetches them.
    pub keys: Keys,
    /// Answers of the gateway's own have their Reason in `x-culvert-reason`. Default false.
    pub tells_reasons: bool,
    /// Backends are told by `x-forwarded-client-cert` who a client proved to be. Default false:
    /// there is no such header then, whatever clients send.
    pub tells_certified: bool,
    /// Where requests are counted.
    pub requests: Arc<Requests>,
    /// Where requests are noted that a limit of all gateways could not count.
    pub uncounted: Arc<Uncounted>,
    /// The share (0 to 1) of requests that are traced where their callers do not decide. `None`:
    /// there is no tracing, and the callers' headers pass.
    pub traced: Option<f64>,
    /// What metrics call the gateway, where it is the one who asks.
    pub own: Option<Arc<Workload>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 1,
            network: "".into(),
            connections_per_worker: 16384,
            mirrors_per_worker: 1024,
            locality: None,
            sessions_per_worker: 4096,
            session_idle: Duration::from_secs(60),
            keys: Keys::default(),
            tells_reasons: false,
            tells_certified: false,
            requests: Requests::new(Instant::now()),
            uncounted: Arc::default(),
            traced: None,
            own: None,
        }
    }
}
