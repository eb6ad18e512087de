//! Who calls: bearer tokens, checked when a call begins and for as long as a stream lasts.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use agent_model::gateway::GatewayKey;
use tonic::Status;
use tonic::metadata::MetadataMap;
use zeroize::Zeroizing;

/// An open stream's token is looked at again this often.
const RECHECK: Duration = Duration::from_secs(5);

/// Who may call the control plane. What it is told, and certified, depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Client {
    /// The agent of the node of that name.
    Node(Arc<str>),
    /// A gateway, and which of its pods where the token says so.
    Gateway(GatewayKey, Option<BoundPod>),
}

/// The pod that a token is bound to, in the namespace of its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundPod {
    /// Name of the pod.
    pub name: Arc<str>,
    /// UID of the pod.
    pub uid: Arc<str>,
}

impl Client {
    /// True for resources of this gateway, by their names; never for a node.
    pub(crate) fn owns(&self, resource: &str) -> bool {
        let Self::Gateway(key, _) = self else {
            return false;
        };
        let rest = resource
            .strip_prefix(&*key.namespace)
            .and_then(|rest| rest.strip_prefix('/'))
            .and_then(|rest| rest.strip_prefix(&*key.name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('|'))
    }

    /// The node it runs on, as far as that matters for what it is sent unasked.
    pub(crate) fn node(&self) -> &str {
        match self {
            Self::Node(name) => name,
            Self::Gateway(..) => "",
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => f.write_str(name),
            Self::Gateway(key, _) => write!(f, "gateway {key}"),
        }
    }
}

/// Knows whom a bearer token belongs to.
pub trait Authenticate: Send + Sync + 'static {
    /// Who calls. May ask another program, so implementations bound the time they take.
    /// Secrets are compared in constant time.
    fn client(&self, token: &str) -> impl Future<Output = Result<Client, NotAdmitted>> + Send;
}

/// Why a token admits nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// The token is not, or no longer, one of a node.
    #[error("no valid node token")]
    Invalid,
    /// Whether the token is valid cannot be told at the moment.
    #[error("node tokens cannot be verified at the moment")]
    Unavailable,
}

impl From<NotAdmitted> for Status {
    fn from(error: NotAdmitted) -> Self {
        match error {
            NotAdmitted::Invalid => Self::unauthenticated(error.to_string()),
            NotAdmitted::Unavailable => Self::unavailable(error.to_string()),
        }
    }
}

/// Who is at the other end of a call.
pub struct Caller<A> {
    authenticate: Arc<A>,
    token: Zeroizing<String>,
    client: Client,
}

impl<A: Authenticate> Caller<A> {
    /// The caller named by the `authorization: Bearer` header of a request.
    pub async fn of(authenticate: &Arc<A>, metadata: &MetadataMap) -> Result<Self, NotAdmitted> {
        let token = bearer_token(metadata).ok_or(NotAdmitted::Invalid)?;
        let client = authenticate.client(token).await?;
        Ok(Self {
            authenticate: Arc::clone(authenticate),
            token: Zeroizing::new(token.to_owned()),
            client,
        })
    }

    /// Who it is.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The node's name. Fails for everybody else: what is for nodes only is for no gateway.
    pub fn node(&self) -> Result<&Arc<str>, Status> {
        match &self.client {
            Client::Node(name) => Ok(name),
            Client::Gateway(..) => Err(Status::permission_denied("only for nodes")),
        }
    }

    /// Completes once the token no longer belongs to the caller, within 5 s of what [`Authenticate`]
    /// says. While nothing can be said, the caller stays: an outage ends no stream.
    pub async fn revoked(&self) -> Status {
        loop {
            tokio::time::sleep(RECHECK).await;
            match self.authenticate.client(&self.token).await {
                Ok(client) if client == self.client => {}
                Err(NotAdmitted::Unavailable) => {}
                Ok(_) | Err(NotAdmitted::Invalid) => {
                    return Status::unauthenticated("the node token is no longer valid");
                }
            }
        }
    }
}

impl<A> fmt::Debug for Caller<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// The token of an `authorization: Bearer` header.
fn bearer_token(metadata: &MetadataMap) -> Option<&str> {
    let header = metadata.get("authorization")?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::{Instant, timeout};

    use super::*;

    /// Answers as told, whatever the token.
    struct Told(Mutex<Result<Client, NotAdmitted>>);

    impl Authenticate for Told {
        async fn client(&self, _token: &str) -> Result<Client, NotAdmitted> {
            self.0.lock().unwrap().clone()
        }
    }

    fn node(name: &str) -> Client {
        Client::Node(name.into())
    }

    fn gateway() -> Client {
        Client::Gateway(GatewayKey::new("shop", "edge"), None)
    }

    #[test]
    fn a_gateway_owns_what_is_named_after_it_and_a_node_nothing() {
        for (resource, owned) in [
            ("shop/edge", true),
            ("shop/edge|HTTPRoute/shop/web", true),
            ("shop/edge2", false),
            ("shop/edge2|HTTPRoute/shop/web", false),
            ("shop2/edge", false),
            ("shop/", false),
            ("", false),
        ] {
            assert_eq!(gateway().owns(resource), owned, "{resource:?}");
            assert!(!node("shop/edge").owns(resource), "{resource:?}");
        }
    }

    #[tokio::test]
    async fn what_is_for_nodes_is_for_no_gateway() {
        let told = Arc::new(Told(Mutex::new(Ok(gateway()))));
        let caller = Caller::of(&told, &metadata("Bearer secret")).await.unwrap();
        let refusal = caller.node().unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::PermissionDenied);
    }

    fn metadata(authorization: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", authorization.parse().unwrap());
        metadata
    }

    #[test]
    fn only_bearer_tokens_count() {
        for (header, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer ", None),
            ("Basic abc", None),
            ("abc", None),
        ] {
            assert_eq!(bearer_token(&metadata(header)), token, "{header:?}");
        }
        assert_eq!(bearer_token(&MetadataMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_outlives_an_outage_but_not_its_token() {
        let told = Arc::new(Told(Mutex::new(Ok(node("n1")))));
        let caller = Caller::of(&told, &metadata("Bearer secret")).await.unwrap();
        assert_eq!(caller.node().map(|name| &**name).ok(), Some("n1"));
        assert!(!format!("{caller:?}").contains("secret"));
        for bearable in [Ok(node("n1")), Err(NotAdmitted::Unavailable)] {
            *told.0.lock().unwrap() = bearable;
            let hour = Duration::from_secs(3600);
            assert!(timeout(hour, caller.revoked()).await.is_err());
        }
        for end in [Ok(node("n2")), Ok(gateway()), Err(NotAdmitted::Invalid)] {
            *told.0.lock().unwrap() = end;
            let start = Instant::now();
            let status = caller.revoked().await;
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
            assert!(start.elapsed() <= RECHECK * 2);
        }
    }
}
