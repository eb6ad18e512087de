//! Loading the object: once for the node's hooks, and once more for each pod, whose `sk_lookup`
//! program carries the pod as a constant.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::{CgroupSockAddr, Program, ProgramError, SkLookup, SockOps};
use aya::{Ebpf, EbpfError, EbpfLoader};
use ebpf_common::{Kind, Table};

use crate::bpffs::{self, Pins};
use crate::error::{DatapathError, log_tail};
use crate::hooks;
use crate::sys;

/// Name of the program that is loaded per pod.
pub(crate) const POD_PROGRAM: &str = "pod_ingress";

/// Log levels of aya-log: none, and everything up to debug.
const LOG_OFF: u8 = 0;
const LOG_DEBUG: u8 = 4;

/// The object file.
#[derive(Debug)]
pub(crate) struct Object {
    bytes: Vec<u8>,
    tables: &'static [Table],
    debug: bool,
}

impl Object {
    pub(crate) fn read(
        path: &Path,
        tables: &'static [Table],
        debug: bool,
    ) -> Result<Self, DatapathError> {
        Ok(Self {
            bytes: fs::read(path).map_err(DatapathError::file(path))?,
            tables,
            debug,
        })
    }

    /// Loads the node's maps and programs. Pinned maps of the right shape are taken over, the
    /// others are made anew; nothing is pinned or attached yet.
    pub(crate) fn load(&self, pins: &Pins) -> Result<Loaded, DatapathError> {
        let adopted: Vec<_> = self
            .tables
            .iter()
            .filter(|table| is_pinned_as(&pins.map(table), table))
            .collect();
        let ebpf = self.parse(0, pins, adopted.iter().copied())?;
        let fresh = self
            .tables
            .iter()
            .filter(|table| !adopted.contains(table))
            .copied()
            .collect();
        Ok(Loaded { ebpf, fresh })
    }

    /// Loads the program of the pod with this cookie, on the pinned maps.
    pub(crate) fn load_pod(&self, cookie: u64, pins: &Pins) -> Result<OwnedFd, DatapathError> {
        if let Some(table) = self
            .tables
            .iter()
            .find(|table| !is_pinned_as(&pins.map(table), table))
        {
            return Err(DatapathError::Object(format!(
                "map {} is not pinned as it should be",
                table.name
            )));
        }
        let mut ebpf = self.parse(cookie, pins, self.tables.iter())?;
        load_program(&mut ebpf, POD_PROGRAM)
    }

    fn parse<'a>(
        &self,
        cookie: u64,
        pins: &Pins,
        adopted: impl Iterator<Item = &'a Table>,
    ) -> Result<Ebpf, DatapathError> {
        let level = if self.debug { LOG_DEBUG } else { LOG_OFF };
        let mut loader = EbpfLoader::new();
        loader
            .override_global("AYA_LOG_LEVEL", &level, true)
            .override_global("POD_NETNS", &cookie, true);
        // The sizes are the table's say, as they are when the object is built.
        for table in self.tables.iter().filter(|table| table.is_hashed()) {
            loader.map_max_entries(table.name, table.entries as u32);
        }
        for table in adopted {
            loader.map_pin_path(table.name, pins.map(table));
        }
        loader.load(&self.bytes).map_err(object_error)
    }
}

/// An object whose maps exist.
pub(crate) struct Loaded {
    pub(crate) ebpf: Ebpf,
    fresh: Vec<Table>,
}

impl Loaded {
    /// Puts a program through the verifier.
    pub(crate) fn program(&mut self, name: &'static str) -> Result<OwnedFd, DatapathError> {
        load_program(&mut self.ebpf, name)
    }

    /// The programs of the node's hooks, in the order of [`hooks::wanted`].
    pub(crate) fn hook_programs(&mut self, names: bool) -> Result<Vec<OwnedFd>, DatapathError> {
        hooks::wanted(names)
            .map(|hook| self.program(hook.name))
            .collect()
    }

    /// True when every map was pinned and is shared with the programs before.
    pub(crate) fn adopted_all(&self) -> bool {
        self.fresh.is_empty()
    }

    /// Pins the maps that were made anew beside those they replace. They take their names with
    /// [`FreshPins::keep`]; dropped without, they are gone.
    pub(crate) fn pin_fresh(&self, pins: &Pins) -> Result<FreshPins, DatapathError> {
        let mut made = FreshPins { pins: Vec::new() };
        for table in &self.fresh {
            let map = self
                .ebpf
                .map(table.name)
                .ok_or_else(|| DatapathError::Object(format!("it has no map {}", table.name)))?;
            let temporary = pins.coming(table);
            bpffs::unpin(&temporary)?;
            map.pin(&temporary)
                .map_err(|error| DatapathError::Object(error.to_string()))?;
            made.pins.push((temporary.clone(), pins.map(table)));
            if !is_pinned_as(&temporary, table) {
                return Err(DatapathError::Object(format!(
                    "its map {} is not of the shape this agent works with",
                    table.name
                )));
            }
        }
        Ok(made)
    }
}

/// Maps pinned under a name of their own until all is well.
#[derive(Debug)]
pub(crate) struct FreshPins {
    /// Temporary and final path.
    pins: Vec<(PathBuf, PathBuf)>,
}

impl FreshPins {
    /// True when every map was there already.
    pub(crate) fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// Where a map is pinned now.
    pub(crate) fn path(&self, pins: &Pins, table: &Table) -> PathBuf {
        let last = pins.map(table);
        self.pins
            .iter()
            .find(|(_, to)| *to == last)
            .map_or(last, |(from, _)| from.clone())
    }

    /// Gives the maps their names.
    pub(crate) fn keep(mut self) -> Result<(), DatapathError> {
        for (from, to) in std::mem::take(&mut self.pins) {
            bpffs::unpin(&to)?;
            fs::rename(&from, &to).map_err(DatapathError::file(&to))?;
        }
        Ok(())
    }
}

impl Drop for FreshPins {
    fn drop(&mut self) {
        for (temporary, _) in &self.pins {
            let _ = bpffs::unpin(temporary);
        }
    }
}

/// True when a map of exactly this shape is pinned there. aya compares nothing when it takes over
/// a pin, and a map with larger values would even pass the verifier.
fn is_pinned_as(path: &Path, table: &Table) -> bool {
    let Ok(map) = sys::open(path) else {
        return false;
    };
    let Ok(shape) = sys::map_shape(map.as_fd()) else {
        return false;
    };
    let wanted = sys::MapShape {
        kind: table.kind as u32,
        key: table.key as u32,
        value: table.value as u32,
        entries: if table.kind == Kind::SkStorage {
            0
        } else {
            table.entries as u32
        },
        flags: table.flags,
    };
    if shape != wanted {
        tracing::warn!(
            map = table.name,
            ?shape,
            ?wanted,
            "pinned map has another shape"
        );
    }
    shape == wanted
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, DatapathError> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| DatapathError::Object(format!("it has no program {name}")))?;
    let loaded = match program {
        Program::CgroupSockAddr(program) => load_cgroup(program),
        Program::SockOps(program) => load_sockops(program),
        Program::SkLookup(program) => load_lookup(program),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(|error| match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => DatapathError::Load {
            program: name,
            source: io_error,
            tail: log_tail(&verifier_log.to_string()),
        },
        other => DatapathError::Object(format!("{name}: {other}")),
    })
}

fn load_cgroup(program: &mut CgroupSockAddr) -> Result<OwnedFd, ProgramError> {
    program.load()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn load_sockops(program: &mut SockOps) -> Result<OwnedFd, ProgramError> {
    program.load()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn load_lookup(program: &mut SkLookup) -> Result<OwnedFd, ProgramError> {
    program.load()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn object_error(error: EbpfError) -> DatapathError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    DatapathError::Object(log_tail(&text))
}
