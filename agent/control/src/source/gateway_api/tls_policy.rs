//! BackendTLSPolicy: how backends prove who they are.

use serde::Deserialize;

use super::ObjectReference;
use super::route::Marks;
use crate::source::lenient::nullable;
use crate::source::object::Lenient;

/// `BackendTLSPolicy`.
pub(crate) type BackendTlsPolicy = Lenient<BackendTlsPolicySpec, Marks>;

/// `spec` of a BackendTLSPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BackendTlsPolicySpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) target_refs: Vec<PolicyTarget>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) validation: BackendValidation,
}

/// One of `targetRefs`; always of the policy's own namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyTarget {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) group: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    /// Name of a port of the Service; all of them when left out.
    #[serde(default)]
    section_name: Option<String>,
}

impl PolicyTarget {
    pub(crate) fn section(&self) -> Option<&str> {
        self.section_name.as_deref().filter(|name| !name.is_empty())
    }
}

/// `spec.validation`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BackendValidation {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ca_certificate_refs: Vec<ObjectReference>,
    /// `System`: what the machine trusts.
    #[serde(default, rename = "wellKnownCACertificates")]
    pub(crate) well_known: Option<String>,
    /// The SNI, and the name in the certificate unless there are `subject_alt_names`.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) hostname: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) subject_alt_names: Vec<SubjectAltName>,
}

/// One of `subjectAltNames`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct SubjectAltName {
    /// `Hostname` or `URI`.
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) hostname: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) uri: String,
}
