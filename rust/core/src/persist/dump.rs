//! The RDB file of a Redis or Valkey, as what a node begins with that has nothing of its own.
//!
//! Keys become entries as they stand in our snapshots, so that the rest of the warm-up does not know the difference.
//! Values stay the bytes they are: the codec reads all forms that RDB has. Libraries of functions come as records.

use super::load::{Oldest, Piece};
use super::snapshot::{About, Sum, Wrong};
use crate::command::scripting::registry::News;
use crate::store::keyspace::DATABASES;
use crate::store::whole::Meta;
use crate::stream::codec;
use crate::stream::rdb::file::{Entry, File, Item};
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::SyncSender;

/// Bytes read, and handed to the loop, at once.
const PIECE: usize = 512 * 1024;

/// Read the file and hand over what is in it.
pub(super) fn read(path: &Path, sender: &SyncSender<Piece>) -> Result<(), Wrong> {
    let send = |piece| sender.send(piece).map_err(|_| Wrong("the loop has ended".into()));
    let mut input = std::fs::File::open(path)?;
    let size = input.metadata()?.len();
    let about = About { statistics: [("bytes".to_owned(), size)].into(), ..About::default() };
    send(Piece::Begin { about, oldest: Oldest::ANY, from_dump: true })?;

    let now = crate::clock::wall_ms();
    let (mut file, mut sum) = (File::default(), Sum::default());
    let (mut out, mut records, mut ended) = (Vec::new(), Vec::new(), false);
    let mut buffer = vec![0; PIECE];
    while !ended {
        let count = input.read(&mut buffer)?;
        if count == 0 {
            file.retry(); // It may have been waiting for more than there is.
        }
        file.feed(&buffer[..count]);
        while let Some(item) = file.item().map_err(|garbage| Wrong(garbage.to_string()))? {
            match item {
                Item::Entry(entry) => {
                    put(entry, now, &mut out)?;
                    sum.entries += 1;
                }
                Item::Functions(code) => News::Loaded { stamp: now, code: &code }.append(now, &mut records),
                Item::End => ended = true,
            }
            if out.len() >= PIECE {
                send(Piece::Entries(std::mem::take(&mut out)))?;
            }
        }
        if count == 0 && !ended {
            return Err(Wrong("it ends too early".into()));
        }
    }
    send(Piece::Entries(out))?;
    send(Piece::Libraries(records))?;
    send(Piece::Whole(sum))
}

fn put(entry: Entry, now: u64, out: &mut Vec<u8>) -> Result<(), Wrong> {
    let database = u8::try_from(entry.database).ok().filter(|&number| usize::from(number) < DATABASES);
    let Some(database) = database else {
        return Err(Wrong(format!("it has a database {}, and here are {DATABASES}", entry.database)));
    };
    let idle = entry.idle.unwrap_or(0) as u64;
    let updated = (now / 1000).saturating_sub(idle) as u32;
    codec::put_head(out, database, Meta { expiry: entry.expiry, created: updated, updated, raw: false }, &entry.key);
    out.extend_from_slice(&entry.value);
    Ok(())
}
