//! Geo: members of a sorted set as places on the earth. The score is the place, see [`cells`].

mod cells;
mod search;

use super::Ctx;
use super::fault::{Done, Fault};
use super::table::{Begin, Command, Find, Handler, KeySpec, OVERWRITE, READ, UPDATE, flag, key};
use crate::resp::request::OwnedArgs;
use crate::resp::{Args, Reply};
use crate::store::{Found, Kind, Object};
use cells::Place;

const fn row(name: &'static str, run: Handler, arity: i32, flags: u32) -> Command {
    Command { group: "geo", since: "3.2.0", ..Command::new(name, run, arity, flags) }
}

const STORES: u32 = flag::WRITE | flag::DENYOOM | flag::MOVABLE_KEYS;

const fn behind(word: &'static str, from: i32) -> KeySpec {
    KeySpec { uses: OVERWRITE, begin: Begin::After(word, from), find: Find::Range { last: 0, step: 1, limit: 0 } }
}

/// The family.
pub const COMMANDS: &[Command] = &[
    Command {
        summary: "Adds members that are at places.",
        syntax: "key [NX | XX] [CH] longitude latitude member [longitude latitude member ...]",
        keys: &[key(1, UPDATE)],
        ..row("geoadd", geoadd, -5, flag::WRITE | flag::DENYOOM)
    },
    Command {
        summary: "Answers where members are.",
        syntax: "key [member [member ...]]",
        keys: &[key(1, READ)],
        ..row("geopos", geopos, -2, flag::READONLY)
    },
    Command {
        summary: "Answers how far two members are from each other.",
        syntax: "key member1 member2 [M | KM | FT | MI]",
        keys: &[key(1, READ)],
        ..row("geodist", geodist, -4, flag::READONLY)
    },
    Command {
        summary: "Answers where members are, as geohashes.",
        syntax: "key [member [member ...]]",
        keys: &[key(1, READ)],
        ..row("geohash", geohash, -2, flag::READONLY)
    },
    Command {
        since: "6.2.0",
        summary: "Answers the members within a circle or a box.",
        syntax: "key <FROMMEMBER member | FROMLONLAT longitude latitude> <BYRADIUS radius <M | KM | FT | MI> | \
                 BYBOX width height <M | KM | FT | MI>> [ASC | DESC] [COUNT count [ANY]] [WITHCOORD] [WITHDIST] [WITHHASH]",
        keys: &[key(1, READ)],
        ..row("geosearch", search::geosearch, -7, flag::READONLY)
    },
    Command {
        since: "6.2.0",
        summary: "Puts the members within a circle or a box under a key.",
        syntax: "destination source <FROMMEMBER member | FROMLONLAT longitude latitude> <BYRADIUS radius \
                 <M | KM | FT | MI> | BYBOX width height <M | KM | FT | MI>> [ASC | DESC] [COUNT count [ANY]] [STOREDIST]",
        keys: &[key(1, OVERWRITE), key(2, READ)],
        ..row("geosearchstore", search::geosearchstore, -8, flag::WRITE | flag::DENYOOM)
    },
    Command {
        summary: "Answers or stores the members around a place.",
        syntax: "key longitude latitude radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] \
                 [COUNT count [ANY]] [ASC | DESC] [STORE storekey | STOREDIST storedistkey]",
        keys: &[key(1, READ), behind("STORE", 6), behind("STOREDIST", 6)],
        ..row("georadius", search::georadius, -6, STORES)
    },
    Command {
        since: "3.2.10",
        summary: "Answers the members around a place.",
        syntax: "key longitude latitude radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] \
                 [COUNT count [ANY]] [ASC | DESC]",
        keys: &[key(1, READ)],
        ..row("georadius_ro", search::georadius_ro, -6, flag::READONLY)
    },
    Command {
        summary: "Answers or stores the members around another one.",
        syntax: "key member radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] \
                 [COUNT count [ANY]] [ASC | DESC] [STORE storekey | STOREDIST storedistkey]",
        keys: &[key(1, READ), behind("STORE", 5), behind("STOREDIST", 5)],
        ..row("georadiusbymember", search::georadiusbymember, -5, STORES)
    },
    Command {
        since: "3.2.10",
        summary: "Answers the members around another one.",
        syntax: "key member radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] \
                 [COUNT count [ANY]] [ASC | DESC]",
        keys: &[key(1, READ)],
        ..row("georadiusbymember_ro", search::georadiusbymember_ro, -5, flag::READONLY)
    },
];

/// The place that two arguments name.
fn place(args: &Args<'_>, at: usize) -> Result<Place, Fault> {
    let place = Place { longitude: args.float(at)?, latitude: args.float(at + 1)? };
    if !place.is_valid() {
        let Place { longitude, latitude } = place;
        return Err(Fault::new(format!("ERR invalid longitude,latitude pair {longitude:.6},{latitude:.6}")));
    }
    Ok(place)
}

/// How many metres a unit is.
fn unit(args: &Args<'_>, at: usize) -> Result<f64, Fault> {
    match () {
        () if args.is(at, "M") => Ok(1.0),
        () if args.is(at, "KM") => Ok(1000.0),
        () if args.is(at, "FT") => Ok(0.3048),
        () if args.is(at, "MI") => Ok(1609.34),
        () => Err(Fault::new("ERR unsupported unit provided. please use M, KM, FT, MI")),
    }
}

/// Where a member of a key that was found to hold a sorted set is.
fn place_of(ctx: &Ctx<'_>, found: Found, member: &[u8]) -> Option<Place> {
    let store = &ctx.engine.store;
    let Some(Object::SortedSet(zset)) = store.object(found) else { return None };
    zset.score(&store.arena, &store.seed, member).map(Place::of_score)
}

fn geoadd(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (mut from, mut only_new, mut only_existing) = (2, false, false);
    while from < args.len() {
        match () {
            () if args.is(from, "NX") => only_new = true,
            () if args.is(from, "XX") => only_existing = true,
            () if args.is(from, "CH") => {}
            () => break,
        }
        from += 1;
    }
    if !(args.len() - from).is_multiple_of(3) || (only_new && only_existing) {
        return Err(Fault::SYNTAX);
    }
    // What remains is a ZADD with the places as scores.
    let mut scores = Vec::with_capacity((args.len() - from) / 3);
    for at in (from..args.len()).step_by(3) {
        scores.push((itoa::Buffer::new().format(place(args, at)?.score() as i64).to_owned(), args.at(at + 2)));
    }
    let options = (0..from).map(|at| args.at(at));
    let pairs = scores.iter().flat_map(|(score, member)| [score.as_bytes(), *member]);
    let words = OwnedArgs::from_parts(options.chain(pairs));
    super::zsets::zadd(ctx, &words.as_args())
}

/// A coordinate with all its digits.
fn coordinate(out: &mut Reply, value: f64) {
    let text = format!("{value:.17}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    out.double_text(if text == "-0" { b"0" } else { text.as_bytes() });
}

fn coordinates(out: &mut Reply, place: Place) {
    out.array(2);
    coordinate(out, place.longitude);
    coordinate(out, place.latitude);
}

fn distance(out: &mut Reply, far: f64) {
    out.bulk(format!("{far:.4}").as_bytes());
}

fn geopos(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = ctx.read(args.at(1), Kind::SortedSet)?;
    ctx.out.array(args.len() - 2);
    for member in args.from(2) {
        match found.and_then(|found| place_of(ctx, found, member)) {
            Some(place) => coordinates(ctx.out, place),
            None => ctx.out.null_array(),
        }
    }
    Ok(())
}

fn geohash(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let found = ctx.read(args.at(1), Kind::SortedSet)?;
    ctx.out.array(args.len() - 2);
    for member in args.from(2) {
        let text = found.and_then(|found| place_of(ctx, found, member)).map(Place::geohash);
        ctx.out.bulk_or_null(text.as_ref().map(|text| &text[..]));
    }
    Ok(())
}

fn geodist(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let metres = match args.len() {
        4 => 1.0,
        5 => unit(args, 4)?,
        _ => return Err(Fault::SYNTAX),
    };
    let found = ctx.read(args.at(1), Kind::SortedSet)?;
    let place = |at| found.and_then(|found| place_of(ctx, found, args.at(at)));
    match place(2).zip(place(3)) {
        Some((one, other)) => distance(ctx.out, one.distance(other) / metres),
        None => ctx.out.null(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::testing::Node;

    fn sicily() -> Node {
        let mut node = Node::new();
        node.line("GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania");
        node
    }

    #[test]
    fn members_are_at_places() {
        sicily().expect(&[
            ("ZSCORE g Palermo", "$16 3479099956230698"),
            ("GEODIST g Palermo Catania", "$11 166274.1516"),
            ("GEODIST g Palermo Catania km", "$8 166.2742"),
            ("GEODIST g Palermo nobody", "$-1"),
            ("GEOHASH g Palermo nobody", "*2 $11 sqc8b49rny0 $-1"),
            ("GEOPOS g Palermo nobody", "*2 *2 $20 13.36138933897018433 $20 38.11555639549629859 *-1"),
            ("GEOADD g CH 13.4 38.1 Palermo", ":1"),
            ("GEOADD g NX 13.5 38.1 Palermo", ":0"),
            ("GEOADD g NX XX 13.5 38.1 Palermo", "-ERR syntax error"),
            ("GEOADD g 200 38.1 Palermo", "-ERR invalid longitude,latitude pair 200.000000,38.100000"),
            ("GEODIST none a b parsec", "-ERR unsupported unit provided. please use M, KM, FT, MI"),
        ]);
    }

    #[test]
    fn members_are_found_by_circle_and_box() {
        sicily().expect(&[
            ("GEOADD g 12.758489 38.788135 edge1 17.241510 38.788135 edge2", ":2"),
            ("GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km ASC", "*2 $7 Catania $7 Palermo"),
            (
                "GEOSEARCH g FROMLONLAT 15 37 BYBOX 400 400 km ASC WITHDIST",
                "*4 *2 $7 Catania $7 56.4413 *2 $7 Palermo $8 190.4424 *2 $5 edge2 $8 279.7403 *2 $5 edge1 $8 279.7405",
            ),
            ("GEORADIUS g 15 37 200 km WITHHASH COUNT 1", "*1 *2 $7 Catania :3479447370796909"),
            ("GEORADIUSBYMEMBER g Catania 100 km", "*1 $7 Catania"),
            ("GEORADIUSBYMEMBER g nobody 100 km", "-ERR could not decode requested zset member"),
            ("GEOSEARCHSTORE out g FROMMEMBER Catania BYRADIUS 200 km STOREDIST", ":2"),
            ("ZRANGE out 0 -1", "*2 $7 Catania $7 Palermo"),
            ("GEORADIUS g 0 0 1 m STORE out", ":0"),
            ("EXISTS out", ":0"),
            (
                "GEOSEARCH g FROMLONLAT 1 1 ASC DESC",
                "-ERR exactly one of BYRADIUS and BYBOX can be specified for GEOSEARCH",
            ),
            ("GEORADIUS g 1 1 1 m ANY", "-ERR the ANY argument requires COUNT argument"),
            ("GEORADIUS g 1 1 1 m COUNT 0", "-ERR COUNT must be > 0"),
            (
                "GEORADIUS g 1 1 1 m STORE a WITHDIST",
                "-ERR STORE option in GEORADIUS is not compatible with WITHDIST, WITHHASH and WITHCOORD options",
            ),
            ("GEORADIUS_RO g 1 1 1 m STORE a", "-ERR syntax error"),
            ("GEOSEARCH none FROMMEMBER a BYRADIUS 1 m", "*0"),
        ]);
    }
}
