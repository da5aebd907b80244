//! Lists without sockets: replies, and who is served when several wait.
