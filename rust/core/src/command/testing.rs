//! A node without sockets, for tests: requests in, replies out.
//!
//! [`Node::ask`] answers what a client would read, with a blank in place of every line end:
//! `+OK`, `:1`, `$-1`, `*2 $1 a $1 b`. Between requests it does what the event loop does.

use super::client::Token;
use super::settings::Settings;
use super::{Engine, blocking, dispatch};
use crate::resp::request::OwnedArgs;
use crate::resp::{Reply, number};

/// See the module's page.
pub struct Node {
    /// What is tested.
    pub engine: Engine,
    first: Token,
}

impl Node {
    /// A node with default settings and one client, at a fixed time.
    pub fn new() -> Node {
        Node::with(&[])
    }

    /// As [`Node::new`], with these settings.
    pub fn with(settings: &[(&str, &str)]) -> Node {
        let mut chosen = Settings::default();
        for (name, value) in settings {
            let index = Settings::find(name).unwrap_or_else(|| panic!("no setting {name}"));
            chosen.put(index, value).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        }
        let mut engine = Engine::new(chosen, 7, 1_700_000_000_000);
        let client = engine.new_client();
        let first = engine.clients.add(client);
        Node { engine, first }
    }

    /// Another client.
    pub fn connect(&mut self) -> Token {
        let client = self.engine.new_client();
        self.engine.clients.add(client)
    }

    /// Send a request as the first client; see the module's page for the answer.
    pub fn ask(&mut self, words: &[&str]) -> String {
        self.ask_as(self.first, words)
    }

    /// Send a line of words as the first client.
    pub fn line(&mut self, line: &str) -> String {
        self.ask(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Send a request as this client.
    pub fn ask_as(&mut self, token: Token, words: &[&str]) -> String {
        let bytes = self.ask_bytes(token, words.iter().map(|word| word.as_bytes()));
        readable(&bytes)
    }

    /// Send a request of any bytes as this client; answers what it would read.
    pub fn ask_bytes<'a>(&mut self, token: Token, words: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let args = OwnedArgs::from_parts(words);
        let mut client = self.engine.clients.take(token).expect("the client is there");
        let mut out = Reply::new(client.resp3);
        client.last_seen = self.engine.store.now();
        dispatch::serve(&mut self.engine, &mut client, &args.as_args(), &mut out);
        out.raw(&std::mem::take(&mut client.pending));
        self.engine.clients.put_back(client);
        blocking::serve_ready(&mut self.engine);
        super::tracking::broadcast(&mut self.engine);
        out.take()
    }

    /// Send a request of any bytes as the first client.
    pub fn ask_bytes_as_first(&mut self, words: &[&[u8]]) -> Vec<u8> {
        self.ask_bytes(self.first, words.iter().copied())
    }

    /// What a client was sent without having asked: messages, replies it waited for.
    pub fn heard(&mut self, token: Token) -> String {
        let client = self.engine.clients.get_mut(token).expect("the client is there");
        readable(&std::mem::take(&mut client.pending))
    }

    /// What the first client was sent without having asked.
    pub fn heard_by_first(&mut self) -> String {
        self.heard(self.first)
    }

    /// Let time pass.
    pub fn pass(&mut self, milliseconds: u64) {
        let now = self.engine.store.now() + milliseconds;
        self.engine.store.set_now(now);
        blocking::expire(&mut self.engine);
    }

    /// Ask for an integer.
    pub fn integer(&mut self, words: &[&str]) -> i64 {
        let reply = self.ask(words);
        let digits = reply.strip_prefix(':').unwrap_or_else(|| panic!("{words:?} answered {reply}"));
        number::parse_i64(digits.as_bytes()).expect("an integer")
    }

    /// Expect these answers to these lines of words.
    pub fn expect(&mut self, exchange: &[(&str, &str)]) {
        for (line, reply) in exchange {
            assert_eq!(self.line(line), *reply, "{line}");
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Node::new()
    }
}

/// Protocol as text on one line.
pub fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", " ").trim_end().to_owned()
}

#[test]
fn a_node_without_sockets_answers() {
    let mut node = Node::new();
    node.expect(&[("SET k v", "+OK"), ("GET k", "$1 v"), ("GET other", "$-1"), ("MGET k k", "*2 $1 v $1 v")]);
    let listener = node.connect();
    assert_eq!(node.ask_as(listener, &["SUBSCRIBE", "c"]), "*3 $9 subscribe $1 c :1");
    assert_eq!(node.integer(&["PUBLISH", "c", "hi"]), 1);
    assert_eq!(node.heard(listener), "*3 $7 message $1 c $2 hi");
}
