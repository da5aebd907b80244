//! TLS over sockets, by rustls: those that were accepted and those that we connect. It is told which bytes came and says which to send; sockets stay here.
//!
//! Records are taken apart where they lie, in a buffer that all connections of a thread share; a connection keeps only
//! a record that is not whole, and what its reader had no room for.

use super::Moved;
use rustix::fd::OwnedFd;
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use std::cell::RefCell;
use std::io;
use std::sync::Arc;

/// What is asked of clients' certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// Nothing.
    Unasked,
    /// One may be shown; it must then be good.
    Optional,
    /// There must be one.
    Required,
}

/// Files and choices, as the settings name them.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a> {
    /// The server's certificate and those between it and a known one (PEM).
    pub certificate: &'a str,
    /// Its key (PEM).
    pub key: &'a str,
    /// Who signs clients' certificates (PEM).
    pub authority: &'a str,
    /// What is asked of clients.
    pub clients: Certificates,
    /// `TLSv1.2`, `TLSv1.3`, or both; empty for both.
    pub protocols: &'a str,
}

/// Begins TLS on connections, with the certificate that was current when it was made.
#[derive(Clone)]
pub struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    /// Read the files and check that they fit together. The error says what is wrong with which.
    pub fn new(choices: &Choices<'_>) -> Result<Acceptor, String> {
        if choices.certificate.is_empty() || choices.key.is_empty() {
            return Err("tls-cert-file and tls-key-file must be set for TLS".into());
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(choices.protocols)?)
            .map_err(|error| error.to_string())?;
        let builder = if choices.clients == Certificates::Unasked {
            builder.with_no_client_auth()
        } else {
            if choices.authority.is_empty() {
                return Err("tls-ca-cert-file must be set, or tls-auth-clients be no".into());
            }
            let known = authorities(choices.authority)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(known), provider);
            let verifier =
                if choices.clients == Certificates::Optional { verifier.allow_unauthenticated() } else { verifier };
            builder
                .with_client_cert_verifier(verifier.build().map_err(|error| format!("{}: {error}", choices.authority))?)
        };
        let key = PrivateKeyDer::from_pem_file(choices.key).map_err(|error| format!("{}: {error}", choices.key))?;
        let mut config = builder
            .with_single_cert(certificates(choices.certificate)?, key)
            .map_err(|error| format!("{} and {}: {error}", choices.certificate, choices.key))?;
        config.ticketer = ring::Ticketer::new().map_err(|error| error.to_string())?;
        Ok(Acceptor(Arc::new(config)))
    }

    /// TLS on one connection, not yet begun.
    pub fn session(&self) -> io::Result<Session<UnbufferedServerConnection>> {
        Ok(Session::of(UnbufferedServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?))
    }
}

/// Begins TLS on connections that we open. Who answers must have a certificate for the address that was asked for, and
/// is shown ours.
#[derive(Clone)]
pub struct Connector(Arc<ClientConfig>);

impl Connector {
    /// Read the files and check that they fit together. The error says what is wrong with which.
    pub fn new(choices: &Choices<'_>) -> Result<Connector, String> {
        if choices.authority.is_empty() {
            return Err("tls-ca-cert-file must be set for tls-cluster".into());
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&versions(choices.protocols)?)
            .map_err(|error| error.to_string())?
            .with_root_certificates(authorities(choices.authority)?);
        if choices.certificate.is_empty() || choices.key.is_empty() {
            return Ok(Connector(Arc::new(builder.with_no_client_auth())));
        }
        let key = PrivateKeyDer::from_pem_file(choices.key).map_err(|error| format!("{}: {error}", choices.key))?;
        let config = builder
            .with_client_auth_cert(certificates(choices.certificate)?, key)
            .map_err(|error| format!("{} and {}: {error}", choices.certificate, choices.key))?;
        Ok(Connector(Arc::new(config)))
    }

    /// TLS on one connection to `host`; what begins it waits to be sent.
    pub fn session(&self, host: &str) -> io::Result<Session<UnbufferedClientConnection>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connection = UnbufferedClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
        let mut session = Session::of(connection);
        match session.take(&mut [], &mut [], &mut 0) {
            Ok(_) => Ok(session),
            Err(Over) => Err(io::Error::other("TLS cannot be begun")),
        }
    }
}

fn authorities(path: &str) -> Result<RootCertStore, String> {
    let mut known = RootCertStore::empty();
    for certificate in certificates(path)? {
        known.add(certificate).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(known)
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| format!("{path}: {error}"))?;
    if all.is_empty() { Err(format!("{path}: there is no certificate in it")) } else { Ok(all) }
}

fn versions(names: &str) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    if names.trim().is_empty() {
        return Ok(vec![&version::TLS13, &version::TLS12]);
    }
    names
        .split_whitespace()
        .map(|name| match name {
            _ if name.eq_ignore_ascii_case("TLSv1.3") => Ok(&version::TLS13),
            _ if name.eq_ignore_ascii_case("TLSv1.2") => Ok(&version::TLS12),
            _ => Err(format!("tls-protocols: {name} is none of TLSv1.2, TLSv1.3")),
        })
        .collect()
}

/// Read from a socket at once: a few records.
const PIECE: usize = 64 * 1024;
/// A record, and what a handshake may keep unfinished.
const LONGEST_PARTIAL: usize = 128 * 1024;
/// Encrypted at once.
const MOST: usize = 128 * 1024;
const RECORD: usize = 16 * 1024;
const OVERHEAD: usize = 64;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One of the two sides of a connection, as rustls has them.
pub trait Side {
    /// What it keeps.
    type Data;
    /// Hand over what came, and learn what is next.
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Side for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// TLS on one connection.
pub struct Session<C: Side> {
    connection: C,
    partial: Vec<u8>, // A record that has not come whole.
    plain: Vec<u8>,   // What was read and found no room.
    out: Vec<u8>,     // Records that the socket did not take yet.
    taken: usize,     // How much of what is to be written stands in `out` and was not reported as written.
    established: bool,
    ended: bool,
}

/// The connection is broken or over.
struct Over;

impl<C: Side> Session<C> {
    fn of(connection: C) -> Session<C> {
        Session {
            connection,
            partial: Vec::new(),
            plain: Vec::new(),
            out: Vec::new(),
            taken: 0,
            established: false,
            ended: false,
        }
    }

    /// Whether both sides know each other, so that bytes can be written.
    pub fn stands(&self) -> bool {
        self.established
    }

    /// See [`super::stream::Stream::read`].
    pub fn read(&mut self, socket: &OwnedFd, buffer: &mut [u8]) -> Moved {
        let mut got = self.plain.len().min(buffer.len());
        buffer[..got].copy_from_slice(&self.plain[..got]);
        self.plain.drain(..got);
        if self.plain.is_empty() && self.plain.capacity() > RECORD {
            self.plain = Vec::new();
        }
        let over = SHARED.with_borrow_mut(|shared| {
            while got < buffer.len() && !self.ended {
                let kept = self.partial.len();
                if shared.len() < kept + PIECE {
                    shared.resize(kept + PIECE, 0);
                }
                shared[..kept].copy_from_slice(&self.partial);
                let count = match super::read(socket, &mut shared[kept..kept + PIECE]) {
                    Moved::NotNow => return Ok(()),
                    Moved::Gone => return Err(Over),
                    Moved::Bytes(count) => count,
                };
                let used = self.take(&mut shared[..kept + count], buffer, &mut got);
                let sent = self.send(socket);
                let used = used?;
                sent?;
                let rest = &shared[used..kept + count];
                if rest.len() > LONGEST_PARTIAL {
                    return Err(Over);
                }
                self.partial.clear();
                self.partial.extend_from_slice(rest);
                if rest.is_empty() && self.partial.capacity() > 4096 {
                    self.partial = Vec::new();
                }
                // A short read has emptied the socket. Where nothing came out of it for the reader, who would not
                // come back, it is read until it says so itself: behind half a record may be the end.
                if count < PIECE && got > 0 {
                    return Ok(());
                }
            }
            Ok(())
        });
        self.ended |= over.is_err();
        match over {
            _ if got > 0 => Moved::Bytes(got),
            Err(Over) => Moved::Gone,
            Ok(()) if self.ended => Moved::Gone,
            Ok(()) => Moved::NotNow,
        }
    }

    /// See [`super::stream::Stream::holds_more`].
    pub fn holds_more(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Take records apart; plain bytes go to `buffer` and what finds no room there is kept. Returns how many bytes are
    /// done with.
    fn take(&mut self, incoming: &mut [u8], buffer: &mut [u8], got: &mut usize) -> Result<usize, Over> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state, .. } = self.connection.process(&mut incoming[used..]);
            let mut idle = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut state)) => {
                    while let Some(record) = state.next_record() {
                        let Ok(record) = record else { return Err(Over) };
                        discard += record.discard;
                        let room = record.payload.len().min(buffer.len() - *got);
                        buffer[*got..*got + room].copy_from_slice(&record.payload[..room]);
                        *got += room;
                        self.plain.extend_from_slice(&record.payload[room..]);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut state)) => {
                    let before = self.out.len();
                    let mut room = 4096;
                    loop {
                        self.out.resize(before + room, 0);
                        match state.encode(&mut self.out[before..]) {
                            Ok(count) => {
                                self.out.truncate(before + count);
                                break;
                            }
                            Err(EncodeError::InsufficientSize(size)) if size.required_size > room => {
                                room = size.required_size;
                            }
                            Err(_) => {
                                self.out.truncate(before);
                                return Err(Over);
                            }
                        }
                    }
                }
                Ok(ConnectionState::TransmitTlsData(state)) => state.done(), // What was encoded is sent after this.
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.established = true;
                    idle = true;
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.ended = true;
                    idle = true;
                }
                Ok(_) => idle = true, // It waits for more bytes.
                Err(_) => {
                    // The peer is told why, as far as that can be put into a record.
                    let status = self.connection.process(&mut []);
                    if let Ok(ConnectionState::EncodeTlsData(mut state)) = status.state {
                        let before = self.out.len();
                        self.out.resize(before + 256, 0);
                        let count = state.encode(&mut self.out[before..]).unwrap_or(0);
                        self.out.truncate(before + count);
                    }
                    return Err(Over);
                }
            }
            used += discard;
            if idle {
                return Ok(used);
            }
        }
    }

    /// Send records that wait.
    fn send(&mut self, socket: &OwnedFd) -> Result<(), Over> {
        let mut sent = 0;
        let mut over = Ok(());
        while sent < self.out.len() {
            match super::write(socket, &self.out[sent..]) {
                Moved::Bytes(count) => sent += count,
                Moved::NotNow => break,
                Moved::Gone => {
                    over = Err(Over);
                    break;
                }
            }
        }
        if sent == self.out.len() {
            self.out.clear();
            if self.out.capacity() > 4 * RECORD {
                self.out = Vec::new();
            }
        } else {
            self.out.drain(..sent);
        }
        over
    }

    /// See [`super::stream::Stream::write`]. Bytes are reported as written when their records have gone; until then
    /// the caller offers them again, and they are not encrypted twice.
    pub fn write(&mut self, socket: &OwnedFd, bytes: &[u8]) -> Moved {
        if self.taken == 0 {
            if !self.established {
                // Who connects begins.
                return if self.send(socket).is_err() { Moved::Gone } else { Moved::NotNow };
            }
            let part = &bytes[..bytes.len().min(MOST)];
            let before = self.out.len();
            let mut room = part.len() + (part.len() / RECORD + 1) * OVERHEAD;
            let status = self.connection.process(&mut []);
            let Ok(ConnectionState::WriteTraffic(mut state)) = status.state else { return Moved::Gone };
            loop {
                self.out.resize(before + room, 0);
                match state.encrypt(part, &mut self.out[before..]) {
                    Ok(count) => {
                        self.out.truncate(before + count);
                        break;
                    }
                    Err(EncryptError::InsufficientSize(size)) if size.required_size > room => {
                        room = size.required_size;
                    }
                    Err(_) => return Moved::Gone,
                }
            }
            self.taken = part.len();
        }
        match self.send(socket) {
            Err(Over) => Moved::Gone,
            Ok(()) if self.out.is_empty() => Moved::Bytes(std::mem::take(&mut self.taken)),
            Ok(()) => Moved::NotNow,
        }
    }

    /// Tell the peer that this is the end, if that can be done without waiting.
    pub fn say_goodbye(&mut self, socket: &OwnedFd) {
        if !self.established || self.ended || !self.out.is_empty() {
            return;
        }
        if let Ok(ConnectionState::WriteTraffic(mut state)) = self.connection.process(&mut []).state {
            let mut record = [0; 256];
            if let Ok(count) = state.queue_close_notify(&mut record) {
                super::write(socket, &record[..count]);
            }
        }
    }
}
