//! Records into an engine: what a replica does, what reading the log does, what a restore does.
//!
//! Entries are put as they are; commands run through the ordinary handlers as a silent client, at the time at which
//! they were written, so that expiries and stamps agree with where they come from. What is applied is recorded on this
//! engine's own tail in turn, when somebody listens there. Nothing is evicted here: who sent it decided that.

use super::SlotSet;
use super::codec::{self, Failure, Garbage, Reader};
use super::tail::{EVERY_DATABASE, EVERY_SLOT, Kind, Record};
use crate::command::table::flag;
use crate::command::{Client, Ctx, Engine, dispatch};
use crate::resp::Args;
use crate::resp::Reply;
use crate::resp::request::Span;
use crate::slot::slot_of;
use crate::store::keyspace::{DATABASES, Whereabouts};
use smallvec::SmallVec;

/// Applies records to an engine, one stream after another or many at a time: it holds nothing between records but
/// an unfinished group.
pub struct Applier {
    client: Box<Client>,
    reply: Reply,
    group: Option<Vec<u8>>,
    /// Commands that answered with an error. What was written once must be writable again: any is a fault of ours.
    pub refused: u64,
}

impl Default for Applier {
    fn default() -> Self {
        Applier::new()
    }
}

impl Applier {
    /// An applier.
    pub fn new() -> Applier {
        let mut client = Client::new(0, 0);
        client.token = crate::command::client::Token::MAX; // That of no connection.
        client.no_touch = true;
        Applier { client: Box::new(client), reply: Reply::new(false), group: None, refused: 0 }
    }

    /// Apply a record. With `scope`, records that concern all slots change only these, and records of other slots are
    /// garbage. Records of a group are kept until its end, then applied together; that a stream ended in the midst of
    /// one is told by [`Applier::in_group`].
    pub fn apply(&mut self, engine: &mut Engine, record: &Record<'_>, scope: Option<&SlotSet>) -> Result<(), Failure> {
        if let Some(scope) = scope
            && !record.concerns(scope)
        {
            return Err(Garbage("a record is of a slot that does not belong to its stream").into());
        }
        match (record.kind, &mut self.group) {
            (Kind::Begin, group) => {
                *group = Some(Vec::new());
                Ok(())
            }
            (Kind::End, group) => {
                let bytes = group.take().ok_or(Garbage("a group ends that has not begun"))?;
                let mut at = 0;
                engine.tail.open_group();
                let mut done = Ok(());
                while done.is_ok()
                    && let Ok(Some(record)) = Record::parse(&bytes[at..])
                {
                    done = self.one(engine, &record, scope);
                    at += record.bytes.len();
                }
                engine.tail.close_group(record.time);
                done
            }
            (_, Some(bytes)) => {
                bytes.extend_from_slice(record.bytes);
                Ok(())
            }
            (_, None) => self.one(engine, record, scope),
        }
    }

    /// Whether a group has begun and not ended.
    pub fn in_group(&self) -> bool {
        self.group.is_some()
    }

    /// Forget an unfinished group: its stream has ended, and what did not arrive whole did not happen.
    pub fn abandon_group(&mut self) {
        self.group = None;
    }

    fn one(&mut self, engine: &mut Engine, record: &Record<'_>, scope: Option<&SlotSet>) -> Result<(), Failure> {
        let now = engine.store.now();
        engine.store.set_now(record.time);
        let done = match record.kind {
            Kind::Command => self.command(engine, record).map_err(Failure::from),
            Kind::Entry => self.entry(engine, record),
            Kind::Removal => self.removal(engine, record).map_err(Failure::from),
            Kind::Flush => flush(engine, record, scope).map_err(Failure::from),
            Kind::Swap => swap(engine, record, scope).map_err(Failure::from),
            Kind::Library => self.library(engine, record, scope.is_none()).map_err(Failure::from),
            Kind::Begin | Kind::End => Ok(()),
        };
        engine.store.set_now(now);
        done
    }

    fn command(&mut self, engine: &mut Engine, record: &Record<'_>) -> Result<(), Garbage> {
        let mut reader = Reader::new(record.payload);
        let count = reader.length()?;
        let mut words: SmallVec<[Span; 8]> = SmallVec::new();
        for _ in 0..count {
            let length = reader.length()?;
            let word = reader.bytes(length)?;
            words.push(Span::new(word.as_ptr() as usize - record.payload.as_ptr() as usize, word.len()));
        }
        if usize::from(record.database) >= DATABASES || words.is_empty() || !reader.is_empty() {
            return Err(Garbage("a command is none"));
        }
        let args = Args::new(record.payload, &words);
        let (row, place) = dispatch::resolve_quietly(&args).ok_or(Garbage("a command is not known here"))?;
        if !row.is(flag::WRITE | flag::MAY_REPLICATE) || row.is(flag::BLOCKING) || row.keys.is_empty() {
            return Err(Garbage("a command is none that writes keys"));
        }
        self.client.database = record.database;
        self.reply.clear();
        let outer = std::mem::replace(&mut engine.in_transaction, true); // Nothing here may wait.
        dispatch::run(engine, &mut self.client, row, place, &args, &mut self.reply, false);
        engine.in_transaction = outer;
        self.client.pending.clear();
        if self.reply.bytes().first() == Some(&b'-') {
            self.refused += 1;
        }
        Ok(())
    }

    fn entry(&mut self, engine: &mut Engine, record: &Record<'_>) -> Result<(), Failure> {
        let limits = engine.limits();
        let mut reader = Reader::new(record.payload);
        let head = codec::read_head(&mut reader)?;
        if slot_of(&head.key) != record.slot {
            return Err(Garbage("an entry is of another slot than its record").into());
        }
        engine.copies.before_write(&engine.store, &head.key);
        codec::read_value_into(&mut reader, &mut engine.store, &limits, &head)?;
        self.tell(engine, head.database, &head.key);
        if engine.tail.listening() {
            let Record { slot, database, time, payload, .. } = *record;
            engine.tail.write(Kind::Entry, slot, database, time, |out| out.extend_from_slice(payload));
        }
        Ok(())
    }

    fn library(&mut self, engine: &mut Engine, record: &Record<'_>, from_file: bool) -> Result<(), Garbage> {
        let memory = engine.settings.size(crate::command::settings::Name::lua_memory_limit);
        match engine.scripting.libraries.learn(record.payload, from_file, memory)? {
            Ok(true) => pass_on(engine, record, None),
            Ok(false) => {}
            Err(_) => self.refused += 1,
        }
        Ok(())
    }

    fn removal(&mut self, engine: &mut Engine, record: &Record<'_>) -> Result<(), Garbage> {
        let key = record.payload;
        if usize::from(record.database) >= DATABASES || slot_of(key) != record.slot {
            return Err(Garbage("a removal is of another slot than its record"));
        }
        self.remove(engine, record.database, key);
        Ok(())
    }

    /// Remove a key, as a record that says so does.
    pub fn remove(&mut self, engine: &mut Engine, database: u8, key: &[u8]) {
        engine.copies.before_write(&engine.store, key);
        if let Some(found) = engine.store.find_any(database, key) {
            engine.store.remove(found);
            self.tell(engine, database, key);
            if engine.tail.listening() {
                engine.record_gone(database, key);
            }
        }
    }

    /// Tell watchers, waiting clients and caches of a key that changed without a command.
    fn tell(&mut self, engine: &mut Engine, database: u8, key: &[u8]) {
        let Some((row, _)) = crate::command::table::find(b"set") else { return };
        let mut ctx = Ctx { engine, client: &mut self.client, out: &mut self.reply, command: row, again: false };
        ctx.changed_in(database, key, 0, "");
        engine.tail.notes.clear();
    }
}

/// Have the processor fetch what records need that are about to be applied, one step for all before the next, and tell
/// for each where its key is.
pub fn look_ahead(engine: &Engine, records: &[Record<'_>], found: &mut Vec<Whereabouts>) {
    let store = &engine.store;
    let whereabouts = |record: &Record<'_>| match record.kind {
        Kind::Command => {
            first_key(record).map_or_else(Whereabouts::default, |key| store.approach(record.database, key))
        }
        _ => Whereabouts::default(),
    };
    found.clear();
    found.extend(records.iter().map(whereabouts));
    let there = || records.iter().zip(&*found).filter(|(_, at)| at.is_known());
    there().for_each(|(record, at)| store.approach_group(record.database, at));
    there().for_each(|(record, at)| store.approach_entry(record.database, at));
}

/// The word behind the name of a command, nearly always its key.
fn first_key<'r>(record: &Record<'r>) -> Option<&'r [u8]> {
    if usize::from(record.database) >= DATABASES {
        return None;
    }
    let mut reader = Reader::new(record.payload);
    let count = reader.length().ok()?;
    let name = reader.length().ok()?;
    reader.bytes(name).ok()?;
    let key = reader.length().ok()?;
    (count > 1).then(|| reader.bytes(key).ok()).flatten()
}

/// The slots that a record changes: its own, or the stream's, or all there are (`None`).
fn slots_of(record: &Record<'_>, scope: Option<&SlotSet>) -> Option<SlotSet> {
    if record.slot == EVERY_SLOT { scope.cloned() } else { Some([record.slot].into_iter().collect()) }
}

/// Record on this engine's tail what a record that changed these slots amounts to: a listener that has other
/// slots too must not change those.
fn pass_on(engine: &mut Engine, record: &Record<'_>, slots: Option<SlotSet>) {
    engine.changes += 1;
    if engine.tail.listening() {
        let Record { kind, database, time, payload, .. } = *record;
        let mut write = |slot| engine.tail.write(kind, slot, database, time, |out| out.extend_from_slice(payload));
        match slots {
            None => write(EVERY_SLOT),
            Some(slots) => slots.iter().for_each(write),
        }
    }
}

fn flush(engine: &mut Engine, record: &Record<'_>, scope: Option<&SlotSet>) -> Result<(), Garbage> {
    let database = match record.database {
        EVERY_DATABASE => None,
        number if usize::from(number) < DATABASES => Some(number),
        _ => return Err(NO_DATABASE),
    };
    let slots = slots_of(record, scope);
    engine.copies.abandon();
    match (&slots, database) {
        // A node may hold slots of several mains: only those that the stream is of are emptied.
        (Some(slots), _) => slots.iter().for_each(|slot| {
            engine.store.flush_slot(database, slot);
        }),
        (None, Some(number)) => drop(engine.store.flush(number)),
        (None, None) => drop(engine.store.flush_all()),
    }
    pass_on(engine, record, slots);
    Ok(())
}

fn swap(engine: &mut Engine, record: &Record<'_>, scope: Option<&SlotSet>) -> Result<(), Garbage> {
    let (one, &[other]) = (record.database, record.payload) else {
        return Err(Garbage("a swap names no other database"));
    };
    if usize::from(one) >= DATABASES || usize::from(other) >= DATABASES {
        return Err(NO_DATABASE);
    }
    let slots = slots_of(record, scope);
    if slots.is_some() {
        engine.copies.abandon();
    }
    match &slots {
        None => engine.store.swap(one, other),
        Some(slots) => slots.iter().for_each(|slot| engine.store.swap_slot(one, other, slot)),
    }
    pass_on(engine, record, slots);
    Ok(())
}

const NO_DATABASE: Garbage = Garbage("there is no such database");
