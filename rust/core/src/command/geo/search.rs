//! GEOSEARCH, GEORADIUS and their kin: one search, asked for in six ways.

use super::cells::{Place, Search, Shape};
use super::{coordinates, distance, place, place_of, unit};
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::command::zsets;
use crate::resp::Args;
use crate::resp::number::parse_f64;
use crate::store::zset::Bound;
use crate::store::{Found, Kind, Object, Zset};

/// Which command it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Around,
    AroundMember,
    Search,
    SearchStore,
}

pub fn georadius(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    run(ctx, args, Form::Around, true)
}

pub fn georadius_ro(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    run(ctx, args, Form::Around, false)
}

pub fn georadiusbymember(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    run(ctx, args, Form::AroundMember, true)
}

pub fn georadiusbymember_ro(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    run(ctx, args, Form::AroundMember, false)
}

pub fn geosearch(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    run(ctx, args, Form::Search, false)
}

pub fn geosearchstore(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    run(ctx, args, Form::SearchStore, false)
}

#[derive(Default)]
struct Options<'a> {
    middle: Option<Place>,
    /// The middle was named, if only by a member of a set that is not there.
    has_middle: (bool, bool),
    shape: Option<(Shape, f64)>,
    with_distance: bool,
    with_score: bool,
    with_place: bool,
    any: bool,
    descending: Option<bool>,
    count: usize,
    store: Option<&'a [u8]>,
    store_distance: bool,
}

struct Hit {
    member: Vec<u8>,
    score: f64,
    metres: f64,
    place: Place,
}

/// A length that must not be negative, with the error when it is no number.
fn length(args: &Args<'_>, at: usize, what: &str) -> Result<f64, Fault> {
    parse_f64(args.at(at)).ok_or_else(|| Fault::new(format!("ERR need numeric {what}")))
}

fn circle(args: &Args<'_>, at: usize) -> Result<(Shape, f64), Fault> {
    let radius = length(args, at, "radius")?;
    if radius < 0.0 {
        return Err(Fault::new("ERR radius cannot be negative"));
    }
    Ok((Shape::Circle(radius), unit(args, at + 1)?))
}

fn rectangle(args: &Args<'_>, at: usize) -> Result<(Shape, f64), Fault> {
    let (width, height) = (length(args, at, "width")?, length(args, at + 1, "height")?);
    if width < 0.0 || height < 0.0 {
        return Err(Fault::new("ERR height or width cannot be negative"));
    }
    Ok((Shape::Box(width, height), unit(args, at + 2)?))
}

fn member_place(ctx: &Ctx<'_>, found: Found, member: &[u8]) -> Result<Place, Fault> {
    place_of(ctx, found, member).ok_or(Fault::new("ERR could not decode requested zset member"))
}

fn run(ctx: &mut Ctx<'_>, args: &Args<'_>, form: Form, may_store: bool) -> Done {
    let source = args.at(if form == Form::SearchStore { 2 } else { 1 });
    let found = ctx.read(source, Kind::SortedSet)?;
    let options = options(ctx, args, form, found, may_store)?;
    let Some(found) = found else {
        return match options.store {
            Some(name) => zsets::store_entries::<&[u8]>(ctx, name, &[], Zset::new(), ""),
            None => {
                ctx.out.array(0);
                Ok(())
            }
        };
    };
    let (Some(middle), Some((shape, unit))) = (options.middle, options.shape) else { return Err(Fault::SYNTAX) };
    let limit = if options.any { options.count } else { usize::MAX };
    let mut hits = hits(ctx, found, &Search { middle, shape, unit }, limit);
    // The nearest so many are asked for: they must be put in order.
    let descending = options.descending.or((options.count > 0 && !options.any).then_some(false));
    if let Some(descending) = descending {
        hits.sort_by(|one, other| {
            let order = one.metres.total_cmp(&other.metres);
            if descending { order.reverse() } else { order }
        });
    }
    if options.count > 0 {
        hits.truncate(options.count);
    }
    match options.store {
        Some(name) => {
            let score = |hit: &Hit| if options.store_distance { hit.metres / unit } else { hit.score };
            let entries: Vec<(&[u8], f64)> = hits.iter().map(|hit| (&hit.member[..], score(hit))).collect();
            let event = if form == Form::SearchStore { "geosearchstore" } else { "georadiusstore" };
            zsets::store_entries(ctx, name, &entries, Zset::new(), event)
        }
        None => {
            reply(ctx, &hits, &options, unit);
            Ok(())
        }
    }
}

fn reply(ctx: &mut Ctx<'_>, hits: &[Hit], options: &Options<'_>, unit: f64) {
    let parts = usize::from(options.with_distance) + usize::from(options.with_score) + usize::from(options.with_place);
    let out = &mut *ctx.out;
    out.array(hits.len());
    for hit in hits {
        if parts > 0 {
            out.array(parts + 1);
        }
        out.bulk(&hit.member);
        if options.with_distance {
            distance(out, hit.metres / unit);
        }
        if options.with_score {
            out.integer(hit.score as i64);
        }
        if options.with_place {
            coordinates(out, hit.place);
        }
    }
}

/// The members within a shape, at most so many, in the order of the cells.
fn hits(ctx: &Ctx<'_>, found: Found, search: &Search, limit: usize) -> Vec<Hit> {
    let store = &ctx.engine.store;
    let Some(Object::SortedSet(zset)) = store.object(found) else { return Vec::new() };
    let mut hits = Vec::new();
    for range in search.scores() {
        if hits.len() >= limit {
            break;
        }
        let low = Bound { score: range.start, exclusive: false };
        let high = Bound { score: range.end, exclusive: true };
        let ranks = zset.score_ranks(&store.arena, low, high);
        for (member, score) in zset.entries(&store.arena, ranks, false) {
            let place = Place::of_score(score);
            if let Some(metres) = search.reaches(place) {
                hits.push(Hit { member: member.to_vec(), score, metres, place });
                if hits.len() >= limit {
                    break;
                }
            }
        }
    }
    hits
}

fn options<'a>(
    ctx: &Ctx<'_>,
    args: &Args<'a>,
    form: Form,
    found: Option<Found>,
    may_store: bool,
) -> Result<Options<'a>, Fault> {
    let mut options = Options::default();
    let mut at = match form {
        Form::Around => {
            options.middle = Some(place(args, 2)?);
            options.shape = Some(circle(args, 4)?);
            6
        }
        Form::AroundMember => {
            // Without a source the rest is still read: whether there is STORE decides what is answered.
            if let Some(found) = found {
                options.middle = Some(member_place(ctx, found, args.at(2))?);
                options.shape = Some(circle(args, 3)?);
            }
            5
        }
        Form::Search => 2,
        Form::SearchStore => {
            options.store = Some(args.at(1));
            3
        }
    };
    let searches = matches!(form, Form::Search | Form::SearchStore);
    let (mut by_radius, mut by_box) = (false, false);
    while at < args.len() {
        let left = args.len() - at - 1;
        let taken = match () {
            () if args.is(at, "WITHDIST") => {
                options.with_distance = true;
                0
            }
            () if args.is(at, "WITHHASH") => {
                options.with_score = true;
                0
            }
            () if args.is(at, "WITHCOORD") => {
                options.with_place = true;
                0
            }
            () if args.is(at, "ANY") => {
                options.any = true;
                0
            }
            () if args.is(at, "ASC") || args.is(at, "DESC") => {
                options.descending = Some(args.is(at, "DESC"));
                0
            }
            () if args.is(at, "COUNT") && left >= 1 => {
                let count = args.integer(at + 1)?;
                options.count = usize::try_from(count).unwrap_or(0);
                if options.count == 0 {
                    return Err(Fault::new("ERR COUNT must be > 0"));
                }
                1
            }
            () if may_store && left >= 1 && (args.is(at, "STORE") || args.is(at, "STOREDIST")) => {
                options.store = Some(args.at(at + 1));
                options.store_distance = args.is(at, "STOREDIST");
                1
            }
            () if searches && args.is(at, "FROMMEMBER") && left >= 1 && !options.has_middle.1 => {
                if let Some(found) = found {
                    options.middle = Some(member_place(ctx, found, args.at(at + 1))?);
                }
                options.has_middle.0 = true;
                1
            }
            () if searches && args.is(at, "FROMLONLAT") && left >= 2 && !options.has_middle.0 => {
                options.middle = Some(place(args, at + 1)?);
                options.has_middle.1 = true;
                2
            }
            () if searches && args.is(at, "BYRADIUS") && left >= 2 && !by_box => {
                options.shape = Some(circle(args, at + 1)?);
                by_radius = true;
                2
            }
            () if searches && args.is(at, "BYBOX") && left >= 3 && !by_radius => {
                options.shape = Some(rectangle(args, at + 1)?);
                by_box = true;
                3
            }
            () if form == Form::SearchStore && args.is(at, "STOREDIST") => {
                options.store_distance = true;
                0
            }
            () => return Err(Fault::SYNTAX),
        };
        at += taken + 1;
    }
    if options.store.is_some() && (options.with_distance || options.with_score || options.with_place) {
        let who = if form == Form::SearchStore { "GEOSEARCHSTORE" } else { "STORE option in GEORADIUS" };
        let text = format!("ERR {who} is not compatible with WITHDIST, WITHHASH and WITHCOORD options");
        return Err(Fault::new(text));
    }
    let complain = |text: &str| {
        let mut text = format!("ERR exactly one of {text} can be specified for ").into_bytes();
        text.extend_from_slice(args.at(0));
        Err(Fault::bytes(text))
    };
    if searches && options.has_middle == (false, false) {
        return complain("FROMMEMBER or FROMLONLAT");
    }
    if searches && !by_radius && !by_box {
        return complain("BYRADIUS and BYBOX");
    }
    if options.any && options.count == 0 {
        return Err(Fault::new("ERR the ANY argument requires COUNT argument"));
    }
    Ok(options)
}
