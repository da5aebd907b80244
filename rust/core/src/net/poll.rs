//! Waiting for sockets: epoll, and a waker for other threads.

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::fd::{AsFd, OwnedFd};
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

/// What a socket is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Read,
    /// Room to write.
    Write,
    /// Both.
    Both,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
            Interest::Both => EventFlags::IN | EventFlags::OUT,
        }
    }

    /// Told once for each arrival, not as long as something is there: the kernel need not look at the
    /// socket again with every wait. Who reads less than it asked for has read all; who gets as much as
    /// it asked for must come back by itself. Changing the interest tells anew.
    fn edge_flags(self) -> EventFlags {
        self.flags() | EventFlags::ET | EventFlags::RDHUP
    }
}

/// A set of sockets that are waited for together, each under a number.
pub struct Poll {
    epoll: OwnedFd,
    ready: Vec<Ready>,
}

/// Most sockets told of at once; the others come with the next wait.
const AT_ONCE: usize = 256;

/// What happened at a socket.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The socket's number.
    pub key: u64,
    /// There is something to read, or the connection ended.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
    /// The peer sends no more: behind what is to be read comes the end.
    pub ended: bool,
}

impl Poll {
    /// An empty set.
    pub fn new() -> io::Result<Poll> {
        Ok(Poll { epoll: epoll::create(CreateFlags::CLOEXEC)?, ready: Vec::with_capacity(AT_ONCE) })
    }

    /// Wait for a connection too; see [`Interest::edge_flags`].
    pub fn add_edge(&self, socket: &impl AsFd, key: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(key), interest.edge_flags())?)
    }

    /// Wait for something else at a connection.
    pub fn change_edge(&self, socket: &impl AsFd, key: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(key), interest.edge_flags())?)
    }

    /// Wait for a socket too.
    pub fn add(&self, socket: &impl AsFd, key: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(key), interest.flags())?)
    }

    /// Wait for something else at a socket.
    pub fn change(&self, socket: &impl AsFd, key: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(key), interest.flags())?)
    }

    /// What has happened since; what the last wait found stays to be asked for.
    pub fn look(&mut self) -> io::Result<Vec<Ready>> {
        let found = std::mem::take(&mut self.ready);
        let waited = self.wait(Duration::ZERO);
        let since = std::mem::replace(&mut self.ready, found);
        waited.map(|_| since)
    }

    /// Wait until something happens, but not longer than this. Returns how many sockets are ready.
    pub fn wait(&mut self, longest: Duration) -> io::Result<usize> {
        self.ready.clear();
        let timeout = Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: i64::from(longest.subsec_nanos()) };
        let mut events = [MaybeUninit::<Event>::uninit(); AT_ONCE];
        match epoll::wait(&self.epoll, &mut events[..], Some(&timeout)) {
            Ok((happened, _)) => self.ready.extend(happened.iter().map(|event| {
                let flags = event.flags;
                Ready {
                    key: event.data.u64(),
                    read: flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP),
                    write: flags.contains(EventFlags::OUT),
                    ended: flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
                }
            })),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.ready.len())
    }

    /// All that the last wait found.
    pub fn found(&self) -> Vec<Ready> {
        self.ready.clone()
    }

    /// One of the sockets found ready.
    #[inline]
    pub fn ready(&self, index: usize) -> Option<Ready> {
        self.ready.get(index).copied()
    }

    /// Whether the one with this number is among them.
    #[inline]
    pub fn is_ready(&self, key: u64) -> bool {
        self.ready.iter().any(|ready| ready.key == key)
    }
}

/// Wakes a [`Poll`] from another thread.
#[derive(Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A waker for this set, under this number.
    pub fn new(poll: &Poll, key: u64) -> io::Result<Waker> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        poll.add(&event, key, Interest::Read)?;
        Ok(Waker(Arc::new(event)))
    }

    /// Wake it.
    pub fn wake(&self) {
        // A full counter means that a wake-up is pending already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Note that it woke.
    pub fn clear(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0u8; 8]);
    }
}
