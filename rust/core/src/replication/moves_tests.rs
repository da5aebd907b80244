//! Slots that change their node, without sockets: whoever is cut off and whatever is written, nothing is lost on the way.

use super::frames::Frame;
use super::{Question, admit, moves};
use crate::command::client::Token;
use crate::command::cluster::membership::obey;
use crate::command::dispatch;
use crate::command::testing::{Node, readable};
use crate::resp::Reply;
use crate::resp::request::OwnedArgs;
use crate::store::random::Random;
use crate::topology::Document;
use std::collections::BTreeMap;

/// `a` gives all slots to `b` in the move `m`, which is in `state`; empty: there is no such move.
fn document(epoch: u64, main: &str, state: &str) -> Document {
    let one = format!(r#"{{"id":"m","from":"a","to":"b","ranges":"0-16383","state":"{state}"}}"#);
    let moves = if state.is_empty() { String::new() } else { one };
    let text = format!(
        r#"{{"epoch":{epoch},"moves":[{moves}],
        "nodes":[{{"id":"a","host":"10.0.0.1","port":7001}},{{"id":"b","host":"10.0.0.2","port":7002}}],
        "slots":[{{"main":"{main}","ranges":"0-16383"}}]}}"#
    );
    Document::parse(text.as_bytes()).unwrap()
}

struct Pair {
    giver: Node,
    taker: Node,
    random: Random,
    now: u64,
    wire: Vec<u8>,
    connected: bool,
    client: Token,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut giver = Node::with(&[("node-id", "a")]);
        let client = giver.connect();
        let taker = Node::with(&[("node-id", "b")]);
        let mut pair =
            Pair { giver, taker, random: Random::new(seed), now: 1000, wire: Vec::new(), connected: false, client };
        pair.give(&document(1, "a", ""));
        pair.take(&document(1, "a", ""));
        pair
    }

    fn give(&mut self, document: &Document) {
        obey(&mut self.giver.engine, document.clone()).unwrap();
    }

    fn take(&mut self, document: &Document) {
        obey(&mut self.taker.engine, document.clone()).unwrap();
    }

    /// Ask the giver as a client would.
    fn ask(&mut self, words: &[&str]) -> String {
        let engine = &mut self.giver.engine;
        let mut client = engine.clients.take(self.client).unwrap();
        let mut out = Reply::new(false);
        let args = OwnedArgs::from_parts(words.iter().map(|word| word.as_bytes()));
        dispatch::serve(engine, &mut client, &args.as_args(), &mut out);
        engine.clients.put_back(client);
        readable(out.bytes())
    }

    /// Connect; what the giver says when it refuses.
    fn connect(&mut self) -> Option<String> {
        let epoch = self.taker.engine.membership.as_ref().unwrap().document.epoch;
        let sink = &self.taker.engine.replication.as_ref().unwrap().sinks[0];
        let (run, seq) = if sink.whole { (sink.run.clone(), sink.seq) } else { (String::new(), 0) };
        let question = Question { cluster: "", epoch, node: "b", ranges: "0-16383", run: &run, seq, moves: "m" };
        let token = self.giver.connect();
        match admit(&mut self.giver.engine, token, &question, self.now) {
            Ok(first) => {
                self.wire = first.strip_prefix(b"+STREAM\r\n").unwrap().to_vec();
                self.connected = true;
                None
            }
            Err(fault) => {
                let text = String::from_utf8_lossy(&fault.0).into_owned();
                let sink = &mut self.taker.engine.replication.as_mut().unwrap().sinks[0];
                sink.over |= text.starts_with("GONE");
                moves::settle(&mut self.taker.engine, self.now);
                Some(text)
            }
        }
    }

    fn cut(&mut self) {
        self.wire.clear();
        self.connected = false;
        let now = self.now;
        self.taker.engine.replication.as_mut().unwrap().sinks[0].lost(now);
    }

    /// One turn of both loops.
    fn turn(&mut self) {
        self.now += 1 + self.random.bits() % 60;
        let engine = &mut self.giver.engine;
        let mut replication = engine.replication.take().unwrap();
        for source in &mut replication.sources {
            source.pump(&mut engine.tail, &engine.store, &mut self.wire, self.now * 1000).unwrap();
        }
        engine.replication = Some(replication);
        moves::settle(engine, self.now);
        let arrived = self.random.below(self.wire.len() + 1);
        let engine = &mut self.taker.engine;
        let mut replication = engine.replication.take().unwrap();
        let (sink, mut used, mut words) = (&mut replication.sinks[0], 0, Vec::new());
        while let Some((frame, len)) = Frame::parse(&self.wire[used..arrived]).unwrap() {
            sink.take(engine, frame, self.now).unwrap();
            used += len;
        }
        sink.say(engine, &mut words, self.now);
        engine.replication = Some(replication);
        moves::settle(engine, self.now);
        self.wire.drain(..used);
        let source = &mut self.giver.engine.replication.as_mut().unwrap().sources[0];
        let mut at = 0;
        while let Some((frame, len)) = Frame::parse(&words[at..]).unwrap() {
            source.take(frame, self.now).unwrap();
            at += len;
        }
        moves::settle(&mut self.giver.engine, self.now);
    }

    fn told(&self, giver: bool) -> String {
        let mut out = Reply::new(false);
        moves::tell(if giver { &self.giver.engine } else { &self.taker.engine }, &mut out, self.now);
        readable(out.bytes())
    }

    /// What is in the taker.
    fn taken(&mut self) -> BTreeMap<String, u64> {
        let keys: Vec<String> = (0..40).map(|number| format!("k{number}")).collect();
        let told = |node: &mut Node, key: &str| node.ask(&["GET", key]);
        let mut found = BTreeMap::new();
        for key in keys {
            let answer = told(&mut self.taker, &key);
            // `$2|71|`: the length, then the number; `$-1` for nothing.
            let digits = answer.split(|letter: char| !letter.is_ascii_digit()).rfind(|part| !part.is_empty());
            if !answer.contains("$-1")
                && let Some(number) = digits.and_then(|digits| digits.parse().ok())
            {
                found.insert(key, number);
            }
        }
        found
    }
}

#[test]
fn every_acknowledged_write_is_with_the_taker_before_it_serves_wherever_the_connection_breaks() {
    for seed in 0..40 {
        let mut pair = Pair::new(seed);
        let mut written: BTreeMap<String, u64> = BTreeMap::new();
        let (mut flipped, mut counter) = (false, 0u64);
        let (copying, flip) = (document(2, "a", "copying"), document(3, "b", "flipped"));
        for turn in 0..4000 {
            if turn == 20 {
                pair.take(&copying);
                pair.give(&copying);
            }
            if turn > 20 && !pair.connected && !pair.taker.engine.replication.as_ref().unwrap().sinks[0].over {
                let _ = pair.connect();
            }
            if turn > 20 && pair.connected {
                pair.turn();
                if pair.random.below(40) == 0 {
                    pair.cut();
                }
            }
            if !flipped && turn > 60 && pair.random.below(50) == 0 {
                pair.take(&flip);
                assert!(pair.taker.engine.awaited.is_some(), "seed {seed}: nobody is served before all is here");
            }
            let known = pair.taker.engine.membership.as_ref().unwrap().document.epoch;
            if !flipped && known == 3 && pair.random.below(5) == 0 {
                pair.give(&flip);
                flipped = true;
            }
            let key = format!("k{}", pair.random.below(40));
            counter += 1;
            if pair.ask(&["SET", &key, &counter.to_string()]).contains("OK") {
                assert!(!flipped, "seed {seed}: a node that gave its slots up takes a write");
                written.insert(key, counter);
            }
            if flipped && pair.taker.engine.awaited.is_none() {
                break;
            }
        }
        assert!(pair.taker.engine.awaited.is_none(), "seed {seed}: it ends, {}", pair.told(true));
        assert_eq!(pair.taken(), written, "seed {seed}");
    }
}

#[test]
fn a_giver_keeps_what_it_has_not_handed_over_and_cannot_take_back_what_it_has() {
    let mut pair = Pair::new(7);
    pair.ask(&["SET", "k1", "1"]);
    let (copying, flip) = (document(2, "a", "copying"), document(3, "b", "flipped"));
    pair.take(&copying);
    pair.give(&copying);
    pair.take(&flip);
    pair.give(&flip);
    assert!(pair.ask(&["GET", "k1"]).contains("MOVED"));
    moves::keep(&mut pair.giver.engine, "m").unwrap();
    assert_eq!(pair.connect().unwrap().split(' ').next(), Some("TRYAGAIN"));
    assert!(pair.taker.engine.awaited.is_some());
    let back = document(4, "a", "");
    pair.give(&back);
    pair.take(&back);
    assert!(pair.ask(&["GET", "k1"]).contains('1'));
    assert!(pair.taker.engine.awaited.is_none());

    let mut pair = Pair::new(8);
    pair.ask(&["SET", "k1", "1"]);
    pair.take(&copying);
    pair.give(&copying);
    assert_eq!(pair.connect(), None);
    pair.take(&flip);
    pair.give(&flip);
    // The stream was begun under the topology before, and is the same under this one.
    for _ in 0..2000 {
        pair.turn();
    }
    assert!(pair.told(true).contains("handed"), "{}", pair.told(true));
    assert!(pair.told(false).contains("open"));
    assert!(moves::keep(&mut pair.giver.engine, "m").is_err());
}

#[test]
fn a_giver_that_was_restarted_has_nothing_more_to_give() {
    let mut pair = Pair::new(9);
    pair.give(&document(2, "a", "copying"));
    pair.take(&document(2, "a", "copying"));
    pair.giver = Node::with(&[("node-id", "a")]);
    pair.give(&document(3, "b", "flipped"));
    pair.take(&document(3, "b", "flipped"));
    assert!(pair.taker.engine.awaited.is_some());
    assert_eq!(pair.connect().unwrap().split(' ').next(), Some("GONE"));
    assert!(pair.taker.engine.awaited.is_none(), "what has come is all there is");
}

#[test]
fn what_has_moved_away_is_dropped_when_the_move_is_over_and_not_before() {
    let mut pair = Pair::new(10);
    pair.ask(&["SET", "k1", "1"]);
    pair.give(&document(2, "a", "copying"));
    pair.give(&document(3, "b", "flipped"));
    super::drop_stray(&mut pair.giver.engine);
    assert_eq!(pair.giver.engine.store.len_of_slot(crate::slot::slot_of(b"k1")), 1);
    pair.give(&document(4, "b", ""));
    for _ in 0..100 {
        super::drop_stray(&mut pair.giver.engine);
    }
    assert_eq!(pair.giver.engine.store.len_of_slot(crate::slot::slot_of(b"k1")), 0);
}

#[test]
fn a_move_copies_no_faster_than_it_is_told_and_ends_all_the_same() {
    let mut pair = Pair::new(11);
    let long = "x".repeat(10_000);
    (0..100).for_each(|number| drop(pair.ask(&["SET", &format!("k{number}"), &long])));
    let copying = document(2, "a", "copying");
    pair.give(&copying);
    pair.take(&copying);
    assert_eq!(pair.connect(), None);
    moves::pace(&mut pair.giver.engine, 500_000);
    let seconds = copied_in(&mut pair, 0, 0, 0);
    assert!(seconds > 1.8, "a megabyte takes two seconds, not {seconds}");
}

/// How many seconds it takes to copy everything while a giver serves so many requests in every millisecond, after so many
/// before, and a turn that copies something takes so many ms.
fn copied_in(pair: &mut Pair, requests: u64, mut served: u64, cost: u64) -> f64 {
    let (began, mut turns) = (pair.now, 0);
    loop {
        let replication = pair.giver.engine.replication.as_mut().unwrap();
        if replication.sources[0].whole {
            return (pair.now - began) as f64 / 1000.0;
        }
        replication.pace.allow(&mut replication.sources, pair.now * 1000, served);
        let (allowed, start) = (replication.sources[0].allowance, pair.now);
        pair.turn();
        served += requests * (pair.now - start);
        let replication = pair.giver.engine.replication.as_mut().unwrap();
        if let (Some(allowed), Some(left)) = (allowed, replication.sources[0].allowance) {
            if allowed != left {
                pair.now += cost;
            }
            replication.pace.spend(allowed, left, start * 1000, (start + cost) * 1000);
        }
        turns += 1;
        assert!(turns < 10_000, "it ends");
    }
}

#[test]
fn copies_give_way_to_clients_who_ask() {
    let copied = |requests| {
        let mut pair = Pair::new(12);
        let long = "x".repeat(10_000);
        (0..200).for_each(|number| drop(pair.ask(&["SET", &format!("k{number}"), &long])));
        let copying = document(2, "a", "copying");
        pair.give(&copying);
        pair.take(&copying);
        assert_eq!(pair.connect(), None);
        // It is known before whether clients ask.
        let replication = pair.giver.engine.replication.as_mut().unwrap();
        replication.pace.allow(&mut [], pair.now * 1000, 0);
        pair.now += 100;
        copied_in(&mut pair, requests, 100 * requests, 20)
    };
    let (idle, busy) = (copied(0), copied(5));
    // Two megabytes are some 50 pieces, each of which is followed by a rest of nine times as long.
    assert!(busy > 50.0 * 0.2, "busy: {busy} s");
    assert!(idle < busy / 5.0, "idle: {idle} s, busy: {busy} s");
}
