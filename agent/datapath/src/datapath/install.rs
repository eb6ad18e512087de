//! The programs into the kernel, in the place of those before or of none.

use std::io;
use std::path::{Path, PathBuf};

use agent_net::{Netns, NetnsCookie};
use ebpf_common::{OwnKey, Table};

use super::Config;
use crate::address;
use crate::bpffs::Pins;
use crate::entries::{own_addresses, own_keys, pod_value};
use crate::error::DatapathError;
use crate::hooks;
use crate::object::{Object, POD_PROGRAM};
use crate::records::{Record, Records};
use crate::settings::settings;
use crate::table::Tables;
use crate::trace::Trace;

/// Everything of [`Datapath::load`](super::Datapath::load) that touches the kernel: all programs pass the verifier
/// before anything is pinned, all maps are ready before anything is attached.
pub(super) fn install(
    config: &Config,
    object: &Object,
    pins: &Pins,
    records: &Records,
    host: NetnsCookie,
) -> Result<(Tables, Option<Trace>), DatapathError> {
    let mut loaded = object.load(pins)?;
    let programs = loaded.hook_programs(config.names)?;
    loaded.program(POD_PROGRAM)?;
    let fresh = loaded.pin_fresh(pins)?;
    let path = |name: &str| Ok(fresh.path(pins, named(config, name)?));
    let tables = Tables::open(path).map_err(DatapathError::kernel("open the maps"))?;
    tables
        .settings
        .put(&0, &settings(host, &config.cgroup_root))
        .map_err(DatapathError::kernel("write the settings"))?;
    let trace = config
        .debug
        .then(|| Trace::start(&mut loaded.ebpf))
        .transpose()?;
    let captures =
        hooks::missing(false, &config.cgroup_root, pins).len() < hooks::wanted(false).count();
    if !fresh.is_empty() && captures {
        tracing::info!("the agent before worked with other maps: filling ours first");
        let failed = DatapathError::kernel("fill the maps");
        let fill = |record| fill(&tables, &record);
        let filled = records.read()?.into_iter().try_for_each(fill);
        filled.map_err(failed)?;
    }
    hooks::attach_all(&programs, config.names, &config.cgroup_root, pins)?;
    fresh.keep()?;
    pins.remove_others(config.tables)?;
    Ok((tables, trace))
}

/// Writes what the hooks must know of a pod from their first moment, into maps that may be new: it is
/// captured and, for as long as nobody has published its listeners there, closed.
fn fill(tables: &Tables, record: &Record) -> io::Result<()> {
    let netns = Netns::open(Path::new(&record.pod.netns));
    let Some(netns) = netns.ok().filter(|netns| netns.cookie().0 == record.netns) else {
        // It is gone.
        return Ok(());
    };
    let netns_own = own_addresses(&netns).map_err(io::Error::other)?;
    let own = own_keys(&record.pod, &netns_own);
    for ip in own {
        let key = OwnKey {
            netns: record.netns,
            ip,
        };
        tables.own.put(&key, &1)?;
    }
    if tables.pods.get(&record.netns)?.is_none() {
        tables.pods.put(&record.netns, &pod_value(&record.pod, 0))?;
    }
    for ip in &record.pod.ips {
        tables
            .local
            .put(&address::to_kernel_ip(*ip), &record.netns)?;
    }
    Ok(())
}

/// Where the map of this name is pinned.
pub(super) fn pin_of(config: &Config, pins: &Pins, name: &str) -> io::Result<PathBuf> {
    Ok(pins.map(named(config, name)?))
}

fn named<'a>(config: &'a Config, name: &str) -> io::Result<&'a Table> {
    let table = config.tables.iter().find(|table| table.name == name);
    table.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no map {name}")))
}
