//! Services that are not the cluster's own: hosts of ServiceEntries. Whoever goes there has to name
//! what was dialled: one address may answer for many names.

use agent_model::{NamespacedHostname, Reason};

use crate::refusal::Refusal;

/// True for a service that Kubernetes does not have.
pub(crate) fn is_outside(service: &NamespacedHostname) -> bool {
    let mut labels = service.hostname.split('.').skip(1);
    let is_of_cluster = labels.next() == Some(&*service.namespace) && labels.next() == Some("svc");
    !is_of_cluster
}

/// Whether a name, of TLS or of an HTTP request, is that of the service, which may be a wildcard.
pub(crate) fn is_name_of(service: &NamespacedHostname, name: &str) -> bool {
    match service.hostname.strip_prefix('*') {
        None => service.hostname.eq_ignore_ascii_case(name),
        Some(suffix) => {
            let at = name.len().saturating_sub(suffix.len());
            at > 0 && name.is_char_boundary(at) && name[at..].eq_ignore_ascii_case(suffix)
        }
    }
}

/// Another name than that of the service was asked for.
pub(crate) fn other_name(service: &NamespacedHostname, name: &str) -> Refusal {
    let detail = format!("{name:?} is not {}", service.hostname);
    Refusal::new(Reason::Misdirected, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_world_outside() {
        let service = |hostname| NamespacedHostname::new("shop", hostname);
        assert!(is_outside(&service("api.example.com")));
        assert!(!is_outside(&service("web.shop.svc.cluster.local")));
        assert!(is_outside(&service("web.other.svc.cluster.local")));
        assert!(is_name_of(&service("api.example.com"), "API.example.com"));
        for other in ["x.api.example.com", "", "example.com"] {
            assert!(!is_name_of(&service("api.example.com"), other), "{other}");
        }
        assert!(is_name_of(&service("*.example.com"), "a.b.example.com"));
        for other in ["example.com", ".example.com", ""] {
            assert!(!is_name_of(&service("*.example.com"), other), "{other}");
        }
    }
}
