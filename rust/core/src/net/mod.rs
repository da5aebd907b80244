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
