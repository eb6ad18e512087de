//! Who a client is to the mesh that a listener's own authority has let in.

use agent_identity::{client_identity, spiffe_identity};
use agent_policy::http::Peer;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::worker::Worker;

/// Who shows this chain, which the listener has verified. An identity of the mesh is one that the mesh's
/// authority vouches for, whatever authorities a listener has; other trust domains are theirs.
pub(super) async fn vouched(worker: &Worker, chain: &[CertificateDer<'_>]) -> Option<Peer> {
    let claimed = spiffe_identity(chain.first()?)?;
    // Of what trust domain policies speak is not known outside of a mesh.
    let mesh = worker.mesh.as_ref()?;
    if claimed.trust_domain() != mesh.identity.trust_domain() {
        return Some(Peer::outside(claimed));
    }
    let proved = match mesh.certificates.get(&mesh.identity).await {
        Ok(certificate) => client_identity(&certificate, chain, UnixTime::now()),
        Err(_) => None,
    };
    if proved.is_none() {
        tracing::debug!(%claimed, "not the mesh's certificate: the client is nobody of the mesh");
    }
    proved.map(Peer::new)
}
