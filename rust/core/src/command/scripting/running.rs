//! The script that runs: how others learn of it, and how it is ended.

use super::call::Link;
use crate::command::Engine;
use crate::command::settings::Name;
use smallvec::SmallVec;
use std::cell::Cell;

/// What a script is told that was ended.
pub const KILLED: &str = "Script killed by user with SCRIPT KILL...";

/// How long a script may run over gathered keys, ms: in a proxy, nothing is done for others meanwhile. Nothing of what it
/// wrote is kept when it is ended.
const LONGEST_GATHERED_MS: u64 = 250;

/// Does for others what can be done now without waiting.
pub type Others = fn(&mut Engine);

thread_local! {
    /// What the thread that serves does for others while a script keeps it busy; nothing where there are no sockets.
    pub static OTHERS: Cell<Option<Others>> = const { Cell::new(None) };
}

/// A script that runs.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// Its SHA-1, or the function's name.
    pub name: SmallVec<[u8; 40]>,
    /// The command with which it was called.
    pub command: Vec<Vec<u8>>,
    /// It is a function of a library.
    pub is_function: bool,
    /// It has run for longer than scripts should: others are told BUSY.
    pub is_late: bool,
    /// It has written: it cannot be killed without leaving things half done.
    pub wrote: bool,
    /// It was told to end.
    pub killed: bool,
    /// When it began, in ticks of the processor.
    pub began: u64,
}

/// A stretch of a script's instructions is over: see to others once it runs for long.
pub fn tick(link: &Link) {
    let passed = link.run.passed_ms();
    let killed = link.engine.borrow(|engine| {
        if engine.gathered.is_some() {
            return passed > LONGEST_GATHERED_MS;
        }
        let limit = engine.settings.number(Name::busy_reply_threshold).max(0) as u64;
        if passed < limit {
            return false;
        }
        if let Some(running) = &mut engine.scripting.running {
            running.is_late = true;
        }
        if let Some(others) = OTHERS.get() {
            others(engine);
        }
        engine.stopping || engine.scripting.running.as_ref().is_some_and(|running| running.killed)
    });
    if killed == Some(true) {
        link.run.killed.set(true);
    }
}
