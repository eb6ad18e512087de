//! What objects of kinds with a `spec` have in common, for the two ways in which they are read.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

use super::kubernetes::Metadata;
use super::lenient::nullable;

/// An object that is read as Kubernetes' own are: the API grows, and fields that are not known pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(bound(
    deserialize = "Spec: Default + Deserialize<'de>, Status: Default + Deserialize<'de>"
))]
pub(crate) struct Lenient<Spec, Status = Skipped> {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) spec: Spec,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) status: Status,
}

/// An object of which a field that is not known is an error: a misspelt one would be a hole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(
    deny_unknown_fields,
    bound(deserialize = "Spec: Default + Deserialize<'de>, Status: Default + Deserialize<'de>")
)]
pub(crate) struct Strict<Spec, Status = Skipped> {
    #[serde(default, rename = "apiVersion")]
    _api_version: Skipped,
    #[serde(default, rename = "kind")]
    _kind: Skipped,
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) spec: Spec,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) status: Status,
}

/// A field that is known and not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Self)
    }
}
