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

/// Envoy's program, below the target folder that the running one is in, where `cargo xtask bench --l7` and
/// `cargo xtask test --long` install it.
pub fn envoy() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding the running program")?;
    let target = own.ancestors().nth(2).context("no target folder")?;
    let envoy = target.join("envoy/envoy");
    ensure!(
        envoy.exists(),
        "{} is missing: `cargo xtask bench --l7` installs it",
        envoy.display()
    );
    Ok(envoy)
}
