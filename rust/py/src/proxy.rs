//! A proxy for Python: started, fed with topologies, asked how it fares, stopped.

use std::time::Duration;

use fastcache_core::route::Map;
use fastcache_core::server;
use pyo3::exceptions::{PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::topology::Topology;
use crate::{number, os_error};

/// A proxy inside this process, on a thread of its own.
#[pyclass(frozen, module = "fastcache._core")]
pub(crate) struct Proxy {
    inner: server::Proxy,
}

#[pymethods]
impl Proxy {
    /// Judge the settings; nothing is opened before `start`.
    #[new]
    fn new(settings: Vec<(String, String)>) -> PyResult<Self> {
        let inner = server::Proxy::new(&settings).map_err(PyValueError::new_err)?;
        Ok(Proxy { inner })
    }

    /// Bind, listen, and run the event loop on its own thread. `left` is the descriptor that `hand_over` returned in the
    /// program that this process was before.
    #[pyo3(signature = (left=None))]
    fn start(&self, py: Python<'_>, left: Option<i32>) -> PyResult<()> {
        py.detach(|| self.inner.start(left)).map_err(os_error)
    }

    /// End, and leave all connections open for the program that this process is to become (`exec`): a descriptor of what
    /// there is. TimeoutError when requests under way are not answered in time; then it goes on serving.
    fn hand_over(&self, py: Python<'_>) -> PyResult<i32> {
        py.detach(|| self.inner.hand_over()).map_err(PyTimeoutError::new_err)
    }

    /// Route by this topology from now on; an older one than that in force changes nothing. `here` names
    /// the hosts whose Unix sockets can be reached. False when the proxy does not run.
    fn set_topology(&self, topology: &Topology, here: Vec<String>) -> bool {
        self.inner.set_map(Map::from_document(topology.document(), &here))
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

    /// A number that rises when a node cannot be reached or turns requests away.
    fn trouble(&self) -> u64 {
        self.inner.trouble()
    }

    /// The same, once it is another than `seen`, or after `timeout_seconds`.
    fn trouble_after(&self, py: Python<'_>, seen: u64, timeout_seconds: f64) -> PyResult<u64> {
        let timeout = Duration::try_from_secs_f64(timeout_seconds)
            .map_err(|_| PyValueError::new_err("timeout_seconds: not a length of time"))?;
        Ok(py.detach(|| self.inner.trouble_after(seen, timeout)))
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
