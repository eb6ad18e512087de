//! What can go wrong with the runtime's folders.

use std::io;
use std::path::PathBuf;

/// Why the plugin could not be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else wrote the file at the same time; the next try sees what they wrote.
    #[error("{} is being changed by somebody else", .0.display())]
    Contended(PathBuf),
    /// A path that goes into the configuration is not text.
    #[error("{} is not UTF-8", .0.display())]
    NotText(PathBuf),
}
