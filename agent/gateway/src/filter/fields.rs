//! Changes of header fields.

use agent_model::gateway::{HeaderChange, HeaderValue as Field};
use http::HeaderMap;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};

use super::Unusable;

/// Fields that belong to the connection and its framing, or are changed by a rewrite only.
static KEPT: [HeaderName; 7] = [
    CONNECTION,
    CONTENT_LENGTH,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Header fields to set, add and remove, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
    remove: Box<[HeaderName]>,
}

impl HeaderEdits {
    /// Reads names and values.
    pub fn compile(change: &HeaderChange) -> Result<Self, Unusable> {
        Ok(Self {
            set: change.set.iter().map(field).collect::<Result<_, _>>()?,
            add: change.add.iter().map(field).collect::<Result<_, _>>()?,
            remove: change
                .remove
                .iter()
                .map(|name| field_name(name))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Makes the changes. A field that is added comes after those of its name.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

fn field(field: &Field) -> Result<(HeaderName, HeaderValue), Unusable> {
    let value = HeaderValue::from_str(&field.value)
        .map_err(|_| Unusable::HeaderValue(field.name.as_ref().to_owned()))?;
    Ok((field_name(&field.name)?, value))
}

fn field_name(name: &str) -> Result<HeaderName, Unusable> {
    let unusable = || Unusable::HeaderName(name.to_owned());
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable())?;
    if KEPT.contains(&name) {
        return Err(unusable());
    }
    Ok(name)
}
