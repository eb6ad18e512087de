//! A gateway with its listeners.

use agent_model::gateway::{
    Certificate, ClientValidation, ClientValidationMode, Gateway, GatewayKey, GatewayKind,
    Hostname, Listener, ListenerTls, Protocol, SecretKey, WaypointFor,
};
use prost::Message;
use prost_types::Any;
use proto::gateway as wire;

use super::super::any;
use super::super::fields::{invalid, known, port, required};
use super::{needed, parts, pem};
use crate::{Error, ResourceType};

/// Reads a Gateway resource.
pub(crate) fn decode_gateway(bytes: &[u8]) -> Result<Gateway, Error> {
    let message = wire::Gateway::decode(bytes)?;
    let listeners = parts("listeners", &message.listeners, decode_listener)?;
    for (index, listener) in listeners.iter().enumerate() {
        if listeners[..index]
            .iter()
            .any(|other| other.name == listener.name)
        {
            return Err(invalid(
                "listeners",
                format!("two are named {:?}", listener.name),
            ));
        }
    }
    Ok(Gateway {
        key: GatewayKey {
            namespace: required("namespace", &message.namespace)?,
            name: required("name", &message.name)?,
        },
        kind: decode_kind(&message)?,
        listeners,
        backend_client_certificate: message
            .backend_client_certificate
            .as_ref()
            .map(decode_certificate)
            .transpose()?,
    })
}

/// The Gateway resource of a gateway.
pub(crate) fn encode_gateway(gateway: &Gateway) -> Any {
    let (kind, waypoint_for) = match gateway.kind {
        GatewayKind::Edge => (wire::Kind::Edge, wire::WaypointFor::Unspecified),
        GatewayKind::Waypoint(traffic) => (
            wire::Kind::Waypoint,
            match traffic {
                WaypointFor::Service => wire::WaypointFor::Service,
                WaypointFor::Workload => wire::WaypointFor::Workload,
                WaypointFor::All => wire::WaypointFor::All,
                WaypointFor::None => wire::WaypointFor::None,
            },
        ),
    };
    let message = wire::Gateway {
        namespace: gateway.key.namespace.to_string(),
        name: gateway.key.name.to_string(),
        kind: kind.into(),
        waypoint_for: waypoint_for.into(),
        listeners: gateway.listeners.iter().map(encode_listener).collect(),
        backend_client_certificate: gateway
            .backend_client_certificate
            .as_ref()
            .map(encode_certificate),
    };
    any(ResourceType::Gateway, &message)
}

fn decode_kind(message: &wire::Gateway) -> Result<GatewayKind, Error> {
    let is_waypoint = known("kind", message.kind, |kind| match kind {
        wire::Kind::Edge => Some(false),
        wire::Kind::Waypoint => Some(true),
        wire::Kind::Unspecified => None,
    })?;
    if !is_waypoint {
        return Ok(GatewayKind::Edge);
    }
    let traffic = known(
        "waypoint_for",
        message.waypoint_for,
        |traffic| match traffic {
            wire::WaypointFor::Service => Some(WaypointFor::Service),
            wire::WaypointFor::Workload => Some(WaypointFor::Workload),
            wire::WaypointFor::All => Some(WaypointFor::All),
            wire::WaypointFor::None => Some(WaypointFor::None),
            wire::WaypointFor::Unspecified => None,
        },
    )?;
    Ok(GatewayKind::Waypoint(traffic))
}

fn decode_listener(message: &wire::Listener) -> Result<Listener, Error> {
    let protocol = known("listener protocol", message.protocol, |protocol| {
        Some(match protocol {
            wire::Protocol::Http => Protocol::Http,
            wire::Protocol::Https => Protocol::Https,
            wire::Protocol::Tls => Protocol::Tls,
            wire::Protocol::Tcp => Protocol::Tcp,
            wire::Protocol::Udp => Protocol::Udp,
            wire::Protocol::Hbone => Protocol::Hbone,
            wire::Protocol::Unspecified => return None,
        })
    })?;
    let tls = message.tls.as_ref().map(decode_tls).transpose()?;
    if tls.is_none() && matches!(protocol, Protocol::Https | Protocol::Tls) {
        return Err(Error::Missing("listener tls"));
    }
    let hostname = (!message.hostname.is_empty())
        .then(|| message.hostname.parse::<Hostname>())
        .transpose()
        .map_err(|error| invalid("listener hostname", error.to_string()))?;
    Ok(Listener {
        name: needed("listener name", &message.name)?,
        port: port("listener port", message.port)?,
        protocol,
        hostname,
        tls,
    })
}

fn encode_listener(listener: &Listener) -> wire::Listener {
    let hostname = listener.hostname.as_ref();
    wire::Listener {
        name: listener.name.to_string(),
        port: u32::from(listener.port),
        protocol: match listener.protocol {
            Protocol::Http => wire::Protocol::Http,
            Protocol::Https => wire::Protocol::Https,
            Protocol::Tls => wire::Protocol::Tls,
            Protocol::Tcp => wire::Protocol::Tcp,
            Protocol::Udp => wire::Protocol::Udp,
            Protocol::Hbone => wire::Protocol::Hbone,
        }
        .into(),
        hostname: hostname
            .map(|name| name.as_str().to_owned())
            .unwrap_or_default(),
        tls: listener.tls.as_ref().map(encode_tls),
    }
}

fn decode_tls(message: &wire::ListenerTls) -> Result<ListenerTls, Error> {
    use wire::listener_tls::Mode;
    let terminate = match message.mode.as_ref().ok_or(Error::Missing("tls mode"))? {
        Mode::Passthrough(wire::Passthrough {}) => return Ok(ListenerTls::Passthrough),
        Mode::Terminate(terminate) => terminate,
    };
    let certificates = parts("certificates", &terminate.certificates, decode_certificate)?;
    if certificates.is_empty() {
        return Err(Error::Missing("certificates"));
    }
    let validation = terminate.client_validation.as_ref();
    Ok(ListenerTls::Terminate {
        certificates,
        client_validation: validation.map(decode_validation).transpose()?,
    })
}

fn encode_tls(tls: &ListenerTls) -> wire::ListenerTls {
    use wire::listener_tls::Mode;
    let mode = match tls {
        ListenerTls::Passthrough => Mode::Passthrough(wire::Passthrough {}),
        ListenerTls::Terminate {
            certificates,
            client_validation,
        } => Mode::Terminate(wire::Terminate {
            certificates: certificates.iter().map(encode_certificate).collect(),
            client_validation: client_validation.as_ref().map(|validation| {
                wire::ClientValidation {
                    roots: validation.roots.to_string(),
                    allow_insecure_fallback: validation.mode
                        == ClientValidationMode::AllowInsecureFallback,
                }
            }),
        }),
    };
    wire::ListenerTls { mode: Some(mode) }
}

fn decode_validation(message: &wire::ClientValidation) -> Result<ClientValidation, Error> {
    Ok(ClientValidation {
        roots: pem("client roots", &message.roots)?,
        mode: match message.allow_insecure_fallback {
            true => ClientValidationMode::AllowInsecureFallback,
            false => ClientValidationMode::AllowValidOnly,
        },
    })
}

fn decode_certificate(message: &wire::Certificate) -> Result<Certificate, Error> {
    Ok(Certificate {
        chain: pem("certificate chain", &message.chain)?,
        key: SecretKey::new(pem("certificate key", &message.key)?.to_string()),
    })
}

fn encode_certificate(certificate: &Certificate) -> wire::Certificate {
    wire::Certificate {
        chain: certificate.chain.to_string(),
        key: certificate.key.expose().to_owned(),
    }
}
