//! INFO: what the node is and how it fares, under the names monitoring tools know.

use super::fault::Done;
use super::introspect::{everything, full_name};
use super::settings::Name;
use super::table::{Command, flag};
use super::{Ctx, Engine, process, server};
use crate::clock::ticks_to_us;
use crate::persist::Keeper;
use crate::replication::told;
use crate::resp::Args;
use crate::store::keyspace::DATABASES;
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;

/// The family.
pub const COMMANDS: &[Command] = &[Command {
    summary: "Tells what the node is and how it fares.",
    syntax: "[section [section ...]]",
    ..Command::new("info", info, -1, flag::LOADING | flag::STALE | flag::DANGEROUS)
}];

/// Writes one section.
type Writer = fn(&mut Lines, &mut Engine);

/// All sections in their order: the name, the title, whether it is shown when none is asked for.
const SECTIONS: [(&str, &str, bool, Writer); 14] = [
    ("server", "Server", true, server_section),
    ("clients", "Clients", true, clients),
    ("memory", "Memory", true, memory),
    ("persistence", "Persistence", true, persistence),
    ("stats", "Stats", true, statistics),
    ("replication", "Replication", true, replication),
    ("cpu", "CPU", true, cpu),
    ("modules", "Modules", true, |_, _| {}),
    ("commandstats", "Commandstats", false, command_statistics),
    ("errorstats", "Errorstats", true, error_statistics),
    ("latencystats", "Latencystats", false, latencies),
    ("cluster", "Cluster", true, cluster),
    ("fastcache", "FastCache", true, own),
    ("keyspace", "Keyspace", true, keyspace),
];

fn info(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let asked = |word: &str| (1..args.len()).any(|at| args.is(at, word));
    let all = asked("ALL") || asked("EVERYTHING");
    let default = args.len() == 1 || asked("DEFAULT");
    let mut lines = Lines::default();
    for (name, title, by_default, write) in SECTIONS {
        if all || (default && by_default) || asked(&name.to_uppercase()) {
            lines.title(title);
            write(&mut lines, ctx.engine);
        }
    }
    ctx.out.verbatim(lines.0.as_bytes());
    Ok(())
}

/// The text as it grows.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn title(&mut self, title: &str) {
        if !self.0.is_empty() {
            self.0.push_str("\r\n");
        }
        let _ = write!(self.0, "# {title}\r\n"); // Writing to a string cannot fail.
    }

    fn put(&mut self, name: &str, value: impl Display) {
        let _ = write!(self.0, "{name}:{value}\r\n");
    }

    /// A size as a number and for people.
    fn size(&mut self, name: &str, bytes: usize) {
        self.put(name, bytes);
        self.put(&format!("{name}_human"), for_people(bytes));
    }

    fn zeros(&mut self, names: &[&str]) {
        for name in names {
            self.put(name, 0);
        }
    }
}

/// A size in the largest unit that leaves a whole number before the point.
fn for_people(bytes: usize) -> String {
    let units = ["K", "M", "G", "T", "P"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.2}{}", units[unit])
}

fn server_section(lines: &mut Lines, engine: &mut Engine) {
    let now = crate::clock::wall_us();
    let uptime = (now / 1000).saturating_sub(engine.started) / 1000;
    lines.put("redis_version", server::REDIS_VERSION);
    lines.put("redis_git_sha1", "00000000");
    lines.put("redis_git_dirty", 0);
    lines.put("redis_build_id", &engine.run_id[..15]);
    lines.put("redis_mode", engine.mode());
    lines.put("os", process::system());
    lines.put("arch_bits", usize::BITS);
    lines.put("monotonic_clock", "POSIX clock_gettime");
    lines.put("multiplexing_api", engine.multiplexing);
    lines.put("atomicvar_api", "c11-builtin");
    lines.put("gcc_version", "0.0.0");
    lines.put("process_id", std::process::id());
    lines.put("process_supervised", if std::env::var_os("NOTIFY_SOCKET").is_some() { "systemd" } else { "no" });
    lines.put("run_id", &engine.run_id);
    lines.put("tcp_port", engine.settings.number(Name::port));
    lines.put("server_time_usec", now);
    lines.put("uptime_in_seconds", uptime);
    lines.put("uptime_in_days", uptime / 86_400);
    lines.put("hz", engine.settings.number(Name::hz));
    lines.put("configured_hz", engine.settings.number(Name::hz));
    lines.put("lru_clock", (now / 1_000_000) & 0xFF_FFFF);
    lines.put("executable", process::executable());
    lines.put("config_file", engine.settings.file.as_deref().unwrap_or(""));
    lines.put("io_threads_active", 0);
}

fn clients(lines: &mut Lines, engine: &mut Engine) {
    let longest = |size: fn(&super::Client) -> usize| engine.clients.iter().map(size).max().unwrap_or(0);
    let timed = engine.clients.iter().filter(|client| client.blocked.as_ref().is_some_and(|wait| wait.deadline > 0));
    lines.put("connected_clients", engine.clients.len() as u64 + engine.elsewhere.clients);
    lines.put("cluster_connections", 0);
    lines.put("maxclients", engine.settings.number(Name::maxclients));
    lines.put("client_recent_max_input_buffer", longest(|client| client.query_bytes));
    lines.put("client_recent_max_output_buffer", longest(|client| client.pending.len()));
    lines.put("blocked_clients", engine.blocked_clients);
    lines.put("tracking_clients", engine.tracking.clients());
    lines.put("clients_in_timeout_table", timed.count());
}

fn memory(lines: &mut Lines, engine: &mut Engine) {
    let used = engine.used_memory();
    let data = engine.store.arena.used();
    let resident = process::resident_bytes().max(1);
    engine.stats.peak_memory = engine.stats.peak_memory.max(used);
    let peak = engine.stats.peak_memory;
    let overhead = used.saturating_sub(data);
    let buffers: usize = engine
        .clients
        .iter()
        .map(|client| size_of::<super::Client>() + client.pending.capacity() + client.query_bytes)
        .sum();
    lines.size("used_memory", used);
    lines.size("used_memory_rss", resident);
    lines.size("used_memory_peak", peak);
    lines.put("used_memory_peak_perc", percent(used, peak));
    lines.put("used_memory_overhead", overhead);
    lines.put("used_memory_startup", engine.memory_at_start);
    lines.put("used_memory_dataset", data);
    lines.put("used_memory_dataset_perc", percent(data, used.saturating_sub(engine.memory_at_start).max(data)));
    lines.put("allocator_allocated", used);
    lines.put("allocator_active", used.max(engine.store.arena.reserved()));
    lines.put("allocator_resident", resident);
    lines.size("total_system_memory", process::system_memory());
    let scripts = engine.scripting.figures();
    lines.put("used_memory_lua", scripts.eval_memory);
    lines.put("used_memory_vm_eval", scripts.eval_memory);
    lines.put("used_memory_lua_human", for_people(scripts.eval_memory));
    lines.put("used_memory_scripts_eval", scripts.cache_memory);
    lines.put("number_of_cached_scripts", scripts.cached);
    lines.put("number_of_functions", scripts.functions);
    lines.put("number_of_libraries", scripts.libraries);
    lines.put("used_memory_vm_functions", scripts.function_memory);
    lines.size("used_memory_vm_total", scripts.eval_memory + scripts.function_memory);
    lines.put("used_memory_functions", scripts.library_memory);
    lines.size("used_memory_scripts", scripts.cache_memory + scripts.library_memory);
    lines.size("maxmemory", engine.settings.size(Name::maxmemory));
    lines.put("maxmemory_policy", engine.settings.text(Name::maxmemory_policy));
    let ratio = |one: usize, other: usize| format!("{:.2}", one as f64 / other.max(1) as f64);
    let reserved = used.max(engine.store.arena.reserved());
    lines.put("allocator_frag_ratio", ratio(reserved, used));
    lines.put("allocator_frag_bytes", reserved.saturating_sub(used));
    lines.put("allocator_rss_ratio", ratio(resident, reserved));
    lines.put("allocator_rss_bytes", resident as i64 - reserved as i64);
    lines.put("rss_overhead_ratio", "1.00");
    lines.put("rss_overhead_bytes", 0);
    lines.put("mem_fragmentation_ratio", ratio(resident, used));
    lines.put("mem_fragmentation_bytes", resident as i64 - used as i64);
    lines.zeros(&["mem_not_counted_for_evict", "mem_replication_backlog", "mem_total_replication_buffers"]);
    lines.put("mem_clients_slaves", 0);
    lines.put("mem_clients_normal", buffers);
    lines.zeros(&["mem_cluster_links", "mem_aof_buffer"]);
    lines.put("mem_allocator", "fastcache-arena");
    lines.put("active_defrag_running", 0);
    lines.put("lazyfree_pending_objects", engine.store.condemned());
    lines.put("lazyfreed_objects", 0);
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.2}%", part as f64 * 100.0 / whole.max(1) as f64)
}

fn persistence(lines: &mut Lines, engine: &mut Engine) {
    lines.put("loading", u8::from(engine.loading));
    lines.zeros(&["async_loading", "current_cow_peak", "current_cow_size", "current_cow_size_age"]);
    lines.put("current_fork_perc", "0.00");
    let keeper = engine.keeper.as_deref();
    let figures = keeper.map(|keeper| keeper.figures.clone()).unwrap_or_default();
    let under_way = keeper.and_then(Keeper::under_way);
    let (since, copied, total) = under_way.unwrap_or_default();
    let now = engine.store.now();
    lines.put("current_save_keys_processed", copied);
    lines.put("current_save_keys_total", total);
    lines.put("rdb_changes_since_last_save", keeper.map_or(engine.changes, |keeper| keeper.changes(engine)));
    lines.put("rdb_bgsave_in_progress", u8::from(under_way.is_some()));
    lines.put("rdb_last_save_time", if figures.last > 0 { figures.last } else { engine.started } / 1000);
    let status = |bad: bool| if bad { "err" } else { "ok" };
    lines.put("rdb_last_bgsave_status", status(figures.error.is_some()));
    lines.put("rdb_last_bgsave_time_sec", figures.taken.as_ref().map_or(-1, |taken| (taken.sum.took / 1000) as i64));
    lines.put("rdb_current_bgsave_time_sec", under_way.map_or(-1, |_| (now.saturating_sub(since) / 1000) as i64));
    lines.put("rdb_saves", figures.count);
    lines.zeros(&["rdb_last_cow_size"]);
    lines.put("rdb_last_load_keys_expired", figures.loaded.expired);
    lines.put("rdb_last_load_keys_loaded", figures.loaded.entries);
    let journal = keeper.and_then(Keeper::journal);
    lines.put("aof_enabled", u8::from(journal.is_some()));
    lines.zeros(&["aof_rewrite_in_progress", "aof_rewrite_scheduled"]);
    lines.put("aof_last_rewrite_time_sec", -1);
    lines.put("aof_current_rewrite_time_sec", -1);
    lines.put("aof_last_bgrewrite_status", status(figures.error.is_some()));
    lines.zeros(&["aof_rewrites", "aof_rewrites_consecutive_failures"]);
    let failing = journal.is_some_and(|journal| journal.shared.failing.load(Ordering::Acquire));
    lines.put("aof_last_write_status", status(failing));
    lines.zeros(&["aof_last_cow_size", "module_fork_in_progress", "module_fork_last_cow_size"]);
    let Some(keeper) = keeper else { return };
    if let Some((done, expected)) = keeper.warming_up() {
        lines.put("loading_total_bytes", expected);
        lines.put("loading_loaded_bytes", done);
        lines.put("loading_loaded_perc", percent(done as usize, expected as usize));
    }
    lines.put("snapshot_failures", figures.failures);
    lines.put("snapshot_error", figures.error.as_deref().unwrap_or(""));
    lines.put("snapshot_longest_slice_usec", figures.longest_slice_us);
    lines.put("snapshot_longest_slice_work_usec", figures.longest_slice_work_us);
    if let Some(taken) = &figures.taken {
        lines.put("snapshot_file", taken.path.display());
        lines.put("snapshot_entries", taken.sum.entries);
        lines.put("snapshot_bytes", taken.size);
        lines.put("snapshot_ms", taken.sum.took);
    }
    lines.put("warm_up_ms", figures.loaded.took);
    lines.put("warm_up_log_records", figures.loaded.records);
    lines.put("warm_up_left_out", figures.loaded.left_out);
    lines.put("warm_up_damage", figures.loaded.damage.join(" | "));
    if let Some(journal) = journal {
        let shared = &journal.shared;
        lines.put("aof_current_size", shared.file_bytes.load(Ordering::Relaxed));
        lines.put("aof_pending_bio_fsync", 0);
        lines.put("log_failing", u8::from(failing));
        lines.put("log_failures", shared.failures.load(Ordering::Relaxed));
        lines.put("log_error", shared.error.lock().map_or_else(|_| String::new(), |error| error.clone()));
        lines.put("log_safe_record", journal.safe());
        lines.put("log_last_record", engine.tail.seq());
        lines.put("log_delay_ms", journal.age(engine));
        lines.put("log_bytes", shared.bytes.load(Ordering::Relaxed));
        lines.put("log_forced", shared.forced.load(Ordering::Relaxed));
        lines.put("log_refusing_writes", u8::from(keeper.refusal.is_some()));
    }
}

fn statistics(lines: &mut Lines, engine: &mut Engine) {
    let (stats, counts) = (&engine.stats, &engine.store.counts);
    let kilobytes = |bytes: u64| format!("{:.2}", bytes as f64 / 1024.0);
    lines.put("total_connections_received", stats.connections + engine.elsewhere.connections);
    lines.put("total_commands_processed", stats.commands);
    lines.put("instantaneous_ops_per_sec", stats.instantaneous_ops);
    lines.put("total_net_input_bytes", stats.input_bytes);
    lines.put("total_net_output_bytes", stats.output_bytes);
    lines.zeros(&["total_net_repl_input_bytes", "total_net_repl_output_bytes"]);
    lines.put("instantaneous_input_kbps", kilobytes(stats.instantaneous_input));
    lines.put("instantaneous_output_kbps", kilobytes(stats.instantaneous_output));
    lines.put("instantaneous_input_repl_kbps", "0.00");
    lines.put("instantaneous_output_repl_kbps", "0.00");
    lines.put("rejected_connections", stats.rejected_connections + engine.elsewhere.rejected);
    lines.zeros(&["sync_full", "sync_partial_ok", "sync_partial_err"]);
    lines.put("expired_keys", counts.expired);
    lines.put("expired_stale_perc", format!("{:.2}", stats.expired_stale_percent));
    lines.put("expired_time_cap_reached_count", 0);
    lines.put("expire_cycle_cpu_milliseconds", stats.expire_cycle_ms);
    lines.put("evicted_keys", counts.evicted);
    lines.zeros(&["evicted_clients", "total_eviction_exceeded_time", "current_eviction_exceeded_time"]);
    lines.put("keyspace_hits", stats.hits);
    lines.put("keyspace_misses", stats.misses);
    let listened = engine.elsewhere.listened;
    lines.put("pubsub_channels", engine.channels.len() as u64 + listened[0]);
    lines.put("pubsub_patterns", engine.patterns.len() as u64 + listened[1]);
    lines.put("pubsubshard_channels", engine.shard_channels.len() as u64 + listened[2]);
    lines.zeros(&["latest_fork_usec", "total_forks", "migrate_cached_sockets", "slave_expires_tracked_keys"]);
    lines.zeros(&["active_defrag_hits", "active_defrag_misses", "active_defrag_key_hits", "active_defrag_key_misses"]);
    lines.zeros(&["total_active_defrag_time", "current_active_defrag_time"]);
    lines.put("tracking_total_keys", engine.tracking.keys());
    lines.put("tracking_total_items", engine.tracking.items());
    lines.put("tracking_total_prefixes", engine.tracking.prefixes(&engine.clients));
    lines.put("unexpected_error_replies", 0);
    lines.put("total_error_replies", stats.errors);
    lines.put("dump_payload_sanitizations", 0);
    lines.put("total_reads_processed", stats.reads);
    lines.put("total_writes_processed", stats.writes);
    lines.zeros(&["io_threaded_reads_processed", "io_threaded_writes_processed"]);
    lines.zeros(&["reply_buffer_shrinks", "reply_buffer_expands"]);
}

fn replication(lines: &mut Lines, engine: &mut Engine) {
    let now = super::replicate::steady_ms();
    let replicas = told::replicas(engine, now);
    let mut offset = engine.tail.seq();
    if let (Some(sink), Some(membership)) = (told::follows(engine), &engine.membership) {
        let main = crate::replication::main_of(membership, sink);
        offset = sink.seq;
        lines.put("role", "slave");
        lines.put("master_host", main.map_or("", |main| &main.host));
        lines.put("master_port", main.map_or(0, |main| main.port));
        lines.put("master_link_status", if sink.state() == "connecting" { "down" } else { "up" });
        lines.put("master_last_io_seconds_ago", now.saturating_sub(sink.heard) / 1000);
        lines.put("master_sync_in_progress", u8::from(sink.state() == "copying"));
        lines.put("slave_read_repl_offset", offset);
        lines.put("slave_repl_offset", offset);
        lines.put("slave_priority", engine.settings.number(Name::replica_priority));
        lines.put("slave_read_only", 1);
    } else {
        lines.put("role", "master");
    }
    lines.put("connected_slaves", replicas.len());
    for (at, (host, port, state, acked, lag)) in replicas.iter().enumerate() {
        let lag = lag / 1000;
        lines.put(&format!("slave{at}"), format!("ip={host},port={port},state={state},offset={acked},lag={lag}"));
    }
    lines.put("master_failover_state", "no-failover");
    lines.put("master_replid", &engine.run_id);
    lines.put("master_replid2", "0".repeat(40));
    lines.put("master_repl_offset", offset);
    lines.put("second_repl_offset", -1);
    lines.put("repl_backlog_active", u8::from(engine.tail.listening()));
    lines.put("repl_backlog_size", engine.settings.number(Name::repl_backlog_size));
    lines.put("repl_backlog_first_byte_offset", engine.tail.oldest() * u64::from(engine.tail.listening()));
    lines.put("repl_backlog_histlen", engine.tail.held());
}

fn cpu(lines: &mut Lines, _: &mut Engine) {
    let (all, main) = process::cpu_seconds();
    lines.put("used_cpu_sys", format!("{:.6}", all.1));
    lines.put("used_cpu_user", format!("{:.6}", all.0));
    lines.put("used_cpu_sys_children", "0.000000");
    lines.put("used_cpu_user_children", "0.000000");
    lines.put("used_cpu_sys_main_thread", format!("{:.6}", main.1));
    lines.put("used_cpu_user_main_thread", format!("{:.6}", main.0));
}

fn command_statistics(lines: &mut Lines, engine: &mut Engine) {
    for (place, (parent, row)) in everything().enumerate() {
        let stats = engine.command_stats[place];
        if stats.calls + stats.rejected + stats.failed == 0 {
            continue;
        }
        let micros = ticks_to_us(stats.ticks);
        let each = if stats.calls == 0 { 0.0 } else { micros as f64 / stats.calls as f64 };
        lines.put(
            &format!("cmdstat_{}", full_name(parent, row)),
            format!(
                "calls={},usec={micros},usec_per_call={each:.2},rejected_calls={},failed_calls={}",
                stats.calls, stats.rejected, stats.failed
            ),
        );
    }
}

fn error_statistics(lines: &mut Lines, engine: &mut Engine) {
    let mut codes: Vec<_> = engine.error_stats.iter().collect();
    codes.sort();
    for (code, count) in codes {
        lines.put(&format!("errorstat_{}", String::from_utf8_lossy(code)), format!("count={count}"));
    }
}

fn latencies(lines: &mut Lines, engine: &mut Engine) {
    let percentiles: Vec<&str> =
        engine.settings.text(Name::latency_tracking_info_percentiles).split_whitespace().collect();
    for (place, (parent, row)) in everything().enumerate() {
        let values: Vec<String> = percentiles
            .iter()
            .filter_map(|text| {
                let micros = engine.latencies.percentile(place, text.parse().ok()?)?;
                Some(format!("p{text}={micros:.3}"))
            })
            .collect();
        if !values.is_empty() {
            lines.put(&format!("latency_percentiles_usec_{}", full_name(parent, row)), values.join(","));
        }
    }
}

fn cluster(lines: &mut Lines, engine: &mut Engine) {
    lines.put("cluster_enabled", u8::from(engine.membership.is_some()));
}

fn own(lines: &mut Lines, engine: &mut Engine) {
    lines.put("fastcache_version", env!("CARGO_PKG_VERSION"));
    lines.put("node_id", super::cluster::membership::own_id(engine));
    lines.put("topology_epoch", engine.membership.as_ref().map_or(0, |membership| membership.document.epoch));
    for (name, value) in figures(engine) {
        lines.put(name, value);
    }
    if let Some(replication) = &engine.replication {
        for (name, value) in told::figures(replication, &engine.tail, super::replicate::steady_ms()) {
            lines.put(name, value as u64);
        }
    }
}

/// The statistics a cache is judged by.
pub fn figures(engine: &Engine) -> [(&'static str, u64); 10] {
    let counts = &engine.store.counts;
    [
        ("hits", engine.stats.hits),
        ("misses", engine.stats.misses),
        ("sets", counts.sets),
        ("deletes", counts.deletes),
        ("evictions", counts.evicted),
        ("expirations", counts.expired),
        ("entries", engine.store.len() as u64),
        ("maxentries", engine.settings.size(Name::maxentries) as u64),
        ("memory", engine.used_memory() as u64),
        ("maxmemory", engine.settings.size(Name::maxmemory) as u64),
    ]
}

fn keyspace(lines: &mut Lines, engine: &mut Engine) {
    for number in 0..DATABASES as u8 {
        let (keys, expiring) = {
            let database = engine.store.database(number);
            (database.len(), database.expiring)
        };
        if keys > 0 {
            let average = if expiring == 0 { 0 } else { average_time_left(engine, number) };
            lines.put(&format!("db{number}"), format!("keys={keys},expires={expiring},avg_ttl={average}"));
        }
    }
}

/// About how many milliseconds the keys with an expiry have left; from the first of them that are met.
fn average_time_left(engine: &Engine, database: u8) -> u64 {
    let now = engine.store.now();
    let (mut cursor, mut seen, mut sum) = (0, 0u64, 0u64);
    for _ in 0..100 {
        cursor = engine.store.scan(database, cursor, |handle| {
            if let Some(left) = engine.store.expiry_of(handle).and_then(|time| time.checked_sub(now)) {
                seen += 1;
                sum += left;
            }
        });
        if cursor == 0 || seen >= 20 {
            break;
        }
    }
    sum.checked_div(seen).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::testing::Node;

    #[test]
    fn sections_are_shown_on_demand_and_hold_what_tools_look_for() {
        let mut node = Node::new();
        node.line("SET k v PX 5000");
        node.line("GET nosuch");
        let text = node.line("INFO");
        for field in [
            "redis_version:7.0.15",
            "loading:0",
            "maxmemory_policy:noeviction",
            "role:master",
            "keyspace_misses:1",
            "db0:keys=1,expires=1,avg_ttl=5000",
            "# FastCache",
            "sets:1",
            "total_system_memory:",
        ] {
            assert!(text.contains(field), "{field} is missing");
        }
        assert!(!text.contains("cmdstat_"));
        assert!(node.line("INFO all").contains("cmdstat_set:calls=1,usec="));
        assert!(node.line("INFO everything").contains("latency_percentiles_usec_set:p50="));
        assert_eq!(node.line("INFO nosuch"), "$0");
        assert!(
            node.line("INFO keyspace cluster")
                .ends_with("# Cluster cluster_enabled:0  # Keyspace db0:keys=1,expires=1,avg_ttl=5000")
        );
    }

    #[test]
    fn sizes_are_told_for_people() {
        assert_eq!(for_people(0), "0B");
        assert_eq!(for_people(1023), "1023B");
        assert_eq!(for_people(1_609_376), "1.53M");
        assert_eq!(for_people(25_276_502_016), "23.54G");
    }
}
