//! How many connections each endpoint has, for the least-loaded choice.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Connections each endpoint has or is being dialled for from this worker.
#[derive(Debug, Default)]
pub(crate) struct ActiveEndpoints(Rc<RefCell<HashMap<Arc<str>, u32>>>);

/// One connection to an endpoint; counted until dropped.
#[derive(Debug)]
pub(crate) struct ActiveEndpoint {
    uid: Arc<str>,
    all: Rc<RefCell<HashMap<Arc<str>, u32>>>,
}

impl ActiveEndpoints {
    /// Connections to the workload of that uid now.
    pub(crate) fn count(&self, uid: &str) -> u32 {
        self.0.borrow().get(uid).copied().unwrap_or(0)
    }

    /// Counts one more.
    pub(crate) fn begin(&self, uid: &Arc<str>) -> ActiveEndpoint {
        *self.0.borrow_mut().entry(Arc::clone(uid)).or_default() += 1;
        ActiveEndpoint {
            uid: Arc::clone(uid),
            all: Rc::clone(&self.0),
        }
    }
}

impl Drop for ActiveEndpoint {
    fn drop(&mut self) {
        let mut all = self.all.borrow_mut();
        if let Some(count) = all.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.uid);
            }
        }
    }
}
