//! What a gateway has taken of what it was sent, by its acknowledgements and refusals. Pure.

use std::collections::{BTreeMap, BTreeSet};

use agent_model::gateway::GatewayKey;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use crate::ResourceType;

/// Responses without an answer that are remembered; of the oldest nothing is learnt then.
const MAX_OPEN: usize = 1024;
/// Refused resources that are remembered.
const MAX_REFUSED: usize = 64;
/// Longest reason kept, in bytes.
const MAX_REASON: usize = 256;

/// What a gateway has taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Version of the gateway's own resource, its listeners, that it acknowledged last; `None`
    /// while it has none.
    pub gateway: Option<String>,
    /// Its resources whose newest form it refused, by type and name, with the reason; at most 64.
    pub refused: BTreeMap<(ResourceType, String), String>,
}

/// Listens to one gateway.
#[derive(Debug)]
pub(super) struct Listening {
    /// Name of the gateway's own resource.
    own: String,
    taken: Taken,
    /// What was sent and has no answer yet, by nonce.
    open: BTreeMap<u64, Sent>,
}

#[derive(Debug)]
struct Sent {
    kind: ResourceType,
    names: BTreeSet<String>,
    /// The version of the gateway's own resource in it, or that it was taken away.
    gateway: Option<Option<String>>,
}

impl Listening {
    pub(super) fn to(gateway: &GatewayKey) -> Self {
        Self {
            own: gateway.to_string(),
            taken: Taken::default(),
            open: BTreeMap::new(),
        }
    }

    pub(super) fn taken(&self) -> &Taken {
        &self.taken
    }

    /// The gateway opens a subscription and says what it holds. What it refused on an earlier
    /// stream it names without version, so that it is sent it again.
    pub(super) fn opens(&mut self, kind: ResourceType, request: &DeltaDiscoveryRequest) {
        if kind == ResourceType::Gateway {
            let held = request.initial_resource_versions.get(&self.own);
            self.taken.gateway = held.filter(|version| !version.is_empty()).cloned();
        }
    }

    /// It is sent something.
    pub(super) fn sends(&mut self, kind: ResourceType, nonce: u64, sent: &DeltaDiscoveryResponse) {
        if !kind.is_of_one_gateway() {
            return;
        }
        let brought = sent.resources.iter().map(|resource| &resource.name);
        let names = brought.chain(&sent.removed_resources).cloned();
        let mut brought = sent.resources.iter();
        let own = brought.find(|resource| resource.name == self.own);
        let gateway = match own.filter(|_| kind == ResourceType::Gateway) {
            Some(resource) => Some(Some(resource.version.clone())),
            None if sent.removed_resources.contains(&self.own) => Some(None),
            None => None,
        };
        let sent = Sent {
            kind,
            names: names.collect(),
            gateway,
        };
        self.open.insert(nonce, sent);
        if self.open.len() > MAX_OPEN {
            self.open.pop_first();
        }
    }

    /// It answers: what it does not refuse it has taken.
    pub(super) fn answers(&mut self, kind: ResourceType, nonce: u64, refusal: Option<&str>) {
        let Some(sent) = self.open.remove(&nonce) else {
            return;
        };
        if sent.kind != kind {
            return;
        }
        let refused = refusal.map(|text| reasons(text, &sent.names));
        let refused = refused.unwrap_or_default();
        if let Some(version) = sent.gateway
            && !refused.contains_key(self.own.as_str())
        {
            self.taken.gateway = version;
        }
        for name in &sent.names {
            self.taken.refused.remove(&(kind, name.clone()));
        }
        let room = MAX_REFUSED.saturating_sub(self.taken.refused.len());
        let refused = refused.into_iter().take(room);
        let refused = refused.map(|(name, reason)| ((kind, name), reason));
        self.taken.refused.extend(refused);
    }
}

/// The refused among `names`, each with its reason. A gateway of ours writes `NAME: REASON; NAME:
/// REASON`; of one that names none, all are refused.
fn reasons(text: &str, names: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut begins: Vec<(usize, &str)> = names
        .iter()
        .filter_map(|name| {
            let begin = format!("{name}: ");
            let mut places = text.match_indices(&begin);
            let place = places.find(|(at, _)| *at == 0 || text[..*at].ends_with("; "))?;
            Some((place.0, name.as_str()))
        })
        .collect();
    if begins.is_empty() {
        let all = names.iter().map(|name| (name.clone(), cut(text)));
        return all.collect();
    }
    begins.sort_unstable();
    let ends = begins.iter().skip(1).map(|(at, _)| *at).chain([text.len()]);
    let each = begins.iter().zip(ends).map(|((at, name), end)| {
        let reason = text.get(at + name.len() + 2..end).unwrap_or("");
        ((*name).to_owned(), cut(reason.trim_end_matches("; ")))
    });
    each.collect()
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_REASON)].to_owned()
}

#[cfg(test)]
mod tests {
    use proto::discovery::Resource;

    use super::*;

    const OWN: &str = "shop/edge";
    const ROUTE: &str = "shop/edge|HTTPRoute/shop/web";
    const OTHER: &str = "shop/edge|HTTPRoute/shop/web2";

    fn listening() -> Listening {
        Listening::to(&GatewayKey::new("shop", "edge"))
    }

    fn response(brought: &[(&str, &str)], gone: &[&str]) -> DeltaDiscoveryResponse {
        let resources = brought.iter().map(|(name, version)| Resource {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            ..Resource::default()
        });
        DeltaDiscoveryResponse {
            resources: resources.collect(),
            removed_resources: gone.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryResponse::default()
        }
    }

    fn gateway(listening: &mut Listening, nonce: u64, version: &str, refusal: Option<&str>) {
        let kind = ResourceType::Gateway;
        listening.sends(kind, nonce, &response(&[(OWN, version)], &[]));
        listening.answers(kind, nonce, refusal);
    }

    #[test]
    fn what_is_acknowledged_is_taken_and_not_what_is_only_sent() {
        let mut edge = listening();
        let kind = ResourceType::Gateway;
        edge.sends(kind, 1, &response(&[(OWN, "a")], &[]));
        assert_eq!(edge.taken().gateway, None);
        edge.answers(kind, 1, None);
        assert_eq!(edge.taken().gateway.as_deref(), Some("a"));
        gateway(&mut edge, 2, "b", Some("shop/edge: no such protocol"));
        assert_eq!(edge.taken().gateway.as_deref(), Some("a"));
        let refused = &edge.taken().refused;
        assert_eq!(refused[&(kind, OWN.to_owned())], "no such protocol");
        gateway(&mut edge, 3, "c", None);
        assert_eq!(edge.taken().gateway.as_deref(), Some("c"));
        assert!(edge.taken().refused.is_empty());
        edge.sends(kind, 4, &response(&[], &[OWN]));
        edge.answers(kind, 4, None);
        assert_eq!(*edge.taken(), Taken::default());
    }

    #[test]
    fn on_a_new_stream_counts_what_the_gateway_says_it_holds() {
        let opens = |version: &str| {
            let mut edge = listening();
            let request = DeltaDiscoveryRequest {
                initial_resource_versions: [(OWN.to_owned(), version.to_owned())].into(),
                ..DeltaDiscoveryRequest::default()
            };
            edge.opens(ResourceType::Route, &request);
            assert_eq!(*edge.taken(), Taken::default());
            edge.opens(ResourceType::Gateway, &request);
            edge.taken().gateway.clone()
        };
        assert_eq!(opens("a").as_deref(), Some("a"));
        assert_eq!(opens(""), None, "its newest form was refused");
    }

    #[test]
    fn each_refused_resource_is_named_until_it_is_taken_or_gone() {
        let mut edge = listening();
        let kind = ResourceType::Route;
        let text = format!("{OTHER}: a: b; c; {ROUTE}: why");
        let both = [(ROUTE, "1"), (OTHER, "1"), ("shop/edge|HTTPRoute/a", "1")];
        edge.sends(kind, 1, &response(&both, &[]));
        edge.answers(kind, 1, Some(&text));
        let refused = |edge: &Listening| -> Vec<(String, String)> {
            let refused = edge.taken().refused.clone().into_iter();
            refused.map(|((_, name), why)| (name, why)).collect()
        };
        let pair = |name: &str, why: &str| (name.to_owned(), why.to_owned());
        let expected = [pair(ROUTE, "why"), pair(OTHER, "a: b; c")];
        assert_eq!(refused(&edge), expected);
        // What says nothing of them changes nothing, nor does another type's of that name.
        gateway(&mut edge, 2, "a", None);
        edge.sends(ResourceType::Access, 5, &response(&[(ROUTE, "1")], &[]));
        edge.answers(ResourceType::Access, 5, None);
        assert_eq!(refused(&edge), expected);
        edge.sends(kind, 3, &response(&[(ROUTE, "2")], &[]));
        edge.answers(kind, 3, None);
        assert_eq!(refused(&edge), expected[1..]);
        edge.sends(kind, 4, &response(&[], &[OTHER]));
        edge.answers(kind, 4, None);
        assert_eq!(refused(&edge), []);
    }

    #[test]
    fn who_names_nothing_refuses_all_and_nothing_grows_without_end() {
        let mut edge = listening();
        let kind = ResourceType::Route;
        for nonce in 1..=3000 {
            let name = format!("shop/edge|HTTPRoute/{nonce}");
            edge.sends(kind, nonce, &response(&[(&name, "1")], &[]));
        }
        assert_eq!(edge.open.len(), MAX_OPEN);
        for nonce in 1..=3000 {
            edge.answers(kind, nonce, Some(&"n".repeat(9000)));
        }
        assert_eq!(edge.taken().refused.len(), MAX_REFUSED);
        let mut reasons = edge.taken().refused.values();
        assert!(reasons.all(|reason| reason.len() == MAX_REASON));
        assert!(edge.open.is_empty());
        edge.sends(ResourceType::Address, 3001, &response(&[("w", "1")], &[]));
        assert!(edge.open.is_empty(), "addresses are everybody's");
    }
}
