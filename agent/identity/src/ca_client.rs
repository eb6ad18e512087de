//! Asking a certificate service to sign.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use agent_model::Identity;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::ca::IstioCertificateRequest;
use proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use zeroize::Zeroizing;

use crate::{Authority, IdentityError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer of more bytes than this is refused.
const MAX_ANSWER: usize = 1024 * 1024;
/// Status messages of the service are cut to this many characters in errors.
const MAX_MESSAGE: usize = 256;

/// The answer to one request: PEM texts, leaf first, root bundle last.
pub type IssueFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<String>, IdentityError>> + Send + 'a>>;

/// Something that signs certificates.
pub trait CaClient: Send + Sync + 'static {
    /// Asks for a certificate of `identity` for the key of `csr_pem`, valid for `ttl`. The answer
    /// is not trusted: the caller checks it.
    fn issue<'a>(
        &'a self,
        identity: &'a Identity,
        csr_pem: &'a str,
        ttl: Duration,
    ) -> IssueFuture<'a>;
}

/// An authority in the same process signs directly.
impl CaClient for Authority {
    fn issue<'a>(
        &'a self,
        identity: &'a Identity,
        csr_pem: &'a str,
        ttl: Duration,
    ) -> IssueFuture<'a> {
        Box::pin(async move { self.sign(csr_pem, identity, ttl, SystemTime::now()) })
    }
}

/// Where the certificate service is and how to be admitted.
#[derive(Debug, Clone)]
pub struct GrpcCaConfig {
    /// `https://host:port`; without a scheme https is meant, plain http is refused.
    pub address: String,
    /// PEM bundle that the service's own certificate must chain to; read anew for every call.
    pub root_cert: PathBuf,
    /// Bearer token; read anew for every call.
    pub token_file: PathBuf,
    /// Sent as `clusterid`.
    pub cluster_id: String,
}

/// Client of `istio.v1.auth.IstioCertificateService` over TLS. Every call makes its own
/// connection: there are few (one per identity and half lifetime), and each uses the roots and
/// the token of the moment.
#[derive(Debug)]
pub struct GrpcCaClient {
    config: GrpcCaConfig,
    cluster_id: MetadataValue<Ascii>,
}

impl GrpcCaClient {
    /// Fails when the address is not an https address or the cluster id is not printable ASCII.
    pub fn new(mut config: GrpcCaConfig) -> Result<Self, IdentityError> {
        if !config.address.contains("://") {
            config.address.insert_str(0, "https://");
        }
        if !config.address.starts_with("https://") {
            return Err(IdentityError::Service(format!(
                "{} is not an https address; a token is never sent in the clear",
                config.address
            )));
        }
        let cluster_id = config
            .cluster_id
            .parse()
            .map_err(|_| IdentityError::Service("cluster id is not printable ASCII".to_owned()))?;
        Ok(Self { config, cluster_id })
    }

    async fn call(
        &self,
        identity: &Identity,
        csr_pem: &str,
        ttl: Duration,
    ) -> Result<Vec<String>, IdentityError> {
        let channel = self.connect().await?;
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: csr_pem.to_owned(),
            validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(impersonate(identity)),
        });
        let metadata = request.metadata_mut();
        metadata.insert("authorization", self.bearer()?);
        metadata.insert("clusterid", self.cluster_id.clone());
        let answer = IstioCertificateServiceClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER)
            .create_certificate(request)
            .await
            .map_err(|status| {
                let message: String = status.message().chars().take(MAX_MESSAGE).collect();
                IdentityError::Service(format!("{:?}: {message}", status.code()))
            })?;
        Ok(answer.into_inner().cert_chain)
    }

    async fn connect(&self) -> Result<Channel, IdentityError> {
        // Small local files: reading them in place is quicker than handing the read to a thread.
        let roots = std::fs::read(&self.config.root_cert)
            .map_err(IdentityError::file(&self.config.root_cert))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots));
        Endpoint::from_shared(self.config.address.clone())
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(service_error)?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .connect()
            .await
            .map_err(service_error)
    }

    fn bearer(&self) -> Result<MetadataValue<Ascii>, IdentityError> {
        let path = &self.config.token_file;
        let token = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(IdentityError::file(path))?;
        let header = Zeroizing::new(format!("Bearer {}", token.trim()));
        let mut value: MetadataValue<Ascii> = header.parse().map_err(|_| {
            IdentityError::Service(format!("{} does not hold a token", path.display()))
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl CaClient for GrpcCaClient {
    fn issue<'a>(
        &'a self,
        identity: &'a Identity,
        csr_pem: &'a str,
        ttl: Duration,
    ) -> IssueFuture<'a> {
        Box::pin(self.call(identity, csr_pem, ttl))
    }
}

fn impersonate(identity: &Identity) -> Struct {
    let value = Value {
        kind: Some(Kind::StringValue(identity.to_string())),
    };
    Struct {
        fields: [("ImpersonatedIdentity".to_owned(), value)].into(),
    }
}

/// The whole chain of causes: tonic's own text is only "transport error".
fn service_error(error: tonic::transport::Error) -> IdentityError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    IdentityError::Service(text)
}

#[cfg(test)]
mod tests;
