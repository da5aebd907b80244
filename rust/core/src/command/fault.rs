//! Error replies, in the words Redis uses: clients match on them.

use std::borrow::Cow;

/// What a client is told instead of a result; begins with its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub Cow<'static, [u8]>);

/// What a command's handler returns: its reply is written, or there is none.
pub type Done = Result<(), Fault>;

macro_rules! faults {
    ($($name:ident $text:literal;)*) => {
        impl Fault {
            $(#[doc = concat!("`", $text, "`")] pub const $name: Fault = Fault(Cow::Borrowed($text.as_bytes()));)*
        }
    };
}

faults! {
    WRONG_TYPE "WRONGTYPE Operation against a key holding the wrong kind of value";
    SYNTAX "ERR syntax error";
    NOT_INTEGER "ERR value is not an integer or out of range";
    NOT_FLOAT "ERR value is not a valid float";
    NOT_POSITIVE "ERR value is out of range, must be positive";
    OUT_OF_RANGE "ERR value is out of range";
    NO_KEY "ERR no such key";
    INDEX_RANGE "ERR index out of range";
    OFFSET_RANGE "ERR offset is out of range";
    OVERFLOW "ERR increment or decrement would overflow";
    NAN_RESULT "ERR increment would produce NaN or Infinity";
    TOO_LONG "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    DB_RANGE "ERR DB index is out of range";
    NOT_SMALL_INTEGER "ERR value is out of range, value must between -2147483648 and 2147483647";
    INVALID_DB "ERR invalid DB index";
    NO_AUTH "NOAUTH Authentication required.";
    OUT_OF_MEMORY "OOM command not allowed when used memory > 'maxmemory'.";
    LOADING "LOADING Redis is loading the dataset in memory";
    INVALID_CURSOR "ERR invalid cursor";
    BAD_TIMEOUT "ERR timeout is not a float or out of range";
    NEGATIVE_TIMEOUT "ERR timeout is negative";
    CROSS_SLOT "CROSSSLOT Keys in request don't hash to the same slot";
    NO_REPLICAS "NOREPLICAS Not enough good replicas to write.";
    CLUSTER_OFF "ERR This instance has cluster support disabled";
    FAR_TIMEOUT "ERR timeout is out of range";
}

impl Fault {
    /// An error with a text that is always the same.
    pub const fn of(text: &'static str) -> Fault {
        Fault(Cow::Borrowed(text.as_bytes()))
    }

    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Fault {
        Fault(Cow::Owned(text.into().into_bytes()))
    }

    /// An error whose text has bytes of a client's in it.
    pub fn bytes(text: Vec<u8>) -> Fault {
        Fault(Cow::Owned(text))
    }

    /// The wrong number of arguments for a command.
    pub fn arity(name: &str) -> Fault {
        Fault::new(format!("ERR wrong number of arguments for '{name}' command"))
    }

    /// An expiry that cannot be.
    pub fn bad_expiry(name: &str) -> Fault {
        Fault::new(format!("ERR invalid expire time in '{name}' command"))
    }

    /// The code in front of the text.
    pub fn code(&self) -> &[u8] {
        self.0.split(|&byte| byte == b' ').next().unwrap_or_default()
    }
}

impl From<crate::store::keyspace::Full> for Fault {
    fn from(_: crate::store::keyspace::Full) -> Fault {
        Fault::OUT_OF_MEMORY
    }
}
