//! Slots that move to a node which has copies of them: it goes on from what it has, and never counts twice what it had.

use super::digest::of_slot as digest;
use super::frames::Frame;
use super::{Question, admit, question};
use crate::command::client::Token;
use crate::command::cluster::membership::obey;
use crate::command::testing::Node;
use crate::slot::slot_of;
use crate::store::random::Random;
use crate::topology::Document;

const KEYS: usize = 60;
/// Slots that move; about half of the keys lie there.
const MOVED: &str = "0-8191";

/// `a` is the main and `b` has copies of everything; with a state, half of it moves to `b`.
fn document(epoch: u64, state: &str) -> Document {
    let one = format!(r#"{{"id":"m{epoch}","from":"a","to":"b","ranges":"{MOVED}","state":"{state}"}}"#);
    let moves = if state.is_empty() { String::new() } else { one };
    let text = format!(
        r#"{{"epoch":{epoch},"replicas":1,"flags":["replication","strict"],"moves":[{moves}],
        "nodes":[{{"id":"a","host":"10.0.0.1","port":7001}},{{"id":"b","host":"10.0.0.2","port":7002}}],
        "slots":[{{"main":"a","ranges":"0-16383","replicas":["b"]}}]}}"#
    );
    Document::parse(text.as_bytes()).unwrap()
}

/// A connection: its two ends, and the bytes under way on it.
struct Line {
    source: Token,
    sink: Token,
    there: Vec<u8>,
    back: Vec<u8>,
}

struct Pair {
    main: Node,
    copy: Node,
    random: Random,
    now: u64,
    lines: Vec<Line>,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let (main, copy) = (Node::with(&[("node-id", "a")]), Node::with(&[("node-id", "b")]));
        let mut pair = Pair { main, copy, random: Random::new(seed), now: 1000, lines: Vec::new() };
        pair.obey(true, &document(1, ""));
        pair.obey(false, &document(1, ""));
        (0..KEYS).for_each(|_| pair.write());
        pair.turns(300);
        assert_eq!(pair.main.engine.replication.as_ref().unwrap().counts.full, 1);
        pair
    }

    fn obey(&mut self, main: bool, document: &Document) {
        let node = if main { &mut self.main } else { &mut self.copy };
        obey(&mut node.engine, document.clone()).unwrap();
    }

    fn write(&mut self) {
        let key = format!("k{}", self.random.below(KEYS));
        let words: &[&str] = if self.random.below(20) == 0 { &["DEL", &key] } else { &["INCR", &key] };
        self.main.ask(words);
    }

    fn cut(&mut self, at: usize) {
        let line = self.lines.swap_remove(at);
        super::gone(&mut self.main.engine, line.source, super::Role::Source, self.now);
        super::gone(&mut self.copy.engine, line.sink, super::Role::Sink, self.now);
    }

    /// End what one of the two has ended, and connect what is not connected.
    fn connect(&mut self) {
        for at in (0..self.lines.len()).rev() {
            let line = &self.lines[at];
            let (sources, sinks) = (&self.main.engine.replication, &self.copy.engine.replication);
            let sends = sources.as_ref().is_some_and(|all| all.sources.iter().any(|one| one.token == line.source));
            let hears = sinks.as_ref().is_some_and(|all| all.sinks.iter().any(|one| one.token == Some(line.sink)));
            if !sends || !hears {
                self.cut(at);
            }
        }
        for at in 0..self.copy.engine.replication.as_ref().unwrap().sinks.len() {
            let engine = &self.copy.engine;
            let sink = &engine.replication.as_ref().unwrap().sinks[at];
            if sink.token.is_some() {
                continue;
            }
            let asked = question(engine.membership.as_ref().unwrap(), sink, "b", "");
            let asked = String::from_utf8(asked).unwrap();
            let words: Vec<&str> = asked.split("\r\n").skip(2).step_by(2).collect();
            let asked = Question {
                cluster: "",
                epoch: words[3].parse().unwrap(),
                node: words[4],
                ranges: words[5],
                run: words[6],
                seq: words[7].parse().unwrap(),
                moves: words.get(8).copied().unwrap_or(""),
            };
            let source = self.main.connect();
            let Ok(first) = admit(&mut self.main.engine, source, &asked, self.now) else { continue };
            let token = self.copy.connect();
            let sink = &mut self.copy.engine.replication.as_mut().unwrap().sinks[at];
            (sink.token, sink.greeted) = (Some(token), super::sink::Greeting::Streams);
            let there = first.strip_prefix(b"+STREAM\r\n").unwrap().to_vec();
            self.lines.push(Line { source, sink: token, there, back: Vec::new() });
        }
    }

    /// One turn of both loops; what is on its way arrives in pieces, on one line more and on another less.
    fn turn(&mut self) {
        self.now += 1 + self.random.bits() % 60;
        self.connect();
        for line in &mut self.lines {
            let engine = &mut self.main.engine;
            let mut replication = engine.replication.take().unwrap();
            let source = replication.sources.iter_mut().find(|source| source.token == line.source).unwrap();
            source.pump(&mut engine.tail, &engine.store, &mut line.there, self.now * 1000).unwrap();
            engine.replication = Some(replication);

            let arrived = self.random.below(line.there.len() + 1);
            let engine = &mut self.copy.engine;
            let mut replication = engine.replication.take().unwrap();
            let sink = replication.sinks.iter_mut().find(|sink| sink.token == Some(line.sink)).unwrap();
            let mut used = 0;
            while let Some((frame, len)) = Frame::parse(&line.there[used..arrived]).unwrap() {
                sink.take(engine, frame, self.now).unwrap();
                used += len;
            }
            sink.say(engine, &mut line.back, self.now);
            engine.replication = Some(replication);
            line.there.drain(..used);

            let arrived = self.random.below(line.back.len() + 1);
            let sources = &mut self.main.engine.replication.as_mut().unwrap().sources;
            let source = sources.iter_mut().find(|source| source.token == line.source).unwrap();
            let mut used = 0;
            while let Some((frame, len)) = Frame::parse(&line.back[used..arrived]).unwrap() {
                source.take(frame, self.now).unwrap();
                used += len;
            }
            line.back.drain(..used);
        }
    }

    fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    /// What the main would acknowledge the copy has; how many slots it would acknowledge now.
    fn believed(&self, what: &str) -> usize {
        let replication = self.main.engine.replication.as_ref().unwrap();
        let mut believed = 0;
        for slot in (0..KEYS).map(|number| slot_of(format!("k{number}").as_bytes())) {
            let seq = self.main.engine.tail.seq_of(slot);
            if replication.source_of("b", slot).is_some_and(|source| source.has(slot, seq) && source.clock > 0) {
                believed += 1;
                assert_eq!(
                    digest(&self.main.engine.store, slot),
                    digest(&self.copy.engine.store, slot),
                    "{what}: slot {slot} up to {seq} is believed to be there"
                );
            }
        }
        believed
    }

    fn full(&self) -> u64 {
        self.main.engine.replication.as_ref().unwrap().counts.full
    }
}

#[test]
fn a_copy_that_takes_slots_goes_on_from_what_it_has_whoever_of_the_two_hears_first() {
    for seed in 0..40 {
        let mut pair = Pair::new(seed);
        let copying = document(2, "copying");
        let main_first = seed % 2 == 0;
        pair.obey(main_first, &copying);
        for _ in 0..pair.random.below(30) {
            pair.write();
            pair.turn();
            pair.believed(&format!("seed {seed}, one has heard"));
        }
        pair.obey(!main_first, &copying);
        for _ in 0..300 {
            pair.write();
            pair.turn();
            pair.believed(&format!("seed {seed}, both have heard"));
        }
        pair.turns(200);
        assert_eq!(pair.believed(&format!("seed {seed}, at the end")), KEYS);
        assert_eq!(pair.full(), 1, "seed {seed}: nothing was compared or copied anew");
    }
}

#[test]
fn what_the_copy_has_is_never_taken_for_more_than_it_is_whatever_breaks_or_is_flushed_and_swapped() {
    let (mut anew, mut on) = (0, 0);
    let seeds = std::env::var("FASTCACHE_SEEDS").map_or(60, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let mut pair = Pair::new(seed);
        let mut unheard: Vec<(bool, Document)> = Vec::new();
        let (mut epoch, mut moves) = (1, false);
        for _ in 0..600 {
            if unheard.is_empty() && pair.random.below(30) == 0 {
                // Begun, given up, and begun under another name in the same breath.
                epoch += 1;
                moves = pair.random.below(3) > 0;
                let next = document(epoch, if moves { "copying" } else { "" });
                unheard = vec![(true, next.clone()), (false, next)];
                if pair.random.below(2) == 0 {
                    unheard.reverse();
                }
            }
            if !unheard.is_empty() && pair.random.below(6) == 0 {
                let (main, next) = unheard.remove(0);
                pair.obey(main, &next);
            }
            match pair.random.below(60) {
                0 => drop(pair.main.ask(&["SWAPDB", "0", "1"])),
                1 => drop(pair.main.ask(&["FLUSHDB"])),
                2 if !pair.lines.is_empty() => {
                    let at = pair.random.below(pair.lines.len());
                    pair.cut(at);
                }
                _ => pair.write(),
            }
            pair.turn();
            pair.believed(&format!("seed {seed}, epoch {epoch}"));
        }
        for (main, next) in unheard {
            pair.obey(main, &next);
        }
        pair.turns(400);
        assert_eq!(pair.believed(&format!("seed {seed}, at the end, moving: {moves}")), KEYS);
        let counts = pair.main.engine.replication.as_ref().unwrap().counts;
        (anew, on) = (anew + counts.full, on + counts.partial);
    }
    assert!(anew > 0 && on > 0, "both happen: {anew} were compared anew, {on} went on");
}

#[test]
fn a_giver_that_was_restarted_is_compared() {
    let mut pair = Pair::new(5);
    pair.obey(false, &document(2, "copying"));
    pair.main = Node::with(&[("node-id", "a")]);
    pair.main.engine.run_id = "another".into();
    pair.lines.clear();
    for sink in &mut pair.copy.engine.replication.as_mut().unwrap().sinks {
        sink.lost(0);
    }
    pair.obey(true, &document(2, "copying"));
    pair.write();
    pair.turns(400);
    assert_eq!(pair.believed("it has lost all"), KEYS);
    let counts = pair.main.engine.replication.as_ref().unwrap().counts;
    assert!(
        counts.full >= 2 && counts.partial == 0,
        "its copies and what moves: {} and {}",
        counts.full,
        counts.partial
    );
}
