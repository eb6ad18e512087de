//! Who may change the kernel side: the agent whose claim is the latest. Two agents can be alive at
//! a time (one hands over to the other, or one hangs and wakes up); the claim is pinned beside what
//! it guards, and every change asks for it before it is made.
//!
//! An agent that is stopped by force between the question and the change still makes that one
//! change when it wakes. Each is a single insert, remove or attachment of what was right then.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::bpffs::Pins;
use crate::error::DatapathError;
use crate::sys::{self, MapShape};

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;
/// How long a claim waits for another that is being made.
const PATIENCE: Duration = Duration::from_secs(1);

/// A claim, as the map holds it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Claim {
    /// Grows with every claim.
    generation: u64,
    /// Random: tells claims apart when the count began anew.
    token: u64,
}

const SHAPE: MapShape = MapShape {
    kind: ARRAY,
    key: size_of::<u32>() as u32,
    value: size_of::<Claim>() as u32,
    entries: 1,
    flags: 0,
};

/// This process's claim to the kernel side.
#[derive(Debug)]
pub(crate) struct Ownership {
    pin: PathBuf,
    mine: Mutex<Mine>,
}

/// What this process claimed.
#[derive(Debug, Default)]
struct Mine {
    /// `None`: ceded to a successor.
    now: Option<Claim>,
    /// The last one, ceded or not.
    last: Option<Claim>,
}

/// A claim just made, with the one it replaced.
#[derive(Debug)]
pub(crate) struct Claimed {
    before: Option<Claim>,
    made: Claim,
}

impl Ownership {
    /// Claims the kernel side; who had it changes nothing any more. The directories of `pins` must
    /// be there.
    pub(crate) fn claim(pins: &Pins) -> Result<(Self, Claimed), DatapathError> {
        let ownership = Self {
            pin: pins.claim(),
            mine: Mutex::default(),
        };
        let claimed = ownership.renew()?;
        Ok((ownership, claimed))
    }

    /// Claims again, over whoever has it now.
    pub(crate) fn renew(&self) -> Result<Claimed, DatapathError> {
        let renew = || -> io::Result<Claimed> {
            let _turn = self.lock_file()?;
            let (map, before) = match self.open() {
                Ok(map) => {
                    let before = read(&map)?;
                    (map, Some(before))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => (self.create()?, None),
                Err(error) => return Err(error),
            };
            let made = Claim {
                generation: before.unwrap_or_default().generation + 1,
                token: rand::random(),
            };
            sys::update(map.as_fd(), &0u32, &made)?;
            Ok(Claimed { before, made })
        };
        let claimed = renew().map_err(DatapathError::file(&self.pin))?;
        *self.mine() = Mine {
            now: Some(claimed.made),
            last: Some(claimed.made),
        };
        Ok(claimed)
    }

    /// Claims again after [`Self::cede`]; true when somebody else made a claim meanwhile.
    pub(crate) fn renew_after_others(&self) -> Result<bool, DatapathError> {
        let last = self.mine().last;
        Ok(self.renew()?.before != last)
    }

    /// Gives the claim up: this process changes nothing any more, whoever comes.
    pub(crate) fn cede(&self) {
        self.mine().now = None;
    }

    /// Puts back what a claim replaced, unless somebody made one since.
    pub(crate) fn take_back(&self, claimed: &Claimed) {
        let put_back = || -> io::Result<()> {
            let _turn = self.lock_file()?;
            let map = self.open()?;
            if read(&map)? != claimed.made {
                return Ok(());
            }
            match &claimed.before {
                Some(before) => sys::update(map.as_fd(), &0u32, before),
                None => std::fs::remove_file(&self.pin),
            }
        };
        self.cede();
        if let Err(error) = put_back() {
            tracing::warn!(%error, "a claim could not be taken back");
        }
    }

    /// Fails when the claim was ceded, another agent made a later one, or the pin is gone.
    pub(crate) fn check(&self) -> Result<(), DatapathError> {
        let mine = self.mine().now;
        let now = match self.open().and_then(|map| read(&map)) {
            Ok(now) => Some(now),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DatapathError::Unpinned);
            }
            Err(error) => return Err(DatapathError::file(&self.pin)(error)),
        };
        if mine.is_some() && mine == now {
            return Ok(());
        }
        Err(DatapathError::Superseded {
            generation: now.unwrap_or_default().generation,
        })
    }

    /// Number of this process's claim; 0 when it was ceded.
    pub(crate) fn generation(&self) -> u64 {
        self.mine().now.unwrap_or_default().generation
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let map = sys::open(&self.pin)?;
        if sys::map_shape(map.as_fd())? != SHAPE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a map of claims",
            ));
        }
        Ok(map)
    }

    fn create(&self) -> io::Result<OwnedFd> {
        let map = sys::create_map(&SHAPE)?;
        sys::pin(map.as_fd(), &self.pin)?;
        Ok(map)
    }

    /// One claim at a time. Not for ever: who holds the lock may have been stopped, and the later
    /// of two claims is good in any case.
    fn lock_file(&self) -> io::Result<File> {
        let folder = self.pin.parent().unwrap_or(&self.pin);
        let file = File::open(folder)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    fn mine(&self) -> MutexGuard<'_, Mine> {
        self.mine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(map: &OwnedFd) -> io::Result<Claim> {
    let mut claim = Claim::default();
    sys::lookup(map.as_fd(), &0u32, &mut claim)?;
    Ok(claim)
}
