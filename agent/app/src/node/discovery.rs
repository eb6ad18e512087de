//! What the agent holds of the mesh: all of it, or what its pods dial. It is written down now and
//! then, for an agent that starts while the control plane is away.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agent_net::drain::Watcher;
use agent_state::{Reader, Snapshot};
use agent_xds::client::{self, Means};
use agent_xds::{ClientStatus, Demand};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::sleep;

use super::xds_config;
use crate::config::NodeConfig;

/// Name of the file in the state directory.
const FILE: &str = "mesh";
/// Time between a change and its being written down, at the end of which there may be more.
const AFTER_CHANGE: Duration = Duration::from_secs(1);
/// Time between two writes at least: the whole mesh may be tens of megabytes.
const BETWEEN: Duration = Duration::from_secs(60);

/// Starts following the control plane until the drain begins.
pub(super) fn follow(
    config: &NodeConfig,
    control: &Runtime,
    status: watch::Sender<ClientStatus>,
    draining: &Watcher,
) -> Reader {
    let (writer, mut reader) = agent_state::channel();
    let file = config.kernel.state_dir.join(FILE);
    let mut means = Means {
        demand: None,
        of_gateway: false,
        saved: Some(file.clone()),
    };
    if config.xds_on_demand {
        let demand = Demand::new();
        means.demand = Some(demand.clone());
        reader = reader.on_demand(demand);
    }
    let known = status.subscribe();
    control.spawn(client::run_with(
        xds_config(config),
        means,
        writer,
        status,
        draining.clone(),
    ));
    control.spawn(keep(file, reader.clone(), known, draining.clone()));
    reader
}

/// Removes what was written down.
pub(super) fn forget(state_dir: &Path) -> io::Result<()> {
    let file = state_dir.join(FILE);
    for path in [draft_of(&file), file] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Writes down what changes, once it is what the control plane says; the last state at the end.
async fn keep(
    file: PathBuf,
    state: Reader,
    mut known: watch::Receiver<ClientStatus>,
    mut draining: Watcher,
) {
    tokio::select! {
        // What was read from the file, or half of what is true, is not put into it.
        told = known.wait_for(|status| status.synced && status.restored.is_none()) => {
            if told.is_err() {
                return;
            }
        }
        () = draining.signalled() => return,
    }
    let mut changes = state.changed();
    changes.mark_changed();
    let mut goes_on = true;
    while goes_on {
        goes_on = tokio::select! {
            changed = changes.changed() => changed.is_ok(),
            () = draining.signalled() => return,
        };
        // What comes with the change, or the end.
        tokio::select! {
            () = sleep(AFTER_CHANGE) => {}
            () = draining.signalled() => goes_on = false,
        }
        changes.mark_unchanged();
        save(&file, state.load()).await;
        tokio::select! {
            () = sleep(BETWEEN), if goes_on => {}
            () = draining.signalled() => {
                // Whoever has the state may have ended first.
                if changes.has_changed().unwrap_or(true) {
                    save(&file, state.load()).await;
                }
                return;
            }
        }
    }
}

async fn save(file: &Path, snapshot: std::sync::Arc<Snapshot>) {
    let path = file.to_owned();
    let written = tokio::task::spawn_blocking(move || write(&path, &snapshot)).await;
    if let Ok(Err(error)) = written {
        tracing::warn!(file = %file.display(), %error, "cannot write the mesh down");
    }
}

/// Replaces the file in one step. It names every workload of the mesh: only root reads it. Keys and
/// certificates are not in it.
fn write(file: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let draft = draft_of(file);
    let mut writing = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&draft)?;
    writing.write_all(&snapshot.save(SystemTime::now()))?;
    writing.sync_all()?;
    fs::rename(&draft, file)
}

fn draft_of(file: &Path) -> PathBuf {
    file.with_extension("new")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_down_is_roots_alone_and_can_be_forgotten() {
        let folder = std::env::temp_dir().join(format!("culvert-mesh-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join(FILE);
        for _ in 0..2 {
            write(&file, &Snapshot::default()).unwrap();
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        fs::write(draft_of(&file), "half").unwrap();
        forget(&folder).unwrap();
        forget(&folder).unwrap();
        fs::remove_dir(&folder).unwrap();
    }
}
