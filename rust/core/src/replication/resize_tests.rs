//! Streams whose slots change while they run: what a main believes that its replica has, it has.

use super::digest::of_slot as digest;
use super::frames::Frame;
use super::{Question, admit, question};
use crate::command::client::Token;
use crate::command::cluster::membership::{obey, obey_after};
use crate::command::testing::Node;
use crate::slot::{SLOT_COUNT, SlotSet, slot_of};
use crate::store::random::Random;
use crate::topology::{Document, ranges};

/// `a` is the main of all slots, but of `theirs`, which are `b`'s; `b` has copies of `copied`.
fn document(epoch: u64, copied: &SlotSet, theirs: &SlotSet) -> Document {
    let rest = SlotSet::all().without(copied).without(theirs);
    let mut groups = Vec::new();
    for (main, slots, replicas) in [("a", &rest, ""), ("a", copied, r#""b""#), ("b", theirs, "")] {
        if !slots.is_empty() {
            let text = ranges::to_text(slots.iter());
            groups.push(format!(r#"{{"main":"{main}","ranges":"{text}","replicas":[{replicas}]}}"#));
        }
    }
    let groups = groups.join(",");
    let text = format!(
        r#"{{"epoch":{epoch},"replicas":1,"flags":["replication"],
        "nodes":[{{"id":"a","host":"10.0.0.1","port":7001}},{{"id":"b","host":"10.0.0.2","port":7002}}],
        "slots":[{groups}]}}"#
    );
    Document::parse(text.as_bytes()).unwrap()
}

struct Pair {
    main: Node,
    replica: Node,
    random: Random,
    now: u64,
    /// Bytes under way, to the replica and back; the two ends of the connection.
    there: Vec<u8>,
    back: Vec<u8>,
    connection: Option<(Token, Token)>,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        Pair {
            main: Node::with(&[("node-id", "a")]),
            replica: Node::with(&[("node-id", "b")]),
            random: Random::new(seed),
            now: 1000,
            there: Vec::new(),
            back: Vec::new(),
            connection: None,
        }
    }

    /// Whether one of the two has ended the connection.
    fn check_connection(&mut self) {
        let Some((source, sink)) = self.connection else { return };
        let sources = self.main.engine.replication.as_ref().map_or(&[][..], |all| &all.sources[..]);
        let sinks = self.replica.engine.replication.as_ref().map_or(&[][..], |all| &all.sinks[..]);
        let lives = sources.iter().any(|one| one.token == source) && sinks.iter().any(|one| one.token == Some(sink));
        if !lives {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let Some((source, sink)) = self.connection.take() else { return };
        self.there.clear();
        self.back.clear();
        super::gone(&mut self.main.engine, source, super::Role::Source, self.now);
        super::gone(&mut self.replica.engine, sink, super::Role::Sink, self.now);
    }

    fn connect(&mut self) {
        let engine = &mut self.replica.engine;
        let Some(sink) = engine.replication.as_ref().and_then(|all| all.sinks.first()) else { return };
        let asked = question(engine.membership.as_ref().unwrap(), sink, "b", "");
        let asked = String::from_utf8(asked).unwrap();
        let lines: Vec<&str> = asked.split("\r\n").collect();
        let text = |at: usize| lines[2 + 2 * at].to_owned();
        let (epoch, node, slots, run, seq) =
            (text(3).parse().unwrap(), text(4), text(5), text(6), text(7).parse().unwrap());
        let asked = Question { cluster: "", epoch, node: &node, ranges: &slots, run: &run, seq, moves: "" };
        let source = self.main.connect();
        let Ok(first) = admit(&mut self.main.engine, source, &asked, self.now) else { return };
        let token = self.replica.connect();
        let sink = &mut self.replica.engine.replication.as_mut().unwrap().sinks[0];
        (sink.token, sink.greeted) = (Some(token), super::sink::Greeting::Streams);
        self.there = first.strip_prefix(b"+STREAM\r\n").unwrap().to_vec();
        self.back.clear();
        self.connection = Some((source, token));
    }

    /// One turn of both loops; what is on its way arrives in pieces.
    fn turn(&mut self) {
        self.now += 1 + self.random.bits() % 60;
        self.check_connection();
        if self.connection.is_none() {
            self.connect();
        }
        let Some((token, _)) = self.connection else { return };
        let engine = &mut self.main.engine;
        let mut replication = engine.replication.take().unwrap();
        let source = replication.sources.iter_mut().find(|source| source.token == token).unwrap();
        source.pump(&mut engine.tail, &engine.store, &mut self.there, self.now * 1000).unwrap();
        engine.replication = Some(replication);
        let arrived = self.random.below(self.there.len() + 1);
        let engine = &mut self.replica.engine;
        let mut replication = engine.replication.take().unwrap();
        let Some(sink) = replication.sinks.first_mut() else { return engine.replication = Some(replication) };
        let mut used = 0;
        while let Some((frame, len)) = Frame::parse(&self.there[used..arrived]).unwrap() {
            sink.take(engine, frame, self.now).unwrap();
            used += len;
        }
        sink.say(engine, &mut self.back, self.now);
        engine.replication = Some(replication);
        self.there.drain(..used);
        let arrived = self.random.below(self.back.len() + 1);
        let source = &mut self.main.engine.replication.as_mut().unwrap().sources;
        let (source, mut used) = (source.iter_mut().find(|source| source.token == token).unwrap(), 0);
        while let Some((frame, len)) = Frame::parse(&self.back[used..arrived]).unwrap() {
            source.take(frame, self.now).unwrap();
            used += len;
        }
        self.back.drain(..used);
    }

    fn write(&mut self) {
        let key = format!("k{}", self.random.below(60));
        let big = format!("{{big}}{}", self.random.below(1500));
        let number = self.random.below(1000).to_string();
        let words: &[&str] = match self.random.below(6) {
            0 => &["SET", &key, &number],
            1 | 2 => &["INCR", &big],
            3 => &["DEL", &key],
            4 => &["INCR", &key],
            _ => &["RPUSH", "list", &number],
        };
        self.main.ask(words);
    }

    /// What the main would acknowledge, the replica has.
    fn check(&self, seed: u64) {
        let Some(replication) = &self.main.engine.replication else { return };
        let mut slots: Vec<u16> = (0..60).map(|number| slot_of(format!("k{number}").as_bytes())).collect();
        slots.push(slot_of(b"list"));
        slots.extend(self.now.is_multiple_of(4).then_some(slot_of(b"{big}")));
        for slot in slots {
            if !self.main.engine.membership.as_ref().unwrap().own.contains(slot) {
                continue;
            }
            let seq = self.main.engine.tail.seq_of(slot);
            if replication.source_of("b", slot).is_some_and(|source| source.has(slot, seq) && source.clock > 0) {
                let (ours, theirs) = (digest(&self.main.engine.store, slot), digest(&self.replica.engine.store, slot));
                assert_eq!(ours, theirs, "seed {seed}: slot {slot} up to {seq} is believed to be there");
            }
        }
    }
}

fn some_slots(random: &mut Random) -> SlotSet {
    let (from, len) = (random.below(usize::from(SLOT_COUNT)), 1000 + random.below(12_000));
    (from..from + len).map(|slot| (slot % usize::from(SLOT_COUNT)) as u16).collect()
}

#[test]
fn slots_come_and_go_while_a_stream_runs_and_it_is_never_believed_to_have_what_it_has_not() {
    let mut kept = 0;
    let seeds = std::env::var("FASTCACHE_SEEDS").map_or(12, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let mut pair = Pair::new(seed);
        for number in 0..1400 {
            pair.main.ask(&["SET", &format!("{{big}}{number}"), "1"]);
        }
        let mut epoch = 1;
        let first = document(1, &SlotSet::all(), &SlotSet::default());
        obey(&mut pair.main.engine, first.clone()).unwrap();
        obey(&mut pair.replica.engine, first).unwrap();
        let mut unheard: Vec<(bool, Document)> = Vec::new();
        for turn in 0..700 {
            if turn < 600 && unheard.is_empty() && pair.random.below(25) == 0 {
                epoch += 1;
                let copied = match pair.random.below(6) {
                    0 => SlotSet::default(),
                    _ => some_slots(&mut pair.random),
                };
                // What `b` takes over is fenced, and comes back the next time.
                let theirs = match pair.random.below(3) {
                    0 => some_slots(&mut pair.random).without(&copied),
                    _ => SlotSet::default(),
                };
                let next = document(epoch, &copied, &theirs);
                unheard = vec![(true, next.clone()), (false, next)];
                if pair.random.below(3) == 0 {
                    unheard.reverse();
                }
            }
            if !unheard.is_empty() && pair.random.below(4) == 0 {
                let (main, next) = unheard.remove(0);
                let before = pair.connection;
                let node = if main { &mut pair.main } else { &mut pair.replica };
                obey(&mut node.engine, next).unwrap();
                pair.check_connection();
                kept += u32::from(before.is_some() && before == pair.connection);
            }
            pair.write();
            pair.turn();
            pair.check(seed);
            if pair.random.below(120) == 0 {
                pair.cut();
            }
        }
        for _ in 0..400 {
            pair.turn();
            pair.check(seed);
        }
        let copied = |node: &Node, slot| node.engine.membership.as_ref().unwrap().copied.contains(slot);
        for slot in (0..SLOT_COUNT).filter(|&slot| copied(&pair.replica, slot)) {
            let (ours, theirs) = (digest(&pair.main.engine.store, slot), digest(&pair.replica.engine.store, slot));
            assert_eq!(ours, theirs, "seed {seed}: slot {slot} at the end");
        }
        let replication = pair.main.engine.replication.as_ref().unwrap();
        assert!(replication.sources.iter().all(|source| source.whole), "seed {seed}: all has arrived");
    }
    assert!(kept > seeds as u32 * 10, "streams go on: {kept}");
}

#[test]
fn a_digest_that_was_told_before_databases_were_flushed_is_not_believed() {
    for seed in 0..20 {
        let mut pair = Pair::new(seed);
        let all = document(1, &SlotSet::all(), &SlotSet::default());
        obey(&mut pair.main.engine, all.clone()).unwrap();
        obey(&mut pair.replica.engine, all).unwrap();
        pair.main.ask(&["INCR", "k1"]);
        (0..300).for_each(|_| pair.turn());
        pair.cut();
        pair.replica.engine.replication.as_mut().unwrap().sinks[0].begin_anew();
        for _ in 0..40 {
            // It is again what the replica says that it has; but the replica is told to flush that.
            pair.main.ask(&["FLUSHALL"]);
            pair.main.ask(&["INCR", "k1"]);
            pair.turn();
            pair.check(seed);
        }
        for _ in 0..300 {
            pair.turn();
            pair.check(seed);
        }
        let slot = slot_of(b"k1");
        let (ours, theirs) = (digest(&pair.main.engine.store, slot), digest(&pair.replica.engine.store, slot));
        assert_eq!(ours, theirs, "seed {seed}");
    }
}

#[test]
fn strict_writes_to_slots_that_a_main_gave_up_in_order_wait_for_its_other_replicas_too() {
    let part = |epoch: u64, given: &str| {
        let text = format!(
            r#"{{"epoch":{epoch},"replicas":2,"flags":["replication","strict"],
            "nodes":[{{"id":"a","host":"10.0.0.1","port":7001}},{{"id":"b","host":"10.0.0.2","port":7002}},
            {{"id":"c","host":"10.0.0.3","port":7003}}],
            "slots":[{{"main":"a","ranges":"8192-16383","replicas":["b","c"]}},{given}]}}"#
        );
        Document::parse(text.as_bytes()).unwrap()
    };
    let mut pair = Pair::new(21);
    let before = part(2, r#"{"main":"a","ranges":"0-8191","replicas":["b","c"]}"#);
    obey(&mut pair.main.engine, before.clone()).unwrap();
    obey(&mut pair.replica.engine, before).unwrap();
    (0..300).for_each(|_| pair.turn());
    // The main stops serving them first, and says so over the stream; then the other takes them.
    let given = part(3, r#"{"main":"b","ranges":"0-8191","replicas":["c"],"learners":["a"]}"#);
    obey(&mut pair.main.engine, given.clone()).unwrap();
    (0..300).for_each(|_| pair.turn());
    let released = |pair: &Pair| pair.replica.engine.replication.as_ref().unwrap().sinks[0].released().contains(0);
    assert!(released(&pair), "it is told");
    obey_after(&mut pair.replica.engine, given, Some("a")).unwrap();
    assert!(pair.replica.engine.promotion.is_none(), "nobody else answers for them");
    assert_eq!(slot_of(b"k"), 7629, "one of those");
    assert_eq!(pair.replica.ask(&["SET", "k", "v"]), "+OK", "run; what holds the reply is not asked here");
    pair.replica.engine.replication.as_mut().unwrap().taken_over.as_mut().unwrap().0 = 0;
    assert_eq!(pair.replica.ask(&["SET", "k", "w"]), "-NOREPLICAS Not enough good replicas to write.");
}
