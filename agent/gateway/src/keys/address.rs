//! Where keys are fetched from.

use agent_policy::jwt::FetchFault;
use http::Uri;
use http::uri::Scheme;

/// An address of a key set, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) is_secure: bool,
    /// Name or address, an IPv6 address without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// What the Host header says.
    pub(super) authority: String,
    /// Path and query.
    pub(super) target: String,
}

impl Location {
    /// Reads an absolute `http` or `https` address. One with a name or a password before its host
    /// is none: it would be sent to whoever answers there.
    pub(super) fn parse(address: &str) -> Result<Self, FetchFault> {
        let invalid = |why: &str| FetchFault::Transport(format!("not an address for keys: {why}"));
        let uri: Uri = address.parse().map_err(|_| invalid("not a URI"))?;
        let is_secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(invalid("neither http nor https")),
        };
        let authority = uri.authority().ok_or_else(|| invalid("no host"))?;
        if authority.as_str().contains('@') {
            return Err(invalid("it holds credentials"));
        }
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bare.unwrap_or(host).to_owned();
        if host.is_empty() {
            return Err(invalid("no host"));
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Ok(Self {
            is_secure,
            host,
            port: authority
                .port_u16()
                .unwrap_or(if is_secure { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            target: target.to_owned(),
        })
    }

    /// Where a redirect leads: to an absolute address, or to another path here. Never from TLS to
    /// plain text.
    pub(super) fn redirected(&self, to: &str) -> Result<Self, FetchFault> {
        let next = if to.starts_with('/') && !to.starts_with("//") {
            Self {
                target: to.to_owned(),
                ..self.clone()
            }
        } else {
            Self::parse(to)?
        };
        if self.is_secure && !next.is_secure {
            let why = "a redirect from https to http is not followed".to_owned();
            return Err(FetchFault::Transport(why));
        }
        Ok(next)
    }
}
