//! The issuer in a Secret of the cluster: given in the form of cert-manager (`tls.crt`, `tls.key`,
//! `ca.crt`), or else made and kept there. The key is in the Secret and in memory, nowhere else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_identity::{NewRoot, Signer, TrustBundle};
use agent_net::backoff::Backoff;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tracing::{info, warn};

use super::rotation::Offer;

/// Name of the Secret, in the root namespace.
pub(crate) const NAME: &str = "culvert-ca";
/// On a Secret that was made here: nobody else renews it.
const GENERATED: &str = "culvert.dev/generated";
/// Keys of the form that cert-manager writes.
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";
/// Our own keys: a prepared successor, and every root that is trusted, for the next start.
const NEXT_CHAIN: &str = "culvert-next.crt";
const NEXT_KEY: &str = "culvert-next.key";
const TRUSTED: &str = "culvert-trusted.crt";
/// Between two tries at the start.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The Secret, as it was seen last.
pub(crate) struct SecretStore {
    api: Api<Secret>,
    seen: Secret,
}

type Data = BTreeMap<String, ByteString>;

impl SecretStore {
    /// Reads the Secret, making it when there is none. Of several replicas that start together one
    /// makes it and the others read that. Tries for as long as it takes: without an issuer there
    /// is nothing to serve.
    pub(crate) async fn open(
        client: kube::Client,
        namespace: &str,
        trust_domain: &str,
    ) -> (Self, Offer) {
        let api: Api<Secret> = Api::namespaced(client, namespace);
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut reported = None;
        loop {
            let found = find_or_make(&api, trust_domain).await;
            match found.and_then(|secret| Ok((offer_of(&secret)?, secret))) {
                Ok((offer, seen)) => return (Self { api, seen }, offer),
                Err(problem) => {
                    if reported.as_ref() != Some(&problem) {
                        warn!(target: "status", namespace, name = NAME, problem, "no issuer yet");
                    }
                    reported = Some(problem);
                }
            }
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    }

    /// True when the Secret was made here.
    pub(crate) fn is_ours(&self) -> bool {
        let annotations = self.seen.metadata.annotations.as_ref();
        annotations.is_some_and(|annotations| annotations.contains_key(GENERATED))
    }

    /// The offer of a Secret that changed. One that is gone is written again by the leader.
    pub(super) async fn poll(&mut self, leads: bool) -> Result<Option<Offer>, String> {
        let Some(secret) = self.api.get_opt(NAME).await.map_err(problem)? else {
            self.put_back(leads).await?;
            return Ok(None);
        };
        if secret.metadata.resource_version == self.seen.metadata.resource_version {
            return Ok(None);
        }
        let offer = offer_of(&secret)?;
        self.seen = secret;
        Ok(Some(offer))
    }

    /// Writes the Secret again as it was seen last. A replica that starts without it would make
    /// another root, which nobody trusts whom it does not tell. One that somebody gave is theirs to
    /// bring back.
    async fn put_back(&self, leads: bool) -> Result<(), String> {
        if !leads || !self.is_ours() {
            return Err(format!("Secret {NAME} is gone"));
        }
        let metadata = &self.seen.metadata;
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                annotations: metadata.annotations.clone(),
                labels: metadata.labels.clone(),
                ..ObjectMeta::default()
            },
            ..self.seen.clone()
        };
        match self.api.create(&PostParams::default(), &secret).await {
            Ok(_) => {
                warn!(target: "trust", name = NAME, "the Secret was gone and is written again");
                Ok(())
            }
            // Somebody else was faster; the next poll has what they wrote.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(problem(error)),
        }
    }

    /// Adds a successor.
    pub(super) async fn prepare(&mut self, root: &NewRoot) -> Result<(), String> {
        self.write(|data| {
            set(data, NEXT_CHAIN, root.certificate.as_bytes());
            set(data, NEXT_KEY, root.key.as_bytes());
        })
        .await
    }

    /// Puts the successor in the issuer's place. The key of the one before is gone then.
    pub(super) async fn promote(&mut self) -> Result<(), String> {
        self.write(|data| {
            if let (Some(chain), Some(key)) = (data.remove(NEXT_CHAIN), data.remove(NEXT_KEY)) {
                // A root made here is its own chain.
                data.insert(ROOTS.to_owned(), chain.clone());
                data.insert(CHAIN.to_owned(), chain);
                data.insert(KEY.to_owned(), key);
            }
        })
        .await
    }

    /// Writes over what was seen last; an error when somebody else has written since.
    async fn write(&mut self, change: impl FnOnce(&mut Data)) -> Result<(), String> {
        let mut secret = self.seen.clone();
        change(secret.data.get_or_insert_default());
        let how = PostParams::default();
        // Not taken as seen: the poll that follows finds it, like that of the other replicas.
        let written = self.api.replace(NAME, &how, &secret).await;
        written.map(drop).map_err(problem)
    }

    /// Writes the roots that are trusted, nothing else: the rest may be somebody else's.
    pub(super) async fn remember(&mut self, bundle: &TrustBundle) -> Result<(), String> {
        let pem = bundle.pem().as_bytes();
        let data = self.seen.data.as_ref();
        if data
            .and_then(|data| data.get(TRUSTED))
            .is_some_and(|known| known.0 == pem)
        {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"data": {TRUSTED: ByteString(pem.to_vec())}}));
        let how = PatchParams::default();
        self.api.patch(NAME, &how, &patch).await.map_err(problem)?;
        // What else changed meanwhile is seen by the next poll.
        set(self.seen.data.get_or_insert_default(), TRUSTED, pem);
        Ok(())
    }
}

impl std::fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretStore")
            .field("is_ours", &self.is_ours())
            .finish_non_exhaustive()
    }
}

async fn find_or_make(api: &Api<Secret>, trust_domain: &str) -> Result<Secret, String> {
    if let Some(secret) = api.get_opt(NAME).await.map_err(problem)? {
        return Ok(secret);
    }
    let root = NewRoot::make(trust_domain, SystemTime::now());
    let secret = generated(&root.map_err(|error| error.to_string())?);
    match api.create(&PostParams::default(), &secret).await {
        Ok(secret) => {
            info!(name = NAME, "a root was made and is kept in a Secret");
            Ok(secret)
        }
        // Another replica was faster; its root counts.
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(NAME).await.map_err(problem),
        Err(error) => Err(problem(error)),
    }
}

fn generated(root: &NewRoot) -> Secret {
    let mut data = Data::new();
    set(&mut data, CHAIN, root.certificate.as_bytes());
    set(&mut data, KEY, root.key.as_bytes());
    set(&mut data, ROOTS, root.certificate.as_bytes());
    let pair = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    Secret {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            annotations: Some(pair(GENERATED, "true")),
            labels: Some(pair("app.kubernetes.io/name", "culvert")),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

/// What the Secret says. Errors name the key, never its content.
fn offer_of(secret: &Secret) -> Result<Offer, String> {
    let nothing = Data::new();
    let data = secret.data.as_ref().unwrap_or(&nothing);
    let text = |key: &str| match data.get(key) {
        Some(bytes) if !bytes.0.is_empty() => std::str::from_utf8(&bytes.0)
            .map(Some)
            .map_err(|_| format!("Secret {NAME}: {key} is not text")),
        _ => Ok(None),
    };
    let required = |key: &str| text(key)?.ok_or_else(|| format!("Secret {NAME}: {key} is missing"));
    let signer = |chain: &str, key: &str, roots: &str| {
        Signer::from_pem(chain, key, roots)
            .map(Arc::new)
            .map_err(|error| format!("Secret {NAME}: {error}"))
    };
    let prepared = match (text(NEXT_CHAIN)?, text(NEXT_KEY)?) {
        (Some(chain), Some(key)) => Some(signer(chain, key, chain)?),
        _ => None,
    };
    let remembered = text(TRUSTED)?.and_then(|text| TrustBundle::read(text.as_bytes()).ok());
    Ok(Offer {
        active: signer(required(CHAIN)?, required(KEY)?, required(ROOTS)?)?,
        prepared,
        remembered: remembered.map_or_else(Vec::new, |(bundle, _)| bundle.roots().to_vec()),
    })
}

fn set(data: &mut Data, key: &str, value: &[u8]) {
    data.insert(key.to_owned(), ByteString(value.to_vec()));
}

fn problem(error: kube::Error) -> String {
    format!("Secret {NAME}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> NewRoot {
        NewRoot::make("cluster.local", SystemTime::now()).unwrap()
    }

    #[test]
    fn a_generated_secret_is_an_offer() {
        let secret = generated(&root());
        let offer = offer_of(&secret).unwrap();
        assert!(offer.prepared.is_none() && offer.remembered.is_empty());
        assert_eq!(offer.active.roots().roots().len(), 1);
    }

    #[test]
    fn what_is_prepared_and_remembered_is_part_of_the_offer() {
        let mut secret = generated(&root());
        let (next, old) = (root(), root());
        let data = secret.data.as_mut().unwrap();
        set(data, NEXT_CHAIN, next.certificate.as_bytes());
        set(data, NEXT_KEY, next.key.as_bytes());
        let remembered = format!("{}garbage", old.certificate);
        set(data, TRUSTED, remembered.as_bytes());
        let offer = offer_of(&secret).unwrap();
        let prepared = offer.prepared.unwrap();
        assert_eq!(prepared.roots().pem(), next.certificate);
        assert_eq!(offer.remembered.len(), 1);
    }

    #[test]
    fn a_secret_that_is_no_issuer_is_refused_without_its_content() {
        let good = generated(&root());
        let other = root();
        for (key, value, expected) in [
            (CHAIN, &b""[..], "tls.crt is missing"),
            (KEY, b"", "tls.key is missing"),
            (ROOTS, b"", "ca.crt is missing"),
            (KEY, b"\xff\xfe", "tls.key is not text"),
            (KEY, other.key.as_bytes(), "not the issuer's"),
            (KEY, b"SECRET", "issuer key"),
            (ROOTS, b"SECRET", "roots"),
        ] {
            let mut secret = good.clone();
            set(secret.data.as_mut().unwrap(), key, value);
            let error = offer_of(&secret).unwrap_err();
            assert!(error.contains(expected), "{key}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }
}
