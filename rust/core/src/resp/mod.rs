//! The Redis protocol, sans I/O: bytes to requests, values to bytes.

pub mod longdouble;
pub mod number;
pub mod reply;
pub mod request;
pub mod scan;

pub use reply::Reply;
pub use request::{Args, OwnedArgs, ProtocolError, RequestParser, Span};
