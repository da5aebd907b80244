//! The replies of a split request's parts, made one again.

use crate::resp::Reply;
use crate::resp::scan::{elements, integer};

/// How the parts' replies become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Arrays whose elements go where their keys stood.
    InOrder,
    /// Numbers, added up.
    Sum,
    /// `OK` when all say so.
    AllOk,
    /// Arrays, one after another.
    Joined,
    /// Any part that has a value.
    AnyValue,
}

/// A split request whose parts have not all been answered.
#[derive(Debug)]
pub struct Merging {
    how: Merge,
    replies: Vec<Option<Vec<u8>>>,
    positions: Vec<Vec<usize>>,
    missing: usize,
}

impl Merging {
    /// A request of so many parts; `positions` says where each part's results go ([`Merge::InOrder`] alone).
    pub fn new(how: Merge, parts: usize, positions: Vec<Vec<usize>>) -> Merging {
        Merging { how, replies: vec![None; parts], positions, missing: parts }
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
        let replies: Vec<Vec<u8>> = self.replies.into_iter().flatten().collect();
        if let Some(error) = replies.iter().find(|reply| reply.first() == Some(&b'-')) {
            return out.raw(error);
        }
        match self.how {
            Merge::AllOk => out.ok(),
            Merge::Sum => out.integer(replies.iter().filter_map(|reply| integer(reply)).sum()),
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
    fn numbers_add_up_and_an_error_wins() {
        assert_eq!(merged(Merge::Sum, vec![], &[":2\r\n", ":3\r\n"]), ":5\r\n");
        assert_eq!(merged(Merge::AllOk, vec![], &["+OK\r\n", "-OOM no\r\n"]), "-OOM no\r\n");
        assert_eq!(merged(Merge::Joined, vec![], &["*1\r\n+a\r\n", "*0\r\n", "*1\r\n+b\r\n"]), "*2\r\n+a\r\n+b\r\n");
    }
}
