//! Answering about elements.

use super::{list_at, place, span};
use crate::command::Ctx;
use crate::command::fault::{Done, Fault};
use crate::resp::Args;
use crate::store::Kind;

pub fn llen(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let len = ctx.read(args.at(1), Kind::List)?.map_or(0, |found| list_at(&ctx.engine.store, found).len());
    ctx.out.count(len);
    Ok(())
}

pub fn lindex(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let Some(found) = ctx.read(args.at(1), Kind::List)? else {
        ctx.out.null();
        return Ok(());
    };
    let index = args.integer(2)?;
    let list = list_at(&ctx.engine.store, found);
    ctx.out.bulk_or_null(place(index, list.len()).and_then(|index| list.get(index)));
    Ok(())
}

pub fn lrange(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let (start, stop) = (args.integer(2)?, args.integer(3)?);
    let Some(found) = ctx.read(args.at(1), Kind::List)? else {
        ctx.out.array(0);
        return Ok(());
    };
    let list = list_at(&ctx.engine.store, found);
    let span = span(start, stop, list.len());
    ctx.out.array(span.len());
    list.forward(span.start).take(span.len()).for_each(|element| ctx.out.bulk(element));
    Ok(())
}

/// What LPOS was asked for.
struct Search {
    skip: usize, // Matches to be passed over.
    backward: bool,
    count: Option<usize>, // How many to tell, in an array; zero: all.
    most_looks: usize,
}

impl Search {
    fn read(args: &Args<'_>) -> Result<Search, Fault> {
        let mut search = Search { skip: 0, backward: false, count: None, most_looks: usize::MAX };
        let mut at = 3;
        while at < args.len() {
            let number = at + 1;
            if number == args.len() {
                return Err(Fault::SYNTAX);
            }
            if args.is(at, "RANK") {
                let rank = args.integer_within(number, -i64::MAX, i64::MAX, beyond_long())?;
                if rank == 0 {
                    return Err(Fault::new(
                        "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list",
                    ));
                }
                search.backward = rank < 0;
                search.skip = rank.unsigned_abs() as usize - 1;
            } else if args.is(at, "COUNT") {
                search.count = Some(natural(args, number, "ERR COUNT can't be negative")?);
            } else if args.is(at, "MAXLEN") {
                let most = natural(args, number, "ERR MAXLEN can't be negative")?;
                search.most_looks = if most == 0 { usize::MAX } else { most };
            } else {
                return Err(Fault::SYNTAX);
            }
            at += 2;
        }
        Ok(search)
    }
}

/// A number that is not negative, else this error.
fn natural(args: &Args<'_>, index: usize, otherwise: &'static str) -> Result<usize, Fault> {
    let number = args.integer(index).ok().and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| Fault::new(otherwise))
}

/// The one number that has no opposite.
fn beyond_long() -> Fault {
    Fault::new(format!("ERR value is out of range, value must between {} and {}", -i64::MAX, i64::MAX))
}

pub fn lpos(ctx: &mut Ctx<'_>, args: &Args<'_>) -> Done {
    let search = Search::read(args)?;
    let Some(found) = ctx.read(args.at(1), Kind::List)? else {
        match search.count {
            Some(_) => ctx.out.array(0),
            None => ctx.out.null(),
        }
        return Ok(());
    };
    let list = list_at(&ctx.engine.store, found);
    let last = list.len() - 1;
    let indexes: Vec<usize> = if search.backward {
        let elements = list.backward(last).enumerate();
        matches(elements, args.at(2), &search).into_iter().map(|index| last - index).collect()
    } else {
        matches(list.forward(0).enumerate(), args.at(2), &search)
    };
    match search.count {
        Some(_) => {
            ctx.out.array(indexes.len());
            indexes.iter().for_each(|&index| ctx.out.count(index));
        }
        None => match indexes.first() {
            Some(&index) => ctx.out.count(index),
            None => ctx.out.null(),
        },
    }
    Ok(())
}

fn matches<'a>(elements: impl Iterator<Item = (usize, &'a [u8])>, value: &[u8], search: &Search) -> Vec<usize> {
    let most = match search.count {
        None => 1,
        Some(0) => usize::MAX,
        Some(count) => count,
    };
    let equal = elements.take(search.most_looks).filter(|(_, element)| *element == value);
    equal.skip(search.skip).take(most).map(|(index, _)| index).collect()
}
