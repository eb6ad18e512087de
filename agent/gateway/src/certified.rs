//! `x-forwarded-client-cert`: who a client proved to be, for a backend. A client may say what it likes
//! there, so its own word never goes on.

use agent_model::Identity;
use agent_policy::http::Peer;
use http::header::{HeaderName, HeaderValue};

/// The header.
pub(crate) static CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What it says of a client that has proved who it is to a gateway (`By`), as Envoy writes it.
pub(crate) fn of(by: &Identity, client: &Peer) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("By={by};URI={}", client.identity())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_named() {
        let identity = |account| Identity::new("cluster.local", "shop", account).unwrap();
        let client = Peer::new(identity("client"));
        assert_eq!(
            of(&identity("way"), &client).unwrap(),
            "By=spiffe://cluster.local/ns/shop/sa/way;URI=spiffe://cluster.local/ns/shop/sa/client"
        );
    }
}
