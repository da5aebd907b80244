//! The thin door between Python and the core: the module `fastcache._core`.
//!
//! Nothing is decided here. Values are turned from one language's shape into the other's, errors become
//! exceptions, and whatever may wait releases the GIL. What Python sees is described in
//! `fastcache/_core.pyi`, which must say the same.

mod proxy;
mod rdb;
mod snapshot;
mod topology;

use std::time::Duration;

use fastcache_core::command::settings::{Kind, SETTINGS};
use fastcache_core::command::table;
use fastcache_core::sys::Counting;
use fastcache_core::{notify, server};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::topology::Topology;

/// Python keeps its own allocator; this one serves the core alone, which counts what it holds.
#[global_allocator]
static ALLOCATOR: Counting<mimalloc::MiMalloc> = Counting(mimalloc::MiMalloc);

/// A cache server inside this process, on a thread of its own.
#[pyclass(frozen)]
struct Node {
    inner: server::Node,
}

#[pymethods]
impl Node {
    /// Judge the settings; nothing is opened before `start`.
    #[new]
    fn new(settings: Vec<(String, String)>) -> PyResult<Self> {
        let inner = server::Node::new(&settings).map_err(PyValueError::new_err)?;
        Ok(Node { inner })
    }

    /// Bind, listen, and run the event loop on its own thread.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.inner.start()).map_err(os_error)
    }

    /// Obey this topology from now on, or from the start; an older one than that in force changes nothing.
    fn set_topology(&self, topology: &Topology) -> bool {
        self.inner.set_topology(topology.document().clone())
    }

    /// Tell who asks that this node is to stop.
    fn leave(&self, py: Python<'_>) {
        py.detach(|| self.inner.leave());
    }

    /// Drain, then end the thread. A second call changes nothing.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.inner.stop());
    }

    /// True when the loop has ended; False after `timeout_seconds`, or sooner when a signal came.
    fn wait(&self, py: Python<'_>, timeout_seconds: f64) -> PyResult<bool> {
        let timeout = Duration::try_from_secs_f64(timeout_seconds)
            .map_err(|_| PyValueError::new_err("timeout_seconds: not a length of time"))?;
        Ok(py.detach(|| self.inner.wait(timeout)))
    }

    /// Whether the loop ended by a fault of ours.
    fn panicked(&self) -> bool {
        self.inner.panicked()
    }

    /// A number that rises while the loop lives.
    fn heartbeat(&self) -> u64 {
        self.inner.heartbeat()
    }

    /// The counters by name; whole numbers come as int.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = PyDict::new(py);
        for (name, value) in self.inner.stats() {
            stats.set_item(name, number(py, value)?)?;
        }
        Ok(stats)
    }
}

/// An int where the figure is whole, else a float.
fn number(py: Python<'_>, value: f64) -> PyResult<Bound<'_, PyAny>> {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Ok((value as i64).into_pyobject(py)?.into_any());
    }
    Ok(value.into_pyobject(py)?.into_any())
}

/// Keep the number of the system's error where there is one, so that Python raises the right kind of OSError.
fn os_error(error: std::io::Error) -> PyErr {
    match error.raw_os_error() {
        // Python adds the number by itself.
        Some(number) => {
            let text = error.to_string();
            let sentence = text.rsplit_once(" (os error").map_or(text.as_str(), |(sentence, _)| sentence);
            PyOSError::new_err((number, sentence.to_owned()))
        }
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

/// Name, kind, default, whether it can change at run time, and help of every setting of a node.
#[pyfunction]
fn node_settings() -> Vec<(&'static str, String, &'static str, bool, &'static str)> {
    SETTINGS.iter().map(|row| (row.name, kind(row.kind), row.default, row.at_run_time, row.help)).collect()
}

/// A kind of setting in a word; the words of a choice follow it.
fn kind(kind: Kind) -> String {
    match kind {
        Kind::Integer(..) => "integer".into(),
        Kind::Memory(..) => "memory".into(),
        Kind::Boolean => "boolean".into(),
        Kind::Choice(words) => format!("choice:{}", words.join("|")),
        Kind::Text => "text".into(),
        Kind::Secret => "secret".into(),
        Kind::Special => "special".into(),
    }
}

/// Name, arguments, group, version of Redis that brought it, and summary of every command; sub-commands as `parent|sub`.
#[pyfunction]
fn command_table() -> Vec<(String, &'static str, &'static str, &'static str, &'static str)> {
    let mut rows = Vec::new();
    for command in table::all() {
        rows.push((command.name.to_owned(), command.syntax, command.group, command.since, command.summary));
        for sub in command.subcommands {
            let name = format!("{}|{}", command.name, sub.name);
            rows.push((name, sub.syntax, sub.group, sub.since, sub.summary));
        }
    }
    rows.sort();
    rows
}

/// Have this process, and the programs it starts or becomes, do without huge pages until they hold much.
/// False when the kernel will not.
#[pyfunction]
fn start_small() -> bool {
    server::start_small()
}

/// The start is over: give the program text that only it needed back to the kernel. Says how many kilobytes it was.
#[pyfunction]
fn rest(py: Python<'_>) -> u64 {
    py.detach(server::rest)
}

/// Tell the service manager how we are; False when there is none.
#[pyfunction(name = "notify")]
fn notify_manager(state: &str) -> PyResult<bool> {
    notify::notify(state).map_err(os_error)
}

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::proxy::Proxy;
    #[pymodule_export]
    use super::rdb::{ChangeStream, RdbFile};
    #[pymodule_export]
    use super::snapshot::{SnapshotFile, snapshot_sum, snapshots};
    #[pymodule_export]
    use super::topology::{Topology, place, slot_of};
    #[pymodule_export]
    use super::{Node, build_profile, command_table, node_settings, notify_manager, rest, start_small, version};
}
