//! What to do with a request: answer it here, send it to a node, or send parts of it to several.

use super::map::Map;
use super::merge::Merge;
use crate::command::Fault;
use crate::command::keys::parse_cursor;
use crate::command::table::{Command, find, flag};
use crate::resp::Args;
use crate::resp::number::parse_i64;
use crate::slot::slot_of;

/// One node's share of a split request.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// The node.
    pub node: u16,
    /// Indices of the arguments it gets, besides the command's name.
    pub arguments: Vec<usize>,
    /// Which keys of the request these are, by their order: where the results go.
    pub positions: Vec<usize>,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Plan {
    /// The proxy answers: it is about the connection.
    Here,
    /// One node has all the keys.
    One(u16),
    /// As [`Plan::One`], but it may wait or needs state of its own: over a connection of the client's own.
    Alone(u16),
    /// Keys to be watched, each at its node: these arguments.
    Watch(Vec<usize>),
    /// It waits for the first of these arguments that has something, and they are on several nodes.
    Vigil(Vec<usize>),
    /// An element goes from a list on one node to a list on another.
    Carry,
    /// It needs these keys at one place, and they are on several nodes.
    Gather(Vec<usize>),
    /// Each node gets its keys, and the replies are merged.
    Split(Vec<Part>, Merge),
    /// Every node gets the request as it is.
    Everywhere(Merge),
    /// One step of a scan over all nodes, one after another: the node, and the cursor there.
    Scan(u16, u64),
    /// It is refused.
    Refuse(Fault),
}

/// Bits of a scan's cursor that are a node's own; those above say which node it is.
pub const CURSOR_BITS: u32 = 46;

/// Keys are spread over nodes, and that is not possible here.
pub fn cross_slot() -> Fault {
    Fault::new("CROSSSLOT Keys in request don't hash to the same slot")
}

/// A slot has no owner.
fn no_owner(slot: u16) -> Fault {
    Fault::new(format!("CLUSTERDOWN Hash slot not served: no node owns slot {slot}"))
}

/// Decide.
#[inline]
pub fn plan(row: &Command, args: &Args<'_>, map: &Map) -> Plan {
    // The common case first: a command with one key, at the first argument.
    if let [spec] = row.keys
        && spec.is_first_argument()
        && !row.is(flag::BLOCKING | flag::MOVABLE_KEYS)
    {
        return by_key(args.at(1), map);
    }
    plan_slowly(row, args, map)
}

fn plan_slowly(row: &Command, args: &Args<'_>, map: &Map) -> Plan {
    // A sub-command's own name may be that of another command: SCRIPT EXISTS is not EXISTS.
    let whole = match find(args.at(0)) {
        Some((parent, _)) if !std::ptr::eq(parent, row) => format!("{}|{}", parent.name, row.name),
        _ => row.name.to_owned(),
    };
    let name = whole.as_str();
    if let Some(merge) = splits(name) {
        if name == "mset" && args.len().is_multiple_of(2) {
            return Plan::Refuse(Fault::arity(name)); // Before any node has set a part of it.
        }
        return split(args, map, merge, if matches!(merge, Merge::AllOk) { 2 } else { 1 });
    }
    if let Some(merge) = everywhere(name, args) {
        return if map.nodes().is_empty() { Plan::Refuse(no_owner(0)) } else { Plan::Everywhere(merge) };
    }
    match name {
        "publish" => return by_key(args.at(1), map),
        "pubsub|numsub" | "pubsub|shardnumsub" if args.len() > 2 => return by_channel(args, map),
        "debug" => return debug(args, map),
        "fastcache|compare" => {
            return match split_from(2, args, map, Merge::InOrder, 1) {
                Plan::One(node) => Plan::Alone(node),
                parts => parts,
            };
        }
        "scan" => {
            return match parse_cursor(args.at(1)) {
                Ok(cursor) => Plan::Scan((cursor >> CURSOR_BITS) as u16, cursor & ((1 << CURSOR_BITS) - 1)),
                Err(fault) => Plan::Refuse(fault),
            };
        }
        _ if of_any_node(name) => return any_node(map),
        _ => {}
    }
    if row.keys.is_empty() || row.group == "pubsub" && name != "spublish" {
        return Plan::Here;
    }
    let Some(keys) = row.every_key(args) else {
        return any_node(map); // It says what is wrong with it.
    };
    if matches!(name, "sort" | "sort_ro")
        && let Some(fault) = reaches_elsewhere(args, map)
    {
        return Plan::Refuse(fault);
    }
    let mut owner = None;
    let mut spread = false;
    for index in &keys {
        let Some(node) = map.owner_of(args.at(*index)) else {
            return Plan::Refuse(no_owner(slot_of(args.at(*index))));
        };
        spread |= *owner.get_or_insert(node) != node;
    }
    match owner {
        _ if name == "watch" => Plan::Watch(keys),
        Some(_) if spread && waits_for_one_of(name) => Plan::Vigil(keys),
        Some(_) if spread && matches!(name, "lmove" | "blmove" | "rpoplpush" | "brpoplpush") => Plan::Carry,
        Some(_) if spread && matches!(name, "xread" | "xreadgroup") => by_stream(args, &keys, map),
        Some(_) if spread && (row.is(flag::BLOCKING) || matches!(name, "fcall" | "fcall_ro")) => {
            Plan::Refuse(cross_slot())
        }
        Some(_) if spread && name == "copy" && (3..args.len()).any(|at| args.is(at, "DB")) => {
            Plan::Refuse(cross_slot())
        }
        Some(_) if spread => Plan::Gather(keys),
        Some(node) if row.is(flag::BLOCKING) => Plan::Alone(node),
        Some(node) => Plan::One(node),
        // A script without keys: always the same node, so that it finds what it has loaded.
        None if row.is(flag::MOVABLE_KEYS) || row.group == "scripting" => any_node(map),
        None => Plan::Here,
    }
}

/// SORT reads other keys by patterns: their node is known only where a `{tag}` without a star says it.
fn reaches_elsewhere(args: &Args<'_>, map: &Map) -> Option<Fault> {
    if !args.at(0).get(..4)?.eq_ignore_ascii_case(b"sort") {
        return None;
    }
    let here = map.owner_of(args.at(1));
    let elsewhere = |pattern: &[u8]| {
        let fixed = pattern.strip_suffix(b"*").unwrap_or(pattern);
        let tag = crate::slot::hashed_part(fixed);
        pattern.contains(&b'*') && (tag.len() == fixed.len() || tag.contains(&b'*') || map.owner_of(fixed) != here)
    };
    (2..args.len()).find_map(|at| {
        let option = ["BY", "GET"].into_iter().find(|word| args.is(at, word))?;
        let text = format!("ERR {option} option of SORT denied in cluster mode.");
        elsewhere(args.get(at + 1)?).then(|| Fault::new(text))
    })
}

fn by_key(key: &[u8], map: &Map) -> Plan {
    match map.owner_of(key) {
        Some(node) => Plan::One(node),
        None => Plan::Refuse(no_owner(slot_of(key))),
    }
}

/// What every node would answer alike is asked of one: the first that is not known to be down.
fn any_node(map: &Map) -> Plan {
    match map.nodes().iter().position(|node| !node.down) {
        Some(node) => Plan::One(node as u16),
        None => Plan::Refuse(no_owner(0)),
    }
}

fn debug(args: &Args<'_>, map: &Map) -> Plan {
    if args.is(1, "OBJECT") && args.len() > 2 {
        return by_key(args.at(2), map);
    }
    if ["SLEEP", "SET-ACTIVE-EXPIRE", "POPULATE", "RELOAD"].iter().any(|word| args.is(1, word)) {
        return Plan::Everywhere(Merge::AllOk);
    }
    any_node(map)
}

/// Commands whose keys may be spread: what their parts are merged by.
fn splits(name: &str) -> Option<Merge> {
    match name {
        "mget" => Some(Merge::InOrder),
        "mset" => Some(Merge::AllOk),
        "del" | "unlink" | "exists" | "touch" => Some(Merge::Sum),
        _ => None,
    }
}

/// Commands that wait for one of several keys, in the order in which they are named.
fn waits_for_one_of(name: &str) -> bool {
    matches!(name, "blpop" | "brpop" | "bzpopmin" | "bzpopmax" | "blmpop" | "bzmpop")
}

/// Commands that concern every node.
fn everywhere(name: &str, args: &Args<'_>) -> Option<Merge> {
    Some(match name {
        "dbsize" | "latency|reset" | "slowlog|len" => Merge::Sum,
        "flushall" | "flushdb" | "swapdb" | "config|set" | "config|resetstat" | "config|rewrite" | "slowlog|reset"
        | "script|flush" | "memory|purge" | "function|flush" | "function|restore" | "function|delete" | "save" => {
            Merge::AllOk
        }
        "script|load" | "function|load" | "bgsave" | "bgrewriteaof" => Merge::Same,
        "script|kill" | "function|kill" => Merge::AnyOk,
        "script|exists" => Merge::Least,
        "lastsave" => Merge::Greatest,
        "keys" => Merge::Joined,
        "pubsub|channels" | "pubsub|shardchannels" => Merge::Distinct,
        "randomkey" => Merge::AnyValue,
        "info" => Merge::Info,
        "fastcache|stats" | "memory|stats" | "latency|histogram" => Merge::Figures,
        "slowlog|get" => Merge::Newest(match args.get(2).map(parse_i64) {
            None => 10,
            Some(Some(-1)) => usize::MAX,
            Some(Some(count @ 0..)) => count as usize,
            _ => return None, // Not a number: any node says so.
        }),
        "latency|history" => Merge::Oldest,
        "latency|latest" => Merge::Events,
        _ => return None,
    })
}

/// Commands whose answer is about one node, but the same at all of them.
fn of_any_node(name: &str) -> bool {
    matches!(
        name,
        "pubsub|numsub"
            | "pubsub|shardnumsub"
            | "pubsub|numpat"
            | "config|get"
            | "function|list"
            | "function|dump"
            | "function|stats"
            | "script|show"
            | "slowlog|get"
            | "role"
    )
}

/// Each channel's listeners are known to the node on which it is published.
fn by_channel(args: &Args<'_>, map: &Map) -> Plan {
    let mut parts: Vec<Part> = Vec::new();
    for at in 2..args.len() {
        let Some(node) = map.owner_of(args.at(at)) else {
            return Plan::Refuse(no_owner(slot_of(args.at(at))));
        };
        let place = parts.iter().position(|part| part.node == node).unwrap_or_else(|| {
            parts.push(Part { node, arguments: vec![1], positions: Vec::new() });
            parts.len() - 1
        });
        parts[place].arguments.push(at);
        parts[place].positions.extend([(at - 2) * 2, (at - 2) * 2 + 1]); // A name and a number.
    }
    match parts.as_slice() {
        [only] => Plan::One(only.node),
        _ => Plan::Split(parts, Merge::InOrder),
    }
}

/// Where XREAD or XREADGROUP says that it waits; `first` is its first key.
pub fn place_of_block(args: &Args<'_>, first: usize) -> Option<usize> {
    let mut at = 1;
    while at < first {
        at += match () {
            () if args.is(at, "BLOCK") => return Some(at),
            () if args.is(at, "GROUP") => 3,
            () if args.is(at, "COUNT") => 2,
            () => 1,
        };
    }
    None
}

/// Each stream is read by a request of its own, so that the replies come in the order of the keys; where news are waited
/// for, all are read again when one has some.
fn by_stream(args: &Args<'_>, keys: &[usize], map: &Map) -> Plan {
    let first = keys[0];
    if place_of_block(args, first).is_some() {
        return Plan::Vigil(keys.to_vec());
    }
    let part = |(position, &at): (usize, &usize)| {
        let node = map.owner_of(args.at(at)).unwrap_or(0);
        let arguments = (1..first).chain([at, at + keys.len()]).collect();
        Part { node, arguments, positions: vec![position] }
    };
    Plan::Split(keys.iter().enumerate().map(part).collect(), Merge::Streams)
}

/// Give each node the keys it owns, `stride` arguments a key.
fn split(args: &Args<'_>, map: &Map, merge: Merge, stride: usize) -> Plan {
    split_from(1, args, map, merge, stride)
}

/// As [`split`], of a sub-command: its name goes to every node.
fn split_from(first: usize, args: &Args<'_>, map: &Map, merge: Merge, stride: usize) -> Plan {
    let mut parts: Vec<Part> = Vec::new();
    for (position, index) in (first..args.len()).step_by(stride).enumerate() {
        let Some(node) = map.owner_of(args.at(index)) else {
            return Plan::Refuse(no_owner(slot_of(args.at(index))));
        };
        let part = match parts.iter_mut().find(|part| part.node == node) {
            Some(part) => part,
            None => {
                parts.push(Part { node, arguments: (1..first).collect(), positions: Vec::new() });
                let last = parts.len() - 1;
                &mut parts[last]
            }
        };
        part.arguments.extend(index..(index + stride).min(args.len()));
        part.positions.push(position);
    }
    match parts.as_slice() {
        [only] => Plan::One(only.node),
        _ => Plan::Split(parts, merge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::OwnedArgs;
    use crate::route::Address;

    fn two_halves() -> Map {
        let node = |id: &str| Address { id: id.into(), host: "127.0.0.1".into(), port: 1, unix: None, down: false };
        Map::new(1, vec![node("a"), node("b")], |slot| u16::from(slot >= 8192))
    }

    fn planned(words: &[&str]) -> Plan {
        let args = OwnedArgs::from_parts(words.iter().map(|word| word.as_bytes()));
        let (row, _) = crate::command::dispatch::resolve_quietly(&args.as_args()).unwrap();
        plan(row, &args.as_args(), &two_halves())
    }

    #[test]
    fn a_key_goes_to_the_node_that_owns_its_slot() {
        assert!(matches!(planned(&["GET", "foo"]), Plan::One(1))); // Slot 12182.
        assert!(matches!(planned(&["SET", "bar", "1"]), Plan::One(0))); // Slot 5061.
        assert!(matches!(planned(&["PING"]), Plan::Here));
    }

    #[test]
    fn keys_of_several_nodes_are_split_once_per_node() {
        let Plan::Split(parts, Merge::InOrder) = planned(&["MGET", "foo", "bar", "{foo}2"]) else {
            panic!("not split");
        };
        assert_eq!(parts[0], Part { node: 1, arguments: vec![1, 3], positions: vec![0, 2] });
        assert_eq!(parts[1], Part { node: 0, arguments: vec![2], positions: vec![1] });
        assert!(matches!(planned(&["MGET", "foo", "{foo}2"]), Plan::One(1)));
        assert!(matches!(planned(&["MSET", "foo", "1", "bar"]), Plan::Refuse(_)));
    }

    #[test]
    fn streams_of_several_nodes_are_read_one_by_one_and_waited_for_together() {
        let words = ["XREAD", "COUNT", "2", "STREAMS", "foo", "bar", "0", "5"];
        let Plan::Split(parts, Merge::Streams) = planned(&words) else { panic!("not split") };
        assert_eq!(parts[0], Part { node: 1, arguments: vec![1, 2, 3, 4, 6], positions: vec![0] });
        assert_eq!(parts[1], Part { node: 0, arguments: vec![1, 2, 3, 5, 7], positions: vec![1] });
        let waiting = ["XREAD", "BLOCK", "0", "STREAMS", "foo", "bar", "0", "5"];
        assert!(matches!(planned(&waiting), Plan::Vigil(keys) if keys == [4, 5]));
        let group = ["XREADGROUP", "GROUP", "block", "c", "COUNT", "1", "STREAMS", "foo", "bar", ">", ">"];
        assert!(matches!(planned(&group), Plan::Split(..))); // A group may be called so.
        assert!(matches!(planned(&["XREAD", "BLOCK", "0", "STREAMS", "foo", "0"]), Plan::Alone(1)));
    }

    #[test]
    fn a_scan_goes_from_node_to_node_by_its_cursor() {
        assert!(matches!(planned(&["SCAN", "0"]), Plan::Scan(0, 0)));
        let second = ((1u64 << CURSOR_BITS) + 7).to_string();
        assert!(matches!(planned(&["SCAN", &second, "COUNT", "5"]), Plan::Scan(1, 7)));
        assert!(matches!(planned(&["SCAN", "x"]), Plan::Refuse(_)));
    }

    #[test]
    fn who_waits_or_watches_has_a_connection_of_their_own() {
        assert!(matches!(planned(&["WATCH", "foo", "bar"]), Plan::Watch(keys) if keys == [1, 2]));
        assert!(matches!(planned(&["BLPOP", "foo", "bar", "0"]), Plan::Vigil(keys) if keys == [1, 2]));
        assert!(matches!(planned(&["BLMPOP", "0", "2", "foo", "bar", "LEFT"]), Plan::Vigil(keys) if keys == [3, 4]));
        assert!(matches!(planned(&["BLPOP", "foo", "0"]), Plan::Alone(1)));
        assert!(matches!(planned(&["FASTCACHE", "COMPARE", "foo", "{foo}2"]), Plan::Alone(1)));
        let Plan::Split(parts, Merge::InOrder) = planned(&["FASTCACHE", "COMPARE", "foo", "bar", "{foo}2"]) else {
            panic!("not split");
        };
        assert_eq!(parts[0], Part { node: 1, arguments: vec![1, 2, 4], positions: vec![0, 2] });
        assert!(matches!(planned(&["SUBSCRIBE", "foo"]), Plan::Here));
        assert!(matches!(planned(&["SSUBSCRIBE", "foo"]), Plan::Here));
        assert!(matches!(planned(&["SPUBLISH", "foo", "m"]), Plan::One(1)));
    }

    #[test]
    fn sub_commands_are_not_taken_for_commands_of_their_name() {
        assert!(matches!(planned(&["CONFIG", "SET", "maxmemory", "1"]), Plan::Everywhere(Merge::AllOk)));
        assert!(matches!(planned(&["CONFIG", "GET", "*"]), Plan::One(0)));
        assert!(matches!(planned(&["SLOWLOG", "GET"]), Plan::Everywhere(Merge::Newest(10))));
        assert!(matches!(planned(&["MEMORY", "USAGE", "foo"]), Plan::One(1)));
        assert!(matches!(planned(&["OBJECT", "ENCODING", "bar"]), Plan::One(0)));
        assert!(matches!(planned(&["DEBUG", "OBJECT", "foo"]), Plan::One(1)));
        assert!(matches!(planned(&["CLIENT", "LIST"]), Plan::Here));
    }

    #[test]
    fn listeners_are_counted_by_the_nodes_of_their_channels() {
        let Plan::Split(parts, Merge::InOrder) = planned(&["PUBSUB", "NUMSUB", "foo", "bar", "{foo}2"]) else {
            panic!("not split");
        };
        assert_eq!(parts[0], Part { node: 1, arguments: vec![1, 2, 4], positions: vec![0, 1, 4, 5] });
        assert_eq!(parts[1], Part { node: 0, arguments: vec![1, 3], positions: vec![2, 3] });
        assert!(matches!(planned(&["PUBSUB", "SHARDNUMSUB", "foo"]), Plan::One(1)));
        assert!(matches!(planned(&["PUBSUB", "NUMSUB"]), Plan::One(0)));
        assert!(matches!(planned(&["PUBSUB", "NUMPAT"]), Plan::One(0)));
    }

    #[test]
    fn what_cannot_be_split_is_refused_in_the_words_of_redis() {
        let Plan::Refuse(fault) = planned(&["FCALL", "f", "2", "foo", "bar"]) else {
            panic!("not refused");
        };
        assert!(fault.0.starts_with(b"CROSSSLOT"));
    }

    #[test]
    fn what_needs_keys_of_several_nodes_at_one_place_has_them_gathered() {
        assert!(matches!(planned(&["RENAME", "foo", "bar"]), Plan::Gather(keys) if keys == [1, 2]));
        assert!(matches!(planned(&["EVAL", "return 1", "2", "foo", "bar"]), Plan::Gather(keys) if keys == [3, 4]));
        assert!(matches!(planned(&["SORT", "foo", "STORE", "bar"]), Plan::Gather(keys) if keys == [1, 3]));
        assert!(matches!(planned(&["RENAME", "foo", "{foo}x"]), Plan::One(1)));
    }
}
