//! The list of enrolled pods on disk, for the next agent: `pods.json` in the state directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use agent_model::PodInfo;
use agent_net::NetnsCookie;
use serde::{Deserialize, Serialize};

use crate::error::DatapathError;

/// Largest list that is read, in bytes: a thousand pods take about a quarter of it.
const LIMIT: u64 = 4 << 20;

/// The file.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    boot: String,
}

/// A pod in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) pod: PodInfo,
    /// Cookie of its namespace: tells it from another that got the same path.
    pub(crate) netns: u64,
}

#[derive(Serialize, Deserialize)]
struct Content {
    schema: u32,
    /// The kernel's boot id: cookies begin anew with every boot.
    boot: String,
    pods: Vec<Record>,
}

const SCHEMA: u32 = 1;
/// Name of the list in the state directory.
const FILE: &str = "pods.json";

impl Records {
    pub(crate) fn new(state_dir: &Path) -> Result<Self, DatapathError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(DatapathError::file(state_dir))?;
        let boot_id = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(boot_id).map_err(DatapathError::file(boot_id))?;
        Ok(Self {
            path: state_dir.join(FILE),
            boot: boot.trim().to_owned(),
        })
    }

    /// The list as the last agent of this boot left it; empty when there is none.
    pub(crate) fn read(&self) -> Result<Vec<Record>, DatapathError> {
        let content = match self.load() {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(DatapathError::file(&self.path)(error)),
        };
        if content.schema != SCHEMA || content.boot != self.boot {
            return Ok(Vec::new());
        }
        Ok(content.pods)
    }

    /// Replaces the list, atomically.
    pub(crate) fn write(&self, pods: Vec<Record>) -> Result<(), DatapathError> {
        let content = Content {
            schema: SCHEMA,
            boot: self.boot.clone(),
            pods,
        };
        self.store(&content)
            .map_err(DatapathError::file(&self.path))
    }

    /// Removes the list of a state directory; no error when there is none.
    pub(crate) fn remove(state_dir: &Path) -> Result<(), DatapathError> {
        let path = state_dir.join(FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(DatapathError::file(&path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The cookie as the key of what is compared.
    pub(crate) fn record(pod: &PodInfo, netns: NetnsCookie) -> Record {
        Record {
            pod: pod.clone(),
            netns: netns.0,
        }
    }

    fn load(&self) -> io::Result<Content> {
        let file = File::open(&self.path)?;
        if file.metadata()?.len() > LIMIT {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "list too long"));
        }
        Ok(serde_json::from_reader(io::BufReader::new(file))?)
    }

    fn store(&self, content: &Content) -> io::Result<()> {
        let temporary = self.path.with_extension("json.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(content)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("culvert-records-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn pod() -> Record {
        Record {
            pod: PodInfo {
                container_id: "c1".into(),
                uid: "u1".into(),
                name: "web".into(),
                namespace: "shop".into(),
                netns: "/run/netns/web".into(),
                ips: vec!["10.0.0.1".parse().unwrap()],
            },
            netns: 42,
        }
    }

    #[test]
    fn a_list_survives_and_only_root_reads_it() {
        let state = directory("survives");
        let records = Records::new(&state).unwrap();
        assert_eq!(records.read().unwrap(), []);
        records.write(vec![pod()]).unwrap();
        assert_eq!(records.read().unwrap(), [pod()]);
        let mode = fs::metadata(state.join("pods.json"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn cookies_of_another_boot_are_nobodys() {
        let state = directory("boot");
        let mut records = Records::new(&state).unwrap();
        records.write(vec![pod()]).unwrap();
        records.boot = "another".into();
        assert_eq!(records.read().unwrap(), []);
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn a_damaged_list_is_an_error_that_names_the_file() {
        let state = directory("damaged");
        let records = Records::new(&state).unwrap();
        fs::write(state.join("pods.json"), "{\"schema\": 1, \"pods\": [").unwrap();
        let error = records.read().unwrap_err().to_string();
        assert!(error.contains("pods.json"), "{error}");
        fs::remove_dir_all(state).unwrap();
    }
}
