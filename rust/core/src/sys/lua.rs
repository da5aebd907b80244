//! What scripts need of Lua's C interface and `mlua` does not offer: errors that are plain Lua values, guards in
//! front of library functions, a loan of the node to functions that cannot name its lifetime, and a way from Lua to a
//! command and back on which nothing is allocated but what the script gets.

use crate::resp::Reply;
use crate::resp::number::parse_i64;
use mlua::ffi::{self, lua_State};
use mlua::{Function, Lua, Table, Value};
use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::rc::Rc;

/// A reference lent to code that cannot name its lifetime: the functions a script calls.
///
/// Whoever lends it cannot use it meanwhile, and only one borrower has it at a time.
pub struct Lent<T: ?Sized>(Cell<Option<NonNull<T>>>);

impl<T: ?Sized> Default for Lent<T> {
    fn default() -> Self {
        Lent(Cell::new(None))
    }
}

/// Puts back what was there before, however the borrower ends.
struct Restore<'a, T: ?Sized>(&'a Cell<Option<NonNull<T>>>, Option<NonNull<T>>);

impl<T: ?Sized> Drop for Restore<'_, T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

impl<T: ?Sized> Lent<T> {
    /// Lend `value` while `during` runs.
    pub fn lend<R>(&self, value: &mut T, during: impl FnOnce() -> R) -> R {
        let _restore = Restore(&self.0, self.0.replace(Some(NonNull::from(value))));
        during()
    }

    /// Use what is lent; `None` when nothing is, or when somebody uses it already.
    #[allow(unsafe_code)]
    pub fn borrow<R>(&self, what: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut lent = self.0.take()?;
        let _restore = Restore(&self.0, Some(lent));
        // Safety: `lend` holds the unique reference for as long as the pointer is there, and taking it out makes
        // this the only use of it.
        Some(what(unsafe { lent.as_mut() }))
    }
}

/// A function that calls `inner`, which answers first what is wrong and then its results. A text that is wrong is
/// raised with the place in the script in front, as C functions do; a table as it is; `true` says that what follows is.
#[allow(unsafe_code)]
pub fn raising(lua: &Lua, inner: Function) -> mlua::Result<Function> {
    // Safety: one value, `inner`, is on the stack and becomes the closure's.
    unsafe { lua.exec_raw(inner, |state| ffi::lua_pushcclosure(state, call_and_raise, 1)) }
}

/// Redis' `pcall`: an error that is a table with `err` is told as that text. `foreign` is what is told for
/// errors that are no values of Lua's.
#[allow(unsafe_code)]
pub fn pcall(lua: &Lua, foreign: &str) -> mlua::Result<Function> {
    // Safety: one value, the text, is on the stack and becomes the closure's.
    unsafe { lua.exec_raw(foreign, |state| ffi::lua_pushcclosure(state, protected_call, 1)) }
}

/// `original`, a C function, but an error when its first argument is one of the tables that are keys of `guarded`.
#[allow(unsafe_code)]
pub fn guarded(lua: &Lua, original: Function, guarded: &Table) -> mlua::Result<Function> {
    // Safety: the two values become the closure's; what `original` is, is checked when it is called.
    unsafe { lua.exec_raw((original, guarded), |state| ffi::lua_pushcclosure(state, unless_guarded, 2)) }
}

/// `unpack` that counts in 64 bits how much it is to return: the original's sum overflows.
#[allow(unsafe_code)]
pub fn bounded_unpack(lua: &Lua, original: Function) -> mlua::Result<Function> {
    // Safety: one value, `original`, is on the stack and becomes the closure's.
    unsafe { lua.exec_raw(original, |state| ffi::lua_pushcclosure(state, unpack_within_bounds, 1)) }
}

// Safety of the four functions below: they are called by Lua alone, with a valid state whose stack has room for
// twenty values, and use valid indices of it. No value with a destructor lives while `lua_error` leaves them.

#[allow(unsafe_code)]
unsafe extern "C-unwind" fn call_and_raise(state: *mut lua_State) -> c_int {
    unsafe {
        let given = ffi::lua_gettop(state);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_insert(state, 1);
        ffi::lua_call(state, given, ffi::LUA_MULTRET);
        match ffi::lua_type(state, 1) {
            ffi::LUA_TNIL => {
                ffi::lua_remove(state, 1);
                ffi::lua_gettop(state)
            }
            ffi::LUA_TSTRING => {
                ffi::luaL_where(state, 1);
                ffi::lua_pushvalue(state, 1);
                ffi::lua_concat(state, 2);
                ffi::lua_error(state)
            }
            _ => {
                // A table is raised itself; behind anything else stands what is to be raised.
                ffi::lua_settop(state, if ffi::lua_type(state, 1) == ffi::LUA_TTABLE { 1 } else { 2 });
                ffi::lua_error(state)
            }
        }
    }
}

#[allow(unsafe_code)]
unsafe extern "C-unwind" fn protected_call(state: *mut lua_State) -> c_int {
    unsafe {
        let given = ffi::lua_gettop(state);
        if given == 0 {
            return 0;
        }
        ffi::lua_pushboolean(state, 1);
        ffi::lua_insert(state, 1);
        if ffi::lua_pcall(state, given - 1, ffi::LUA_MULTRET, 0) != ffi::LUA_OK {
            ffi::lua_replace(state, 1);
            ffi::lua_settop(state, 1);
            if ffi::lua_type(state, 1) == ffi::LUA_TTABLE {
                ffi::lua_pushstring(state, c"err".as_ptr());
                ffi::lua_rawget(state, 1);
                if ffi::lua_isstring(state, -1) != 0 {
                    ffi::lua_replace(state, 1);
                }
            } else if ffi::lua_type(state, 1) == ffi::LUA_TUSERDATA {
                ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
                ffi::lua_replace(state, 1);
            }
            ffi::lua_settop(state, 1);
            ffi::lua_pushboolean(state, 0);
            ffi::lua_insert(state, 1);
        }
        ffi::lua_gettop(state)
    }
}

#[allow(unsafe_code)]
unsafe extern "C-unwind" fn unless_guarded(state: *mut lua_State) -> c_int {
    unsafe {
        // All guarded tables have a metatable, and hardly any other has.
        if ffi::lua_getmetatable(state, 1) != 0 {
            ffi::lua_pushvalue(state, 1);
            ffi::lua_rawget(state, ffi::lua_upvalueindex(2));
            if ffi::lua_toboolean(state, -1) != 0 {
                ffi::lua_pushstring(state, c"Attempt to modify a readonly table".as_ptr());
                ffi::lua_error(state);
            }
            ffi::lua_pop(state, 2);
        }
        match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(1)) {
            Some(original) => original(state),
            None => 0,
        }
    }
}

#[allow(unsafe_code)]
unsafe extern "C-unwind" fn unpack_within_bounds(state: *mut lua_State) -> c_int {
    unsafe {
        let first = if ffi::lua_isnoneornil(state, 2) != 0 { 1.0 } else { ffi::lua_tonumber(state, 2) };
        let last = if ffi::lua_isnoneornil(state, 3) != 0 {
            ffi::lua_objlen(state, 1) as f64
        } else {
            ffi::lua_tonumber(state, 3)
        };
        let fits = |number: f64| number.abs() < f64::from(i32::MAX);
        if !fits(first) || !fits(last) || last - first >= 8000.0 {
            ffi::luaL_where(state, 1);
            ffi::lua_pushstring(state, c"too many results to unpack".as_ptr());
            ffi::lua_concat(state, 2);
            ffi::lua_error(state);
        }
        match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(1)) {
            Some(original) => original(state),
            None => 0,
        }
    }
}

/// Who runs the commands of scripts.
pub trait Host: 'static {
    /// Run the command that was given; the reply is in [`Host::reply`] then. An error is told to the script as it is.
    fn command(&self, given: Given<'_>) -> Result<(), &'static str>;

    /// The reply to the last command, in RESP.
    fn reply(&self) -> &RefCell<Reply>;
}

/// What a script has given to a function.
pub struct Given<'a>(*mut lua_State, PhantomData<&'a ()>);

/// A value that a script has given to a function.
pub enum Word<'a> {
    /// A string.
    Text(&'a [u8]),
    /// A number.
    Number(f64),
    /// Anything else.
    Other,
}

impl<'a> Given<'a> {
    /// The values, in order.
    #[allow(unsafe_code)]
    pub fn words(&self) -> impl ExactSizeIterator<Item = Word<'a>> + use<'a> {
        let state = self.0;
        // Safety: as long as `'a` lasts the function's arguments stay on the stack, and nobody calls Lua; a string is
        // asked for its bytes only where it is one, so that nothing is converted or allocated.
        let count = unsafe { ffi::lua_gettop(state) };
        (0..count).map(move |at| unsafe {
            match ffi::lua_type(state, at + 1) {
                ffi::LUA_TSTRING => {
                    let mut len = 0;
                    let bytes = ffi::lua_tolstring(state, at + 1, &mut len);
                    Word::Text(std::slice::from_raw_parts(bytes.cast(), len))
                }
                ffi::LUA_TNUMBER => Word::Number(ffi::lua_tonumber(state, at + 1)),
                _ => Word::Other,
            }
        })
    }
}

/// A function that runs the command it is given and returns the reply; where that is an error it raises it, or returns
/// it, as a table.
#[allow(unsafe_code)]
pub fn commander<T: Host>(lua: &Lua, host: &Rc<T>, raises: bool) -> mlua::Result<Function> {
    // What the functions point to lives as long as the interpreter.
    lua.set_app_data(Rc::clone(host));
    let pointer = Rc::as_ptr(host).cast_mut().cast();
    // Safety: one value becomes the closure's.
    unsafe {
        lua.exec_raw((), |state| {
            ffi::lua_pushlightuserdata(state, pointer);
            ffi::lua_pushcclosure(state, if raises { command::<T, true> } else { command::<T, false> }, 1);
        })
    }
}

/// Call a function with these keys and arguments, as arguments of its own, or where the globals are given, as their
/// `KEYS` and `ARGV`. Errors go through `handler`. Answers whether it went well, and the result or the error.
#[allow(unsafe_code)]
pub fn call_with<'a>(
    lua: &Lua,
    (functions, place): (&Table, i64),
    globals: Option<&Table>,
    handler: &Function,
    keys: impl ExactSizeIterator<Item = &'a [u8]>,
    arguments: impl ExactSizeIterator<Item = &'a [u8]>,
) -> mlua::Result<(bool, Value)> {
    // Safety: the three values are on the stack when the closure begins, at 1, 2 and 3, and it leaves two. What it owns
    // are iterators over slices, which have nothing to be dropped.
    unsafe {
        lua.exec_raw((functions, globals, handler), move |state| {
            ffi::lua_rawgeti(state, 1, place as ffi::lua_Integer);
            let given = if ffi::lua_type(state, 2) == ffi::LUA_TTABLE {
                ffi::lua_pushlstring(state, b"KEYS".as_ptr().cast(), 4);
                push_list(state, keys);
                ffi::lua_rawset(state, 2);
                ffi::lua_pushlstring(state, b"ARGV".as_ptr().cast(), 4);
                push_list(state, arguments);
                ffi::lua_rawset(state, 2);
                0
            } else {
                push_list(state, keys);
                push_list(state, arguments);
                2
            };
            let fine = ffi::lua_pcall(state, given, 1, 3) == ffi::LUA_OK;
            ffi::lua_pushboolean(state, fine.into());
            ffi::lua_replace(state, 1);
            ffi::lua_replace(state, 2);
            ffi::lua_settop(state, 2);
        })
    }
}

// Safety of the functions below: they are called with a valid state, and ask for room on its stack before they go
// deeper. Whatever allocates in Lua may leave them by an error: nothing with a destructor lives then.

#[allow(unsafe_code)]
unsafe fn push_text(state: *mut lua_State, text: &[u8]) {
    unsafe { ffi::lua_pushlstring(state, text.as_ptr().cast(), text.len()) };
}

#[allow(unsafe_code)]
unsafe fn push_list<'a>(state: *mut lua_State, items: impl ExactSizeIterator<Item = &'a [u8]>) {
    unsafe {
        ffi::lua_createtable(state, c_int::try_from(items.len()).unwrap_or(0), 0);
        for (index, item) in items.enumerate() {
            push_text(state, item);
            ffi::lua_rawseti(state, -2, index as ffi::lua_Integer + 1);
        }
    }
}

#[allow(unsafe_code)]
unsafe extern "C-unwind" fn command<T: Host, const RAISES: bool>(state: *mut lua_State) -> c_int {
    unsafe {
        let host = &*ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)).cast_const().cast::<T>();
        let ran = host.command(Given(state, PhantomData));
        ffi::lua_settop(state, 0);
        let error = match ran {
            Ok(()) => {
                // Nobody runs a command while its reply is read: only the allocator and the collector do.
                let Ok(reply) = host.reply().try_borrow_unguarded() else { return 0 };
                match reply.bytes().split_first() {
                    Some((b'-', rest)) => (&rest[..memchr::memchr(b'\r', rest).unwrap_or(rest.len())], true),
                    _ => {
                        push_reply(state, reply.bytes());
                        return 1;
                    }
                }
            }
            Err(text) => (text.as_bytes(), false),
        };
        ffi::lua_createtable(state, 0, 4);
        push_text(state, error.0);
        set(state, b"err");
        if error.1 {
            ffi::lua_pushboolean(state, 1);
            set(state, b"ignore_error_stats_update");
        }
        if RAISES { ffi::lua_error(state) } else { 1 }
    }
}

/// Give the table under the topmost value that value under a name.
#[allow(unsafe_code)]
unsafe fn set(state: *mut lua_State, name: &[u8]) {
    unsafe {
        push_text(state, name);
        ffi::lua_insert(state, -2);
        ffi::lua_rawset(state, -3);
    }
}

/// Push a table with a name for the topmost value, in its place.
#[allow(unsafe_code)]
unsafe fn tag(state: *mut lua_State, name: &[u8]) {
    unsafe {
        ffi::lua_createtable(state, 0, 1);
        ffi::lua_insert(state, -2);
        set(state, name);
    }
}

/// Push the first value in `bytes`, which we wrote ourselves; answers what follows it.
#[allow(unsafe_code)]
unsafe fn push_reply(state: *mut lua_State, bytes: &[u8]) -> &[u8] {
    let Some((&kind, rest)) = bytes.split_first() else {
        unsafe { ffi::lua_pushnil(state) };
        return bytes;
    };
    let end = memchr::memchr(b'\r', rest).unwrap_or(rest.len());
    let (line, mut rest) = (&rest[..end], rest.get(end + 2..).unwrap_or_default());
    let number = || parse_i64(line).unwrap_or(0);
    unsafe {
        ffi::luaL_checkstack(state, 8, c"a reply is nested too deeply".as_ptr());
        match kind {
            b':' => ffi::lua_pushnumber(state, number() as f64),
            b'$' | b'*' if line == b"-1" => ffi::lua_pushboolean(state, 0),
            b'$' => {
                let len = usize::try_from(number()).unwrap_or(0).min(rest.len());
                push_text(state, &rest[..len]);
                rest = rest.get(len + 2..).unwrap_or_default();
            }
            b'+' => {
                push_text(state, line);
                tag(state, b"ok");
            }
            b'-' => {
                push_text(state, line);
                tag(state, b"err");
            }
            b'#' => ffi::lua_pushboolean(state, (line == b"t").into()),
            b',' => {
                let number = std::str::from_utf8(line).ok().and_then(|text| text.parse::<f64>().ok());
                ffi::lua_pushnumber(state, number.unwrap_or(f64::NAN));
                tag(state, b"double");
            }
            b'(' => {
                push_text(state, line);
                tag(state, b"big_number");
            }
            b'=' => {
                let len = usize::try_from(number()).unwrap_or(0).min(rest.len());
                ffi::lua_createtable(state, 0, 2);
                push_text(state, rest.get(..3.min(len)).unwrap_or_default());
                set(state, b"format");
                push_text(state, rest.get(4..len).unwrap_or_default());
                set(state, b"string");
                tag(state, b"verbatim_string");
                rest = rest.get(len + 2..).unwrap_or_default();
            }
            b'*' | b'>' => {
                let count = usize::try_from(number()).unwrap_or(0).min(bytes.len());
                ffi::lua_createtable(state, count as c_int, 0);
                for index in 1..=count {
                    rest = push_reply(state, rest);
                    ffi::lua_rawseti(state, -2, index as ffi::lua_Integer);
                }
            }
            b'%' | b'~' => {
                let count = usize::try_from(number()).unwrap_or(0).min(bytes.len());
                ffi::lua_createtable(state, 0, count as c_int);
                for _ in 0..count {
                    rest = push_reply(state, rest);
                    if kind == b'%' {
                        rest = push_reply(state, rest);
                    } else {
                        ffi::lua_pushboolean(state, 1);
                    }
                    if ffi::lua_type(state, -2) == ffi::LUA_TNIL {
                        ffi::lua_settop(state, -3);
                    } else {
                        ffi::lua_rawset(state, -3);
                    }
                }
                tag(state, if kind == b'%' { b"map" } else { b"set" });
            }
            _ => ffi::lua_pushnil(state),
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_borrowed_by_one_at_a_time_and_only_meanwhile() {
        let lent = Lent::<u32>::default();
        let mut number = 1;
        assert_eq!(lent.borrow(|_| ()), None);
        lent.lend(&mut number, || {
            assert_eq!(lent.borrow(|number| *number += 1), Some(()));
            assert_eq!(lent.borrow(|_| lent.borrow(|_| ())), Some(None));
        });
        assert_eq!(lent.borrow(|_| ()), None);
        assert_eq!(number, 2);
    }
}
