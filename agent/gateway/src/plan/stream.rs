//! Listeners for bytes that nobody looks into: TLSRoute, TCPRoute, UDPRoute.

use std::sync::Arc;

use agent_model::gateway::{
    Gateway, Listener, Parent, Protocol, Route, RouteKey, RouteKind, Rules,
};
use rustls::ServerConfig;

use super::Destination;
use crate::filter::Split;
use crate::route::{HostMap, effective_hostnames};

/// A listener and where its clients are sent.
#[derive(Debug)]
pub struct StreamListener {
    /// Name of the listener.
    pub name: Arc<str>,
    /// Its TLS, where that ends here; clients of others bring their own or none.
    pub tls: Option<Arc<ServerConfig>>,
    rules: HostMap<Arc<StreamRule>>,
}

/// Where the clients of a route are sent.
#[derive(Debug)]
pub struct StreamRule {
    /// The route it is of.
    pub route: RouteKey,
    /// Its name.
    pub name: Option<Arc<str>>,
    /// Shares of the clients.
    pub split: Split<Destination>,
}

impl StreamListener {
    pub(super) fn compile(
        gateway: &Gateway,
        listener: &Listener,
        tls: Option<Arc<ServerConfig>>,
        routes: &[Arc<Route>],
    ) -> Self {
        let kind = match listener.protocol {
            Protocol::Udp => RouteKind::Udp,
            Protocol::Tcp => RouteKind::Tcp,
            _ => RouteKind::Tls,
        };
        let is_here = |parent: &Parent| match parent {
            Parent::Listener { gateway: key, name } => {
                *key == gateway.key && *name == listener.name
            }
            Parent::Service { .. } => false,
        };
        let attached = routes
            .iter()
            .filter(|route| route.key.kind == kind && route.parents.iter().any(is_here));
        let mut attached: Vec<_> = attached.collect();
        // Of several for one name the map keeps the last: the oldest.
        attached.sort_by(|a, b| (b.created, &b.key).cmp(&(a.created, &a.key)));
        let named = attached.into_iter().flat_map(|route| {
            let names = effective_hostnames(listener.hostname.as_ref(), &route.hostnames);
            let names = match names {
                Some(names) if names.is_empty() => vec![None],
                names => names.into_iter().flatten().map(Some).collect(),
            };
            let rule = StreamRule::compile(route);
            names
                .into_iter()
                .filter_map(move |name| Some((name, rule.clone()?)))
        });
        Self {
            name: Arc::clone(&listener.name),
            tls,
            rules: named.collect(),
        }
    }

    /// Where clients are sent that ask for a name, `""` when they ask for none.
    pub fn rule(&self, name: &str) -> Option<&Arc<StreamRule>> {
        self.rules.best(name)
    }
}

impl StreamRule {
    /// Of several rules the first counts: nothing tells them apart.
    fn compile(route: &Route) -> Option<Arc<Self>> {
        let Rules::L4(rules) = &route.rules else {
            return None;
        };
        let rule = rules.first()?;
        let shares = rule.backends.iter().map(|share| {
            let destination = Destination::new(&share.target, route.key.kind);
            (share.weight, destination)
        });
        Some(Arc::new(Self {
            route: route.key.clone(),
            name: rule.name.clone(),
            split: Split::new(shares),
        }))
    }
}
