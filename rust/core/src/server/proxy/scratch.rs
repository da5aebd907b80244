//! Where something runs over keys of several nodes: an engine of its own, that is given their values, runs it as a node
//! would, and tells what it came to as requests for the nodes.
//!
//! What was written is told as commands where the engine's tail has commands, so that a node does what it would have done
//! (events, waiting clients), and as whole values where it has not (a union stored from other slots).

use crate::command::gathered::Gathered;
use crate::command::scripting::running::KILLED;
use crate::command::settings::Settings;
use crate::command::{Client, Engine, Fault, dispatch, dump};
use crate::resp::{Args, OwnedArgs, Reply};
use crate::slot::slot_of;
use crate::stream::codec::Reader;
use crate::stream::tail::Kind;
use std::collections::{HashMap, HashSet};

/// A value as FASTCACHE FETCH tells it, with when it expires; `None` where there is none.
pub(super) type Values = HashMap<Box<[u8]>, Option<(Vec<u8>, i64)>>;

/// See the module's page.
pub(super) struct Scratch {
    engine: Engine,
    client: Box<Client>,
}

/// What it came to.
#[derive(Default)]
pub(super) struct Ran {
    pub(super) reply: Vec<u8>,
    /// Keys that were asked for and not given: it must be run again with them.
    pub(super) missing: Vec<Box<[u8]>>,
    /// What the nodes are to do, each request for the node of a slot.
    pub(super) effects: Vec<(u16, OwnedArgs)>,
}

/// What is to be run.
pub(super) struct Task<'t> {
    pub(super) requests: &'t [OwnedArgs],
    /// The requests are a transaction: their replies are one.
    pub(super) transaction: bool,
    pub(super) resp3: bool,
    pub(super) database: u8,
}

impl Scratch {
    pub(super) fn new(now: u64) -> Scratch {
        let mut engine = Engine::new(Settings::default(), crate::clock::steady_ns(), now);
        engine.in_transaction = true; // Nothing waits here.
        let client = engine.new_client();
        Scratch { engine, client }
    }

    /// Whether a script is known here.
    pub(super) fn knows(&self, digest: &[u8]) -> bool {
        self.engine.scripting.knows(digest)
    }

    /// Learn a script.
    pub(super) fn learn(&mut self, text: &[u8]) {
        self.serve(&[b"SCRIPT", b"LOAD", text]);
    }

    /// Run something over these values. Nothing of it stays here.
    pub(super) fn run(&mut self, task: &Task<'_>, values: &Values, now: u64) -> Ran {
        self.engine.store.set_now(now);
        (self.client.database, self.client.resp3) = (task.database, false);
        let given = self.give(values);
        let ran = match given {
            Ok(()) => self.carry_out(task, values),
            Err(reply) => Ran { reply, ..Ran::default() },
        };
        self.engine.gathered = None;
        self.client.resp3 = false;
        self.serve(&[b"FLUSHALL"]);
        ran
    }

    fn give(&mut self, values: &Values) -> Result<(), Vec<u8>> {
        for (key, value) in values {
            let Some((payload, expiry)) = value else { continue };
            let time = (*expiry).max(0).to_string();
            let reply = self.serve(&[b"RESTORE", key, time.as_bytes(), payload, b"ABSTTL"]);
            if reply.first() == Some(&b'-') {
                return Err(reply);
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, task: &Task<'_>, values: &Values) -> Ran {
        let known: HashSet<Box<[u8]>> = values.keys().cloned().collect();
        self.engine.gathered = Some(Box::new(Gathered { known, ..Gathered::default() }));
        self.client.resp3 = task.resp3;
        let mut cursor = self.engine.listen();
        let mut reply = Reply::new(task.resp3);
        if task.transaction {
            reply.array(task.requests.len());
        }
        for request in task.requests {
            self.one(&request.as_args(), &mut reply);
        }
        let mut records: Vec<(Kind, u16, Vec<u8>)> = Vec::new();
        while let Ok(Some(record)) = self.engine.tail.next(&mut cursor) {
            records.push((record.kind, record.slot, record.payload.to_vec()));
        }
        self.engine.stop_listening();
        let Gathered { missing, said, .. } = *self.engine.gathered.take().unwrap_or_default();
        let reply = reply.take();
        if !missing.is_empty() {
            return Ran { missing, ..Ran::default() };
        }
        if memchr::memmem::find(&reply, KILLED.as_bytes()).is_some() {
            let fault =
                b"-ERR a script over keys of several nodes ran for too long and was ended; nothing was written\r\n";
            return Ran { reply: fault.to_vec(), ..Ran::default() };
        }
        let mut effects = self.effects(&records, values);
        effects.extend(said.into_iter().map(|words| (slot_of(words.as_args().at(1)), words)));
        Ran { reply, effects, ..Ran::default() }
    }

    fn one(&mut self, args: &Args<'_>, reply: &mut Reply) {
        let Scratch { engine, client } = self;
        if let Some((row, _)) = dispatch::resolve_quietly(args)
            && let Some(gathered) = &mut engine.gathered
            && let Err(text) = gathered.admit(row, args)
        {
            return dispatch::fail(engine, reply, &Fault::of(text));
        }
        dispatch::serve(engine, client, args, reply);
    }

    /// What the records amount to. Slots of which there is more to tell than commands have all their changed keys told
    /// as they are in the end.
    fn effects(&mut self, records: &[(Kind, u16, Vec<u8>)], values: &Values) -> Vec<(u16, OwnedArgs)> {
        let whole =
            |slot: u16| records.iter().any(|(kind, at, _)| *at == slot && matches!(kind, Kind::Entry | Kind::Removal));
        let mut effects = Vec::new();
        for (kind, slot, payload) in records {
            if *kind == Kind::Command
                && !whole(*slot)
                && let Some(words) = words_of(payload)
            {
                effects.push((*slot, words));
            }
        }
        for (key, before) in values.iter().filter(|(key, _)| whole(slot_of(key))) {
            let store = &mut self.engine.store;
            let after = store.find_any(self.client.database, key).map(|found| {
                let expiry = store.entry(found).expiry().map_or(-1, |time| time as i64);
                (dump::payload(store, found), expiry)
            });
            if after == *before {
                continue;
            }
            let words = match &after {
                Some((payload, expiry)) => {
                    let time = (*expiry).max(0).to_string();
                    OwnedArgs::from_parts([&b"RESTORE"[..], key, time.as_bytes(), payload, b"REPLACE", b"ABSTTL"])
                }
                None => OwnedArgs::from_parts([&b"DEL"[..], key]),
            };
            effects.push((slot_of(key), words));
        }
        effects
    }

    fn serve(&mut self, words: &[&[u8]]) -> Vec<u8> {
        let mut reply = Reply::new(false);
        dispatch::serve(
            &mut self.engine,
            &mut self.client,
            &OwnedArgs::from_parts(words.iter().copied()).as_args(),
            &mut reply,
        );
        reply.take()
    }
}

/// The words of a command in a record.
fn words_of(payload: &[u8]) -> Option<OwnedArgs> {
    let mut reader = Reader::new(payload);
    let mut words = OwnedArgs::default();
    for _ in 0..reader.length().ok()? {
        let length = reader.length().ok()?;
        words.push(reader.bytes(length).ok()?);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn words(line: &str) -> OwnedArgs {
        OwnedArgs::from_parts(line.split(' ').map(str::as_bytes))
    }

    fn told(words: &OwnedArgs) -> String {
        let words: Vec<_> = words.as_args().from(0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        words.join(" ")
    }

    /// Run lines as one transaction over values made by other lines.
    fn ran(scratch: &mut Scratch, made_by: &[&str], keys: &[&str], requests: &[OwnedArgs]) -> Ran {
        let mut values = Values::new();
        let mut made = Scratch::new(NOW);
        for line in made_by {
            made.serve(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        }
        for key in keys {
            let store = &mut made.engine.store;
            let value = store
                .find_any(0, key.as_bytes())
                .map(|found| (dump::payload(store, found), store.entry(found).expiry().map_or(-1, |time| time as i64)));
            values.insert(key.as_bytes().into(), value);
        }
        let task = Task { requests, transaction: requests.len() > 1, resp3: false, database: 0 };
        scratch.run(&task, &values, NOW)
    }

    #[test]
    fn commands_stay_commands_and_what_comes_from_other_slots_is_a_value() {
        let mut scratch = Scratch::new(NOW);
        let script = "redis.call('RPUSH', KEYS[1], ARGV[1]) redis.call('EXPIRE', KEYS[2], 10) return redis.call('LLEN', KEYS[1])";
        let eval = OwnedArgs::from_parts([&b"EVAL"[..], script.as_bytes(), b"2", b"a", b"b", b"x"]);
        let done = ran(&mut scratch, &["RPUSH a 1", "SET b 2"], &["a", "b"], &[eval]);
        assert_eq!(done.reply, b":2\r\n");
        let effects: Vec<String> = done.effects.iter().map(|(_, words)| told(words)).collect();
        assert_eq!(effects, ["RPUSH a x", "EXPIRE b 10"]);

        let done = ran(&mut scratch, &["SADD a 1", "SADD b 2"], &["a", "b", "c"], &[words("SUNIONSTORE c a b")]);
        assert_eq!(done.reply, b":2\r\n");
        assert_eq!(done.effects.len(), 1);
        assert!(told(&done.effects[0].1).starts_with("RESTORE c 0 "));
        assert_eq!(done.effects[0].0, slot_of(b"c"));
    }

    #[test]
    fn a_renamed_key_takes_its_time_along() {
        let mut scratch = Scratch::new(NOW);
        let done = ran(&mut scratch, &["SET a 1 PXAT 1700000009000"], &["a", "b"], &[words("RENAME a b")]);
        assert_eq!(done.reply, b"+OK\r\n");
        let mut effects: Vec<String> = done.effects.iter().map(|(_, words)| told(words)).collect();
        effects.sort();
        assert_eq!(effects[0], "DEL a");
        assert!(effects[1].starts_with("RESTORE b 1700000009000 "));
        let done = ran(&mut scratch, &["SET a 1", "SET b 2"], &["a", "b"], &[words("RENAMENX a b")]);
        assert_eq!((&done.reply[..], done.effects.len()), (&b":0\r\n"[..], 0));
    }

    #[test]
    fn keys_that_a_script_did_not_name_are_asked_for() {
        let mut scratch = Scratch::new(NOW);
        let script = "redis.call('SET', KEYS[1], 1) return redis.pcall('GET', 'other')";
        let eval = || OwnedArgs::from_parts([&b"EVAL"[..], script.as_bytes(), b"2", b"a", b"b"]);
        let done = ran(&mut scratch, &[], &["a", "b"], &[eval()]);
        assert_eq!(done.missing, [Box::from(&b"other"[..])]);
        assert!(done.effects.is_empty());
        let done = ran(&mut scratch, &["SET other 5"], &["a", "b", "other"], &[eval()]);
        assert_eq!((&done.reply[..], done.missing.len(), done.effects.len()), (&b"$1\r\n5\r\n"[..], 0, 1));
    }

    #[test]
    fn a_transaction_has_one_reply_and_messages_go_out_with_what_was_written() {
        let mut scratch = Scratch::new(NOW);
        let requests = [words("RPUSH a 1"), words("SMOVE s t m"), words("PUBLISH news hello"), words("DBSIZE")];
        let done = ran(&mut scratch, &["SADD s m"], &["a", "s", "t"], &requests);
        let reply = String::from_utf8(done.reply).unwrap();
        assert!(reply.starts_with("*4\r\n:1\r\n:1\r\n:0\r\n-ERR what concerns all keys"), "{reply}");
        let effects: Vec<String> = done.effects.iter().map(|(_, words)| told(words)).collect();
        assert_eq!((&effects[0][..], &effects[effects.len() - 1][..]), ("RPUSH a 1", "PUBLISH news hello"));
        // Nothing is left of it.
        assert_eq!(ran(&mut scratch, &[], &["a", "b"], &[words("EXISTS a b")]).reply, b":0\r\n");
    }

    #[test]
    fn a_script_that_does_not_end_is_ended_and_has_written_nothing() {
        let mut scratch = Scratch::new(NOW);
        let script = "redis.call('SET', KEYS[1], 1) while true do end";
        let eval = OwnedArgs::from_parts([&b"EVAL"[..], script.as_bytes(), b"2", b"a", b"b"]);
        let done = ran(&mut scratch, &[], &["a", "b"], &[eval]);
        assert!(done.reply.starts_with(b"-ERR a script over keys of several nodes ran for too long"));
        assert!(done.effects.is_empty());
    }

    #[test]
    fn nothing_of_what_ran_before_is_left_in_the_next_run() {
        let before = [
            "redis.call('set','t',1,'px',50) return redis.call('pttl','t') > 0",
            "redis.call('set','k','v','ex',100) return redis.call('ttl','k')",
            "return coroutine.wrap(function() return redis.call('incr','cnt') end)()",
            "return redis.call('sinterstore','d','a1','b1')",
            "return redis.call('mget','a','b','c')",
            "return redis.call('spop','nosuch')",
            "KEYS = 5",
        ];
        let zscore = "redis.setresp(3) return {redis.call('HGETALL', 'h'), redis.call('ZSCORE', 'z', 'm'), 5}";
        for script in before {
            let mut scratch = Scratch::new(NOW);
            for round in 0..3 {
                let eval = OwnedArgs::from_parts([&b"EVAL"[..], script.as_bytes(), b"0"]);
                for keys in [&[][..], &["t", "k", "cnt", "d", "a1", "b1", "a", "b", "c", "nosuch"][..]] {
                    ran(&mut scratch, &["SET t 1 PX 40"], keys, std::slice::from_ref(&eval));
                }
                let eval = OwnedArgs::from_parts([&b"EVAL"[..], zscore.as_bytes(), b"0"]);
                for keys in [&[][..], &["h"][..]] {
                    assert_eq!(
                        ran(&mut scratch, &["HSET h a 1", "ZADD z 1.5 m"], keys, std::slice::from_ref(&eval))
                            .missing
                            .len(),
                        1
                    );
                }
                let done = ran(&mut scratch, &["HSET h a 1", "ZADD z 1.5 m"], &["h", "z"], &[eval]);
                let reply = String::from_utf8_lossy(&done.reply).into_owned();
                assert_eq!(reply, "*3\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n$3\r\n1.5\r\n:5\r\n", "{script} {round}");
            }
        }
    }
}
