//! Connections that we open: started without waiting, told by the poll when they stand.

use super::Moved;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Begin to connect over TCP.
pub fn tcp(host: &str, port: u16) -> io::Result<OwnedFd> {
    // Names are looked up once, when a topology arrives, never here: only addresses come this far.
    let address: SocketAddr = (host, port)
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")))?;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, FLAGS, None)?;
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    started(rustix::net::connect(&socket, &address))?;
    Ok(socket)
}

/// Connect to a Unix socket.
pub fn unix(path: &str) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    started(rustix::net::connect(&socket, &SocketAddrUnix::new(path)?))?;
    Ok(socket)
}

fn started(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a connection that was begun stands now; [`Moved::Gone`] when it failed.
pub fn outcome(socket: impl AsFd) -> Moved {
    match sockopt::socket_error(socket.as_fd()) {
        Ok(Ok(())) => Moved::Bytes(0),
        _ => Moved::Gone,
    }
}
