//! A client's connection: its socket, with TLS over it or without.
//!
//! Whoever reads and writes need not know which. What both keep to: a read that brings less than was asked for has
//! taken all that the socket held, and a write that brought [`Moved::NotNow`] is tried again with the same bytes
//! first.

use super::Moved;
use super::tls::{Acceptor, Session};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// See the module's page.
pub enum Stream {
    /// Bytes as they are.
    Plain(OwnedFd),
    /// Bytes under TLS.
    Secure(OwnedFd, Box<Session>),
}

impl From<OwnedFd> for Stream {
    fn from(socket: OwnedFd) -> Stream {
        Stream::Plain(socket)
    }
}

impl AsFd for Stream {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Plain(socket) | Stream::Secure(socket, _) => socket.as_fd(),
        }
    }
}

impl Stream {
    /// TLS over a socket that was accepted.
    pub fn secure(socket: OwnedFd, acceptor: &Acceptor) -> std::io::Result<Stream> {
        Ok(Stream::Secure(socket, Box::new(acceptor.session()?)))
    }

    /// Read what has arrived into `buffer`.
    #[inline]
    pub fn read(&mut self, buffer: &mut [u8]) -> Moved {
        match self {
            Stream::Plain(socket) => super::read(socket, buffer),
            Stream::Secure(socket, session) => session.read(socket, buffer),
        }
    }

    /// Read what has arrived behind what `buffer` holds, at most `most` bytes.
    pub fn read_more(&mut self, buffer: &mut Vec<u8>, most: usize) -> Moved {
        match self {
            Stream::Plain(socket) => super::read_more(socket, buffer, most),
            Stream::Secure(socket, session) => {
                let before = buffer.len();
                buffer.resize(before + most, 0);
                let moved = session.read(socket, &mut buffer[before..]);
                buffer.truncate(before + if let Moved::Bytes(count) = moved { count } else { 0 });
                moved
            }
        }
    }

    /// Bytes that were read from the socket and found no room with the reader: it must read again, whatever the
    /// socket says. (Who reads until less comes than was asked for does so anyway.)
    #[inline]
    pub fn holds_more(&self) -> bool {
        matches!(self, Stream::Secure(_, session) if session.holds_more())
    }

    /// Write as much of `bytes` as the socket takes.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> Moved {
        match self {
            Stream::Plain(socket) => super::write(socket, bytes),
            Stream::Secure(socket, session) => session.write(socket, bytes),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Stream::Secure(socket, session) = self {
            session.say_goodbye(socket); // So that the peer can tell an end from a cut.
        }
    }
}
