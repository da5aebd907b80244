//! The only module that opens sockets: listening, accepting, reading, writing, waiting.

pub mod connect;
pub mod listen;
pub mod poll;
pub mod stream;
pub mod tls;

pub use listen::{Listener, Peer};
pub use poll::{Interest, Poll, Ready, Waker};
pub use stream::Stream;

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Have a descriptor outlive `exec`; returns its number.
pub fn keep_over_exec(socket: &impl AsFd) -> i32 {
    let socket = socket.as_fd();
    // It cannot fail for a descriptor that is open.
    let _ = rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty());
    rustix::fd::AsRawFd::as_raw_fd(&socket)
}

/// Have a descriptor that came over `exec` go with the next one, and not wait when it is read.
pub fn own_again(socket: &impl AsFd) {
    let _ = rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC);
    let _ = rustix::io::ioctl_fionbio(socket, true);
}

/// What an attempt to read or write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now; the socket tells when to try again.
    NotNow,
    /// The peer has gone, or the connection failed.
    Gone,
}

/// Read what has arrived into `buffer`.
#[inline]
pub fn read(socket: &OwnedFd, buffer: &mut [u8]) -> Moved {
    match rustix::net::recv(socket.as_fd(), buffer, RecvFlags::empty()) {
        Ok((0, _)) => Moved::Gone,
        Ok((count, _)) => Moved::Bytes(count),
        Err(Errno::AGAIN | Errno::INTR) => Moved::NotNow,
        Err(_) => Moved::Gone,
    }
}

/// Read what has arrived behind what `buffer` holds, at most `most` bytes.
pub fn read_more(socket: &OwnedFd, buffer: &mut Vec<u8>, most: usize) -> Moved {
    buffer.reserve(most);
    match rustix::io::read(socket.as_fd(), rustix::buffer::spare_capacity(buffer)) {
        Ok(0) => Moved::Gone,
        Ok(count) => Moved::Bytes(count),
        Err(Errno::AGAIN | Errno::INTR) => Moved::NotNow,
        Err(_) => Moved::Gone,
    }
}

/// Write as much of `bytes` as the socket takes.
#[inline]
pub fn write(socket: &OwnedFd, bytes: &[u8]) -> Moved {
    match rustix::net::send(socket.as_fd(), bytes, SendFlags::NOSIGNAL) {
        Ok(count) => Moved::Bytes(count),
        Err(Errno::AGAIN | Errno::INTR) => Moved::NotNow,
        Err(_) => Moved::Gone,
    }
}
