//! Who calls: by a line of the token file, or by the token that the cluster gave the pod of the node
//! agent or of the gateway.

mod review;
mod review_cache;
mod tokens;

use agent_xds::{Authenticate, Client, NotAdmitted};

pub(crate) use review::Reviews;
pub use review::{NodeAccount, TokenReviews};
pub(crate) use tokens::NodeTokens;
pub use tokens::TokenTable;

/// Every way to be admitted that is configured.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    pub(crate) tokens: Option<NodeTokens>,
    pub(crate) reviews: Option<Reviews>,
}

impl Admission {
    /// What is wrong with the node token file, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        self.tokens.as_ref()?.problem()
    }
}

impl Authenticate for Admission {
    /// The file first: it costs nothing and needs nobody.
    async fn client(&self, token: &str) -> Result<Client, NotAdmitted> {
        if let Some(tokens) = &self.tokens
            && let Ok(client) = tokens.client(token).await
        {
            return Ok(client);
        }
        match &self.reviews {
            Some(reviews) => reviews.client(token).await,
            None => Err(NotAdmitted::Invalid),
        }
    }
}
