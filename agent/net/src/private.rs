//! Unix sockets of the agent's own: for root only, and one that replaces another at once.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{self, Mode};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A unix listener whose file has mode 0600 from its first moment. Dropped, it removes its file.
#[derive(Debug)]
pub struct PrivateListener {
    /// Accepts; non-blocking.
    pub listener: UnixListener,
    /// Its file.
    pub file: SocketFile,
}

impl PrivateListener {
    /// Listens at `path`. The folder is made when it is missing; a socket that is there is
    /// replaced, whoever has it open.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        // Bound under another name and renamed: there is always a socket at `path`, and an
        // earlier process does not remove ours when it ends.
        let draft = draft_name(path);
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = socket::socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        // Linux gives the file the mode of the socket it is bound from.
        stat::fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
        socket::bind(socket.as_raw_fd(), &UnixAddr::new(&draft)?)?;
        socket::listen(&socket, Backlog::new(BACKLOG)?)?;
        let inode = fs::symlink_metadata(&draft)?.ino();
        fs::rename(&draft, path)?;
        Ok(Self {
            listener: UnixListener::from(socket),
            file: SocketFile {
                path: path.to_owned(),
                inode,
            },
        })
    }

    /// Takes over a listener whose file at `path` another process made.
    pub fn inherit(listener: OwnedFd, path: &Path) -> io::Result<Self> {
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            file: SocketFile {
                path: path.to_owned(),
                inode: fs::symlink_metadata(path)?.ino(),
            },
        })
    }

    /// A second descriptor, for another process.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }
}

/// Removes the socket's file when dropped, unless another process has put its own there.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    /// Leaves the file to somebody else.
    pub fn leave(mut self) {
        self.inode = 0;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn draft_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn path(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("culvert-private-{}", std::process::id()));
        folder.join(name)
    }

    #[test]
    fn only_root_connects_and_nothing_is_left() {
        let path = path("root");
        let socket = PrivateListener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_later_process_keeps_what_it_put_there() {
        let path = path("later");
        let first = PrivateListener::bind(&path).unwrap();
        let second = PrivateListener::bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn an_heir_goes_on_with_the_same_socket() {
        let path = path("heir");
        let first = PrivateListener::bind(&path).unwrap();
        let waiting = UnixStream::connect(&path).unwrap();
        let second = PrivateListener::inherit(first.share().unwrap(), &path).unwrap();
        first.file.leave();
        drop(first.listener);
        second.listener.accept().unwrap();
        UnixStream::connect(&path).unwrap();
        drop((waiting, second));
        assert!(!path.exists());
    }
}
