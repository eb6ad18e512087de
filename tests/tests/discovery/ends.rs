//! Both ends of a stream, with somebody in between who may change what the server says.

use std::net::{IpAddr, SocketAddr};

use agent_model::{Action, Authorization, Scope, Workload};
use agent_policy::{Connection, Target};
use agent_state::{Reader, Writer, channel};
use agent_xds::{
    Apply, Catalog, Client, ClientSession, NodeFacts, Rejection, ServerSession, Update,
};
use prost::Message;
use proto::discovery::{DeltaDiscoveryResponse, Resource};

pub(crate) const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
pub(crate) const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

/// Changes a response on its way.
pub(crate) type Meddle = Box<dyn FnMut(&mut DeltaDiscoveryResponse)>;

/// A control plane, a node, and what the node decides by.
pub(crate) struct Ends {
    pub(crate) catalog: Catalog,
    pub(crate) server: ServerSession,
    pub(crate) node: ClientSession,
    pub(crate) reader: Reader,
    writer: Watched,
    /// Bytes after every message, as fields of another release are.
    pub(crate) more: Vec<u8>,
    pub(crate) meddle: Meddle,
}

/// The node's state, and the fewest workloads it held after any batch.
struct Watched {
    inner: Writer,
    reader: Reader,
    fewest: usize,
}

impl Apply for Watched {
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection> {
        let rejections = self.inner.apply(updates);
        self.fewest = self.fewest.min(self.reader.load().workloads().count());
        rejections
    }
}

impl Ends {
    pub(crate) fn new() -> Self {
        let (inner, reader) = channel();
        Self {
            catalog: Catalog::default(),
            server: ServerSession::new(Client::Node("n1".into())),
            node: ClientSession::new(&NodeFacts::new("n1", "c1", "")),
            writer: Watched {
                inner,
                reader: reader.clone(),
                fewest: usize::MAX,
            },
            reader,
            more: Vec::new(),
            meddle: Box::new(|_| {}),
        }
    }

    /// A new stream, and everything that is said on it. The refusals.
    pub(crate) fn connect(&mut self) -> Vec<String> {
        self.server = ServerSession::new(Client::Node("n1".into()));
        self.writer.fewest = usize::MAX;
        for request in self.node.connected() {
            let request = self.sent(&request);
            self.server.request(request, &self.catalog).unwrap();
        }
        self.pump()
    }

    /// Everything that the server has to say. The refusals.
    pub(crate) fn pump(&mut self) -> Vec<String> {
        let mut refusals = Vec::new();
        while let Some(mut response) = self.server.respond(&self.catalog).unwrap() {
            (self.meddle)(&mut response);
            let answer = self.say(&response);
            refusals.extend(answer);
        }
        refusals
    }

    /// One response, whatever the server thinks; the refusal.
    pub(crate) fn say(&mut self, response: &DeltaDiscoveryResponse) -> Option<String> {
        let response = self.sent(response);
        let answer = self.node.response(response.clone(), &mut self.writer);
        assert_eq!(answer.type_url, response.type_url);
        assert_eq!(answer.response_nonce, response.nonce);
        let answer = self.sent(&answer);
        let refusal = answer.error_detail.as_ref();
        let refusal = refusal.map(|error| error.message.clone());
        self.server.request(answer, &self.catalog).unwrap();
        refusal
    }

    /// What arrives of a message.
    fn sent<M: Message + Default>(&self, message: &M) -> M {
        let mut bytes = message.encode_to_vec();
        bytes.extend(&self.more);
        M::decode(bytes.as_slice()).unwrap()
    }

    /// Workloads that the node knows, by name.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        let snapshot = self.reader.load();
        let mut workloads: Vec<_> = snapshot
            .workloads()
            .map(|one| Workload::clone(one))
            .collect();
        workloads.sort_by(|one, other| one.uid.cmp(&other.uid));
        workloads
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let workloads = self.workloads();
        workloads.iter().map(|one| one.name.to_string()).collect()
    }

    /// The fewest workloads that the node ever knew on this stream.
    pub(crate) fn fewest(&self) -> usize {
        self.writer.fewest
    }

    /// Whether anybody may connect to a pod of the namespace.
    pub(crate) fn allows(&self, namespace: &str) -> bool {
        let target = Target {
            namespace,
            policies: &[],
        };
        let connection = Connection {
            source: None,
            peer: None,
            source_ip: IpAddr::from([10, 0, 0, 9]),
            source_ip_vouched: true,
            destination: SocketAddr::from(([10, 0, 0, 1], 80)),
        };
        agent_policy::decide(self.reader.load().policies(), &target, &connection).is_allowed()
    }
}

pub(crate) fn workload(name: &str, last: u8) -> Workload {
    Workload {
        uid: format!("c1//Pod/shop/{name}").into(),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![[10, 0, 0, last].into()],
        ..Workload::default()
    }
}

/// Of all pods of a namespace, and without a rule: ALLOW lets nobody in, DENY keeps nobody out.
pub(crate) fn policy(namespace: &str, name: &str, action: Action) -> Authorization {
    Authorization {
        name: name.into(),
        namespace: namespace.into(),
        scope: Scope::Namespace,
        action,
        rules: Vec::new(),
        dry_run: false,
    }
}

/// The resource of that name in a response.
pub(crate) fn named<'a>(
    response: &'a mut DeltaDiscoveryResponse,
    name: &str,
) -> Option<&'a mut Resource> {
    let mut resources = response.resources.iter_mut();
    resources.find(|resource| resource.name == name)
}

/// Replaces the message in a resource.
pub(crate) fn change<M: Message + Default>(resource: &mut Resource, edit: impl FnOnce(&mut M)) {
    let body = resource.resource.as_mut().unwrap();
    let mut message = M::decode(body.value.as_slice()).unwrap();
    edit(&mut message);
    body.value = message.encode_to_vec();
}
