//! The plugin on its node: its program among the runtime's plugins, its entry at the end of the
//! chain that the runtime uses.
//!
//! A runtime (containerd, CRI-O) takes the lexically first file of its configuration folder. That
//! file belongs to whoever made the cluster's network, who may write it again at any time; so
//! [`Installation::ensure`] is called on every change of the folder and once in a while, writes
//! only what differs, and leaves alone what a runtime would not take either.

mod chain;
mod error;
mod files;
mod json;

use std::path::{Path, PathBuf};

pub use crate::meshed::write_meshed;
pub use chain::Unusable;
pub use error::InstallError;

use crate::meshed::{Meshed, read_meshed};
use chain::{Entry, Form, PLUGIN};

/// What is installed, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The static program to install.
    pub program: PathBuf,
    /// The runtime's folder of plugins.
    pub bin_dir: PathBuf,
    /// The runtime's folder of network configurations.
    pub conf_dir: PathBuf,
    /// The agent's socket; the host has it at the same path.
    pub agent_socket: PathBuf,
    /// The agent's list of meshed namespaces; the host has it at the same path.
    pub meshed_namespaces: PathBuf,
    /// Namespaces whose pods never wait for the agent: its own above all, or it could not start.
    pub exclude_namespaces: Vec<String>,
}

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The plugin is the last of the chain in this file. `wrote` when that is new.
    Chained {
        /// The file.
        file: PathBuf,
        /// Something had to be written.
        wrote: bool,
    },
    /// The agent has no list of meshed namespaces yet: a plugin without one would hold up every
    /// pod of the node whenever the agent is away.
    NoList,
    /// There is no network configuration that a runtime would use and the plugin could be in; why
    /// not, by file.
    NoNetwork(Vec<(PathBuf, Unusable)>),
}

impl Installation {
    /// Makes the plugin the last of the chain that the runtime uses. Idempotent: nothing is written
    /// when nothing differs. The program comes first, so that no chain names one that is missing.
    pub fn ensure(&self) -> Result<Standing, InstallError> {
        let entry = self.entry()?;
        let program = files::install_program(&self.program, &self.bin_dir.join(PLUGIN))?;
        if read_meshed(&self.meshed_namespaces) == Meshed::Absent {
            return Ok(Standing::NoList);
        }
        let mut unusable = Vec::new();
        for (path, form) in files::configurations(&self.conf_dir)? {
            let Some(text) = files::read(&path)? else {
                continue;
            };
            match chain::chained(&text, form, &entry) {
                Ok(None) => {
                    return Ok(Standing::Chained {
                        file: path,
                        wrote: program,
                    });
                }
                Ok(Some(after)) => {
                    let file = replace(&path, form, &text, &after)?;
                    return Ok(Standing::Chained { file, wrote: true });
                }
                // Runtimes take this one: an entry in a later file would be in force nowhere.
                Err(why @ Unusable::Version(_)) => {
                    unusable.push((path, why));
                    break;
                }
                // What one runtime stops at, another passes over.
                Err(why @ Unusable::Invalid(_)) => unusable.push((path, why)),
            }
        }
        Ok(Standing::NoNetwork(unusable))
    }

    /// Takes our entry out of every configuration of the folder. Returns the files that had one.
    pub fn remove_entry(&self) -> Result<Vec<PathBuf>, InstallError> {
        let mut changed = Vec::new();
        for (path, form) in files::configurations(&self.conf_dir)? {
            let Some(text) = files::read(&path)? else {
                continue;
            };
            if let Ok(Some(after)) = chain::unchained(&text, form) {
                files::replace(&path, &path, &text, &after)?;
                changed.push(path);
            }
        }
        Ok(changed)
    }

    /// Removes the program, and the list that it alone reads: after [`Self::remove_entry`], and after
    /// the pods were let go of.
    pub fn remove_program(&self) -> Result<(), InstallError> {
        files::remove(&self.bin_dir.join(PLUGIN))?;
        files::remove(&self.meshed_namespaces)
    }

    fn entry(&self) -> Result<Entry, InstallError> {
        let text = |path: &Path| {
            let text = path.to_str().map(str::to_owned);
            text.ok_or_else(|| InstallError::NotText(path.to_owned()))
        };
        Ok(Entry {
            agent_socket: text(&self.agent_socket)?,
            meshed_namespaces: text(&self.meshed_namespaces)?,
            exclude_namespaces: self.exclude_namespaces.clone(),
        })
    }
}

/// Writes a chain. One made of a lone plugin gets the name of a list, and the lone plugin, which
/// would come before it, goes.
fn replace(path: &Path, form: Form, before: &str, after: &str) -> Result<PathBuf, InstallError> {
    let to = match form {
        Form::List => path.to_owned(),
        Form::Single => path.with_extension("conflist"),
    };
    files::replace(path, &to, before, after)?;
    if to != path {
        files::remove(path)?;
    }
    Ok(to)
}

#[cfg(test)]
mod tests;
