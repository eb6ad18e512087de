//! WorkloadEntry -> Workload, and the endpoints that a ServiceEntry names itself.

use agent_model::{Identity, Locality, NetworkMode, TunnelProtocol, Workload, WorkloadType};

use super::workload::{REDIRECTION, canonical_name, canonical_revision, speaks_for_itself};
use super::{Note, Scope};
use crate::code::Code;
use crate::source::istio::{Address, EntryEndpoint, WorkloadEntry};
use crate::source::kubernetes::Labels;
use crate::source::{Kind, ObjectRef};

/// Names the group that entries registered themselves for.
const GROUP: &str = "istio.io/autoRegistrationGroup";
const WORKLOAD_NAME: &str = "service.istio.io/workload-name";

/// The workload of an entry; `None` when nobody can connect to it from another machine.
pub(crate) fn translate(
    scope: &Scope<'_>,
    entry: &WorkloadEntry,
    notes: &mut Vec<Note>,
) -> Option<Workload> {
    let metadata = &entry.metadata;
    let object = ObjectRef::new(Kind::WorkloadEntry, scope.name, &metadata.name);
    let labels = entry.labels();
    let group = metadata.annotations.get(GROUP);
    let named = group.or_else(|| labels.get(WORKLOAD_NAME));
    let name = named.map_or(metadata.name.as_str(), String::as_str);
    let redirection = metadata.annotations.get(REDIRECTION);
    let description = Described {
        uid: format!(
            "{}/networking.istio.io/WorkloadEntry/{}/{}",
            scope.mesh.cluster_id, scope.name, metadata.name
        ),
        name: &metadata.name,
        workload_name: name,
        labels: &labels,
        is_captured: redirection.is_some_and(|value| value == "enabled"),
        object,
    };
    endpoint(scope, &entry.spec, &description, notes)
}

/// What is known of an endpoint besides its [`EntryEndpoint`].
pub(super) struct Described<'a> {
    pub(super) uid: String,
    pub(super) name: &'a str,
    pub(super) workload_name: &'a str,
    pub(super) labels: &'a Labels,
    /// Something that speaks HBONE for it runs where it runs.
    pub(super) is_captured: bool,
    /// Whose author is told.
    pub(super) object: ObjectRef,
}

pub(super) fn endpoint(
    scope: &Scope<'_>,
    endpoint: &EntryEndpoint,
    described: &Described<'_>,
    notes: &mut Vec<Note>,
) -> Option<Workload> {
    let mut note = |code, message: String| {
        notes.push(Note::new(described.object.clone(), code, message));
    };
    let (addresses, hostname) = match &endpoint.address {
        Address::Missing => (Vec::new(), ""),
        Address::Ip(ip) => (vec![*ip], ""),
        Address::Host(host) => (Vec::new(), host.as_str()),
        Address::Unix => {
            let message = "an endpoint that is a Unix socket cannot be reached from other machines";
            note(Code::UnixEndpoint, message.to_owned());
            return None;
        }
    };
    let account = match endpoint.service_account.as_str() {
        "" => "default",
        account => account,
    };
    let has_identity = Identity::new(&scope.mesh.trust_domain, scope.name, account).is_ok();
    if !has_identity {
        let message = format!("service account {account:?} makes no valid identity");
        note(Code::IdentityInvalid, message);
    }
    let is_native = speaks_for_itself(described.labels);
    let speaks_hbone = has_identity && (is_native || described.is_captured);
    Some(Workload {
        uid: described.uid.as_str().into(),
        name: described.name.into(),
        namespace: scope.name.into(),
        trust_domain: scope.mesh.trust_domain.clone(),
        service_account: if has_identity { account } else { "default" }.into(),
        addresses,
        hostname: hostname.into(),
        network: match endpoint.network.as_str() {
            "" => scope.network.into(),
            network => network.into(),
        },
        tunnel_protocol: if speaks_hbone {
            TunnelProtocol::Hbone
        } else {
            TunnelProtocol::None
        },
        native_tunnel: speaks_hbone && is_native,
        canonical_name: canonical_name(described.labels, described.workload_name).into(),
        canonical_revision: canonical_revision(described.labels).into(),
        workload_type: WorkloadType::Pod,
        workload_name: described.workload_name.into(),
        cluster_id: scope.mesh.cluster_id.clone(),
        locality: locality(&endpoint.locality),
        // Anybody may write an entry with any address in it. One that proves nothing by a tunnel
        // is an endpoint of its services and does not own the address beyond that.
        network_mode: if speaks_hbone {
            NetworkMode::Standard
        } else {
            NetworkMode::HostNetwork
        },
        capacity: endpoint.weight.max(1),
        ..Workload::default()
    })
}

/// `region/zone/subzone`, of which the end may be missing.
fn locality(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(Into::into);
    let mut part = || parts.next().unwrap_or_else(|| "".into());
    Locality {
        region: part(),
        zone: part(),
        subzone: part(),
    }
}
