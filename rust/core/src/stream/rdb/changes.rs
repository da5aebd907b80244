//! The stream of commands that a Redis sends to its replicas, for who only wants to know which keys changed.

use crate::command::table;
use crate::resp::Args;
use crate::resp::request::{Limits, RequestParser};

/// What a command of the stream means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These keys changed, in a database.
    Keys(usize, Vec<Vec<u8>>),
    /// Something that no list of keys tells: the command's name.
    Other(Vec<u8>),
    /// The source wants to know how far we are.
    Asked,
}

/// Bytes in, changes out.
#[derive(Default)]
pub struct Changes {
    buffer: Vec<u8>,
    parser: RequestParser,
    database: usize,
    taken: u64,
}

impl Changes {
    /// Take bytes that follow those before.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes of the stream are read: the offset that is acknowledged.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Forget a command that is not whole: the stream goes on behind the last whole one, on another connection.
    pub fn cut(&mut self) {
        self.buffer.clear();
        self.parser.restart();
    }

    /// All changes that are whole by now. An error when the bytes are no stream of commands.
    pub fn take(&mut self) -> Result<Vec<Change>, String> {
        let limits = Limits { arguments: i64::from(i32::MAX), bulk: 4 << 30, before_auth: false };
        let (mut changes, mut at) = (Vec::new(), 0);
        while let Some(used) = self.parser.parse(&self.buffer[at..], limits).map_err(|error| error.0)? {
            let args = Args::new(&self.buffer[at..at + used], self.parser.spans());
            if args.len() > 0 {
                changes.extend(change(&args, &mut self.database));
            }
            at += used;
            self.parser.forget();
        }
        self.taken += at as u64;
        self.buffer.drain(..at);
        Ok(changes)
    }
}

/// What one command changes; `None` for nothing.
fn change(args: &Args<'_>, database: &mut usize) -> Option<Change> {
    let name = args.at(0).to_ascii_lowercase();
    let other = || Some(Change::Other(name.clone()));
    let number =
        |at: usize| args.get(at).and_then(crate::resp::number::parse_i64).and_then(|n| usize::try_from(n).ok());
    match &name[..] {
        b"select" => {
            let Some(chosen) = number(1) else { return other() };
            *database = chosen;
            return None;
        }
        b"ping" | b"multi" | b"exec" | b"publish" | b"spublish" | b"script" => return None,
        b"replconf" => {
            return args.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"getack")).then_some(Change::Asked);
        }
        _ => {}
    }
    let Some((row, _)) = table::find(&name) else { return other() };
    let row = args.get(1).and_then(|word| row.subcommand(word)).unwrap_or(row);
    let Some(places) = row.key_arguments(args) else { return other() };
    let mut keys: Vec<Vec<u8>> = places.into_iter().map(|at| args.at(at).to_vec()).collect();
    let after = |word: &[u8]| (1..args.len()).rev().find(|&at| args.at(at).eq_ignore_ascii_case(word)).map(|at| at + 1);
    match &name[..] {
        b"sort" => keys.extend(after(b"STORE").and_then(|at| args.get(at)).map(<[u8]>::to_vec)),
        // These reach into another database, too.
        b"move" | b"copy" => {
            let place = if name == b"move" { Some(2) } else { after(b"DB") };
            if place.is_some_and(|at| number(at) != Some(*database)) {
                return other();
            }
        }
        _ => {}
    }
    if keys.is_empty() { other() } else { Some(Change::Keys(*database, keys)) }
}

#[test]
fn keys_are_told_however_the_stream_is_cut() {
    let mut stream = Vec::new();
    for line in [
        "SELECT 3",
        "SET a 1",
        "PING",
        "MULTI",
        "DEL b c",
        "EXEC",
        "SORT l ALPHA STORE d",
        "REPLCONF GETACK *",
        "FLUSHALL",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        stream.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        words.iter().for_each(|word| stream.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes()));
    }
    let keys = |names: &[&str]| Change::Keys(3, names.iter().map(|name| name.as_bytes().to_vec()).collect());
    let wanted =
        [keys(&["a"]), keys(&["b", "c"]), keys(&["l", "d"]), Change::Asked, Change::Other(b"flushall".to_vec())];
    for size in [1, 7, 1000] {
        let (mut changes, mut all) = (Changes::default(), Vec::new());
        for piece in stream.chunks(size) {
            changes.feed(piece);
            all.extend(changes.take().unwrap());
        }
        assert_eq!(all, wanted);
        assert_eq!(changes.taken(), stream.len() as u64);
    }
}
