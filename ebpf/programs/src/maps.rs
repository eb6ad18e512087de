//! The maps, and the few operations every program needs on them. Kinds and sizes are
//! [`ebpf_common::TABLES`].

use core::ffi::c_void;
use core::ptr::{self, NonNull};

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, SkStorage, SockHash};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use ebpf_common::{
    Approval, ClientKey, FlowKey, Ip, Listener, NO_PREALLOC, NamePlace, OriginalDestination,
    OwnKey, Peer, Pod, Settings, SocketState, counter, sizes,
};

/// What each socket is to us.
#[btf_map]
pub(crate) static SOCKET: SkStorage<SocketState> = SkStorage::new();

/// Enrolled pods by cookie of their network namespace.
#[btf_map]
pub(crate) static PODS: HashMap<u64, Pod, { sizes::PODS }, NO_PREALLOC> = HashMap::new();

/// Every address of every enrolled pod.
#[btf_map]
pub(crate) static OWN: HashMap<OwnKey, u32, { sizes::OWN }, NO_PREALLOC> = HashMap::new();

/// Routable addresses of this node's pods, with the cookie of the pod's namespace.
#[btf_map]
pub(crate) static LOCAL: HashMap<Ip, u64, { sizes::LOCAL }, NO_PREALLOC> = HashMap::new();

/// The pods' listeners. An entry goes away with its socket.
#[btf_map]
pub(crate) static LISTENERS: SockHash<Listener, { sizes::LISTENERS }> = SockHash::new();

/// Where captured connections wanted to go.
#[btf_map]
pub(crate) static ORIG: HashMap<ClientKey, OriginalDestination, { sizes::ORIG }, NO_PREALLOC> =
    HashMap::new();

/// Clients to show to applications that have not accepted yet.
#[btf_map]
pub(crate) static PEER: HashMap<FlowKey, Peer, { sizes::PEER }, NO_PREALLOC> = HashMap::new();

/// Connections of the host to pods that have not been accepted yet.
#[btf_map]
pub(crate) static APPROVED: HashMap<FlowKey, Approval, { sizes::APPROVED }, NO_PREALLOC> =
    HashMap::new();

/// The sockets that take pods' name queries. An entry goes away with its socket.
#[btf_map]
pub(crate) static NAME_SOCKETS: SockHash<NamePlace, { sizes::NAME_SOCKETS }> = SockHash::new();

/// The name server that a name socket stands for.
#[btf_map]
pub(crate) static SERVERS: HashMap<NamePlace, Ip, { sizes::NAME_SOCKETS }, NO_PREALLOC> =
    HashMap::new();

/// The one entry with what the programs need to know of the node.
#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

/// Events counted, a slot each ([`counter`]).
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { counter::SLOTS as usize }> = PerCpuArray::new();

/// Counts one event.
#[inline(always)]
pub(crate) fn count(slot: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the slot belongs to this CPU and the verifier checked the pointer.
        unsafe { *value += 1 }
    }
}

/// Counts an insert that failed.
#[inline(always)]
pub(crate) fn written(result: Result<(), i32>) {
    if result.is_err() {
        count(counter::INSERT_FAILED);
    }
}

/// The state of a socket, for program types whose context has no accessor of its own. With
/// `create`, a socket without state gets that value.
#[inline(always)]
pub(crate) fn socket_state(
    socket: *mut bpf_sock,
    create: Option<&mut SocketState>,
) -> Option<NonNull<SocketState>> {
    if socket.is_null() {
        return None;
    }
    let flags = if create.is_some() {
        u64::from(BPF_SK_STORAGE_GET_F_CREATE)
    } else {
        0
    };
    let value = create.map_or(ptr::null_mut(), ptr::from_mut);
    let map = (&raw const SOCKET).cast_mut().cast::<c_void>();
    // SAFETY: the helper checks the socket; it returns null or a pointer to a SocketState.
    NonNull::new(unsafe { bpf_sk_storage_get(map, socket.cast(), value.cast(), flags) }.cast())
}
