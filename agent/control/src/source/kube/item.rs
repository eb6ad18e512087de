//! An object as the API server sends it, read so that it cannot break the list it is in.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::de::{Deserialize, Deserializer};
use serde_json::Value;

use super::bounded::Bounded;
use crate::source::Object;
use crate::source::ObjectRef;
use crate::source::decode::{self, Decoded, FieldError};

/// Any JSON at all. With `METADATA` the API server is asked for nothing below `metadata`.
#[derive(Debug, Clone)]
pub(super) struct Item<const METADATA: bool> {
    /// Only what the watch itself needs.
    meta: ObjectMeta,
    body: Bounded,
}

/// What an [`Item`] turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) reference: ObjectRef,
    pub(super) object: Result<Object, FieldError>,
}

impl<const METADATA: bool> Item<METADATA> {
    /// Reads it by the rules of every source; `None` for an object without a name. Items of a
    /// list do not say what they are, and those without a body say something else.
    pub(super) fn read(self, resource: &ApiResource) -> Option<Found> {
        let Bounded { mut value, is_cut } = self.body;
        let fields = value.as_object_mut()?;
        let type_fields = [
            ("apiVersion", &resource.api_version),
            ("kind", &resource.kind),
        ];
        for (field, text) in type_fields {
            fields.insert(field.to_owned(), Value::String(text.clone()));
        }
        let reference = decode::reference(&value)?;
        if is_cut {
            let object = Err(FieldError::new("", "nested too deeply"));
            return Some(Found { reference, object });
        }
        let object = match decode::decode(value) {
            Ok(Decoded::Object(object)) => Ok(object),
            Ok(Decoded::Ignored(kind)) => Err(FieldError::new("kind", format!("not read: {kind}"))),
            Err(error) => Err(error),
        };
        Some(Found { reference, object })
    }
}

impl<'de, const METADATA: bool> Deserialize<'de> for Item<METADATA> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let body = Bounded::deserialize(from)?;
        let text = |field: &str| {
            let text = body.value.get("metadata")?.get(field)?.as_str()?;
            Some(text.to_owned())
        };
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, body })
    }
}

impl<const METADATA: bool> Resource for Item<METADATA> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn metadata_api() -> bool {
        METADATA
    }

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
