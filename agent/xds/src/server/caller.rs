//! Who calls: bearer tokens, checked when a call begins and for as long as a stream lasts.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use tonic::metadata::MetadataMap;
use zeroize::Zeroizing;

/// An open stream's token is looked at again this often.
const RECHECK: Duration = Duration::from_secs(5);

/// Knows which node a bearer token belongs to.
pub trait Authenticate: Send + Sync + 'static {
    /// The node's name. May ask another program, so implementations bound the time they take.
    /// Secrets are compared in constant time.
    fn node(&self, token: &str) -> impl Future<Output = Result<Arc<str>, NotAdmitted>> + Send;
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

/// The node at the other end of a call.
pub struct Caller<A> {
    authenticate: Arc<A>,
    token: Zeroizing<String>,
    node: Arc<str>,
}

impl<A: Authenticate> Caller<A> {
    /// The caller named by the `authorization: Bearer` header of a request.
    pub async fn of(authenticate: &Arc<A>, metadata: &MetadataMap) -> Result<Self, NotAdmitted> {
        let token = bearer_token(metadata).ok_or(NotAdmitted::Invalid)?;
        let node = authenticate.node(token).await?;
        Ok(Self {
            authenticate: Arc::clone(authenticate),
            token: Zeroizing::new(token.to_owned()),
            node,
        })
    }

    /// The node's name.
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Completes once the token no longer belongs to the node, within 5 s of what [`Authenticate`]
    /// says. While nothing can be said, the caller stays: an outage ends no stream.
    pub async fn revoked(&self) -> Status {
        loop {
            tokio::time::sleep(RECHECK).await;
            match self.authenticate.node(&self.token).await {
                Ok(node) if node == self.node => {}
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
            .field("node", &self.node)
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
    struct Told(Mutex<Result<Arc<str>, NotAdmitted>>);

    impl Authenticate for Told {
        async fn node(&self, _token: &str) -> Result<Arc<str>, NotAdmitted> {
            self.0.lock().unwrap().clone()
        }
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
        let told = Arc::new(Told(Mutex::new(Ok("n1".into()))));
        let caller = Caller::of(&told, &metadata("Bearer secret")).await.unwrap();
        assert_eq!(&**caller.node(), "n1");
        assert!(!format!("{caller:?}").contains("secret"));
        for bearable in [Ok("n1".into()), Err(NotAdmitted::Unavailable)] {
            *told.0.lock().unwrap() = bearable;
            let hour = Duration::from_secs(3600);
            assert!(timeout(hour, caller.revoked()).await.is_err());
        }
        for end in [Ok("n2".into()), Err(NotAdmitted::Invalid)] {
            *told.0.lock().unwrap() = end;
            let start = Instant::now();
            let status = caller.revoked().await;
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
            assert!(start.elapsed() <= RECHECK * 2);
        }
    }
}
