//! A route, as one gateway is told of it.

use agent_model::gateway::{GatewayKey, Parent, Route, RouteKey, RouteKind, Rules};
use prost::Message;
use prost_types::Any;
use proto::gateway as wire;

use super::super::any;
use super::super::fields::{invalid, known, name, port_or_zero, required};
use super::rule::{decode_http_rule, decode_l4_rule, encode_http_rule, encode_l4_rule};
use super::{decode_service, encode_service, gateway_key, needed, parts};
use crate::{Error, ResourceType};

/// Name of the resource that tells `gateway` of a route.
pub fn route_name(gateway: &GatewayKey, route: &RouteKey) -> String {
    format!("{gateway}|{route}")
}

/// Reads a Route resource: the gateway it is for, and the route.
pub(crate) fn decode_route(bytes: &[u8]) -> Result<(GatewayKey, Route), Error> {
    let message = wire::Route::decode(bytes)?;
    let gateway = gateway_key(&message.gateway)?;
    let kind = decode_kind(message.kind)?;
    let route = Route {
        key: RouteKey {
            kind,
            namespace: required("namespace", &message.namespace)?,
            name: required("name", &message.name)?,
        },
        created: message.created,
        hostnames: parts("hostnames", &message.hostnames, |hostname| {
            let parsed = hostname.parse();
            parsed.map_err(|error| invalid("hostnames", format!("{error}")))
        })?,
        parents: parts("parents", &message.parents, |parent| {
            decode_parent(&gateway, parent)
        })?,
        rules: decode_rules(kind, &message)?,
    };
    Ok((gateway, route))
}

/// The Route resource that tells `gateway` of a route; parents of other gateways are left out.
pub(crate) fn encode_route(gateway: &GatewayKey, route: &Route) -> Any {
    let (http_rules, l4_rules) = match &route.rules {
        Rules::Http(rules) => (rules.iter().map(encode_http_rule).collect(), Vec::new()),
        Rules::L4(rules) => (Vec::new(), rules.iter().map(encode_l4_rule).collect()),
    };
    let parents = route.parents.iter();
    let message = wire::Route {
        gateway: gateway.to_string(),
        kind: encode_kind(route.key.kind).into(),
        namespace: route.key.namespace.to_string(),
        name: route.key.name.to_string(),
        created: route.created,
        hostnames: route.hostnames.iter().map(ToString::to_string).collect(),
        parents: parents
            .filter_map(|parent| encode_parent(gateway, parent))
            .collect(),
        http_rules,
        l4_rules,
    };
    any(ResourceType::Route, &message)
}

pub(super) fn decode_kind(kind: i32) -> Result<RouteKind, Error> {
    known("kind", kind, |kind| {
        Some(match kind {
            wire::RouteKind::HttpRoute => RouteKind::Http,
            wire::RouteKind::GrpcRoute => RouteKind::Grpc,
            wire::RouteKind::TlsRoute => RouteKind::Tls,
            wire::RouteKind::TcpRoute => RouteKind::Tcp,
            wire::RouteKind::UdpRoute => RouteKind::Udp,
            wire::RouteKind::Unspecified => return None,
        })
    })
}

pub(super) fn encode_kind(kind: RouteKind) -> wire::RouteKind {
    match kind {
        RouteKind::Http => wire::RouteKind::HttpRoute,
        RouteKind::Grpc => wire::RouteKind::GrpcRoute,
        RouteKind::Tls => wire::RouteKind::TlsRoute,
        RouteKind::Tcp => wire::RouteKind::TcpRoute,
        RouteKind::Udp => wire::RouteKind::UdpRoute,
    }
}

fn decode_rules(kind: RouteKind, message: &wire::Route) -> Result<Rules, Error> {
    let is_http = matches!(kind, RouteKind::Http | RouteKind::Grpc);
    let has_others = match is_http {
        true => !message.l4_rules.is_empty(),
        false => !message.http_rules.is_empty(),
    };
    if has_others {
        let why = format!("rules of another kind in a {}", kind.as_str());
        return Err(invalid("rules", why));
    }
    Ok(match is_http {
        true => Rules::Http(parts("http_rules", &message.http_rules, decode_http_rule)?),
        false => Rules::L4(parts("l4_rules", &message.l4_rules, decode_l4_rule)?),
    })
}

fn decode_parent(gateway: &GatewayKey, message: &wire::Parent) -> Result<Parent, Error> {
    use wire::parent::Parent as Wire;
    match message.parent.as_ref().ok_or(Error::Missing("parent"))? {
        Wire::Listener(listener) => Ok(Parent::Listener {
            gateway: gateway.clone(),
            name: needed("parent listener", listener)?,
        }),
        Wire::Service(parent) => {
            let port = port_or_zero("parent port", parent.port)?;
            let consumer = name("consumer_namespace", &parent.consumer_namespace)?;
            Ok(Parent::Service {
                service: decode_service(parent.service.as_ref())?,
                port: (port > 0).then_some(port),
                consumer_namespace: (!consumer.is_empty()).then_some(consumer),
            })
        }
    }
}

fn encode_parent(to: &GatewayKey, parent: &Parent) -> Option<wire::Parent> {
    use wire::parent::Parent as Wire;
    let parent = match parent {
        Parent::Listener { gateway, name } => {
            if gateway != to {
                return None;
            }
            Wire::Listener(name.to_string())
        }
        Parent::Service {
            service,
            port,
            consumer_namespace,
        } => Wire::Service(wire::ServiceParent {
            service: Some(encode_service(service)),
            port: port.map_or(0, u32::from),
            consumer_namespace: super::text_of(consumer_namespace.as_ref()),
        }),
    };
    Some(wire::Parent {
        parent: Some(parent),
    })
}
