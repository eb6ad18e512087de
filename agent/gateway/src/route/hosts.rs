//! Values by host name, with wildcards.

use std::collections::HashMap;

use agent_model::gateway::Hostname;

/// One value per host name. A lookup costs one hash, and one more per label where there are
/// wildcards.
#[derive(Debug)]
pub struct HostMap<V> {
    exact: HashMap<Box<str>, V>,
    /// By what names end with, dot included.
    wildcards: HashMap<Box<str>, V>,
    any: Option<V>,
}

impl<V> HostMap<V> {
    /// The values of the names that match a host, the most specific name first. `host` is in its
    /// normal form.
    pub fn matching<'a, 'h>(
        &'a self,
        host: &'h str,
    ) -> impl Iterator<Item = &'a V> + use<'a, 'h, V> {
        let exact = match self.exact.is_empty() {
            true => None,
            false => self.exact.get(host),
        };
        let dotted = match self.wildcards.is_empty() {
            true => "",
            false => host,
        };
        // A wildcard stands for one label at least: the dot is never the first byte.
        let wildcards = dotted
            .match_indices('.')
            .filter(|(at, _)| *at > 0)
            .filter_map(|(at, _)| self.wildcards.get(&dotted[at..]));
        exact.into_iter().chain(wildcards).chain(&self.any)
    }

    /// The value of the most specific name that matches.
    pub fn best(&self, host: &str) -> Option<&V> {
        self.matching(host).next()
    }

    /// Every value, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        let named = self.exact.values().chain(self.wildcards.values());
        named.chain(&self.any)
    }
}

impl<V> FromIterator<(Option<Hostname>, V)> for HostMap<V> {
    /// `None` is every host. Of two values for one name the later one stays.
    fn from_iter<I: IntoIterator<Item = (Option<Hostname>, V)>>(values: I) -> Self {
        let mut map = Self {
            exact: HashMap::new(),
            wildcards: HashMap::new(),
            any: None,
        };
        for (name, value) in values {
            match name {
                None => map.any = Some(value),
                Some(name) => {
                    let (names, key) = match name.suffix() {
                        Some(suffix) => (&mut map.wildcards, suffix),
                        None => (&mut map.exact, name.as_str()),
                    };
                    names.insert(key.into(), value);
                }
            }
        }
        map
    }
}
