//! Which GatewayClasses are ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::status::{ObjectStatus, Reported};
use super::{World, refs};
use crate::condition::Condition;
use crate::source::gateway_api::{CONTROLLER, GatewayClass, Parameters};
use crate::source::{Kind, ObjectRef};

/// The class of waypoints; every other class of ours is of gateways at the border.
const WAYPOINTS: &str = "culvert-waypoint";
/// Where nothing is said.
static NONE: Parameters = Parameters::NONE;
/// What `status.supportedFeatures` claims, sorted: names of the Gateway API's conformance suite. Nothing
/// is claimed before it works from end to end, which is more than what this module does; README names
/// the tests. Nor is what takes fields of the experimental channel (retries): where the standard channel is
/// installed the suite would send them in vain.
pub const FEATURES: [&str; 45] = [
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructurePropagation",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// A class that is ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Class<'a> {
    pub(super) object: &'a GatewayClass,
    /// `None` where it names some that are of no use: then what there is stays, and nothing new is
    /// made.
    pub(super) parameters: Option<&'a Parameters>,
}

impl Class<'_> {
    pub(super) fn is_of_waypoints(&self) -> bool {
        self.object.metadata.name == WAYPOINTS
    }
}

pub(super) fn is_ours(class: &GatewayClass) -> bool {
    class.spec.controller_name == CONTROLLER
}

/// Finds them, and says of each whether it is accepted.
pub(super) fn ours<'a>(
    world: &World<'a>,
    statuses: &mut BTreeMap<ObjectRef, Reported>,
) -> BTreeMap<&'a str, Class<'a>> {
    let mut found = BTreeMap::new();
    let classes = world.tables.classes.values().filter(|class| is_ours(class));
    for class in classes {
        let class: &'a Arc<GatewayClass> = class;
        let name = class.metadata.name.as_str();
        let parameters = match &class.spec.parameters_ref {
            None => Ok(&NONE),
            Some(reference) => refs::parameters(world, reference, ""),
        };
        let of_class = Class {
            object: class,
            parameters: parameters.as_ref().ok().copied(),
        };
        found.insert(name, of_class);
        let accepted = match parameters {
            Ok(_) => Condition::new("Accepted", true, "Accepted", "Culvert serves its Gateways"),
            Err(message) => {
                let message = format!("spec.parametersRef: {message}");
                Condition::new("Accepted", false, "InvalidParameters", &message)
            }
        };
        let status = ObjectStatus::Class {
            conditions: vec![accepted],
            features: &FEATURES,
        };
        let object = ObjectRef::new(Kind::GatewayClass, "", name);
        statuses.insert(object, Reported::new(&class.metadata, status));
    }
    found
}
