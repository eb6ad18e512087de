//! The manifests of `deploy/kubernetes`, as they were when this program was built.

/// Path below `deploy/kubernetes`, and content.
pub(super) type Files = &'static [(&'static str, &'static str)];

macro_rules! embedded {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../deploy/kubernetes/", $path)))),*]
    };
}

/// Every file there is; a test compares with the folder.
pub(super) const ALL: Files = embedded![
    "kustomization.yaml",
    "base/kustomization.yaml",
    "base/namespace.yaml",
    "base/crds.yaml",
    "base/control-rbac.yaml",
    "base/control.yaml",
    "base/gateway-rbac.yaml",
    "base/node.yaml",
    "base/webhook.yaml",
    "gateway-classes/kustomization.yaml",
    "gateway-classes/gateway-classes.yaml",
    "istio-crds/kustomization.yaml",
    "istio-crds/crds.yaml",
    "overlays/beside-istio/kustomization.yaml",
    "overlays/hardened/kustomization.yaml",
    "overlays/hardened/network-policies.yaml",
    "overlays/kind/kustomization.yaml",
    "overlays/single-node/kustomization.yaml",
];
