//! The authority's files: certificate and key, the key readable by its owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::IdentityError;

const CERTIFICATE: &str = "root-cert.pem";
const KEY: &str = "root-key.pem";
const DIRECTORY_MODE: u32 = 0o700;
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;
/// Nobody but the owner may touch a key of ours.
const OWN_KEY: u32 = 0o077;
/// A kubelet lets the group of a pod read the files of a Secret; others have no business there.
const GIVEN_KEY: u32 = 0o037;
/// A PEM file larger than this is refused.
const MAX_FILE: u64 = 1024 * 1024;

/// Certificate and key, PEM; `None` when neither exists.
pub(super) fn load(directory: &Path) -> Result<Option<(String, Zeroizing<String>)>, IdentityError> {
    let (certificate, key) = (directory.join(CERTIFICATE), directory.join(KEY));
    match (exists(&certificate)?, exists(&key)?) {
        (false, false) => Ok(None),
        (true, true) => Ok(Some((read(&certificate)?, read_secret(&key, OWN_KEY)?))),
        // The key is written first: without a certificate it has signed nothing.
        (false, true) => Err(IdentityError::Authority(format!(
            "{} is missing but {} exists; remove the key to start a new root",
            certificate.display(),
            key.display()
        ))),
        (true, false) => Err(IdentityError::Authority(format!(
            "{} is missing: nodes trust a root that can no longer sign",
            key.display()
        ))),
    }
}

pub(super) fn store(directory: &Path, certificate: &str, key: &str) -> Result<(), IdentityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .map_err(IdentityError::file(directory))?;
    // Also when it was there before.
    fs::set_permissions(directory, fs::Permissions::from_mode(DIRECTORY_MODE))
        .map_err(IdentityError::file(directory))?;
    write(&directory.join(KEY), key, KEY_MODE)?;
    write(&directory.join(CERTIFICATE), certificate, CERTIFICATE_MODE)
}

pub(super) fn read(path: &Path) -> Result<String, IdentityError> {
    let metadata = fs::metadata(path).map_err(IdentityError::file(path))?;
    if metadata.len() > MAX_FILE {
        return Err(IdentityError::file(path)(
            io::ErrorKind::FileTooLarge.into(),
        ));
    }
    fs::read_to_string(path).map_err(IdentityError::file(path))
}

/// The key of an issuer from outside.
pub(super) fn read_given_secret(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    read_secret(path, GIVEN_KEY)
}

fn read_secret(path: &Path, forbidden: u32) -> Result<Zeroizing<String>, IdentityError> {
    let metadata = fs::metadata(path).map_err(IdentityError::file(path))?;
    if metadata.mode() & forbidden != 0 {
        return Err(IdentityError::Authority(format!(
            "{} can be touched by others; it must have mode 0600, or 0440 when it is given from \
             outside",
            path.display()
        )));
    }
    read(path).map(Zeroizing::new)
}

/// Writes beside the target and renames, so that a crash leaves no half file.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), IdentityError> {
    let beside = path.with_extension("new");
    let result = (|| {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    })();
    result.map_err(IdentityError::file(path))
}

fn exists(path: &Path) -> Result<bool, IdentityError> {
    path.try_exists().map_err(IdentityError::file(path))
}
