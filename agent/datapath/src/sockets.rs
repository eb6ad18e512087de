//! What the proxy asks of the kernel side for single sockets: where a captured one was going, how one
//! of its own is seen, which answer a pod's questions for names.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use agent_net::{NAME_SERVERS, NamePlace, NameSockets, NetnsCookie, OriginalDst, SocketTags};
use ebpf_common::{ClientKey, NAME_PORT, SocketAddress, SocketState, role};

use crate::address;
use crate::datapath::Datapath;

impl OriginalDst for Datapath {
    fn original_dst(&self, pod: NetnsCookie, client: SocketAddr) -> Option<SocketAddr> {
        let key = ClientKey {
            netns: pod.0,
            client: address::to_kernel(client),
            pad: 0,
        };
        let entry = self.tables.original.get(&key).ok()??;
        address::from_kernel(entry.address)
    }
}

impl SocketTags for Datapath {
    fn exempt(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.tables.mark(
            socket,
            &SocketState {
                role: role::EXEMPT,
                address: SocketAddress::default(),
            },
        )
    }

    fn show_client(&self, socket: BorrowedFd<'_>, client: SocketAddr) -> io::Result<()> {
        self.tables.mark(
            socket,
            &SocketState {
                role: role::DIAL,
                address: address::to_kernel(client),
            },
        )
    }
}

impl NameSockets for Datapath {
    fn serve_names(
        &self,
        pod: NetnsCookie,
        place: NamePlace,
        socket: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.must_own().map_err(io::Error::other)?;
        let descriptor = socket.as_raw_fd() as u32;
        self.tables
            .name_sockets
            .put(&to_kernel_place(pod, place), &descriptor)
    }

    fn leave_names(&self, pod: NetnsCookie) -> io::Result<()> {
        self.must_own().map_err(io::Error::other)?;
        for slot in 0..NAME_SERVERS {
            for is_ipv4 in [true, false] {
                let place = NamePlace { slot, is_ipv4 };
                self.tables
                    .name_sockets
                    .remove(&to_kernel_place(pod, place))?;
            }
        }
        Ok(())
    }

    fn name_server(&self, pod: NetnsCookie, place: NamePlace) -> Option<IpAddr> {
        let key = to_kernel_place(pod, place);
        let ip = self.tables.servers.get(&key).ok()??;
        let server = address::from_kernel(SocketAddress {
            ip,
            port: u32::from(NAME_PORT),
        })?;
        Some(server.ip().to_canonical())
    }
}

fn to_kernel_place(pod: NetnsCookie, place: NamePlace) -> ebpf_common::NamePlace {
    ebpf_common::NamePlace {
        netns: pod.0,
        slot: place.slot,
        is_ipv4: u32::from(place.is_ipv4),
    }
}
