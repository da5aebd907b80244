//! Every setting of a node: its name, kind, default, whether it changes at run time, and what it means.
//!
//! The one home of these facts: CONFIG, the configuration file, `--print-config` and the
//! documentation all read [`SETTINGS`]. Names are those Redis users know, where the
//! meaning is the same.

use crate::resp::number::parse_i64;
use crate::store::evict::Policy;

/// How a setting is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within these bounds.
    Integer(i64, i64),
    /// A size, such as `100mb`, within these bounds.
    Memory(i64, i64),
    /// `yes` or `no`.
    Boolean,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A setting with a syntax of its own, checked where it is used.
    Special,
}

/// A row of the table.
pub struct Setting {
    /// The name.
    pub name: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// What holds when nothing is said.
    pub default: &'static str,
    /// Whether CONFIG SET may change it.
    pub at_run_time: bool,
    /// What it means, for people.
    pub help: &'static str,
}

const POLICIES: &[&str] = &[
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "allkeys-s3fifo",
    "allkeys-sieve",
    "noeviction",
];

macro_rules! settings {
    ($($field:ident $name:literal $kind:expr, $default:literal, $run:ident, $help:literal;)*) => {
        /// All settings.
        pub static SETTINGS: &[Setting] = &[$(Setting {
            name: $name, kind: $kind, default: $default, at_run_time: settings!(@run $run), help: $help,
        }),*];

        /// Names the rows of [`SETTINGS`], in their order.
        #[allow(missing_docs, non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Name { $($field),* }
    };
    (@run run) => { true };
    (@run start) => { false };
}

const ANY: i64 = i64::MAX;

settings! {
    port "port" Kind::Integer(0, 65535), "7001", start, "TCP port on which clients and proxies speak RESP; 0 means no TCP.";
    bind "bind" Kind::Text, "127.0.0.1", start, "Addresses to listen on, separated by blanks.";
    tls_port "tls-port" Kind::Integer(0, 65535), "0", start, "TCP port on which clients speak RESP under TLS; 0 for none.";
    tls_cert_file "tls-cert-file" Kind::Text, "", run, "The server's certificate and its chain (PEM); setting it anew reads the file anew.";
    tls_key_file "tls-key-file" Kind::Text, "", run, "The key of the certificate (PEM).";
    tls_ca_cert_file "tls-ca-cert-file" Kind::Text, "", run, "Certificates of those who sign clients' certificates (PEM).";
    tls_auth_clients "tls-auth-clients" Kind::Choice(&["no", "yes", "optional"]), "yes", run, "Whether clients must show a certificate.";
    tls_protocols "tls-protocols" Kind::Text, "", run, "TLSv1.2, TLSv1.3 or both; empty for both.";
    tls_cluster "tls-cluster" Kind::Boolean, "no", start, "Whether connections to nodes, for routing and for copies, are under TLS; their port then is one that speaks it.";
    unixsocket "unixsocket" Kind::Text, "", start, "Path of a Unix socket to listen on besides; empty for none.";
    unixsocketperm "unixsocketperm" Kind::Text, "700", start, "Access mode of the Unix socket, octal.";
    dir "dir" Kind::Text, ".", run, "Directory for snapshots and the log; . for none: all is in memory only.";
    snapshot_interval "snapshot-interval" Kind::Integer(0, i32::MAX as i64), "60", run, "Seconds between snapshots, where dir is set; 0 for none.";
    snapshot_keep "snapshot-keep" Kind::Integer(1, 1000), "3", run, "Snapshots that are kept.";
    warm_up_limit "warm-up-limit" Kind::Integer(0, i32::MAX as i64), "30", run, "Seconds that loading from disk may take at the start; 0 for no limit.";
    node_id "node-id" Kind::Text, "", start, "Name of this node in the cluster; empty for node-PORT.";
    health "health" Kind::Special, "", start, "Addresses (http://HOST:PORT, or https) of the health services; the topology that they publish is obeyed.";
    topology_file "topology-file" Kind::Text, "", start, "Where the last known topology is kept, for a start without a health service.";
    requirepass "requirepass" Kind::Secret, "", run, "Password that clients must give before anything else; empty for none.";
    user "user" Kind::Secret, "", start, "Users and their rules, a line or an element of a list each: name on >password ~keys* +@read.";
    aclfile "aclfile" Kind::Text, "", start, "File with the users, which ACL LOAD reads and ACL SAVE writes; empty to keep them in `user`.";
    acl_pubsub_default "acl-pubsub-default" Kind::Choice(&["resetchannels", "allchannels"]), "resetchannels", run, "Whether new users may use all channels.";
    auth_failure_limit "auth-failure-limit" Kind::Integer(0, ANY), "30", run, "Failed logins from one address for one user within a minute, after which that address is refused for the rest of it; 0 for no limit.";
    maxclients "maxclients" Kind::Integer(1, u32::MAX as i64), "10000", run, "Most clients at a time.";
    timeout "timeout" Kind::Integer(0, i32::MAX as i64), "0", run, "Seconds after which an idle client is closed; 0 never.";
    tcp_keepalive "tcp-keepalive" Kind::Integer(0, i32::MAX as i64), "300", run, "Seconds between probes of silent connections; 0 for none.";
    tcp_backlog "tcp-backlog" Kind::Integer(1, 65535), "511", start, "Connections that may wait to be accepted.";
    proto_max_bulk_len "proto-max-bulk-len" Kind::Memory(1 << 20, 4 << 30), "512mb", run, "Longest single argument.";
    client_query_buffer_limit "client-query-buffer-limit" Kind::Memory(1 << 20, ANY), "1gb", run, "Most bytes of one unfinished request.";
    client_output_buffer_limit "client-output-buffer-limit" Kind::Special, "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", run, "For each class of clients: unsent bytes at which it is closed at once, and after how many seconds above a lower mark.";
    databases "databases" Kind::Integer(16, 16), "16", start, "Number of databases.";
    maxmemory "maxmemory" Kind::Memory(0, ANY), "0", run, "Most memory for data and buffers; 0 for no limit.";
    maxmemory_policy "maxmemory-policy" Kind::Choice(POLICIES), "noeviction", run, "What goes when memory or entries run out.";
    maxmemory_samples "maxmemory-samples" Kind::Integer(1, i32::MAX as i64), "5", run, "Keys looked at for each eviction by LFU, TTL.";
    maxmemory_eviction_tenacity "maxmemory-eviction-tenacity" Kind::Integer(0, 100), "10", run, "How long one write may evict at most; 10 is half a millisecond.";
    maxmemory_clients "maxmemory-clients" Kind::Special, "0", run, "Most memory for all clients' buffers; 0 for no limit.";
    maxentries "maxentries" Kind::Integer(0, ANY), "0", run, "Most keys; 0 for no limit.";
    lfu_log_factor "lfu-log-factor" Kind::Integer(0, i32::MAX as i64), "10", run, "The higher, the more uses it takes to raise LFU's count.";
    lfu_decay_time "lfu-decay-time" Kind::Integer(0, i32::MAX as i64), "1", run, "Minutes after which LFU's count loses one.";
    active_expire_effort "active-expire-effort" Kind::Integer(1, 10), "1", run, "How eagerly expired keys are looked for.";
    lazyfree_lazy_eviction "lazyfree-lazy-eviction" Kind::Boolean, "no", run, "Accepted for compatibility: large values are always freed bit by bit.";
    lazyfree_lazy_expire "lazyfree-lazy-expire" Kind::Boolean, "no", run, "Accepted for compatibility: large values are always freed bit by bit.";
    lazyfree_lazy_server_del "lazyfree-lazy-server-del" Kind::Boolean, "no", run, "Accepted for compatibility: large values are always freed bit by bit.";
    lazyfree_lazy_user_del "lazyfree-lazy-user-del" Kind::Boolean, "no", run, "Accepted for compatibility: large values are always freed bit by bit.";
    lazyfree_lazy_user_flush "lazyfree-lazy-user-flush" Kind::Boolean, "no", run, "Accepted for compatibility: large values are always freed bit by bit.";
    replica_lazy_flush "replica-lazy-flush" Kind::Boolean, "no", run, "Accepted for compatibility.";
    hash_max_listpack_entries "hash-max-listpack-entries" Kind::Integer(0, ANY), "512", run, "Hashes up to this many fields are kept flat.";
    hash_max_listpack_value "hash-max-listpack-value" Kind::Memory(0, ANY), "64", run, "Hashes with fields and values up to this long are kept flat.";
    set_max_intset_entries "set-max-intset-entries" Kind::Integer(0, ANY), "512", run, "Sets of up to this many integers are kept as a sorted array.";
    zset_max_listpack_entries "zset-max-listpack-entries" Kind::Integer(0, ANY), "128", run, "Sorted sets up to this many members are kept flat.";
    zset_max_listpack_value "zset-max-listpack-value" Kind::Memory(0, ANY), "64", run, "Sorted sets with members up to this long are kept flat.";
    list_max_listpack_size "list-max-listpack-size" Kind::Integer(i32::MIN as i64, i32::MAX as i64), "-2", run, "Size of a list's chunks: -1 to -5 for 4 to 64 KiB, or a number of elements.";
    list_compress_depth "list-compress-depth" Kind::Integer(0, i32::MAX as i64), "0", run, "Accepted for compatibility: lists are not compressed.";
    stream_node_max_bytes "stream-node-max-bytes" Kind::Memory(0, ANY), "4096", run, "Bytes of one block of a stream.";
    stream_node_max_entries "stream-node-max-entries" Kind::Integer(0, ANY), "100", run, "Entries of one block of a stream.";
    hll_sparse_max_bytes "hll-sparse-max-bytes" Kind::Memory(0, ANY), "3000", run, "Longest sparse form of a HyperLogLog.";
    slowlog_log_slower_than "slowlog-log-slower-than" Kind::Integer(-1, ANY), "10000", run, "Microseconds from which a command is logged as slow; negative for never.";
    slowlog_max_len "slowlog-max-len" Kind::Integer(0, ANY), "128", run, "Entries the slow log keeps.";
    latency_monitor_threshold "latency-monitor-threshold" Kind::Integer(0, ANY), "0", run, "Milliseconds from which an event counts as a latency spike; 0 for never.";
    latency_tracking "latency-tracking" Kind::Boolean, "yes", run, "Whether latency per command is kept.";
    latency_tracking_info_percentiles "latency-tracking-info-percentiles" Kind::Special, "50 99 99.9", run, "Percentiles INFO latencystats shows.";
    notify_keyspace_events "notify-keyspace-events" Kind::Special, "", run, "Classes of keyspace events that are published.";
    key_statistics "key-statistics" Kind::Boolean, "no", run, "Whether hits and misses are counted for each key, for debugging.";
    enable_debug_command "enable-debug-command" Kind::Choice(&["no", "yes", "local"]), "no", start, "Whether DEBUG is served.";
    enable_protected_configs "enable-protected-configs" Kind::Choice(&["no", "yes", "local"]), "no", start, "Accepted for compatibility.";
    enable_module_command "enable-module-command" Kind::Choice(&["no", "yes", "local"]), "no", start, "Accepted for compatibility: there are no modules.";
    protected_mode "protected-mode" Kind::Boolean, "yes", run, "Without a password, serve only clients of this host.";
    tracking_table_max_keys "tracking-table-max-keys" Kind::Integer(0, ANY), "1000000", run, "Most keys whose readers are remembered for CLIENT TRACKING.";
    hz "hz" Kind::Integer(0, i32::MAX as i64), "10", run, "Rounds of background work a second.";
    dynamic_hz "dynamic-hz" Kind::Boolean, "yes", run, "Accepted for compatibility.";
    activerehashing "activerehashing" Kind::Boolean, "yes", run, "Accepted for compatibility: tables grow slot by slot.";
    activedefrag "activedefrag" Kind::Boolean, "no", run, "Accepted for compatibility: empty pages go back by themselves.";
    jemalloc_bg_thread "jemalloc-bg-thread" Kind::Boolean, "yes", run, "Accepted for compatibility.";
    io_threads "io-threads" Kind::Integer(1, 128), "1", start, "Accepted for compatibility: a node has one data thread.";
    save "save" Kind::Special, "", run, "Accepted for compatibility; see the snapshot settings.";
    appendonly "appendonly" Kind::Boolean, "no", run, "Whether every write is also logged to disk; needs dir.";
    appendfsync "appendfsync" Kind::Choice(&["everysec", "always", "no"]), "everysec", run, "When the log is forced to disk.";
    log_flush_keys "log-flush-keys" Kind::Integer(1, 1_000_000), "100", run, "Writes after which a batch goes to the log.";
    log_flush_seconds "log-flush-seconds" Kind::Integer(1, 3600), "5", run, "Seconds after which a batch goes to the log, however small; under appendfsync everysec sooner.";
    log_delay_limit "log-delay-limit" Kind::Integer(0, 3_600_000), "2000", run, "Milliseconds a write may wait for a disk that is behind before further writes are refused; 0 for no limit.";
    appendfilename "appendfilename" Kind::Text, "appendonly.aof", start, "Accepted for compatibility.";
    dbfilename "dbfilename" Kind::Text, "dump.rdb", run,
        "A file of Redis or Valkey in dir, with which a node begins that has nothing of its own there.";
    rdbcompression "rdbcompression" Kind::Boolean, "yes", run, "Accepted for compatibility.";
    stop_writes_on_bgsave_error "stop-writes-on-bgsave-error" Kind::Boolean, "yes", run, "Accepted for compatibility.";
    busy_reply_threshold "busy-reply-threshold" Kind::Integer(0, ANY), "5000", run, "Milliseconds after which others are told that a script keeps the node busy, and it may be killed.";
    lua_memory_limit "lua-memory-limit" Kind::Memory(0, ANY), "256mb", run, "Most memory that scripts, and most that functions, may use; 0 for no limit.";
    cluster_enabled "cluster-enabled" Kind::Boolean, "no", start, "Accepted for compatibility: a node takes its part in a cluster as soon as it has a topology.";
    min_replicas_to_write "min-replicas-to-write" Kind::Integer(0, i32::MAX as i64), "0", run, "Accepted for compatibility.";
    min_replicas_max_lag "min-replicas-max-lag" Kind::Integer(0, i32::MAX as i64), "10", run, "Accepted for compatibility.";
    replica_priority "replica-priority" Kind::Integer(0, i32::MAX as i64), "100", run, "Accepted for compatibility.";
    replica_serve_stale_data "replica-serve-stale-data" Kind::Boolean, "yes", run, "Accepted for compatibility.";
    replica_ignore_maxmemory "replica-ignore-maxmemory" Kind::Boolean, "yes", run, "Accepted for compatibility.";
    repl_timeout "repl-timeout" Kind::Integer(1, i32::MAX as i64), "60", run, "Accepted for compatibility.";
    auto_aof_rewrite_percentage "auto-aof-rewrite-percentage" Kind::Integer(0, i32::MAX as i64), "100", run, "Accepted for compatibility.";
    auto_aof_rewrite_min_size "auto-aof-rewrite-min-size" Kind::Memory(0, ANY), "64mb", run, "Accepted for compatibility.";
    sanitize_dump_payload "sanitize-dump-payload" Kind::Choice(&["no", "yes", "clients"]), "no", run, "Accepted for compatibility.";
    acllog_max_len "acllog-max-len" Kind::Integer(0, ANY), "128", run, "Refusals that ACL LOG keeps.";
    repl_backlog_size "repl-backlog-size" Kind::Memory(1, ANY), "16mb", run, "Bytes of recent writes that are kept for replicas: one that lags further gets all slots anew.";
    repl_compression "repl-compression" Kind::Boolean, "yes", run, "Whether what replicas and takers of slots are filled with is compressed on its way.";
    strict_prefixes "strict-prefixes" Kind::Text, "", run, "Beginnings of keys, with blanks between them, whose requests are strict: replies wait for the replicas.";
    max_unreplicated_ms "max-unreplicated-ms" Kind::Integer(0, i32::MAX as i64), "1000", run, "Age in ms of the oldest write that a replica in sync lacks at which further writes are refused; 0 for never.";
    compare_reads "compare-reads" Kind::Integer(0, 100_000), "20", run, "Keys that strict reads asked for of which, in a second, the copies are compared with what the main has, and repaired; 0 for none.";
    replica_read_only "replica-read-only" Kind::Boolean, "yes", run, "Accepted for compatibility.";
    replicaof "replicaof" Kind::Text, "", start, "Accepted for compatibility.";
    masterauth "masterauth" Kind::Secret, "", run, "Accepted for compatibility.";
    shutdown_timeout "shutdown-timeout" Kind::Integer(0, i32::MAX as i64), "10", run, "Seconds that clients are given to read their replies when the node stops.";
    loglevel "loglevel" Kind::Choice(&["debug", "verbose", "notice", "warning"]), "notice", run, "How much is logged.";
    log_format "log-format" Kind::Choice(&["console", "json"]), "console", start, "Log lines for people (console) or for machines (json).";
    logfile "logfile" Kind::Text, "", start, "Accepted for compatibility: the log goes to standard output.";
    daemonize "daemonize" Kind::Boolean, "no", start, "Accepted for compatibility: the service manager keeps the process.";
    supervised "supervised" Kind::Choice(&["no", "systemd", "upstart", "auto"]), "no", start, "Accepted for compatibility: systemd is found by itself.";
    set_proc_title "set-proc-title" Kind::Boolean, "yes", start, "Accepted for compatibility.";
    crash_log_enabled "crash-log-enabled" Kind::Boolean, "yes", run, "Accepted for compatibility.";
    oom_score_adj "oom-score-adj" Kind::Choice(&["no", "yes", "relative", "absolute"]), "no", run, "Accepted for compatibility.";
    disable_thp "disable-thp" Kind::Boolean, "yes", start, "Accepted for compatibility.";
    propagation_error_behavior "propagation-error-behavior" Kind::Choice(&["ignore", "panic", "panic-on-replicas"]), "ignore", run, "Accepted for compatibility.";
}

/// Older names of settings, which CONFIG still knows.
pub const ALIASES: [(&str, &str); 14] = [
    ("lua-time-limit", "busy-reply-threshold"),
    ("hash-max-ziplist-entries", "hash-max-listpack-entries"),
    ("hash-max-ziplist-value", "hash-max-listpack-value"),
    ("zset-max-ziplist-entries", "zset-max-listpack-entries"),
    ("zset-max-ziplist-value", "zset-max-listpack-value"),
    ("list-max-ziplist-size", "list-max-listpack-size"),
    ("slave-lazy-flush", "replica-lazy-flush"),
    ("slave-read-only", "replica-read-only"),
    ("slave-priority", "replica-priority"),
    ("slave-serve-stale-data", "replica-serve-stale-data"),
    ("slave-ignore-maxmemory", "replica-ignore-maxmemory"),
    ("slaveof", "replicaof"),
    ("min-slaves-to-write", "min-replicas-to-write"),
    ("min-slaves-max-lag", "min-replicas-max-lag"),
];

/// The value of every setting, as text and, where it is a number, as a number.
pub struct Settings {
    texts: Vec<String>,
    numbers: Vec<i64>,
    changed: Vec<bool>,
    /// The file that was read at the start; CONFIG REWRITE writes it.
    pub file: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let mut settings = Settings {
            texts: SETTINGS.iter().map(|row| row.default.to_owned()).collect(),
            numbers: vec![0; SETTINGS.len()],
            changed: vec![false; SETTINGS.len()],
            file: None,
        };
        for (index, row) in SETTINGS.iter().enumerate() {
            let _ = settings.put(index, row.default);
        }
        settings
    }
}

impl Settings {
    /// Where a setting stands in [`SETTINGS`].
    pub fn find(name: &str) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        let name = ALIASES.iter().find(|(old, _)| *old == name).map_or(name.as_str(), |(_, new)| new);
        SETTINGS.iter().position(|row| row.name == name)
    }

    /// A setting as text.
    pub fn text(&self, name: Name) -> &str {
        &self.texts[name as usize]
    }

    /// A numeric setting, bytes for a size, 1 or 0 for yes or no.
    #[inline]
    pub fn number(&self, name: Name) -> i64 {
        self.numbers[name as usize]
    }

    /// A numeric setting that is never negative.
    #[inline]
    pub fn size(&self, name: Name) -> usize {
        usize::try_from(self.number(name)).unwrap_or(0)
    }

    /// Whether a yes-or-no setting says yes.
    #[inline]
    pub fn is_on(&self, name: Name) -> bool {
        self.number(name) != 0
    }

    /// The eviction policy.
    pub fn policy(&self) -> Policy {
        Policy::named(self.text(Name::maxmemory_policy)).unwrap_or_default()
    }

    /// The value at a row, as CONFIG GET shows it.
    pub fn shown(&self, index: usize) -> &str {
        &self.texts[index]
    }

    /// Note that a setting was changed at run time, so that it is written to the file if that is asked for.
    pub fn note_change(&mut self, index: usize) {
        self.changed[index] = true;
    }

    /// Whether a setting was changed at run time.
    pub fn was_changed(&self, index: usize) -> bool {
        self.changed[index]
    }

    /// Check a value and keep it, in its canonical spelling. The error says what is wrong, as CONFIG SET words it.
    pub fn put(&mut self, index: usize, value: &str) -> Result<(), String> {
        let row = &SETTINGS[index];
        let (text, number) = match row.kind {
            Kind::Integer(low, high) => {
                let number = parse_i64(value.as_bytes()).ok_or("argument couldn't be parsed into an integer")?;
                within(number, low, high)?;
                (number.to_string(), number)
            }
            Kind::Memory(low, high) => {
                let number = parse_memory(value).ok_or("argument must be a memory value")?;
                within(number, low, high)?;
                (number.to_string(), number)
            }
            Kind::Boolean => match value.to_ascii_lowercase().as_str() {
                "yes" => ("yes".to_owned(), 1),
                "no" => ("no".to_owned(), 0),
                _ => return Err("argument must be 'yes' or 'no'".into()),
            },
            Kind::Choice(words) => {
                let Some(at) = words.iter().position(|word| word.eq_ignore_ascii_case(value)) else {
                    return Err(format!("argument(s) must be one of the following: {}", words.join(", ")));
                };
                (words[at].to_owned(), at as i64)
            }
            Kind::Secret if row.name == "user" => {
                super::acl::file::of_setting(value, false)?;
                (value.to_owned(), 0)
            }
            Kind::Text | Kind::Secret => (value.to_owned(), 0),
            Kind::Special => special(row.name, value, &self.texts[index])?,
        };
        self.texts[index] = text;
        self.numbers[index] = number;
        Ok(())
    }
}

fn within(number: i64, low: i64, high: i64) -> Result<(), String> {
    if (low..=high).contains(&number) {
        return Ok(());
    }
    Err(format!("argument must be between {low} and {high} inclusive"))
}

/// Settings whose syntax is their own: the canonical text, and a number where one is meant.
fn special(name: &str, value: &str, before: &str) -> Result<(String, i64), String> {
    match name {
        "notify-keyspace-events" => {
            let flags =
                super::notify::parse_classes(value).ok_or("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")?;
            Ok((super::notify::format_classes(flags), i64::from(flags)))
        }
        "client-output-buffer-limit" => output_limits(value, before),
        "health" => {
            let good = |url: &str| {
                let place = url
                    .strip_prefix("http://")
                    .or(url.strip_prefix("https://"))
                    .map(|rest| rest.strip_suffix('/').unwrap_or(rest));
                place.and_then(|place| place.rsplit_once(':')).is_some_and(|(host, port)| {
                    !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
                })
            };
            match value.split_whitespace().find(|url| !good(url)) {
                Some(url) => Err(format!("{url} must be http://HOST:PORT or https://HOST:PORT")),
                None => Ok((value.split_whitespace().collect::<Vec<_>>().join(" "), 0)),
            }
        }
        "save" => {
            let numbers: Option<Vec<i64>> = value.split_whitespace().map(|word| parse_i64(word.as_bytes())).collect();
            let valid = |numbers: &Vec<i64>| {
                numbers.len().is_multiple_of(2) && numbers.chunks(2).all(|pair| pair[0] >= 1 && pair[1] >= 0)
            };
            let numbers = numbers.filter(valid).ok_or("Invalid save parameters")?;
            Ok((numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(" "), 0))
        }
        "latency-tracking-info-percentiles" => {
            let valid = |word: &str| word.parse::<f64>().is_ok_and(|percent| (0.0..=100.0).contains(&percent));
            if !value.split_whitespace().all(valid) {
                return Err("Invalid latency-tracking-info-percentiles parameters".into());
            }
            Ok((value.split_whitespace().collect::<Vec<_>>().join(" "), 0))
        }
        "maxmemory-clients" => {
            if let Some(percent) = value.strip_suffix('%') {
                let number = parse_i64(percent.as_bytes()).filter(|number| (0..=100).contains(number));
                return number
                    .map(|number| (value.to_owned(), -number))
                    .ok_or_else(|| "argument must be a memory or percent value".into());
            }
            let number = parse_memory(value).ok_or("argument must be a memory or percent value")?;
            Ok((number.to_string(), number))
        }
        _ => Ok((value.to_owned(), 0)),
    }
}

/// `class hard soft seconds`, any number of times; classes not named keep what they had.
fn output_limits(value: &str, before: &str) -> Result<(String, i64), String> {
    let words: Vec<&str> = value.split_whitespace().collect();
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.".into());
    }
    let old: Vec<&str> = before.split_whitespace().collect();
    let mut classes: Vec<[String; 4]> = ["normal", "slave", "pubsub"]
        .iter()
        .map(|&class| {
            let at = old.iter().position(|&word| word == class);
            std::array::from_fn(|index| match (index, at) {
                (0, _) => class.to_owned(),
                (index, Some(at)) => old.get(at + index).map_or("0", |word| *word).to_owned(),
                _ => "0".to_owned(),
            })
        })
        .collect();
    for four in words.chunks(4) {
        let class = match four[0].to_ascii_lowercase().as_str() {
            "replica" | "slave" => "slave".to_owned(),
            other => other.to_owned(),
        };
        let Some(row) = classes.iter_mut().find(|row| row[0] == class) else {
            return Err("Invalid client class specified in buffer limit configuration.".into());
        };
        let sizes = (parse_memory(four[1]), parse_memory(four[2]), parse_i64(four[3].as_bytes()));
        let (Some(hard), Some(soft), Some(seconds @ 0..)) = sizes else {
            return Err("Error in hard, soft or soft_seconds setting in buffer limit configuration.".into());
        };
        *row = [class, hard.to_string(), soft.to_string(), seconds.to_string()];
    }
    Ok((classes.iter().map(|row| row.join(" ")).collect::<Vec<_>>().join(" "), 0))
}

/// A size: digits and an optional unit, `k` and `kb` (1000 and 1024), `m`, `mb`, `g`, `gb`, `b`.
pub fn parse_memory(text: &str) -> Option<i64> {
    if text.is_empty() {
        return Some(0); // As Redis has it.
    }
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '-').unwrap_or(text.len());
    let unit: i64 = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<i64>().ok()?.checked_mul(unit).filter(|&bytes| bytes >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_valid_value() {
        let mut settings = Settings::default();
        for (index, row) in SETTINGS.iter().enumerate() {
            assert_eq!(settings.put(index, row.default), Ok(()), "{}", row.name);
        }
        assert_eq!(settings.size(Name::proto_max_bulk_len), 512 << 20);
    }

    #[test]
    fn a_bad_value_says_what_is_wrong_and_changes_nothing() {
        let mut settings = Settings::default();
        let port = Settings::find("port").unwrap();
        assert!(settings.put(port, "70000").unwrap_err().contains("between 0 and 65535"));
        assert_eq!(settings.shown(port), "7001");
        assert_eq!(parse_memory("100mb"), Some(100 << 20));
        assert_eq!(parse_memory("1x"), None);
    }
}
