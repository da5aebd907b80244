//! What is said about streams: FASTCACHE STREAM and STREAMS, WAIT, ROLE. The streams themselves: `crate::replication`.

use super::blocking::deadline_in;
use super::fault::{Done, Fault};
use super::{Ctx, Engine, OnTimeout};
use crate::clock::steady_ns;
use crate::replication::{self, Question, Role, told};
use crate::resp::Args;
use crate::resp::number::parse_i64;
use crate::slot::slot_of;

/// The steady clock in ms.
pub fn steady_ms() -> u64 {
    steady_ns() / 1_000_000
}

/// FASTCACHE STREAM cluster epoch node-id ranges run seq [move]: a replica, or who takes slots, asks for what it is to get; from then on the
/// connection is a stream of frames.
pub fn stream(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let text = |at: usize| std::str::from_utf8(args.at(at)).map_err(|_| Fault::SYNTAX);
    let number = |at: usize| text(at)?.parse::<u64>().map_err(|_| Fault::NOT_INTEGER);
    let question = Question {
        cluster: text(2)?,
        epoch: number(3)?,
        node: text(4)?,
        ranges: text(5)?,
        run: text(6)?,
        seq: number(7)?,
        moves: if args.len() > 8 { text(8)? } else { "" },
    };
    if args.len() > 9 {
        return Err(Fault::SYNTAX);
    }
    if ctx.client.multi.is_some() || ctx.engine.in_transaction || ctx.client.subscriptions() > 0 {
        return Err(Fault::new("ERR a stream needs a connection of its own"));
    }
    let first = replication::admit(ctx.engine, ctx.client.token, &question, steady_ms())?;
    ctx.client.stream = Some(Role::Source);
    ctx.client.name = format!("replica-{}", question.node).into_bytes();
    ctx.out.raw(&first);
    Ok(())
}

/// FASTCACHE CONSISTENCY: what this connection wants, or what it has.
pub fn consistency(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() > 3 {
        return Err(Fault::SYNTAX);
    }
    if args.len() == 3 {
        ctx.client.consistency = match () {
            () if args.is(2, "STRICT") => Some(true),
            () if args.is(2, "EVENTUAL") => Some(false),
            () if args.is(2, "DEFAULT") => None,
            () => return Err(Fault::SYNTAX),
        };
        ctx.out.ok();
        return Ok(());
    }
    let cluster = ctx.engine.membership.as_ref().is_some_and(|membership| membership.document.flag("strict"));
    ctx.out.bulk(if ctx.client.consistency.unwrap_or(cluster) { b"strict" } else { b"eventual" });
    Ok(())
}

/// FASTCACHE COMPARE: for each key the main's name, and of each copy whether it has the same.
pub fn compare(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let membership = ctx.engine.membership.as_ref().ok_or(Fault::CLUSTER_OFF)?;
    // Who reads copies may have come to one: it cannot tell of the others.
    if let Some(slot) = args.from(2).map(slot_of).find(|&slot| !membership.own.contains(slot)) {
        return Err(membership.moved(slot));
    }
    ctx.engine.replication.get_or_insert_default();
    match replication::compare::begin(ctx.engine, ctx.client, args.from(2), steady_ms()) {
        Some(reply) => ctx.out.raw(&reply),
        None => _ = ctx.block(&[], 0, OnTimeout::NullArray, args),
    }
    Ok(())
}

/// FASTCACHE STREAMS.
pub fn streams(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    told::streams(ctx.engine, ctx.out, steady_ms());
    Ok(())
}

/// FASTCACHE MOVES: how far moves are; FASTCACHE MOVE KEEP id: slots are not to be handed over after all.
pub fn moves(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    replication::moves::tell(ctx.engine, ctx.out, steady_ms());
    Ok(())
}

/// See [`moves`].
pub fn keep(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.is(2, "PACE") {
        let bytes = u64::try_from(args.integer(3)?).map_err(|_| Fault::NOT_INTEGER)?;
        replication::moves::pace(ctx.engine, bytes);
        ctx.out.ok();
        return Ok(());
    }
    if !args.is(2, "KEEP") {
        return Err(Fault::SYNTAX);
    }
    let id = std::str::from_utf8(args.at(3)).map_err(|_| Fault::SYNTAX)?;
    replication::moves::keep(ctx.engine, id)?;
    ctx.out.ok();
    Ok(())
}

/// How many replicas have everything up to a record.
pub fn reached(engine: &Engine, seq: u64) -> usize {
    let Some(replication) = &engine.replication else { return 0 };
    let has = |source: &&replication::Source| source.moves.is_empty() && source.settled() && source.acked >= seq;
    replication.sources.iter().filter(has).count()
}

/// WAIT: until so many replicas have what this client has written.
pub fn wait(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let wanted = args.integer(1)?;
    let span = args.integer(2).map_err(|_| Fault::new("ERR timeout is not an integer or out of range"))?;
    let deadline = deadline_in(ctx, span as f64)?;
    let there = reached(ctx.engine, ctx.client.wrote);
    let enough = usize::try_from(wanted).map_or(true, |wanted| there >= wanted);
    if enough || !ctx.block(&[], deadline, OnTimeout::Replicas, args) {
        ctx.out.count(there);
    }
    Ok(())
}

/// Answer those who wait for replicas and have enough now.
pub fn serve_waiting(engine: &mut Engine) {
    if engine.blocked_clients == 0 {
        return;
    }
    let ready: Vec<_> = engine
        .clients
        .iter()
        .filter_map(|client| {
            let blocked = client.blocked.as_ref().filter(|blocked| blocked.on_timeout == OnTimeout::Replicas)?;
            let wanted = parse_i64(blocked.args.as_args().at(1))?;
            let there = reached(engine, client.wrote);
            usize::try_from(wanted).is_ok_and(|wanted| there >= wanted).then_some((client.token, there))
        })
        .collect();
    for (token, there) in ready {
        super::blocking::answer(engine, token, format!(":{there}\r\n").as_bytes());
    }
}

/// ROLE.
pub fn role(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    if let (Some(sink), Some(membership)) = (told::follows(ctx.engine), &ctx.engine.membership) {
        let main = replication::main_of(membership, sink);
        ctx.out.array(5);
        ctx.out.bulk(b"slave");
        ctx.out.bulk(main.map_or("", |main| &main.host).as_bytes());
        ctx.out.integer(main.map_or(0, |main| main.port.into()));
        ctx.out.bulk(match sink.state() {
            "streaming" => b"connected",
            "copying" => b"sync",
            _ => b"connect",
        });
        ctx.out.integer(sink.seq as i64);
        return Ok(());
    }
    let replicas = told::replicas(ctx.engine, steady_ms());
    ctx.out.array(3);
    ctx.out.bulk(b"master");
    ctx.out.integer(ctx.engine.tail.seq() as i64);
    ctx.out.array(replicas.len());
    for (host, port, _, acked, _) in replicas {
        ctx.out.array(3);
        ctx.out.bulk(host.as_bytes());
        ctx.out.bulk(port.to_string().as_bytes());
        ctx.out.bulk(acked.to_string().as_bytes());
    }
    Ok(())
}
