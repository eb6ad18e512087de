//! The configuration file: a flat YAML map whose keys are the flags of the verb.
//!
//! Its values become the defaults of the command line, so that they go through the very same
//! parsers and lose against flags and environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Arg, Command};
use serde_json::Value;

/// Longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The flag that names the file.
const CONFIG: &str = "config";

/// Why the configuration file could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It cannot be read.
    #[error("configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not a YAML map.
    #[error("configuration file {}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// A key is not a flag of the verb.
    #[error("configuration file {}: unknown key {key:?}; keys are the flags of `culvert {verb}` without `--`", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The verb.
        verb: String,
    },
    /// A value is neither a scalar nor a list of scalars.
    #[error("configuration file {}: {key}: expected one value or a list of values", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
}

/// Gives `command` the values of the file that `arguments` (or the environment) name, if any, as
/// defaults.
pub(crate) fn apply(mut command: Command, arguments: &[OsString]) -> Result<Command, FileError> {
    let Some((verb, path)) = named_file(&command, arguments) else {
        return Ok(command);
    };
    let values = read(&path)?;
    let known = command.find_subcommand(&verb).cloned().unwrap_or_default();
    for (key, value) in values {
        let id = flag_of(&known, &key).ok_or_else(|| FileError::UnknownKey {
            path: path.clone(),
            key: key.clone(),
            verb: verb.clone(),
        })?;
        let text = as_text(&value).ok_or_else(|| FileError::Value {
            path: path.clone(),
            key: key.clone(),
        })?;
        command = command.mut_subcommand(&verb, |verb| {
            verb.mut_arg(id, |flag| flag.default_value(text))
        });
    }
    Ok(command)
}

/// The verb and the file of its `--config`. Other mistakes on the command line are for the real
/// parse to report.
fn named_file(command: &Command, arguments: &[OsString]) -> Option<(String, PathBuf)> {
    let matches = command
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(arguments)
        .ok()?;
    let (verb, flags) = matches.subcommand()?;
    let path = flags.try_get_one::<PathBuf>(CONFIG).ok()??;
    Some((verb.to_owned(), path.clone()))
}

fn read(path: &Path) -> Result<BTreeMap<String, Value>, FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    let length = file
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if length as u64 > MAX_FILE {
        return Err(failed(io::Error::other("longer than 1 MiB")));
    }
    serde_saphyr::from_str(&text).map_err(|error| FileError::Syntax {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// The flag a key stands for; `config` itself, help and version are not keys.
fn flag_of(verb: &Command, key: &str) -> Option<String> {
    verb.get_arguments()
        .filter(|flag| flag.get_id() != CONFIG)
        .find(|flag| flag.get_long() == Some(key) && is_setting(flag))
        .map(|flag| flag.get_id().to_string())
}

/// Settings have a variable; `--help` and `--version` do not.
fn is_setting(flag: &Arg) -> bool {
    flag.get_env().is_some()
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(on) => Some(on.to_string()),
        Value::Array(items) => {
            let items: Option<Vec<String>> = items
                .iter()
                .map(|item| as_text(item).filter(|_| !item.is_array()))
                .collect();
            items.map(|items| items.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}
