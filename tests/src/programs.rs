//! Where the programs under test are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The built product.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// The programs beside the running one, or in `CULVERT_BIN_DIR`.
    pub fn find() -> Result<Self> {
        let directory = match std::env::var_os("CULVERT_BIN_DIR") {
            Some(directory) => PathBuf::from(directory),
            None => std::env::current_exe()
                .context("finding the running program")?
                .parent()
                .context("the running program has no folder")?
                .to_owned(),
        };
        let programs = Self { directory };
        for needed in ["culvert", "culvert-cni", "culvert.bpf.o"] {
            ensure!(
                programs.directory.join(needed).exists(),
                "{} is missing: run `cargo xtask build`",
                programs.directory.join(needed).display()
            );
        }
        Ok(programs)
    }

    /// The folder of the programs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The main program.
    pub fn culvert(&self) -> PathBuf {
        self.directory.join("culvert")
    }
}
