//! The seeds: one file each in `corpus/TARGET/`.

use std::io;
use std::path::{Path, PathBuf};

use crate::Target;

impl Target {
    /// Where its seeds are.
    pub fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name)
    }

    /// Its seeds, in the order of their file names.
    pub fn seeds(&self) -> io::Result<Vec<Vec<u8>>> {
        let files = std::fs::read_dir(self.folder())?;
        let mut paths = files
            .map(|file| Ok(file?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        paths.iter().map(std::fs::read).collect()
    }

    /// Adds an input to the corpus, named by its content; the file.
    pub fn keep(&self, input: &[u8]) -> io::Result<PathBuf> {
        let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let file = self.folder().join(format!("found-{hash:016x}"));
        std::fs::write(&file, input)?;
        Ok(file)
    }
}
