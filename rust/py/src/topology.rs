//! Ring and topology for Python: bytes in, bytes out, so that no second copy of the rules exists in Python.

use std::path::PathBuf;

use fastcache_core::slot;
use fastcache_core::topology::document::State;
use fastcache_core::topology::{self, Document, NOBODY, Settings, TopologyError};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

fn wrong(error: TopologyError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Do something with a key as Python clients give it: bytes, or text that is taken as UTF-8.
fn with_key<R>(key: &Bound<'_, PyAny>, work: impl FnOnce(&[u8]) -> R) -> PyResult<R> {
    if let Ok(bytes) = key.cast::<PyBytes>() {
        return Ok(work(bytes.as_bytes()));
    }
    if let Ok(text) = key.extract::<String>() {
        return Ok(work(text.as_bytes()));
    }
    Ok(work(&key.extract::<Vec<u8>>()?))
}

/// The slot of a key.
#[pyfunction]
pub(crate) fn slot_of(key: &Bound<'_, PyAny>) -> PyResult<u16> {
    with_key(key, slot::slot_of)
}

/// Place all slots on members (JSON), moving as little as the previous placement (JSON) allows; the answer is JSON.
#[pyfunction]
#[pyo3(signature = (members, previous=None, *, virtual_nodes=150, replicas=0, keep_mains=false))]
pub(crate) fn place<'py>(
    py: Python<'py>,
    members: &[u8],
    previous: Option<&[u8]>,
    virtual_nodes: u32,
    replicas: usize,
    keep_mains: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let settings = Settings { virtual_nodes, replicas, keep_mains };
    let answer = py.detach(|| topology::plan::plan(members, previous, &settings)).map_err(wrong)?;
    Ok(PyBytes::new(py, &answer))
}

/// A topology document that holds together. Made from JSON, never changed.
#[pyclass(frozen, module = "fastcache._core")]
pub(crate) struct Topology(Document);

impl Topology {
    /// What it says.
    pub(crate) fn document(&self) -> &Document {
        &self.0
    }
}

#[pymethods]
impl Topology {
    #[new]
    fn new(json: &[u8]) -> PyResult<Topology> {
        Document::parse(json).map(Topology).map_err(wrong)
    }

    /// The one that was saved at `path`.
    #[staticmethod]
    fn load(path: PathBuf) -> PyResult<Topology> {
        topology::file::load(&path).map(Topology).map_err(wrong)
    }

    /// Keep it at `path`; the old file is replaced whole.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| topology::file::save(&path, &self.0)).map_err(|error| PyOSError::new_err(error.to_string()))
    }

    /// The bytes that everybody agrees on.
    fn canonical<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.canonical())
    }

    #[getter]
    fn epoch(&self) -> u64 {
        self.0.epoch
    }

    #[getter]
    fn cluster_id(&self) -> &str {
        &self.0.cluster.id
    }

    /// SHA-256 of the canonical bytes, in hex.
    #[getter]
    fn digest(&self) -> String {
        self.0.digest()
    }

    /// Ids of all nodes, sorted.
    #[getter]
    fn node_ids(&self) -> Vec<&str> {
        self.0.nodes().iter().map(|node| node.id.as_str()).collect()
    }

    /// The holders of a slot: the main, then its replicas; empty when nobody holds it.
    fn holders(&self, slot: u16) -> PyResult<Vec<&str>> {
        if slot >= slot::SLOT_COUNT {
            return Err(PyValueError::new_err(format!("{slot} is no slot: they end at {}", slot::SLOT_COUNT - 1)));
        }
        let name = |index: &u16| self.0.nodes()[usize::from(*index)].id.as_str();
        let main = self.0.main(slot);
        let first = (main != NOBODY).then_some(main);
        Ok(first.iter().chain(self.0.replicas_of(slot)).map(name).collect())
    }

    /// The id of the node that owns `key`; None when its slot has no main.
    fn node_of(&self, key: &Bound<'_, PyAny>) -> PyResult<Option<&str>> {
        with_key(key, |key| self.0.node_of(key).map(|node| node.id.as_str()))
    }

    /// Slots whose main is a node known to be down.
    fn slots_down(&self) -> usize {
        let down = |slot| self.0.nodes().get(usize::from(self.0.main(slot))).is_none_or(|n| n.state == State::Down);
        (0..slot::SLOT_COUNT).filter(|&slot| down(slot)).count()
    }

    fn __repr__(&self) -> String {
        format!("<Topology epoch {} of {} nodes>", self.0.epoch, self.0.nodes().len())
    }
}
