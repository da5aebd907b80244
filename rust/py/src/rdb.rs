//! RDB files and replication streams of Redis for Python's importer: bytes in, requests for the target out.

use fastcache_core::stream::rdb::changes::{Change, Changes};
use fastcache_core::stream::rdb::file::{File, Item};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Database (None for a library of functions), key, request.
pub(crate) type Request<'py> = (Option<usize>, Bound<'py, PyBytes>, Bound<'py, PyBytes>);
/// Database, key; or the name of a command that no list of keys tells.
type Changed<'py> = (Option<usize>, Bound<'py, PyBytes>);

/// Goes through an RDB file.
#[pyclass(module = "fastcache._core")]
pub(crate) struct RdbFile {
    inner: File,
    ended: bool,
}

#[pymethods]
impl RdbFile {
    #[new]
    fn new() -> RdbFile {
        RdbFile { inner: File::default(), ended: false }
    }

    /// Take bytes that follow those before.
    fn feed(&mut self, piece: &[u8]) {
        self.inner.feed(piece);
    }

    /// Look again at what is there: no more is coming.
    fn retry(&mut self) {
        self.inner.retry();
    }

    /// Requests for the keys that are whole by now, at most `limit` of them.
    fn take<'py>(&mut self, py: Python<'py>, limit: usize, replace: bool) -> PyResult<Vec<Request<'py>>> {
        let mut requests = Vec::new();
        while requests.len() < limit {
            let item = self.inner.item().map_err(|garbage| PyValueError::new_err(garbage.to_string()))?;
            match item {
                None => break,
                Some(Item::End) => self.ended = true,
                Some(Item::Entry(entry)) => {
                    let (database, key) = (entry.database, PyBytes::new(py, &entry.key));
                    requests.push((Some(database), key, packed(py, &entry.restore(replace))));
                }
                Some(Item::Functions(source)) => {
                    let words = [b"FUNCTION".to_vec(), b"LOAD".to_vec(), b"REPLACE".to_vec(), source];
                    requests.push((None, PyBytes::new(py, b""), packed(py, &words)));
                }
            }
        }
        Ok(requests)
    }

    /// Whether the file is over, its checksum right.
    #[getter]
    fn ended(&self) -> bool {
        self.ended
    }

    /// How many bytes are read for good.
    #[getter]
    fn taken(&self) -> u64 {
        self.inner.taken()
    }
}

/// Goes through what a Redis sends to its replicas after the file.
#[pyclass(module = "fastcache._core")]
pub(crate) struct ChangeStream(Changes);

#[pymethods]
impl ChangeStream {
    #[new]
    fn new() -> ChangeStream {
        ChangeStream(Changes::default())
    }

    /// Take bytes that follow those before; the keys that changed, and whether the source asked how far we are.
    fn feed<'py>(&mut self, py: Python<'py>, piece: &[u8]) -> PyResult<(Vec<Changed<'py>>, bool)> {
        self.0.feed(piece);
        let (mut changed, mut asked) = (Vec::new(), false);
        for change in self.0.take().map_err(PyValueError::new_err)? {
            match change {
                Change::Keys(database, keys) => {
                    changed.extend(keys.iter().map(|key| (Some(database), PyBytes::new(py, key))));
                }
                Change::Other(name) => changed.push((None, PyBytes::new(py, &name))),
                Change::Asked => asked = true,
            }
        }
        Ok((changed, asked))
    }

    /// Forget a command that is not whole: the stream goes on behind the last whole one.
    fn cut(&mut self) {
        self.0.cut();
    }

    /// How many bytes of the stream are read.
    #[getter]
    fn taken(&self) -> u64 {
        self.0.taken()
    }
}

/// A request as it is sent.
pub(crate) fn packed<'py>(py: Python<'py>, words: &[Vec<u8>]) -> Bound<'py, PyBytes> {
    let mut bytes = Vec::with_capacity(words.iter().map(|word| word.len() + 32).sum());
    bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    PyBytes::new(py, &bytes)
}
