//! The calls of bpf(2) that aya has no form for: update of a link in place, test runs, typed
//! tables without a lock. Numbers and layouts are those of `linux/bpf.h`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `BPF_F_REPLACE`: an update only succeeds over the program named.
const REPLACE: u32 = 1 << 2;
/// `BPF_F_BEFORE`: a new cgroup link runs before those that exist.
const BEFORE: u32 = 1 << 3;

/// Where a program can be attached (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AttachPoint {
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    SendMsg4 = 14,
    SendMsg6 = 15,
    RecvMsg4 = 19,
    RecvMsg6 = 20,
    GetPeerName4 = 29,
    GetPeerName6 = 30,
    SkLookup = 36,
}

/// What the kernel says of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapShape {
    pub(crate) kind: u32,
    pub(crate) key: u32,
    pub(crate) value: u32,
    pub(crate) entries: u32,
    pub(crate) flags: u32,
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkTarget {
    /// A cgroup by id (0: gone).
    Cgroup { id: u64, attach_type: u32 },
    /// A network namespace by inode number (0: gone).
    Netns { inode: u32, attach_type: u32 },
    /// A link of another kind.
    Other,
}

/// A link's program and where it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) program: u32,
    pub(crate) target: LinkTarget,
}

#[derive(Clone, Copy)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    Pin = 6,
    Get = 7,
    TestRun = 10,
    ProgramById = 13,
    Info = 15,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

fn bpf<A>(command: Command, attr: &mut A) -> io::Result<RawFd> {
    // SAFETY: attr is a repr(C) prefix of union bpf_attr of the size given; the pointers in it
    // are made from references that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as RawFd)
    }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel just returned this descriptor to us alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn address<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<u8>() as u64
}

#[repr(C)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens a pinned object.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr {
        path: address(path.as_bytes_with_nul()),
        fd: 0,
        flags: 0,
    };
    bpf(Command::Get, &mut attr).map(owned)
}

/// Pins an object.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr {
        path: address(path.as_bytes_with_nul()),
        fd: object.as_raw_fd() as u32,
        flags: 0,
    };
    bpf(Command::Pin, &mut attr).map(drop)
}

#[repr(C)]
struct MapCreateAttr {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

/// Makes a map.
pub(crate) fn create_map(shape: &MapShape) -> io::Result<OwnedFd> {
    let mut attr = MapCreateAttr {
        kind: shape.kind,
        key: shape.key,
        value: shape.value,
        entries: shape.entries,
        flags: shape.flags,
    };
    bpf(Command::MapCreate, &mut attr).map(owned)
}

#[repr(C)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    revision: u64,
}

/// Attaches a program. Connect programs ask to run before others, so that they see service
/// addresses that another program would rewrite; where the kernel cannot, they run last.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    point: AttachPoint,
) -> io::Result<OwnedFd> {
    let create = |flags| {
        let mut attr = LinkCreateAttr {
            program: program.as_raw_fd() as u32,
            target: target.as_raw_fd() as u32,
            attach_type: point as u32,
            flags,
            relative: 0,
            pad: 0,
            revision: 0,
        };
        bpf(Command::LinkCreate, &mut attr).map(owned)
    };
    let rewrites = matches!(
        point,
        AttachPoint::Connect4
            | AttachPoint::Connect6
            | AttachPoint::SendMsg4
            | AttachPoint::SendMsg6
    );
    if rewrites {
        match create(BEFORE) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(0),
            result => result,
        }
    } else {
        create(0)
    }
}

#[repr(C)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Puts `program` into a link in the place of `old`; there is no moment with neither. Fails with
/// EPERM when another program is there by now.
pub(crate) fn replace(
    link: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    old: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link: link.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        flags: REPLACE,
        old_program: old.as_raw_fd() as u32,
    };
    bpf(Command::LinkUpdate, &mut attr).map(drop)
}

/// Detaches a link, whoever holds it.
pub(crate) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd() as u32;
    bpf(Command::LinkDetach, &mut attr).map(drop)
}

#[repr(C)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

/// Opens a program by id.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr {
        id,
        next: 0,
        flags: 0,
    };
    bpf(Command::ProgramById, &mut attr).map(owned)
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

fn info<T>(object: BorrowedFd<'_>, value: &mut T) -> io::Result<()> {
    let mut attr = InfoAttr {
        fd: object.as_raw_fd() as u32,
        len: size_of::<T>() as u32,
        info: std::ptr::from_mut(value) as u64,
    };
    bpf(Command::Info, &mut attr).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct RawMapInfo {
    kind: u32,
    id: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

/// The shape of a map. Fails with EINVAL for what is not a map.
pub(crate) fn map_shape(map: BorrowedFd<'_>) -> io::Result<MapShape> {
    let mut raw = RawMapInfo::default();
    info(map, &mut raw)?;
    Ok(MapShape {
        kind: raw.kind,
        key: raw.key,
        value: raw.value,
        entries: raw.entries,
        flags: raw.flags,
    })
}

#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    target: [u32; 4],
}

const LINK_CGROUP: u32 = 3;
const LINK_NETNS: u32 = 5;

/// Where a link is attached.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut raw = RawLinkInfo::default();
    info(link, &mut raw)?;
    let [first, second, third, _] = raw.target;
    let target = match raw.kind {
        LINK_CGROUP => LinkTarget::Cgroup {
            id: u64::from(second) << 32 | u64::from(first),
            attach_type: third,
        },
        LINK_NETNS => LinkTarget::Netns {
            inode: first,
            attach_type: second,
        },
        _ => LinkTarget::Other,
    };
    Ok(LinkInfo {
        program: raw.program,
        target,
    })
}

/// A packet for a test run of an `sk_lookup` program (`struct bpf_sk_lookup`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LookupContext {
    /// Answer: cookie of the socket selected, 0 for none.
    pub(crate) cookie: u64,
    pub(crate) family: u32,
    pub(crate) protocol: u32,
    pub(crate) remote_ip4: u32,
    pub(crate) remote_ip6: [u32; 4],
    /// Network byte order.
    pub(crate) remote_port: u16,
    pub(crate) pad: u16,
    pub(crate) local_ip4: u32,
    pub(crate) local_ip6: [u32; 4],
    /// Host byte order.
    pub(crate) local_port: u32,
    pub(crate) ingress_ifindex: u32,
    /// The kernel refuses a context whose tail is not zero, padding included.
    pub(crate) tail: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    program: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Runs an `sk_lookup` program on a packet that does not exist. The answer is whether it passed,
/// and the cookie of the socket it selected (0: none).
pub(crate) fn run_lookup(
    program: BorrowedFd<'_>,
    packet: &LookupContext,
) -> io::Result<(bool, u64)> {
    let mut answer = LookupContext::default();
    let size = size_of::<LookupContext>() as u32;
    let mut attr = TestRunAttr {
        program: program.as_raw_fd() as u32,
        repeat: 1,
        ctx_size_in: size,
        ctx_size_out: size,
        ctx_in: address(packet),
        ctx_out: std::ptr::from_mut(&mut answer) as u64,
        ..TestRunAttr::default()
    };
    bpf(Command::TestRun, &mut attr)?;
    Ok((attr.retval == 1, answer.cookie))
}

#[repr(C)]
struct ElementAttr {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn element<K: ?Sized>(map: BorrowedFd<'_>, key: &K, value: u64) -> ElementAttr {
    ElementAttr {
        map: map.as_raw_fd() as u32,
        pad: 0,
        key: address(key),
        value,
        flags: 0,
    }
}

/// Reads the value of `key` into `value`, which has the size the map gives. `None` when there is
/// no such key.
pub(crate) fn lookup<K, V: ?Sized>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &mut V,
) -> io::Result<Option<()>> {
    let value = std::ptr::from_mut(value).cast::<u8>() as u64;
    absent(bpf(Command::MapLookup, &mut element(map, key, value)))
}

/// Writes a value.
pub(crate) fn update<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    bpf(Command::MapUpdate, &mut element(map, key, address(value))).map(drop)
}

/// Removes a key. `None` when there was no such key.
pub(crate) fn delete<K>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<()>> {
    absent(bpf(Command::MapDelete, &mut element(map, key, 0)))
}

/// The key after `key` (the first for `None`). `None` at the end.
pub(crate) fn next_key<K: Default>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next = K::default();
    let mut attr = ElementAttr {
        map: map.as_fd().as_raw_fd() as u32,
        pad: 0,
        key: key.map_or(0, address),
        value: std::ptr::from_mut(&mut next) as u64,
        flags: 0,
    };
    Ok(absent(bpf(Command::MapNextKey, &mut attr))?.map(|()| next))
}

fn absent(result: io::Result<RawFd>) -> io::Result<Option<()>> {
    match result {
        Ok(_) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
