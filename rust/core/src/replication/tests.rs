//! Two nodes without sockets: what a main sends, cut into any pieces, makes its replica the same.

use super::digest::of_slot as digest;
use super::frames::Frame;
use super::{LEASE_MS, Question, Sink, admit, strict};
use crate::command::client::Token;
use crate::command::cluster::membership::{Obeyed, obey, obey_after};
use crate::command::dispatch;
use crate::command::testing::{Node, readable};
use crate::resp::Reply;
use crate::resp::request::OwnedArgs;
use crate::slot::SLOT_COUNT;
use crate::store::random::Random;
use crate::stream::codec;
use crate::topology::Document;
use std::collections::BTreeSet;

/// `a` has all slots, `b` copies of them; or the other way round.
fn document(epoch: u64, main: &str) -> Document {
    flagged(epoch, main, r#""replication""#, "replicas")
}

/// With more flags, and the other one as a replica or as a learner.
pub(super) fn flagged(epoch: u64, main: &str, flags: &str, part: &str) -> Document {
    let other = if main == "a" { "b" } else { "a" };
    let text = format!(
        r#"{{"epoch":{epoch},"replicas":1,"flags":[{flags}],
        "nodes":[{{"id":"a","host":"10.0.0.1","port":7001}},{{"id":"b","host":"10.0.0.2","port":7002}}],
        "slots":[{{"main":"{main}","ranges":"0-16383","{part}":["{other}"]}}]}}"#
    );
    Document::parse(text.as_bytes()).unwrap()
}

pub(super) struct Pair {
    pub main: Node,
    pub replica: Node,
    pub random: Random,
    pub now: u64,
    /// Bytes under way to the replica.
    wire: Vec<u8>,
}

impl Pair {
    pub fn new(seed: u64) -> Pair {
        let mut pair = Pair {
            main: Node::with(&[("node-id", "a")]),
            replica: Node::with(&[("node-id", "b")]),
            random: Random::new(seed),
            now: 1000,
            wire: Vec::new(),
        };
        pair.obey(document(1, "a"));
        pair
    }

    pub fn obey(&mut self, document: Document) {
        obey(&mut self.main.engine, document.clone()).unwrap();
        obey(&mut self.replica.engine, document).unwrap();
    }

    pub fn sink(&mut self) -> &mut Sink {
        &mut self.replica.engine.replication.as_mut().unwrap().sinks[0]
    }

    /// Connect; the answer's first frame is on the wire.
    pub fn connect(&mut self) {
        let token = self.main.connect();
        let sink = self.sink();
        let (run, seq) = if sink.whole { (sink.run.clone(), sink.seq) } else { (String::new(), 0) };
        let run = run.as_str();
        let node = self.replica.engine.settings.text(crate::command::settings::Name::node_id).to_owned();
        let epoch = self.main.engine.membership.as_ref().unwrap().document.epoch;
        let question = Question { cluster: "", epoch, node: &node, ranges: "0-16383", run, seq, moves: "" };
        let first = admit(&mut self.main.engine, token, &question, self.now).unwrap();
        self.wire = first.strip_prefix(b"+STREAM\r\n").unwrap().to_vec();
    }

    /// As if this had been the main's first word.
    pub fn wire_is(&mut self, frame: Frame<'_>) {
        self.wire.clear();
        frame.write(&mut self.wire);
    }

    /// The connection breaks, and with it what was under way.
    pub fn cut(&mut self) {
        self.wire.clear();
        let now = self.now;
        self.sink().lost(now);
    }

    /// Ask the main as its event loop would: empty when the reply is held.
    pub fn ask(&mut self, token: Token, words: &[&str]) -> String {
        let args = OwnedArgs::from_parts(words.iter().map(|word| word.as_bytes()));
        let engine = &mut self.main.engine;
        let mut client = engine.clients.take(token).unwrap();
        let mut out = Reply::new(false);
        let touched = strict::touched(engine, &client, &args.as_args());
        dispatch::serve(engine, &mut client, &args.as_args(), &mut out);
        strict::hold(engine, &mut client, touched, &mut out, 0, self.now * 1000);
        engine.clients.put_back(client);
        readable(out.bytes())
    }

    /// What was held and has been let go since.
    pub fn heard(&mut self, token: Token) -> String {
        strict::release(&mut self.main.engine, self.now * 1000);
        self.main.heard(token)
    }

    /// One turn of both loops.
    pub fn turn(&mut self) {
        self.now += 1 + self.random.bits() % 60;
        super::compare::settle(&mut self.main.engine, self.now);
        let engine = &mut self.main.engine;
        let mut replication = engine.replication.take().unwrap();
        replication.note_lag(engine.tail.seq(), self.now, 1000);
        let super::Replication { sources, comparing, .. } = &mut *replication;
        for source in sources {
            let before = self.wire.len();
            source.pump(&mut engine.tail, &engine.store, &mut self.wire, self.now * 1000).unwrap();
            let spoke = self.wire.len() > before;
            comparing.ask(source, &engine.tail, &engine.store, &mut self.wire, spoke);
        }
        engine.replication = Some(replication);
        // Not everything arrives at once.
        let arrived = self.random.below(self.wire.len() + 1);
        let engine = &mut self.replica.engine;
        let mut replication = engine.replication.take().unwrap();
        let (sink, mut used, mut words) = (&mut replication.sinks[0], 0, Vec::new());
        while let Some((frame, len)) = Frame::parse(&self.wire[used..arrived]).unwrap() {
            sink.take(engine, frame, self.now).unwrap();
            used += len;
        }
        sink.say(engine, &mut words, self.now);
        engine.replication = Some(replication);
        self.wire.drain(..used);
        let source = &mut self.main.engine.replication.as_mut().unwrap().sources[0];
        let mut at = 0;
        while let Some((frame, len)) = Frame::parse(&words[at..]).unwrap() {
            source.take(frame, self.now).unwrap();
            at += len;
        }
    }

    pub fn write_something(&mut self) {
        let key = format!("k{}", self.random.below(200));
        let tagged = format!("{{big}}{}", self.random.below(3000));
        let other = format!("{{big}}{}", self.random.below(3000));
        let number = self.random.below(1000).to_string();
        let words: &[&str] = match self.random.below(16) {
            0 => &["SET", &key, &number],
            1 => &["INCR", &tagged],
            2 => &["RENAME", &tagged, &other],
            3 => &["DEL", &key, &tagged],
            4 => &["SADD", "{big}set", &number],
            5 => &["SPOP", "{big}set"],
            6 => &["SUNIONSTORE", "{big}all", "{big}set", "{big}all"],
            7 => &["RPUSH", "{big}list", &number],
            8 => &["LMOVE", "{big}list", "{big}other", "LEFT", "RIGHT"],
            9 => &["PEXPIRE", &key, &number],
            10 => &["HSET", "hash", &number, &key],
            11 => &["ZADD", "{big}zset", &number, &key],
            12 => &["MSET", &key, "1", &tagged, &number],
            13 => &["COPY", &tagged, &other, "REPLACE"],
            14 => &["SET", &tagged, &number, "PX", &number],
            _ => &["APPEND", &tagged, "x"],
        };
        let token = 0;
        self.main.engine.clients.get_mut(token).unwrap().routed = true;
        self.main.ask_as(token, words);
        let later = self.random.bits() % 5;
        self.main.pass(later);
        self.replica.pass(later);
    }

    /// Until everything has arrived.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.turn();
            let seq = self.main.engine.tail.seq();
            let source = &self.main.engine.replication.as_ref().unwrap().sources[0];
            if source.whole && source.acked == seq {
                return;
            }
        }
        panic!("it never has everything");
    }

    pub fn same(&self) {
        for slot in 0..SLOT_COUNT {
            let (one, other) = (digest(&self.main.engine.store, slot), digest(&self.replica.engine.store, slot));
            if one != other {
                let entries = |node: &Node| -> BTreeSet<String> {
                    let store = &node.engine.store;
                    let told = |at| {
                        let mut value = Vec::new();
                        codec::write_value(store, at, &mut value);
                        let key = String::from_utf8_lossy(store.key_of(at)).into_owned();
                        format!("{key} {:?} {}", store.meta_of(at).expiry, String::from_utf8_lossy(&value))
                    };
                    store.entries_of_slot(0, slot).map(told).collect()
                };
                let (main, replica) = (entries(&self.main), entries(&self.replica));
                let more: Vec<_> = main.difference(&replica).collect();
                panic!(
                    "slot {slot}: {more:?} of the main, {:?} of the replica",
                    replica.difference(&main).collect::<Vec<_>>()
                );
            }
        }
    }
}

#[test]
fn libraries_of_functions_travel_with_the_copy_and_with_the_tail() {
    let load = |pair: &mut Pair, name: &str, answer: u32| {
        let code = format!("#!lua name={name}\nredis.register_function('{name}', function() return {answer} end)");
        assert_eq!(pair.main.ask(&["FUNCTION", "LOAD", "REPLACE", &code]), format!("${} {name}", name.len()));
    };
    let mut pair = Pair::new(4);
    load(&mut pair, "before", 1);
    load(&mut pair, "replaced", 1);
    load(&mut pair, "deleted", 1);
    pair.connect();
    pair.settle();
    load(&mut pair, "replaced", 2);
    load(&mut pair, "after", 3);
    assert_eq!(pair.main.line("FUNCTION DELETE deleted"), "+OK");
    pair.settle();
    let replica = &mut pair.replica;
    for (name, reply) in [("before", ":1"), ("replaced", ":2"), ("after", ":3"), ("deleted", "-ERR Function not found")]
    {
        assert_eq!(replica.ask(&["FCALL", name, "0"]), reply);
    }
    let dump = pair.main.ask_bytes_as_first(&[b"FUNCTION", b"DUMP"]);
    let payload = dump[dump.iter().position(|&byte| byte == b'\n').unwrap() + 1..].strip_suffix(b"\r\n").unwrap();
    assert_eq!(pair.main.line("FUNCTION FLUSH"), "+OK");
    pair.settle();
    assert_eq!(pair.replica.ask(&["FCALL", "before", "0"]), "-ERR Function not found");
    assert_eq!(pair.main.ask_bytes_as_first(&[b"FUNCTION", b"RESTORE", payload, b"FLUSH"]), b"+OK\r\n");
    pair.settle();
    assert_eq!(pair.replica.ask(&["FCALL", "after", "0"]), ":3");
    // Those that went while the connection was lost are known as well.
    pair.cut();
    assert_eq!(pair.main.line("FUNCTION DELETE before"), "+OK");
    pair.connect();
    pair.settle();
    assert_eq!(pair.replica.ask(&["FCALL", "before", "0"]), "-ERR Function not found");
}

#[test]
fn what_is_copied_is_squeezed_for_those_who_understand_it() {
    let sent = |squeezes: bool, understood: bool| {
        let mut pair = Pair::new(3);
        for number in 0..500 {
            pair.main.ask(&["SET", &format!("key{number}"), &"as before ".repeat(20)]);
        }
        pair.connect();
        pair.main.engine.replication.as_mut().unwrap().sources[0].squeezes = squeezes;
        if !understood {
            // As one of an older release names its run.
            let run = super::run_of(&pair.main.engine).replace('z', "");
            pair.wire_is(Frame::Start { run: run.as_bytes(), seq: 0, whole: true });
        }
        pair.settle();
        pair.same();
        pair.main.engine.replication.as_ref().unwrap().sources[0].bytes
    };
    let (squeezed, plain) = (sent(true, true), sent(false, true));
    assert!(squeezed * 2 < plain, "{squeezed} of {plain} bytes");
    assert_eq!(sent(true, false), plain);
}

#[test]
fn a_replica_is_what_its_main_is_however_the_wire_is_cut_and_whenever_it_breaks() {
    for seed in 0..6 {
        let mut pair = Pair::new(seed);
        // More keys in one slot than are copied at once, before the replica comes.
        for number in 0..2500 {
            let key = format!("{{big}}{number}");
            pair.main.ask(&["SET", &key, "0"]);
        }
        (0..300).for_each(|_| pair.write_something());
        pair.connect();
        for _ in 0..2000 {
            pair.write_something();
            if pair.random.below(3) == 0 {
                pair.turn();
            }
            if pair.random.below(300) == 0 {
                pair.cut();
                pair.connect();
            }
        }
        pair.settle();
        pair.same();
        let counts = pair.main.engine.replication.as_ref().unwrap().counts;
        assert!(counts.full >= 1, "{seed}");
    }
}

#[test]
fn who_comes_back_goes_on_where_it_was_or_gets_only_the_slots_that_differ() {
    let mut pair = Pair::new(3);
    (0..500).for_each(|_| pair.write_something());
    pair.connect();
    pair.settle();
    pair.cut();
    (0..50).for_each(|_| pair.write_something());
    pair.connect();
    pair.settle();
    pair.same();
    assert_eq!(pair.main.engine.replication.as_ref().unwrap().counts.partial, 1);

    pair.cut();
    pair.main.ask(&["SET", "one", "1"]);
    pair.main.engine.tail.continue_from(10_000); // The records are not there any more.
    let before = pair.sink().bytes;
    pair.connect();
    pair.settle();
    pair.same();
    assert!(pair.sink().bytes - before < 100, "only one key has changed");
    assert_eq!(pair.main.engine.replication.as_ref().unwrap().counts.full, 2);
}

#[test]
fn a_replica_that_is_copied_anew_lacks_nothing_that_it_had_at_any_moment() {
    let mut pair = Pair::new(8);
    for number in 0..3000 {
        pair.main.ask(&["SET", &format!("{{big}}{number}"), "0"]);
        pair.main.ask(&["SET", &format!("k{number}"), "0"]);
    }
    pair.connect();
    pair.settle();
    pair.cut();
    // Its main is another life now, and went on: some keys are others, some are gone.
    pair.sink().whole = false;
    for number in 0..3000 {
        let command = if number % 50 == 7 { ["DEL", "", ""] } else { ["SET", "", "1"] };
        for key in [format!("{{big}}{number}"), format!("k{number}")] {
            let words = [command[0], &key, command[2]];
            pair.main.ask(&words[..if command[2].is_empty() { 2 } else { 3 }]);
        }
    }
    pair.connect();
    let seq = pair.main.engine.tail.seq();
    while pair.sink().seq < seq || !pair.sink().whole {
        pair.turn();
        // Keys that its main has, too; more may be there, until their slot is complete.
        assert!(pair.replica.engine.store.len() >= pair.main.engine.store.len());
    }
    pair.same();
}

#[test]
fn a_replica_hides_what_has_expired_and_leaves_its_removal_to_the_main() {
    let mut pair = Pair::new(4);
    pair.main.ask(&["SET", "k", "v", "PX", "500"]);
    pair.connect();
    pair.settle();
    pair.replica.expect(&[("READONLY", "+OK"), ("GET k", "$1 v"), ("DBSIZE", ":0"), ("KEYS *", "*0")]);
    pair.replica.pass(501);
    pair.replica.expect(&[("GET k", "$-1"), ("SET k w", "-MOVED 7629 10.0.0.1:7001")]);
    assert_eq!(pair.replica.engine.store.sweep_expired(1000).expired, 0);
    assert_eq!(pair.replica.engine.store.len(), 1, "it is still there");
    pair.main.expect(&[("PERSIST k", ":1")]); // By the main's clock its time has not come.
    pair.settle();
    pair.replica.expect(&[("GET k", "$1 v")]);
    pair.main.expect(&[("FLUSHALL", "+OK")]);
    pair.settle();
    pair.replica.expect(&[("GET k", "$-1")]);
}

#[test]
fn a_promoted_replica_ends_its_stream_and_serves_and_a_deposed_main_counts_what_was_lost() {
    let mut pair = Pair::new(5);
    pair.main.ask(&["SET", "k", "v"]);
    pair.connect();
    pair.settle();
    pair.main.ask(&["SET", "lost", "1"]);
    obey(&mut pair.replica.engine, document(2, "b")).unwrap();
    assert!(pair.replica.engine.replication.as_ref().unwrap().sinks.is_empty());
    pair.replica.expect(&[("GET k", "$1 v"), ("SET k w", "+OK")]);
    obey(&mut pair.main.engine, document(2, "b")).unwrap();
    pair.main.expect(&[("GET k", "-MOVED 7629 10.0.0.2:7002")]);
    let replication = pair.main.engine.replication.as_ref().unwrap();
    assert_eq!((replication.counts.lost_writes, replication.sinks.len(), replication.sources.len()), (1, 1, 0));
    let old = Question { cluster: "", epoch: 1, node: "a", ranges: "0-16383", run: "", seq: 0, moves: "" };
    let token = pair.replica.connect();
    let refused = admit(&mut pair.replica.engine, token, &old, 0).unwrap_err();
    assert_eq!(refused.0, &b"STALE epoch 1 is older than 2"[..]);
}

#[test]
fn what_went_elsewhere_is_not_counted_any_more_and_dropped() {
    let mut pair = Pair::new(12);
    (0..500).for_each(|_| pair.write_something());
    pair.connect();
    pair.settle();
    assert!(pair.main.integer(&["DBSIZE"]) > 0 && !pair.replica.engine.store.is_empty());
    let alone = |epoch, main: &str| {
        let text = String::from_utf8(document(epoch, main).canonical()).unwrap();
        Document::parse(text.replace(r#""replicas":["a"]"#, r#""replicas":[]"#).as_bytes()).unwrap()
    };
    pair.obey(alone(2, "b"));
    pair.main.expect(&[("DBSIZE", ":0")]);
    assert!(pair.replica.integer(&["DBSIZE"]) > 0);
    for _ in 0..100 {
        super::drop_stray(&mut pair.main.engine);
    }
    assert_eq!(pair.main.engine.store.len(), 0);
}

#[test]
fn waiting_for_replicas_ends_when_they_have_it() {
    let mut pair = Pair::new(6);
    pair.connect();
    pair.settle();
    pair.main.expect(&[("SET k v", "+OK"), ("WAIT 1 0", "")]);
    pair.settle();
    crate::command::replicate::serve_waiting(&mut pair.main.engine);
    assert_eq!(pair.main.heard_by_first(), ":1");
    pair.main.expect(&[("WAIT 2 20", "")]);
    pair.main.pass(30);
    assert_eq!(pair.main.heard_by_first(), ":1");
}

const STRICT: &str = r#""replication","strict""#;

/// A pair in strict mode, in sync, and another client.
fn strict_pair(seed: u64) -> (Pair, Token) {
    let mut pair = Pair::new(seed);
    pair.obey(flagged(2, "a", STRICT, "replicas"));
    pair.connect();
    pair.settle();
    let other = pair.main.connect();
    (pair, other)
}

#[test]
fn a_strict_reply_leaves_when_the_replica_has_it_and_nobody_sees_the_value_before() {
    let (mut pair, other) = strict_pair(7);
    assert_eq!(pair.ask(0, &["SET", "k", "v"]), "", "not yet");
    assert_eq!(pair.ask(0, &["PING"]), "", "replies keep their order");
    assert_eq!(pair.ask(other, &["GET", "k"]), "", "a dirty read");
    assert_eq!((pair.heard(0), pair.heard(other)), (String::new(), String::new()));
    pair.settle();
    assert_eq!((pair.heard(0), pair.heard(other)), ("+OK +PONG".into(), "$1 v".into()));
    assert_eq!(pair.ask(other, &["GET", "k"]), "$1 v", "it is on both");
    assert_eq!(pair.ask(0, &["FASTCACHE", "CONSISTENCY", "EVENTUAL"]), "+OK");
    assert_eq!(pair.ask(0, &["SET", "k", "w"]), "+OK", "who does not care does not wait");
    assert_eq!(pair.ask(other, &["GET", "k"]), "", "and others do not see it before it is safe");
    assert_eq!(pair.ask(other, &["GET", "elsewhere"]), "", "behind that one");
    let third = pair.main.connect();
    assert_eq!(pair.ask(third, &["GET", "elsewhere"]), "$-1", "its slot has no news");
    assert_eq!(pair.ask(third, &["MULTI"]), "+OK");
    assert_eq!(pair.ask(third, &["INCR", "n"]), "+QUEUED");
    assert_eq!(pair.ask(third, &["EXEC"]), "");
    pair.settle();
    assert_eq!((pair.heard(other), pair.heard(third)), ("$1 w $-1".into(), "*1 :1".into()));
}

#[test]
fn a_main_reads_only_while_its_replica_has_lately_sent_back_its_clock() {
    let (mut pair, other) = strict_pair(8);
    assert_eq!(pair.ask(other, &["GET", "k"]), "$-1");
    pair.now += LEASE_MS + 100;
    assert_eq!(pair.ask(other, &["GET", "k"]), "", "it may have been deposed meanwhile");
    pair.turn();
    pair.settle();
    for _ in 0..20 {
        pair.turn(); // Until a heartbeat has gone there and back.
    }
    assert_eq!(pair.heard(other), "$-1");
    pair.now += LEASE_MS + 100;
    assert_eq!(pair.ask(other, &["GET", "k"]), "");
    pair.now += strict::PATIENCE_MS + 1;
    assert_eq!(pair.heard(other), "-NOREPLICAS no replica says that this node is the main");
    assert_eq!(pair.ask(other, &["GET", "k"]), "");
    obey(&mut pair.main.engine, flagged(3, "b", STRICT, "replicas")).unwrap();
    assert_eq!(pair.heard(other), "-MOVED 7629 10.0.0.2:7002");
}

#[test]
fn while_a_replica_is_brought_up_to_date_only_slots_that_it_has_not_got_wait_and_those_come_first() {
    let (mut pair, other) = strict_pair(13);
    pair.cut();
    pair.sink().whole = false; // Its main is another life now.
    let long = "x".repeat(4000);
    pair.main.engine.clients.get_mut(0).unwrap().consistency = Some(false);
    (0..1500).for_each(|number| drop(pair.ask(0, &["SET", &format!("k{number}"), &long])));
    pair.connect();
    let covers = |pair: &Pair, key: &str| {
        pair.main.engine.replication.as_ref().unwrap().sources[0].covers(crate::slot::slot_of(key.as_bytes()))
    };
    let (mut asked, mut served) = (0, 0);
    while !pair.main.engine.replication.as_ref().unwrap().sources[0].whole {
        let Some(last) = (0..1500).rev().map(|number| format!("k{number}")).find(|key| !covers(&pair, key)) else {
            break;
        };
        if asked == 0 || pair.random.below(3) == 0 {
            let refused = pair.ask(other, &["SET", &last, "new"]);
            assert_eq!(refused, "-NOREPLICAS Not enough good replicas to write.", "it is not there yet");
            asked += 1;
            while !covers(&pair, &last) {
                pair.turn();
            }
            assert_eq!(pair.ask(other, &["SET", &last, "new"]), "", "now it only has to be acknowledged");
            while pair.heard(other) != "+OK" {
                pair.turn();
            }
            served += usize::from(!pair.sink().whole);
        }
        pair.turn();
    }
    assert!(asked > 2 && served > 1, "{asked} asked, {served} served before all was there");
    pair.settle();
    pair.same();
    // What the connection before has said is not taken for what this one says.
    pair.cut();
    let mut words = Vec::new();
    let now = pair.now;
    let mut replication = pair.replica.engine.replication.take().unwrap();
    replication.sinks[0].say(&pair.replica.engine, &mut words, now);
    assert!(words.is_empty());
}

#[test]
fn without_a_replica_in_sync_strict_writes_are_refused_and_reads_go_on_once_that_is_granted() {
    let (mut pair, other) = strict_pair(9);
    assert_eq!(pair.ask(0, &["SET", "k", "v"]), "");
    assert_eq!(pair.ask(other, &["GET", "k"]), "");
    let token = pair.main.engine.replication.as_ref().unwrap().sources[0].token;
    super::gone(&mut pair.main.engine, token, super::Role::Source, pair.now);
    assert_eq!(pair.ask(other, &["SET", "x", "y"]), "", "refused, but behind the read");
    let third = pair.main.connect();
    assert_eq!(pair.ask(third, &["SET", "x", "y"]), "-NOREPLICAS Not enough good replicas to write.");
    obey(&mut pair.main.engine, flagged(3, "a", STRICT, "learners")).unwrap();
    assert!(pair.heard(0).starts_with("-UNKNOWN outcome"), "nobody but us has it");
    assert_eq!(pair.heard(other), "$1 v -NOREPLICAS Not enough good replicas to write.");
    assert_eq!(pair.ask(third, &["SET", "x", "y"]), "-NOREPLICAS Not enough good replicas to write.");
    assert_eq!(pair.ask(third, &["MULTI"]), "+OK");
    assert_eq!(pair.ask(third, &["SET", "x", "y"]), "+QUEUED");
    let refused = "-EXECABORT Transaction discarded because of: NOREPLICAS Not enough good replicas to write.";
    assert_eq!(pair.ask(third, &["EXEC"]), refused, "it was surely not run");
    assert_eq!(pair.ask(third, &["FASTCACHE", "CONSISTENCY", "EVENTUAL"]), "+OK");
    assert_eq!(pair.ask(third, &["SET", "x", "y"]), "+OK");
}

#[test]
fn strict_writes_wait_a_moment_for_the_replicas_of_a_new_main_to_find_it() {
    let (mut pair, _) = strict_pair(14);
    let document = flagged(3, "b", STRICT, "replicas");
    obey(&mut pair.main.engine, document.clone()).unwrap();
    obey_after(&mut pair.replica.engine, document, Some("a")).unwrap();
    std::mem::swap(&mut pair.main, &mut pair.replica);
    assert!(pair.main.engine.promotion.is_none(), "the main before it obeys already");
    let client = pair.main.connect();
    assert_eq!(pair.ask(client, &["SET", "k", "v"]), "", "run, and not confirmed by anybody yet");
    pair.connect();
    pair.settle();
    assert_eq!(pair.heard(client), "+OK");
    // Who does not come in that time is not waited for.
    let token = pair.main.engine.replication.as_ref().unwrap().sources[0].token;
    super::gone(&mut pair.main.engine, token, super::Role::Source, pair.now);
    pair.main.engine.replication.as_mut().unwrap().taken_over.as_mut().unwrap().0 = 0;
    assert_eq!(pair.ask(client, &["SET", "k", "w"]), "-NOREPLICAS Not enough good replicas to write.");
}

#[test]
fn who_is_promoted_waits_until_the_main_before_it_reads_no_more() {
    let (mut pair, _) = strict_pair(10);
    pair.replica.engine.replication.as_mut().unwrap().sinks[0].promised = crate::command::replicate::steady_ms();
    obey(&mut pair.replica.engine, flagged(3, "b", STRICT, "learners")).unwrap();
    let now = crate::command::replicate::steady_ms();
    let wait = pair.replica.engine.promotion.as_ref().expect("it waits").0.saturating_sub(now);
    // Some of it may have passed.
    assert!((1..=LEASE_MS * 2).contains(&wait), "{wait}");
    let client = pair.replica.engine.clients.get(0).unwrap();
    let holds = |words: &[&str]| {
        let args = OwnedArgs::from_parts(words.iter().map(|word| word.as_bytes()));
        pair.replica.engine.holds(client, &args.as_args())
    };
    assert_eq!((holds(&["GET", "k"]), holds(&["SET", "k", "v"]), holds(&["PING"])), (true, true, false));
    assert_eq!(pair.replica.engine.end_promotion(now), Some(wait));
    assert_eq!(pair.replica.engine.end_promotion(now + wait), None);
    let client = pair.replica.engine.clients.get(0).unwrap();
    let args = OwnedArgs::from_parts([&b"GET"[..], b"k"]);
    assert!(!pair.replica.engine.holds(client, &args.as_args()));
}

#[test]
fn who_is_promoted_waits_for_nobody_who_obeys_already_but_for_all_others() {
    let (mut pair, _) = strict_pair(5);
    assert!(pair.sink().promised > 0);
    assert_eq!(obey_after(&mut pair.replica.engine, document(9, "b"), Some("a")), Ok(Obeyed::Taken));
    assert!(pair.replica.engine.promotion.is_none(), "a answers nothing any more");

    let (mut pair, _) = strict_pair(5);
    let promised = pair.sink().promised;
    assert_eq!(obey_after(&mut pair.replica.engine, document(9, "b"), Some("c")), Ok(Obeyed::Taken));
    assert!(pair.replica.engine.promotion.as_ref().is_some_and(|wait| wait.0 >= promised + LEASE_MS));
}

#[test]
fn who_is_promoted_while_slots_begin_to_move_to_it_waits_as_well() {
    let (mut pair, _) = strict_pair(5);
    let promised = pair.sink().promised;
    assert!(promised > 0);
    let half = |epoch, main, moves| {
        let copies = if main == "a" { r#""b""# } else { "" };
        let text = format!(
            r#"{{"epoch":{epoch},"replicas":1,"flags":["replication","strict"],"moves":[{moves}],
            "nodes":[{{"id":"a","host":"10.0.0.1","port":7001}},{{"id":"b","host":"10.0.0.2","port":7002}}],
            "slots":[{{"main":"{main}","ranges":"0-8191","replicas":[{copies}]}},
                     {{"main":"a","ranges":"8192-16383","replicas":["b"]}}]}}"#
        );
        Document::parse(text.as_bytes()).unwrap()
    };
    let begun = half(8, "a", r#"{"id":"m","from":"a","to":"b","ranges":"0-8191","state":"copying"}"#);
    obey(&mut pair.replica.engine, begun).unwrap();
    assert_eq!(pair.replica.engine.replication.as_ref().unwrap().sinks.len(), 2, "a stream for what moves");
    // The main has not heard of anything: by what it was promised it may answer reads still.
    obey(&mut pair.replica.engine, half(9, "b", "")).unwrap();
    let (until, _) = *pair.replica.engine.promotion.clone().expect("it waits");
    assert!(until >= promised + LEASE_MS);
}

#[test]
fn writes_are_refused_when_the_oldest_that_a_replica_lacks_is_too_old() {
    let mut pair = Pair::new(11);
    pair.connect();
    pair.settle();
    pair.main.expect(&[("SET k v", "+OK")]);
    let now = crate::command::replicate::steady_ms();
    let token = pair.main.engine.replication.as_ref().unwrap().sources[0].token;
    super::gone(&mut pair.main.engine, token, super::Role::Source, now);
    pair.main.expect(&[("SET k v", "+OK"), ("CONFIG SET max-unreplicated-ms 1", "+OK")]);
    pair.main.engine.replication.as_mut().unwrap().note_lag(u64::MAX, now.saturating_sub(500), 1);
    pair.main.engine.replication.as_mut().unwrap().note_lag(u64::MAX, now, 1);
    assert!(pair.main.line("SET k w").starts_with("-NOREPLICAS the oldest write that b does not have is"));
    pair.main.expect(&[("GET k", "$1 v"), ("CONFIG SET max-unreplicated-ms 0", "+OK"), ("SET k w", "+OK")]);
}

#[test]
fn what_was_applied_of_a_damaged_frame_is_not_applied_again() {
    let mut pair = Pair::new(11);
    pair.connect();
    pair.settle();
    assert_eq!(pair.main.line("INCR n"), ":1");
    let now = pair.now * 1000;
    let engine = &mut pair.main.engine;
    let mut replication = engine.replication.take().unwrap();
    replication.sources[0].pump(&mut engine.tail, &engine.store, &mut pair.wire, now).unwrap();
    engine.replication = Some(replication);
    let engine = &mut pair.replica.engine;
    let mut replication = engine.replication.take().unwrap();
    let (sink, mut at, mut failed) = (&mut replication.sinks[0], 0, false);
    while let Some((frame, len)) = Frame::parse(&pair.wire[at..]).unwrap() {
        at += len;
        if let Frame::Tail { seq, clock, records } = frame
            && !records.is_empty()
        {
            let damaged = [records, b"\x01\x02\x03"].concat();
            failed |= sink.take(engine, Frame::Tail { seq, clock, records: &damaged }, pair.now).is_err();
        } else {
            sink.take(engine, frame, pair.now).unwrap();
        }
    }
    engine.replication = Some(replication);
    assert!(failed && pair.replica.engine.store.len_of_slot(crate::slot::slot_of(b"n")) == 1);
    pair.cut();
    pair.connect();
    pair.settle();
    pair.same();
}
