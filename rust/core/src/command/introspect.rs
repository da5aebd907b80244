//! COMMAND: what the table says, as clients ask for it.
//!
//! Flags, categories, the classic first, last and step of keys, and the argument trees are all
//! worked out from the rows, so that a new row needs nothing here.

use super::fault::{Done, Fault};
use super::glob::glob;
use super::syntax::{self, Argument};
use super::table::{self, Begin, Command, Find, Handler, KeySpec, KeyUse, OVERWRITE, READ, READ_UPDATE, flag};
use super::{Ctx, server};
use crate::resp::{Args, Reply};

const OPEN: u32 = flag::LOADING | flag::STALE | flag::CONNECTION;

const fn sub(name: &'static str, run: Handler, arity: i32) -> Command {
    Command { since: "2.8.13", ..Command::new(name, run, arity, OPEN) }
}

/// COMMAND and its sub-commands.
pub const COMMANDS: &[Command] = &[Command {
    since: "2.8.13",
    summary: "Tells about all commands.",
    subcommands: &[
        Command { summary: "Counts the commands.", ..sub("count", count, 2) },
        Command {
            summary: "Tells about these commands, or about all.",
            syntax: "[command-name ...]",
            ..sub("info", info, -2)
        },
        Command {
            since: "7.0.0",
            summary: "Explains these commands and their arguments, or all.",
            syntax: "[command-name ...]",
            ..sub("docs", docs, -2)
        },
        Command {
            since: "7.0.0",
            summary: "Names the commands.",
            syntax: "[FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]",
            ..sub("list", list, -2)
        },
        Command {
            summary: "Finds the keys of a request.",
            syntax: "command [arg ...]",
            ..sub("getkeys", get_keys, -4)
        },
        Command {
            since: "7.0.0",
            summary: "Finds the keys of a request and tells what it does with them.",
            syntax: "command [arg ...]",
            ..sub("getkeysandflags", get_keys_and_flags, -4)
        },
        Command {
            since: "5.0.0",
            summary: "Lists the sub-commands.",
            ..Command::new("help", help, 2, flag::LOADING | flag::STALE | flag::CONNECTION)
        },
    ],
    ..Command::new("command", all, -1, OPEN)
}];

type Parent = Option<&'static Command>;

/// A command's name as COMMAND writes it, `config|get` for a sub-command.
pub fn full_name(parent: Parent, row: &Command) -> String {
    parent.map_or_else(|| row.name.to_owned(), |parent| format!("{}|{}", parent.name, row.name))
}

/// All rows with their parents, sub-commands after the command they belong to.
pub fn everything() -> impl Iterator<Item = (Parent, &'static Command)> {
    table::all()
        .flat_map(|row| std::iter::once((None, row)).chain(row.subcommands.iter().map(move |child| (Some(row), child))))
}

/// The name of a row whose parent is not at hand.
pub fn full_name_of(row: &Command) -> String {
    everything()
        .find(|(_, each)| std::ptr::eq(*each, row))
        .map_or_else(|| row.name.to_owned(), |(parent, row)| full_name(parent, row))
}

/// The row of a name such as `get` or `config|get`.
pub fn named(name: &[u8]) -> Option<(Parent, &'static Command)> {
    let mut parts = name.splitn(2, |&byte| byte == b'|');
    let (row, _) = table::find(parts.next()?)?;
    match parts.next() {
        None => Some((None, row)),
        Some(child) => row.subcommand(child).map(|child| (Some(row), child)),
    }
}

/// The ACL categories, in the order in which COMMAND tells them.
pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// Whether a row belongs to an ACL category: some are said by flags, others by the family. The row of
/// a command that only has sub-commands belongs to none but `slow`; they have their own.
pub fn in_category(row: &Command, category: &str) -> bool {
    let family = if category == "sortedset" { "sorted-set" } else { category };
    let group = row.subcommands.is_empty() && row.group == family;
    match category {
        "keyspace" => row.is(flag::KEYSPACE),
        "read" => row.is(flag::READONLY) && !row.is(flag::SCRIPTING),
        "write" => row.is(flag::WRITE),
        "admin" => row.is(flag::ADMIN | flag::OPERATOR),
        "dangerous" => row.is(flag::ADMIN | flag::OPERATOR | flag::DANGEROUS),
        "fast" => row.is(flag::FAST),
        "slow" => !row.is(flag::FAST),
        "blocking" => row.is(flag::BLOCKING),
        "pubsub" => row.is(flag::PUBSUB),
        "connection" => row.is(flag::CONNECTION),
        "transaction" => row.is(flag::TRANSACTION),
        "scripting" => row.is(flag::SCRIPTING),
        "set" | "sortedset" | "list" => group || row.is(flag::SORTABLE),
        _ => group,
    }
}

/// First and last key and the step between, as clients before key specifications know them.
fn classic_keys(keys: &[KeySpec]) -> (i32, i32, i32) {
    let ranges: Vec<(i32, i32, i32)> = keys
        .iter()
        .filter_map(|spec| match (spec.begin, spec.find) {
            (Begin::At(first), Find::Range { last, step, .. }) => {
                Some((first, if last >= 0 { first + last } else { last }, step))
            }
            _ => None,
        })
        .collect();
    match ranges.as_slice() {
        [] => (0, 0, 0),
        [only] => *only,
        [first, rest @ ..] => {
            // Several ranges make one when they follow each other and go one by one.
            let mut last = first.1;
            for range in rest {
                if range.2 != 1 || range.0 != last + 1 {
                    break;
                }
                last = range.1;
            }
            (first.0, last, 1)
        }
    }
}

fn write_words<'a>(out: &mut Reply, words: impl Iterator<Item = &'a str>) {
    let words: Vec<&str> = words.collect();
    out.set(words.len());
    for word in words {
        out.status(word);
    }
}

fn write_info(out: &mut Reply, parent: Parent, row: &Command) {
    let name = full_name(parent, row);
    out.array(10);
    out.bulk(name.as_bytes());
    out.integer(i64::from(row.arity));
    write_words(out, flag::NAMES.iter().filter(|(_, bit)| row.is(*bit)).map(|(name, _)| *name));
    let (first, last, step) = classic_keys(row.keys);
    out.integer(i64::from(first));
    out.integer(i64::from(last));
    out.integer(i64::from(step));
    let categories: Vec<String> =
        CATEGORIES.iter().filter(|each| in_category(row, each)).map(|each| format!("@{each}")).collect();
    write_words(out, categories.iter().map(String::as_str));
    let tips = tips(&name);
    out.set(tips.len());
    for tip in tips {
        out.bulk(tip.as_bytes());
    }
    out.set(row.keys.len());
    for spec in row.keys {
        write_spec(out, spec);
    }
    if row.subcommands.is_empty() {
        out.set(0);
    } else {
        out.array(row.subcommands.len());
    }
    for child in row.subcommands {
        // A child has no children: the row of the parent is only named.
        write_info(out, table::all().find(|each| std::ptr::eq(*each, row)), child);
    }
}

fn write_spec(out: &mut Reply, spec: &KeySpec) {
    out.map(3);
    out.bulk(b"flags");
    write_words(out, spec.uses.0.iter().copied());
    out.bulk(b"begin_search");
    match spec.begin {
        Begin::At(at) => {
            write_search(out, "index", &[("index", at)]);
        }
        Begin::After(word, from) => {
            out.map(2);
            out.bulk(b"type");
            out.bulk(b"keyword");
            out.bulk(b"spec");
            out.map(2);
            out.bulk(b"keyword");
            out.bulk(word.as_bytes());
            out.bulk(b"startfrom");
            out.integer(i64::from(from));
        }
        Begin::Unknown => write_search(out, "unknown", &[]),
    }
    out.bulk(b"find_keys");
    match spec.find {
        Find::Range { last, step, limit } => {
            write_search(out, "range", &[("lastkey", last), ("keystep", step), ("limit", limit)]);
        }
        Find::Counted { number, first, step } => {
            write_search(out, "keynum", &[("keynumidx", number), ("firstkey", first), ("keystep", step)]);
        }
        Find::Unknown => write_search(out, "unknown", &[]),
    }
}

fn write_search(out: &mut Reply, kind: &str, numbers: &[(&str, i32)]) {
    out.map(2);
    out.bulk(b"type");
    out.bulk(kind.as_bytes());
    out.bulk(b"spec");
    out.map(numbers.len());
    for (name, number) in numbers {
        out.bulk(name.as_bytes());
        out.integer(i64::from(*number));
    }
}

/// Hints for proxies: where to send a command and how to join the answers.
fn tips(name: &str) -> &'static [&'static str] {
    match name {
        "client|info"
        | "client|list"
        | "cluster|bumpepoch"
        | "cluster|count-failure-reports"
        | "cluster|getkeysinslot"
        | "cluster|info"
        | "cluster|links"
        | "cluster|nodes"
        | "cluster|replicas"
        | "cluster|shards"
        | "cluster|slaves"
        | "cluster|slots"
        | "dump"
        | "hrandfield"
        | "hscan"
        | "lastsave"
        | "migrate"
        | "object|encoding"
        | "object|freq"
        | "object|idletime"
        | "object|refcount"
        | "pttl"
        | "spop"
        | "srandmember"
        | "sscan"
        | "time"
        | "ttl"
        | "xadd"
        | "xautoclaim"
        | "xclaim"
        | "xinfo|consumers"
        | "xpending"
        | "xtrim"
        | "zrandmember"
        | "zscan" => &["nondeterministic_output"],
        "latency|doctor" | "latency|graph" | "latency|histogram" | "latency|history" | "latency|latest" => {
            &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"]
        }
        "function|stats" | "info" | "memory|doctor" | "memory|malloc-stats" | "memory|stats" => {
            &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]
        }
        "scan" => &["nondeterministic_output", "request_policy:special"],
        "command" | "command|docs" | "command|info" | "command|list" | "function|list" | "hgetall" | "hkeys"
        | "hvals" | "module|list" | "sdiff" | "sinter" | "smembers" | "sunion" => &["nondeterministic_output_order"],
        "slowlog|get" => &["request_policy:all_nodes", "nondeterministic_output"],
        "slowlog|len" => &["request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"],
        "config|set" | "latency|reset" | "script|flush" | "script|load" | "slowlog|reset" => {
            &["request_policy:all_nodes", "response_policy:all_succeeded"]
        }
        "randomkey" => &["request_policy:all_shards", "nondeterministic_output"],
        "keys" => &["request_policy:all_shards", "nondeterministic_output_order"],
        "script|exists" => &["request_policy:all_shards", "response_policy:agg_logical_and"],
        "wait" => &["request_policy:all_shards", "response_policy:agg_min"],
        "dbsize" => &["request_policy:all_shards", "response_policy:agg_sum"],
        "flushall" | "flushdb" | "function|delete" | "function|flush" | "function|load" | "function|restore"
        | "memory|purge" | "ping" => &["request_policy:all_shards", "response_policy:all_succeeded"],
        "function|kill" | "script|kill" => &["request_policy:all_shards", "response_policy:one_succeeded"],
        "mget" => &["request_policy:multi_shard"],
        "msetnx" => &["request_policy:multi_shard", "response_policy:agg_min"],
        "del" | "exists" | "touch" | "unlink" => &["request_policy:multi_shard", "response_policy:agg_sum"],
        "mset" => &["request_policy:multi_shard", "response_policy:all_succeeded"],
        _ => &[],
    }
}

fn all(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.array(table::all().count());
    for row in table::all() {
        write_info(ctx.out, None, row);
    }
    Ok(())
}

fn count(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.out.count(table::all().count());
    Ok(())
}

fn info(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() == 2 {
        return all(ctx, args);
    }
    ctx.out.array(args.len() - 2);
    for name in args.from(2) {
        match named(name) {
            Some((parent, row)) => write_info(ctx.out, parent, row),
            None => ctx.out.null(),
        }
    }
    Ok(())
}

fn docs(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let wanted: Vec<(Parent, &Command)> = if args.len() == 2 {
        table::all().map(|row| (None, row)).collect()
    } else {
        args.from(2).filter_map(named).collect()
    };
    ctx.out.map(wanted.len());
    for (parent, row) in wanted {
        write_docs(ctx.out, parent, row);
    }
    Ok(())
}

fn write_docs(out: &mut Reply, parent: Parent, row: &'static Command) {
    let arguments = syntax::parse(row.syntax, row.keys.len());
    out.bulk(full_name(parent, row).as_bytes());
    out.map(3 + usize::from(!arguments.is_empty()) + usize::from(!row.subcommands.is_empty()));
    for (name, text) in [("summary", row.summary), ("since", row.since), ("group", row.group)] {
        out.bulk(name.as_bytes());
        out.bulk(text.as_bytes());
    }
    if !arguments.is_empty() {
        out.bulk(b"arguments");
        write_arguments(out, &arguments);
    }
    if !row.subcommands.is_empty() {
        out.bulk(b"subcommands");
        out.map(row.subcommands.len());
        for child in row.subcommands {
            write_docs(out, Some(row), child);
        }
    }
}

fn write_arguments(out: &mut Reply, arguments: &[Argument]) {
    out.array(arguments.len());
    for argument in arguments {
        let flags: Vec<&str> = [
            (argument.optional, "optional"),
            (argument.multiple, "multiple"),
            (argument.multiple_token, "multiple_token"),
        ]
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| *name)
        .collect();
        let extra =
            [argument.key_spec.is_some(), argument.token.is_some(), !flags.is_empty(), !argument.parts.is_empty()];
        out.map(2 + extra.iter().filter(|&&there| there).count());
        out.bulk(b"name");
        out.bulk(argument.name.as_bytes());
        out.bulk(b"type");
        out.bulk(argument.kind.name().as_bytes());
        if let Some(spec) = argument.key_spec {
            out.bulk(b"key_spec_index");
            out.count(spec);
        }
        if let Some(token) = &argument.token {
            out.bulk(b"token");
            out.bulk(token.as_bytes());
        }
        if !flags.is_empty() {
            out.bulk(b"flags");
            write_words(out, flags.into_iter());
        }
        if !argument.parts.is_empty() {
            out.bulk(b"arguments");
            write_arguments(out, &argument.parts);
        }
    }
}

/// Whether a command of this name and row is to be listed.
type Filter<'a> = Box<dyn Fn(&str, &Command) -> bool + 'a>;

fn list(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let filter: Filter<'_> = match args.len() {
        2 => Box::new(|_, _| true),
        5 if args.is(2, "FILTERBY") => {
            let value = args.at(4);
            if args.is(3, "MODULE") {
                Box::new(|_, _| false) // There are no modules, so none brought a command.
            } else if args.is(3, "ACLCAT") {
                let category = String::from_utf8_lossy(value).to_lowercase();
                Box::new(move |_, row| CATEGORIES.contains(&category.as_str()) && in_category(row, &category))
            } else if args.is(3, "PATTERN") {
                Box::new(move |name, _| glob(value, name.as_bytes(), true))
            } else {
                return Err(Fault::SYNTAX);
            }
        }
        _ => return Err(Fault::SYNTAX),
    };
    let names: Vec<String> = everything()
        .map(|(parent, row)| (full_name(parent, row), row))
        .filter(|(name, row)| filter(name, row))
        .map(|(name, _)| name)
        .collect();
    ctx.out.array(names.len());
    for name in names {
        ctx.out.bulk(name.as_bytes());
    }
    Ok(())
}

/// Where the keys of a request are, and what it does with each.
fn find_keys(args: &Args<'_>) -> Result<Vec<(usize, KeyUse)>, Fault> {
    let Some((parent, _)) = table::find(args.at(0)) else {
        return Err(Fault::new("ERR Invalid command specified"));
    };
    let row = parent.subcommand(args.at(1)).unwrap_or(parent);
    if !row.subcommands.is_empty() && args.len() > 1 {
        return Err(Fault::new("ERR Invalid command specified"));
    }
    if row.keys.is_empty() || row.keys.iter().all(|spec| spec.uses == KeyUse(&["not_key"])) {
        return Err(Fault::new("ERR The command has no key arguments"));
    }
    if !row.takes(args.len()) {
        return Err(Fault::new("ERR Invalid number of arguments specified for command"));
    }
    let counts = row.keys.iter().any(|spec| matches!(spec.find, Find::Counted { .. }));
    let (found, whole) = visit_keys(row, args);
    if !whole || (found.is_empty() && !(counts && row.is(flag::NO_MANDATORY_KEYS))) {
        return Err(Fault::new("ERR Invalid arguments specified for command"));
    }
    Ok(found)
}

/// Where the keys of a request to this row are, and what it does with each; as far as they can be told.
pub fn key_uses(row: &Command, args: &Args<'_>) -> Vec<(usize, KeyUse)> {
    let (mut found, _) = visit_keys(row, args);
    found.retain(|(_, uses)| *uses != KeyUse(&["not_key"]));
    found
}

/// As [`key_uses`]; `false` besides when the request is not of the form the table describes.
fn visit_keys(row: &Command, args: &Args<'_>) -> (Vec<(usize, KeyUse)>, bool) {
    let mut found = Vec::new();
    let visited = row.each_key(args, |at, spec| found.push((at, actual_use(row, args, spec))));
    if row.name == "sort" {
        // The last STORE counts; words that are values of other options are none.
        let mut at = 2;
        let mut store = None;
        while at < args.len() {
            if args.is(at, "LIMIT") {
                at += 2;
            } else if args.is(at, "GET") || args.is(at, "BY") {
                at += 1;
            } else if args.is(at, "STORE") && at + 1 < args.len() {
                store = Some((at + 1, OVERWRITE));
                at += 1;
            }
            at += 1;
        }
        found.extend(store);
    }
    (found, visited.is_some())
}

/// What a request does with a key where that hangs on its options.
fn actual_use(row: &Command, args: &Args<'_>, spec: &KeySpec) -> KeyUse {
    match row.name {
        "set" if (3..args.len()).any(|at| args.is(at, "GET")) => READ_UPDATE,
        "set" => OVERWRITE,
        "bitfield" if (2..args.len()).any(|at| args.is(at, "SET") || args.is(at, "INCRBY")) => READ_UPDATE,
        "bitfield" => READ,
        _ => spec.uses,
    }
}

fn get_keys(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let request = args.tail(2);
    let found = find_keys(&request)?;
    ctx.out.array(found.len());
    for (at, _) in found {
        ctx.out.bulk(request.at(at));
    }
    Ok(())
}

fn get_keys_and_flags(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let request = args.tail(2);
    let found = find_keys(&request)?;
    ctx.out.array(found.len());
    for (at, uses) in found {
        ctx.out.array(2);
        ctx.out.bulk(request.at(at));
        write_words(ctx.out, uses.0.iter().copied());
    }
    Ok(())
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "COMMAND");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::testing::Node;

    #[test]
    fn a_row_is_told_as_clients_expect() {
        let mut node = Node::new();
        assert_eq!(
            node.line("COMMAND INFO get nosuch"),
            "*2 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 *3 +@read +@string +@fast *0 *1 *6 $5 flags *2 +RO +access \
             $12 begin_search *4 $4 type $5 index $4 spec *2 $5 index :1 $9 find_keys *4 $4 type $5 range $4 spec *6 \
             $7 lastkey :0 $7 keystep :1 $5 limit :0 *0 $-1"
        );
        assert_eq!(
            node.line("COMMAND LIST FILTERBY PATTERN COMMAND|g*"),
            "*2 $15 command|getkeys $23 command|getkeysandflags"
        );
        assert_eq!(node.line("COMMAND LIST FILTERBY MODULE any"), "*0");
        assert_eq!(node.line("COMMAND LIST FILTERBY any thing"), "-ERR syntax error");
    }

    #[test]
    fn keys_of_requests_are_found() {
        Node::new().expect(&[
            ("COMMAND GETKEYS MSET a b c d", "*2 $1 a $1 c"),
            ("COMMAND GETKEYS NOSUCH a b", "-ERR Invalid command specified"),
            ("COMMAND GETKEYS PING a", "-ERR The command has no key arguments"),
            ("COMMAND GETKEYS SSUBSCRIBE a", "-ERR The command has no key arguments"),
            ("COMMAND GETKEYS ZUNIONSTORE d 5 a b", "-ERR Invalid arguments specified for command"),
            ("COMMAND GETKEYSANDFLAGS SET a b", "*1 *2 $1 a *2 +OW +update"),
            ("COMMAND GETKEYSANDFLAGS SET a b GET", "*1 *2 $1 a *3 +RW +access +update"),
        ]);
    }

    #[test]
    fn every_command_explains_itself() {
        let mut node = Node::new();
        let docs = node.line("COMMAND DOCS");
        assert!(docs.starts_with(&format!("*{} ", table::all().count() * 2)), "{}", &docs[..40]);
        assert!(node.line("COMMAND DOCS echo").contains("$9 arguments *1 *4 $4 name $7 message $4 type $6 string"));
    }
}
