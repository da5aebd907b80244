//! CLUSTER and its relatives, as a node answers that is not asked through the slot protocol of Redis Cluster.

use super::fault::{Done, Fault};
use super::table::{Command, flag};
use super::{Ctx, server};
use crate::resp::Args;

const OPERATOR: u32 = flag::ADMIN | flag::STALE | flag::NO_ASYNC_LOADING;

const fn sub(name: &'static str, arity: i32, flags: u32) -> Command {
    Command {
        group: "cluster",
        since: "3.0.0",
        summary: "Is refused: Redis Cluster's protocol is not spoken.",
        ..Command::new(name, disabled, arity, flags)
    }
}

const fn open(name: &'static str, flags: u32) -> Command {
    Command {
        group: "cluster",
        since: "3.0.0",
        summary: "Is refused: Redis Cluster's protocol is not spoken.",
        ..Command::new(name, disabled, 1, flags)
    }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        group: "cluster",
        since: "3.0.0",
        summary: "Tells about Redis Cluster: its protocol is not spoken.",
        subcommands: &[
            Command { syntax: "slot [slot ...]", ..sub("addslots", -3, OPERATOR) },
            Command {
                since: "7.0.0",
                syntax: "start-slot end-slot [start-slot end-slot ...]",
                ..sub("addslotsrange", -4, OPERATOR)
            },
            sub("bumpepoch", 2, OPERATOR),
            Command { syntax: "node-id", ..sub("count-failure-reports", 3, flag::ADMIN | flag::STALE) },
            Command { syntax: "slot", ..sub("countkeysinslot", 3, flag::STALE) },
            Command { syntax: "slot [slot ...]", ..sub("delslots", -3, OPERATOR) },
            Command {
                since: "7.0.0",
                syntax: "start-slot end-slot [start-slot end-slot ...]",
                ..sub("delslotsrange", -4, OPERATOR)
            },
            Command { syntax: "[FORCE | TAKEOVER]", ..sub("failover", -2, OPERATOR) },
            sub("flushslots", 2, OPERATOR),
            Command { syntax: "node-id", ..sub("forget", 3, OPERATOR) },
            Command { syntax: "slot count", ..sub("getkeysinslot", 4, flag::STALE) },
            Command { since: "5.0.0", ..sub("help", 2, flag::LOADING | flag::STALE) },
            sub("info", 2, flag::STALE),
            Command { syntax: "key", ..sub("keyslot", 3, flag::STALE) },
            Command { since: "7.0.0", ..sub("links", 2, flag::STALE) },
            Command { syntax: "ip port [cluster-bus-port]", ..sub("meet", -4, OPERATOR) },
            sub("myid", 2, flag::STALE),
            sub("nodes", 2, flag::STALE),
            Command { since: "5.0.0", syntax: "node-id", ..sub("replicas", 3, flag::ADMIN | flag::STALE) },
            Command { syntax: "node-id", ..sub("replicate", 3, OPERATOR) },
            Command { syntax: "[HARD | SOFT]", ..sub("reset", -2, flag::ADMIN | flag::NOSCRIPT | flag::STALE) },
            sub("saveconfig", 2, OPERATOR),
            Command { syntax: "config-epoch", ..sub("set-config-epoch", 3, OPERATOR) },
            Command {
                syntax: "slot <IMPORTING node-id | MIGRATING node-id | NODE node-id | STABLE>",
                ..sub("setslot", -4, OPERATOR)
            },
            Command { since: "7.0.0", ..sub("shards", 2, flag::STALE) },
            Command { syntax: "node-id", ..sub("slaves", 3, flag::ADMIN | flag::STALE) },
            sub("slots", 2, flag::STALE),
        ],
        ..Command::new("cluster", server::needs_subcommand, -2, 0)
    },
    open("readonly", flag::LOADING | flag::STALE | flag::FAST | flag::CONNECTION),
    open("readwrite", flag::LOADING | flag::STALE | flag::FAST | flag::CONNECTION),
    open("asking", flag::FAST | flag::CONNECTION),
];

fn disabled(_: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    Err(Fault::new("ERR This instance has cluster support disabled"))
}

#[test]
fn cluster_clients_learn_that_this_is_no_cluster_node() {
    super::testing::Node::new().expect(&[
        ("CLUSTER INFO", "-ERR This instance has cluster support disabled"),
        ("CLUSTER FOO", "-ERR unknown subcommand 'FOO'. Try CLUSTER HELP."),
        ("READONLY", "-ERR This instance has cluster support disabled"),
    ]);
}
