//! Random bytes into the request parser and random commands into the engine, for as long as one likes.
//!
//! Deterministic by seed. `cargo test` runs a short one; FASTCACHE_FUZZ_INPUTS and FASTCACHE_FUZZ_SEED ask
//! for another (`make fuzz INPUTS=10000000`). What must hold: no panic, every reply is whole RESP, no command
//! takes a tenth of a second of processor time, memory stays bounded, and every row of the table is reached: one that
//! the fuzzer does not reach fails the test. Payloads of RESTORE and whole RDB files are fuzzed with right checksums.

use fastcache_core::command::client::Token;
use fastcache_core::command::settings::Settings;
use fastcache_core::command::table::{self, Command};
use fastcache_core::command::{Engine, blocking, dispatch, tracking};
use fastcache_core::resp::Reply;
use fastcache_core::resp::request::{Limits, OwnedArgs, RequestParser, inline_words};
use fastcache_core::stream::codec::Reader;
use fastcache_core::stream::rdb;
use std::collections::HashMap;
use std::time::Duration;

/// A debug build on a busy machine is an order slower.
const SLOWEST: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1500 } else { 100 });
const ROUND: u64 = 4000;
const MOST_MEMORY: usize = 600 << 20;

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T>(&mut self, options: &'a [T]) -> &'a T {
        &options[self.below(options.len())]
    }
}

fn sha1_hex(text: &[u8]) -> Vec<u8> {
    use sha1::Digest;
    sha1::Sha1::digest(text).iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn seed() -> u64 {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_nanos());
    setting("FASTCACHE_FUZZ_SEED", clock as u64)
}

fn inputs() -> u64 {
    setting("FASTCACHE_FUZZ_INPUTS", if cfg!(debug_assertions) { 150_000 } else { 1_000_000 })
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    pages * 4096
}

// --- the request parser ---

const PIECES: &[&[u8]] = &[
    b"*",
    b"$",
    b"\r\n",
    b"\n",
    b"\r",
    b"1",
    b"2",
    b"3",
    b"-1",
    b"0",
    b"10",
    b"2147483647",
    b"2147483648",
    b"9223372036854775807",
    b"536870912",
    b"PING",
    b"GET",
    b"\"",
    b"'",
    b"\\x",
    b" ",
    b"\0",
    b"\xff",
    b"abc",
    b"*1\r\n$4\r\nPING\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    b"SET k v\r\n",
    b"*1\r\n",
    b"$3\r\n",
    b"$-1\r\n",
    b"+OK\r\n",
];

/// What the parser makes of a stream when it comes in these pieces: the requests, and why it ended.
fn parsed(stream: &[u8], cuts: &[usize], limits: Limits) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let (mut requests, mut parser, mut start) = (Vec::new(), RequestParser::default(), 0);
    for &cut in cuts.iter().chain([&stream.len()]) {
        loop {
            match parser.parse(&stream[start..cut], limits) {
                Ok(None) => break,
                Ok(Some(used)) => {
                    let args = fastcache_core::resp::Args::new(&stream[start..cut], parser.spans());
                    if !parser.spans().is_empty() {
                        requests.push(args.from(0).map(<[u8]>::to_vec).collect());
                    }
                    start += used;
                    parser.forget();
                }
                Err(error) => match inline_words(&stream[start..cut]) {
                    Ok((words, used)) if error.0 == fastcache_core::resp::request::QUOTED => {
                        requests.push(words.as_args().from(0).map(<[u8]>::to_vec).collect());
                        start += used.min(cut - start).max(1);
                        parser.restart();
                        parser.forget();
                    }
                    _ => return (requests, Some(error.0)),
                },
            }
        }
        // What a header announces must not be reserved: memory follows what has arrived.
        assert!(parser.heap_bytes() <= 64 * 1024 + 32 * stream.len(), "{} bytes", parser.heap_bytes());
    }
    (requests, None)
}

#[test]
fn any_bytes_in_any_pieces_are_parsed_alike() {
    let seed = seed();
    println!("fuzz: parser, seed {seed}");
    let mut dice = Dice(seed);
    for input in 0..inputs() / 4 {
        let mut stream = Vec::new();
        for _ in 0..dice.below(24) + 1 {
            if dice.one_in(12) {
                stream.push(dice.next() as u8);
            } else {
                let piece: &&[u8] = dice.pick(PIECES);
                stream.extend_from_slice(piece);
            }
        }
        let limits = if dice.one_in(3) {
            Limits { arguments: 10, bulk: 16_384, before_auth: true }
        } else {
            Limits { arguments: i64::from(i32::MAX), bulk: 512 << 20, before_auth: false }
        };
        let mut cuts: Vec<usize> = (0..dice.below(6)).map(|_| dice.below(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = parsed(&stream, &[], limits);
        let pieces = parsed(&stream, &cuts, limits);
        assert_eq!(whole, pieces, "seed {seed}, input {input}: {:?} cut at {cuts:?}", String::from_utf8_lossy(&stream));
    }
}

// --- commands ---

const KEYS: &[&[u8]] =
    &[b"a", b"b", b"c", b"list", b"hash", b"set", b"zset", b"stream", b"", b"k\0\xff", b"{t}1", b"{t}2"];
const NUMBERS: &[&[u8]] = &[
    b"0",
    b"1",
    b"-1",
    b"2",
    b"3",
    b"10",
    b"-10",
    b"100",
    b"1000",
    b"2147483647",
    b"-2147483648",
    b"4294967296",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"-9223372036854775807",
    b"9223372036854775808",
    b"1.5",
    b"-0",
    b"0.1",
    b"inf",
    b"-inf",
    b"+inf",
    b"nan",
    b"1e400",
    b"1e-400",
    b"(1",
    b"(5",
    b"[a",
    b"(b",
    b"-",
    b"+",
    b" 1",
    b"01",
    b"0x10",
    b"16383",
    b"16384",
    b"4611686018427387904",
    b"1700000000000",
];
const WORDS: &[&[u8]] = &[
    b"x",
    b"y",
    b"member",
    b"field",
    b"*",
    b"?",
    b"[a-z]*",
    b"value",
    b"\r\n",
    b"NX",
    b"XX",
    b"GET",
    b"COUNT",
    b"MATCH",
    b"LIMIT",
    b"WITHSCORES",
    b"WITHVALUES",
    b"EX",
    b"PX",
    b"KEEPTTL",
    b"REPLACE",
    b"BY",
    b"STORE",
    b"ALPHA",
    b"DESC",
    b"LEFT",
    b"RIGHT",
    b"MIN",
    b"MAX",
    b"WEIGHTS",
    b"AGGREGATE",
    b"BYSCORE",
    b"BYLEX",
    b"REV",
    b"ON",
    b"OFF",
    b"YES",
    b"DB",
    b"TYPE",
    b"ID",
    b"SAMPLES",
    b"RANK",
    b"MAXLEN",
    b"INCR",
    b"CH",
    b"GT",
    b"LT",
    b"TIMEOUT",
    b"ERROR",
    b"SETNAME",
];

/// Requests that random words would hardly ever form: `k` stands for a key or name, `n` for a number, `i` for the
/// name of an entry of a stream, `w` for any argument, `s` for a script, `h` for the digest of one, `l` for a library, `f`
/// for its name, anything else for itself.
const SHAPES: &[(&str, &str)] = &[
    ("xadd", "k i k k"),
    ("xadd", "k MAXLEN ~ n i k n"),
    ("xadd", "k * k k k n"),
    ("xread", "COUNT n STREAMS k k i i"),
    ("xread", "BLOCK 1 STREAMS k $"),
    ("xreadgroup", "GROUP k k STREAMS k >"),
    ("xreadgroup", "GROUP k k COUNT n NOACK STREAMS k k > i"),
    ("create", "k k i MKSTREAM"),
    ("create", "k k $ ENTRIESREAD n"),
    ("xack", "k k i i i"),
    ("xdel", "k i i i"),
    ("xclaim", "k k k 0 i i FORCE"),
    ("xclaim", "k k k n i IDLE n RETRYCOUNT n"),
    ("xautoclaim", "k k k 0 i COUNT n"),
    ("xpending", "k k IDLE n i i n k"),
    ("xsetid", "k i ENTRIESADDED n MAXDELETEDID i"),
    ("xtrim", "k MINID ~ i LIMIT n"),
    ("stream", "k FULL COUNT n"),
    ("eval", "s 1 k w n"),
    ("eval", "s 0"),
    ("eval_ro", "s 2 k k n w"),
    ("evalsha", "h 1 k w n"),
    ("evalsha_ro", "h 0"),
    ("load", "s"),
    ("load", "REPLACE l"),
    ("fcall", "f 1 k w n"),
    ("fcall_ro", "f 2 k k n"),
    ("delete", "f"),
    ("exists", "h h"),
];
/// Scripts: some that everybody uses, then pieces of which any script is made.
const SCRIPTS: &[&str] = &[
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end",
    "local token = redis.call('get', KEYS[1]) if not token or token ~= ARGV[1] then return 0 end
    redis.call('pexpire', KEYS[1], ARGV[2]) return 1",
    "local current = redis.call('INCRBY', KEYS[1], ARGV[2])
    if tonumber(current) == tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[1], ARGV[1]) end return current",
    "return redis.call('INCRBY', KEYS[1], ARGV[1])",
];
const LUA: &[&str] = &[
    "return redis.call('get', KEYS[1])",
    "return redis.pcall('lpush', KEYS[1], ARGV[1], 1.5, -0)",
    "redis.call('set', KEYS[1], ARGV[1])",
    "redis.call('hset', KEYS[1], 'f', #ARGV)",
    "redis.setresp(3)",
    "local t = {} for i = 1, 200 do t[i] = {ok = 'x'} end return t",
    "return cjson.decode(ARGV[1])",
    "return cjson.encode({KEYS, ARGV, 1e300, cjson.null})",
    "return cmsgpack.unpack(ARGV[1])",
    "return cmsgpack.unpack(cmsgpack.pack(KEYS, ARGV, {a = {1.5}}))",
    "return struct.unpack('>I2s', ARGV[1])",
    "return struct.pack(ARGV[1], 1, 2)",
    "return bit.bxor(tonumber(ARGV[2]) or 0, -1)",
    "return string.find(string.sub(ARGV[1], 1, 40), '(.-)%1*$')",
    "return string.format('%q %5.3f', ARGV[1], 1/3)",
    "return string.rep(ARGV[1], 1000)",
    "return {map = {a = 1}, double = 3.5, err = 'x'}",
    "return redis.call('xinfo', 'stream', KEYS[1], 'full')",
    "return redis.pcall(unpack(ARGV))",
    "return redis.call('client', 'id')",
    "return redis.call()",
    "error({err = ARGV[1]})",
    "error(redis.error_reply(ARGV[1] or ''))",
    "local ok, e = pcall(redis.call, 'incr', KEYS[1]) return {ok, e}",
    "return select('#', unpack({}, 1, 7000))",
    "setmetatable(_G, {})",
    "rawset(string, 'x', 1)",
    "return tostring(redis):len() + #tostring(next)",
    "for i = 1, 3 do redis.call('rpush', KEYS[1], i) end",
    "return redis.acl_check_cmd('set', KEYS[1], 'v')",
    "return redis.sha1hex(ARGV[1])",
    "local co = coroutine.wrap(function() coroutine.yield(redis.call('ping')) end) return co()",
    "return table.concat(ARGV, ',', 1, #ARGV)",
    "if",
    "end",
    "--[[",
];
const FUNCTIONS: &[&str] = &["f", "g", "lib"];

/// The text of a script: one that is well-known, or some pieces.
fn script(dice: &mut Dice) -> String {
    if dice.one_in(4) {
        return (*dice.pick(SCRIPTS)).to_owned();
    }
    let pieces: Vec<&str> = (0..dice.below(3) + 1).map(|_| *dice.pick(LUA)).collect();
    pieces.join(if dice.one_in(3) { " " } else { "\nif ARGV[3] then return nil end\n" })
}
const IDS: &[&[u8]] =
    &[b"1-1", b"1-*", b"2-0", b"5-*", b"*", b"-", b"+", b"(1-1", b"0", b"$", b">", b"18446744073709551615-1"];

/// A row with its parent, and the words in capitals that its syntax names.
struct Target {
    path: Vec<&'static str>,
    row: &'static Command,
    options: Vec<&'static [u8]>,
}

fn targets() -> Vec<Target> {
    let mut found = Vec::new();
    for row in table::all() {
        found.push(Target { path: vec![row.name], row, options: options(row) });
        for sub in row.subcommands {
            found.push(Target { path: vec![row.name, sub.name], row: sub, options: options(sub) });
        }
    }
    found
}

fn options(row: &'static Command) -> Vec<&'static [u8]> {
    let words = row.syntax.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
    words.filter(|word| word.len() > 1 && word.bytes().all(|b| !b.is_ascii_lowercase())).map(str::as_bytes).collect()
}

fn argument(dice: &mut Dice, options: &[&'static [u8]]) -> Vec<u8> {
    match dice.below(16) {
        0..=4 => dice.pick(KEYS).to_vec(),
        5..=8 => dice.pick(NUMBERS).to_vec(),
        9 | 10 if !options.is_empty() => dice.pick(options).to_vec(),
        9..=12 => dice.pick(WORDS).to_vec(),
        13 => format!("m{}", dice.below(300)).into_bytes(),
        14 => vec![b'v'; *dice.pick(&[0, 1, 44, 45, 64, 65, 300, 4096, 4097, 9000])],
        _ => (0..dice.below(12)).map(|_| dice.next() as u8).collect(),
    }
}

fn request(dice: &mut Dice, target: &Target) -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = target.path.iter().map(|word| word.as_bytes().to_vec()).collect();
    let shapes: Vec<&str> =
        SHAPES.iter().filter(|(name, _)| *name == target.row.name).map(|(_, shape)| *shape).collect();
    if !shapes.is_empty() && !dice.one_in(4) {
        words.extend(dice.pick(&shapes).split(' ').map(|word| match word {
            "k" => dice.pick(KEYS).to_vec(),
            "n" => dice.pick(NUMBERS).to_vec(),
            "i" => dice.pick(IDS).to_vec(),
            "w" => argument(dice, &[]),
            "s" => script(dice).into_bytes(),
            "h" => sha1_hex(dice.pick(SCRIPTS).as_bytes()),
            "f" => dice.pick(FUNCTIONS).as_bytes().to_vec(),
            "l" => {
                let (name, code) = (*dice.pick(FUNCTIONS), script(dice));
                let code = code.replace("KEYS", "keys").replace("ARGV", "args");
                format!("#!lua name={name}\nredis.register_function('{name}', function(keys, args) {code} end)")
                    .into_bytes()
            }
            word => word.as_bytes().to_vec(),
        }));
        return words;
    }
    let least = (target.row.arity.unsigned_abs() as usize).saturating_sub(words.len());
    let more = if target.row.arity < 0 { *dice.pick(&[0, 0, 1, 1, 2, 3, 4, 5, 8, 30]) } else { 0 };
    let count = (least + more + usize::from(dice.one_in(40))).saturating_sub(usize::from(dice.one_in(40)));
    for _ in 0..count {
        words.push(argument(dice, &target.options));
    }
    if !target.row.keys.is_empty() && words.len() > target.path.len() && !dice.one_in(5) {
        let at = target.path.len();
        words[at] = dice.pick(KEYS).to_vec();
    }
    words
}

/// Where the frame at `at` ends; panics when bytes are no RESP.
fn frame_end(bytes: &[u8], at: usize) -> usize {
    let line = at + bytes[at..].windows(2).position(|pair| pair == b"\r\n").expect("a line end");
    let number =
        || std::str::from_utf8(&bytes[at + 1..line]).ok().and_then(|text| text.parse::<i64>().ok()).expect("a length");
    let (mut end, frames) = match bytes[at] {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => (line + 2, 0),
        b'$' | b'=' if number() < 0 => (line + 2, 0),
        b'$' | b'=' => (line + 2 + number() as usize + 2, 0),
        b'*' | b'~' | b'>' => (line + 2, number().max(0)),
        b'%' => (line + 2, number() * 2),
        b'|' => (line + 2, number() * 2 + 1),
        other => panic!("a reply begins with {:?}", other as char),
    };
    assert!(end <= bytes.len(), "the reply is cut short");
    for _ in 0..frames {
        end = frame_end(bytes, end);
    }
    end
}

struct Fuzzed {
    engine: Engine,
    clients: Vec<Token>,
}

fn fresh(dice: &mut Dice) -> Fuzzed {
    let mut settings = Settings::default();
    let wanted = [("proto-max-bulk-len", "1mb"), ("maxmemory", "64mb"), ("enable-debug-command", "yes")];
    for (name, value) in wanted {
        let index = Settings::find(name).expect(name);
        settings.put(index, value).expect(name);
    }
    let mut engine = Engine::new(settings, dice.next(), 1_700_000_000_000);
    let clients = (0..4)
        .map(|_| {
            let client = engine.new_client();
            engine.clients.add(client)
        })
        .collect();
    Fuzzed { engine, clients }
}

fn shown(words: &[Vec<u8>]) -> String {
    words
        .iter()
        .map(|word| format!("{:?}", String::from_utf8_lossy(&word[..word.len().min(60)])))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Left out: they stop the clock or the process on purpose.
fn unwanted(words: &[Vec<u8>]) -> bool {
    words[0] == b"debug" && words.get(1).is_some_and(|word| !word.eq_ignore_ascii_case(b"object"))
}

#[test]
fn any_command_with_any_arguments_is_answered() {
    let seed = seed();
    println!("fuzz: commands, seed {seed}, {} inputs", inputs());
    let targets = targets();
    let mut reached: HashMap<Vec<&str>, u64> = HashMap::new();
    let mut dice = Dice(seed);
    let mut fuzzed = fresh(&mut dice);
    let before = resident_bytes();
    let mut ran_scripts = 0;
    for input in 0..inputs() {
        if input % ROUND == ROUND - 1 {
            fuzzed = fresh(&mut dice);
            let grown = resident_bytes().saturating_sub(before);
            assert!(grown < MOST_MEMORY, "seed {seed}, input {input}: {grown} bytes more");
        }
        let target = &targets[dice.below(targets.len())];
        let words = request(&mut dice, target);
        if unwanted(&words) {
            *reached.entry(target.path.clone()).or_default() += 1;
            continue;
        }
        let at = dice.below(fuzzed.clients.len());
        let engine = &mut fuzzed.engine;
        let Some(mut client) = engine.clients.take(fuzzed.clients[at]) else {
            let client = engine.new_client();
            fuzzed.clients[at] = engine.clients.add(client);
            continue;
        };
        if client.blocked.is_some() || client.dead {
            // As the event loop: nothing is read from who waits; who is done leaves.
            engine.leave(&mut client);
            engine.clients.forget(fuzzed.clients[at]);
            let client = engine.new_client();
            fuzzed.clients[at] = engine.clients.add(client);
            continue;
        }
        let args = OwnedArgs::from_parts(words.iter().map(Vec::as_slice));
        let mut out = Reply::new(client.resp3);
        let started = processor_time();
        dispatch::serve(engine, &mut client, &args.as_args(), &mut out);
        out.raw(&std::mem::take(&mut client.pending));
        engine.clients.put_back(client);
        blocking::serve_ready(engine);
        tracking::broadcast(engine);
        let took = processor_time() - started;
        assert!(took < SLOWEST, "seed {seed}, input {input}: {} took {took:?}", shown(&words));
        let reply = out.take();
        let mut end = 0;
        while end < reply.len() {
            end = frame_end(&reply, end);
        }
        *reached.entry(target.path.clone()).or_default() += 1;
        ran_scripts +=
            u64::from(target.row.group == "scripting" && target.row.arity == -3 && reply.first() != Some(&b'-'));
        engine.stopping = false;
        if dice.one_in(50) {
            let now = engine.store.now() + *dice.pick(&[1, 50, 2000]);
            engine.store.set_now(now);
            blocking::expire(engine);
        }
    }
    assert!(
        ran_scripts > inputs() / 2000,
        "only {ran_scripts} scripts ran to their end: the fuzzer makes none that work"
    );
    let missed: Vec<String> = targets
        .iter()
        .filter(|target| !reached.contains_key(&target.path))
        .map(|target| target.path.join(" "))
        .collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
}

// --- payloads and files of Redis ---

/// Values in RDB form to begin with: type byte and what follows, packed and plain, streams too.
const VALUES: &[&[u8]] = &[
    b"\x00\x05hello",
    b"\x00\xc3\x0c\x40\x64\x01aa\xe0\x55\x01\x20\x00\x01aa",
    b"\x01\x03\x01a\xc0\x05\xc1\x00\x02",
    b"\x02\x02\x01a\x01b",
    b"\x03\x02\x01a\x031.5\x01b\xfe",
    b"\x04\x02\x01a\x01b\x01c\x01d",
    b"\x05\x02\x01a\0\0\0\0\0\0\x14\x40\x01b\0\0\0\0\0\0\x15\x40",
    b"\x09\x0c\x02\x01f\x01\x005\x01g\x01\x006\xff",
    b"\x0a\x10\x10\0\0\0\x0d\0\0\0\x02\0\0\x01f\x03\xf6\xff",
    b"\x0b\x0c\x02\0\0\0\x02\0\0\0\x05\0\x07\0",
    b"\x0c\x10\x10\0\0\0\x0d\0\0\0\x02\0\0\x01f\x03\xf6\xff",
    b"\x0d\x10\x10\0\0\0\x0d\0\0\0\x02\0\0\x01f\x03\xf6\xff",
    b"\x0e\x01\x10\x10\0\0\0\x0d\0\0\0\x02\0\0\x01f\x03\xf6\xff",
    b"\x10\x0c\x0c\0\0\0\x02\0\x81f\x02\x05\x01\xff",
    b"\x11\x0c\x0c\0\0\0\x02\0\x81f\x02\x05\x01\xff",
    b"\x12\x02\x02\x0c\x0c\0\0\0\x02\0\x81f\x02\x05\x01\xff\x01\x03abc",
    b"\x14\x0c\x0c\0\0\0\x02\0\x81f\x02\x05\x01\xff",
    b"\x0f\x00\x00\x00\x00\x00",
    b"\x13\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\x15\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
];

/// Bytes that mean much where a length or a form is expected.
const TELLING: &[u8] = &[0, 1, 2, 0x3f, 0x40, 0x7f, 0x80, 0x81, 0xbf, 0xc0, 0xc3, 0xdf, 0xe0, 0xf0, 0xf4, 0xfe, 0xff];

/// One of the values, of ours or spoilt, or bytes that are none.
fn spoilt_value(dice: &mut Dice) -> Vec<u8> {
    let mut value = dice.pick(VALUES).to_vec();
    for _ in 0..dice.below(4) {
        let at = dice.below(value.len());
        match dice.below(5) {
            0 => value[at] = *dice.pick(TELLING),
            1 => value[at] = dice.next() as u8,
            2 => value.truncate(at.max(1)),
            3 => value.insert(at, *dice.pick(TELLING)),
            _ => value.extend_from_slice(&dice.pick(VALUES)[1..]),
        }
    }
    value
}

#[test]
fn any_payload_is_restored_or_refused() {
    let seed = seed();
    println!("fuzz: payloads, seed {seed}");
    let mut dice = Dice(seed);
    let mut fuzzed = fresh(&mut dice);
    let token = fuzzed.clients[0];
    let mut taken = 0;
    for input in 0..inputs() / 3 {
        let mut payload = spoilt_value(&mut dice);
        rdb::seal(&mut payload);
        let engine = &mut fuzzed.engine;
        let mut client = engine.clients.take(token).expect("the client is there");
        for words in [
            &[&b"restore"[..], b"k", b"0", &payload, b"replace"][..],
            &[b"dump", b"k"],
            &[b"type", b"k"],
            &[b"debug", b"object", b"k"],
            &[b"copy", b"k", b"other", b"replace"],
        ] {
            let args = OwnedArgs::from_parts(words.iter().copied());
            let mut out = Reply::new(false);
            let started = processor_time();
            dispatch::serve(engine, &mut client, &args.as_args(), &mut out);
            let took = processor_time() - started;
            assert!(took < SLOWEST, "seed {seed}, input {input}: {payload:?} took {took:?}");
            let reply = out.take();
            assert_eq!(frame_end(&reply, 0), reply.len(), "seed {seed}, input {input}");
            taken += u64::from(reply == b"+OK\r\n");
        }
        engine.clients.put_back(client);
    }
    assert!(taken > inputs() / 30, "only {taken} payloads were taken: the fuzzer makes nothing sensible");
    assert!(fuzzed.engine.store.arena.reserved() < 64 << 20);
}

#[test]
fn any_file_is_read_or_refused_however_it_is_cut() {
    let seed = seed();
    println!("fuzz: RDB files, seed {seed}");
    let mut dice = Dice(seed);
    for input in 0..inputs() / 20 {
        let mut bytes = b"REDIS0011\xfa\x03ver\x017\xfe\x00\xfb\x05\x01".to_vec();
        for number in 0..dice.below(6) {
            if dice.one_in(3) {
                bytes.extend_from_slice(b"\xfc\0\0\0\0\0\x01\0\0\xf8\x05");
            }
            let value = if dice.one_in(3) { spoilt_value(&mut dice) } else { dice.pick(VALUES).to_vec() };
            bytes.push(value[0]);
            bytes.extend_from_slice(&[1, b'a' + number as u8]);
            bytes.extend_from_slice(&value[1..]);
        }
        bytes.push(0xff);
        let sum = rdb::crc64::update(0, &bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        let cut = dice.below(bytes.len());
        let read = |pieces: &[&[u8]]| {
            let (mut file, mut items) = (rdb::file::File::default(), Vec::new());
            for piece in pieces {
                file.feed(piece);
                loop {
                    match file.item() {
                        Ok(Some(item)) => items.push(item),
                        Ok(None) => break,
                        Err(garbage) => return (items, Some(garbage)),
                    }
                }
            }
            (items, None)
        };
        assert_eq!(read(&[&bytes]), read(&[&bytes[..cut], &bytes[cut..]]), "seed {seed}, input {input}: {bytes:?}");
        // Whatever can be passed over can be read, or is garbage.
        let value = spoilt_value(&mut dice);
        let mut reader = Reader::new(&value[1..]);
        let _ = rdb::skip_value(value[0], &mut reader);
    }
}
