//! Telling the service manager how we are: the sd_notify protocol, without its library.
//!
//! One datagram per message to the socket that `NOTIFY_SOCKET` names. It is the only socket opened
//! outside `net`, because it belongs to the life of the process and not to its work.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Send `state`, such as `READY=1` or `WATCHDOG=1`; `Ok(false)` when no service manager listens.
pub fn notify(state: &str) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) if !socket.is_empty() => send(&socket, state).map(|()| true),
        _ => Ok(false),
    }
}

/// A name that begins with `@` lies in the abstract namespace, any other is a path.
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read must not stop us: losing a status line is the lesser harm.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_arrives_as_one_datagram_through_a_path_and_through_an_abstract_name() {
        let path = std::env::temp_dir().join(format!("notify-test-{}", std::process::id()));
        let name = format!("notify-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (receiver, address) in [(by_path, path.clone().into_os_string()), (by_name, format!("@{name}").into())] {
            send(&address, "READY=1\nSTATUS=serving").unwrap();
            let mut received = [0; 64];
            let length = receiver.recv(&mut received).unwrap();
            assert_eq!(&received[..length], b"READY=1\nSTATUS=serving");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_manager_that_is_gone_is_an_error_and_no_hang() {
        assert!(send(OsStr::new("/nowhere/at/all"), "READY=1").is_err());
    }
}
