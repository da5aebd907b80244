//! The data path of FastCache: from the first byte of a request to the last byte of its reply.
//!
//! Layers, each knowing only those before it:
//! `slot` `clock` `resp` `net` -> `store` -> `command` and `stream` -> `persist` -> `server`.
//! No Python in this crate; `rust/py` is the only door to it.

pub mod clock;
pub mod command;
pub mod net;
pub mod notify;
pub mod persist;
pub mod replication;
pub mod resp;
pub mod route;
pub mod server;
pub mod slot;
pub mod store;
pub mod stream;
pub mod sys;
pub mod topology;
