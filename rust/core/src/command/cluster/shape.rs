//! The cluster as Redis' clients and tools ask for it: SLOTS, SHARDS, NODES, INFO.
//!
//! Redis' nodes are either main or replica; ours may be both, for different slots. A node that is main of any
//! slot is told as a main, and every slot range names its own replicas in SLOTS and SHARDS.

use super::super::Ctx;
use super::super::fault::{Done, Fault};
use super::Membership;
use crate::resp::{Args, Reply};
use crate::slot::SLOT_COUNT;
use crate::topology::document::{Node, State, digest_of};
use std::collections::BTreeMap;

/// Slots from `first` to `last` that have the same main and the same replicas.
struct Run {
    first: u16,
    last: u16,
    holders: Vec<u16>,
}

/// The node's name as Redis writes names: forty hexadecimal digits.
pub fn name_of(node: &Node) -> String {
    name_of_id(&node.id)
}

/// As [`name_of`], for a node that the topology does not name.
pub fn name_of_id(id: &str) -> String {
    let mut digest = digest_of(id.as_bytes());
    digest.truncate(40);
    digest
}

fn holders(membership: &Membership, slot: u16) -> Vec<u16> {
    let mut holders = vec![membership.document.main(slot)];
    holders.extend_from_slice(membership.document.replicas_of(slot));
    holders
}

/// All slots that have a main, in runs.
fn runs(membership: &Membership) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for slot in (0..SLOT_COUNT).filter(|&slot| membership.main_of(slot).is_some()) {
        let now = holders(membership, slot);
        match runs.last_mut() {
            Some(run) if run.last + 1 == slot && run.holders == now => run.last = slot,
            _ => runs.push(Run { first: slot, last: slot, holders: now }),
        }
    }
    runs
}

/// CLUSTER SLOTS.
pub fn slots(membership: &Membership, out: &mut Reply) {
    let runs = runs(membership);
    out.array(runs.len());
    for run in runs {
        out.array(2 + run.holders.len());
        out.count(run.first.into());
        out.count(run.last.into());
        for index in run.holders {
            let node = &membership.document.nodes()[usize::from(index)];
            out.array(4);
            out.bulk(node.host.as_bytes());
            out.count(node.port.into());
            out.bulk(name_of(node).as_bytes());
            out.array(0);
        }
    }
}

/// CLUSTER SHARDS: slots that have the same holders are one shard.
pub fn shards(membership: &Membership, out: &mut Reply) {
    let mut shards: BTreeMap<Vec<u16>, Vec<(u16, u16)>> = BTreeMap::new();
    for run in runs(membership) {
        shards.entry(run.holders).or_default().push((run.first, run.last));
    }
    out.array(shards.len());
    for (holders, ranges) in shards {
        out.map(2);
        out.bulk(b"slots");
        out.array(ranges.len() * 2);
        for (first, last) in ranges {
            out.count(first.into());
            out.count(last.into());
        }
        out.bulk(b"nodes");
        out.array(holders.len());
        for (at, index) in holders.into_iter().enumerate() {
            let node = &membership.document.nodes()[usize::from(index)];
            out.map(7);
            out.bulk(b"id");
            out.bulk(name_of(node).as_bytes());
            out.bulk(b"port");
            out.count(node.port.into());
            out.bulk(b"ip");
            out.bulk(node.host.as_bytes());
            out.bulk(b"endpoint");
            out.bulk(node.host.as_bytes());
            out.bulk(b"role");
            out.bulk(if at == 0 { b"master" } else { b"replica" });
            out.bulk(b"replication-offset");
            out.integer(0);
            out.bulk(b"health");
            out.bulk(if node.state == State::Down { b"fail" } else { b"online" });
        }
    }
}

/// One line of CLUSTER NODES.
fn line(membership: &Membership, index: u16) -> String {
    let nodes = membership.document.nodes();
    let node = &nodes[usize::from(index)];
    let own: Vec<u16> = (0..SLOT_COUNT).filter(|&slot| membership.document.main(slot) == index).collect();
    let copied = || (0..SLOT_COUNT).find(|&slot| membership.document.replicas_of(slot).contains(&index));
    // A node without slots of its own follows the main of the first slot it has a copy of.
    let followed = if own.is_empty() { copied().and_then(|slot| membership.main_of(slot)) } else { None };
    let mut flags = Vec::new();
    if membership.me == Some(index) {
        flags.push("myself");
    }
    flags.push(if followed.is_some() { "slave" } else { "master" });
    if node.state == State::Down {
        flags.push("fail");
    }
    let bus = u32::from(node.port) + 10_000;
    let ranges = crate::topology::ranges::to_text(own).replace(',', " ");
    format!(
        "{} {}:{}@{} {} {} 0 0 {} {}{}{ranges}\n",
        name_of(node),
        node.host,
        node.port,
        if bus > 65_535 { 0 } else { bus },
        flags.join(","),
        followed.map_or("-".to_owned(), name_of),
        membership.document.epoch,
        if node.state == State::Down { "disconnected" } else { "connected" },
        if ranges.is_empty() { "" } else { " " },
    )
}

/// CLUSTER NODES.
pub fn nodes(membership: &Membership, out: &mut Reply) {
    let text: String = (0..membership.document.nodes().len()).map(|index| line(membership, index as u16)).collect();
    out.verbatim(text.as_bytes());
}

/// CLUSTER REPLICAS: those that hold copies of slots of a node.
pub fn replicas(ctx: &mut Ctx<'_>, membership: &Membership, args: &Args<'_>) -> Done {
    let wanted = args.at(2);
    let Some(main) = membership.document.nodes().iter().position(|node| name_of(node).as_bytes() == wanted) else {
        let mut text = b"ERR Unknown node ".to_vec();
        text.extend_from_slice(wanted);
        return Err(Fault::bytes(text));
    };
    let mut found: Vec<u16> = (0..SLOT_COUNT)
        .filter(|&slot| usize::from(membership.document.main(slot)) == main)
        .flat_map(|slot| membership.document.replicas_of(slot).iter().copied())
        .collect();
    found.sort_unstable();
    found.dedup();
    ctx.out.array(found.len());
    for index in found {
        ctx.out.bulk(line(membership, index).trim_end().as_bytes());
    }
    Ok(())
}

/// CLUSTER INFO.
pub fn info(membership: &Membership, out: &mut Reply) {
    let assigned = membership.assigned();
    let down = |slot: &u16| membership.main_of(*slot).is_some_and(|node| node.state == State::Down);
    let failed = (0..SLOT_COUNT).filter(down).count();
    let mut mains: Vec<u16> = (0..SLOT_COUNT).map(|slot| membership.document.main(slot)).collect();
    mains.sort_unstable();
    mains.dedup();
    mains.retain(|&index| index != crate::topology::NOBODY);
    let whole = assigned == usize::from(SLOT_COUNT);
    let epoch = membership.document.epoch;
    let lines = [
        ("cluster_state", if whole { "ok".to_owned() } else { "fail".to_owned() }),
        ("cluster_slots_assigned", assigned.to_string()),
        ("cluster_slots_ok", (assigned - failed).to_string()),
        ("cluster_slots_pfail", "0".to_owned()),
        ("cluster_slots_fail", failed.to_string()),
        ("cluster_known_nodes", membership.document.nodes().len().to_string()),
        ("cluster_size", mains.len().to_string()),
        ("cluster_current_epoch", epoch.to_string()),
        ("cluster_my_epoch", epoch.to_string()),
        ("cluster_stats_messages_sent", "0".to_owned()),
        ("cluster_stats_messages_received", "0".to_owned()),
        ("total_cluster_links_buffer_limit_exceeded", "0".to_owned()),
    ];
    let text: String = lines.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
    out.verbatim(text.as_bytes());
}
