//! Listening sockets, TCP and Unix.

use super::stream::Stream;
use super::tls::Acceptor;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// A socket that accepts connections.
pub struct Listener {
    socket: OwnedFd,
    unix_path: Option<String>,
    secure: bool,
    /// What it listens on: `address:port` or a path.
    name: String,
}

/// A connection that was accepted.
pub struct Peer {
    /// Its connection.
    pub socket: Stream,
    /// Where it comes from, as `address:port`; a Unix socket's path and `:0`.
    pub address: String,
    /// Where it arrived.
    pub local_address: String,
    /// Came through a Unix socket.
    pub unix: bool,
    /// Comes from this very host.
    pub from_here: bool,
}

impl Peer {
    /// The socket's number, for people.
    pub fn number(&self) -> i32 {
        self.socket.as_fd().as_raw_fd()
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

impl Listener {
    /// Listen on a TCP address; a name may stand for several, the first is taken.
    pub fn tcp(address: &str, port: u16, backlog: i32) -> io::Result<Listener> {
        let name = format!("{address}:{port}");
        let address = if address == "*" { "0.0.0.0" } else { address };
        let address = (address, port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address")))?;
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::STREAM, FLAGS, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, backlog)?;
        Ok(Listener { socket, unix_path: None, secure: false, name })
    }

    /// Listen on a Unix socket with this access mode. A file left there by a process that has gone is replaced.
    pub fn unix(path: &str, mode: u32, backlog: i32) -> io::Result<Listener> {
        if let Ok(existing) = std::fs::symlink_metadata(path) {
            use std::os::unix::fs::FileTypeExt;
            if !existing.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{path} is there and is no socket")));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("another process listens on {path}")));
            }
            std::fs::remove_file(path)?;
        }
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
        // Nobody may connect between bind and chmod: the socket is born closed to all but its owner.
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = rustix::net::bind(&socket, &SocketAddrUnix::new(path)?);
        rustix::process::umask(before);
        bound?;
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
        rustix::net::listen(&socket, backlog)?;
        Ok(Listener { socket, unix_path: Some(path.to_owned()), secure: false, name: path.to_owned() })
    }

    /// One that listens already, on a TCP address or a path, left by the process before.
    pub fn inherited(socket: OwnedFd, name: &str) -> Listener {
        super::own_again(&socket);
        let unix_path = name.starts_with('/').then(|| name.to_owned());
        Listener { socket, unix_path, secure: false, name: name.to_owned() }
    }

    /// What it listens on, as it was asked for: `address:port`, or a path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same, for connections under TLS.
    pub fn secured(mut self) -> Listener {
        self.secure = true;
        self
    }

    /// The next connection that waits; `None` when there is none. `tls` begins TLS where it is spoken.
    pub fn accept(&self, keepalive: u64, tls: Option<&Acceptor>) -> io::Result<Option<Peer>> {
        let (socket, address) = match rustix::net::acceptfrom_with(&self.socket, FLAGS) {
            Ok(accepted) => accepted,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some(path) = &self.unix_path {
            let address = format!("{path}:0");
            return Ok(Some(Peer {
                socket: socket.into(),
                local_address: address.clone(),
                address,
                unix: true,
                from_here: true,
            }));
        }
        // These only tune; a connection that refuses them (it may be closed already) still works.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        if keepalive > 0 {
            let _ = sockopt::set_socket_keepalive(&socket, true);
            let _ = sockopt::set_tcp_keepidle(&socket, Duration::from_secs(keepalive));
            let _ = sockopt::set_tcp_keepintvl(&socket, Duration::from_secs((keepalive / 3).max(1)));
            let _ = sockopt::set_tcp_keepcnt(&socket, 3);
        }
        let address = address.and_then(|address| SocketAddr::try_from(address).ok());
        let local = rustix::net::getsockname(&socket).ok().and_then(|address| SocketAddr::try_from(address).ok());
        let text =
            |address: Option<SocketAddr>| address.map_or_else(|| "?:0".to_owned(), |address| address.to_string());
        Ok(Some(Peer {
            from_here: address.is_some_and(|address| address.ip().is_loopback()),
            address: text(address),
            local_address: text(local),
            socket: match tls {
                Some(acceptor) if self.secure => Stream::secure(socket, acceptor)?,
                None if self.secure => return Ok(None), // There is a port without a certificate: it was taken away.
                _ => socket.into(),
            },
            unix: false,
        }))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.unix_path {
            let _ = std::fs::remove_file(path);
        }
    }
}
