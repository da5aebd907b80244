//! What scripts need of Lua's C interface and `mlua` does not offer: errors that are plain Lua values, guards in
//! front of library functions, and a loan of the node to functions that cannot name its lifetime.

use mlua::ffi::{self, lua_State};
use mlua::{Function, Lua, Table};
use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::NonNull;

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
