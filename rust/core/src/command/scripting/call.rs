//! `redis.call` and `redis.pcall`: from a script's values to a command and its reply.

use super::flags::Flags;
use crate::command::client::Client;
use crate::command::table::{self, flag};
use crate::command::{Engine, acl, cluster, dispatch};
use crate::resp::number::write_g;
use crate::resp::{Args, OwnedArgs, Reply};
use crate::sys::lua::{Given, Host, Lent, Word};
use std::cell::{Cell, RefCell};

/// What a script's functions reach beyond their interpreter: the node and the client, while a script runs.
#[derive(Default)]
pub struct Link {
    /// The node.
    pub engine: Lent<Engine>,
    /// The client that sent the script.
    pub client: Lent<Client>,
    /// How the script runs.
    pub run: Run,
    /// Functions registered by the library that is being loaded.
    pub loading: RefCell<Option<Vec<super::registry::Function>>>,
    args: RefCell<OwnedArgs>,
    reply: RefCell<Reply>,
}

/// How a script runs.
#[derive(Default)]
pub struct Run {
    /// It asked for RESP3.
    pub resp3: Cell<bool>,
    /// It may not write.
    pub read_only: Cell<bool>,
    /// It may write while memory is short.
    pub allow_oom: Cell<bool>,
    /// Memory was short when it began.
    pub short_of_memory: Cell<bool>,
    /// It has written.
    pub wrote: Cell<bool>,
    /// It was told to end.
    pub killed: Cell<bool>,
    /// When it began, in ticks of the processor.
    pub began: Cell<u64>,
}

impl Run {
    /// Milliseconds since it began.
    pub fn passed_ms(&self) -> u64 {
        crate::clock::ticks_to_us(crate::sys::ticks().wrapping_sub(self.began.get())) / 1000
    }

    /// A script begins.
    pub fn begin(&self, flags: Flags, read_only: bool, short_of_memory: bool) {
        self.resp3.set(false);
        self.read_only.set(read_only || flags.has(Flags::NO_WRITES));
        self.allow_oom.set(flags.has(Flags::ALLOW_OOM));
        self.short_of_memory.set(short_of_memory);
        self.wrote.set(false);
        self.killed.set(false);
        self.began.set(crate::sys::ticks());
    }
}

impl Host for Link {
    fn command(&self, given: Given<'_>) -> Result<(), &'static str> {
        let (Ok(mut args), Ok(mut out)) = (self.args.try_borrow_mut(), self.reply.try_borrow_mut()) else {
            return Err("ERR a command of a script cannot run another");
        };
        let words = given.words();
        if words.len() == 0 {
            return Err("ERR Please specify at least one argument for this redis lib call");
        }
        args.clear();
        for word in words {
            match word {
                Word::Text(text) => args.push(text),
                Word::Number(number) => push_number(&mut args, number),
                Word::Other => return Err("ERR Lua redis lib command arguments must be strings or integers"),
            }
        }
        self.run_words(&args.as_args(), &mut out)
    }

    fn reply(&self) -> &RefCell<Reply> {
        &self.reply
    }
}

impl Link {
    /// Run the command that these words are, as one of the script that runs.
    fn run_words(&self, args: &Args<'_>, out: &mut Reply) -> Result<(), &'static str> {
        out.clear();
        out.speak(self.run.resp3.get());
        let ran = self.engine.borrow(|engine| {
            self.client.borrow(|client| {
                if let Err(text) = run(engine, client, &self.run, args, out) {
                    dispatch::fail(engine, out, &crate::command::Fault::new(text));
                }
            })
        });
        ran.flatten().ok_or("ERR redis.call/pcall can only be called inside a script invocation")
    }
}

/// A number as Lua 5.1 and Redis write it.
fn push_number(args: &mut OwnedArgs, number: f64) {
    let whole = number as i64;
    if whole as f64 == number && whole.unsigned_abs() < 1 << 53 && (whole != 0 || number.is_sign_positive()) {
        return args.push(itoa::Buffer::new().format(whole).as_bytes());
    }
    let mut text = Vec::with_capacity(24);
    write_g(&mut text, number, 17);
    args.push(&text);
}

/// What a script is told that asks for a key of another node.
pub const NON_LOCAL: &str = "ERR Script attempted to access a non local key in a cluster node";

/// Judge a command of a script and run it.
pub fn run(
    engine: &mut Engine,
    client: &mut Client,
    how: &Run,
    args: &Args<'_>,
    out: &mut Reply,
) -> Result<(), &'static str> {
    const UNKNOWN: &str = "ERR Unknown Redis command called from script";
    let (row, place) = table::find(args.at(0)).ok_or(UNKNOWN)?;
    if args.len() > 1 && !row.subcommands.is_empty() && row.subcommand(args.at(1)).is_none() {
        return Err(UNKNOWN);
    }
    let (row, place) = dispatch::resolve(row, place, args)
        .map_err(|_| "ERR Wrong number of args calling Redis command from script")?;
    if row.is(flag::NOSCRIPT) {
        return Err("ERR This Redis command is not allowed from script");
    }
    if let Err(denied) = acl::check::admit_script(engine, client, row, place, args) {
        dispatch::fail(engine, out, &denied);
        return Ok(());
    }
    if how.read_only.get() && row.is(flag::WRITE | flag::MAY_REPLICATE) {
        return Err("ERR Write commands are not allowed from read-only scripts.");
    }
    if let Some(membership) = &engine.membership {
        cluster::redirect::admit(engine, membership, client, row, args).map_err(|_| NON_LOCAL)?;
    }
    if let Some(gathered) = &mut engine.gathered {
        gathered.admit(row, args)?;
    }
    // Only the first write can be refused: a script is not stopped half way.
    if row.is(flag::DENYOOM) && how.short_of_memory.get() && !how.allow_oom.get() && !how.wrote.get() {
        return Err("OOM command not allowed when used memory > 'maxmemory'.");
    }
    if row.is(flag::WRITE) {
        how.wrote.set(true);
        if let Some(running) = &mut engine.scripting.running {
            running.wrote = true;
        }
    }
    dispatch::run(engine, client, row, place, args, out, false);
    Ok(())
}
