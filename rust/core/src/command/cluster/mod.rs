//! CLUSTER and its relatives: stock cluster clients find keys without a proxy.
//!
//! A node that has a topology (`membership`) answers for its own slots and sends clients on to the others
//! (`redirect`); what the cluster looks like is told by `shape`, and `topology` is how a node gets a topology.
//! What changes a Redis cluster by hand is refused: here the health service gives slots to nodes.

pub mod membership;
pub mod redirect;
mod shape;
pub mod topology;

pub use membership::Membership;

use super::fault::{Done, Fault};
use super::table::{Command, Handler, flag};
use super::{Ctx, server};
use crate::resp::Args;
use crate::resp::number::parse_i64;
use crate::slot::{SLOT_COUNT, slot_of};

const OPERATOR: u32 = flag::ADMIN | flag::STALE | flag::NO_ASYNC_LOADING;

const fn row(name: &'static str, run: Handler, arity: i32, flags: u32, summary: &'static str) -> Command {
    Command { group: "cluster", since: "3.0.0", summary, ..Command::new(name, run, arity, flags) }
}

/// What an operator of a Redis cluster does by hand.
const fn fixed(name: &'static str, arity: i32) -> Command {
    row(name, refused, arity, OPERATOR, "Is refused: the health service gives slots to nodes.")
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        subcommands: &[
            Command { syntax: "slot [slot ...]", ..fixed("addslots", -3) },
            Command {
                since: "7.0.0",
                syntax: "start-slot end-slot [start-slot end-slot ...]",
                ..fixed("addslotsrange", -4)
            },
            fixed("bumpepoch", 2),
            Command {
                syntax: "node-id",
                ..row("count-failure-reports", no_reports, 3, flag::ADMIN | flag::STALE, "Tells 0: nodes do not judge.")
            },
            Command {
                syntax: "slot",
                ..row("countkeysinslot", count_keys, 3, flag::STALE, "Tells how many keys a slot holds here.")
            },
            Command { syntax: "slot [slot ...]", ..fixed("delslots", -3) },
            Command {
                since: "7.0.0",
                syntax: "start-slot end-slot [start-slot end-slot ...]",
                ..fixed("delslotsrange", -4)
            },
            Command { syntax: "[FORCE | TAKEOVER]", ..fixed("failover", -2) },
            fixed("flushslots", 2),
            Command { syntax: "node-id", ..fixed("forget", 3) },
            Command {
                syntax: "slot count",
                ..row("getkeysinslot", keys_in_slot, 4, flag::STALE, "Lists keys that a slot holds here.")
            },
            Command { since: "5.0.0", ..row("help", help, 2, flag::LOADING | flag::STALE, "Lists the sub-commands.") },
            row("info", info, 2, flag::STALE, "Tells how the cluster is, as this node sees it."),
            Command { syntax: "key", ..row("keyslot", key_slot, 3, flag::STALE, "Tells the slot of a key.") },
            Command {
                since: "7.0.0",
                ..row("links", links, 2, flag::STALE, "Tells nothing: nodes have no bus. See FASTCACHE STREAMS.")
            },
            Command { syntax: "ip port [cluster-bus-port]", ..fixed("meet", -4) },
            row("myid", my_id, 2, flag::STALE, "Tells this node's name, in forty digits."),
            row("nodes", nodes, 2, flag::STALE, "Lists the nodes with their slots, a line each."),
            Command {
                since: "5.0.0",
                syntax: "node-id",
                ..row("replicas", replicas, 3, flag::ADMIN | flag::STALE, "Lists the nodes that hold copies of a node.")
            },
            Command { syntax: "node-id", ..fixed("replicate", 3) },
            Command {
                syntax: "[HARD | SOFT]",
                flags: flag::ADMIN | flag::STALE | flag::NOSCRIPT,
                ..fixed("reset", -2)
            },
            fixed("saveconfig", 2),
            Command { syntax: "config-epoch", ..fixed("set-config-epoch", 3) },
            Command {
                syntax: "slot <IMPORTING node-id | MIGRATING node-id | NODE node-id | STABLE>",
                ..fixed("setslot", -4)
            },
            Command {
                since: "7.0.0",
                ..row("shards", shards, 2, flag::STALE, "Tells which nodes hold which slots, by shards.")
            },
            Command {
                syntax: "node-id",
                ..row("slaves", replicas, 3, flag::ADMIN | flag::STALE, "An older name of CLUSTER REPLICAS.")
            },
            row("slots", slots, 2, flag::STALE, "Tells which nodes hold which slots, by ranges."),
        ],
        ..row("cluster", server::needs_subcommand, -2, 0, "Tells which node holds which slots.")
    },
    row("readonly", read_only, 1, OPEN, "Lets this connection read from copies as well."),
    row("readwrite", read_write, 1, OPEN, "Has this connection read from mains alone."),
    row("asking", asking, 1, flag::FAST | flag::CONNECTION, "Is accepted: a slot on its way is served by one node."),
];

const OPEN: u32 = flag::LOADING | flag::STALE | flag::FAST | flag::CONNECTION;

/// What is answered where there is no topology.
const DISABLED: Fault = Fault::CLUSTER_OFF;

fn refused(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    if ctx.engine.membership.is_none() {
        return Err(DISABLED);
    }
    Err(Fault::new("ERR slots are given by the health service; see 'fastcache status' and 'fastcache ctl'"))
}

/// Do something with the membership, which is out of the engine meanwhile.
fn with(ctx: &mut Ctx<'_>, work: impl FnOnce(&mut Ctx<'_>, &Membership) -> Done) -> Done {
    let membership = ctx.engine.membership.take().ok_or(DISABLED)?;
    let done = work(ctx, &membership);
    ctx.engine.membership = Some(membership);
    done
}

fn told(ctx: &mut Ctx<'_>, tell: fn(&Membership, &mut crate::resp::Reply)) -> Done {
    with(ctx, |ctx, membership| {
        tell(membership, ctx.out);
        Ok(())
    })
}

fn slots(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    told(ctx, shape::slots)
}

fn shards(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    told(ctx, shape::shards)
}

fn nodes(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    told(ctx, shape::nodes)
}

fn info(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    told(ctx, shape::info)
}

fn replicas(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    with(ctx, |ctx, membership| shape::replicas(ctx, membership, args))
}

fn my_id(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    with(ctx, |ctx, membership| {
        let name = match membership.me {
            Some(me) => shape::name_of(&membership.document.nodes()[usize::from(me)]),
            None => shape::name_of_id(&membership::own_id(ctx.engine)),
        };
        ctx.out.bulk(name.as_bytes());
        Ok(())
    })
}

fn links(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    told(ctx, |_, out| out.array(0))
}

fn no_reports(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    told(ctx, |_, out| out.integer(0))
}

fn key_slot(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    with(ctx, |ctx, _| {
        ctx.out.count(slot_of(args.at(2)).into());
        Ok(())
    })
}

fn slot(text: &[u8]) -> Result<u16, Fault> {
    let number = parse_i64(text).and_then(|number| u16::try_from(number).ok());
    number.filter(|&slot| slot < SLOT_COUNT).ok_or(Fault::new("ERR Invalid or out of range slot"))
}

fn count_keys(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    with(ctx, |ctx, _| {
        let slot = slot(args.at(2))?;
        let count = ctx.engine.store.database(ctx.client.database).table(slot).map_or(0, |table| table.len());
        ctx.out.count(count);
        Ok(())
    })
}

fn keys_in_slot(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    with(ctx, |ctx, _| {
        let slot = slot(args.at(2))?;
        let most = usize::try_from(args.integer(3)?).map_err(|_| Fault::new("ERR Invalid number of keys"))?;
        let store = &ctx.engine.store;
        let keys: Vec<&[u8]> = store
            .database(ctx.client.database)
            .table(slot)
            .map(|table| table.iter().take(most).map(|handle| store.key_of(handle)).collect())
            .unwrap_or_default();
        ctx.out.array(keys.len());
        keys.iter().for_each(|key| ctx.out.bulk(key));
        Ok(())
    })
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "CLUSTER");
    Ok(())
}

fn read_only(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    with(ctx, |ctx, _| {
        ctx.client.reads_copies = true;
        ctx.out.ok();
        Ok(())
    })
}

fn read_write(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    with(ctx, |ctx, _| {
        ctx.client.reads_copies = false;
        ctx.out.ok();
        Ok(())
    })
}

fn asking(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    told(ctx, |_, out| out.ok())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Node;
    use super::membership::{Obeyed, obey};
    use crate::slot::slot_of;
    use crate::topology::Document;

    /// `a` (us) has the lower half of the slots, `b` the upper one; each holds a copy of the other's.
    fn halves(epoch: u64) -> Document {
        let text = format!(
            r#"{{"epoch":{epoch},"cluster":{{"id":"c1","name":"c"}},"replicas":1,"flags":["replication"],
            "nodes":[{{"id":"a","host":"10.0.0.1","port":7001}},{{"id":"b","host":"10.0.0.2","port":7002}}],
            "slots":[{{"main":"a","ranges":"0-8191","replicas":["b"]}},{{"main":"b","ranges":"8192-16383","replicas":["a"]}}]}}"#
        );
        Document::parse(text.as_bytes()).unwrap()
    }

    fn member() -> Node {
        let mut node = Node::with(&[("node-id", "a")]);
        assert_eq!(obey(&mut node.engine, halves(3)), Ok(Obeyed::Taken));
        node
    }

    #[test]
    fn without_a_topology_cluster_clients_learn_that_this_is_no_cluster_node() {
        Node::new().expect(&[
            ("CLUSTER INFO", "-ERR This instance has cluster support disabled"),
            ("CLUSTER FOO", "-ERR unknown subcommand 'FOO'. Try CLUSTER HELP."),
            ("READONLY", "-ERR This instance has cluster support disabled"),
        ]);
        let told = Node::new().line("FASTCACHE TOPOLOGY");
        assert!(told.starts_with("*12 $5 epoch :0 $6 digest $0  $2 id $9 node-7001 $3 run $40 "), "{told}");
        assert_eq!(Node::new().line("FASTCACHE TOPOLOGY GET"), "$-1");
    }

    #[test]
    fn the_topology_in_force_is_told_as_it_came() {
        let told = member().line("FASTCACHE TOPOLOGY GET");
        let document = told.split_once(' ').unwrap().1;
        assert_eq!(Document::parse(document.as_bytes()).unwrap().canonical(), halves(3).canonical());
    }

    #[test]
    fn keys_of_others_are_sent_on_and_keys_of_several_slots_refused() {
        let mut node = member();
        assert!(slot_of(b"bar") < 8192 && slot_of(b"foo") >= 8192 && slot_of(b"b") < 8192);
        node.expect(&[
            ("SET bar 1", "+OK"),
            ("SET foo 1", "-MOVED 12182 10.0.0.2:7002"),
            ("GET foo", "-MOVED 12182 10.0.0.2:7002"),
            ("MGET bar b", "-CROSSSLOT Keys in request don't hash to the same slot"),
            ("MGET {bar}1 {bar}2", "*2 $-1 $-1"),
            ("FASTCACHE ROUTED", "+OK"),
            ("MGET bar b", "*2 $1 1 $-1"),
            ("MGET bar foo", "-MOVED 12182 10.0.0.2:7002"),
            ("MULTI", "+OK"),
            ("GET foo", "-MOVED 12182 10.0.0.2:7002"),
            ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
        ]);
    }

    #[test]
    fn a_transaction_keeps_to_one_slot() {
        member().expect(&[
            ("MULTI", "+OK"),
            ("SET bar 1", "+QUEUED"),
            ("SET b 1", "+QUEUED"),
            (
                "EXEC",
                "-EXECABORT Transaction discarded because of: CROSSSLOT Keys in request don't hash to the same slot",
            ),
            ("GET bar", "$-1"),
        ]);
    }

    #[test]
    fn who_is_content_with_copies_may_read_but_not_write_them() {
        member().expect(&[
            ("READONLY", "+OK"),
            ("GET foo", "$-1"),
            ("SET foo 1", "-MOVED 12182 10.0.0.2:7002"),
            ("READWRITE", "+OK"),
            ("GET foo", "-MOVED 12182 10.0.0.2:7002"),
        ]);
    }

    #[test]
    fn who_was_restarted_holds_nothing_until_a_topology_names_its_new_run() {
        let mut node = member();
        let text = String::from_utf8(halves(4).canonical()).unwrap();
        let named = |run: &str| text.replacen(r#""rack":"","#, &format!(r#""rack":"","run":"{run}","#), 1);
        obey(&mut node.engine, Document::parse(named("before").as_bytes()).unwrap()).unwrap();
        assert!(node.line("SET bar 1").starts_with("-CLUSTERDOWN Hash slot not served: this node was restarted"));
        let now = named(&node.engine.run_id.clone()).replace(r#""epoch":4"#, r#""epoch":5"#);
        obey(&mut node.engine, Document::parse(now.as_bytes()).unwrap()).unwrap();
        assert_eq!(node.line("SET bar 1"), "+OK");
    }

    #[test]
    fn the_highest_epoch_is_obeyed_and_no_other_cluster() {
        let mut node = member();
        let refused = |node: &mut Node, document| obey(&mut node.engine, document).unwrap_err().0.into_owned();
        assert_eq!(refused(&mut node, halves(2)), b"STALE epoch 2 is older than 3");
        assert_eq!(obey(&mut node.engine, halves(3)), Ok(Obeyed::Known));
        let mut other = halves(9);
        other.cluster.id = "c2".into();
        assert_eq!(refused(&mut node, other), b"ERR this topology is of cluster c2, and this node belongs to c1");
        let mut same = halves(3);
        same.flags.push("strict".into());
        assert!(refused(&mut node, same).starts_with(b"STALE epoch 3 is known with other contents"));
        assert_eq!(obey(&mut node.engine, halves(4)), Ok(Obeyed::Taken));
    }

    #[test]
    fn who_waits_for_a_key_that_moves_is_sent_after_it() {
        let mut node = member();
        assert_eq!(node.line("BLPOP bar 0"), "");
        let text = String::from_utf8(halves(4).canonical()).unwrap().replace(r#""main":"a""#, r#""main":"x""#);
        let text = text.replace(r#""main":"b""#, r#""main":"a""#).replace(r#""main":"x""#, r#""main":"b""#);
        let text =
            text.replace(r#""replicas":["a"]"#, r#""replicas":[]"#).replace(r#""replicas":["b"]"#, r#""replicas":[]"#);
        obey(&mut node.engine, Document::parse(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(node.heard_by_first(), "-MOVED 5061 10.0.0.2:7002");
    }

    #[test]
    fn the_shape_of_the_cluster_is_told_as_redis_tells_it() {
        let mut node = member();
        let slots = node.line("CLUSTER SLOTS");
        assert!(slots.starts_with("*2 *4 :0 :8191 *4 $8 10.0.0.1 :7001 $40 "), "{slots}");
        assert!(node.line("CLUSTER NODES").contains("10.0.0.1:7001@17001 myself,master - 0 0 3 connected 0-8191"));
        assert!(node.line("CLUSTER INFO").contains("cluster_state:ok cluster_slots_assigned:16384"));
        assert!(node.line("CLUSTER SHARDS").starts_with("*2 *4 $5 slots *2 :0 :8191 $5 nodes *2 *14 $2 id $40 "));
        assert_eq!(node.line("CLUSTER MYID").len(), 44);
        node.expect(&[
            ("CLUSTER KEYSLOT foo", ":12182"),
            ("SET bar 1", "+OK"),
            ("CLUSTER COUNTKEYSINSLOT 5061", ":1"),
            ("CLUSTER GETKEYSINSLOT 5061 10", "*1 $3 bar"),
            ("CLUSTER COUNTKEYSINSLOT 16384", "-ERR Invalid or out of range slot"),
            ("CLUSTER LINKS", "*0"),
        ]);
        assert!(node.line("INFO cluster").contains("cluster_enabled:1"));
    }
}
