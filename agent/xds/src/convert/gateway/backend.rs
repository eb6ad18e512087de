//! How a gateway talks to the endpoints of a service.

use agent_model::gateway::{
    Backend, BackendTls, GatewayKey, SubjectAltName, TrustedRoots, VerifiedTls,
};
use prost::Message;
use prost_types::Any;
use proto::gateway as wire;

use super::super::any;
use super::super::fields::{MAX_STRING, port_or_zero};
use super::{decode_service, encode_service, gateway_key, needed, parts, pem, shared};
use crate::{Error, ResourceType};

/// Name of the resource that tells `gateway` of a backend.
pub fn backend_name(gateway: &GatewayKey, backend: &Backend) -> String {
    match backend.port {
        Some(port) => format!("{gateway}|{}:{port}", backend.service),
        None => format!("{gateway}|{}", backend.service),
    }
}

/// Reads a Backend resource: the gateway it is for, and the backend.
pub(crate) fn decode_backend(bytes: &[u8]) -> Result<(GatewayKey, Backend), Error> {
    let message = wire::Backend::decode(bytes)?;
    let port = port_or_zero("port", message.port)?;
    let backend = Backend {
        service: decode_service(message.service.as_ref())?,
        port: (port > 0).then_some(port),
        tls: message.tls.as_ref().map(decode_tls).transpose()?,
    };
    Ok((gateway_key(&message.gateway)?, backend))
}

/// The Backend resource that tells `gateway` of a backend.
pub(crate) fn encode_backend(gateway: &GatewayKey, backend: &Backend) -> Any {
    let message = wire::Backend {
        gateway: gateway.to_string(),
        service: Some(encode_service(&backend.service)),
        port: backend.port.map_or(0, u32::from),
        tls: backend.tls.as_ref().map(encode_tls),
    };
    any(ResourceType::Backend, &message)
}

/// TLS to endpoints, or to whatever else a gateway asks.
pub(super) fn decode_tls(message: &wire::BackendTls) -> Result<BackendTls, Error> {
    use wire::backend_tls::Tls;
    Ok(match message.tls.as_ref().ok_or(Error::Missing("tls"))? {
        Tls::Verified(message) => BackendTls::Verified(decode_verified(message)?),
        Tls::Invalid(why) => BackendTls::Invalid(shared("invalid tls", why, MAX_STRING)?),
    })
}

/// The same as it is told.
pub(super) fn encode_tls(tls: &BackendTls) -> wire::BackendTls {
    use wire::backend_tls::Tls;
    let tls = match tls {
        BackendTls::Verified(verified) => Tls::Verified(encode_verified(verified)),
        BackendTls::Invalid(why) => Tls::Invalid(why.to_string()),
    };
    wire::BackendTls { tls: Some(tls) }
}

fn decode_verified(message: &wire::VerifiedTls) -> Result<VerifiedTls, Error> {
    use wire::subject_alt_name::Name;
    use wire::verified_tls::Roots;
    Ok(VerifiedTls {
        hostname: needed("tls hostname", &message.hostname)?,
        roots: match message.roots.as_ref().ok_or(Error::Missing("roots"))? {
            Roots::System(wire::SystemRoots {}) => TrustedRoots::System,
            Roots::Certificates(roots) => TrustedRoots::Certificates(pem("roots", roots)?),
        },
        subject_alt_names: parts("subject_alt_names", &message.subject_alt_names, |name| {
            let name = name
                .name
                .as_ref()
                .ok_or(Error::Missing("subject_alt_names"))?;
            Ok(match name {
                Name::Hostname(name) => SubjectAltName::Hostname(needed("hostname", name)?),
                Name::Uri(uri) => SubjectAltName::Uri(needed("uri", uri)?),
            })
        })?,
    })
}

fn encode_verified(verified: &VerifiedTls) -> wire::VerifiedTls {
    use wire::subject_alt_name::Name;
    use wire::verified_tls::Roots;
    let name = |name: &SubjectAltName| wire::SubjectAltName {
        name: Some(match name {
            SubjectAltName::Hostname(name) => Name::Hostname(name.to_string()),
            SubjectAltName::Uri(uri) => Name::Uri(uri.to_string()),
        }),
    };
    wire::VerifiedTls {
        hostname: verified.hostname.to_string(),
        roots: Some(match &verified.roots {
            TrustedRoots::System => Roots::System(wire::SystemRoots {}),
            TrustedRoots::Certificates(roots) => Roots::Certificates(roots.to_string()),
        }),
        subject_alt_names: verified.subject_alt_names.iter().map(name).collect(),
    }
}
