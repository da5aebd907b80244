//! A transaction dealt out to the nodes that have its keys, and the replies laid together again.
//!
//! Each node runs its share as one transaction of its own: atomic there, not over nodes. This is the relaxed
//! mode; where all keys share a node there is one group, and nothing is relaxed.

use super::map::Map;
use super::merge::{Merge, Merging};
use super::plan::{Part, Plan, plan};
use crate::command::Fault;
use crate::command::client::Multi;
use crate::command::table::Command;
use crate::resp::scan::elements;
use crate::resp::{Args, OwnedArgs, Reply};
use crate::store::keyspace::DATABASES;

/// One node's share.
#[derive(Default)]
pub struct Group {
    /// The node.
    pub node: u16,
    /// What it runs between MULTI and EXEC.
    pub requests: Vec<OwnedArgs>,
    database: u8,
}

/// Where the replies of one queued command come from.
#[derive(Debug)]
enum Place {
    /// The proxy answers.
    Here(Vec<u8>),
    /// Groups and the places in their replies.
    There { merge: Merge, from: Vec<(usize, usize)>, positions: Vec<Vec<usize>>, only: bool },
}

/// How the groups' replies become the transaction's.
#[derive(Debug, Default)]
pub struct Layout(Vec<Place>);

/// A transaction, dealt out.
pub struct Dealt {
    /// The nodes' shares, in the order in which they came up.
    pub groups: Vec<Group>,
    /// How to put their replies together.
    pub layout: Layout,
    /// Queued commands that the proxy answers, by their place in the queue.
    pub here: Vec<usize>,
    /// The one group's reply is the whole reply as it stands.
    pub plain: bool,
}

/// Deal out what was queued by a client that has this database selected. `refused` has the replies of what it may not run,
/// by their place in the queue.
pub fn deal(multi: &Multi, map: &Map, database: u8, refused: &[Option<Vec<u8>>]) -> Result<Dealt, Fault> {
    let mut dealt = Dealt { groups: Vec::new(), layout: Layout::default(), here: Vec::new(), plain: true };
    let mut selected = database;
    for (at, (row, args)) in multi.queue.iter().enumerate() {
        let args = args.as_args();
        refuse_what_is_of_the_connection(row)?;
        if let Some(reply) = refused.get(at).and_then(Option::as_ref) {
            dealt.plain = false;
            dealt.layout.0.push(Place::Here(reply.clone()));
            continue;
        }
        let place = match plan(row, &args, map) {
            Plan::Refuse(fault) => return Err(fault),
            Plan::Here | Plan::Watch(_) => {
                if row.name == "select"
                    && let Ok(index) = args.integer(1)
                    && (0..DATABASES as i64).contains(&index)
                {
                    selected = index as u8;
                }
                dealt.plain = false;
                dealt.here.push(at);
                Place::Here(Vec::new())
            }
            Plan::One(node) | Plan::Alone(node) => {
                let from = vec![dealt.add(node, database, selected, args.to_owned())];
                Place::There { merge: Merge::Same, from, positions: Vec::new(), only: true }
            }
            Plan::Vigil(_) | Plan::Carry | Plan::Gather(_) => return Err(spread()),
            Plan::Scan(node, cursor) => {
                let nodes = map.nodes().len() as u16;
                let cursor = cursor.to_string();
                let words = [args.at(0), cursor.as_bytes()].into_iter().chain(args.from(2));
                let from = vec![dealt.add(node.min(nodes - 1), database, selected, OwnedArgs::from_parts(words))];
                dealt.plain = false;
                Place::There { merge: Merge::Scan(node, nodes), from, positions: Vec::new(), only: false }
            }
            Plan::Split(parts, merge) => {
                dealt.plain = false;
                let from = parts.iter().map(|part| dealt.add(part.node, database, selected, share(&args, part)));
                let from = from.collect();
                let positions = parts.into_iter().map(|part| part.positions).collect();
                Place::There { merge, from, positions, only: false }
            }
            Plan::Everywhere(merge) => {
                dealt.plain = false;
                let nodes = 0..map.nodes().len() as u16;
                let from = nodes.map(|node| dealt.add(node, database, selected, args.to_owned())).collect();
                Place::There { merge, from, positions: Vec::new(), only: false }
            }
        };
        dealt.layout.0.push(place);
    }
    for group in &mut dealt.groups {
        group.select(database); // The connection is others' too.
    }
    dealt.plain &= dealt.groups.len() == 1;
    Ok(dealt)
}

/// Whether something that was queued needs keys of several nodes at one place. Then all of it is run there.
pub fn gathers(multi: &Multi, map: &Map) -> bool {
    multi
        .queue
        .iter()
        .any(|(row, args)| matches!(plan(row, &args.as_args(), map), Plan::Gather(_) | Plan::Vigil(_) | Plan::Carry))
}

/// Whether all that was queued can be run where keys of several nodes were gathered.
pub fn can_be_gathered(multi: &Multi) -> bool {
    multi.queue.iter().all(|(row, args)| {
        let keyless = matches!(row.name, "ping" | "echo" | "time" | "publish" | "spublish");
        keyless || row.every_key(&args.as_args()).is_some_and(|keys| !keys.is_empty() && row.name != "watch")
    })
}

/// A part of a split request as a request.
pub fn share(args: &Args<'_>, part: &Part) -> OwnedArgs {
    OwnedArgs::from_parts(std::iter::once(0).chain(part.arguments.iter().copied()).map(|at| args.at(at)))
}

/// Keys are on several nodes where they may not be.
pub fn spread() -> Fault {
    Fault::new("CROSSSLOT Keys of the transaction lie on different nodes; give them a common {tag}")
}

/// The connections of a transaction are shared with others: their state is not this client's to change.
fn refuse_what_is_of_the_connection(row: &Command) -> Result<(), Fault> {
    if matches!(
        row.name,
        "subscribe" | "unsubscribe" | "psubscribe" | "punsubscribe" | "ssubscribe" | "sunsubscribe" | "hello" | "auth"
    ) {
        let name = row.name.to_uppercase();
        return Err(Fault::new(format!("ERR {name} inside MULTI is not possible through a proxy")));
    }
    Ok(())
}

impl Dealt {
    /// Give a node a request; returns where its reply will be.
    fn add(&mut self, node: u16, first: u8, database: u8, request: OwnedArgs) -> (usize, usize) {
        let group = match self.groups.iter().position(|group| group.node == node) {
            Some(group) => group,
            None => {
                self.groups.push(Group { node, requests: Vec::new(), database: first });
                self.groups.len() - 1
            }
        };
        self.groups[group].select(database);
        self.groups[group].requests.push(request);
        (group, self.groups[group].requests.len() - 1)
    }
}

impl Group {
    /// What a node is to run in this database, which its connection has selected.
    pub fn new(node: u16, database: u8) -> Group {
        Group { node, requests: Vec::new(), database }
    }

    fn select(&mut self, database: u8) {
        if self.database != database {
            self.database = database;
            let index = database.to_string();
            self.requests.push(OwnedArgs::from_parts([&b"SELECT"[..], index.as_bytes()]));
        }
    }
}

impl Layout {
    /// Fill in what the proxy answers to the queued command `at`.
    pub fn fill(&mut self, at: usize, reply: &[u8]) {
        if let Some(Place::Here(held)) = self.0.get_mut(at) {
            *held = reply.to_vec();
        }
    }

    /// The transaction's reply from those of the groups. A group that could not run has its error in the place of each
    /// of its replies; when none could, the whole is that error.
    pub fn assemble(&self, groups: &[Vec<u8>], out: &mut Reply) {
        let failed = |reply: &Vec<u8>| reply.first() == Some(&b'-');
        if !groups.is_empty() && groups.iter().all(failed) {
            return out.raw(&groups[0]);
        }
        let replies: Vec<Vec<&[u8]>> = groups.iter().map(|group| elements(group).unwrap_or_default()).collect();
        out.array(self.0.len());
        for place in &self.0 {
            match place {
                Place::Here(reply) => out.raw(reply),
                Place::There { merge, from, positions, only } => {
                    let each = |&(group, at): &(usize, usize)| match replies.get(group).and_then(|all| all.get(at)) {
                        Some(reply) => *reply,
                        None if failed(&groups[group]) => &groups[group][..],
                        None => BROKEN,
                    };
                    if *only {
                        out.raw(each(&from[0]));
                        continue;
                    }
                    let mut merging = Merging::new(*merge, from.len(), positions.clone());
                    for (part, source) in from.iter().enumerate() {
                        merging.take(part, each(source));
                    }
                    merging.finish(out);
                }
            }
        }
    }
}

/// The share of a node whose watched keys changed after others had run theirs.
pub(super) const BROKEN: &[u8] = b"-EXECABORT a watched key changed on this node after others had run their part\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::dispatch::resolve_quietly;
    use crate::route::Address;

    fn queue(lines: &[&str]) -> Multi {
        let mut multi = Multi::default();
        for line in lines {
            let args = OwnedArgs::from_parts(line.split(' ').map(str::as_bytes));
            let (row, _) = resolve_quietly(&args.as_args()).unwrap();
            multi.queue.push((row, args));
        }
        multi
    }

    fn dealt(lines: &[&str]) -> Result<Dealt, Fault> {
        let node = |id: &str| Address { id: id.into(), host: "127.0.0.1".into(), port: 1, ..Address::default() };
        // foo is the second node's, bar the first's.
        deal(&queue(lines), &Map::new(1, vec![node("a"), node("b")], |slot| u16::from(slot >= 8192)), 0, &[])
    }

    fn told(group: &Group) -> Vec<String> {
        let line = |request: &OwnedArgs| {
            request
                .as_args()
                .from(0)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        group.requests.iter().map(line).collect()
    }

    #[test]
    fn what_shares_a_node_runs_there_as_it_stands() {
        let one = dealt(&["SET foo 1", "GET {foo}x"]).unwrap();
        assert!(one.plain);
        assert_eq!(told(&one.groups[0]), ["SET foo 1", "GET {foo}x"]);
    }

    #[test]
    fn a_transaction_over_nodes_is_dealt_out_and_its_replies_stand_in_their_order() {
        let two = dealt(&["MSET foo 1 bar 2", "GET foo", "PING", "MGET bar foo"]).unwrap();
        assert!(!two.plain);
        assert_eq!(two.here, [2]);
        assert_eq!(told(&two.groups[0]), ["MSET foo 1", "GET foo", "MGET foo"]);
        assert_eq!(told(&two.groups[1]), ["MSET bar 2", "MGET bar"]);
        let mut layout = two.layout;
        layout.fill(2, b"+PONG\r\n");
        let mut out = Reply::new(false);
        let groups =
            [b"*3\r\n+OK\r\n$1\r\n1\r\n*1\r\n$1\r\n1\r\n".to_vec(), b"*2\r\n+OK\r\n*1\r\n$1\r\n2\r\n".to_vec()];
        layout.assemble(&groups, &mut out);
        assert_eq!(out.bytes(), b"*4\r\n+OK\r\n$1\r\n1\r\n+PONG\r\n*2\r\n$1\r\n2\r\n$1\r\n1\r\n");

        let mut out = Reply::new(false);
        layout.assemble(&[groups[0].clone(), b"-CLUSTERDOWN gone\r\n".to_vec()], &mut out);
        assert_eq!(out.bytes(), b"*4\r\n-CLUSTERDOWN gone\r\n$1\r\n1\r\n+PONG\r\n-CLUSTERDOWN gone\r\n");
        let mut out = Reply::new(false);
        layout.assemble(&[b"-OOM no\r\n".to_vec(), b"-OOM no\r\n".to_vec()], &mut out);
        assert_eq!(out.bytes(), b"-OOM no\r\n");
    }

    #[test]
    fn a_selected_database_holds_for_what_follows_and_is_put_back() {
        let moved = dealt(&["SET foo 1", "SELECT 3", "SET foo 2", "SET bar 2"]).unwrap();
        assert_eq!(told(&moved.groups[0]), ["SET foo 1", "SELECT 3", "SET foo 2", "SELECT 0"]);
        assert_eq!(told(&moved.groups[1]), ["SELECT 3", "SET bar 2", "SELECT 0"]);
        assert!(dealt(&["SELECT 99", "SET foo 1"]).is_ok());
    }

    #[test]
    fn what_cannot_be_done_over_nodes_is_refused_before_anything_runs() {
        assert!(dealt(&["SET foo 1", "RENAME foo bar"]).is_err());
        assert!(dealt(&["SUBSCRIBE foo"]).is_err());
    }
}
