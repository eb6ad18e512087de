//! The agent's list of meshed namespaces on disk: what the plugin goes by while it cannot ask.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Name of the file in the agent's state directory.
pub const MESHED_FILE: &str = "meshed-namespaces.json";
/// Largest list that is written and read, in bytes: more than 10,000 namespaces.
const LIMIT: usize = 1 << 20;
const SCHEMA: u32 = 1;

/// What the list says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meshed {
    /// The namespaces that have pods in the mesh.
    Listed(BTreeSet<String>),
    /// There is no list: no agent of this node has heard from its control plane yet.
    Absent,
    /// There is one, and it cannot be read.
    Unreadable(String),
}

#[derive(Serialize, Deserialize)]
struct Content {
    schema: u32,
    namespaces: BTreeSet<String>,
}

/// Replaces the list, atomically, mode 0600, when it says something else. Fails when the file
/// cannot be written, or the list is longer than the plugin would read; the old one stays then.
pub fn write_meshed(path: &Path, namespaces: &BTreeSet<String>) -> io::Result<()> {
    if read_meshed(path) == Meshed::Listed(namespaces.clone()) {
        return Ok(());
    }
    let content = serde_json::to_vec(&Content {
        schema: SCHEMA,
        namespaces: namespaces.clone(),
    })?;
    if content.len() > LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{} meshed namespaces are too many", namespaces.len()),
        ));
    }
    let partial = path.with_extension("json.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(&content)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

/// Reads the list.
pub fn read_meshed(path: &Path) -> Meshed {
    let mut file = match File::open(path) {
        Ok(file) => file.take(LIMIT as u64 + 1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Meshed::Absent,
        Err(error) => return Meshed::Unreadable(error.to_string()),
    };
    let mut content = Vec::new();
    if let Err(error) = file.read_to_end(&mut content) {
        return Meshed::Unreadable(error.to_string());
    }
    if content.len() > LIMIT {
        return Meshed::Unreadable(format!("it has more than {LIMIT} bytes"));
    }
    match serde_json::from_slice::<Content>(&content) {
        Ok(content) if content.schema == SCHEMA => Meshed::Listed(content.namespaces),
        Ok(content) => Meshed::Unreadable(format!("its schema is {}", content.schema)),
        Err(error) => Meshed::Unreadable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("culvert-meshed-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_is_written_is_read_and_only_root_reads_it() {
        let folder = folder("written");
        let path = folder.join(MESHED_FILE);
        assert_eq!(read_meshed(&path), Meshed::Absent);
        for names in [set(&[]), set(&["shop", "web"])] {
            write_meshed(&path, &names).unwrap();
            assert_eq!(read_meshed(&path), Meshed::Listed(names));
        }
        let before = fs::metadata(&path).unwrap();
        assert_eq!(before.permissions().mode() & 0o777, 0o600);
        write_meshed(&path, &set(&["web", "shop"])).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino(), "the same");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_list_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let folder = folder("unreadable");
        let path = folder.join(MESHED_FILE);
        let long = " ".repeat(LIMIT + 1);
        for text in [
            "",
            "{",
            "[\"shop\"]",
            "{\"schema\":1}",
            "{\"schema\":2,\"namespaces\":[]}",
            &long,
        ] {
            fs::write(&path, text).unwrap();
            let found = read_meshed(&path);
            assert!(matches!(found, Meshed::Unreadable(_)), "{found:?}");
        }
        let below = path.join("file");
        assert!(matches!(read_meshed(&below), Meshed::Unreadable(_)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_list_too_long_to_be_read_is_not_written() {
        let folder = folder("long");
        let path = folder.join(MESHED_FILE);
        write_meshed(&path, &set(&["shop"])).unwrap();
        let many = (0..20_000).map(|n| format!("{n:063}")).collect();
        assert!(write_meshed(&path, &many).is_err());
        assert_eq!(read_meshed(&path), Meshed::Listed(set(&["shop"])));
        fs::remove_dir_all(folder).unwrap();
    }
}
