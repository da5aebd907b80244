//! All that a node is apart from its sockets: the store, the settings, who listens and who waits.

use super::client::{Client, Clients, Token};
use super::settings::{Name, Settings};
use super::slowlog::SlowLog;
use crate::store::Store;
use std::collections::HashMap;

/// Who waits for something, by database and key.
pub type ByKey<T> = HashMap<(u8, Box<[u8]>), T, foldhash::fast::RandomState>;

/// See the module's page.
pub struct Engine {
    /// Keys and values.
    pub store: Store,
    /// The settings in force.
    pub settings: Settings,
    /// Begins TLS on connections.
    pub tls: super::tls::Tls,
    /// Clients but for the one being served.
    pub clients: Clients,
    /// Who may do what.
    pub users: super::acl::Users,
    /// Clients that got something to send, or are to be closed, while another was served.
    pub wake: Vec<Token>,
    /// Clients that are no longer blocked: what they sent meanwhile is to be served.
    pub resumed: Vec<Token>,
    /// Who watches a key.
    pub watchers: ByKey<Vec<Token>>,
    /// Who waits for a key, in the order in which they came.
    pub waiting: ByKey<Vec<Token>>,
    /// Keys that changed and that somebody waits for.
    pub ready: Vec<(u8, Box<[u8]>)>,
    /// The key for which a client that waited is being served.
    pub ready_key: Option<Box<[u8]>>,
    /// Who listens to a channel.
    pub channels: HashMap<Box<[u8]>, Vec<Token>>,
    /// Who listens to a pattern, in the order of subscription.
    pub patterns: Vec<(Box<[u8]>, Vec<Token>)>,
    /// Who listens to a sharded channel.
    pub shard_channels: HashMap<Box<[u8]>, Vec<Token>>,
    /// What was begun or ended to be listened to; `None` where nobody asks.
    pub audiences: Option<Vec<(super::pubsub::Way, Box<[u8]>)>>,
    /// Classes of keyspace events that are published.
    pub events: u32,
    /// Changes since the start.
    pub changes: u64,
    /// Counters for INFO and metrics.
    pub stats: Stats,
    /// Calls, microseconds and failures of each command, by its index in the table.
    pub command_stats: Vec<CommandStats>,
    /// Error replies by code.
    pub error_stats: HashMap<Vec<u8>, u64>,
    /// Slow commands.
    pub slowlog: SlowLog,
    /// Hits and misses of each key, when the setting says so.
    pub key_statistics: ByKey<(u64, u64)>,
    /// Number of the next client.
    pub next_client: u64,
    /// The node was told to stop.
    pub stopping: bool,
    /// When the node started, ms of wall time.
    pub started: u64,
    /// Random hexadecimal digits that name this run.
    pub run_id: String,
    /// It is to stop, and its copies are to take over before (FASTCACHE TOPOLOGY tells).
    pub leaving: bool,
    /// CLIENT PAUSE: until when, and whether only writes wait.
    pub paused: Option<(u64, bool)>,
    /// DEBUG SET-ACTIVE-EXPIRE: whether expired keys are looked for in the background.
    pub active_expiry: bool,
    /// A transaction is being executed: nobody is woken and nothing blocks.
    pub in_transaction: bool,
    /// How sockets are waited for, for INFO.
    pub multiplexing: &'static str,
    /// Clients blocked now.
    pub blocked_clients: usize,
    /// The earliest time at which one of them gives up; zero for never.
    pub next_deadline: u64,
    /// Whether the last attempt to make room failed.
    pub out_of_memory: bool,
    /// Who is told when a key it has read changes.
    pub tracking: super::tracking::Tracker,
    /// Scripts and functions.
    pub scripting: super::scripting::Scripting,
    /// Clients that are shown every command.
    pub monitors: Vec<Token>,
    /// What other loops of the same server have: the other workers of a proxy.
    pub elsewhere: Elsewhere,
    /// How long commands take.
    pub latencies: super::latency::Latencies,
    /// Bytes of memory in use before there were any data.
    pub memory_at_start: usize,
    /// The cluster this node belongs to; `None` while it was given no topology.
    pub membership: Option<Box<super::cluster::Membership>>,
    /// Streams to and from other nodes; `None` while there are none.
    pub replication: Option<Box<crate::replication::Replication>>,
    /// Clients with replies that are held until replicas have what they tell of.
    pub holding: Vec<Token>,
    /// Slots that were taken over this moment, and the time of the steady clock (ms) until which requests for them wait.
    pub promotion: Option<Box<(u64, crate::stream::SlotSet)>>,
    /// Slots that are ours, of which their former main may still send something: requests for them wait.
    pub awaited: Option<Box<crate::stream::SlotSet>>,
    /// Has something done here by the loop, from another thread.
    pub errands: Option<Errands>,
    /// Keys that one client alone may write for a moment.
    pub held: Option<Box<super::hold::Held>>,
    /// Values of several nodes were brought here to run something over them; `None` in a node.
    pub gathered: Option<Box<super::gathered::Gathered>>,
    /// What is written, for those who listen.
    pub tail: crate::stream::tail::Tail,
    /// Copies of slots that are under way.
    pub copies: crate::stream::copy::Copies,
    /// What is kept on disk, if anything is.
    pub keeper: Option<Box<crate::persist::Keeper>>,
    /// Data are still coming from disk: nearly all commands are refused.
    pub loading: bool,
    /// What replies wait for.
    pub gate: crate::persist::keeper::Gate,
}

/// See [`Engine::errands`].
pub type Errands = std::sync::Arc<dyn Fn(Box<dyn FnOnce(&mut Engine) + Send>) + Send + Sync>;

/// Passes a line of MONITOR on.
pub type Show = std::sync::Arc<dyn Fn(&[u8]) + Send + Sync>;

/// What is elsewhere in the same server, for INFO and MONITOR.
#[derive(Default)]
pub struct Elsewhere {
    /// How many clients there are.
    pub clients: u64,
    /// How many have come since the start.
    pub connections: u64,
    /// How many were turned away.
    pub rejected: u64,
    /// How many channels, patterns and shard channels are listened to.
    pub listened: [u64; 3],
    /// Somebody monitors there.
    pub monitored: bool,
    /// Shows a line to those who monitor there.
    pub show: Option<Show>,
}

/// Counters that only rise, and a few gauges.
#[derive(Clone, Default)]
#[allow(missing_docs)] // The names are those of INFO and of the metrics.
pub struct Stats {
    pub connections: u64,
    pub rejected_connections: u64,
    pub commands: u64,
    pub hits: u64,
    pub misses: u64,
    pub input_bytes: u64,
    pub output_bytes: u64,
    pub peak_memory: usize,
    pub errors: u64,
    pub loops: u64,
    pub reads: u64,
    pub writes: u64,
    pub instantaneous_ops: u64,
    pub instantaneous_input: u64,
    pub instantaneous_output: u64,
    pub expire_cycle_ms: u64,
    pub expired_stale_percent: f64,
    pub output_limit_disconnections: u64,
    pub query_limit_disconnections: u64,
}

/// Figures of one command.
#[derive(Clone, Copy, Default)]
pub struct CommandStats {
    /// Times it ran.
    pub calls: u64,
    /// Time it took, in ticks of the fast counter.
    pub ticks: u64,
    /// Times it was refused before it ran.
    pub rejected: u64,
    /// Times it ended in an error.
    pub failed: u64,
}

impl Engine {
    /// A node without data and clients.
    pub fn new(settings: Settings, seed: u64, now: u64) -> Engine {
        let mut store = Store::new(seed);
        store.set_now(now);
        let run_id = {
            let (mut a, mut text) = (crate::store::random::Random::new(seed ^ now), String::new());
            while text.len() < 40 {
                text.push_str(&format!("{:016x}", a.bits()));
            }
            text.truncate(40);
            text
        };
        let mut engine = Engine {
            store,
            settings,
            clients: Clients::default(),
            users: super::acl::Users::default(),
            wake: Vec::new(),
            resumed: Vec::new(),
            watchers: ByKey::default(),
            waiting: ByKey::default(),
            ready: Vec::new(),
            ready_key: None,
            channels: HashMap::new(),
            patterns: Vec::new(),
            shard_channels: HashMap::new(),
            audiences: None,
            events: 0,
            changes: 0,
            stats: Stats::default(),
            command_stats: vec![CommandStats::default(); super::table::count()],
            error_stats: HashMap::new(),
            slowlog: SlowLog::default(),
            key_statistics: ByKey::default(),
            next_client: 1,
            stopping: false,
            started: now,
            run_id,
            leaving: false,
            paused: None,
            awaited: None,
            active_expiry: true,
            in_transaction: false,
            multiplexing: "epoll",
            blocked_clients: 0,
            next_deadline: 0,
            out_of_memory: false,
            tracking: super::tracking::Tracker::default(),
            scripting: super::scripting::Scripting::default(),
            monitors: Vec::new(),
            elsewhere: Elsewhere::default(),
            latencies: super::latency::Latencies::default(),
            memory_at_start: 0,
            membership: None,
            replication: None,
            holding: Vec::new(),
            promotion: None,
            errands: None,
            tls: super::tls::Tls::default(),
            gathered: None,
            held: None,
            tail: crate::stream::tail::Tail::default(),
            copies: crate::stream::copy::Copies::default(),
            keeper: None,
            loading: false,
            gate: crate::persist::keeper::Gate::default(),
        };
        engine.settings_changed();
        engine.memory_at_start = engine.used_memory();
        engine
    }

    /// Take over what settings say to parts that keep a copy of it.
    pub fn settings_changed(&mut self) {
        self.users.default_password(self.settings.text(Name::requirepass));
        self.store.set_policy(self.settings.policy());
        self.store.tune_counting(
            self.settings.number(Name::lfu_log_factor) as u32,
            self.settings.number(Name::lfu_decay_time) as u32,
        );
        self.events = self.settings.number(Name::notify_keyspace_events) as u32;
        self.slowlog
            .configure(self.settings.number(Name::slowlog_log_slower_than), self.settings.size(Name::slowlog_max_len));
        if !self.settings.is_on(Name::key_statistics) {
            self.key_statistics.clear();
        }
        self.tell_gone_if_needed();
    }

    /// Have the store tell which keys expire or are evicted, when anybody cares.
    pub fn tell_gone_if_needed(&mut self) {
        self.store.tell_gone = self.events != 0
            || !self.watchers.is_empty()
            || !self.waiting.is_empty()
            || self.tracking.is_on()
            || self.tail.listening();
    }

    /// Up to where collections are kept small.
    pub fn limits(&self) -> crate::stream::codec::Limits {
        crate::stream::codec::Limits {
            hash: super::hashes::limits(self),
            set: super::sets::limits(self),
            sorted_set: super::zsets::limits(self),
        }
    }

    /// What Redis calls the way a server runs.
    pub fn mode(&self) -> &'static str {
        if self.membership.is_some() { "cluster" } else { "standalone" }
    }

    /// A client for a new connection, not yet among the others.
    pub fn new_client(&mut self) -> Box<Client> {
        let id = self.next_client;
        self.next_client += 1;
        self.new_client_numbered(id)
    }

    /// The same, with a number that was given out elsewhere.
    pub fn new_client_numbered(&mut self, id: u64) -> Box<Client> {
        let mut client = Client::new(id, self.store.now());
        client.authenticated = self.users.open();
        self.stats.connections += 1;
        Box::new(client)
    }

    /// Whether anybody is shown what runs.
    #[inline]
    pub fn is_monitored(&self) -> bool {
        !self.monitors.is_empty() || self.elsewhere.monitored
    }

    /// Undo all that a client left in the node: watches, subscriptions, waiting.
    pub fn leave(&mut self, client: &mut Client) {
        if let Some(role) = client.stream {
            crate::replication::gone(self, client.token, role, crate::clock::steady_ns() / 1_000_000);
        }
        super::transactions::unwatch(self, client);
        super::blocking::stop_waiting(self, client);
        super::pubsub::unsubscribe_all(self, client);
        super::tracking::stop(self, client);
        super::monitor::stop(self, client);
    }

    /// Whether a pause holds this request of a client back: all of them, or those that write.
    pub fn holds(&self, client: &Client, args: &crate::resp::Args<'_>) -> bool {
        let Some((row, _)) = super::dispatch::resolve_quietly(args) else {
            return false;
        };
        if self.slots_hold(client, row, args) || super::hold::holds_up(self, client, row, args) {
            return true;
        }
        let Some((_, only_writes)) = self.paused else {
            return false;
        };
        let queueing = client.multi.is_some() && row.name != "exec";
        let writes = row.is(super::table::flag::WRITE | super::table::flag::MAY_REPLICATE)
            || (row.name == "exec"
                && client
                    .multi
                    .as_ref()
                    .is_some_and(|multi| multi.queue.iter().any(|(row, _)| row.is(super::table::flag::WRITE))));
        // CLIENT must go through, or nobody could end the pause.
        !args.is(0, "CLIENT") && !queueing && (!only_writes || writes)
    }

    /// Whether anything holds requests back: a look before [`Engine::holds`].
    #[inline]
    pub fn may_hold(&self) -> bool {
        self.paused.is_some() || self.promotion.is_some() || self.awaited.is_some() || self.held.is_some()
    }

    /// Whether a request names slots that are ours, but not to be served yet: the main before us may still answer
    /// reads, or may still send something of them.
    fn slots_hold(&self, client: &Client, row: &super::Command, args: &crate::resp::Args<'_>) -> bool {
        if self.promotion.is_none() && self.awaited.is_none() {
            return false;
        }
        let promoted = |slot| self.promotion.as_deref().is_some_and(|(_, slots)| slots.contains(slot));
        let awaited = |slot| self.awaited.as_deref().is_some_and(|slots| slots.contains(slot));
        let touches = |row: &super::Command, args: &crate::resp::Args<'_>| {
            let mut touches = false;
            row.each_key(args, |at, _| {
                let slot = crate::slot::slot_of(args.at(at));
                touches |= promoted(slot) || awaited(slot);
            });
            touches
        };
        match &client.multi {
            Some(multi) if row.name == "exec" => multi.queue.iter().any(|(row, args)| touches(row, &args.as_args())),
            Some(_) => false,
            None => touches(row, args),
        }
    }

    /// Have requests for slots that are ours from now on wait until then (the steady clock in ms): the main before us
    /// may still answer reads.
    pub fn wait_before_serving(&mut self, until: u64, slots: crate::stream::SlotSet) {
        match &mut self.promotion {
            Some(promotion) => {
                promotion.0 = promotion.0.max(until);
                slots.iter().for_each(|slot| promotion.1.insert(slot));
            }
            None => self.promotion = Some(Box::new((until, slots))),
        }
    }

    /// Serve those who wait for slots that were taken over, when it is time. How many ms are left otherwise.
    pub fn end_promotion(&mut self, now: u64) -> Option<u64> {
        let left = self.promotion.as_deref()?.0.saturating_sub(now);
        if left > 0 {
            return Some(left);
        }
        self.promotion = None;
        self.resume_held();
        None
    }

    /// Whether a request must wait until a huge value that it writes is copied.
    pub fn copy_holds(&mut self, client: &Client, args: &crate::resp::Args<'_>) -> bool {
        let Engine { copies, store, .. } = self;
        let mut holds = |row: &super::Command, args: &crate::resp::Args<'_>| {
            let mut held = false;
            if row.is(super::table::flag::WRITE) {
                row.each_key(args, |at, _| held |= copies.hold(store, args.at(at)));
            }
            held
        };
        let Some((row, _)) = super::dispatch::resolve_quietly(args) else { return false };
        match &client.multi {
            Some(multi) if row.name == "exec" => multi.queue.iter().any(|(row, args)| holds(row, &args.as_args())),
            Some(_) => false,
            None => holds(row, args),
        }
    }

    /// End a pause: who was held back is served again.
    pub fn unpause(&mut self) {
        self.paused = None;
        self.resume_held();
    }

    /// Serve those who were held back: they may be held anew.
    pub fn resume_held(&mut self) {
        let waiting: Vec<Token> =
            self.clients.iter().filter(|client| client.query_bytes > 0).map(|client| client.token).collect();
        self.resumed.extend(waiting);
    }

    /// Whether expired keys are looked for in the background: not while a pause promises that nothing changes.
    pub fn expiry_is_active(&self) -> bool {
        self.active_expiry && self.paused.is_none()
    }

    /// Bytes of memory in use: data, tables, buffers. Pages of the arena that are merely held ready do not count.
    pub fn used_memory(&self) -> usize {
        let arena = &self.store.arena;
        // Lua has a limit of its own: what it holds must not push data out.
        (crate::sys::allocated().saturating_sub(self.scripting.lua_memory()) + arena.used())
            .saturating_sub(arena.reserved())
            .max(arena.used())
    }

    /// Evict until memory and entries are within their limits, but not longer than the settings
    /// allow for one write. `false` when there is no room and none could be made.
    pub fn make_room(&mut self) -> bool {
        let max_memory = self.settings.size(Name::maxmemory);
        let max_entries = self.settings.size(Name::maxentries);
        if max_memory == 0 && max_entries == 0 {
            return true;
        }
        // Redis takes any number; beyond this one more samples only cost time.
        let samples = self.settings.size(Name::maxmemory_samples).min(64);
        // A write pays for a few evictions, never for a long run of them: the rest is done between requests.
        for _ in 0..16 {
            let over_memory = max_memory > 0 && self.used_memory() > max_memory;
            let over_entries = max_entries > 0 && self.store.len() > max_entries;
            if !over_memory && !over_entries {
                return true;
            }
            if !self.store.evict_one(samples) {
                // Values on their way out still count; that alone is no reason to refuse.
                let waiting = self.store.condemned() > 0;
                self.store.free_condemned(1000);
                if !waiting {
                    return false;
                }
            }
            self.tell_gone();
        }
        true
    }

    /// Whether a limit is exceeded now.
    pub fn over_limit(&self) -> bool {
        let max_memory = self.settings.size(Name::maxmemory);
        let max_entries = self.settings.size(Name::maxentries);
        (max_memory > 0 && self.used_memory() > max_memory) || (max_entries > 0 && self.store.len() > max_entries)
    }

    /// Pass on which keys expired or were evicted since the last call.
    pub fn tell_gone(&mut self) {
        if self.store.gone.is_empty() {
            return;
        }
        for gone in std::mem::take(&mut self.store.gone) {
            if self.tail.listening() {
                self.record_gone(gone.database, &gone.key);
            }
            self.break_watches(gone.database, &gone.key, None);
            self.mark_ready(gone.database, &gone.key);
            let (class, event) =
                if gone.evicted { (super::notify::EVICTED, "evicted") } else { (super::notify::EXPIRED, "expired") };
            super::pubsub::notify(self, None, gone.database, class, event, &gone.key);
            super::tracking::changed(self, None, &gone.key);
        }
    }

    /// Tell those who watch a key that it changed. The client being served is not among [`Engine::clients`].
    pub fn break_watches(&mut self, database: u8, key: &[u8], serving: Option<&mut Client>) {
        if self.watchers.is_empty() {
            return;
        }
        let Some(tokens) = self.watchers.get(&(database, key) as &dyn KeyPair) else {
            return;
        };
        let mut serving = serving;
        for &token in tokens {
            match (self.clients.get_mut(token), serving.as_deref_mut()) {
                (Some(client), _) => client.watch_broken = true,
                (None, Some(client)) if client.token == token => client.watch_broken = true,
                _ => {}
            }
        }
    }

    /// Note that a key may now have what somebody waits for.
    pub fn mark_ready(&mut self, database: u8, key: &[u8]) {
        if !self.waiting.is_empty() && self.waiting.contains_key(&(database, key) as &dyn KeyPair) {
            let pair = (database, Box::from(key));
            if !self.ready.contains(&pair) {
                self.ready.push(pair);
            }
        }
    }

    /// As [`Engine::mark_ready`], all keys of a database, or of all databases, that somebody waits for.
    pub fn mark_all_ready(&mut self, database: Option<u8>) {
        let waiting = self.waiting.keys().filter(|(at, _)| database.is_none_or(|only| only == *at));
        for (at, key) in waiting.cloned().collect::<Vec<_>>() {
            self.mark_ready(at, &key);
        }
    }

    /// Send bytes to a client that is not being served.
    pub fn send(&mut self, token: Token, bytes: &[u8]) {
        if let Some(client) = self.clients.get_mut(token)
            && !client.closing
            && !client.dead
        {
            if client.pending.is_empty() {
                self.wake.push(token);
            }
            client.pending.extend_from_slice(bytes);
        }
    }

    /// Close a client that is not being served; it does not get anything more, not even what it waits for.
    pub fn dismiss(&mut self, token: Token) {
        if let Some(mut client) = self.clients.take(token) {
            self.leave(&mut client);
            self.clients.put_back(client);
        }
        self.kill(token);
    }

    /// Close a client that is not being served.
    pub fn kill(&mut self, token: Token) {
        if let Some(client) = self.clients.get_mut(token) {
            client.dead = true;
            self.wake.push(token);
        }
    }
}

/// A database and a key, borrowed or owned, so that maps can be asked without copying the key.
pub trait KeyPair {
    /// The two parts.
    fn parts(&self) -> (u8, &[u8]);
}

impl KeyPair for (u8, Box<[u8]>) {
    fn parts(&self) -> (u8, &[u8]) {
        (self.0, &self.1)
    }
}

impl KeyPair for (u8, &[u8]) {
    fn parts(&self) -> (u8, &[u8]) {
        (self.0, self.1)
    }
}

impl<'a> std::borrow::Borrow<dyn KeyPair + 'a> for (u8, Box<[u8]>) {
    fn borrow(&self) -> &(dyn KeyPair + 'a) {
        self
    }
}

impl std::hash::Hash for dyn KeyPair + '_ {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let (database, key) = self.parts();
        // As the derived hash of the owned tuple does, or look-ups would miss.
        database.hash(state);
        key.hash(state);
    }
}

impl PartialEq for dyn KeyPair + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn KeyPair + '_ {}
