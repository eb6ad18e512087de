//! Wire messages: delta xDS, workload, authorization, gateway, certificate service, node
//! service, traces.
//!
//! Everything in the modules is generated from the .proto files beside `src` (`cargo xtask
//! codegen`) and checked in; a test of `proto-codegen` fails when the two differ.

macro_rules! generated {
    ($(#[doc = $doc:literal] $module:ident = $file:literal;)*) => {$(
        #[doc = $doc]
        #[allow(
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            clippy::all,
            clippy::allow_attributes_without_reason,
            clippy::use_self,
            reason = "generated code"
        )]
        pub mod $module {
            include!(concat!("gen/", $file));
        }
    )*};
}

generated! {
    /// `envoy.service.discovery.v3`: the delta aggregated discovery service.
    discovery = "envoy.service.discovery.v3.rs";
    /// `istio.workload`: workloads and services.
    workload = "istio.workload.rs";
    /// `istio.security`: authorization policies.
    security = "istio.security.rs";
    /// `istio.v1.auth`: the certificate service.
    ca = "istio.v1.auth.rs";
    /// `culvert.gateway.v1`: what a gateway is told.
    gateway = "culvert.gateway.v1.rs";
    /// `culvert.node.v1`: enrolment of a node's pods and trust.
    node = "culvert.node.v1.rs";
    /// `opentelemetry.proto.collector.trace.v1`: traces for a collector.
    otlp = "opentelemetry.proto.collector.trace.v1.rs";
}
