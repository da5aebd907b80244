//! What the loop does for others while a script keeps it busy: whoever connects or asks something is told BUSY, and
//! whoever is allowed to may end the script. Data stay as the script sees them.
//!
//! The loop lends its sockets ([`lend`]) while it serves a request that may be a script; the script's interpreter
//! calls [`serve_others`] now and then once the script has run for longer than it should.

use super::event_loop::{Connection, EventLoop, FIRST_CLIENT, WAKER};
use super::runner::Errand;
use crate::command::client::{Client, Token};
use crate::command::scripting::running::OTHERS;
use crate::command::{Engine, dispatch};
use crate::net::{Interest, Listener, Moved, Poll, Ready, Waker};
use crate::resp::{Args, Reply};
use crate::sys::lua::Lent;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

/// Read of one client at a time.
const PIECE: usize = 16 * 1024;
/// Kept of a client's requests that are not served meanwhile.
const MOST_KEPT: usize = 1 << 20;

#[derive(Default)]
struct Outside {
    poll: Lent<Poll>,
    waker: Lent<Waker>,
    inbox: Lent<Receiver<Errand<Engine>>>,
    listeners: Lent<Vec<Listener>>,
    connections: Lent<Vec<Option<Connection>>>,
    more: Lent<Vec<Token>>,
    heartbeat: RefCell<Option<Arc<AtomicU64>>>,
    /// Nothing was done for others yet since the sockets were lent.
    fresh: Cell<bool>,
}

thread_local! {
    static OUTSIDE: Outside = Outside::default();
}

/// This thread serves, and this is what rises while it does.
pub(super) fn begin(heartbeat: &Arc<AtomicU64>) {
    OUTSIDE.with(|outside| *outside.heartbeat.borrow_mut() = Some(Arc::clone(heartbeat)));
    OTHERS.set(Some(serve_others));
}

/// Whether a request may keep the loop busy: EVAL and its like, FCALL, FUNCTION, and EXEC, by the first letter.
#[inline]
pub(super) fn may_take_long(args: &Args<'_>) -> bool {
    matches!(args.at(0), [b'e' | b'E' | b'f' | b'F', ..])
}

/// Whether the first request in these bytes may be one.
pub(super) fn begins_so(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    bytes.first() == Some(&b'*') && matches!(lines.nth(2), Some([b'e' | b'E' | b'f' | b'F', ..]))
}

/// What the loop lends.
pub(super) struct Sockets<'a> {
    pub(super) poll: &'a mut Poll,
    pub(super) waker: &'a mut Waker,
    pub(super) inbox: &'a mut Receiver<Errand<Engine>>,
    pub(super) listeners: &'a mut Vec<Listener>,
    pub(super) connections: &'a mut Vec<Option<Connection>>,
    pub(super) more: &'a mut Vec<Token>,
}

/// Lend the sockets while `what` runs.
pub(super) fn lend(sockets: Sockets<'_>, what: impl FnOnce()) {
    let Sockets { poll, waker, inbox, listeners, connections, more } = sockets;
    OUTSIDE.with(|outside| {
        outside.fresh.set(true);
        outside.poll.lend(poll, || {
            outside.waker.lend(waker, || {
                outside.inbox.lend(inbox, || {
                    outside.listeners.lend(listeners, || {
                        outside.connections.lend(connections, || outside.more.lend(more, what));
                    });
                });
            });
        });
    });
}

/// Do what can be done now without waiting.
fn serve_others(engine: &mut Engine) {
    OUTSIDE.with(|outside| {
        if let Some(heartbeat) = &*outside.heartbeat.borrow() {
            heartbeat.fetch_add(1, Ordering::Relaxed);
        }
        outside.poll.borrow(|poll| {
            outside.connections.borrow(|connections| {
                outside.more.borrow(|more| turn(outside, engine, poll, connections, more));
            });
        });
    });
}

fn turn(
    outside: &Outside,
    engine: &mut Engine,
    poll: &mut Poll,
    connections: &mut Vec<Option<Connection>>,
    more: &mut Vec<Token>,
) {
    // What the loop was told and has not seen to yet must not be lost.
    let Ok(mut happened) = poll.look() else { return };
    if outside.fresh.replace(false) {
        // Nor may it wait: who was found ready with the script's client, or has sent more than was served.
        happened.extend(poll.found());
        let kept = engine.resumed.iter().map(|&token| FIRST_CLIENT + u64::from(token));
        happened.extend(kept.map(|key| Ready { key, read: true, write: false, ended: false }));
    }
    for ready in happened {
        if ready.key == WAKER {
            outside.waker.borrow(|waker| waker.clear());
            outside.inbox.borrow(|inbox| {
                while let Ok(errand) = inbox.try_recv() {
                    errand(engine);
                }
            });
        } else if ready.key < FIRST_CLIENT {
            outside.listeners.borrow(|listeners| {
                let Some(listener) = listeners.get(ready.key as usize) else { return };
                while let Ok(Some(peer)) = listener.accept(300, engine.tls.acceptor.as_ref()) {
                    EventLoop::welcome(engine, poll, connections, peer);
                }
            });
        } else {
            let token = (ready.key - FIRST_CLIENT) as Token;
            // Whatever is left undone here the loop does when its turn comes.
            more.push(token);
            let Some(connection) = connections.get_mut(token as usize).and_then(Option::as_mut) else { continue };
            connection.ended |= ready.ended;
            let Some(mut client) = engine.clients.take(token) else { continue };
            if ready.write {
                write(connection, &mut client, engine);
            }
            if ready.read && !connection.gathered && connection.interest != Interest::Write && client.stream.is_none() {
                read(connection, &mut client, engine);
            }
            if client.dead || client.closing || !client.pending.is_empty() {
                engine.wake.push(token);
            }
            engine.clients.put_back(client);
        }
    }
}

fn read(connection: &mut Connection, client: &mut Client, engine: &mut Engine) {
    while connection.input.len() < MOST_KEPT {
        match connection.socket.read_more(&mut connection.input, PIECE) {
            Moved::Bytes(count) => {
                engine.stats.input_bytes += count as u64;
                if count < PIECE {
                    break;
                }
            }
            Moved::NotNow | Moved::Gone => break,
        }
    }
    let mut reply = Reply::new(client.resp3);
    let mut used = 0;
    while client.blocked.is_none() && !client.closing && !client.dead && used < connection.input.len() {
        let limits = dispatch::limits(engine, client);
        connection.parser.forget();
        match connection.parser.parse(&connection.input[used..], limits) {
            Ok(Some(len)) => {
                let args = Args::new(&connection.input[used..], connection.parser.spans());
                if args.len() > 0 {
                    dispatch::serve(engine, client, &args, &mut reply);
                    reply.speak(client.resp3);
                }
                used += len;
            }
            Ok(None) => break,
            Err(_) => {
                // For the loop to answer.
                connection.parser.restart();
                engine.resumed.push(client.token);
                break;
            }
        }
    }
    connection.input.drain(..used);
    client.pending.extend_from_slice(reply.bytes());
    write(connection, client, engine);
}

fn write(connection: &mut Connection, client: &mut Client, engine: &mut Engine) {
    let mut sent = 0;
    while sent < client.pending.len() {
        match connection.socket.write(&client.pending[sent..]) {
            Moved::Bytes(count) => sent += count,
            Moved::NotNow => break,
            Moved::Gone => {
                client.dead = true;
                break;
            }
        }
    }
    engine.stats.output_bytes += sent as u64;
    client.pending.drain(..sent);
}
