//! The folder source: reads manifests, watches the folder, re-reads what changed.

mod document;
mod folder;
mod scan;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agent_net::drain;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::decode::is_other;
use super::{Batch, ObjectRef, Problem};
use scan::Scanner;

/// The folder is looked through this often even when nothing reported a change.
const RESCAN: Duration = Duration::from_secs(2);
/// Changes are gathered this long before they are read.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How long the first reading waits for files that are being written.
const FIRST_READ: Duration = Duration::from_secs(3);

/// A folder of manifests.
#[derive(Debug)]
pub(crate) struct FileSource {
    root: PathBuf,
    scanner: Scanner,
    last_problems: Vec<Problem>,
}

impl FileSource {
    /// Reads the folder for the first time, waiting briefly for files that are being written.
    /// Fails when the folder cannot be listed.
    pub(crate) async fn open(root: &Path) -> std::io::Result<(Self, Batch)> {
        std::fs::read_dir(root)?;
        let mut source = Self {
            root: root.to_owned(),
            scanner: Scanner::new(root),
            last_problems: Vec::new(),
        };
        let mut first = Batch::default();
        let deadline = tokio::time::Instant::now() + FIRST_READ;
        loop {
            let (batch, is_settled) = source.scan().await;
            first.events.extend(batch.events);
            first.problems = batch.problems;
            if is_settled || tokio::time::Instant::now() >= deadline {
                source.last_problems.clone_from(&first.problems);
                return Ok((source, first));
            }
            sleep(DEBOUNCE).await;
        }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// Watches until the drain begins or the receiver is gone. A batch is sent when events or
    /// problems changed.
    pub(crate) async fn run(mut self, output: mpsc::Sender<Batch>, mut drain: drain::Watcher) {
        let mut watch = FolderWatch::new(&self.root);
        let mut is_settled = true;
        loop {
            let pause = if is_settled { RESCAN } else { DEBOUNCE };
            tokio::select! {
                () = drain.signalled() => return,
                () = output.closed() => return,
                () = watch.changed(pause) => {}
            }
            watch.renew();
            let batch;
            (batch, is_settled) = self.scan().await;
            if batch.events.is_empty() && batch.problems == self.last_problems {
                continue;
            }
            self.last_problems.clone_from(&batch.problems);
            if output.send(batch).await.is_err() {
                return;
            }
        }
    }

    /// One pass over the folder, off the async threads. False when files are still being written.
    async fn scan(&mut self) -> (Batch, bool) {
        let mut scanner = std::mem::take(&mut self.scanner);
        let task = tokio::task::spawn_blocking(move || {
            let result = scanner.scan(SystemTime::now());
            (scanner, result)
        });
        match task.await {
            Ok((scanner, result)) => {
                self.scanner = scanner;
                result
            }
            // The runtime is going down; report no change.
            Err(_) => (
                Batch {
                    events: Vec::new(),
                    problems: self.last_problems.clone(),
                },
                true,
            ),
        }
    }
}

/// inotify on the folder. Where it is not available the slow rescan does all the work.
struct FolderWatch {
    root: PathBuf,
    inode: Option<u64>,
    _watcher: Option<RecommendedWatcher>,
    sender: mpsc::Sender<()>,
    changes: mpsc::Receiver<()>,
}

impl FolderWatch {
    fn new(root: &Path) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let mut watch = Self {
            root: root.to_owned(),
            inode: None,
            _watcher: None,
            sender,
            changes,
        };
        watch.renew();
        watch
    }

    /// Starts over when the folder was replaced by another of the same name.
    fn renew(&mut self) {
        let inode = scan::inode(&self.root);
        if inode == self.inode {
            return;
        }
        self.inode = inode;
        self._watcher = self.start().map_or_else(
            |error| {
                warn!(target: "source", %error, "cannot watch the folder; it is read every 2 s");
                None
            },
            |watcher| {
                info!(target: "source", folder = %self.root.display(), "watching the folder");
                Some(watcher)
            },
        );
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let sender = self.sender.clone();
        let mut watcher = notify::recommended_watcher(move |_| {
            // A full channel already asks for a scan.
            let _ = sender.try_send(());
        })?;
        watcher.watch(&self.root, RecursiveMode::Recursive)?;
        Ok(watcher)
    }

    /// Waits for a change and a moment more for its companions, or for `pause` to pass.
    async fn changed(&mut self, pause: Duration) {
        if timeout(pause, self.changes.recv()).await.is_ok() {
            sleep(DEBOUNCE).await;
            while self.changes.try_recv().is_ok() {}
        }
    }
}

/// Manifests that come as texts, under the rules of a folder's files.
#[derive(Debug, Default)]
pub(crate) struct Texts(folder::Folder);

impl Texts {
    /// Takes the text of a file as new or changed.
    pub(crate) fn update(&mut self, file: &str, text: &[u8]) -> Batch {
        self.0.update(file, Ok(text));
        self.0.settle()
    }

    /// Takes the text of a file; [`Self::settle`] makes it count.
    pub(crate) fn put(&mut self, file: &str, text: &[u8]) {
        self.0.update(file, Ok(text));
    }

    /// What the files that were put make.
    pub(crate) fn settle(&mut self) -> Batch {
        self.0.settle()
    }

    /// File and line of an object.
    pub(crate) fn place(&self, object: &ObjectRef) -> Option<(&str, u64)> {
        self.0.place(object)
    }

    /// Forgets a file.
    pub(crate) fn remove(&mut self, file: &str) -> Batch {
        self.0.remove(file);
        self.0.settle()
    }
}

/// The objects of a manifest that are of kinds Culvert does not read, each with its line.
pub(crate) fn others(text: &[u8]) -> Vec<(u64, Value)> {
    let Ok(text) = std::str::from_utf8(text) else {
        return Vec::new();
    };
    let documents = document::split(text).into_iter();
    let parsed = documents
        .take(document::MAX_DOCUMENTS)
        .filter_map(|document| Some((document.content_line, document::parse(document).ok()?)));
    let objects = parsed.flat_map(|(line, mut value)| {
        let is_list = value.get("kind").and_then(Value::as_str) == Some("List");
        let items = match value.get_mut("items").filter(|_| is_list).map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => vec![value],
        };
        items.into_iter().map(move |item| (line, item))
    });
    objects.filter(|(_, value)| is_other(value)).collect()
}

/// Reads one manifest as if it were a folder's only file.
#[cfg(test)]
pub(crate) fn read_text(manifest: &str) -> Batch {
    Texts::default().update("manifest.yaml", manifest.as_bytes())
}

/// The documents of a manifest as they stand there.
#[cfg(test)]
pub(crate) fn read_values(manifest: &str) -> Vec<Value> {
    let documents = document::split(manifest).into_iter();
    documents
        .map(|document| document::parse(document).unwrap())
        .collect()
}
