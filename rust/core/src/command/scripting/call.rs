//! `redis.call` and `redis.pcall`: from a script's values to a command and its reply.

use super::flags::Flags;
use super::value::Words;
use crate::command::client::Client;
use crate::command::table::{self, flag};
use crate::command::{Engine, acl, cluster, dispatch};
use crate::resp::number::write_g;
use crate::resp::{Args, OwnedArgs, Reply};
use crate::sys::lua::Lent;
use mlua::{Lua, MultiValue, Table, Value};
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
    pub loading: RefCell<Option<Vec<super::functions::Function>>>,
    buffers: RefCell<(OwnedArgs, Reply)>,
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
    /// When it began, in nanoseconds of the steady clock.
    pub began: Cell<u64>,
}

impl Run {
    /// A script begins.
    pub fn begin(&self, flags: Flags, read_only: bool, short_of_memory: bool) {
        self.resp3.set(false);
        self.read_only.set(read_only || flags.has(Flags::NO_WRITES));
        self.allow_oom.set(flags.has(Flags::ALLOW_OOM));
        self.short_of_memory.set(short_of_memory);
        self.wrote.set(false);
        self.killed.set(false);
        self.began.set(crate::clock::steady_ns());
    }
}

/// What a command of a script came to: its reply, or an error as a table.
pub enum Answer {
    /// The reply.
    Reply(Value),
    /// The error.
    Error(Table),
}

/// Run the command that these values are.
pub fn call(link: &Link, words: &Words, lua: &Lua, values: &MultiValue) -> mlua::Result<Answer> {
    let wrong = |text: &str| Ok(Answer::Error(words.error(lua, text.as_bytes(), false)?));
    let Ok(mut buffers) = link.buffers.try_borrow_mut() else {
        return wrong("ERR a command of a script cannot run another");
    };
    let (args, out) = &mut *buffers;
    if values.is_empty() {
        return wrong("ERR Please specify at least one argument for this redis lib call");
    }
    args.clear();
    for value in values {
        match value {
            Value::String(text) => args.push(&text.as_bytes()),
            Value::Integer(number) => args.push(itoa::Buffer::new().format(*number).as_bytes()),
            Value::Number(number) => {
                let mut text = Vec::with_capacity(24);
                write_g(&mut text, *number, 17);
                args.push(&text);
            }
            _ => return wrong("ERR Lua redis lib command arguments must be strings or integers"),
        }
    }
    out.clear();
    out.speak(link.run.resp3.get());
    let ran = link.engine.borrow(|engine| {
        link.client.borrow(|client| {
            if let Err(text) = run(engine, client, &link.run, &args.as_args(), out) {
                dispatch::fail(engine, out, &crate::command::Fault::new(text));
            }
        })
    });
    if ran.flatten().is_none() {
        return wrong("ERR redis.call/pcall can only be called inside a script invocation");
    }
    if out.bytes().first() == Some(&b'-') {
        let line = out.bytes()[1..].split(|&byte| byte == b'\r').next().unwrap_or_default();
        return Ok(Answer::Error(words.error(lua, line, true)?));
    }
    Ok(Answer::Reply(words.read(lua, out.bytes())?.0))
}

/// Judge a command of a script and run it.
fn run(
    engine: &mut Engine,
    client: &mut Client,
    how: &Run,
    args: &Args<'_>,
    out: &mut Reply,
) -> Result<(), &'static str> {
    let (row, place) = match table::find(args.at(0)) {
        Some((row, _)) if args.len() > 1 && !row.subcommands.is_empty() && row.subcommand(args.at(1)).is_none() => {
            return Err("ERR Unknown Redis command called from script");
        }
        Some(_) => {
            dispatch::resolve_quietly(args).ok_or("ERR Wrong number of args calling Redis command from script")?
        }
        None => return Err("ERR Unknown Redis command called from script"),
    };
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
        cluster::redirect::admit(engine, membership, client, row, args)
            .map_err(|_| "ERR Script attempted to access a non local key in a cluster node")?;
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
