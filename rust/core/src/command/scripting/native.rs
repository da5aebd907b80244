//! Scripts that everybody uses (locks, counters, windows of rate limiters), done without Lua.
//!
//! A script is known by its text, whatever its blanks and quotes. What it does is done by the same commands, which are
//! judged, counted, recorded and shown as those of any script, and its reply is the same. Where something is not as
//! usual (a key of another kind, an argument that is no plain number, too little memory, limited users) Lua runs it
//! instead: nothing was written by then. A test compares both on random states.

use super::call::{self, Run};
use super::flags::Flags;
use super::interpreter::Outcome;
use crate::command::Ctx;
use crate::resp::number::{parse_i64, write_g};
use crate::resp::{Args, OwnedArgs, Reply};
use crate::store::Kind;
use std::collections::HashMap;
use std::sync::OnceLock;

/// A script that is known.
pub type Native = fn(&mut Commands<'_, '_>) -> Result<(), Stop>;

/// Why a known script ended before its reply.
pub enum Stop {
    /// It is better done by Lua, and nothing was written.
    Unsuited,
    /// A command answered with an error, this one.
    Failed(Vec<u8>),
}

/// Numbers up to this one are whole in Lua, and times within it fit in milliseconds.
const PLAIN: u64 = 1 << 44;
/// Most entries that are pushed at once without Lua.
const MOST: i64 = 100;

/// The texts, as their authors publish them but for blanks.
const KNOWN: [(&str, Native); 12] = [
    // redis-py's Lock.
    (
        "local token = redis.call('get', KEYS[1]) if not token or token ~= ARGV[1] then return 0 end
        redis.call('del', KEYS[1]) return 1",
        |on| held(on, |on| on.ask(&[b"del", on.key])),
    ),
    (
        "local token = redis.call('get', KEYS[1]) if not token or token ~= ARGV[1] then return 0 end
        redis.call('pexpire', KEYS[1], ARGV[2]) return 1",
        |on| held(on, |on| on.ask(&[b"pexpire", on.key, on.plain(2)?.1])),
    ),
    (
        "local token = redis.call('get', KEYS[1]) if not token or token ~= ARGV[1] then return 0 end
        local expiration = redis.call('pttl', KEYS[1]) if not expiration then expiration = 0 end
        if expiration < 0 then return 0 end
        local newttl = ARGV[2] if ARGV[3] == \"0\" then newttl = ARGV[2] + expiration end
        redis.call('pexpire', KEYS[1], newttl) return 1",
        extend,
    ),
    // Redlock, as redis.io and most libraries have it.
    ("if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end", |on| {
        equal(on, |on| on.ask(&[b"del", on.key]))
    }),
    (
        "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) else return 0 end",
        |on| equal(on, |on| on.ask(&[b"pexpire", on.key, on.plain(2)?.1])),
    ),
    // Fixed windows: `limits`, and those that count by one.
    (
        "local current local amount = tonumber(ARGV[2]) current = redis.call('incrby', KEYS[1], amount)
        if tonumber(current) == amount then redis.call('expire', KEYS[1], ARGV[1]) end return current",
        |on| count(on, Some(2)),
    ),
    (
        "local current = redis.call('INCRBY', KEYS[1], ARGV[2])
        if tonumber(current) == tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[1], ARGV[1]) end return current",
        |on| count(on, Some(2)),
    ),
    (
        "local current = redis.call('incr', KEYS[1])
        if tonumber(current) == 1 then redis.call('expire', KEYS[1], ARGV[1]) end return current",
        |on| count(on, None),
    ),
    (
        "local current = redis.call('INCR', KEYS[1])
        if current == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end return current",
        |on| count(on, None),
    ),
    // A moving window of `limits`.
    (
        "local timestamp = tonumber(ARGV[1]) local limit = tonumber(ARGV[2]) local expiry = tonumber(ARGV[3])
        local amount = tonumber(ARGV[4]) if amount > limit then return false end
        local entry = redis.call('lindex', KEYS[1], limit - amount)
        if entry and tonumber(entry) >= timestamp - expiry then return false end
        local entries = {} for i = 1, amount do entries[i] = timestamp end
        for i=1,#entries,5000 do redis.call('lpush', KEYS[1], unpack(entries, i, math.min(i+4999, #entries))) end
        redis.call('ltrim', KEYS[1], 0, limit - 1) redis.call('expire', KEYS[1], expiry) return true",
        moving_window,
    ),
    // Counters of django-redis.
    (
        "local exists = redis.call('EXISTS', KEYS[1]) if (exists == 1) then
        return redis.call('INCRBY', KEYS[1], ARGV[1]) else return false end",
        |on| {
            let amount = on.countable(1)?;
            on.ask(&[b"EXISTS", on.key])?;
            if on.number() != 1 {
                on.done(Answer::False);
                return Ok(());
            }
            on.ask(&[b"INCRBY", on.key, amount.1])?;
            on.done(Answer::Number(on.number()));
            Ok(())
        },
    ),
    ("return redis.call('INCRBY', KEYS[1], ARGV[1])", |on| {
        let amount = on.countable(1)?;
        on.ask(&[b"INCRBY", on.key, amount.1])?;
        on.done(Answer::Number(on.number()));
        Ok(())
    }),
];

/// The script with this text, if it is known.
pub fn known(text: &[u8], flags: Flags) -> Option<Native> {
    static NORMAL: OnceLock<HashMap<Vec<u8>, Native>> = OnceLock::new();
    if flags != Flags::SILENT || text.len() > 4000 {
        return None;
    }
    let all =
        NORMAL.get_or_init(|| KNOWN.iter().filter_map(|(text, run)| Some((normal(text.as_bytes())?, *run))).collect());
    all.get(&normal(text)?).copied()
}

/// A text without what means nothing in Lua: blanks that part no words, and which quotes are used. `None` where a
/// comment or a string makes that less than plain, as in none that are known.
fn normal(text: &[u8]) -> Option<Vec<u8>> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let (mut at, mut blank) = (0, false);
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => blank = true,
            b'\'' | b'"' => {
                let len = text[at..].iter().position(|&other| !is_word(other))?;
                if text[at + len] != byte {
                    return None;
                }
                out.push(b'"');
                out.extend_from_slice(&text[at..at + len]);
                out.push(b'"');
                at += len + 1;
                blank = false;
            }
            _ => {
                if byte == b'-' && text.get(at) == Some(&b'-') {
                    return None;
                }
                if blank && is_word(byte) && out.last().is_some_and(|&last| is_word(last)) {
                    out.push(b' ');
                }
                // Dots and signs with blanks between are not what they are without.
                if blank && out.last() == Some(&byte) && b".=-[]~<>".contains(&byte) {
                    return None;
                }
                out.push(byte);
                blank = false;
            }
        }
    }
    Some(out)
}

/// What a known script answers.
#[derive(Clone, Copy)]
enum Answer {
    Number(i64),
    False,
}

/// What a known script works with.
pub struct Commands<'c, 'e> {
    ctx: &'c mut Ctx<'e>,
    given: Args<'c>,
    /// The first key.
    key: &'c [u8],
    arguments: usize,
    how: Run,
    args: OwnedArgs,
    reply: Reply,
    answer: Answer,
}

/// Run a known script whose keys, `count` of them, and arguments stand from the fourth word of the request on. `None`
/// when Lua is to do it.
pub fn run(ctx: &mut Ctx<'_>, args: &Args<'_>, count: usize, native: Native, short: bool) -> Option<Outcome> {
    if count != 1 || short || ctx.engine.users.are_limited() || !ctx.engine.monitors.is_empty() {
        return None;
    }
    let (words, mut reply) = std::mem::take(&mut ctx.engine.scripting.buffers);
    reply.speak(false);
    let (given, key) = (*args, args.at(3));
    let mut on = Commands {
        ctx,
        given,
        key,
        arguments: args.len() - 4,
        how: Run::default(),
        args: words,
        reply,
        answer: Answer::False,
    };
    let done = native(&mut on);
    let Commands { ctx, args, reply, answer, .. } = on;
    ctx.engine.scripting.buffers = (args, reply);
    match (done, answer) {
        (Err(Stop::Unsuited), _) => return None,
        (Err(Stop::Failed(text)), _) => return Some(Outcome::Failed(text, true)),
        (Ok(()), Answer::Number(number)) => ctx.out.integer(number),
        (Ok(()), Answer::False) => ctx.out.null(),
    }
    Some(Outcome::Replied)
}

impl<'c> Commands<'c, '_> {
    /// Run a command.
    fn ask(&mut self, words: &[&[u8]]) -> Result<(), Stop> {
        self.args.clear();
        words.iter().for_each(|word| self.args.push(word));
        self.send()
    }

    fn send(&mut self) -> Result<(), Stop> {
        self.reply.clear();
        let Ctx { engine, client, .. } = &mut *self.ctx;
        if call::run(engine, client, &self.how, &self.args.as_args(), &mut self.reply).is_err() {
            return Err(Stop::Unsuited); // It was not run.
        }
        match self.reply.bytes().split_first() {
            Some((b'-', _)) if !self.how.wrote.get() => Err(Stop::Unsuited),
            Some((b'-', rest)) => Err(Stop::Failed(rest.strip_suffix(b"\r\n").unwrap_or(rest).to_vec())),
            _ => Ok(()),
        }
    }

    /// The reply, a string; `None` where there is none.
    fn text(&self) -> Option<&[u8]> {
        let rest = self.reply.bytes().strip_prefix(b"$")?;
        let end = memchr::memchr(b'\n', rest)?;
        rest[end + 1..].strip_suffix(b"\r\n")
    }

    /// The reply, a number.
    fn number(&self) -> i64 {
        let bytes = self.reply.bytes();
        let digits = bytes.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b"\r\n"));
        let number = digits.and_then(parse_i64).unwrap_or(0);
        super::value::truncated(number as f64) // Lua has doubles alone.
    }

    fn done(&mut self, answer: Answer) {
        self.answer = answer;
    }

    /// An argument, counted from one.
    fn argument(&self, at: usize) -> Result<&'c [u8], Stop> {
        if at > self.arguments {
            return Err(Stop::Unsuited);
        }
        self.given.get(3 + at).ok_or(Stop::Unsuited)
    }

    /// An argument that is a whole number, written plainly.
    fn plain(&self, at: usize) -> Result<(i64, &'c [u8]), Stop> {
        let text = self.argument(at)?;
        let number = parse_i64(text).filter(|number| number.unsigned_abs() < PLAIN);
        Ok((number.ok_or(Stop::Unsuited)?, text))
    }

    /// The key holds this kind of value, or nothing.
    fn holds(&self, kind: Kind) -> Result<(), Stop> {
        let store = &self.ctx.engine.store;
        match store.find_any(self.ctx.client.database, self.key) {
            Some(found) if store.kind(found) != kind => Err(Stop::Unsuited),
            _ => Ok(()),
        }
    }

    /// The key holds a number to which the argument can be added.
    fn countable(&self, at: usize) -> Result<(i64, &'c [u8]), Stop> {
        self.holds(Kind::String)?;
        let amount = self.plain(at)?;
        self.countable_by(amount.0)?;
        Ok(amount)
    }

    fn countable_by(&self, amount: i64) -> Result<(), Stop> {
        let store = &self.ctx.engine.store;
        let fits = match store.find_any(self.ctx.client.database, self.key) {
            Some(found) => parse_i64(store.text(found)).is_some_and(|number| number.checked_add(amount).is_some()),
            None => true,
        };
        if fits { Ok(()) } else { Err(Stop::Unsuited) }
    }
}

/// Do something, and answer one, if the key holds the first argument; otherwise answer zero.
fn held(on: &mut Commands<'_, '_>, what: fn(&mut Commands<'_, '_>) -> Result<(), Stop>) -> Result<(), Stop> {
    on.holds(Kind::String)?;
    let token = on.argument(1)?;
    on.ask(&[b"get", on.key])?;
    let mut answer = 0;
    if on.text() == Some(token) {
        what(on)?;
        answer = 1;
    }
    on.done(Answer::Number(answer));
    Ok(())
}

/// As [`held`], but the answer is what was done answers.
fn equal(on: &mut Commands<'_, '_>, what: fn(&mut Commands<'_, '_>) -> Result<(), Stop>) -> Result<(), Stop> {
    held(on, what)?;
    if matches!(on.answer, Answer::Number(1)) {
        on.done(Answer::Number(on.number()));
    }
    Ok(())
}

fn extend(on: &mut Commands<'_, '_>) -> Result<(), Stop> {
    on.holds(Kind::String)?;
    let (token, (more, text), mode) = (on.argument(1)?, on.plain(2)?, on.argument(3)?);
    on.ask(&[b"get", on.key])?;
    if on.text() != Some(token) {
        on.done(Answer::Number(0));
        return Ok(());
    }
    on.ask(&[b"pttl", on.key])?;
    let left = on.number();
    if left < 0 {
        on.done(Answer::Number(0));
        return Ok(());
    }
    let mut digits = itoa::Buffer::new();
    let time = if mode == b"0" { digits.format(more + left).as_bytes() } else { text };
    on.ask(&[b"pexpire", on.key, time])?;
    on.done(Answer::Number(1));
    Ok(())
}

/// Count by an argument, or by one, and have the key expire when it was counted for the first time.
fn count(on: &mut Commands<'_, '_>, by: Option<usize>) -> Result<(), Stop> {
    let (_, time) = on.plain(1)?;
    on.holds(Kind::String)?;
    let amount = match by {
        Some(at) => {
            let (amount, text) = on.countable(at)?;
            on.ask(&[b"incrby", on.key, text])?;
            amount
        }
        None => {
            on.countable_by(1)?;
            on.ask(&[b"incr", on.key])?;
            1
        }
    };
    let current = on.number();
    if current == amount {
        on.ask(&[b"expire", on.key, time])?;
    }
    on.done(Answer::Number(current));
    Ok(())
}

fn moving_window(on: &mut Commands<'_, '_>) -> Result<(), Stop> {
    on.holds(Kind::List)?;
    let now = decimal(on.argument(1)?).ok_or(Stop::Unsuited)?;
    let (limit, expiry, amount) = (on.plain(2)?.0, on.plain(3)?, on.plain(4)?.0);
    if amount > limit {
        on.done(Answer::False);
        return Ok(());
    }
    if !(1..=MOST).contains(&amount) {
        return Err(Stop::Unsuited);
    }
    let mut digits = itoa::Buffer::new();
    on.ask(&[b"lindex", on.key, digits.format(limit - amount).as_bytes()])?;
    if let Some(entry) = on.text()
        && decimal(entry).ok_or(Stop::Unsuited)? >= now - expiry.0 as f64
    {
        on.done(Answer::False);
        return Ok(());
    }
    let mut text = Vec::with_capacity(24);
    write_g(&mut text, now, 17);
    on.args.clear();
    on.args.push(b"lpush");
    on.args.push(on.key);
    (0..amount).for_each(|_| on.args.push(&text));
    on.send()?;
    on.ask(&[b"ltrim", on.key, b"0", digits.format(limit - 1).as_bytes()])?;
    on.ask(&[b"expire", on.key, expiry.1])?;
    on.done(Answer::Number(1));
    Ok(())
}

/// A number of digits and at most one point: everybody reads it alike.
fn decimal(text: &[u8]) -> Option<f64> {
    let plain = text.first()?.is_ascii_digit() && text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    std::str::from_utf8(text).ok().filter(|_| plain && text.len() < 40)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::testing::Node;
    use crate::store::random::Random;

    #[test]
    fn a_script_is_known_whatever_its_blanks_and_quotes() {
        let is_known = |text: &str| known(text.as_bytes(), Flags::SILENT).is_some();
        assert!(KNOWN.iter().all(|(text, _)| is_known(text)));
        let spread = "\n  if redis.call(\"get\",KEYS[1]) == ARGV[1]\n  then\n return redis.call( 'del',KEYS[1])\n else return 0 end\n";
        assert!(is_known(spread));
        for other in [
            "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[2]) else return 0 end",
            "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end -- x",
            "if redis.call('get\", KEYS[1]) == ARGV[1] then return redis.call(\"del', KEYS[1]) else return 0 end",
            "if redis.call('get ', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end",
            "return redis.call('INCRBY', KEYS[1], ARGV[1]",
            "",
        ] {
            assert!(!is_known(other), "{other}");
        }
        assert!(known(KNOWN[0].0.as_bytes(), Flags::NO_WRITES).is_none());
    }

    /// What a node holds, and what it has counted.
    fn told(node: &mut Node) -> String {
        let keys = ["a", "b"].map(|key| {
            let kind = node.ask(&["TYPE", key]);
            let value = node.ask(
                &[if kind == "+list" { "LRANGE" } else { "DUMP" }, key, "0", "-1"]
                    [..if kind == "+list" { 4 } else { 2 }],
            );
            format!("{kind} {value} {}", node.ask(&["PEXPIRETIME", key]))
        });
        let changes = node.engine.changes;
        format!("{keys:?} {changes}")
    }

    #[test]
    fn a_known_script_does_what_lua_does() {
        let mut random = Random::new(3);
        let (mut native, mut lua) = (Node::new(), Node::new());
        let values = ["token", "7", "1", "-3", "9223372036854775807", "1700000000.25", "", "x y"];
        let arguments = [
            "token",
            "7",
            "1",
            "0",
            "-5",
            "60",
            "1700000000.25",
            "1700000099",
            " 1",
            "0x10",
            "1e3",
            "",
            "x",
            "9223372036854775807",
            "3",
        ];
        let mut replies = std::collections::BTreeSet::new();
        for round in 0..30_000 {
            let key = ["a", "b"][random.below(2)];
            let value = values[random.below(values.len())];
            let time = ["100", "70000"][random.below(2)];
            let before: &[&str] = match random.below(12) {
                0 => &["DEL", key],
                1 => &["SET", key, value],
                2 => &["SET", key, value, "PX", time],
                3 => &["RPUSH", key, "1700000000.25", value],
                4 => &["RPUSH", key, "1600000000"],
                _ => &["PING"],
            };
            let (text, _) = KNOWN[random.below(KNOWN.len())];
            let plain = format!("{text} -- by Lua");
            let count = if random.below(20) == 0 { "0" } else { "1" };
            let mut words = vec!["EVAL", text, count, key];
            words.extend((0..random.below(5)).map(|_| arguments[random.below(arguments.len())]));
            let mut by_lua = words.clone();
            by_lua[1] = &plain;
            let passes = random.bits() % 60;
            for node in [&mut native, &mut lua] {
                node.ask(before);
                node.pass(passes);
            }
            let (one, other) = (native.ask(&words), lua.ask(&by_lua));
            let without_name = |reply: &str| reply.split(" script: ").next().unwrap_or_default().to_owned();
            assert_eq!(without_name(&one), without_name(&other), "round {round}: {words:?}");
            assert_eq!(told(&mut native), told(&mut lua), "round {round}: {words:?}");
            replies.insert(one.chars().next());
        }
        assert_eq!(replies, ['$', '-', ':'].map(Some).into());
        let used = |node: &Node| node.engine.scripting.buffers.0.heap_bytes() > 0;
        assert!(used(&native) && !used(&lua));
        let calls = |node: &mut Node| {
            let stats = node.line("INFO commandstats");
            ["get", "del", "pexpire", "incrby", "expire", "lpush"].map(|name| {
                let from = stats.find(&format!("cmdstat_{name}:calls=")).unwrap_or_default();
                stats[from..].split(',').next().unwrap_or_default().to_owned()
            })
        };
        assert_eq!(calls(&mut native)[1..], calls(&mut lua)[1..]);
    }
}
