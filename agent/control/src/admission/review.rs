//! Tokens of service accounts: the cluster's API server says whose they are (TokenReview of
//! `authentication.k8s.io/v1`). A node agent runs as one service account on every node; the node
//! is the one its token is bound to through the pod, and never what the agent says. A gateway runs
//! as the account that has the Gateway's name, in its namespace.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use agent_model::gateway::GatewayKey;
use agent_xds::{Authenticate, BoundPod, Client, NotAdmitted};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Api;
use kube::api::PostParams;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{error, warn};

use super::review_cache::{Known, ReviewCache};

/// One question to the API server takes no longer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Questions under way at a time; the API server has others to serve.
const MAX_QUESTIONS: usize = 8;
/// Longest token, in bytes; the API server refuses larger ones of its own too.
const MAX_TOKEN: usize = 16 * 1024;
/// What a pod-bound token says beside its account, since Kubernetes 1.32 with the node.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Which tokens of service accounts are admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenReviews {
    /// A token must be meant for one of these.
    pub audiences: Vec<String>,
    /// Accounts of node agents.
    pub accounts: Vec<NodeAccount>,
}

/// A service account, written `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAccount {
    namespace: String,
    name: String,
}

impl FromStr for NodeAccount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let valid = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
        };
        let is_name = |name: &str| !name.is_empty() && name.len() <= 253 && name.bytes().all(valid);
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(format!("{text:?} is not NAMESPACE/NAME")),
        }
    }
}

impl fmt::Display for NodeAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl NodeAccount {
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The service account that a user is, if it is one.
    fn of_user(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("system:serviceaccount:")?;
        let (namespace, name) = rest.split_once(':')?;
        format!("{namespace}/{name}").parse().ok()
    }
}

/// The answer to one question, or that there is none now.
type Answer<'a> = Pin<Box<dyn Future<Output = Result<TokenReviewStatus, String>> + Send + 'a>>;

/// Somebody who knows whose a token is.
trait Reviewer: Send + Sync {
    fn review<'a>(&'a self, token: &'a str, audiences: &'a [String]) -> Answer<'a>;
}

/// The API server.
struct Cluster(Api<TokenReview>);

impl Reviewer for Cluster {
    fn review<'a>(&'a self, token: &'a str, audiences: &'a [String]) -> Answer<'a> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(audiences.to_vec()),
            },
            ..TokenReview::default()
        };
        Box::pin(async move {
            let answer = self.0.create(&PostParams::default(), &review).await;
            // Never the request: it holds the token.
            let answer = answer.map_err(|error| error.to_string())?;
            Ok(answer.status.unwrap_or_default())
        })
    }
}

/// Whether there is a Gateway of this key for us to serve.
type IsGateway = Box<dyn Fn(&GatewayKey) -> bool + Send + Sync>;

/// Admits node agents and gateways by their service account tokens.
pub(crate) struct Reviews {
    reviewer: Box<dyn Reviewer>,
    settings: TokenReviews,
    is_gateway: IsGateway,
    cache: ReviewCache,
    questions: Semaphore,
    clock: fn() -> SystemTime,
}

impl Reviews {
    pub(crate) fn new(
        client: kube::Client,
        settings: TokenReviews,
        is_gateway: impl Fn(&GatewayKey) -> bool + Send + Sync + 'static,
    ) -> Self {
        let reviewer = Box::new(Cluster(Api::all(client)));
        Self::with(reviewer, settings, Box::new(is_gateway))
    }

    fn with(reviewer: Box<dyn Reviewer>, settings: TokenReviews, is_gateway: IsGateway) -> Self {
        Self {
            reviewer,
            settings,
            is_gateway,
            cache: ReviewCache::default(),
            questions: Semaphore::new(MAX_QUESTIONS),
            clock: SystemTime::now,
        }
    }

    async fn ask(&self, token: &str) -> Result<Known, NotAdmitted> {
        let question = async {
            let _permit = self.questions.acquire().await;
            self.reviewer.review(token, &self.settings.audiences).await
        };
        let status = match timeout(TIMEOUT, question).await {
            Ok(Ok(status)) => status,
            Ok(Err(reason)) => {
                error!(reason, "tokens cannot be reviewed");
                return Err(NotAdmitted::Unavailable);
            }
            Err(_) => {
                error!("the API server does not answer a token review");
                return Err(NotAdmitted::Unavailable);
            }
        };
        let client = verdict(&status, &self.settings);
        let refusal = match &client {
            Ok(client) if !self.is_welcome(client) => Some("there is no Gateway of its name"),
            Ok(_) => None,
            Err(reason) => Some(*reason),
        };
        if let Some(reason) = refusal {
            let user = status.user.as_ref();
            let user = user.and_then(|user| user.username.as_deref());
            warn!(reason, user, "token refused");
        }
        Ok(Known::new(client.ok(), token, (self.clock)()))
    }

    /// Gateways come and go, so this is asked every time: nobody else's pod is told what is in the
    /// mesh.
    fn is_welcome(&self, client: &Client) -> bool {
        match client {
            Client::Node(_) => true,
            Client::Gateway(key, _) => (self.is_gateway)(key),
        }
    }
}

impl Authenticate for Reviews {
    async fn client(&self, token: &str) -> Result<Client, NotAdmitted> {
        if token.len() > MAX_TOKEN {
            return Err(NotAdmitted::Invalid);
        }
        let known = self.cache.get_or(token, || self.ask(token)).await?;
        let welcome = known.filter(|client| self.is_welcome(client));
        welcome.ok_or(NotAdmitted::Invalid)
    }
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Whose a reviewed token is, or why it is nobody's. An account that is not of node agents may be a
/// gateway's: the one of its name. Pure.
fn verdict(status: &TokenReviewStatus, settings: &TokenReviews) -> Result<Client, &'static str> {
    if status.authenticated != Some(true) {
        return Err("the API server does not know the token");
    }
    // An API server that does not understand audiences returns none and has checked none.
    let meant_for = status.audiences.as_deref().unwrap_or_default();
    if !meant_for
        .iter()
        .any(|audience| settings.audiences.contains(audience))
    {
        return Err("the token is meant for another audience");
    }
    let user = status.user.as_ref().ok_or("the token is nobody's")?;
    let user_name = user.username.as_deref().unwrap_or_default();
    let account = NodeAccount::of_user(user_name).ok_or("the token is not of a service account")?;
    let extra = |key| {
        let values = user.extra.as_ref()?.get(key)?;
        match values.as_slice() {
            [value] if !value.is_empty() => Some(value.as_str()),
            _ => None,
        }
    };
    let (Some(name), Some(uid)) = (extra(POD_NAME), extra(POD_UID)) else {
        return Err("the token is not bound to a pod");
    };
    if !settings.accounts.contains(&account) {
        let key = GatewayKey::new(account.namespace(), account.name());
        let pod = BoundPod {
            name: name.into(),
            uid: uid.into(),
        };
        return Ok(Client::Gateway(key, Some(pod)));
    }
    let node = extra(NODE_NAME).ok_or("the token names no node")?;
    Ok(Client::Node(node.into()))
}

#[cfg(test)]
mod tests;
