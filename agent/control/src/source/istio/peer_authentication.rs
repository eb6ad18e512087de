//! PeerAuthentication.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::{Selector, check_selector};
use crate::source::decode::FieldError;
use crate::source::lenient::{nullable, policy_port};
use crate::source::object::Strict;

/// `security.istio.io PeerAuthentication`.
pub(crate) type PeerAuthentication = Strict<PeerAuthenticationSpec>;

/// `spec` of a PeerAuthentication.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PeerAuthenticationSpec {
    #[serde(default)]
    pub(crate) selector: Option<Selector>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) mtls: Mtls,
    #[serde(default, deserialize_with = "port_modes")]
    pub(crate) port_level_mtls: BTreeMap<u16, MtlsMode>,
}

/// `mtls`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mtls {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) mode: MtlsMode,
}

/// `mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum MtlsMode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

fn port_modes<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u16, MtlsMode>, D::Error> {
    let raw = Option::<BTreeMap<String, Mtls>>::deserialize(from)?.unwrap_or_default();
    raw.into_iter()
        .map(|(port, mtls)| {
            let port = policy_port(&port).map_err(D::Error::custom)?;
            Ok((port, mtls.mode))
        })
        .collect()
}

/// Checks across fields that types cannot express.
pub(in crate::source) fn check_peer_authentication(
    policy: &PeerAuthentication,
) -> Result<(), FieldError> {
    check_selector(policy.spec.selector.as_ref())
}
