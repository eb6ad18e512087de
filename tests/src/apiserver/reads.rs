//! Lists and the beginnings of watches: which version a request means.

use std::time::Duration;

use super::failure::Failure;
use super::path::Query;
use super::selector::Selector;
use super::store::{Key, Object, Page};
use super::view::{View, read_continue};
use super::world::World;

/// Life of a watch that names none.
const WATCH_LIFE: u64 = 1800;

/// A watch to be run.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) view: View,
    pub(super) selector: Selector,
    /// The watch has told everything up to this version.
    pub(super) position: u64,
    /// Told as ADDED first.
    pub(super) initial: Vec<Object>,
    /// The end of the initial objects is marked by a bookmark.
    pub(super) mark_initial: bool,
    pub(super) bookmarks: bool,
    pub(super) life: Duration,
    /// Told as an ERROR event and nothing else.
    pub(super) expired: Option<Failure>,
    /// Its number among the running ones.
    pub(super) id: u64,
}

impl World {
    pub(super) fn list(
        &self,
        view: &View,
        selector: &Selector,
        query: &Query,
    ) -> Result<Page, Failure> {
        let limit = query.number("limit").filter(|&limit| limit > 0);
        let (at, after) = self.list_version(query)?;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        self.store
            .list(&view.kind.resource(), selector, at, after.as_ref(), limit)
    }

    fn list_version(&self, query: &Query) -> Result<(Option<u64>, Option<Key>), Failure> {
        let version = version(query)?;
        let rule = query.get("resourceVersionMatch");
        if let Some(token) = query.get("continue") {
            if version.is_some() {
                return Err(Failure::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let (version, after) = read_continue(token)?;
            return Ok((Some(version), Some(after)));
        }
        if rule.is_some() && version.is_none() {
            return Err(Failure::invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless \
                 resourceVersion is provided",
            ));
        }
        match (rule, version) {
            (Some("Exact"), Some(0)) => Err(Failure::invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"Exact\" is forbidden for \
                 resourceVersion \"0\"",
            )),
            (Some("Exact"), Some(version)) => {
                self.check_not_ahead(version)?;
                Ok((Some(version), None))
            }
            (_, Some(version)) => {
                self.check_not_ahead(version)?;
                Ok((None, None))
            }
            (_, None) => Ok((None, None)),
        }
    }

    fn check_not_ahead(&self, version: u64) -> Result<(), Failure> {
        let current = self.store.version();
        if version <= current {
            return Ok(());
        }
        let mut failure = Failure::new(
            504,
            "Timeout",
            format!("Too large resource version: {version}, current: {current}"),
        )
        .with_causes(vec![serde_json::json!({
            "reason": "ResourceVersionTooLarge",
            "message": "Too large resource version",
        })]);
        failure.retry_after = Some(1);
        Err(failure)
    }

    /// Prepares a watch. That its version expired is told as the API server does it, in an ERROR
    /// event of an accepted watch; or by the status 410, as aggregated servers may.
    pub(super) fn start_watch(
        &self,
        view: View,
        selector: Selector,
        query: &Query,
    ) -> Result<Watch, Failure> {
        let version = version(query)?;
        let stream = query.flag("sendInitialEvents") && query.get("sendInitialEvents").is_some();
        if stream && query.get("resourceVersionMatch") != Some("NotOlderThan") {
            return Err(Failure::invalid(
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
                 sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        let bookmarks =
            query.flag("allowWatchBookmarks") && query.get("allowWatchBookmarks").is_some();
        let resource = view.kind.resource();
        let from_state = stream || matches!(version, None | Some(0));
        let mut expired = None;
        let (position, initial) = if from_state {
            if let Some(version) = version {
                self.check_not_ahead(version)?;
            }
            let page = self.store.list(&resource, &selector, None, None, None)?;
            (page.version, page.items)
        } else {
            let version = version.unwrap_or_default();
            if let Err(failure) = self.store.check_start(&resource, version) {
                if self.gone_as_status {
                    return Err(failure);
                }
                expired = Some(failure);
            }
            (version, Vec::new())
        };
        let life = query.number("timeoutSeconds").filter(|&life| life > 0);
        Ok(Watch {
            view,
            selector,
            position,
            initial,
            mark_initial: stream && bookmarks,
            bookmarks,
            life: Duration::from_secs(life.unwrap_or(WATCH_LIFE)),
            expired,
            id: 0,
        })
    }
}

fn version(query: &Query) -> Result<Option<u64>, Failure> {
    query
        .get("resourceVersion")
        .map(|text| {
            text.parse().map_err(|_| {
                Failure::bad_request(format!("resourceVersion: Invalid value: \"{text}\""))
            })
        })
        .transpose()
}
