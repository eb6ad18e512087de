//! Maps as typed tables. No lock: the kernel serialises access.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Pod as Plain;
use ebpf_common::{
    Approval, ClientKey, FlowKey, Ip, Listener, NamePlace, OriginalDestination, OwnKey, Peer, Pod,
    Settings, SocketState, counter,
};

use crate::sys;

/// A map with keys `K` and values `V`.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    map: OwnedFd,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Plain + Default, V: Plain + Default> Table<K, V> {
    /// Opens a pinned map. Fails with `InvalidData` when keys or values have another size: a
    /// lookup would write past the value.
    fn open(path: &Path) -> io::Result<Self> {
        let map = sys::open(path)?;
        let shape = sys::map_shape(map.as_fd())?;
        if shape.key as usize != size_of::<K>() || shape.value as usize != size_of::<V>() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "map with keys or values of another size",
            ));
        }
        Ok(Self {
            map,
            types: PhantomData,
        })
    }

    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        Ok(sys::lookup(self.map.as_fd(), key, &mut value)?.map(|()| value))
    }

    pub(crate) fn put(&self, key: &K, value: &V) -> io::Result<()> {
        sys::update(self.map.as_fd(), key, value)
    }

    /// Removes a key; one that is not there is no error.
    pub(crate) fn remove(&self, key: &K) -> io::Result<()> {
        sys::delete(self.map.as_fd(), key).map(drop)
    }

    /// The keys of the moment. Removal by others while this runs can make a key appear twice or
    /// start the walk over; the walk is bounded by twice the map's size.
    pub(crate) fn keys(&self) -> io::Result<Vec<K>> {
        let bound = 2 * sys::map_shape(self.map.as_fd())?.entries as usize;
        let mut keys = Vec::new();
        let mut last = None;
        while let Some(key) = sys::next_key(self.map.as_fd(), last.as_ref())? {
            if keys.len() >= bound {
                break;
            }
            keys.push(key);
            last = Some(key);
        }
        Ok(keys)
    }

    /// Removes every key for which `unwanted` holds.
    pub(crate) fn remove_where(&self, unwanted: impl Fn(&K) -> bool) -> io::Result<()> {
        for key in self.keys()?.iter().filter(|key| unwanted(key)) {
            self.remove(key)?;
        }
        Ok(())
    }
}

/// Every map user space works with.
#[derive(Debug)]
pub(crate) struct Tables {
    /// Keyed by file descriptor in calls from user space.
    sockets: Table<i32, SocketState>,
    pub(crate) pods: Table<u64, Pod>,
    pub(crate) own: Table<OwnKey, u32>,
    pub(crate) local: Table<Ip, u64>,
    pub(crate) listeners: Table<Listener, u32>,
    pub(crate) original: Table<ClientKey, OriginalDestination>,
    pub(crate) peers: Table<FlowKey, Peer>,
    pub(crate) approved: Table<FlowKey, Approval>,
    pub(crate) name_sockets: Table<NamePlace, u32>,
    pub(crate) servers: Table<NamePlace, Ip>,
    pub(crate) settings: Table<u32, Settings>,
    counters: OwnedFd,
    /// CPUs the kernel keeps a counter for.
    cpus: usize,
}

impl Tables {
    /// Opens all, `path` naming the pin of each.
    pub(crate) fn open(path: impl Fn(&str) -> io::Result<PathBuf>) -> io::Result<Self> {
        Ok(Self {
            sockets: Table::open(&path("SOCKET")?)?,
            pods: Table::open(&path("PODS")?)?,
            own: Table::open(&path("OWN")?)?,
            local: Table::open(&path("LOCAL")?)?,
            listeners: Table::open(&path("LISTENERS")?)?,
            original: Table::open(&path("ORIG")?)?,
            peers: Table::open(&path("PEER")?)?,
            approved: Table::open(&path("APPROVED")?)?,
            name_sockets: Table::open(&path("NAME_SOCKETS")?)?,
            servers: Table::open(&path("SERVERS")?)?,
            settings: Table::open(&path("SETTINGS")?)?,
            counters: sys::open(&path("COUNTERS")?)?,
            cpus: aya::util::nr_cpus().map_err(|(_, error)| error)?,
        })
    }

    /// Pins every map that this process has open under its name, where somebody took the pin away.
    pub(crate) fn pin_again(&self, path: impl Fn(&str) -> io::Result<PathBuf>) -> io::Result<()> {
        let maps = [
            ("SOCKET", &self.sockets.map),
            ("PODS", &self.pods.map),
            ("OWN", &self.own.map),
            ("LOCAL", &self.local.map),
            ("LISTENERS", &self.listeners.map),
            ("ORIG", &self.original.map),
            ("PEER", &self.peers.map),
            ("APPROVED", &self.approved.map),
            ("NAME_SOCKETS", &self.name_sockets.map),
            ("SERVERS", &self.servers.map),
            ("SETTINGS", &self.settings.map),
            ("COUNTERS", &self.counters),
        ];
        for (name, map) in maps {
            let path = path(name)?;
            if !path.exists() {
                sys::pin(map.as_fd(), &path)?;
            }
        }
        Ok(())
    }

    /// Writes what a socket is to us.
    pub(crate) fn mark(&self, socket: BorrowedFd<'_>, state: &SocketState) -> io::Result<()> {
        self.sockets.put(&socket.as_raw_fd(), state)
    }

    /// The counters, by slot, summed over the CPUs.
    pub(crate) fn counters(&self) -> io::Result<[u64; counter::SLOTS as usize]> {
        let mut sums = [0; counter::SLOTS as usize];
        let mut values = vec![0u64; self.cpus];
        for (slot, sum) in (0u32..).zip(sums.iter_mut()) {
            sys::lookup(self.counters.as_fd(), &slot, values.as_mut_slice())?;
            *sum = values
                .iter()
                .fold(0, |sum: u64, value| sum.wrapping_add(*value));
        }
        Ok(sums)
    }
}
