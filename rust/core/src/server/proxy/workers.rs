//! The workers of a proxy: loops on threads of their own, each with clients and connections to nodes of its own.
//!
//! What belongs to a client belongs to its worker and is shared with nobody, so nothing is locked on the way of a request.
//! The first worker lets everybody in and gives each connection to the worker that has the fewest. What concerns all
//! clients is done by all workers: whoever is asked sends errands to the others, and their answers are parts of one reply,
//! as those of nodes are; so are those of other proxies (`peers`). What changes users goes by way of the first worker, so that all see changes in one order.

use super::event_loop::EventLoop;
use super::lane::Lane;
use super::upstream::{For, write_request};
use crate::command::client::{Client, Replies, Token};
use crate::command::dispatch;
use crate::command::monitor;
use crate::command::table::Command;
use crate::net::Peer;
use crate::resp::{Args, OwnedArgs};
use crate::route::{Merge, Merging};
use crate::server::runner::{Errand, Errands};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// What a worker tells the others of itself.
#[derive(Default)]
struct Tally {
    /// Its clients, those on their way to it included.
    clients: AtomicU64,
    connections: AtomicU64,
    rejected: AtomicU64,
    listened: [AtomicU64; 3],
    /// How many of its clients monitor.
    monitors: AtomicU64,
}

/// A worker's place among all of them.
#[derive(Clone)]
pub(super) struct Crew {
    /// Which one it is.
    pub(super) me: usize,
    tallies: Arc<[Tally]>,
    /// How to have each do something; known once all of them can.
    errands: Arc<OnceLock<Vec<Errands<EventLoop>>>>,
}

impl Crew {
    /// Places for so many workers.
    pub(super) fn of(count: usize) -> Vec<Crew> {
        let tallies: Arc<[Tally]> = (0..count.max(1)).map(|_| Tally::default()).collect();
        let errands = Arc::default();
        (0..tallies.len()).map(|me| Crew { me, tallies: Arc::clone(&tallies), errands: Arc::clone(&errands) }).collect()
    }

    /// From now on each can have the others do something.
    pub(super) fn meet(&self, errands: Vec<Errands<EventLoop>>) {
        let _ = self.errands.set(errands);
    }

    /// How many workers there are.
    pub(super) fn count(&self) -> usize {
        self.tallies.len()
    }

    /// Whether there are no others.
    #[inline]
    pub(super) fn is_alone(&self) -> bool {
        self.tallies.len() == 1
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.tallies.len()).filter(move |worker| *worker != me)
    }

    /// Have another worker do something.
    fn send(&self, worker: usize, errand: Errand<EventLoop>) {
        if let Some(send) = self.errands.get().and_then(|errands| errands.get(worker)) {
            send(errand);
        }
    }

    /// Say which one this is, of how many.
    pub(super) fn put_place(&self, mut put: impl FnMut(&str, usize)) {
        put("worker", self.me);
        put("workers", self.count());
    }

    /// Have all others do something.
    pub(super) fn send_all(&self, errand: impl Fn() -> Errand<EventLoop>) {
        self.others().for_each(|worker| self.send(worker, errand()));
    }

    /// All clients of all workers.
    pub(super) fn clients(&self) -> usize {
        self.tallies.iter().map(|tally| tally.clients.load(Ordering::Relaxed)).sum::<u64>() as usize
    }

    /// The worker that gets the next client.
    fn emptiest(&self) -> usize {
        let has = |worker: &usize| self.tallies[*worker].clients.load(Ordering::Relaxed);
        (0..self.count()).min_by_key(has).unwrap_or(self.me)
    }

    /// A worker is about to have one client more.
    fn count_in(&self, worker: usize) {
        self.tallies[worker].clients.fetch_add(1, Ordering::Relaxed);
    }

    /// This worker takes a client over that was counted nowhere.
    pub(super) fn count_mine(&self) {
        self.count_in(self.me);
    }

    /// A client of this worker has gone.
    pub(super) fn count_out(&self) {
        self.tallies[self.me].clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who asks the other workers something, and what.
#[derive(Clone)]
struct Asked {
    args: OwnedArgs,
    id: u64,
    user: Vec<u8>,
    resp3: bool,
    /// Where the answers go: the asking worker's client and its request; nowhere when it wants none.
    back: Option<(usize, Token, u32)>,
}

/// What of a proxy a request concerns.
enum Scope {
    /// All clients: everybody answers for their own.
    Everybody(Merge),
    /// The users: everybody changes them, in one order.
    Users(Merge),
}

fn scope_of(args: &Args<'_>) -> Option<Scope> {
    let word = |name: &str| args.is(1, name);
    if args.is(0, "CLIENT") {
        return Some(Scope::Everybody(match () {
            () if word("LIST") => Merge::Lines,
            () if word("KILL") && args.len() == 3 => Merge::AnyOk,
            () if word("KILL") || word("UNBLOCK") => Merge::Sum,
            () if word("PAUSE") || word("UNPAUSE") => Merge::AllOk,
            () => return None,
        }));
    }
    if args.is(0, "ACL") {
        return match () {
            () if word("SETUSER") || word("LOAD") => Some(Scope::Users(Merge::AllOk)),
            () if word("DELUSER") => Some(Scope::Users(Merge::Same)),
            () if word("LOG") && args.is(2, "RESET") => Some(Scope::Everybody(Merge::AllOk)),
            () if word("LOG") => Some(Scope::Everybody(Merge::Joined)),
            () => None,
        };
    }
    None
}

impl EventLoop {
    /// Somebody has connected: to the worker with the fewest clients.
    pub(super) fn deal_out(&mut self, peer: Peer) {
        let id = self.engine.next_client;
        self.engine.next_client += 1;
        let worker = self.crew.emptiest();
        self.crew.count_in(worker);
        if worker == self.crew.me {
            self.admit(peer, id);
        } else {
            self.crew.send(worker, Box::new(move |other| other.admit(peer, id)));
        }
    }

    /// Do what others have asked for.
    pub(super) fn do_errands(&mut self) {
        while let Ok(errand) = self.inbox.try_recv() {
            errand(self);
        }
    }

    /// Tell the others how many we are, and learn it of them.
    pub(super) fn compare_notes(&mut self) {
        if self.crew.is_alone() {
            return;
        }
        let (engine, crew) = (&mut self.engine, &self.crew);
        let mine = &crew.tallies[crew.me];
        let listened = [engine.channels.len(), engine.patterns.len(), engine.shard_channels.len()];
        let notes = [
            (&mine.connections, engine.stats.connections),
            (&mine.rejected, engine.stats.rejected_connections),
            (&mine.monitors, engine.monitors.len() as u64),
        ];
        notes.iter().for_each(|(place, value)| place.store(*value, Ordering::Relaxed));
        mine.listened.iter().zip(listened).for_each(|(place, count)| place.store(count as u64, Ordering::Relaxed));
        let sum = |of: fn(&Tally) -> &AtomicU64| -> u64 {
            crew.others().map(|worker| of(&crew.tallies[worker]).load(Ordering::Relaxed)).sum()
        };
        let elsewhere = &mut engine.elsewhere;
        elsewhere.clients = sum(|tally| &tally.clients);
        elsewhere.connections = sum(|tally| &tally.connections);
        elsewhere.rejected = sum(|tally| &tally.rejected);
        elsewhere.listened =
            [sum(|tally| &tally.listened[0]), sum(|tally| &tally.listened[1]), sum(|tally| &tally.listened[2])];
        elsewhere.monitored = sum(|tally| &tally.monitors) > 0;
        if elsewhere.show.is_none() {
            let crew = crew.clone();
            elsewhere.show = Some(Arc::new(move |line: &[u8]| {
                for worker in crew.others().filter(|worker| crew.tallies[*worker].monitors.load(Ordering::Relaxed) > 0)
                {
                    let line = line.to_vec();
                    crew.send(worker, Box::new(move |other| monitor::show_line(&mut other.engine, &line)));
                }
            }));
        }
    }

    /// Have all workers do what concerns all clients, if the request is of that kind: `true` when it is answered.
    pub(super) fn ask_everybody(
        &mut self,
        client: &mut Client,
        lane: &mut Lane,
        args: &Args<'_>,
        row: &'static Command,
    ) -> bool {
        let Some(scope) = scope_of(args) else { return false };
        let of_clients = args.is(0, "CLIENT") && client.multi.is_none() && !client.peer;
        let peers = if of_clients { self.peers() } else { Vec::new() };
        if self.crew.is_alone() && peers.is_empty() {
            return false;
        }
        if let Some(multi) = &mut client.multi {
            multi.broken = true;
            let whole = [args.at(0), args.at(1)].map(|word| String::from_utf8_lossy(word).to_uppercase()).join(" ");
            let text = format!("ERR {whole} in a transaction is not possible through a proxy with several workers");
            self.answer_error(lane, &crate::command::Fault::new(text));
            return true;
        }
        let wanted = client.replies == Replies::On;
        let in_order = matches!(scope, Scope::Users(_));
        let merge = match scope {
            Scope::Everybody(merge) => {
                // Here it is done by the client itself, which may be spared or shown as the one that asks.
                self.reply.clear();
                self.reply.speak(client.resp3);
                dispatch::serve(&mut self.engine, client, args, &mut self.reply);
                let refused = self.reply.bytes().first() == Some(&b'-') && merge != Merge::AnyOk;
                if refused {
                    lane.answer(self.reply.bytes());
                    return true;
                }
                merge
            }
            Scope::Users(merge) => {
                let place = dispatch::resolve_quietly(args).map_or(0, |(_, place)| place);
                if let Err(fault) = dispatch::admit(&mut self.engine, client, row, place, args) {
                    self.answer_error(lane, &fault);
                    return true;
                }
                client.last_command = Some(row);
                if client.replies != Replies::Off {
                    client.replies = Replies::On;
                }
                merge
            }
        };
        let mut asked = self.asked(client, args);
        if wanted {
            let ids = (3..args.len()).filter(|_| args.is(2, "ID")).filter_map(|at| args.integer(at).ok());
            let order = vec![ids.map(|id| id as usize).collect()];
            let count = self.crew.count();
            let number = lane.sent_in_parts(Merging::new(merge, count + peers.len(), order).needing(count));
            asked.back = Some((self.crew.me, client.token, number));
        }
        if in_order {
            let me = self.crew.me;
            if me == 0 {
                self.pass_on(&asked);
            } else {
                self.crew.send(0, Box::new(move |first| first.pass_on(&asked)));
            }
            return true;
        }
        if let Some((_, token, number)) = asked.back {
            // It comes to the client once that is back in its place.
            let reply = self.reply.bytes().to_vec();
            self.deliver(token, client.id, number, self.crew.me as u16, &reply);
        }
        for worker in self.crew.others() {
            let asked = asked.clone();
            self.crew.send(worker, Box::new(move |other| other.answer_to(&asked)));
        }
        let (token, id) = (client.token, client.id);
        self.ask_peers(&peers, args, self.crew.count() as u16, |part| match asked.back {
            Some((_, _, number)) => For::Client { token, id, number, part },
            None => For::Nobody,
        });
        true
    }

    /// Have all other workers do what this one has done; nobody wants to hear of it.
    pub(super) fn tell_the_others(&mut self, client: &Client, args: &Args<'_>) {
        for worker in self.crew.others() {
            let asked = self.asked(client, args);
            self.crew.send(worker, Box::new(move |other| other.answer_to(&asked)));
        }
    }

    fn asked(&self, client: &Client, args: &Args<'_>) -> Asked {
        let user = client.user_name().to_vec();
        Asked { args: args.to_owned(), id: client.id, user, resp3: client.resp3, back: None }
    }

    /// The first worker hands a change on to all of them, itself included.
    fn pass_on(&mut self, asked: &Asked) {
        for worker in self.crew.others() {
            let asked = asked.clone();
            self.crew.send(worker, Box::new(move |other| other.answer_to(&asked)));
        }
        self.answer_to(asked);
    }

    /// Do here what a client of another worker wants of all, and answer.
    fn answer_to(&mut self, asked: &Asked) {
        let args = asked.args.as_args();
        if args.is(0, "CLIENT") && args.is(1, "UNBLOCK") {
            return self.unblock_from_afar(asked);
        }
        let reply = self.done_for(asked);
        if let Some((worker, token, number)) = asked.back {
            self.answer_afar(worker as u16, token, asked.id, number, reply);
        }
    }

    /// Give a client of any worker this one's part of a reply.
    pub(super) fn answer_afar(&mut self, worker: u16, token: Token, id: u64, number: u32, reply: Vec<u8>) {
        let part = self.crew.me as u16;
        if usize::from(worker) == self.crew.me {
            self.deliver(token, id, number, part, &reply);
        } else {
            let tell = move |other: &mut EventLoop| other.deliver(token, id, number, part, &reply);
            self.crew.send(worker.into(), Box::new(tell));
        }
    }

    /// End the waiting of a client of ours, for somebody at another worker; the node where it waits says whether it did.
    fn unblock_from_afar(&mut self, asked: &Asked) {
        let args = asked.args.as_args();
        let whom = match asked.back {
            Some((worker, token, number)) => For::Afar { worker: worker as u16, token, id: asked.id, number },
            None => For::Nobody,
        };
        match args.integer(2).ok().and_then(|id| self.unblock_here(id, &args)) {
            None => self.give(whom, b":0\r\n"),
            Some(None) => self.give(whom, b":1\r\n"),
            Some(Some((key, identity))) => {
                let identity = identity.to_string();
                let words: Vec<&[u8]> =
                    [args.at(0), args.at(1), identity.as_bytes()].into_iter().chain(args.from(3)).collect();
                let mut request = Vec::new();
                write_request(&mut request, words.into_iter());
                match self.upstream(key) {
                    Ok(index) => self.push_bytes(index, whom, &request, 1),
                    Err(_) => self.give(whom, b":0\r\n"),
                }
            }
        }
    }

    fn done_for(&mut self, asked: &Asked) -> Vec<u8> {
        let args = asked.args.as_args();
        // In the place of the client, which is elsewhere: it is not to be listed or closed as one of ours.
        let mut client = Client::new(asked.id, self.engine.store.now());
        client.token = Token::MAX;
        client.dead = true;
        client.resp3 = asked.resp3;
        let Some(user) = self.engine.users.find(&asked.user) else {
            return b"-NOPERM the user was removed meanwhile\r\n".to_vec();
        };
        client.become_user(user, &asked.user);
        self.reply.clear();
        self.reply.speak(asked.resp3);
        let (commands, connections) = (self.engine.stats.commands, self.engine.stats.connections);
        dispatch::serve(&mut self.engine, &mut client, &args, &mut self.reply);
        (self.engine.stats.commands, self.engine.stats.connections) = (commands, connections);
        self.reply.bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_goes_to_the_worker_that_has_the_fewest() {
        let crews = Crew::of(3);
        for crew in [&crews[0], &crews[1], &crews[0], &crews[2]] {
            crew.count_mine();
        }
        assert_eq!((crews[0].emptiest(), crews[2].clients()), (1, 4));
        crews[0].count_out();
        crews[0].count_out();
        assert_eq!(crews[1].emptiest(), 0);
    }

    #[test]
    fn only_what_concerns_all_clients_is_asked_of_all_workers() {
        let asks = |words: &[&str]| {
            let args = OwnedArgs::from_parts(words.iter().map(|word| word.as_bytes()));
            scope_of(&args.as_args()).is_some()
        };
        assert!(asks(&["CLIENT", "LIST"]) && asks(&["client", "kill", "ID", "4"]) && asks(&["ACL", "SETUSER", "x"]));
        assert!(!asks(&["CLIENT", "ID"]) && !asks(&["ACL", "WHOAMI"]) && !asks(&["PING"]));
    }
}
