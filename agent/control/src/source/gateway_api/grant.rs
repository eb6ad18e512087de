//! ReferenceGrant: who may point into a namespace.

use serde::Deserialize;

use crate::source::lenient::nullable;
use crate::source::object::Lenient;

/// `ReferenceGrant`, of the namespace that is pointed into.
pub(crate) type ReferenceGrant = Lenient<GrantSpec>;

/// `spec` of a ReferenceGrant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct GrantSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) from: Vec<GrantFrom>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) to: Vec<GrantTo>,
}

/// Who points.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct GrantFrom {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) group: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) namespace: String,
}

/// What is pointed at; every object of the kind when no name is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct GrantTo {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) group: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) name: Option<String>,
}
