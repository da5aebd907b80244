//! What the node knows of a client: its session, without its socket.

use super::table::Command;
use crate::resp::OwnedArgs;

/// Names a client while it is connected; used again after it has gone. See also [`Client::id`].
pub type Token = u32;

/// One client's session.
pub struct Client {
    /// Where it stands in [`Clients`].
    pub token: Token,
    /// Its number, never used again.
    pub id: u64,
    /// Its address, as CLIENT LIST shows it.
    pub address: String,
    /// The address it connected to.
    pub local_address: String,
    /// The file descriptor of its socket, for CLIENT LIST.
    pub socket: i32,
    /// When it connected, ms of wall time.
    pub since: u64,
    /// When it last sent something, ms of wall time.
    pub last_seen: u64,
    /// The selected database.
    pub database: u8,
    /// Whether it speaks RESP3.
    pub resp3: bool,
    /// Whether it has said who it is, or need not.
    pub authenticated: bool,
    /// Who it is.
    pub user: super::acl::UserId,
    /// Its user's name, when that is another than `default`.
    user_name: Option<Box<[u8]>>,
    /// CLIENT SETNAME.
    pub name: Vec<u8>,
    /// CLIENT SETINFO's library name and version.
    pub library: (Vec<u8>, Vec<u8>),
    /// Commands queued since MULTI.
    pub multi: Option<Multi>,
    /// Keys it watches.
    pub watching: Vec<(u8, Box<[u8]>)>,
    /// A watched key was changed.
    pub watch_broken: bool,
    /// Channels it listens to.
    pub channels: Vec<Box<[u8]>>,
    /// Patterns of channels it listens to.
    pub patterns: Vec<Box<[u8]>>,
    /// Sharded channels it listens to.
    pub shard_channels: Vec<Box<[u8]>>,
    /// For how many listeners it listens to something, where that is not one (FASTCACHE LISTENERS).
    pub stands_for: super::pubsub::StandsFor,
    /// What it waits for.
    pub blocked: Option<Blocked>,
    /// CLIENT REPLY: what becomes of replies.
    pub replies: Replies,
    /// CLIENT NO-EVICT, CLIENT NO-TOUCH.
    pub no_evict: bool,
    /// Reads by this client do not count as use.
    pub no_touch: bool,
    /// Bytes to be sent that no command of its own produced, or that the socket did not take yet.
    pub pending: Vec<u8>,
    /// Replies that wait for a promise to be kept, each with the number of the record it waits for; see `Gate`.
    pub withheld: std::collections::VecDeque<(u64, Vec<u8>)>,
    /// Its socket took only a part of the replies that may leave.
    pub choked: bool,
    /// To be closed once what is pending was sent.
    pub closing: bool,
    /// To be closed at once.
    pub dead: bool,
    /// The command it sent last.
    pub last_command: Option<&'static Command>,
    /// Bytes buffered of requests not served yet; for CLIENT LIST.
    pub query_bytes: usize,
    /// Since when the pending bytes exceed the soft limit, ms.
    pub over_soft_limit_since: u64,
    /// Came through the Unix socket.
    pub by_unix_socket: bool,
    /// Wants to be told before its server restarts or a node is replaced (CLIENT MAINT_NOTIFICATIONS).
    pub maintenance: bool,
    /// Is shown every command (MONITOR).
    pub monitor: bool,
    /// What it reads is tracked (CLIENT TRACKING).
    pub tracking: Option<Box<super::tracking::Tracking>>,
    /// READONLY: it is content with copies of slots that this node has from others.
    pub reads_copies: bool,
    /// It is no client but a stream to or from another node.
    pub stream: Option<crate::replication::Role>,
    /// FASTCACHE CONSISTENCY: whether its requests are strict; `None` for what the cluster says.
    pub consistency: Option<bool>,
    /// Replies that wait for replicas, in order.
    pub held: std::collections::VecDeque<crate::replication::strict::Held>,
    /// The last record of what it has written, for WAIT.
    pub wrote: u64,
    /// It is another proxy that asks what its clients want to know (FASTCACHE PEER): no client in lists.
    pub peer: bool,
    /// It splits requests by node: keys of several slots at once are all right.
    pub routed: bool,
}

/// Commands queued by MULTI.
#[derive(Default)]
pub struct Multi {
    /// The commands, each with what the table says of it.
    pub queue: Vec<(&'static Command, OwnedArgs)>,
    /// A command could not be queued: EXEC will refuse.
    pub broken: bool,
}

/// CLIENT REPLY's modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    /// Replies are sent.
    On,
    /// None is sent until ON.
    Off,
    /// The reply to the next command is not sent.
    SkipNext,
    /// The reply to this command is not sent.
    Skip,
}

/// A client that waits for a key.
pub struct Blocked {
    /// The command, run again when one of the keys may have what it wants.
    pub command: &'static Command,
    /// Its arguments.
    pub args: OwnedArgs,
    /// The keys, in the order given.
    pub keys: Vec<Box<[u8]>>,
    /// The database of the keys.
    pub database: u8,
    /// When to give up, ms of wall time; zero for never.
    pub deadline: u64,
    /// What is answered then.
    pub on_timeout: OnTimeout,
}

/// What a client that waited in vain is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTimeout {
    /// No value.
    Null,
    /// No array.
    NullArray,
    /// The number of replicas reached (WAIT).
    Replicas,
}

impl Client {
    /// A client that has just connected.
    pub fn new(id: u64, now: u64) -> Client {
        Client {
            token: 0,
            id,
            address: String::new(),
            local_address: String::new(),
            socket: -1,
            since: now,
            last_seen: now,
            database: 0,
            resp3: false,
            authenticated: true,
            user: super::acl::DEFAULT,
            user_name: None,
            name: Vec::new(),
            library: (Vec::new(), Vec::new()),
            multi: None,
            watching: Vec::new(),
            watch_broken: false,
            channels: Vec::new(),
            patterns: Vec::new(),
            shard_channels: Vec::new(),
            stands_for: None,
            blocked: None,
            replies: Replies::On,
            no_evict: false,
            no_touch: false,
            pending: Vec::new(),
            withheld: std::collections::VecDeque::new(),
            choked: false,
            closing: false,
            dead: false,
            last_command: None,
            query_bytes: 0,
            over_soft_limit_since: 0,
            by_unix_socket: false,
            maintenance: false,
            monitor: false,
            tracking: None,
            reads_copies: false,
            routed: false,
            peer: false,
            stream: None,
            wrote: 0,
            consistency: None,
            held: std::collections::VecDeque::new(),
        }
    }

    /// The name of its user.
    pub fn user_name(&self) -> &[u8] {
        self.user_name.as_deref().unwrap_or(b"default")
    }

    /// It is this user from now on.
    pub fn become_user(&mut self, user: super::acl::UserId, name: &[u8]) {
        self.user = user;
        self.user_name = (user != super::acl::DEFAULT).then(|| name.into());
    }

    /// Whether nothing waits to be sent to it.
    pub fn is_served(&self) -> bool {
        self.pending.is_empty() && self.withheld.is_empty()
    }

    /// How many subscriptions it has.
    pub fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len() + self.shard_channels.len()
    }
}

/// All clients. The one being served is taken out meanwhile.
#[derive(Default)]
pub struct Clients {
    places: Vec<Option<Box<Client>>>,
    free: Vec<Token>,
    count: usize,
}

impl Clients {
    /// How many clients there are, the one being served included.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Add a client; its token is set.
    pub fn add(&mut self, mut client: Box<Client>) -> Token {
        let token = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            (self.places.len() - 1) as Token
        });
        client.token = token;
        self.places[token as usize] = Some(client);
        self.count += 1;
        token
    }

    /// Take a client out to serve it.
    #[inline]
    pub fn take(&mut self, token: Token) -> Option<Box<Client>> {
        self.places.get_mut(token as usize)?.take()
    }

    /// Put a client back after it was served.
    #[inline]
    pub fn put_back(&mut self, client: Box<Client>) {
        let token = client.token as usize;
        self.places[token] = Some(client);
    }

    /// Forget a client that was taken out and has gone.
    pub fn forget(&mut self, token: Token) {
        self.places[token as usize] = None;
        self.free.push(token);
        self.count -= 1;
    }

    /// Look at a client that is not being served.
    pub fn get(&self, token: Token) -> Option<&Client> {
        self.places.get(token as usize)?.as_deref()
    }

    /// Look at a client that is not being served, to change it.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut Client> {
        self.places.get_mut(token as usize)?.as_deref_mut()
    }

    /// All clients that are not being served.
    pub fn iter(&self) -> impl Iterator<Item = &Client> {
        self.places.iter().filter_map(Option::as_deref)
    }

    /// All clients that are not being served, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.places.iter_mut().filter_map(Option::as_deref_mut)
    }
}
