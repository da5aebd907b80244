//! The replies of a split request's parts, made one again. What the nodes tell about themselves is added up in `fleet`.

use super::fleet;
use super::plan::CURSOR_BITS;
use super::transaction::Layout;
use crate::resp::Reply;
use crate::resp::scan::{elements, integer, string, values};

/// How the parts' replies become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Arrays whose elements go where their keys stood.
    InOrder,
    /// Numbers, added up.
    Sum,
    /// `OK` when all say so.
    AllOk,
    /// What streams have: in RESP3 maps, else arrays of pairs, one after another; nothing where none has any.
    Streams,
    /// Arrays, one after another.
    Joined,
    /// Any part that has a value.
    AnyValue,
    /// What the first part says: the others say the same.
    Same,
    /// `OK` when any says so.
    AnyOk,
    /// Arrays of numbers: of each place the least, for what must hold everywhere.
    Least,
    /// Numbers: the greatest.
    Greatest,
    /// Arrays, each element once.
    Distinct,
    /// Maps of figures, added up.
    Figures,
    /// Texts of INFO, added up where that means something; the proxy's own is given.
    Info,
    /// Arrays of entries whose second field is a time: so many of the newest.
    Newest(usize),
    /// Arrays of entries whose first field is a time, in its order.
    Oldest,
    /// Texts of CLIENT LIST: in the order of their numbers, or in the one that was asked for.
    Lines,
    /// What LATENCY LATEST says: of each event the worst.
    Events,
    /// The parts of a transaction, by its layout.
    Transaction,
    /// One node's step of a scan: the node, and how many there are. The cursor gets the node's number.
    Scan(u16, u16),
    /// What the parts say does not matter: the reply was there before, and only had to wait for them.
    Given,
    /// The reply was there before, and holds if every part, a transaction, could be done.
    Settled,
}

/// A split request whose parts have not all been answered.
#[derive(Debug)]
pub struct Merging {
    how: Merge,
    replies: Vec<Option<Vec<u8>>>,
    positions: Vec<Vec<usize>>,
    missing: usize,
    given: Vec<u8>,
    layout: Option<Layout>,
    /// Parts from this one on may fail: what they would have had is left out.
    needed: usize,
}

impl Merging {
    /// A request of so many parts; `positions` says where each part's results go ([`Merge::InOrder`] alone).
    pub fn new(how: Merge, parts: usize, positions: Vec<Vec<usize>>) -> Merging {
        Merging {
            how,
            replies: vec![None; parts],
            positions,
            missing: parts,
            given: Vec::new(),
            layout: None,
            needed: parts,
        }
    }

    /// A reply that is ready, but is not to be sent before so many parts have been answered.
    pub fn given(parts: usize, reply: &[u8]) -> Merging {
        Merging { given: reply.to_vec(), ..Merging::new(Merge::Given, parts, Vec::new()) }
    }

    /// A request whose whole reply needs this one of the proxy as well.
    pub fn beside(how: Merge, parts: usize, reply: &[u8]) -> Merging {
        Merging { given: reply.to_vec(), ..Merging::new(how, parts, Vec::new()) }
    }

    /// A transaction in so many groups.
    pub fn transaction(layout: Layout, groups: usize) -> Merging {
        Merging { layout: Some(layout), ..Merging::new(Merge::Transaction, groups, Vec::new()) }
    }

    /// The same, where only the first so many parts must not fail.
    pub fn needing(self, needed: usize) -> Merging {
        Merging { needed, ..self }
    }

    /// How many parts have not been answered.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Take a part's reply; `true` when it was the last.
    pub fn take(&mut self, part: usize, reply: &[u8]) -> bool {
        if let Some(place @ None) = self.replies.get_mut(part) {
            *place = Some(reply.to_vec());
            self.missing -= 1;
        }
        self.missing == 0
    }

    /// The whole reply. An error of any part is the error of the whole: half a result is none.
    pub fn finish(self, out: &mut Reply) {
        if self.how == Merge::Given {
            return out.raw(&self.given);
        }
        let answered = self.replies.into_iter().enumerate();
        let counts = |(part, reply): (usize, Option<Vec<u8>>)| {
            reply.filter(|reply| part < self.needed || reply.first() != Some(&b'-'))
        };
        let replies: Vec<Vec<u8>> = answered.filter_map(counts).collect();
        if let Some(layout) = self.layout {
            return layout.assemble(&replies, out);
        }
        if self.how == Merge::AnyOk && replies.iter().any(|reply| reply.first() == Some(&b'+')) {
            return out.ok();
        }
        if let Some(error) = replies.iter().find(|reply| reply.first() == Some(&b'-')) {
            return out.raw(error);
        }
        match self.how {
            Merge::Given | Merge::Transaction => {}
            Merge::Settled => settled(&replies, &self.given, out),
            Merge::Same | Merge::AnyOk => out.raw(replies.first().map_or(&b"*0\r\n"[..], Vec::as_slice)),
            Merge::Least => fleet::least(&replies, out),
            Merge::Greatest => out.integer(replies.iter().filter_map(|reply| integer(reply)).max().unwrap_or(0)),
            Merge::Distinct => fleet::distinct(&replies, out),
            Merge::Figures => fleet::figures(&replies, out),
            Merge::Info => fleet::info(&replies, &self.given, out),
            Merge::Newest(count) => fleet::newest(&replies, count, out),
            Merge::Oldest => fleet::oldest(&replies, out),
            Merge::Events => fleet::events(&replies, out),
            Merge::Lines => fleet::lines(&replies, self.positions.first().map_or(&[], Vec::as_slice), out),
            Merge::AllOk => out.ok(),
            Merge::Scan(node, nodes) => scan_step(&replies[0], node, nodes, out),
            Merge::Sum => out.integer(replies.iter().filter_map(|reply| integer(reply)).sum()),
            Merge::Streams => streams(&replies, out),
            Merge::Joined => {
                let all: Vec<&[u8]> = replies.iter().filter_map(|reply| elements(reply)).flatten().collect();
                out.array(all.len());
                all.iter().for_each(|element| out.raw(element));
            }
            Merge::AnyValue => match replies.iter().find(|reply| !matches!(&reply[..], b"$-1\r\n" | b"_\r\n")) {
                Some(reply) => out.raw(reply),
                None => out.null(),
            },
            Merge::InOrder => {
                let count = self.positions.iter().map(Vec::len).sum();
                let mut ordered: Vec<&[u8]> = vec![b"$-1\r\n"; count];
                for (reply, positions) in replies.iter().zip(&self.positions) {
                    for (element, &position) in elements(reply).unwrap_or_default().into_iter().zip(positions) {
                        if let Some(place) = ordered.get_mut(position) {
                            *place = element;
                        }
                    }
                }
                out.array(count);
                ordered.iter().for_each(|element| out.raw(element));
            }
        }
    }
}

/// Streams with what is new in each.
fn streams(replies: &[Vec<u8>], out: &mut Reply) {
    let in_maps = replies.iter().any(|reply| reply.first() == Some(&b'%'));
    let found: Vec<&[u8]> = replies.iter().filter_map(|reply| values(reply)).flatten().collect();
    match found.len() {
        0 => out.null_array(),
        len if in_maps => out.map(len / 2),
        len => out.array(len),
    }
    found.iter().for_each(|part| out.raw(part));
}

/// The reply that was there before, unless a transaction was not run, or something in it failed.
fn settled(transactions: &[Vec<u8>], given: &[u8], out: &mut Reply) {
    for reply in transactions {
        let Some(done) = elements(reply) else { return out.raw(super::transaction::BROKEN) };
        if let Some(error) = done.into_iter().find(|each| each.first() == Some(&b'-')) {
            return out.raw(error);
        }
    }
    out.raw(given);
}

/// A node's step of a scan, with a cursor that says where the whole scan goes on.
fn scan_step(reply: &[u8], node: u16, nodes: u16, out: &mut Reply) {
    let parts = elements(reply).unwrap_or_default();
    let cursor =
        parts.first().and_then(|text| string(text)).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let (Some(cursor), Some(found)) = (cursor, parts.get(1)) else {
        return out.error(b"ERR a node answered SCAN with something else");
    };
    let next = match cursor {
        0 if node + 1 < nodes => u64::from(node + 1) << CURSOR_BITS,
        0 => 0,
        inner => (u64::from(node) << CURSOR_BITS) | inner,
    };
    out.array(2);
    out.bulk(next.to_string().as_bytes());
    out.raw(found);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(how: Merge, positions: Vec<Vec<usize>>, replies: &[&str]) -> String {
        let mut merging = Merging::new(how, replies.len(), positions);
        for (part, reply) in replies.iter().enumerate().rev() {
            assert_eq!(merging.take(part, reply.as_bytes()), part == 0);
        }
        let mut out = Reply::new(false);
        merging.finish(&mut out);
        String::from_utf8(out.take()).unwrap()
    }

    #[test]
    fn results_stand_where_their_keys_stood() {
        let reply =
            merged(Merge::InOrder, vec![vec![0, 2], vec![1]], &["*2\r\n$1\r\na\r\n$1\r\nc\r\n", "*1\r\n$1\r\nb\r\n"]);
        assert_eq!(reply, "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
    }

    #[test]
    fn a_scan_that_has_ended_on_a_node_goes_on_at_the_next() {
        let reply = |cursor: u64| format!("*2\r\n${}\r\n{cursor}\r\n*1\r\n$1\r\na\r\n", cursor.to_string().len());
        let step = |node, cursor: u64| merged(Merge::Scan(node, 2), vec![], &[&reply(cursor)]);
        assert_eq!(step(0, 5), reply(5));
        assert_eq!(step(0, 0), reply(1 << CURSOR_BITS));
        assert_eq!(step(1, 5), reply((1 << CURSOR_BITS) + 5));
        assert_eq!(step(1, 0), reply(0));
    }

    #[test]
    fn streams_with_news_stand_in_their_order_and_those_without_are_left_out() {
        let pair = |key: &str| format!("*1\r\n*2\r\n$1\r\n{key}\r\n*0\r\n");
        let read = merged(Merge::Streams, vec![], &[&pair("b"), "*-1\r\n", &pair("a")]);
        assert_eq!(read, "*2\r\n*2\r\n$1\r\nb\r\n*0\r\n*2\r\n$1\r\na\r\n*0\r\n");
        let mut merging = Merging::new(Merge::Streams, 3, vec![]);
        for (part, reply) in ["%1\r\n$1\r\nb\r\n*0\r\n", "_\r\n", "%1\r\n$1\r\na\r\n*0\r\n"].into_iter().enumerate() {
            merging.take(part, reply.as_bytes());
        }
        let mut out = Reply::new(true);
        merging.finish(&mut out);
        assert_eq!(out.take(), b"%2\r\n$1\r\nb\r\n*0\r\n$1\r\na\r\n*0\r\n");
        assert_eq!(merged(Merge::Streams, vec![], &["*-1\r\n", "*-1\r\n"]), "*-1\r\n");
    }

    #[test]
    fn parts_that_may_fail_are_left_out_when_they_do() {
        let mut merging = Merging::new(Merge::Sum, 3, vec![]).needing(1);
        let parts = [&b":1\r\n"[..], b"-CLUSTERDOWN gone\r\n", b":2\r\n"];
        for (part, reply) in parts.iter().enumerate() {
            merging.take(part, reply);
        }
        let mut out = Reply::new(false);
        merging.finish(&mut out);
        assert_eq!(out.take(), b":3\r\n");
    }

    #[test]
    fn numbers_add_up_and_an_error_wins() {
        assert_eq!(merged(Merge::Sum, vec![], &[":2\r\n", ":3\r\n"]), ":5\r\n");
        assert_eq!(merged(Merge::AllOk, vec![], &["+OK\r\n", "-OOM no\r\n"]), "-OOM no\r\n");
        assert_eq!(merged(Merge::Joined, vec![], &["*1\r\n+a\r\n", "*0\r\n", "*1\r\n+b\r\n"]), "*2\r\n+a\r\n+b\r\n");
    }
}
