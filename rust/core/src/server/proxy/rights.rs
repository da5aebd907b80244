//! What users of the proxy may do. Nodes know a proxy and not its users, so everything is judged here, and what only a
//! node could judge is refused to those who may not do all.

use crate::command::client::{Client, Multi};
use crate::command::fault::Done;
use crate::command::table::Command;
use crate::command::{Engine, Fault, acl, dispatch};
use crate::resp::{Args, Reply};

/// Whether the client may run the request, which goes to nodes.
#[inline]
pub(super) fn admit(engine: &mut Engine, client: &Client, row: &'static Command, place: u32, args: &Args<'_>) -> Done {
    if !engine.users.are_limited() {
        return Ok(());
    }
    acl::admit(engine, client, row, place, args)?;
    beyond(engine, client, row, args)
}

/// What a node would do for the request that the user may not: it would do it in the proxy's name.
fn beyond(engine: &Engine, client: &Client, row: &Command, args: &Args<'_>) -> Done {
    let user = engine.users.get(client.user);
    if user.is_some_and(acl::user::User::is_unlimited) {
        return Ok(());
    }
    match row.name {
        "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro" => Err(Fault::of(
            "NOPERM through a proxy only users who may do everything run scripts: nodes do not know other users",
        )),
        "sort" | "sort_ro" if !user.is_some_and(acl::user::User::reads_all_keys) => {
            let follows = |at: &usize| {
                args.is(*at, "GET") || args.is(*at, "BY") && args.get(at + 1).is_some_and(|by| by.contains(&b'*'))
            };
            let Some(at) = (2..args.len().saturating_sub(1)).find(follows) else { return Ok(()) };
            let option = if args.is(at, "BY") { "BY" } else { "GET" };
            Err(Fault::new(format!("ERR {option} option of SORT denied due to insufficient ACL permissions.")))
        }
        _ => Ok(()),
    }
}

/// What of a transaction its user may not run any more: replies in the places of the queue, none where it may.
pub(super) fn refused_in(engine: &mut Engine, client: &Client, multi: &Multi) -> Vec<Option<Vec<u8>>> {
    if !engine.users.are_limited() {
        return Vec::new();
    }
    let judged = multi.queue.iter().map(|(row, args)| {
        let args = args.as_args();
        let place = dispatch::resolve_quietly(&args).map_or(0, |(_, place)| place);
        let fault = match acl::check::admit_some(engine, client, row, place, &args, "multi") {
            Err(denied) => denied.fault_in_transaction(),
            Ok(()) => beyond(engine, client, row, &args).err()?,
        };
        let mut reply = Reply::default();
        dispatch::fail(engine, &mut reply, &fault);
        Some(reply.take())
    });
    judged.collect()
}
