//! The thin door between Python and the core: the module `fastcache._core`.
//!
//! Nothing is decided here. Values are turned from one language's shape into the other's, errors become
//! exceptions, and whatever may wait releases the GIL. What Python sees is described in
//! `fastcache/_core.pyi`, which must say the same.

mod topology;

use fastcache_core::notify;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

/// Python keeps its own allocator; this one serves the core alone.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keep the number of the system's error where there is one, so that Python raises the right kind of OSError.
fn os_error(error: std::io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(number) => PyOSError::new_err((number, error.to_string())),
        None => PyOSError::new_err(error.to_string()),
    }
}

/// The version of the core, which is that of the whole package.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// "release", or "debug" for a build that checks itself and is slow.
#[pyfunction]
fn build_profile() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

/// Tell the service manager how we are; False when there is none.
#[pyfunction(name = "notify")]
fn notify_manager(state: &str) -> PyResult<bool> {
    notify::notify(state).map_err(os_error)
}

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::topology::{Topology, place, slot_of};
    #[pymodule_export]
    use super::{build_profile, notify_manager, version};
}
