//! BGSAVE, SAVE, LASTSAVE, BGREWRITEAOF, FASTCACHE SNAPSHOT: snapshots on demand. None of them stops the service; SAVE
//! and FASTCACHE SNAPSHOT keep only their own client waiting.

use super::Ctx;
use super::client::OnTimeout;
use super::fault::{Done, Fault};
use crate::persist::keeper::Asked;
use crate::resp::Args;

/// What a node without a directory answers.
fn unavailable(ctx: &Ctx<'_>) -> Fault {
    let name = ctx.command.name.to_uppercase();
    Fault::new(format!("ERR {name} is not available: this node keeps its data in memory only (set dir)"))
}

pub fn last_save(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let last = ctx.engine.keeper.as_ref().map_or(0, |keeper| keeper.figures.last);
    let told = if last > 0 { last } else { ctx.engine.started };
    ctx.out.integer((told / 1000) as i64);
    Ok(())
}

pub fn bgsave(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let schedule = args.len() == 2 && args.is(1, "SCHEDULE");
    if args.len() > 1 && !schedule {
        return Err(Fault::SYNTAX);
    }
    let Some(mut keeper) = ctx.engine.keeper.take() else { return Err(unavailable(ctx)) };
    let begun = keeper.begin_snapshot(ctx.engine);
    if !begun && schedule {
        keeper.take_another();
    }
    ctx.engine.keeper = Some(keeper);
    match (begun, schedule) {
        (true, _) => ctx.out.status("Background saving started"),
        (false, true) => ctx.out.status("Background saving scheduled"),
        (false, false) => return Err(Fault::new("ERR Background save already in progress")),
    }
    Ok(())
}

pub fn bgrewriteaof(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let Some(mut keeper) = ctx.engine.keeper.take() else { return Err(unavailable(ctx)) };
    // A snapshot is what a log begins with: with a new one the log before it goes.
    let begun = keeper.begin_snapshot(ctx.engine);
    if !begun {
        keeper.take_another();
    }
    ctx.engine.keeper = Some(keeper);
    ctx.out.status(if begun {
        "Background append only file rewriting started"
    } else {
        "Background append only file rewriting scheduled"
    });
    Ok(())
}

pub fn save(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    take_and_wait(ctx, args, false)
}

pub fn snapshot(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    take_and_wait(ctx, args, true)
}

fn take_and_wait(ctx: &mut Ctx<'_>, args: &Args<'_>, in_full: bool) -> Done {
    let Some(mut keeper) = ctx.engine.keeper.take() else { return Err(unavailable(ctx)) };
    let begun = keeper.begin_snapshot(ctx.engine);
    if begun {
        keeper.answer_later(Asked { token: ctx.client.token, resp3: ctx.client.resp3, in_full });
    }
    ctx.engine.keeper = Some(keeper);
    if !begun {
        return Err(Fault::new("ERR Background save already in progress"));
    }
    if !ctx.block(&[], 0, OnTimeout::Null, args) {
        ctx.out.ok(); // In a transaction nobody waits: it is under way.
    }
    Ok(())
}

#[test]
fn a_node_without_a_directory_says_what_to_set() {
    let mut node = super::testing::Node::new();
    let told = "is not available: this node keeps its data in memory only (set dir)";
    for line in ["BGSAVE", "SAVE", "BGREWRITEAOF", "BGSAVE SCHEDULE"] {
        let name = line.split(' ').next().unwrap_or_default();
        assert_eq!(node.line(line), format!("-ERR {name} {told}"));
    }
    node.expect(&[("BGSAVE x", "-ERR syntax error"), ("LASTSAVE", ":1700000000")]);
}
