//! The libraries of functions that a node keeps, and how nodes come to have the same ones.
//!
//! Libraries belong to no slot: a node tells everybody who copies anything from it, and its files, what was loaded,
//! deleted or flushed ([`News`], a record for every slot). Each of these has a stamp, a time that only rises; of two
//! that contradict each other the later one holds, on every node alike, in whatever order and by whichever way they
//! come. So nodes that copy slots from one another end up with the same libraries, and stop telling each other.
//!
//! Stock clients and proxies send FUNCTION LOAD to every main by themselves. What reached a node by a stream before its
//! client's own request does (`told` is false) must not make that request fail: it is answered as if it were the first.
//!
//! They live in an interpreter of their own, in which a library's code sees nothing but `redis.register_function` while
//! it is loaded.

use super::flags::{Flags, quoting};
use super::interpreter::Interpreter;
use crate::command::fault::Fault;
use crate::resp::request::split_words;
use crate::stream::codec::{Garbage, Reader, put_string};
use crate::stream::tail::{self, EVERY_DATABASE, EVERY_SLOT, Kind, Record, Tail};
use send_wrapper::SendWrapper;
use std::collections::{BTreeMap, HashMap};

/// Most bytes of libraries' code.
const MOST_BYTES: usize = 64 << 20;
/// Most names of deleted libraries that are remembered.
const MOST_GONE: usize = 1000;

/// A function of a library.
#[derive(Clone)]
pub struct Function {
    /// Its name.
    pub name: Vec<u8>,
    /// What it says that it does.
    pub description: Option<Vec<u8>>,
    /// What it says of itself.
    pub flags: Flags,
    /// Where it stands in the interpreter.
    pub place: i64,
}

/// A library.
pub struct Library {
    /// Its code, with the first line.
    pub code: Box<[u8]>,
    /// Its functions.
    pub functions: Vec<Function>,
    stamp: u64,
    told: bool,
}

/// When a library was deleted, and whether a client of ours said so.
#[derive(Clone, Copy)]
struct Gone {
    stamp: u64,
    told: bool,
}

/// Something that happened to libraries, as others learn of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News<'a> {
    /// A library was loaded; its name stands in its code.
    Loaded {
        /// When.
        stamp: u64,
        /// The code.
        code: &'a [u8],
    },
    /// A library was deleted.
    Gone {
        /// When.
        stamp: u64,
        /// Its name.
        name: &'a [u8],
    },
    /// All libraries were.
    Flushed {
        /// When.
        stamp: u64,
    },
}

impl<'a> News<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        let (kind, stamp, text) = match *self {
            News::Loaded { stamp, code } => (1, stamp, code),
            News::Gone { stamp, name } => (2, stamp, name),
            News::Flushed { stamp } => (3, stamp, &b""[..]),
        };
        out.push(kind);
        out.extend_from_slice(&stamp.to_le_bytes());
        put_string(out, text);
    }

    fn read(bytes: &'a [u8]) -> Result<News<'a>, Garbage> {
        let mut reader = Reader::new(bytes);
        let (kind, stamp) = (reader.byte()?, u64::from_le_bytes(reader.array()?));
        let length = reader.length()?;
        let text = reader.bytes(length)?;
        match (kind, reader.is_empty()) {
            (1, true) => Ok(News::Loaded { stamp, code: text }),
            (2, true) => Ok(News::Gone { stamp, name: text }),
            (3, true) => Ok(News::Flushed { stamp }),
            _ => Err(Garbage("news of libraries have a form that is not known")),
        }
    }

    /// Record it.
    pub fn record(&self, tail: &mut Tail, now: u64) {
        tail.write(Kind::Library, EVERY_SLOT, EVERY_DATABASE, now, |out| self.write(out));
    }

    /// Append it as a record.
    pub fn append(&self, now: u64, out: &mut Vec<u8>) {
        tail::append(out, Kind::Library, EVERY_SLOT, EVERY_DATABASE, now, |out| self.write(out));
    }
}

/// The code of each library that these records load.
pub fn codes(records: &[u8]) -> Vec<&[u8]> {
    let (mut codes, mut at) = (Vec::new(), 0);
    while let Ok(Some(record)) = Record::parse(&records[at..]) {
        if let (Kind::Library, Ok(News::Loaded { code, .. })) = (record.kind, News::read(record.payload)) {
            codes.push(code);
        }
        at += record.bytes.len();
    }
    codes
}

/// All libraries of a node.
#[derive(Default)]
pub struct Libraries {
    interpreter: Option<SendWrapper<Interpreter>>,
    by_name: BTreeMap<Vec<u8>, Library>,
    /// Functions by their names in small letters.
    index: HashMap<Vec<u8>, (Vec<u8>, Function)>,
    gone: BTreeMap<Vec<u8>, Gone>,
    flushed: u64,
    /// The latest stamp that was given or seen.
    latest: u64,
    /// Bytes of memory that Lua holds, as of the last function.
    pub lua_memory: usize,
}

impl Libraries {
    /// How many libraries there are, how many functions, and bytes of code.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.by_name.len(), self.index.len(), self.by_name.values().map(|library| library.code.len()).sum())
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = (&Vec<u8>, &Library)> {
        self.by_name.iter()
    }

    /// A function, by its name in any letters.
    pub fn function(&self, name: &[u8]) -> Option<&Function> {
        self.index.get(&name.to_ascii_lowercase()).map(|(_, function)| function)
    }

    /// The interpreter, to be put back.
    pub fn interpreter(&mut self) -> Result<SendWrapper<Interpreter>, Fault> {
        match self.interpreter.take() {
            Some(interpreter) => Ok(interpreter),
            None => Interpreter::for_functions()
                .map(SendWrapper::new)
                .map_err(|error| Fault::new(format!("ERR the script engine does not start: {error}"))),
        }
    }

    /// See [`Libraries::interpreter`].
    pub fn put_back(&mut self, interpreter: SendWrapper<Interpreter>) {
        self.lua_memory = interpreter.used_memory();
        self.interpreter = Some(interpreter);
    }

    /// A stamp for what happens now: later than all that were seen.
    pub fn stamp(&mut self, now: u64) -> u64 {
        self.latest = now.max(self.latest.saturating_add(1));
        self.latest
    }

    /// Load a library because a client says so. Answers its name, and whether that changed anything.
    pub fn load_as_told(
        &mut self,
        code: &[u8],
        replace: bool,
        stamp: u64,
        memory: usize,
    ) -> Result<(Vec<u8>, bool), Fault> {
        let (name, start) = name_of(code)?;
        if !replace {
            if self.refuses(&name, code) {
                return Err(quoting("ERR Library '", &[&name[..], b"' already exists"].concat()));
            }
            if let Some(library) = self.by_name.get_mut(&name) {
                library.told = true;
                return Ok((name, false));
            }
        }
        self.load(&name, code, start, stamp, true, memory)?;
        Ok((name, true))
    }

    /// Whether a library of this name is there that a client cannot mean to load again.
    pub fn refuses(&self, name: &[u8], code: &[u8]) -> bool {
        self.by_name.get(name).is_some_and(|library| library.told || *library.code != *code)
    }

    /// Delete a library because a client says so: `None` when there is none, otherwise whether that changed anything.
    pub fn delete_as_told(&mut self, name: &[u8], stamp: u64) -> Option<bool> {
        if self.remove(name) {
            self.note_gone(name, Gone { stamp, told: true });
            return Some(true);
        }
        let gone = self.gone.get_mut(name).filter(|gone| !gone.told)?;
        gone.told = true;
        Some(false)
    }

    /// Delete all.
    pub fn flush(&mut self, stamp: u64) {
        let later = |library: &Library| library.stamp > stamp;
        if self.by_name.values().any(later) {
            let names: Vec<_> =
                self.by_name.iter().filter(|(_, each)| !later(each)).map(|(name, _)| name.clone()).collect();
            for name in names {
                self.remove(&name);
            }
        } else {
            (self.by_name, self.index, self.interpreter, self.lua_memory) = Default::default();
        }
        self.gone.retain(|_, gone| gone.stamp > stamp);
        self.flushed = self.flushed.max(stamp);
    }

    /// Be as `before`, whose libraries are loaded anew if they are wanted.
    pub fn begin_like(&mut self, before: &Libraries, wanted: bool, memory: usize) -> Result<(), Fault> {
        (self.gone, self.flushed, self.latest) = (before.gone.clone(), before.flushed, before.latest);
        if wanted {
            for (name, library) in &before.by_name {
                let (_, start) = name_of(&library.code)?;
                self.load(name, &library.code, start, library.stamp, library.told, memory)?;
            }
        }
        Ok(())
    }

    /// All that others must know, as records.
    pub fn records(&self, now: u64) -> Vec<u8> {
        let mut out = Vec::new();
        if self.flushed > 0 {
            News::Flushed { stamp: self.flushed }.append(now, &mut out);
        }
        for (name, gone) in &self.gone {
            News::Gone { stamp: gone.stamp, name }.append(now, &mut out);
        }
        for library in self.by_name.values() {
            News::Loaded { stamp: library.stamp, code: &library.code }.append(now, &mut out);
        }
        out
    }

    /// Learn what a record tells; answers whether it was news. `told` is for files: clients of ours said it, before.
    pub fn learn(&mut self, payload: &[u8], told: bool, memory: usize) -> Result<Result<bool, Fault>, Garbage> {
        let news = News::read(payload)?;
        let stamp = match news {
            News::Loaded { stamp, .. } | News::Gone { stamp, .. } | News::Flushed { stamp } => stamp,
        };
        if stamp <= self.flushed {
            return Ok(Ok(false));
        }
        self.latest = self.latest.max(stamp);
        match news {
            News::Flushed { .. } => self.flush(stamp),
            News::Gone { name, .. } => {
                if self.gone.get(name).is_some_and(|gone| gone.stamp >= stamp)
                    || self.by_name.get(name).is_some_and(|library| library.stamp > stamp)
                {
                    return Ok(Ok(false));
                }
                // Who deletes what is not there any more is told so, unless streams were quicker than the client.
                let overtaken = self.remove(name) || self.gone.get(name).is_some_and(|gone| !gone.told);
                self.note_gone(name, Gone { stamp, told: told || !overtaken });
            }
            News::Loaded { code, .. } => {
                let (name, start) = name_of(code).map_err(|_| Garbage("a library has no name"))?;
                if self.gone.get(&name).is_some_and(|gone| gone.stamp >= stamp) {
                    return Ok(Ok(false));
                }
                match self.by_name.get_mut(&name) {
                    Some(library) if (library.stamp, &*library.code) >= (stamp, code) => return Ok(Ok(false)),
                    Some(library) if *library.code == *code => library.stamp = stamp,
                    _ => {
                        if let Err(fault) = self.load(&name, code, start, stamp, told, memory) {
                            return Ok(Err(fault));
                        }
                    }
                }
            }
        }
        Ok(Ok(true))
    }

    fn note_gone(&mut self, name: &[u8], gone: Gone) {
        self.gone.insert(name.to_vec(), gone);
        if self.gone.len() > MOST_GONE {
            let oldest = self.gone.iter().min_by_key(|(_, gone)| gone.stamp).map(|(name, _)| name.clone());
            oldest.map(|name| self.gone.remove(&name));
        }
    }

    fn index_anew(&mut self) {
        self.index = self
            .by_name
            .iter()
            .flat_map(|(name, library)| library.functions.iter().map(move |function| (name.clone(), function.clone())))
            .map(|(library, function)| (function.name.to_ascii_lowercase(), (library, function)))
            .collect();
    }

    /// Forget a library; whether there was one.
    fn remove(&mut self, name: &[u8]) -> bool {
        let Some(library) = self.by_name.remove(name) else { return false };
        if let Some(interpreter) = &self.interpreter {
            library.functions.iter().for_each(|function| interpreter.forget(function.place));
        }
        self.index_anew();
        true
    }

    /// Run a library's code, which begins at `start`, and keep what it registers, in place of one with the same name.
    fn load(
        &mut self,
        name: &[u8],
        code: &[u8],
        start: usize,
        stamp: u64,
        told: bool,
        memory: usize,
    ) -> Result<(), Fault> {
        if self.counts().2 + code.len() > MOST_BYTES {
            return Err(Fault::new("ERR the code of all libraries exceeds 64 MiB: delete some"));
        }
        let interpreter = self.interpreter()?;
        let loaded = interpreter.load(&code[start..], memory);
        let judged = loaded.map_err(Fault::bytes).and_then(|functions| {
            let taken = functions.iter().find(|function| {
                self.index.get(&function.name.to_ascii_lowercase()).is_some_and(|(library, _)| **library != *name)
            });
            let problem = match taken {
                Some(function) => quoting("ERR Function ", &[&function.name[..], b" already exists"].concat()),
                None if functions.is_empty() => Fault::new("ERR No functions registered"),
                None => return Ok(functions),
            };
            functions.iter().for_each(|function| interpreter.forget(function.place));
            Err(problem)
        });
        self.put_back(interpreter);
        let functions = judged?;
        self.remove(name);
        self.gone.remove(name);
        self.by_name.insert(name.to_vec(), Library { code: code.into(), functions, stamp, told });
        self.index_anew();
        Ok(())
    }
}

/// The name of a library, by its first line, and where its code begins.
pub fn name_of(code: &[u8]) -> Result<(Vec<u8>, usize), Fault> {
    if !code.starts_with(b"#!") {
        return Err(Fault::new("ERR Missing library metadata"));
    }
    let Some(end) = memchr::memchr(b'\n', code) else {
        return Err(Fault::new("ERR Invalid library metadata"));
    };
    let words = split_words(&code[..end]).unwrap_or_default();
    let Some((engine, options)) = words.split_first() else {
        return Err(Fault::new("ERR Invalid library metadata"));
    };
    let engine = engine.get(2..).unwrap_or_default();
    let mut name: Option<&[u8]> = None;
    for option in options {
        match option.split_at_checked(5) {
            Some((word, value)) if word.eq_ignore_ascii_case(b"name=") => {
                if name.replace(value).is_some() {
                    return Err(Fault::new("ERR Invalid metadata value, name argument was given multiple times"));
                }
            }
            _ => return Err(quoting("ERR Invalid metadata value given: ", option)),
        }
    }
    let Some(name) = name else {
        return Err(Fault::new("ERR Library name was not given"));
    };
    if !is_name(name) {
        return Err(Fault::new(format!("ERR {BAD_NAME}")));
    }
    if !engine.eq_ignore_ascii_case(b"lua") {
        return Err(quoting("ERR Engine '", &[engine, b"' not found"].concat()));
    }
    Ok((name.to_vec(), end))
}

/// What is wrong with a name.
pub const BAD_NAME: &str =
    "Library names can only contain letters, numbers, or underscores(_) and must be at least one character long";

/// Whether a library or a function may be called so.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::testing::Node;
    use crate::store::random::Random;

    const MEMORY: usize = 64 << 20;

    fn library(name: &str, answer: u64) -> String {
        format!("#!lua name={name}\nredis.register_function('{name}', function() return {answer} end)")
    }

    fn payloads(records: &[u8]) -> Vec<Vec<u8>> {
        let (mut found, mut at) = (Vec::new(), 0);
        while let Ok(Some(record)) = Record::parse(&records[at..]) {
            found.push(record.payload.to_vec());
            at += record.bytes.len();
        }
        found
    }

    fn seen(libraries: &Libraries) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        libraries.all().map(|(name, library)| (text(name), text(&library.code))).collect()
    }

    #[test]
    fn nodes_that_tell_one_another_in_any_order_end_up_with_the_same() {
        let mut random = Random::new(11);
        for round in 0..60 {
            let mut nodes: [Libraries; 3] = Default::default();
            let mut told: Vec<Vec<u8>> = Vec::new();
            for now in 1..30 {
                let libraries = &mut nodes[random.below(3)];
                let name = ["a", "b", "c"][random.below(3)];
                let stamp = libraries.stamp(100 + now * (round % 3));
                let code = library(name, now);
                let news = match random.below(6) {
                    0 => {
                        libraries.flush(stamp);
                        News::Flushed { stamp }
                    }
                    1 => match libraries.delete_as_told(name.as_bytes(), stamp) {
                        Some(true) => News::Gone { stamp, name: name.as_bytes() },
                        _ => continue,
                    },
                    _ => {
                        libraries.load_as_told(code.as_bytes(), true, stamp, MEMORY).unwrap();
                        News::Loaded { stamp, code: code.as_bytes() }
                    }
                };
                let mut record = Vec::new();
                news.append(0, &mut record);
                told.extend(payloads(&record));
                if random.below(3) == 0 {
                    let payload = &told[random.below(told.len())];
                    nodes[random.below(3)].learn(payload, false, MEMORY).unwrap().unwrap();
                }
            }
            for libraries in &mut nodes {
                let mut order = told.clone();
                for at in (1..order.len()).rev() {
                    order.swap(at, random.below(at + 1));
                }
                for payload in &order {
                    libraries.learn(payload, false, MEMORY).unwrap().unwrap();
                }
                // What was learnt once is news no more, so that nobody goes on telling it.
                assert!(order.iter().all(|payload| libraries.learn(payload, false, MEMORY) == Ok(Ok(false))));
            }
            assert_eq!(seen(&nodes[0]), seen(&nodes[1]), "round {round}");
            assert_eq!(seen(&nodes[0]), seen(&nodes[2]), "round {round}");
            let mut fresh = Libraries::default();
            for payload in payloads(&nodes[0].records(0)) {
                fresh.learn(&payload, true, MEMORY).unwrap().unwrap();
            }
            assert_eq!(seen(&fresh), seen(&nodes[0]), "round {round}");
        }
    }

    #[test]
    fn a_stream_that_is_quicker_than_the_client_does_not_make_its_request_fail() {
        let (mut one, mut other) = (Node::new(), Node::new());
        let code = library("lib", 7);
        let tell = |from: &Node, to: &mut Node| {
            for payload in payloads(&from.engine.scripting.libraries.records(0)) {
                to.engine.scripting.libraries.learn(&payload, false, MEMORY).unwrap().unwrap();
            }
        };
        assert_eq!(one.ask(&["FUNCTION", "LOAD", &code]), "$3 lib");
        tell(&one, &mut other);
        assert_eq!(other.ask(&["FCALL", "lib", "0"]), ":7");
        let different = library("lib", 8);
        assert_eq!(other.ask(&["FUNCTION", "LOAD", &different]), "-ERR Library 'lib' already exists");
        assert_eq!(other.ask(&["FUNCTION", "LOAD", &code]), "$3 lib");
        assert_eq!(other.ask(&["FUNCTION", "LOAD", &code]), "-ERR Library 'lib' already exists");
        one.pass(1);
        assert_eq!(one.line("FUNCTION DELETE lib"), "+OK");
        tell(&one, &mut other);
        assert_eq!(other.ask(&["FCALL", "lib", "0"]), "-ERR Function not found");
        assert_eq!(other.line("FUNCTION DELETE lib"), "+OK");
        assert_eq!(other.line("FUNCTION DELETE lib"), "-ERR Library not found");
        assert_eq!(one.line("FUNCTION DELETE lib"), "-ERR Library not found");
    }

    #[test]
    fn what_is_no_news_is_refused() {
        let mut libraries = Libraries::default();
        for bad in
            [&b""[..], b"\x01", b"\x07\0\0\0\0\0\0\0\0\0", b"\x01\0\0\0\0\0\0\0\0\x05abc", b"\x03\0\0\0\0\0\0\0\0\0x"]
        {
            assert!(libraries.learn(bad, false, MEMORY).is_err(), "{bad:?}");
        }
        let mut record = Vec::new();
        News::Loaded { stamp: 1, code: b"#!lua name=bad\nthis is no code" }.append(0, &mut record);
        assert!(matches!(libraries.learn(&payloads(&record)[0], false, MEMORY), Ok(Err(_))));
        assert_eq!(libraries.counts(), (0, 0, 0));
    }
}
