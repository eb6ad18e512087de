//! The certificate service. A node may have certificates for the identities of pods that are
//! scheduled on it, and for nothing else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use agent_identity::{Authority, IdentityError, MAX_CSR_BYTES};
use agent_model::Identity;
use agent_xds::{Authenticate, Caller, Client};
use proto::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::{Request, Response, Status};
use tracing::{error, info, warn};

use crate::collection::Collection;

/// Metadata key of the identity asked for.
const IMPERSONATED: &str = "ImpersonatedIdentity";
/// Largest request, in bytes: the CSR and a little around it.
const MAX_REQUEST: usize = MAX_CSR_BYTES + 16 * 1024;

/// Signs for nodes and gateways.
#[derive(Debug)]
pub(crate) struct CertificateService<A> {
    pub(crate) authority: Arc<Authority>,
    pub(crate) authenticate: Arc<A>,
    pub(crate) collection: Arc<RwLock<Collection>>,
    /// Longest lifetime given.
    pub(crate) max_ttl: Duration,
    pub(crate) limits: NodeLimits,
    pub(crate) counters: Arc<Counters>,
}

/// What the service has done since it started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) issued: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl<A: Authenticate> CertificateService<A> {
    pub(crate) fn into_service(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    fn answer(
        &self,
        client: &Client,
        request: &IstioCertificateRequest,
    ) -> Result<Vec<String>, Status> {
        let identity = impersonated(request)?;
        let collection = self
            .collection
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let refusal = match client {
            Client::Node(node) => (!collection.is_on_node(node, &identity))
                .then(|| format!("no pod of the mesh with {identity} is scheduled on node {node}")),
            Client::Gateway(key, _) => (!collection.is_of_gateway(key, &identity))
                .then(|| format!("{identity} is not that of a gateway {key}")),
        };
        drop(collection);
        if let Some(refusal) = refusal {
            return Err(Status::permission_denied(refusal));
        }
        let caller = client.to_string();
        // Only now: refusals must not use up what valid requests need.
        if !self.limits.admit(&caller, Instant::now()) {
            return Err(Status::resource_exhausted(format!(
                "{caller} asks for certificates too often"
            )));
        }
        let ttl = lifetime(request.validity_duration, self.max_ttl);
        let chain = self
            .authority
            .sign(&request.csr, &identity, ttl, SystemTime::now())
            .map_err(signing_status)?;
        info!(node = caller, %identity, ttl_seconds = ttl.as_secs(), "certificate issued");
        Ok(chain)
    }
}

#[tonic::async_trait]
impl<A: Authenticate> IstioCertificateService for CertificateService<A> {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = Caller::of(&self.authenticate, request.metadata()).await;
        let caller = caller.inspect_err(|_| {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
        })?;
        let client = caller.client();
        match self.answer(client, request.get_ref()) {
            Ok(cert_chain) => {
                self.counters.issued.fetch_add(1, Ordering::Relaxed);
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(status) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                warn!(node = %client, code = ?status.code(), reason = status.message(), "certificate refused");
                Err(status)
            }
        }
    }
}

/// The identity asked for. A node has none of its own, so there is no default.
fn impersonated(request: &IstioCertificateRequest) -> Result<Identity, Status> {
    use prost_types::value::Kind::StringValue;
    let fields = request.metadata.as_ref().map(|metadata| &metadata.fields);
    let value = fields.and_then(|fields| fields.get(IMPERSONATED));
    match value.and_then(|value| value.kind.as_ref()) {
        Some(StringValue(uri)) => uri.parse().map_err(|_| {
            Status::invalid_argument(format!("{IMPERSONATED} is not a workload identity"))
        }),
        _ => Err(Status::invalid_argument(format!(
            "metadata has no {IMPERSONATED}"
        ))),
    }
}

/// The lifetime asked for in seconds, at most `max`; no wish is `max`.
fn lifetime(asked: i64, max: Duration) -> Duration {
    match u64::try_from(asked) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).min(max),
        _ => max,
    }
}

fn signing_status(error: IdentityError) -> Status {
    match error {
        IdentityError::Request(_) => Status::invalid_argument(error.to_string()),
        other => {
            error!(error = %other, "signing failed");
            Status::internal("the certificate could not be signed")
        }
    }
}

/// Certificates one node may have at once, and per second after that. A node of 250 pods restarts
/// with as many requests.
const BURST: f64 = 500.0;
const PER_SECOND: f64 = 100.0;

/// A token bucket for each node that ever asked. The nodes are those of the token file, and those
/// whose bucket is full again are forgotten, so this is bounded.
#[derive(Debug, Default)]
pub(crate) struct NodeLimits {
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn refilled(self, now: Instant) -> Self {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        Self {
            left: (self.left + elapsed * PER_SECOND).min(BURST),
            at: now,
        }
    }
}

/// Buckets are looked through for full ones beyond this many.
const SWEEP_AT: usize = 1_000;

impl NodeLimits {
    fn admit(&self, node: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= SWEEP_AT && !buckets.contains_key(node) {
            buckets.retain(|_, bucket| bucket.refilled(now).left < BURST);
        }
        let full = Bucket {
            left: BURST,
            at: now,
        };
        let bucket = buckets.entry(node.to_owned()).or_insert(full);
        *bucket = bucket.refilled(now);
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_never_longer_than_allowed() {
        let max = Duration::from_secs(3600);
        assert_eq!(lifetime(60, max), Duration::from_secs(60));
        for asked in [0, -1, i64::MIN, 3600, 3601, i64::MAX] {
            assert_eq!(lifetime(asked, max), max, "{asked}");
        }
    }

    #[test]
    fn f_28_a_node_that_asks_too_often_waits_and_others_do_not() {
        let limits = NodeLimits::default();
        let start = Instant::now();
        for _ in 0..BURST as usize {
            assert!(limits.admit("node-a", start));
        }
        assert!(!limits.admit("node-a", start));
        assert!(limits.admit("node-b", start));
        let later = start + Duration::from_secs(1);
        for _ in 0..PER_SECOND as usize {
            assert!(limits.admit("node-a", later));
        }
        assert!(!limits.admit("node-a", later));
    }
}
