//! How long commands take: a histogram of each, and events that took too long.

use super::fault::{Done, Fault};
use super::introspect::{everything, full_name, named};
use super::table::{Command, Handler, flag};
use super::{Ctx, server};
use crate::clock::ticks_to_us;
use crate::resp::Args;
use std::collections::{BTreeMap, VecDeque};

const FLAGS: u32 = flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE;

const fn sub(name: &'static str, run: Handler, arity: i32) -> Command {
    Command { since: "2.8.13", ..Command::new(name, run, arity, FLAGS) }
}

/// LATENCY and its sub-commands.
pub const COMMANDS: &[Command] = &[Command {
    since: "2.8.13",
    summary: "Tells what took long.",
    subcommands: &[
        Command { summary: "Tells the newest spike of each kind.", ..sub("latest", latest, 2) },
        Command { summary: "Tells the spikes of a kind.", syntax: "event", ..sub("history", history, 3) },
        Command { summary: "Draws the spikes of a kind.", syntax: "event", ..sub("graph", graph, 3) },
        Command { summary: "Forgets spikes.", syntax: "[event ...]", ..sub("reset", reset, -2) },
        Command { summary: "Sums up the spikes in words.", ..sub("doctor", doctor, 2) },
        Command {
            since: "7.0.0",
            summary: "Tells how long commands took, by powers of two.",
            syntax: "[command ...]",
            ..sub("histogram", histogram, -2)
        },
        Command {
            since: "2.8.13",
            summary: "Lists the sub-commands.",
            ..Command::new("help", help, 2, flag::LOADING | flag::STALE)
        },
    ],
    ..Command::new("latency", server::needs_subcommand, -2, 0)
}];

const BUCKETS: usize = 160; // Four for each power of two of ticks.

/// Histograms of commands by their place in the table, each there once the command has run.
#[derive(Default)]
pub struct Latencies {
    places: Vec<Option<Box<[u32; BUCKETS]>>>,
    /// Spikes by what they are of.
    pub spikes: BTreeMap<&'static str, Spikes>,
}

/// The newest spikes of one kind.
#[derive(Default)]
pub struct Spikes {
    /// Second and milliseconds, the oldest first.
    samples: VecDeque<(u64, u64)>,
    longest: u64,
}

/// Calls, and how many of them ended within each power of two.
type Powers = (u64, Vec<(u64, u64)>);

const MOST_SAMPLES: usize = 160;

impl Latencies {
    /// Note how many ticks a command took.
    #[inline]
    pub fn note(&mut self, place: u32, ticks: u64) {
        let place = place as usize;
        if let Some(Some(counts)) = self.places.get_mut(place) {
            counts[bucket(ticks)] += 1;
        } else {
            self.first(place, ticks);
        }
    }

    #[cold]
    fn first(&mut self, place: usize, ticks: u64) {
        if self.places.len() <= place {
            self.places.resize_with(place + 1, || None);
        }
        self.places[place].get_or_insert_with(|| Box::new([0; BUCKETS]))[bucket(ticks)] += 1;
    }

    /// Forget the histograms.
    pub fn clear(&mut self) {
        self.places.clear();
    }

    /// Note a spike of so many milliseconds. Of one second only the longest is kept.
    #[cold]
    pub fn spike(&mut self, event: &'static str, second: u64, milliseconds: u64) {
        let spikes = self.spikes.entry(event).or_default();
        spikes.longest = spikes.longest.max(milliseconds);
        match spikes.samples.back_mut() {
            Some((when, longest)) if *when == second => *longest = milliseconds.max(*longest),
            _ => spikes.samples.push_back((second, milliseconds)),
        }
        if spikes.samples.len() > MOST_SAMPLES {
            spikes.samples.pop_front();
        }
    }

    /// The microseconds within which so many percent of the calls ended; `None` when there were none.
    pub fn percentile(&self, place: usize, percent: f64) -> Option<f64> {
        let counts = self.places.get(place)?.as_deref()?;
        let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let wanted = ((total as f64 * percent / 100.0).ceil() as u64).clamp(1, total.max(1));
        let mut passed = 0;
        for (index, &count) in counts.iter().enumerate() {
            passed += u64::from(count);
            if passed >= wanted {
                return Some(top(index) as f64 / crate::clock::ticks_per_us());
            }
        }
        None
    }

    /// Calls, and how many of them ended within each power of two of microseconds.
    fn by_powers(&self, place: usize) -> Option<Powers> {
        let counts = self.places.get(place)?.as_deref()?;
        let mut powers: BTreeMap<u64, u64> = BTreeMap::new();
        for (index, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            *powers.entry(ticks_to_us(top(index)).max(1).next_power_of_two()).or_default() += u64::from(count);
        }
        let mut total = 0;
        let rising = powers
            .into_iter()
            .map(|(power, count)| {
                total += count;
                (power, total)
            })
            .collect();
        Some((total, rising))
    }
}

#[inline(always)]
fn bucket(ticks: u64) -> usize {
    let ticks = ticks.max(4);
    let power = 63 - ticks.leading_zeros();
    let quarter = ticks >> (power - 2) & 3;
    ((power as usize) * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The most ticks that fall into a bucket.
fn top(bucket: usize) -> u64 {
    let (power, quarter) = ((bucket / 4).max(2), (bucket % 4) as u64);
    ((5 + quarter) << (power - 2)) - 1
}

fn latest(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let spikes = &ctx.engine.latencies.spikes;
    ctx.out.array(spikes.len());
    for (event, spikes) in spikes {
        let (when, milliseconds) = spikes.samples.back().copied().unwrap_or_default();
        ctx.out.array(4);
        ctx.out.bulk(event.as_bytes());
        ctx.out.integer(when as i64);
        ctx.out.integer(milliseconds as i64);
        ctx.out.integer(spikes.longest as i64);
    }
    Ok(())
}

fn spikes_of<'a>(ctx: &'a Ctx<'_>, event: &[u8]) -> Option<(&'static str, &'a Spikes)> {
    let (name, spikes) = ctx.engine.latencies.spikes.iter().find(|(name, _)| name.as_bytes() == event)?;
    Some((name, spikes))
}

fn history(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let samples: Vec<(u64, u64)> =
        spikes_of(ctx, args.at(2)).map(|(_, spikes)| spikes.samples.iter().copied().collect()).unwrap_or_default();
    ctx.out.array(samples.len());
    for (when, milliseconds) in samples {
        ctx.out.array(2);
        ctx.out.integer(when as i64);
        ctx.out.integer(milliseconds as i64);
    }
    Ok(())
}

fn graph(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some((event, spikes)) = spikes_of(ctx, args.at(2)) else {
        let mut text = b"ERR No samples available for event '".to_vec();
        text.extend_from_slice(args.at(2));
        text.push(b'\'');
        return Err(Fault::bytes(text));
    };
    const ROWS: u64 = 4;
    let shown: Vec<u64> = spikes.samples.iter().map(|(_, milliseconds)| *milliseconds).collect();
    let (low, high) = (shown.iter().min().copied().unwrap_or(0), shown.iter().max().copied().unwrap_or(0));
    let mut text = format!("{event} - high {high} ms, low {low} ms (all time high {} ms)\n", spikes.longest);
    text.push_str(&"-".repeat(80));
    text.push('\n');
    for row in (0..ROWS).rev() {
        let reaches = |value: u64| value * ROWS >= high.max(1) * row;
        let line: String = shown.iter().map(|&value| if reaches(value) { '#' } else { ' ' }).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    ctx.out.verbatim(text.as_bytes());
    Ok(())
}

fn reset(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let spikes = &mut ctx.engine.latencies.spikes;
    let before = spikes.len();
    if args.len() == 2 {
        spikes.clear();
    } else {
        spikes.retain(|name, _| args.from(2).all(|event| event != name.as_bytes()));
    }
    let forgotten = before - spikes.len();
    ctx.out.count(forgotten);
    Ok(())
}

fn doctor(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    let threshold = ctx.engine.settings.number(super::settings::Name::latency_monitor_threshold);
    let spikes = &ctx.engine.latencies.spikes;
    let mut text = String::new();
    if threshold == 0 {
        text.push_str(
            "Spikes are not watched for: set latency-monitor-threshold to the milliseconds that count as one.\n",
        );
    } else if spikes.is_empty() {
        text.push_str(&format!("Nothing took {threshold} milliseconds or longer.\n"));
    }
    for (event, spikes) in spikes {
        let count = spikes.samples.len();
        let sum: u64 = spikes.samples.iter().map(|(_, milliseconds)| milliseconds).sum();
        text.push_str(&format!(
            "{event}: {count} spikes, {} ms on average, {} ms at worst.\n",
            sum / count.max(1) as u64,
            spikes.longest
        ));
    }
    ctx.out.verbatim(text.as_bytes());
    Ok(())
}

fn histogram(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    // A command stands for all its sub-commands.
    let wanted: Vec<_> = args.from(2).filter_map(named).map(|(_, row)| row).collect();
    let chosen: Vec<(String, Powers)> = everything()
        .enumerate()
        .filter(|(_, (parent, row))| {
            let is = |each: &&Command| std::ptr::eq(*each, *row) || parent.is_some_and(|up| std::ptr::eq(*each, up));
            args.len() == 2 || wanted.iter().any(is)
        })
        .filter_map(|(place, (parent, row))| Some((full_name(parent, row), ctx.engine.latencies.by_powers(place)?)))
        .collect();
    ctx.out.map(chosen.len());
    for (name, (calls, powers)) in chosen {
        ctx.out.bulk(name.as_bytes());
        ctx.out.map(2);
        ctx.out.bulk(b"calls");
        ctx.out.integer(calls as i64);
        ctx.out.bulk(b"histogram_usec");
        ctx.out.map(powers.len());
        for (power, count) in powers {
            ctx.out.integer(power as i64);
            ctx.out.integer(count as i64);
        }
    }
    Ok(())
}

fn help(ctx: &mut Ctx<'_>, _: &Args<'_>) -> Done {
    server::help(ctx, "LATENCY");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::testing::Node;

    #[test]
    fn buckets_hold_what_they_say() {
        for ticks in [4, 5, 7, 8, 100, 1000, 1 << 20, (1 << 20) + 12345, 1 << 38] {
            let index = bucket(ticks);
            assert!(ticks <= top(index), "{ticks}");
            assert!(index == bucket(4) || ticks > top(index - 1), "{ticks}");
        }
    }

    #[test]
    fn spikes_are_told_and_forgotten() {
        let mut node = Node::new();
        node.expect(&[("LATENCY LATEST", "*0"), ("LATENCY GRAPH x", "-ERR No samples available for event 'x'")]);
        node.engine.latencies.spike("command", 100, 5);
        node.engine.latencies.spike("command", 100, 9);
        node.engine.latencies.spike("command", 101, 7);
        node.expect(&[
            ("LATENCY LATEST", "*1 *4 $7 command :101 :7 :9"),
            ("LATENCY HISTORY command", "*2 *2 :100 :9 *2 :101 :7"),
            ("LATENCY RESET other", ":0"),
            ("LATENCY RESET command", ":1"),
            ("LATENCY LATEST", "*0"),
        ]);
        node.line("SET k v");
        assert!(
            node.line("LATENCY HISTOGRAM set nosuch").starts_with("*2 $3 set *4 $5 calls :1 $14 histogram_usec *2 :")
        );
    }
}
