//! The filters of a rule or of a backend, compiled. Their order is fixed by the walk of a request,
//! not by how they were written.

use agent_model::gateway::{
    Filter, Fraction, HeaderChange, PathChange, Redirect, Rewrite, RouteKind,
};
use http::StatusCode;
use http::header::HeaderValue;

use super::Destination;
use crate::filter::{CorsRules, HeaderEdits, Unusable};
use crate::normalize;

/// What is done to a request and to its response.
#[derive(Debug, Default)]
pub struct Steps {
    /// Cross-origin rules.
    pub cors: Option<CorsRules>,
    /// Changes of request headers.
    pub request: Vec<HeaderEdits>,
    /// The request is answered with a redirect.
    pub redirect: Option<(StatusCode, Redirect)>,
    /// The new host.
    pub host: Option<HostChange>,
    /// The new path.
    pub path: Option<PathChange>,
    /// Copies.
    pub mirrors: Vec<MirrorTo>,
    /// Changes of response headers.
    pub response: Vec<HeaderEdits>,
}

/// A new Host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostChange(pub HeaderValue);

/// Where a copy goes.
#[derive(Debug)]
pub struct MirrorTo {
    /// The destination.
    pub destination: Destination,
    /// Share of the requests.
    pub fraction: Fraction,
}

impl Steps {
    /// `by_prefix`: every match of the rule is a prefix, so that a prefix can be replaced.
    pub(super) fn compile(filters: &[Filter], by_prefix: bool) -> Result<Self, Unusable> {
        let mut steps = Self::default();
        for filter in filters {
            steps.add(filter, by_prefix)?;
        }
        Ok(steps)
    }

    fn add(&mut self, filter: &Filter, by_prefix: bool) -> Result<(), Unusable> {
        match filter {
            Filter::RequestHeaders(change) => self.add_request_headers(change)?,
            Filter::ResponseHeaders(change) => self.response.push(HeaderEdits::compile(change)?),
            Filter::Redirect(redirect) => {
                let status = StatusCode::from_u16(redirect.status)
                    .ok()
                    .filter(StatusCode::is_redirection)
                    .ok_or(Unusable::Status(redirect.status))?;
                check_path(redirect.path.as_ref(), by_prefix)?;
                redirect.hostname.as_deref().map(check_host).transpose()?;
                self.redirect = Some((status, redirect.clone()));
            }
            Filter::Rewrite(Rewrite { hostname, path }) => {
                check_path(path.as_ref(), by_prefix)?;
                if let Some(hostname) = hostname {
                    self.host = Some(HostChange(check_host(hostname)?));
                }
                if let Some(path) = path {
                    self.path = Some(path.clone());
                }
            }
            Filter::Mirror(mirror) => self.mirrors.push(MirrorTo {
                destination: Destination::new(&mirror.backend, RouteKind::Http),
                fraction: mirror.fraction,
            }),
            Filter::Cors(cors) => self.cors = Some(CorsRules::compile(cors)?),
            Filter::Invalid(why) => return Err(Unusable::Refused(why.as_ref().to_owned())),
        }
        Ok(())
    }

    /// To set `Host` is to rewrite it.
    fn add_request_headers(&mut self, change: &HeaderChange) -> Result<(), Unusable> {
        let mut change = change.clone();
        let is_host = |name: &str| name.eq_ignore_ascii_case("host");
        if let Some(at) = change.set.iter().position(|field| is_host(&field.name)) {
            let host = change.set.remove(at);
            self.host = Some(HostChange(check_host(&host.value)?));
        }
        self.request.push(HeaderEdits::compile(&change)?);
        Ok(())
    }
}

fn check_host(host: &str) -> Result<HeaderValue, Unusable> {
    let unusable = || Unusable::Host(host.to_owned());
    normalize::host(host).map_err(|_| unusable())?;
    HeaderValue::from_str(host).map_err(|_| unusable())
}

fn check_path(change: Option<&PathChange>, by_prefix: bool) -> Result<(), Unusable> {
    let path = match change {
        None => return Ok(()),
        Some(PathChange::Prefix(_)) if !by_prefix => return Err(Unusable::NoPrefix),
        Some(PathChange::Prefix(path)) if path.is_empty() => return Ok(()),
        Some(PathChange::Prefix(path) | PathChange::Full(path)) => path,
    };
    let rules = normalize::PathRules::default();
    match normalize::path(path, rules) {
        Ok(normal) if normal == **path => Ok(()),
        _ => Err(Unusable::Path(path.as_ref().to_owned())),
    }
}
