//! The runtime's two folders: which configuration it uses, and replacing files in one step, so that
//! nobody ever sees half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::chain::Form;
use super::error::InstallError;
use crate::MAX_CONFIG;

/// Mode of the installed program.
const PROGRAM_MODE: u32 = 0o755;

/// The network configurations of a folder, in the order in which a runtime looks at them: by name.
/// None when there is no folder yet.
pub(super) fn configurations(folder: &Path) -> Result<Vec<(PathBuf, Form)>, InstallError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(folder))?.path();
        let form = match path.extension().and_then(|extension| extension.to_str()) {
            Some("conflist") => Form::List,
            Some("conf" | "json") => Form::Single,
            _ => continue,
        };
        if path.is_file() {
            found.push((path, form));
        }
    }
    found.sort();
    Ok(found)
}

/// The text of a configuration; `None` when it went away meanwhile. One that is too long or not
/// UTF-8 comes out as what no runtime takes.
pub(super) fn read(path: &Path) -> Result<Option<String>, InstallError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed(path))?;
    Ok(Some(String::from_utf8(bytes).unwrap_or_default()))
}

/// Puts `after` at `to`, with the mode and the owner of `from`, provided that `from` still says
/// `before`. What a link points to is replaced, not the link.
pub(super) fn replace(
    from: &Path,
    to: &Path,
    before: &str,
    after: &str,
) -> Result<(), InstallError> {
    let like = fs::metadata(from).map_err(failed(from))?;
    let to = if from == to {
        fs::canonicalize(to).map_err(failed(to))?
    } else {
        to.to_owned()
    };
    let partial = partial_beside(&to);
    let write = || -> io::Result<()> {
        let file = create(&partial, like.permissions().mode() & 0o777)?;
        // Allowed for our own user without a capability; another's file becomes ours otherwise,
        // and the runtime, which is root, reads it as well.
        let _ = fchown(&file, Some(like.uid()), Some(like.gid()));
        fill(file, after.as_bytes())
    };
    write().map_err(failed(&partial))?;
    if read(from)?.as_deref() != Some(before) {
        let _ = fs::remove_file(&partial);
        return Err(InstallError::Contended(from.to_owned()));
    }
    fs::rename(&partial, &to).map_err(failed(&to))
}

/// Copies the program when the installed one differs. True when it did.
pub(super) fn install_program(from: &Path, to: &Path) -> Result<bool, InstallError> {
    let program = fs::read(from).map_err(failed(from))?;
    let is_there = fs::metadata(to)
        .is_ok_and(|meta| meta.permissions().mode() & 0o777 == PROGRAM_MODE)
        && fs::read(to).is_ok_and(|installed| installed == program);
    if is_there {
        return Ok(false);
    }
    let partial = partial_beside(to);
    create(&partial, PROGRAM_MODE)
        .and_then(|file| fill(file, &program))
        .map_err(failed(&partial))?;
    // A pod may be starting with the old one just now: it keeps it.
    fs::rename(&partial, to).map_err(failed(to))?;
    Ok(true)
}

/// Removes a file; one that is not there is no error.
pub(super) fn remove(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

/// A name that no runtime takes for a configuration or a plugin.
fn partial_beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".culvert-new");
    path.with_file_name(name)
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    // Whatever the umask, and whatever a killed agent left there.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file)
}

fn fill(mut file: File, content: &[u8]) -> io::Result<()> {
    file.write_all(content)?;
    file.sync_all()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::File { path, source }
}
