//! What all nodes tell about themselves, as one: figures added up, logs in the order of time.

use crate::resp::Reply;
use crate::resp::number::parse_i64;
use crate::resp::scan::{elements, integer, string, values};
use std::collections::{BTreeMap, HashSet};

type Replies = [Vec<u8>];

/// Arrays of numbers: of each place the least.
pub(super) fn least(replies: &Replies, out: &mut Reply) {
    let all: Vec<Vec<&[u8]>> = replies.iter().map(|reply| elements(reply).unwrap_or_default()).collect();
    let places = all.iter().map(Vec::len).min().unwrap_or(0);
    out.array(places);
    for place in 0..places {
        out.integer(all.iter().filter_map(|each| integer(each[place])).min().unwrap_or(0));
    }
}

/// Arrays, each element once.
pub(super) fn distinct(replies: &Replies, out: &mut Reply) {
    let mut seen = HashSet::new();
    let all = replies.iter().filter_map(|reply| elements(reply)).flatten();
    let once: Vec<&[u8]> = all.filter(|element| seen.insert(*element)).collect();
    out.array(once.len());
    once.iter().for_each(|element| out.raw(element));
}

/// Arrays of entries whose second field is a time: so many of the newest.
pub(super) fn newest(replies: &Replies, count: usize, out: &mut Reply) {
    let mut all: Vec<&[u8]> = replies.iter().filter_map(|reply| elements(reply)).flatten().collect();
    all.sort_by_key(|entry| std::cmp::Reverse(field(entry, 1)));
    all.truncate(count);
    out.array(all.len());
    all.iter().for_each(|entry| out.raw(entry));
}

/// Arrays of entries whose first field is a time, in its order.
pub(super) fn oldest(replies: &Replies, out: &mut Reply) {
    let mut all: Vec<&[u8]> = replies.iter().filter_map(|reply| elements(reply)).flatten().collect();
    all.sort_by_key(|entry| field(entry, 0));
    out.array(all.len());
    all.iter().for_each(|entry| out.raw(entry));
}

/// Entries `event, time, last, worst`: of each event the newest time with its value, and the worst of all.
pub(super) fn events(replies: &Replies, out: &mut Reply) {
    let mut by_event: BTreeMap<&[u8], (i64, i64, i64)> = BTreeMap::new();
    for entry in replies.iter().filter_map(|reply| elements(reply)).flatten() {
        let Some(name) = elements(entry).and_then(|fields| fields.first().copied().and_then(string)) else { continue };
        let (time, last, worst) = (field(entry, 1), field(entry, 2), field(entry, 3));
        let known = by_event.entry(name).or_insert((time, last, worst));
        if time > known.0 {
            (known.0, known.1) = (time, last);
        }
        known.2 = known.2.max(worst);
    }
    out.array(by_event.len());
    for (name, (time, last, worst)) in by_event {
        out.array(4);
        out.bulk(name);
        [time, last, worst].into_iter().for_each(|number| out.integer(number));
    }
}

fn field(entry: &[u8], at: usize) -> i64 {
    elements(entry).and_then(|fields| fields.get(at).copied().and_then(integer)).unwrap_or(0)
}

/// Maps of figures (in RESP2 arrays of names and values), added up; maps within them too.
pub(super) fn figures(replies: &Replies, out: &mut Reply) {
    let slices: Vec<&[u8]> = replies.iter().map(Vec::as_slice).collect();
    add_up(&slices, out, 0);
}

/// Deeper maps are told as the first node tells them: nothing that nodes say is deeper.
const DEEPEST: usize = 4;

fn add_up(replies: &[&[u8]], out: &mut Reply, depth: usize) {
    let Some(first) = replies.first() else { return out.array(0) };
    let numbers: Option<Vec<i64>> = replies.iter().map(|reply| integer(reply)).collect();
    if let Some(numbers) = numbers {
        return out.integer(numbers.iter().fold(0, |sum: i64, number| sum.saturating_add(*number)));
    }
    if depth >= DEEPEST || !is_map(first) {
        return out.raw(first);
    }
    let mut order: Vec<&[u8]> = Vec::new();
    let mut by_name: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
    for reply in replies.iter().filter(|reply| is_map(reply)) {
        for pair in values(reply).unwrap_or_default().chunks_exact(2) {
            by_name.entry(pair[0]).or_insert_with(|| {
                order.push(pair[0]);
                Vec::new()
            });
            by_name.entry(pair[0]).or_default().push(pair[1]);
        }
    }
    if first.first() == Some(&b'%') {
        out.map(order.len())
    } else {
        out.array(order.len() * 2)
    }
    for name in order {
        out.raw(name);
        add_up(&by_name[name], out, depth + 1);
    }
}

fn is_map(reply: &[u8]) -> bool {
    let names = |parts: Vec<&[u8]>| parts.chunks(2).all(|pair| pair.len() == 2 && matches!(pair[0][0], b'$' | b'+'));
    match reply.first() {
        Some(b'%') => true,
        Some(b'*') => values(reply).is_some_and(names),
        _ => false,
    }
}

/// Texts of INFO as one. Figures are added up; what is about the server a client talks to is the proxy's own.
pub(super) fn info(replies: &Replies, own: &[u8], out: &mut Reply) {
    let texts: Vec<String> = replies.iter().filter_map(|reply| text(reply)).collect();
    let own = text(own).unwrap_or_default();
    let own: BTreeMap<&str, &str> = own.lines().filter_map(|line| line.split_once(':')).collect();
    let mut whole = String::new();
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for (title, lines) in sections(&texts) {
        if !whole.is_empty() {
            whole.push_str("\r\n");
        }
        whole.push_str(&format!("# {title}\r\n"));
        for (name, told) in lines {
            let ours = matches!(title, "Server" | "Clients") || OF_THE_PROXY.contains(&name);
            let value = match own.get(name).filter(|_| ours) {
                Some(value) => (*value).to_owned(),
                None => together(name, &told, &mut sums),
            };
            whole.push_str(&format!("{name}:{value}\r\n"));
        }
    }
    out.verbatim(whole.as_bytes());
}

/// Figures of other sections that are about the server a client talks to.
const OF_THE_PROXY: [&str; 5] = [
    "total_connections_received",
    "rejected_connections",
    "pubsub_channels",
    "pubsub_patterns",
    "cluster_enabled", // Who is told so would look for the slots of nodes.
];
/// Figures that mean nothing when added up: the greatest is told.
const GREATEST: [&str; 13] = [
    "loading",
    "async_loading",
    "lru_clock",
    "uptime",
    "lazyfree_pending",
    "rdb_last_save_time",
    "master_repl_offset",
    "second_repl_offset",
    "repl_backlog_first",
    "expired_stale_perc",
    "total_system_memory",
    "maxmemory_policy",
    "number_of_cached",
];
const MEANS: [&str; 4] = ["ratio", "perc", "avg", "usec_per_call"];

fn text(reply: &[u8]) -> Option<String> {
    let bytes = match reply.first()? {
        b'=' => {
            let end = memchr::memchr(b'\r', reply)?;
            let len = usize::try_from(parse_i64(&reply[1..end])?).ok()?;
            reply.get(end + 6..end + 2 + len)?
        }
        _ => string(reply)?,
    };
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// Texts whose lines begin with `id=NUMBER`: one after another, in this order of numbers, or in that of the numbers.
pub(super) fn lines(replies: &Replies, order: &[usize], out: &mut Reply) {
    let texts: Vec<String> = replies.iter().filter_map(|reply| text(reply)).collect();
    let mut all: Vec<(usize, &str)> = texts
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| {
            let id = line.strip_prefix("id=").and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0);
            (order.iter().position(|wanted| *wanted == id).unwrap_or(id), line)
        })
        .collect();
    all.sort_by_key(|(place, _)| *place);
    let whole: String = all.into_iter().flat_map(|(_, line)| [line, "\n"]).collect();
    out.verbatim(whole.as_bytes());
}

/// One section: its title, and of each field what the nodes tell.
type Section<'t> = (&'t str, Vec<(&'t str, Vec<&'t str>)>);

fn sections(texts: &[String]) -> Vec<Section<'_>> {
    let mut found: Vec<Section<'_>> = Vec::new();
    for text in texts {
        let mut at = 0;
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("# ") {
                at = found.iter().position(|(known, _)| *known == title).unwrap_or_else(|| {
                    found.push((title, Vec::new()));
                    found.len() - 1
                });
            } else if let Some((name, value)) = line.split_once(':')
                && let Some((_, fields)) = found.get_mut(at)
            {
                match fields.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, told)) => told.push(value),
                    None => fields.push((name, vec![value])),
                }
            }
        }
    }
    found
}

/// What the nodes tell of one field, as one value. `sums` are those of the fields before it.
fn together(name: &str, told: &[&str], sums: &mut BTreeMap<String, f64>) -> String {
    if let Some(of) = name.strip_suffix("_human").and_then(|name| sums.get(name)) {
        return human(*of);
    }
    if told[0].contains('=') {
        return composite(told);
    }
    let numbers: Option<Vec<f64>> = told.iter().map(|value| value.parse().ok()).collect();
    let Some(numbers) = numbers else { return told[0].to_owned() };
    let decimals = told[0].split_once('.').map_or(0, |(_, digits)| digits.len());
    let value = one_of_many(name, &numbers);
    sums.insert(name.to_owned(), value);
    format!("{value:.decimals$}")
}

fn one_of_many(name: &str, numbers: &[f64]) -> f64 {
    let sum: f64 = numbers.iter().sum();
    if MEANS.iter().any(|part| name.contains(part)) {
        return sum / numbers.len().max(1) as f64;
    }
    if GREATEST.iter().any(|part| name.starts_with(part)) || name.contains("_time_") || name.ends_with("_status") {
        return numbers.iter().copied().fold(0.0, f64::max);
    }
    sum
}

/// `keys=3,expires=1,avg_ttl=500` of several nodes.
fn composite(told: &[&str]) -> String {
    let mut fields: Vec<(&str, Vec<&str>)> = Vec::new();
    for pair in told.iter().flat_map(|value| value.split(',')) {
        let Some((name, value)) = pair.split_once('=') else { continue };
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => fields.push((name, vec![value])),
        }
    }
    let sum = |wanted: &str| -> f64 {
        let of = fields.iter().find(|(name, _)| *name == wanted);
        of.map_or(0.0, |(_, values)| values.iter().filter_map(|value| value.parse::<f64>().ok()).sum())
    };
    let each = fields.iter().map(|(name, values)| {
        let decimals = values[0].split_once('.').map_or(0, |(_, digits)| digits.len());
        let numbers: Vec<f64> = values.iter().filter_map(|value| value.parse().ok()).collect();
        let value = match *name {
            "usec_per_call" if sum("calls") > 0.0 => sum("usec") / sum("calls"),
            // Percentiles of several nodes cannot be had from theirs; the worst is an upper bound.
            name if name.starts_with('p') => numbers.iter().copied().fold(0.0, f64::max),
            name => one_of_many(name, &numbers),
        };
        format!("{name}={value:.decimals$}")
    });
    each.collect::<Vec<_>>().join(",")
}

fn human(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "K", "M", "G", "T"] {
        if value < 1024.0 || unit == "T" {
            return if unit == "B" { format!("{value:.0}B") } else { format!("{value:.2}{unit}") };
        }
        value /= 1024.0;
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Vec<u8> {
        format!("${}\r\n{text}\r\n", text.len()).into_bytes()
    }

    #[test]
    fn info_adds_up_what_can_be_added_and_tells_the_proxy_s_own_where_it_is_asked_about_itself() {
        let one = "# Server\r\nredis_version:7.0.15\r\ntcp_port:7001\r\n\r\n# Memory\r\nused_memory:1048576\r\n\
                   used_memory_human:1.00M\r\nmem_fragmentation_ratio:1.50\r\nmaxmemory_policy:noeviction\r\n\r\n# Persistence\r\nloading:1\r\n\r\n\
                   # Commandstats\r\ncmdstat_get:calls=1,usec=10,usec_per_call=10.00\r\n\r\n# Keyspace\r\n\
                   db0:keys=1,expires=1,avg_ttl=100\r\n";
        let other =
            one.replace("loading:1", "loading:0").replace("calls=1,usec=10", "calls=3,usec=6").replace("7001", "7002")
                + "db5:keys=2,expires=0,avg_ttl=0\r\n";
        let mut out = Reply::new(false);
        info(&[bulk(one), bulk(&other)], &bulk("# Server\r\ntcp_port:6382\r\n"), &mut out);
        let told = String::from_utf8(out.take()).unwrap();
        for line in [
            "redis_version:7.0.15",
            "tcp_port:6382",
            "used_memory:2097152",
            "used_memory_human:2.00M",
            "mem_fragmentation_ratio:1.50",
            "maxmemory_policy:noeviction",
            "loading:1",
            "cmdstat_get:calls=4,usec=16,usec_per_call=4.00",
            "db0:keys=2,expires=2,avg_ttl=100",
            "db5:keys=2,expires=0,avg_ttl=0",
        ] {
            assert!(told.contains(&format!("{line}\r\n")), "{line} is missing in {told}");
        }
    }

    #[test]
    fn maps_of_figures_add_up_in_both_protocols() {
        let mut out = Reply::new(false);
        figures(
            &[b"*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n$1\r\nx\r\n".to_vec(), b"*2\r\n$1\r\na\r\n:2\r\n".to_vec()],
            &mut out,
        );
        assert_eq!(out.bytes(), b"*4\r\n$1\r\na\r\n:3\r\n$1\r\nb\r\n$1\r\nx\r\n");
        let mut out = Reply::new(true);
        figures(&[b"%1\r\n+g\r\n%1\r\n:1\r\n:2\r\n".to_vec(), b"%1\r\n+g\r\n%1\r\n:1\r\n:3\r\n".to_vec()], &mut out);
        assert_eq!(out.bytes(), b"%1\r\n+g\r\n%1\r\n:1\r\n:5\r\n");
    }

    #[test]
    fn logs_are_in_the_order_of_time() {
        let entry = |id: u32, time: u32| format!("*3\r\n:{id}\r\n:{time}\r\n:9\r\n");
        let mut out = Reply::new(false);
        let one = format!("*2\r\n{}{}", entry(1, 30), entry(0, 10)).into_bytes();
        let other = format!("*1\r\n{}", entry(0, 20)).into_bytes();
        newest(&[one, other], 2, &mut out);
        assert_eq!(String::from_utf8_lossy(out.bytes()), format!("*2\r\n{}{}", entry(1, 30), entry(0, 20)));
    }
}
