//! What an operator can set of a proxy besides what it shares with nodes.

/// See the fields; [`Options::take`] reads them by their names with dashes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// `failover-wait`: how long a request for a slot that has a replica waits while its main is away, ms.
    pub(super) failover_wait: u64,
    /// `failover-buffer`: bytes of requests that may wait so at once.
    pub(super) failover_buffer: usize,
    /// `node-timeout`: how long a node may leave requests unanswered, ms.
    pub(super) node_timeout: u64,
    /// `connect-timeout`: how long a connection to a node may take, ms.
    pub(super) connect_timeout: u64,
    /// `transactions`: `relaxed` lets a transaction run over several nodes, atomic at each; `strict` refuses it.
    pub(super) relaxed: bool,
    /// `workers`: how many loops serve, each on a thread of its own.
    pub(super) workers: usize,
}

/// More threads than one proxy has use for.
const MOST_WORKERS: usize = 64;

impl Default for Options {
    fn default() -> Options {
        Options {
            failover_wait: 3_000,
            failover_buffer: 16 << 20,
            node_timeout: 5_000,
            connect_timeout: 1_000,
            relaxed: true,
            workers: 1,
        }
    }
}

impl Options {
    /// Take over a setting if it is one of these; the error says what it may be.
    pub(super) fn take(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let milliseconds = || match value.parse::<u64>() {
            Ok(number) if number <= 600_000 => Ok(number),
            _ => Err(format!("{name}: must be milliseconds from 0 to 600000, not '{value}'")),
        };
        match name {
            "failover-wait" => self.failover_wait = milliseconds()?,
            "node-timeout" => self.node_timeout = milliseconds()?.max(10),
            "connect-timeout" => self.connect_timeout = milliseconds()?.max(10),
            "failover-buffer" => {
                self.failover_buffer =
                    value.parse().map_err(|_| format!("{name}: must be a number of bytes, not '{value}'"))?;
            }
            "workers" => {
                self.workers = match value.parse() {
                    Ok(number @ 1..=MOST_WORKERS) => number,
                    _ => return Err(format!("{name}: must be a number from 1 to {MOST_WORKERS}, not '{value}'")),
                }
            }
            "transactions" => {
                self.relaxed = match value {
                    "relaxed" => true,
                    "strict" => false,
                    _ => return Err(format!("{name}: must be 'relaxed' or 'strict', not '{value}'")),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

#[test]
fn options_say_what_they_may_be() {
    let mut options = Options::default();
    assert_eq!(options.take("failover-wait", "250"), Ok(true));
    assert_eq!(options.take("transactions", "strict"), Ok(true));
    assert_eq!(options.take("workers", "4"), Ok(true));
    assert!(options.take("workers", "0").is_err());
    assert_eq!(options.take("port", "1"), Ok(false));
    assert!(options.take("transactions", "maybe").is_err_and(|text| text.contains("'relaxed' or 'strict'")));
    assert!(options.take("node-timeout", "-1").is_err());
    assert_eq!((options.failover_wait, options.relaxed), (250, false));
}
