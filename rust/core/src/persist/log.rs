//! Log files: the tail of writes on disk, and how it is read again.
//!
//! `log-00000000000000000101.fclog` begins with the record of that number: a frame with its head (JSON: which *run* of
//! the node wrote it, and which it follows), then frames of records, each with the number of its first. Runs make a
//! history: what a snapshot holds up to a number of a run is continued by records of that run, and then by the run that
//! says it follows. A node that starts makes a new run, so that two histories are never mixed.
//!
//! Reading asks one thing only: that numbers go on without a gap. A frame that is damaged at the very end was being
//! written when the node stopped: it is cut. A damaged frame with whole ones behind it is loss of what was safe: reading
//! ends there, and says so ([`Read::damage`]). Where a later file goes on from before the damage, it stands for what
//! was tried in vain (a full disk) or given up on, and nothing is lost.

use super::frame::{Kind, Packer};
use super::snapshot::Wrong;
use crate::stream::tail::Record;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// A file of this size is not added to.
pub const LARGEST: u64 = 128 << 20;

/// What a log file is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// The version of FastCache that wrote it.
    pub version: String,
    /// The node.
    pub node: String,
    /// When it was begun, ms of wall time.
    pub timestamp: u64,
    /// The run of the node that wrote it.
    pub run: u64,
    /// The number of its first record.
    pub first: u64,
    /// The run that it goes on from, when it is the first file of its run; zero if it follows none.
    pub after: u64,
    /// The node held nothing when the run began.
    pub from_empty: bool,
}

/// The name of a log file.
pub fn name(first: u64) -> String {
    format!("log-{first:020}.fclog")
}

/// The log files in a directory, in order of their first records.
pub fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let first =
            path.file_name().and_then(|name| name.to_str()?.strip_prefix("log-")?.strip_suffix(".fclog")?.parse().ok());
        if let Some(first) = first {
            found.push((first, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What came of reading a log.
#[derive(Debug, Default)]
pub struct Read {
    /// The history that was reached.
    pub run: u64,
    /// The number of the last record that was passed on, or that of the snapshot.
    pub seq: u64,
    /// How many records were passed on.
    pub records: u64,
    /// A file whose end was being written when the node stopped, and up to where it is whole.
    pub torn: Option<(PathBuf, u64)>,
    /// What is lost, in words for an operator.
    pub damage: Option<String>,
    /// Files behind the damage: nothing leads to them any more.
    pub unreachable: Vec<PathBuf>,
}

/// Read the log from behind record `seq` of `run` (zero and zero: from nothing). Records are passed on in order, several
/// at a time, with the number of the first; with none when a new run begins: what is unfinished then did not happen.
/// Passing on may end the reading early.
pub fn read(
    directory: &Path,
    run: u64,
    seq: u64,
    mut pass: impl FnMut(u64, &[u8]) -> Result<(), Wrong>,
) -> Result<Read, Wrong> {
    let files = list(directory)?;
    let mut state = Read { run, seq, ..Read::default() };
    let mut packer = Packer::default();
    for (index, (first, path)) in files.iter().enumerate() {
        let later = files.get(index + 1).map(|(first, _)| *first);
        if later.is_some_and(|later| later <= state.seq + 1) && *first <= state.seq {
            continue; // All it holds is known, or was given up.
        }
        let bytes = std::fs::read(path)?;
        let head = packer.read(&bytes).ok().filter(|(frame, _)| frame.kind == Kind::LogHead);
        let about = head.as_ref().and_then(|(frame, _)| serde_json::from_slice::<About>(&frame.content).ok());
        let (Some((head, mut at)), Some(about)) = (head, about) else {
            if packer.seek(&bytes, 0).is_none() && later.is_none() {
                state.torn = Some((path.clone(), 0));
                return Ok(state);
            }
            return Ok(lost(state, &files, path, "its head is damaged"));
        };
        if about.run != state.run {
            let follows = (about.after == state.run && state.run != 0 || about.from_empty && state.run == 0)
                && about.first == state.seq + 1;
            if !follows {
                return Ok(lost(state, &files, path, "it does not go on from what came before it"));
            }
        }
        while at < bytes.len() {
            let frame = match packer.read(&bytes[at..]) {
                Ok((frame, len)) if frame.kind == Kind::Batch && frame.tag == head.tag => {
                    count(&frame.content).map(|count| (frame, len, count))
                }
                _ => None,
            };
            if let Some((frame, len, count)) = frame {
                let (first, last) = (frame.number, frame.number + count - 1);
                if first > state.seq + 1 {
                    return Ok(lost(state, &files, path, "records are missing in it"));
                }
                if last > state.seq {
                    // A run without records leaves nothing to go on from: its file gives way to that of the next.
                    if state.run != about.run {
                        state.run = about.run;
                        pass(about.first, &[])?;
                    }
                    let known = (state.seq + 1 - first) as usize;
                    let from = skip(&frame.content, known);
                    pass(state.seq + 1, &frame.content[from..])?;
                    state.records += last - state.seq;
                    state.seq = last;
                }
                at += len;
                continue;
            }
            // Damaged. Whatever goes on from before here makes it irrelevant.
            let resumes = |first: u64| first <= state.seq + 1;
            let next = packer.seek(&bytes, at + 1);
            let number = next.and_then(|next| packer.read(&bytes[next..]).ok()).map(|(frame, _)| frame.number);
            match (next, number) {
                _ if later.is_some_and(resumes) => break,
                (Some(next), Some(number)) if resumes(number) => at = next,
                (None, _) if later.is_none() => {
                    state.torn = Some((path.clone(), at as u64));
                    return Ok(state);
                }
                _ => {
                    let what = format!("it is damaged at byte {at}");
                    return Ok(lost(state, &files, path, &what));
                }
            }
        }
    }
    Ok(state)
}

fn lost(mut state: Read, files: &[(u64, PathBuf)], path: &Path, what: &str) -> Read {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    state.damage = Some(format!("{name}: {what}; what was written behind record {} is lost", state.seq));
    state.unreachable = files.iter().filter(|(first, _)| *first > state.seq).map(|(_, path)| path.clone()).collect();
    state
}

/// How many records these bytes are; `None` when they are no records.
fn count(bytes: &[u8]) -> Option<u64> {
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        at += Record::parse(&bytes[at..]).ok()??.bytes.len();
        count += 1;
    }
    (count > 0).then_some(count)
}

/// Where the record stands that has so many before it.
fn skip(bytes: &[u8], count: usize) -> usize {
    let mut at = 0;
    for _ in 0..count {
        if let Ok(Some(record)) = Record::parse(&bytes[at..]) {
            at += record.bytes.len();
        }
    }
    at
}
