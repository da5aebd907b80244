//! The sockets that nodes and proxies listen on, and whom they turn away.

use crate::command::Engine;
use crate::command::settings::{Name, Settings};
use crate::command::tls::Tls;
use crate::net::{Listener, Peer};
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::io;

/// TLS as the settings say it.
pub(super) fn tls(settings: &Settings) -> io::Result<Tls> {
    Tls::of(settings).map_err(|wrong| io::Error::new(io::ErrorKind::InvalidInput, wrong))
}

/// Open all sockets the settings name, but for those that were inherited open, by their names.
pub(super) fn open(settings: &Settings, inherited: &mut HashMap<String, OwnedFd>) -> io::Result<Vec<Listener>> {
    let backlog = settings.number(Name::tcp_backlog) as i32;
    let mut listeners = Vec::new();
    for (port, secure) in [(settings.number(Name::port), false), (settings.number(Name::tls_port), true)] {
        let port = port as u16;
        if port == 0 {
            continue;
        }
        for address in settings.text(Name::bind).split_whitespace() {
            // Redis' convention: an address with a minus may be missing on this host.
            let (address, optional) = address.strip_prefix('-').map_or((address, false), |rest| (rest, true));
            let opened = match inherited.remove(&format!("{address}:{port}")) {
                Some(socket) => Ok(Listener::inherited(socket, &format!("{address}:{port}"))),
                None => Listener::tcp(address, port, backlog),
            };
            match opened {
                Ok(listener) => listeners.push(if secure { listener.secured() } else { listener }),
                Err(_) if optional => {}
                Err(error) => return Err(named(error, &format!("{address}:{port}"))),
            }
        }
    }
    let path = settings.text(Name::unixsocket);
    if !path.is_empty() {
        let mode = u32::from_str_radix(settings.text(Name::unixsocketperm), 8).unwrap_or(0o700);
        listeners.push(match inherited.remove(path) {
            Some(socket) => Listener::inherited(socket, path),
            None => Listener::unix(path, mode, backlog).map_err(|error| named(error, path))?,
        });
    }
    if listeners.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "nothing to listen on: set port, tls-port or unixsocket",
        ));
    }
    Ok(listeners)
}

fn named(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// What a connection is told that is not served: too many beside so many clients, or from outside while there is no password.
pub(super) fn refusal(engine: &Engine, clients: usize, peer: &Peer) -> Option<&'static [u8]> {
    let settings = &engine.settings;
    if clients >= settings.size(Name::maxclients) {
        return Some(b"-ERR max number of clients reached\r\n");
    }
    if settings.is_on(Name::protected_mode) && engine.users.open() && !peer.from_here {
        return Some(
            b"-DENIED FastCache runs in protected mode: no password is set, so only clients of its own host are \
              served. Set requirepass, or protected-mode no where the network is trusted.\r\n",
        );
    }
    None
}
