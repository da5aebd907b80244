//! DUMP and RESTORE: a value as bytes in the form of Redis' RDB, and back.

use super::Ctx;
use super::fault::{Done, Fault};
use super::notify::GENERIC;
use super::table::{Command, Handler, OVERWRITE, READ, flag, key};
use crate::resp::Args;
use crate::store::whole::Meta;
use crate::store::{Found, Store};
use crate::stream::codec::{self, Failure, Reader};
use crate::stream::rdb;

const fn row(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { group: "generic", since: "2.6.0", ..Command::new(name, run, arity, flags | flag::KEYSPACE) }
}

const RESTORES: u32 = flag::WRITE | flag::DENYOOM | flag::DANGEROUS;
const SYNTAX: &str =
    "key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency] [TIMES created updated]";

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        summary: "Answers the value of a key as bytes that RESTORE takes, here and in Redis.",
        syntax: "key",
        keys: &[key(1, READ)],
        ..row("dump", dump, 2, flag::READONLY)
    },
    Command {
        summary: "Puts a value that DUMP answered under a key.",
        syntax: SYNTAX,
        keys: &[key(1, OVERWRITE)],
        ..row("restore", restore, -4, RESTORES)
    },
    Command {
        group: "server",
        since: "3.0.0",
        summary: "RESTORE while slots move; for tools that ask so.",
        syntax: SYNTAX,
        keys: &[key(1, OVERWRITE)],
        ..row("restore-asking", restore, -4, RESTORES | flag::ASKING)
    },
];

fn dump(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some(found) = ctx.read_any(args.at(1)) else {
        ctx.out.null();
        return Ok(());
    };
    let payload = payload(&ctx.engine.store, found);
    ctx.out.bulk(&payload);
    Ok(())
}

/// What DUMP tells of a value.
pub fn payload(store: &Store, found: Found) -> Vec<u8> {
    let mut payload = Vec::new();
    codec::write_value(store, store.handle_of(found), &mut payload);
    rdb::seal(&mut payload);
    payload
}

#[derive(Default)]
struct Options {
    replace: bool,
    absolute: bool,
    idle: Option<i64>,
    uses: Option<i64>,
    /// When it was created and last changed, s: of our own, for entries of a snapshot.
    times: Option<(u32, u32)>,
}

fn options(args: &Args<'_>) -> Result<Options, Fault> {
    let mut options = Options::default();
    let mut at = 4;
    while at < args.len() {
        let has_value = at + 1 < args.len();
        if args.is(at, "REPLACE") {
            options.replace = true;
        } else if args.is(at, "ABSTTL") {
            options.absolute = true;
        } else if args.is(at, "IDLETIME") && has_value && options.uses.is_none() {
            options.idle = Some(args.integer(at + 1)?);
            if options.idle < Some(0) {
                return Err(Fault::new("ERR Invalid IDLETIME value, must be >= 0"));
            }
            at += 1;
        } else if args.is(at, "FREQ") && has_value && options.idle.is_none() {
            let uses = args.integer(at + 1)?;
            if !(0..=255).contains(&uses) {
                return Err(Fault::new("ERR Invalid FREQ value, must be >= 0 and <= 255"));
            }
            options.uses = Some(uses);
            at += 1;
        } else if args.is(at, "TIMES") && at + 2 < args.len() {
            let time = |at: usize| u32::try_from(args.integer(at)?).map_err(|_| Fault::new("ERR Invalid TIMES value"));
            options.times = Some((time(at + 1)?, time(at + 2)?));
            at += 2;
        } else {
            return Err(Fault::SYNTAX);
        }
        at += 1;
    }
    Ok(options)
}

fn restore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let options = options(args)?;
    let name = args.at(1);
    if !options.replace && ctx.look(name).is_some() {
        return Err(Fault::new("BUSYKEY Target key name already exists."));
    }
    let ttl = args.integer(2)?;
    let Ok(ttl) = u64::try_from(ttl) else { return Err(Fault::new("ERR Invalid TTL value, must be >= 0")) };
    let value = rdb::opened(args.at(3)).ok_or(Fault::new("ERR DUMP payload version or checksum are wrong"))?;
    let now = ctx.engine.store.now();
    let expiry = (ttl != 0).then(|| if options.absolute { ttl } else { ttl.saturating_add(now) });
    let limits = ctx.engine.limits();
    let (arena, seed) = ctx.engine.store.arena_and_seed();
    let value = codec::read_value(&mut Reader::new(value), arena, seed, &limits).map_err(|failure| match failure {
        Failure::Garbage(_) => Fault::new("ERR Bad data format"),
        Failure::Full => Fault::OUT_OF_MEMORY,
    })?;
    if expiry.is_some_and(|expiry| expiry <= now) {
        // Its time is over: the key is not there afterwards.
        value.free(&mut ctx.engine.store.arena);
        if ctx.remove(name) {
            ctx.changed(name, GENERIC, "del");
        }
        ctx.out.ok();
        return Ok(());
    }
    let seconds = (now / 1000) as u32;
    let (created, updated) = options.times.unwrap_or((seconds, seconds));
    let meta = Meta { expiry, created, updated, raw: false };
    let found = ctx.engine.store.put_whole(ctx.client.database, name, value, meta)?;
    let idle = options.idle.map(|idle| u32::try_from(idle).unwrap_or(u32::MAX).min(0xFF_FFFF));
    ctx.engine.store.set_use(found, idle, options.uses.map(|uses| uses as u8));
    ctx.created(name); // What was there before is gone first, as in Redis.
    ctx.changed(name, GENERIC, "restore");
    ctx.out.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;
    use crate::stream::rdb;

    /// The payload that DUMP answers.
    fn payload(node: &mut Node, key: &[u8]) -> Vec<u8> {
        let reply = node.ask_bytes_as_first(&[b"DUMP", key]);
        let start = reply.windows(2).position(|pair| pair == b"\r\n").expect("a bulk string") + 2;
        reply[start..reply.len() - 2].to_vec()
    }

    #[test]
    fn every_kind_of_value_comes_back() {
        let mut node = Node::new();
        for line in ["SET text hello", "SET number 12", "RPUSH list a b c", "SADD set x y", "SADD numbers 1 2 3"] {
            node.line(line);
        }
        let many: Vec<String> = (0..600).map(|number| format!("m{number} {number}")).collect();
        node.line(&format!("HSET hash {}", many.join(" ")));
        node.line("ZADD zset 1.5 a -inf b inf c");
        node.line(&format!("SET long {}", "x".repeat(9000)));
        for key in ["text", "number", "list", "set", "numbers", "hash", "zset", "long"] {
            let bytes = payload(&mut node, key.as_bytes());
            let reply = node.ask_bytes_as_first(&[b"RESTORE", b"copy", b"0", &bytes, b"REPLACE"]);
            assert_eq!(reply, b"+OK\r\n", "{key}");
            // A large hash is told in another order, so its checksum is another.
            let bare = |mut bytes: Vec<u8>| {
                bytes.truncate(bytes.len() - 8);
                bytes.sort_unstable();
                bytes
            };
            assert!(bare(payload(&mut node, b"copy")) == bare(bytes.clone()), "{key}");
            let encodings = ["copy", key].map(|key| node.line(&format!("OBJECT ENCODING {key}")));
            assert_eq!(encodings[0], encodings[1], "{key}");
            let busy = node.ask_bytes_as_first(&[b"RESTORE", b"copy", b"0", &bytes]);
            assert_eq!(busy, b"-BUSYKEY Target key name already exists.\r\n");
        }
    }

    #[test]
    fn times_and_uses_are_taken_along() {
        let mut node = Node::new();
        node.line("SET k v");
        let bytes = payload(&mut node, b"k");
        node.ask_bytes_as_first(&[b"RESTORE", b"a", b"5000", &bytes]);
        node.ask_bytes_as_first(&[b"RESTORE", b"b", b"1700000009000", &bytes, b"ABSTTL", b"IDLETIME", b"100"]);
        node.expect(&[("PTTL a", ":5000"), ("PTTL b", ":9000"), ("OBJECT IDLETIME b", ":100")]);
        let words = [&b"RESTORE"[..], b"c", b"0", &bytes, b"TIMES", b"1000", b"2000"];
        assert_eq!(node.ask_bytes_as_first(&words), b"+OK\r\n");
        let found = node.engine.store.find_any(0, b"c").unwrap();
        let meta = node.engine.store.meta_of(node.engine.store.handle_of(found));
        assert_eq!((meta.created, meta.updated), (1000, 2000));
        node.ask_bytes_as_first(&[b"RESTORE", b"a", b"1", &bytes, b"ABSTTL", b"REPLACE"]);
        node.expect(&[("EXISTS a", ":0")]);
    }

    #[test]
    fn garbage_is_refused_and_leaves_nothing_behind() {
        let mut node = Node::new();
        node.line("RPUSH list a b c");
        let good = payload(&mut node, b"list");
        let before = node.engine.store.arena.reserved();
        for at in 0..good.len() - 10 {
            let mut bad = good[..good.len() - 10].to_vec();
            bad[at] ^= 0x81;
            rdb::seal(&mut bad);
            node.ask_bytes_as_first(&[b"RESTORE", b"copy", b"0", &bad, b"REPLACE"]);
            node.line("DEL copy");
        }
        assert_eq!(node.engine.store.arena.reserved(), before);
        node.expect(&[
            ("RESTORE k 0 abc", "-ERR DUMP payload version or checksum are wrong"),
            ("RESTORE k -1 abc", "-ERR Invalid TTL value, must be >= 0"),
            ("RESTORE k x abc", "-ERR value is not an integer or out of range"),
            ("RESTORE k 0 abc TIMES 1 -1", "-ERR Invalid TIMES value"),
            ("RESTORE k 0 abc TIMES 1", "-ERR syntax error"),
            ("RESTORE k 0 abc FREQ 256", "-ERR Invalid FREQ value, must be >= 0 and <= 255"),
            ("RESTORE k 0 abc IDLETIME 1 FREQ 1", "-ERR syntax error"),
        ]);
    }
}
