//! Whether a request may be served here: its keys are ours, or the client is told who has them.
//!
//! A client of the cluster gets what Redis Cluster answers: `MOVED` for a key of another node, `CROSSSLOT` for
//! keys of several slots. Proxies and our own client library split requests by node, not by slot: a connection
//! that has said `FASTCACHE ROUTED` may name several slots at once, as long as all of them are ours.

use super::super::client::Client;
use super::super::fault::Fault;
use super::super::table::Command;
use super::super::{Done, Engine};
use super::Membership;
use crate::resp::Args;
use crate::slot::slot_of;

/// Judge a request of a node that belongs to a cluster.
#[inline]
pub fn admit(engine: &Engine, membership: &Membership, client: &Client, row: &Command, args: &Args<'_>) -> Done {
    // The common case first: one key, at the first argument, and it is ours.
    if let [spec] = row.keys
        && spec.is_first_argument()
    {
        let slot = engine.store.slot_of(args.at(1));
        if membership.own.contains(slot) {
            return Ok(());
        }
        return here(membership, client, row, slot);
    }
    if row.name == "exec" {
        return transaction(membership, client);
    }
    if row.keys.is_empty() {
        return Ok(());
    }
    each(membership, client, row, args, &mut None)
}

/// All commands of a transaction together: they too must keep to one slot.
#[cold]
fn transaction(membership: &Membership, client: &Client) -> Done {
    let Some(multi) = &client.multi else { return Ok(()) };
    let mut first = None;
    for (row, args) in &multi.queue {
        each(membership, client, row, &args.as_args(), &mut first)?;
    }
    Ok(())
}

/// Every key of a request; `first` is the slot that all of them must have, once one is known.
fn each(membership: &Membership, client: &Client, row: &Command, args: &Args<'_>, first: &mut Option<u16>) -> Done {
    let (mut crossed, mut elsewhere) = (false, None);
    // A request without the form that the table describes is for its handler to refuse.
    row.each_key(args, |at, _| {
        let slot = slot_of(args.at(at));
        crossed |= !client.routed && *first.get_or_insert(slot) != slot;
        if elsewhere.is_none() {
            elsewhere = here(membership, client, row, slot).err();
        }
    });
    if crossed {
        return Err(Fault::CROSS_SLOT);
    }
    elsewhere.map_or(Ok(()), Err)
}

/// Whether a slot may be served here: it is ours, or the client is content with a copy of ours.
fn here(membership: &Membership, client: &Client, row: &Command, slot: u16) -> Done {
    if membership.own.contains(slot) || (client.reads_copies && !row.may_write() && membership.copied.contains(slot)) {
        return Ok(());
    }
    Err(membership.moved(slot))
}
