//! The log of slow commands.

use crate::resp::Args;
use std::collections::VecDeque;

/// One slow command.
pub struct SlowCommand {
    /// Its number, rising.
    pub id: i64,
    /// Second at which it ran.
    pub when: u64,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// Its arguments, long ones and many cut short.
    pub args: Vec<Vec<u8>>,
    /// The client's address.
    pub address: String,
    /// The client's name.
    pub name: Vec<u8>,
}

/// The newest slow commands; how slow is a setting.
#[derive(Default)]
pub struct SlowLog {
    /// The newest first.
    pub entries: VecDeque<SlowCommand>,
    next: i64,
    threshold: i64,
    most: usize,
}

const MOST_ARGS: usize = 32;
const MOST_BYTES: usize = 128;

impl SlowLog {
    /// Take over the settings.
    pub fn configure(&mut self, threshold: i64, most: usize) {
        self.threshold = threshold;
        self.most = most;
        self.entries.truncate(most);
    }

    /// Whether a command that took so long is to be logged.
    #[inline]
    pub fn wants(&self, micros: u64) -> bool {
        self.threshold >= 0 && micros as i64 >= self.threshold && self.most > 0
    }

    /// Log a command.
    pub fn add(&mut self, args: &Args<'_>, micros: u64, when: u64, address: &str, name: &[u8]) {
        let shown = if args.len() > MOST_ARGS { MOST_ARGS - 1 } else { args.len() };
        let mut kept: Vec<Vec<u8>> = args
            .from(0)
            .take(shown)
            .map(|arg| {
                if arg.len() <= MOST_BYTES {
                    return arg.to_vec();
                }
                let mut cut = arg[..MOST_BYTES].to_vec();
                cut.extend_from_slice(format!("... ({} more bytes)", arg.len() - MOST_BYTES).as_bytes());
                cut
            })
            .collect();
        if shown < args.len() {
            kept.push(format!("... ({} more arguments)", args.len() - shown).into_bytes());
        }
        self.entries.push_front(SlowCommand {
            id: self.next,
            when,
            micros,
            args: kept,
            address: address.to_owned(),
            name: name.to_vec(),
        });
        self.next += 1;
        self.entries.truncate(self.most);
    }
}
