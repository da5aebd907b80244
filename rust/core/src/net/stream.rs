//! A connection: its socket, with TLS over it or without.
//!
//! Whoever reads and writes need not know which. What both keep to: a read that brings less than was asked for has
//! taken all that the socket held, and a write that brought [`Moved::NotNow`] is tried again with the same bytes
//! first.

use super::Moved;
use super::tls::{Acceptor, Connector, Session};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;

/// See the module's page.
pub enum Stream {
    /// Bytes as they are.
    Plain(OwnedFd),
    /// Bytes under TLS, from whom we accepted.
    Secure(OwnedFd, Box<Session<UnbufferedServerConnection>>),
    /// Bytes under TLS, from whom we connected to.
    SecureOut(OwnedFd, Box<Session<UnbufferedClientConnection>>),
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
            Stream::Plain(socket) | Stream::Secure(socket, _) | Stream::SecureOut(socket, _) => socket.as_fd(),
        }
    }
}

impl Stream {
    /// TLS over a socket that was accepted.
    pub fn secure(socket: OwnedFd, acceptor: &Acceptor) -> std::io::Result<Stream> {
        Ok(Stream::Secure(socket, Box::new(acceptor.session()?)))
    }

    /// TLS over a socket with which we connect to `host`, where there is a connector.
    pub fn outgoing(socket: OwnedFd, host: &str, connector: Option<&Connector>) -> std::io::Result<Stream> {
        match connector {
            Some(connector) => Ok(Stream::SecureOut(socket, Box::new(connector.session(host)?))),
            None => Ok(Stream::Plain(socket)),
        }
    }

    /// Whether what is written now can reach the other side: not before TLS stands. Until then a write only helps to
    /// begin it, and is tried again after what was read.
    #[inline]
    pub fn stands(&self) -> bool {
        match self {
            Stream::Plain(_) => true,
            Stream::Secure(_, session) => session.stands(),
            Stream::SecureOut(_, session) => session.stands(),
        }
    }

    /// Read what has arrived into `buffer`.
    #[inline]
    pub fn read(&mut self, buffer: &mut [u8]) -> Moved {
        match self {
            Stream::Plain(socket) => super::read(socket, buffer),
            Stream::Secure(socket, session) => session.read(socket, buffer),
            Stream::SecureOut(socket, session) => session.read(socket, buffer),
        }
    }

    /// Read what has arrived behind what `buffer` holds, at most `most` bytes.
    pub fn read_more(&mut self, buffer: &mut Vec<u8>, most: usize) -> Moved {
        if let Stream::Plain(socket) = self {
            return super::read_more(socket, buffer, most);
        }
        let before = buffer.len();
        buffer.resize(before + most, 0);
        let moved = self.read(&mut buffer[before..]);
        buffer.truncate(before + if let Moved::Bytes(count) = moved { count } else { 0 });
        moved
    }

    /// Bytes that were read from the socket and found no room with the reader: it must read again, whatever the
    /// socket says. (Who reads until less comes than was asked for does so anyway.)
    #[inline]
    pub fn holds_more(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Secure(_, session) => session.holds_more(),
            Stream::SecureOut(_, session) => session.holds_more(),
        }
    }

    /// Write as much of `bytes` as the socket takes.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> Moved {
        match self {
            Stream::Plain(socket) => super::write(socket, bytes),
            Stream::Secure(socket, session) => session.write(socket, bytes),
            Stream::SecureOut(socket, session) => session.write(socket, bytes),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // So that the peer can tell an end from a cut.
        match self {
            Stream::Plain(_) => {}
            Stream::Secure(socket, session) => session.say_goodbye(socket),
            Stream::SecureOut(socket, session) => session.say_goodbye(socket),
        }
    }
}
