//! Snapshot files for Python's command line: what they are of, what they hold, and requests that bring it in.

use std::path::PathBuf;

use fastcache_core::persist::entries::{self, Entries};
use fastcache_core::persist::snapshot::{self, Wrong};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::rdb::{Request, packed};

fn wrong(wrong: Wrong) -> PyErr {
    PyValueError::new_err(wrong.0)
}

/// Goes through a snapshot file.
#[pyclass(module = "fastcache._core")]
pub(crate) struct SnapshotFile {
    inner: Entries,
    ended: bool,
}

#[pymethods]
impl SnapshotFile {
    #[new]
    fn new(path: PathBuf) -> PyResult<SnapshotFile> {
        Ok(SnapshotFile { inner: Entries::open(&path).map_err(wrong)?, ended: false })
    }

    /// What it is of, as JSON.
    fn about(&self) -> String {
        entries::told(self.inner.about())
    }

    /// Requests for the next keys, at most `limit`, and with the last for the libraries of functions; none at the end.
    fn take<'py>(&mut self, py: Python<'py>, limit: usize, replace: bool) -> PyResult<Vec<Request<'py>>> {
        let mut requests = Vec::new();
        while requests.len() < limit && !self.ended {
            let request = self.inner.next_entry(|head, value, _| {
                let words = entries::restore(head, value, replace);
                (Some(usize::from(head.database)), PyBytes::new(py, &head.key), packed(py, &words))
            });
            match request.map_err(wrong)? {
                Some(request) => requests.push(request),
                None => {
                    self.ended = true;
                    for code in self.inner.libraries() {
                        let words = [b"FUNCTION".to_vec(), b"LOAD".to_vec(), b"REPLACE".to_vec(), code.to_vec()];
                        requests.push((None, PyBytes::new(py, b""), packed(py, &words)));
                    }
                }
            }
        }
        Ok(requests)
    }

    /// The next entries as JSON, at most `limit`; none at the end.
    fn entries(&mut self, limit: usize) -> PyResult<Vec<String>> {
        let mut told = Vec::new();
        while told.len() < limit && !self.ended {
            let entry = self.inner.next_entry(|head, value, _| entries::as_json(head, value).to_string());
            match entry.map_err(wrong)? {
                Some(entry) => told.push(entry),
                None => self.ended = true,
            }
        }
        Ok(told)
    }

    /// Pass over all that is left, checking it; how many entries there are.
    fn verify(&mut self, py: Python<'_>) -> PyResult<u64> {
        let inner = &mut self.inner;
        py.detach(|| {
            while inner.next_entry(|_, _, _| ())?.is_some() {}
            Ok(())
        })
        .map_err(wrong)?;
        self.ended = true;
        Ok(self.inner.sum().map_or(0, |sum| sum.entries))
    }

    /// Whether all was read, and is as it was written.
    #[getter]
    fn ended(&self) -> bool {
        self.ended
    }

    /// Bytes of entries that were passed.
    #[getter]
    fn taken(&self) -> u64 {
        self.inner.passed()
    }
}

/// The snapshots in a directory, the newest first: number and path.
#[pyfunction]
pub(crate) fn snapshots(directory: PathBuf) -> PyResult<Vec<(u64, PathBuf)>> {
    snapshot::list(&directory).map_err(crate::os_error)
}

/// How much a snapshot says it holds, as JSON, read from its end alone.
#[pyfunction]
pub(crate) fn snapshot_sum(path: PathBuf) -> PyResult<String> {
    let sum = snapshot::sum_of(&path).map_err(wrong)?;
    Ok(entries::told(&sum))
}
