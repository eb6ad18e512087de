//! The catalog of a running control plane, shared by its one writer and the streams.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::Catalog;

/// A catalog that changes while streams read it; clones are the same one. Nothing is copied for a
/// change, however large the catalog is.
#[derive(Debug, Clone, Default)]
pub struct Published {
    catalog: Arc<RwLock<Catalog>>,
    /// Changes so far; 0 until the catalog was filled for the first time.
    version: watch::Sender<u64>,
}

impl Published {
    /// Changes the catalog as a whole: no stream sees it in between. `change` says whether it did
    /// change anything, and then the streams are told. The first call fills the catalog, and
    /// streams wait for it: an empty mesh and one that is not read yet are not the same.
    pub fn change(&self, change: impl FnOnce(&mut Catalog) -> bool) -> bool {
        let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        let has_changed = change(&mut catalog);
        drop(catalog);
        self.version.send_if_modified(|version| {
            let is_news = has_changed || *version == 0;
            *version += u64::from(is_news);
            is_news
        });
        has_changed
    }

    /// The catalog as it is. Keep it for moments only: changes wait.
    pub fn read(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of changes so far, to wait for the next one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
