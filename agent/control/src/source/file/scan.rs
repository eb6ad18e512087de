//! Finds the files of the folder and hands changed ones to [`Folder`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::folder::{Folder, MAX_FILE, Unreadable, too_large};
use crate::source::{Batch, Effect, Problem};

/// Files of one folder.
const MAX_FILES: usize = 10_000;
/// Folders below the root.
const MAX_FOLDER_DEPTH: usize = 32;
/// A file younger than this may still be being written, and half a file of policies is a hole.
const QUIET: Duration = Duration::from_millis(100);
/// A file that never comes to rest is read after all.
const NEVER_QUIET: Duration = Duration::from_secs(2);
/// A file is gone when it stays gone this long; editors rename one away and write another.
const GONE: Duration = Duration::from_millis(150);
/// While files keep changing, those at rest are held back this long.
const MAX_HOLD: Duration = Duration::from_secs(1);

/// Remembers what was read.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    root: PathBuf,
    folder: Folder,
    read: BTreeMap<String, Fingerprint>,
    /// Since when a file has been restless or absent.
    waiting: BTreeMap<String, SystemTime>,
    /// Since when something has been restless or absent without a break.
    restless_since: Option<SystemTime>,
}

/// Tells one state of a file from another without reading it. The change time cannot be set by a
/// program, and a file is read only when it is older than the clock's grain, so a later change
/// always shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    len: u64,
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How long ago it changed; zero for the future.
    fn age(&self, now: SystemTime) -> Option<Duration> {
        let seconds = Duration::from_secs(u64::try_from(self.changed.0).ok()?);
        let nanos = Duration::from_nanos(u64::try_from(self.changed.1).ok()?);
        now.duration_since(SystemTime::UNIX_EPOCH + seconds + nanos)
            .ok()
    }
}

/// The inode of a path, to notice that it was replaced.
pub(super) fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

impl Scanner {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            ..Self::default()
        }
    }

    /// Reads what changed. False when files are still being written: then nothing is read, so
    /// that a later change is never seen without an earlier one, unless that has lasted so long
    /// that the changes that did come to rest are taken.
    pub(super) fn scan(&mut self, now: SystemTime) -> (Batch, bool) {
        let mut walk = Walk::default();
        walk.folder(&self.root, "", 0);
        let mut changed = Vec::new();
        let mut is_settled = true;
        for (path, fingerprint) in &walk.files {
            if self.read.get(path) == Some(fingerprint) {
                self.waiting.remove(path);
            } else if self.must_wait(path, fingerprint, now) {
                is_settled = false;
            } else {
                changed.push((path, *fingerprint));
            }
        }
        let (gone, all_gone) = self.gone(&walk, now);
        is_settled &= all_gone;
        if is_settled {
            self.restless_since = None;
        }
        if is_settled || self.is_held_too_long(now) {
            for (path, fingerprint) in changed {
                self.waiting.remove(path);
                self.read_file(path, fingerprint);
            }
            for path in gone {
                self.waiting.remove(&path);
                self.read.remove(&path);
                self.folder.remove(&path);
            }
        }
        let known: BTreeSet<&str> = self.folder.paths().collect();
        self.waiting
            .retain(|path, _| known.contains(path.as_str()) || walk.files.contains_key(path));
        let mut batch = self.folder.settle();
        batch.problems.extend(walk.problems);
        (batch, is_settled)
    }

    fn is_held_too_long(&mut self, now: SystemTime) -> bool {
        let since = *self.restless_since.get_or_insert(now);
        now.duration_since(since).unwrap_or_default() >= MAX_HOLD
    }

    fn must_wait(&mut self, path: &str, fingerprint: &Fingerprint, now: SystemTime) -> bool {
        let is_young = fingerprint.age(now).is_some_and(|age| age < QUIET);
        is_young && self.waited(path, now) < NEVER_QUIET
    }

    fn waited(&mut self, path: &str, now: SystemTime) -> Duration {
        let since = *self.waiting.entry(path.to_owned()).or_insert(now);
        now.duration_since(since).unwrap_or_default()
    }

    /// Files that stayed away long enough, and whether those are all that are missing.
    fn gone(&mut self, walk: &Walk, now: SystemTime) -> (Vec<String>, bool) {
        let is_missing = |path: &&str| {
            let is_hidden = walk
                .unreadable
                .iter()
                .any(|folder| path.starts_with(folder));
            !walk.files.contains_key(*path) && !is_hidden
        };
        let missing = self.folder.paths().filter(is_missing);
        let missing: Vec<String> = missing.map(str::to_owned).collect();
        let count = missing.len();
        let mut gone = missing;
        gone.retain(|path| self.waited(path, now) >= GONE);
        let all_gone = gone.len() == count;
        (gone, all_gone)
    }

    fn read_file(&mut self, path: &str, fingerprint: Fingerprint) {
        match read(&self.root.join(path)) {
            // It went away since the walk; the next scan sees that.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                self.read.insert(path.to_owned(), fingerprint);
                self.folder.update(path, Err(Unreadable(error.to_string())));
            }
            Ok(content) => {
                self.read.insert(path.to_owned(), fingerprint);
                let content = content.as_deref().ok_or_else(too_large);
                self.folder.update(path, content);
            }
        }
    }
}

/// The content, or `None` when it is too large.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut content)?;
    Ok((content.len() as u64 <= MAX_FILE).then_some(content))
}

/// One look at the tree.
#[derive(Default)]
struct Walk {
    files: BTreeMap<String, Fingerprint>,
    problems: Vec<Problem>,
    /// Folders that could not be listed (with a final `/`; `""` for the root): what was read from
    /// them stays.
    unreadable: Vec<String>,
}

impl Walk {
    fn folder(&mut self, path: &Path, relative: &str, depth: usize) {
        if let Err(error) = self.entries(path, relative, depth) {
            self.problem(relative, error.to_string());
            self.unreadable.push(relative.to_owned());
        }
    }

    fn entries(&mut self, path: &Path, relative: &str, depth: usize) -> io::Result<()> {
        if depth > MAX_FOLDER_DEPTH {
            return Err(io::Error::other(format!(
                "more than {MAX_FOLDER_DEPTH} folders deep"
            )));
        }
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Hidden entries are editors' and the kubelet's (`..data` of a mounted ConfigMap).
            if name.starts_with('.') {
                continue;
            }
            let relative = format!("{relative}{name}");
            // The entry's own type: a linked folder could lead round in a circle.
            if entry.file_type()?.is_dir() {
                self.folder(&entry.path(), &format!("{relative}/"), depth + 1);
            } else if is_manifest(&name) {
                self.file(&entry.path(), relative);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, relative: String) {
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => {}
            Ok(_) if self.files.len() >= MAX_FILES => {
                if self.files.len() == MAX_FILES && self.problems.is_empty() {
                    self.problem(&relative, format!("more than {MAX_FILES} files"));
                }
            }
            Ok(metadata) => {
                self.files.insert(relative, Fingerprint::of(&metadata));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                self.problem(&relative, error.to_string());
                self.unreadable.push(relative);
            }
        }
    }

    fn problem(&mut self, file: &str, message: String) {
        self.problems.push(Problem {
            file: if file.is_empty() { "." } else { file }.to_owned(),
            document: 0,
            line: None,
            object: None,
            field: String::new(),
            message,
            effect: Effect::LastGoodKept,
        });
    }
}

fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name)
        .extension()
        .and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}
