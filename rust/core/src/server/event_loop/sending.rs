//! Replies: written, kept back until they may leave, or pending until a socket takes them.

use super::{EventLoop, FIRST_CLIENT};
use crate::command::client::{Client, Token};
use crate::net::{Interest, Moved};
use crate::server::upkeep;

impl EventLoop {
    /// Write the gathered replies; what the socket does not take stays pending. `true` when all went.
    pub(super) fn flush(&mut self, client: &mut Client) -> bool {
        if client.stream.is_some() && self.reply.is_empty() {
            // Streams carry much, and there are few: their bytes are not copied once more.
            self.reply.exchange(&mut client.pending);
        } else if !client.pending.is_empty() {
            // Messages that the client sent to itself, behind its replies.
            self.reply.raw(&std::mem::take(&mut client.pending));
        }
        if client.dead {
            self.reply.clear();
            return true;
        }
        // Streams between nodes carry what is not promised to anybody yet.
        if client.stream.is_none() && (self.engine.gate.closed() || !client.withheld.is_empty()) {
            return self.withhold(client);
        }
        if self.reply.is_empty() {
            return true;
        }
        let Some(connection) = self.connections[client.token as usize].as_mut() else {
            return true;
        };
        let mut sent = 0;
        while sent < self.reply.len() {
            self.engine.stats.writes += 1;
            match connection.socket.write(&self.reply.bytes()[sent..]) {
                Moved::Bytes(count) => sent += count,
                Moved::NotNow => break,
                Moved::Gone => {
                    client.dead = true;
                    break;
                }
            }
        }
        self.engine.stats.output_bytes += sent as u64;
        let all = sent == self.reply.len();
        if !all && !client.dead {
            client.pending.extend_from_slice(&self.reply.bytes()[sent..]);
        }
        self.reply.clear();
        all
    }

    /// Keep the gathered replies back until what they tell of is safe; send those that wait no longer.
    fn withhold(&mut self, client: &mut Client) -> bool {
        if !self.reply.is_empty() {
            let number = self.engine.gate.number(&self.engine.tail);
            client.withheld.push_back((number, self.reply.bytes().to_vec()));
            self.engine.gate.waiting.push_back((number, client.token));
            self.reply.clear();
        }
        self.release(client)
    }

    /// Send the replies of a client that wait for nothing any more. `false` when its socket does not take them.
    fn release(&mut self, client: &mut Client) -> bool {
        let released = self.engine.gate.released();
        client.choked = false;
        let Some(connection) = self.connections[client.token as usize].as_mut() else {
            return true;
        };
        while let Some((number, bytes)) = client.withheld.front_mut()
            && *number <= released
        {
            self.engine.stats.writes += 1;
            match connection.socket.write(bytes) {
                Moved::Bytes(count) => {
                    self.engine.stats.output_bytes += count as u64;
                    if count == bytes.len() {
                        client.withheld.pop_front();
                    } else {
                        bytes.drain(..count);
                    }
                }
                Moved::NotNow => {
                    client.choked = true;
                    return false;
                }
                Moved::Gone => {
                    client.dead = true;
                    client.withheld.clear();
                    break;
                }
            }
        }
        true
    }

    /// Send what waited and waits no longer.
    pub(super) fn open_gate(&mut self) {
        let released = self.engine.gate.released();
        while let Some(&(number, token)) = self.engine.gate.waiting.front()
            && number <= released
        {
            self.engine.gate.waiting.pop_front();
            if let Some(mut client) = self.engine.clients.take(token) {
                self.release(&mut client);
                self.engine.clients.put_back(client);
                self.after_serving(token);
            }
        }
    }

    /// Close or re-arm a client after its turn.
    pub(super) fn after_serving(&mut self, token: Token) {
        let Some(client) = self.engine.clients.get_mut(token) else {
            return;
        };
        if client.dead || (client.closing && client.is_served() && client.held.is_empty()) {
            return self.close(token);
        }
        let Some(connection) = self.connections[token as usize].as_mut() else {
            return;
        };
        let wanted = if client.pending.is_empty() && !client.choked {
            Interest::Read
        } else if connection.input.is_empty() {
            Interest::Both
        } else {
            Interest::Write // It has requests waiting and does not read its replies: read no more.
        };
        if wanted != connection.interest
            && self.poll.change_edge(&connection.socket, FIRST_CLIENT + u64::from(token), wanted).is_ok()
        {
            if connection.interest == Interest::Write && !connection.input.is_empty() {
                // What it did not read was sent on some other occasion than its socket's telling of room.
                self.engine.resumed.push(token);
            }
            connection.interest = wanted;
        }
        if !client.pending.is_empty()
            && upkeep::over_output_limit(&self.engine.settings, client, self.engine.store.now())
        {
            self.engine.stats.output_limit_disconnections += 1;
            self.close(token);
        }
    }

    pub(super) fn writable(&mut self, token: Token) {
        self.write_pending(token);
        let caught_up = self
            .engine
            .clients
            .get(token)
            .is_some_and(|client| client.pending.is_empty() && !client.choked && client.blocked.is_none());
        if caught_up && self.connections[token as usize].as_ref().is_some_and(|connection| !connection.input.is_empty())
        {
            self.serve_kept(token);
        }
        self.after_serving(token);
    }

    /// Send what was written for a client outside of its turn.
    pub(in crate::server) fn send_pending(&mut self, token: Token) {
        self.write_pending(token);
        self.after_serving(token);
    }

    pub(super) fn write_pending(&mut self, token: Token) {
        if let Some(mut client) = self.engine.clients.take(token) {
            self.reply.clear();
            self.flush(&mut client);
            self.engine.clients.put_back(client);
        }
    }
}
