//! An engine that holds the values of a few keys, brought together from several nodes, so that something can run over
//! all of them (`server::proxy::scratch`): which keys these are, and what that something asked for besides.

use super::table::{Command, flag};
use crate::resp::{Args, OwnedArgs};
use std::collections::HashSet;

/// See the module's page.
#[derive(Default)]
pub struct Gathered {
    /// Keys whose values are here, or known to be none.
    pub known: HashSet<Box<[u8]>>,
    /// Keys that were asked for and are not here yet.
    pub missing: Vec<Box<[u8]>>,
    /// Messages for channels: nobody listens here.
    pub said: Vec<OwnedArgs>,
}

impl Gathered {
    /// Judge a command before it runs. When the error is about a key that is missing, it is told nobody: all is run again
    /// with that key.
    pub fn admit(&mut self, row: &Command, args: &Args<'_>) -> Result<(), &'static str> {
        if matches!(row.name, "publish" | "spublish") {
            self.said.push(args.to_owned());
            return Ok(());
        }
        if row.is(flag::WRITE | flag::READONLY) && row.keys.is_empty() {
            return Err("ERR what concerns all keys is not possible together with keys of several nodes");
        }
        let elsewhere = match row.name {
            "select" | "move" => true,
            "copy" => (3..args.len()).any(|at| args.is(at, "DB")),
            "sort" | "sort_ro" => (2..args.len()).any(|at| args.at(at).contains(&b'*')),
            _ => false,
        };
        if elsewhere {
            return Err("ERR other keys than those named are not possible together with keys of several nodes");
        }
        let before = self.missing.len();
        for key in row.every_key(args).unwrap_or_default().into_iter().map(|at| args.at(at)) {
            if !self.known.contains(key) && !self.missing.iter().any(|known| **known == *key) {
                self.missing.push(key.into());
            }
        }
        if self.missing.len() > before { Err("ERR a value is still to be brought here") } else { Ok(()) }
    }
}
