//! What rules change.

use std::sync::Arc;
use std::time::Duration;

use agent_model::gateway::{
    Cors, Filter, Fraction, HeaderChange, HeaderValue, Mirror, OriginMatch, PathChange, Redirect,
    Rewrite, Scheme, Target,
};

use crate::source::gateway_api as api;

/// Translates a filter. One that is not supported becomes [`Filter::Invalid`], with which requests
/// fail rather than pass without it. `target` resolves where a mirror goes.
pub(super) fn translate(
    filter: &api::Filter,
    target: impl FnOnce(&api::BackendRef) -> Target,
) -> Filter {
    let found = match filter.kind.as_str() {
        "RequestHeaderModifier" => {
            let modifier = filter.request_header_modifier.as_ref();
            modifier
                .map(header_change)
                .map(|of| of.map(Filter::RequestHeaders))
        }
        "ResponseHeaderModifier" => {
            let modifier = filter.response_header_modifier.as_ref();
            modifier
                .map(header_change)
                .map(|of| of.map(Filter::ResponseHeaders))
        }
        "RequestRedirect" => {
            let of = filter.request_redirect.as_ref();
            of.map(redirect).map(|of| of.map(Filter::Redirect))
        }
        "URLRewrite" => {
            let of = filter.url_rewrite.as_ref();
            of.map(rewrite).map(|of| of.map(Filter::Rewrite))
        }
        "RequestMirror" => filter.request_mirror.as_ref().map(|mirror| {
            let backend = target(&mirror.backend_ref);
            let fraction = fraction(mirror)?;
            Ok(Filter::Mirror(Mirror { backend, fraction }))
        }),
        "CORS" => filter
            .cors
            .as_ref()
            .map(cors)
            .map(|of| of.map(Filter::Cors)),
        kind => Some(Err(format!("filter {kind:?} is not supported"))),
    };
    let found = found.unwrap_or_else(|| Err(format!("filter {:?} is empty", filter.kind)));
    found.unwrap_or_else(|message| Filter::Invalid(message.into()))
}

fn header_change(modifier: &api::HeaderModifier) -> Result<HeaderChange, String> {
    let values = |values: &[api::Value]| -> Result<Vec<HeaderValue>, String> {
        let values = values.iter().map(|of| {
            let is_text = of
                .value
                .bytes()
                .all(|byte| byte == b'\t' || (32..=126).contains(&byte));
            if !is_text {
                return Err(format!(
                    "the value of header {:?} is not ASCII text",
                    of.name
                ));
            }
            Ok(HeaderValue {
                name: header_name(&of.name)?,
                value: of.value.as_str().into(),
            })
        });
        values.collect()
    };
    let removed = modifier.remove.iter().map(|name| header_name(name));
    Ok(HeaderChange {
        set: values(&modifier.set)?,
        add: values(&modifier.add)?,
        remove: removed.collect::<Result<_, _>>()?,
    })
}

/// In lower case. A `token` of RFC 9110, 5.6.2, and none that frames a message.
fn header_name(name: &str) -> Result<Arc<str>, String> {
    const FRAMING: [&str; 4] = [
        "connection",
        "content-length",
        "transfer-encoding",
        "upgrade",
    ];
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("{name:?} is not the name of a header"));
    }
    if FRAMING.contains(&lower.as_str()) {
        return Err(format!("header {name:?} is the gateway's to write"));
    }
    Ok(lower.into())
}

fn redirect(redirect: &api::Redirect) -> Result<Redirect, String> {
    let scheme = match redirect.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(scheme) => return Err(format!("a redirect to scheme {scheme:?} is not supported")),
    };
    let status = redirect.status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Err(format!("a redirect with status {status} is not supported"));
    }
    Ok(Redirect {
        scheme,
        hostname: redirect.hostname.as_deref().map(host).transpose()?,
        path: redirect.path.as_ref().map(path_change).transpose()?,
        port: redirect.port.filter(|port| *port != 0),
        status,
    })
}

fn rewrite(rewrite: &api::UrlRewrite) -> Result<Rewrite, String> {
    Ok(Rewrite {
        hostname: rewrite.hostname.as_deref().map(host).transpose()?,
        path: rewrite.path.as_ref().map(path_change).transpose()?,
    })
}

/// A host to be written: no wildcard.
fn host(text: &str) -> Result<Arc<str>, String> {
    match text.parse::<agent_model::gateway::Hostname>() {
        Ok(host) if !host.is_wildcard() => Ok(host.as_str().into()),
        _ => Err(format!("{text:?} is not a host name")),
    }
}

fn path_change(edit: &api::PathEdit) -> Result<PathChange, String> {
    let (value, make): (_, fn(Arc<str>) -> PathChange) = match edit.kind.as_str() {
        "ReplaceFullPath" => (&edit.replace_full_path, PathChange::Full),
        "ReplacePrefixMatch" => (&edit.replace_prefix_match, PathChange::Prefix),
        kind => return Err(format!("path.type {kind:?} is not supported")),
    };
    let value = value.as_deref().unwrap_or_default();
    if value
        .bytes()
        .any(|byte| byte <= b' ' || byte >= 127 || b"?#".contains(&byte))
    {
        return Err(format!("{value:?} is not a path"));
    }
    Ok(make(value.into()))
}

fn fraction(mirror: &api::Mirror) -> Result<Fraction, String> {
    let fraction = match (&mirror.fraction, mirror.percent) {
        (Some(of), _) => Fraction {
            numerator: of.numerator,
            denominator: of.denominator.unwrap_or(100),
        },
        (None, Some(percent)) => Fraction {
            numerator: percent,
            denominator: 100,
        },
        (None, None) => Fraction::ALL,
    };
    if fraction.denominator == 0 || fraction.numerator > fraction.denominator {
        return Err("a mirror of more than everything, or of a part of nothing".to_owned());
    }
    Ok(fraction)
}

fn cors(cors: &api::Cors) -> Result<Cors, String> {
    let origins = cors.allow_origins.iter().map(|origin| {
        OriginMatch::parse(origin).ok_or_else(|| format!("{origin:?} is not an origin"))
    });
    let texts = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
    Ok(Cors {
        allow_origins: origins.collect::<Result<_, _>>()?,
        allow_credentials: cors.allow_credentials,
        allow_methods: texts(&cors.allow_methods),
        allow_headers: texts(&cors.allow_headers),
        expose_headers: texts(&cors.expose_headers),
        max_age: cors
            .max_age
            .map(|seconds| Duration::from_secs(seconds.into())),
    })
}
