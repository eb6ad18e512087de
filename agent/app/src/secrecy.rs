//! Keys are in memory and nowhere else: no core file of this process, and nobody but root looks
//! into its memory.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Forbids dumps of this process, for good. What the system refuses is logged: secrecy is worth no
/// outage.
pub(crate) fn keep() {
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!(%error, "other processes of this user may read this one's memory");
    }
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!(%error, "a crash may leave a core file with keys in it");
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::getrlimit;

    use super::*;

    #[test]
    fn t_node_3_no_dump_is_made_of_this_process() {
        keep();
        assert!(!prctl::get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    }
}
