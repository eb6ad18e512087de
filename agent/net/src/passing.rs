//! Parcels over a unix stream socket: bytes and file descriptors, with lengths before them.
//!
//! A parcel is sixteen bytes (a magic word and three big-endian lengths), a header and a body.
//! The descriptors travel with the first of the sixteen bytes (`SCM_RIGHTS`, unix(7)). Header and
//! body differ in what they are for: the body may be a secret, and is wiped when dropped.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use zeroize::Zeroizing;

/// Descriptors of one parcel at most; the kernel takes 253 (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 250;
/// What the kernel may give at once, so that nothing is ever cut off unseen.
const KERNEL_DESCRIPTORS: usize = 253;
/// Longest header, in bytes.
pub const MAX_HEADER: usize = 4 << 20;
/// Longest body, in bytes.
pub const MAX_BODY: usize = 64 << 10;
/// Length of what comes before the header, in bytes.
pub const PREFIX: usize = 16;

const MAGIC: [u8; 4] = *b"CVHO";

/// What was sent at one time.
#[derive(Debug, Default)]
pub struct Parcel {
    /// What it is.
    pub header: Vec<u8>,
    /// Wiped when dropped.
    pub body: Zeroizing<Vec<u8>>,
    /// Descriptors of this process, closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

/// The lengths before a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Of the header, in bytes.
    pub header: usize,
    /// Of the body, in bytes.
    pub body: usize,
    /// How many descriptors there are.
    pub descriptors: usize,
}

impl Lengths {
    /// Reads them. Fails with `InvalidData` for another magic word and for more than a parcel may
    /// have.
    pub fn read(prefix: &[u8; PREFIX]) -> io::Result<Self> {
        let word = |at: usize| {
            let bytes = [prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]];
            u32::from_be_bytes(bytes) as usize
        };
        if prefix[..4] != MAGIC {
            return Err(invalid("not a parcel"));
        }
        Self {
            header: word(4),
            body: word(8),
            descriptors: word(12),
        }
        .checked()
    }

    /// The bytes that say so.
    pub fn write(&self) -> [u8; PREFIX] {
        let mut prefix = [0; PREFIX];
        prefix[..4].copy_from_slice(&MAGIC);
        for (at, length) in [(4, self.header), (8, self.body), (12, self.descriptors)] {
            prefix[at..at + 4].copy_from_slice(&(length as u32).to_be_bytes());
        }
        prefix
    }

    fn checked(self) -> io::Result<Self> {
        if self.header > MAX_HEADER || self.body > MAX_BODY || self.descriptors > MAX_DESCRIPTORS {
            return Err(invalid("a parcel that is too large"));
        }
        Ok(self)
    }
}

/// Sends a parcel. Blocks as long as the socket's write timeout; fails with `InvalidData` when it
/// is larger than may be.
pub fn send(
    mut stream: &UnixStream,
    header: &[u8],
    body: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let lengths = Lengths {
        header: header.len(),
        body: body.len(),
        descriptors: descriptors.len(),
    };
    let prefix = lengths.checked()?.write();
    let sent = send_with_descriptors(stream, &prefix, descriptors)?;
    stream.write_all(&prefix[sent..])?;
    stream.write_all(header)?;
    stream.write_all(body)
}

/// Receives a parcel. Blocks as long as the socket's read timeout; `UnexpectedEof` when the other
/// end closed. Descriptors that came with what is refused are closed.
pub fn receive(mut stream: &UnixStream) -> io::Result<Parcel> {
    let mut prefix = [0; PREFIX];
    let mut parcel = Parcel::default();
    let mut filled = 0;
    while filled < PREFIX {
        let read =
            receive_with_descriptors(stream, &mut prefix[filled..], &mut parcel.descriptors)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
    }
    let lengths = Lengths::read(&prefix)?;
    if parcel.descriptors.len() != lengths.descriptors {
        return Err(invalid(
            "a parcel with fewer or more descriptors than it says",
        ));
    }
    parcel.header = vec![0; lengths.header];
    stream.read_exact(&mut parcel.header)?;
    parcel.body = Zeroizing::new(vec![0; lengths.body]);
    stream.read_exact(&mut parcel.body)?;
    Ok(parcel)
}

fn send_with_descriptors(
    stream: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[] } else { &rights[..] };
    loop {
        let sent = sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

fn receive_with_descriptors(
    stream: &UnixStream,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut control = nix::cmsg_space!([RawFd; KERNEL_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = loop {
        match recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            result => break result?,
        }
    };
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            descriptors.extend(raw.into_iter().map(owned));
        }
    }
    Ok(received.bytes)
}

fn owned(raw: RawFd) -> OwnedFd {
    // SAFETY: recvmsg just made this descriptor for us alone.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Seek;
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    fn descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn what_is_sent_is_received_descriptors_and_all() {
        let (near, far) = pair();
        let path = std::env::temp_dir().join(format!("culvert-passing-{}", std::process::id()));
        let mut file = File::create_new(&path).unwrap();
        let files = vec![file.as_fd(); MAX_DESCRIPTORS];
        send(&near, b"header", b"body", &files).unwrap();
        send(&near, b"", b"", &[]).unwrap();
        let parcel = receive(&far).unwrap();
        assert_eq!(parcel.header, b"header");
        assert_eq!(**parcel.body, *b"body");
        assert_eq!(parcel.descriptors.len(), MAX_DESCRIPTORS);
        // The same file, not one that looks like it.
        let mut last = File::from(parcel.descriptors.into_iter().next_back().unwrap());
        last.write_all(b"seen").unwrap();
        assert_eq!(file.stream_position().unwrap(), 4);
        std::fs::remove_file(path).unwrap();
        let empty = receive(&far).unwrap();
        assert!(empty.header.is_empty() && empty.descriptors.is_empty());
        drop(near);
        let end = receive(&far).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_too_large_is_neither_sent_nor_received() {
        let (near, far) = pair();
        let large = vec![0; MAX_BODY + 1];
        assert!(send(&near, b"", &large, &[]).is_err());
        let many = vec![far.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(send(&near, b"", b"", &many).is_err());
        let mut prefix = Lengths {
            header: MAX_HEADER,
            body: MAX_BODY,
            descriptors: MAX_DESCRIPTORS,
        }
        .write();
        assert!(Lengths::read(&prefix).is_ok());
        for at in [7, 11, 15] {
            prefix[at] += 1;
            assert!(Lengths::read(&prefix).is_err());
            prefix[at] -= 1;
        }
        prefix[0] = 0;
        assert!(Lengths::read(&prefix).is_err());
    }

    #[test]
    fn a_parcel_that_lies_about_its_descriptors_is_refused_and_they_are_closed() {
        let (near, far) = pair();
        let before = descriptors();
        for (said, sent) in [(2, 1), (0, 2), (1, 0)] {
            let prefix = Lengths {
                header: 0,
                body: 0,
                descriptors: said,
            }
            .write();
            let files = vec![near.as_fd(); sent];
            send_with_descriptors(&near, &prefix, &files).unwrap();
            let error = receive(&far).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        // Other tests of this process open descriptors too, but not for long.
        for _ in 0..100 {
            if descriptors() <= before {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{} descriptors, {before} before", descriptors());
    }

    #[test]
    fn a_parcel_that_ends_early_is_an_end() {
        let whole = {
            let (near, mut far) = pair();
            send(&near, b"head", b"body", &[]).unwrap();
            drop(near);
            let mut bytes = Vec::new();
            far.read_to_end(&mut bytes).unwrap();
            bytes
        };
        for length in 0..whole.len() {
            let (mut near, far) = pair();
            near.write_all(&whole[..length]).unwrap();
            drop(near);
            let end = receive(&far).unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof, "{length}");
        }
    }
}
