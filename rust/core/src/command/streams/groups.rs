//! XGROUP: groups of consumers are made, changed and removed.

use super::{no_group_of, stream_at, stream_at_mut, strict_id};
use crate::command::fault::{Done, Fault};
use crate::command::notify::STREAM;
use crate::command::{Ctx, server};
use crate::resp::Args;
use crate::store::stream::{Group, Id, Stream};
use crate::store::{Found, Kind, Object};

const NO_KEY: Fault = Fault::of(
    "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option to \
     create an empty stream automatically.",
);

/// MKSTREAM and ENTRIESREAD.
#[derive(Default)]
struct Options {
    make_stream: bool,
    read: Option<u64>,
}

fn options(args: &Args<'_>, creates: bool) -> Result<Options, Fault> {
    let mut options = Options::default();
    let mut at = 5;
    while at < args.len() {
        if creates && args.is(at, "MKSTREAM") {
            options.make_stream = true;
            at += 1;
        } else if args.is(at, "ENTRIESREAD") && at + 1 < args.len() {
            options.read = match args.integer(at + 1)? {
                -1 => None,
                count @ 0.. => Some(count as u64),
                _ => return Err(Fault::of("ERR value for ENTRIESREAD must be positive or -1")),
            };
            at += 2;
        } else {
            return Err(server::unknown_subcommand_or_arity("XGROUP", args.at(1)));
        }
    }
    Ok(options)
}

/// The entry that an argument names; `$` is the last.
fn entry(ctx: &Ctx<'_>, found: Option<Found>, text: &[u8]) -> Result<Id, Fault> {
    match text {
        b"$" => Ok(found.map_or(Id::MIN, |found| stream_at(&ctx.engine.store, found).last)),
        text => strict_id(text),
    }
}

/// The stream of a sub-command, which must be there.
fn stream(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Result<Found, Fault> {
    ctx.write(args.at(2), Kind::Stream)?.ok_or(NO_KEY)
}

/// The stream of a sub-command, which must have the group.
fn stream_with_group(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Result<Found, Fault> {
    let found = stream(ctx, args)?;
    match stream_at(&ctx.engine.store, found).group(args.at(3)) {
        Some(_) => Ok(found),
        None => Err(no_group_of(args.at(2), args.at(3))),
    }
}

pub fn create(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let options = options(args, true)?;
    let name = args.at(2);
    let found = ctx.write(name, Kind::Stream)?;
    if found.is_none() && !options.make_stream {
        return Err(NO_KEY);
    }
    if args.len() > 8 {
        return Err(server::unknown_subcommand_or_arity("XGROUP", args.at(1)));
    }
    let last = entry(ctx, found, args.at(4))?;
    let found = match found {
        Some(found) => found,
        None => {
            let found = ctx.write_or_create(name, Kind::Stream, || Object::Stream(Box::<Stream>::default()))?;
            ctx.changed(name, 0, ""); // No event of its own: that of the group follows.
            found
        }
    };
    if !stream_at_mut(&mut ctx.engine.store, found).add_group(args.at(3), Group::new(last, options.read)) {
        return Err(Fault::of("BUSYGROUP Consumer Group name already exists"));
    }
    ctx.out.ok();
    ctx.changed_within(name, STREAM, Some("xgroup-create"));
    Ok(())
}

pub fn set_id(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let options = options(args, false)?;
    let found = stream_with_group(ctx, args)?;
    if args.len() > 7 {
        return Err(server::unknown_subcommand_or_arity("XGROUP", args.at(1)));
    }
    let last = entry(ctx, Some(found), args.at(4))?;
    if let Some(group) = stream_at_mut(&mut ctx.engine.store, found).group_mut(args.at(3)) {
        (group.last, group.read) = (last, options.read);
    }
    ctx.out.ok();
    ctx.changed_within(args.at(2), STREAM, Some("xgroup-setid"));
    Ok(())
}

pub fn destroy(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let name = args.at(2);
    let found = stream(ctx, args)?;
    let Some(group) = stream_at_mut(&mut ctx.engine.store, found).take_group(args.at(3)) else {
        ctx.out.integer(0);
        return Ok(());
    };
    // What was pending may be much: it is freed bit by bit, as the values of keys are.
    let mut remains = Box::<Stream>::default();
    remains.add_group(args.at(3), group);
    ctx.engine.store.condemn(Object::Stream(remains));
    ctx.out.integer(1);
    ctx.changed_within(name, STREAM, Some("xgroup-destroy"));
    // Who waits in this group is told that it is gone.
    ctx.engine.mark_ready(ctx.client.database, name);
    Ok(())
}

pub fn create_consumer(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = stream_with_group(ctx, args)?;
    let now = ctx.engine.store.now();
    let group = stream_at_mut(&mut ctx.engine.store, found).group_mut(args.at(3));
    let made = group.and_then(|group| group.add(args.at(4), now)).is_some();
    if made {
        ctx.changed_within(args.at(2), STREAM, Some("xgroup-createconsumer"));
    }
    ctx.out.integer(i64::from(made));
    Ok(())
}

pub fn delete_consumer(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = stream_with_group(ctx, args)?;
    let group = stream_at_mut(&mut ctx.engine.store, found).group_mut(args.at(3));
    let pending = group.and_then(|group| group.find(args.at(4)).map(|who| group.remove(who)));
    if pending.is_some() {
        ctx.changed_within(args.at(2), STREAM, Some("xgroup-delconsumer"));
    }
    ctx.out.count(pending.unwrap_or(0));
    Ok(())
}

pub fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "XGROUP");
    Ok(())
}
