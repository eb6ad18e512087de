//! Who may ask at all.

use anyhow::{Context, Result, ensure};
use tests::issuer::Issuer;
use tests::poll;

use super::edge::{Edge, LIMIT};
use super::manifests::tokens;

const ISSUER: &str = "https://login.example";

pub(super) fn tokens_count(edge: &Edge<'_>) -> Result<String> {
    let issuer = Issuer::new(ISSUER)?;
    let cluster = &edge.lab.cluster;
    cluster.apply("tokens", &tokens(ISSUER, &issuer.key_set()))?;
    let mut client = edge.client()?;
    poll::until("the policy", LIMIT, || {
        client.get("token.example", "/", &[])?.must(401)
    })?;
    let forged = Issuer::new(ISSUER)?.token(60)?;
    let mut seen = Vec::new();
    for (what, token, want) in [
        ("good", issuer.token(60)?, 200),
        ("expired", issuer.token(-3600)?, 401),
        ("signed by somebody else", forged, 401),
        ("altered", altered(&issuer)?, 401),
    ] {
        let header = format!("Authorization: Bearer {token}");
        let found = client.get("token.example", "/", &[&header])?.status;
        ensure!(found == want, "{what}: {found} instead of {want}");
        seen.push(format!("{what} {found}"));
    }
    cluster.unapply("tokens")?;
    Ok(format!("no token 401, {}", seen.join(", ")))
}

/// What one token says, under the signature of another.
fn altered(issuer: &Issuer) -> Result<String> {
    let (longer, shorter) = (issuer.token(3600)?, issuer.token(60)?);
    let said = longer.rsplit_once('.').map(|(said, _)| said);
    let signature = shorter.rsplit_once('.').map(|(_, signature)| signature);
    let (said, signature) = said.zip(signature).context("no token")?;
    Ok(format!("{said}.{signature}"))
}
