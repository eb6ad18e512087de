//! Filters of a rule.

use std::time::Duration;

use agent_model::gateway::{
    Cors, Filter, Fraction, HeaderChange, HeaderValue, Mirror, OriginMatch, PathChange, Redirect,
    Rewrite, Scheme,
};
use proto::gateway as wire;

use super::super::fields::{MAX_STRING, invalid, known, port_or_zero};
use super::rule::status;
use super::{decode_target, encode_target, needed, optional, parts, shared, text_of, value};
use crate::Error;

pub(super) fn decode_filter(message: &wire::Filter) -> Result<Filter, Error> {
    use wire::filter::Filter as Wire;
    Ok(
        match message.filter.as_ref().ok_or(Error::Missing("filter"))? {
            Wire::RequestHeaders(change) => Filter::RequestHeaders(decode_headers(change)?),
            Wire::ResponseHeaders(change) => Filter::ResponseHeaders(decode_headers(change)?),
            Wire::Redirect(redirect) => Filter::Redirect(decode_redirect(redirect)?),
            Wire::Rewrite(rewrite) => Filter::Rewrite(Rewrite {
                hostname: optional("rewrite hostname", &rewrite.hostname)?,
                path: rewrite.path.as_ref().map(decode_path).transpose()?,
            }),
            Wire::Mirror(mirror) => Filter::Mirror(Mirror {
                backend: decode_target(mirror.backend.as_ref())?,
                fraction: decode_fraction(mirror)?,
            }),
            Wire::Cors(cors) => Filter::Cors(decode_cors(cors)?),
            Wire::Invalid(why) => Filter::Invalid(shared("invalid filter", why, MAX_STRING)?),
        },
    )
}

pub(super) fn encode_filter(filter: &Filter) -> wire::Filter {
    use wire::filter::Filter as Wire;
    let filter = match filter {
        Filter::RequestHeaders(change) => Wire::RequestHeaders(encode_headers(change)),
        Filter::ResponseHeaders(change) => Wire::ResponseHeaders(encode_headers(change)),
        Filter::Redirect(redirect) => Wire::Redirect(encode_redirect(redirect)),
        Filter::Rewrite(rewrite) => Wire::Rewrite(wire::Rewrite {
            hostname: text_of(rewrite.hostname.as_ref()),
            path: rewrite.path.as_ref().map(encode_path),
        }),
        Filter::Mirror(mirror) => Wire::Mirror(wire::Mirror {
            backend: Some(encode_target(&mirror.backend)),
            numerator: mirror.fraction.numerator,
            denominator: mirror.fraction.denominator,
        }),
        Filter::Cors(cors) => Wire::Cors(encode_cors(cors)),
        Filter::Invalid(why) => Wire::Invalid(why.to_string()),
    };
    wire::Filter {
        filter: Some(filter),
    }
}

pub(super) fn decode_headers(message: &wire::HeaderChange) -> Result<HeaderChange, Error> {
    let header = |header: &wire::HeaderValue| {
        Ok(HeaderValue {
            name: needed("header name", &header.name)?,
            value: value("header value", &header.value)?,
        })
    };
    Ok(HeaderChange {
        set: parts("set", &message.set, header)?,
        add: parts("add", &message.add, header)?,
        remove: parts("remove", &message.remove, |name| {
            needed("header name", name)
        })?,
    })
}

pub(super) fn encode_headers(change: &HeaderChange) -> wire::HeaderChange {
    let header = |header: &HeaderValue| wire::HeaderValue {
        name: header.name.to_string(),
        value: header.value.to_string(),
    };
    wire::HeaderChange {
        set: change.set.iter().map(header).collect(),
        add: change.add.iter().map(header).collect(),
        remove: change.remove.iter().map(ToString::to_string).collect(),
    }
}

fn decode_redirect(message: &wire::Redirect) -> Result<Redirect, Error> {
    let port = port_or_zero("redirect port", message.port)?;
    let code = status(message.status)?;
    if !matches!(code, 301 | 302 | 303 | 307 | 308) {
        return Err(invalid("redirect status", format!("{code} is no redirect")));
    }
    Ok(Redirect {
        scheme: known("scheme", message.scheme, |scheme| {
            Some(match scheme {
                wire::Scheme::Http => Some(Scheme::Http),
                wire::Scheme::Https => Some(Scheme::Https),
                wire::Scheme::Unspecified => None,
            })
        })?,
        hostname: optional("redirect hostname", &message.hostname)?,
        path: message.path.as_ref().map(decode_path).transpose()?,
        port: (port > 0).then_some(port),
        status: code,
    })
}

fn encode_redirect(redirect: &Redirect) -> wire::Redirect {
    wire::Redirect {
        scheme: match redirect.scheme {
            None => wire::Scheme::Unspecified,
            Some(Scheme::Http) => wire::Scheme::Http,
            Some(Scheme::Https) => wire::Scheme::Https,
        }
        .into(),
        hostname: text_of(redirect.hostname.as_ref()),
        path: redirect.path.as_ref().map(encode_path),
        port: redirect.port.map_or(0, u32::from),
        status: u32::from(redirect.status),
    }
}

fn decode_path(message: &wire::PathChange) -> Result<PathChange, Error> {
    use wire::path_change::Change;
    Ok(
        match message
            .change
            .as_ref()
            .ok_or(Error::Missing("path change"))?
        {
            Change::Full(path) => PathChange::Full(value("path", path)?),
            Change::Prefix(path) => PathChange::Prefix(value("path", path)?),
        },
    )
}

fn encode_path(path: &PathChange) -> wire::PathChange {
    use wire::path_change::Change;
    wire::PathChange {
        change: Some(match path {
            PathChange::Full(path) => Change::Full(path.to_string()),
            PathChange::Prefix(path) => Change::Prefix(path.to_string()),
        }),
    }
}

fn decode_fraction(message: &wire::Mirror) -> Result<Fraction, Error> {
    let (numerator, denominator) = (message.numerator, message.denominator);
    if denominator == 0 || numerator > denominator {
        let why = format!("{numerator} of {denominator}");
        return Err(invalid("mirror fraction", why));
    }
    Ok(Fraction {
        numerator,
        denominator,
    })
}

fn decode_cors(message: &wire::Cors) -> Result<Cors, Error> {
    let names = |field, values: &[String]| parts(field, values, |name| needed(field, name));
    Ok(Cors {
        allow_origins: parts("allow_origins", &message.allow_origins, |origin| {
            let origin = needed("allow_origins", origin)?;
            OriginMatch::parse(&origin)
                .ok_or_else(|| invalid("allow_origins", format!("{origin:?} is no origin")))
        })?,
        allow_credentials: message.allow_credentials,
        allow_methods: names("allow_methods", &message.allow_methods)?,
        allow_headers: names("allow_headers", &message.allow_headers)?,
        expose_headers: names("expose_headers", &message.expose_headers)?,
        max_age: message.max_age_ms.map(Duration::from_millis),
    })
}

fn encode_cors(cors: &Cors) -> wire::Cors {
    let names = |names: &[std::sync::Arc<str>]| names.iter().map(ToString::to_string).collect();
    let origin = |origin: &OriginMatch| match origin {
        OriginMatch::Any => "*".to_owned(),
        OriginMatch::Exact(origin) => origin.to_string(),
        OriginMatch::Subdomain { scheme, suffix } => format!("{scheme}://*{suffix}"),
    };
    wire::Cors {
        allow_origins: cors.allow_origins.iter().map(origin).collect(),
        allow_credentials: cors.allow_credentials,
        allow_methods: names(&cors.allow_methods),
        allow_headers: names(&cors.allow_headers),
        expose_headers: names(&cors.expose_headers),
        max_age_ms: cors
            .max_age
            .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
    }
}
