//! FASTCACHE TOPOLOGY and FASTCACHE ROUTED: how a node gets its topology, and who may ask by node.
//!
//! A topology holds from the moment it arrives; whoever brought it hears OK once it is on disk as well, so that
//! a node that falls over and comes back does not forget what it has promised to refuse.

use super::super::blocking;
use super::super::client::{Blocked, OnTimeout, Token};
use super::super::fault::{Done, Fault};
use super::super::settings::Name;
use super::super::{Ctx, Engine};
use super::membership::{self, Obeyed};
use crate::resp::{Args, Reply};
use crate::topology::{Document, file};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Tell the topology in force, or take another over.
pub fn topology(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    if args.len() == 2 {
        return tell(ctx);
    }
    if args.len() == 3 && args.is(2, "GET") {
        match &ctx.engine.membership {
            Some(membership) => ctx.out.bulk(&membership.document.canonical()),
            None => ctx.out.null(),
        }
        return Ok(());
    }
    let told = args.len() == 4 || args.len() == 6 && args.is(4, "RELIEVED");
    if !told || !args.is(2, "SET") {
        return Err(Fault::SYNTAX);
    }
    let relieved = args.get(5).and_then(|name| std::str::from_utf8(name).ok());
    let document = Document::parse(args.at(3)).map_err(|error| Fault::new(format!("ERR {error}")))?;
    let mains = document.index_of(&membership::own_id(ctx.engine)).filter(|&me| {
        let meant = &document.nodes()[usize::from(me)].run;
        let other = !meant.is_empty() && *meant != ctx.engine.run_id;
        other && (0..crate::slot::SLOT_COUNT).any(|slot| document.main(slot) == me)
    });
    if mains.is_some() {
        // It is in force all the same: we serve none of these slots.
        if membership::obey(ctx.engine, document)? == Obeyed::Taken {
            keep(ctx.engine, None);
        }
        return Err(Fault::new(format!("STALERUN this node was restarted: its run is {}", ctx.engine.run_id)));
    }
    if membership::obey_after(ctx.engine, document, relieved)? == Obeyed::Taken
        && keep(ctx.engine, Some((ctx.client.token, ctx.client.id)))
    {
        // The answer follows when it is kept.
        wait(ctx, args);
        return Ok(());
    }
    ctx.out.ok();
    Ok(())
}

fn tell(ctx: &mut Ctx<'_>) -> Done {
    let id = membership::own_id(ctx.engine);
    let (epoch, digest, own) = match &ctx.engine.membership {
        Some(membership) => (membership.document.epoch, membership.digest.as_str(), membership.own.len()),
        None => (0, "", 0),
    };
    ctx.out.map(6);
    ctx.out.bulk(b"epoch");
    ctx.out.integer(epoch as i64);
    ctx.out.bulk(b"digest");
    ctx.out.bulk(digest.as_bytes());
    ctx.out.bulk(b"id");
    ctx.out.bulk(id.as_bytes());
    ctx.out.bulk(b"run");
    ctx.out.bulk(ctx.engine.run_id.as_bytes());
    ctx.out.bulk(b"main");
    ctx.out.count(own);
    ctx.out.bulk(b"leaving");
    ctx.out.integer(ctx.engine.leaving.into());
    Ok(())
}

/// Write the topology to its file, on a thread of its own: a slow disk must not hold up clients. `false` when
/// there is nobody to wait for: no file is set, or this is no running node.
pub fn keep(engine: &mut Engine, asker: Option<(Token, u64)>) -> bool {
    let path = PathBuf::from(engine.settings.text(Name::topology_file));
    let (Some(membership), Some(errands)) = (&engine.membership, engine.errands.clone()) else { return false };
    if path.as_os_str().is_empty() {
        return false;
    }
    let document = membership.document.clone();
    let work = move || {
        if asker.is_none() {
            // Nobody waits: requests go first, here and in the other processes of this machine.
            let _ = rustix::process::setpriority_process(None, PATIENT);
        }
        let kept = keep_newer(&path, &document);
        errands(Box::new(move |engine: &mut Engine| {
            if let Some((token, id)) = asker {
                answer(engine, token, id, kept);
            }
        }));
    };
    std::thread::Builder::new().name("fastcache-topology".into()).spawn(work).is_ok()
}

/// The priority of a thread for which nobody waits.
const PATIENT: i32 = 5;

/// What this process has kept last.
struct Kept {
    path: PathBuf,
    cluster: String,
    epoch: u64,
}

/// Threads may overtake one another: the newest must stay. The file is read only to learn what another life kept.
fn keep_newer(path: &Path, document: &Document) -> std::io::Result<()> {
    static LAST: Mutex<Option<Kept>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = &document.cluster.id;
    let kept = match last.as_ref().filter(|last| last.path == path && last.cluster == *cluster) {
        Some(last) => Some(last.epoch),
        None => file::load(path).ok().filter(|kept| kept.cluster.id == *cluster).map(|kept| kept.epoch),
    };
    if kept.is_some_and(|epoch| epoch > document.epoch) {
        return Ok(());
    }
    file::save(path, document)?;
    *last = Some(Kept { path: path.to_owned(), cluster: cluster.clone(), epoch: document.epoch });
    Ok(())
}

fn wait(ctx: &mut Ctx<'_>, args: &Args<'_>) {
    ctx.engine.blocked_clients += 1;
    ctx.client.blocked = Some(Blocked {
        command: ctx.command,
        args: args.to_owned(),
        keys: Vec::new(),
        database: 0,
        deadline: 0,
        on_timeout: OnTimeout::Null,
    });
}

fn answer(engine: &mut Engine, token: Token, id: u64, kept: std::io::Result<()>) {
    if engine.clients.get(token).is_none_or(|client| client.id != id || client.blocked.is_none()) {
        return; // It did not wait for this.
    }
    match kept {
        Ok(()) => {
            let mut ok = Reply::new(false);
            ok.ok();
            blocking::answer(engine, token, ok.bytes());
        }
        Err(error) => {
            let fault = Fault::new(format!("ERR the topology is in force, but cannot be kept on disk: {error}"));
            blocking::unblock(engine, token, Some(&fault));
        }
    }
}

/// A connection of a proxy or of our own client library: it splits requests by node, not by slot.
pub fn routed(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    ctx.client.routed = true;
    ctx.out.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_topology_never_replaces_the_newest_on_disk() {
        let folder = std::env::temp_dir().join(format!("fastcache-kept-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("topology.json");
        let of = |cluster: &str, epoch: u64| {
            let text = format!(
                r#"{{"epoch":{epoch},"cluster":{{"id":"{cluster}","name":"c"}},"nodes":[{{"id":"a","host":"h","port":1}}]}}"#
            );
            Document::parse(text.as_bytes()).unwrap()
        };
        let on_disk = || file::load(&path).unwrap().epoch;
        file::save(&path, &of("one", 7)).unwrap(); // By another life.
        for (epoch, kept) in [(6, 7), (8, 8), (7, 8), (8, 8), (9, 9)] {
            keep_newer(&path, &of("one", epoch)).unwrap();
            assert_eq!(on_disk(), kept, "after {epoch}");
        }
        // Who has changed over to another cluster obeys that one.
        keep_newer(&path, &of("two", 3)).unwrap();
        assert_eq!(on_disk(), 3);
        // What could not be written was not kept.
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(keep_newer(&path, &of("two", 5)).is_err());
        std::fs::create_dir_all(&folder).unwrap();
        keep_newer(&path, &of("two", 4)).unwrap();
        assert_eq!(on_disk(), 4);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
