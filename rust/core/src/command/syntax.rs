//! A command's syntax line as the tree of arguments that COMMAND DOCS answers.
//!
//! The line is written as people write it: `key [NX | XX] [EX seconds | KEEPTTL] member [member ...]`.
//! Words in capitals are sent as they stand, others are places for values, brackets hold what
//! may be left out, `<a | b>` is a choice that must be made, `...` repeats.

/// What an argument is, under the names COMMAND DOCS uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Any bytes.
    Text,
    /// A whole number.
    Integer,
    /// A number with a fraction.
    Double,
    /// A key.
    Key,
    /// A glob pattern.
    Pattern,
    /// A point in time.
    UnixTime,
    /// A word sent as it stands.
    Token,
    /// One of its parts.
    OneOf,
    /// All its parts in order.
    Block,
}

impl Type {
    /// The name COMMAND DOCS uses.
    pub fn name(self) -> &'static str {
        match self {
            Type::Text => "string",
            Type::Integer => "integer",
            Type::Double => "double",
            Type::Key => "key",
            Type::Pattern => "pattern",
            Type::UnixTime => "unix-time",
            Type::Token => "pure-token",
            Type::OneOf => "oneof",
            Type::Block => "block",
        }
    }
}

/// One argument, or several that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Type,
    /// The word in front of it.
    pub token: Option<String>,
    /// It may be left out.
    pub optional: bool,
    /// It may be repeated.
    pub multiple: bool,
    /// With its token each time.
    pub multiple_token: bool,
    /// Which of the command's key specifications it belongs to.
    pub key_spec: Option<usize>,
    /// What it consists of.
    pub parts: Vec<Argument>,
}

impl Argument {
    fn new(name: &str, kind: Type, parts: Vec<Argument>) -> Argument {
        Argument {
            name: name.to_owned(),
            kind,
            token: None,
            optional: false,
            multiple: false,
            multiple_token: false,
            key_spec: None,
            parts,
        }
    }
}

/// Read a syntax line. `specs` is how many key specifications the command has.
pub fn parse(line: &str, specs: usize) -> Vec<Argument> {
    let words = words(line);
    let mut at = 0;
    let mut arguments = sequence(&words, &mut at);
    let mut next = 0;
    number_keys(&mut arguments, specs, &mut next);
    arguments
}

/// Words and signs.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for letter in line.chars() {
        if matches!(letter, '[' | ']' | '<' | '>' | '|' | ' ') {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            if letter != ' ' {
                words.push(letter.to_string());
            }
        } else {
            word.push(letter);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Arguments up to a closing sign, `|` or the end.
fn sequence(words: &[String], at: &mut usize) -> Vec<Argument> {
    let mut found: Vec<Argument> = Vec::new();
    while let Some(word) = words.get(*at) {
        match word.as_str() {
            "]" | ">" | "|" => break,
            sign @ ("[" | "<") => {
                *at += 1;
                let group = choice(words, at);
                *at += 1;
                if sign == "<" {
                    found.push(group);
                } else if group.multiple && repeats(&mut found, &group) {
                    // `member [member ...]` is one argument that may be repeated.
                } else {
                    found.push(Argument { optional: true, ..group });
                }
            }
            "..." => {
                *at += 1;
                found = attach_tokens(found);
                if found.len() > 1 {
                    found = vec![block(found)];
                }
                if let Some(last) = found.last_mut() {
                    last.multiple = true;
                }
            }
            word => {
                *at += 1;
                found.push(leaf(word));
            }
        }
    }
    attach_tokens(found)
}

/// What stands between brackets: one sequence, or several to choose from.
fn choice(words: &[String], at: &mut usize) -> Argument {
    let mut ways = vec![single(sequence(words, at))];
    while words.get(*at).is_some_and(|word| word == "|") {
        *at += 1;
        ways.push(single(sequence(words, at)));
    }
    if ways.len() == 1 {
        return ways.remove(0);
    }
    let name = name_of_choice(&ways);
    Argument::new(&name, Type::OneOf, ways)
}

fn single(mut arguments: Vec<Argument>) -> Argument {
    if arguments.len() == 1 { arguments.remove(0) } else { block(arguments) }
}

fn block(parts: Vec<Argument>) -> Argument {
    let name = parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>().join("_");
    Argument::new(&name, Type::Block, parts)
}

/// Whether the last of `found` are what `group` repeats; they then become one.
fn repeats(found: &mut Vec<Argument>, group: &Argument) -> bool {
    let token = group.token.is_some();
    let parts: Vec<Argument> =
        if group.kind == Type::Block && !token { group.parts.clone() } else { vec![group.clone()] };
    let once = |argument: &Argument| Argument { multiple: false, ..argument.clone() };
    let pieces: Vec<Argument> = if token {
        // `GET pattern [GET pattern ...]`: the first one's token is not attached to it yet.
        vec![leaf(group.token.as_deref().unwrap_or_default()), Argument { token: None, ..once(group) }]
    } else {
        parts.iter().map(once).collect()
    };
    let Some(start) = found.len().checked_sub(pieces.len()) else {
        return false;
    };
    if found[start..] != pieces[..] {
        return false;
    }
    found.truncate(start);
    found.push(Argument { multiple: true, multiple_token: token, optional: false, ..group.clone() });
    true
}

/// Words in capitals take the values that follow them.
fn attach_tokens(arguments: Vec<Argument>) -> Vec<Argument> {
    let mut attached: Vec<Argument> = Vec::new();
    let mut rest = arguments.into_iter().peekable();
    while let Some(argument) = rest.next() {
        if argument.kind != Type::Token || argument.optional {
            attached.push(argument);
            continue;
        }
        let mut values = Vec::new();
        while let Some(value) = rest.next_if(|next| next.kind != Type::Token && !next.optional && next.token.is_none())
        {
            values.push(value);
        }
        match values.len() {
            0 => attached.push(argument),
            1 => attached.extend(values.into_iter().map(|value| Argument { token: argument.token.clone(), ..value })),
            _ => {
                let mut whole = Argument::new(&argument.name, Type::Block, values);
                whole.token = argument.token;
                attached.push(whole);
            }
        }
    }
    attached
}

fn leaf(word: &str) -> Argument {
    let is_token = word.chars().any(|letter| letter.is_ascii_uppercase()) || !word.contains(char::is_alphabetic);
    if !is_token {
        return Argument::new(word, type_of(word), Vec::new());
    }
    let name = match word {
        "=" => "equal".to_owned(),
        "~" => "approximately".to_owned(),
        "$" => "new-id".to_owned(),
        "*" => "auto-id".to_owned(),
        word => word.to_ascii_lowercase(),
    };
    Argument { token: Some(word.to_owned()), ..Argument::new(&name, Type::Token, Vec::new()) }
}

/// What a value is, by the name it goes under everywhere in the table.
fn type_of(name: &str) -> Type {
    match name {
        "key" | "newkey" | "source" | "destination" | "key1" | "key2" | "shardchannel" | "sourcekey" | "destkey" => {
            Type::Key
        }
        "pattern" => Type::Pattern,
        "score" | "longitude" | "latitude" | "radius" | "width" | "height" | "weight" => Type::Double,
        name if name.starts_with("unix-time") => Type::UnixTime,
        "count" | "seconds" | "milliseconds" | "increment" | "decrement" | "offset" | "start" | "stop" | "end"
        | "index" | "db" | "cursor" | "numkeys" | "index1" | "index2" | "timeout" | "numreplicas" | "protover"
        | "rank" | "len" | "num-matches" | "percent" | "bits" | "client-id" | "samples" | "bit" | "slot" => {
            Type::Integer
        }
        _ => Type::Text,
    }
}

fn name_of_choice(ways: &[Argument]) -> String {
    let has = |name: &str| ways.iter().any(|way| way.name == name);
    let known = [
        ("seconds", "expiration"),
        ("nx", "condition"),
        ("gt", "comparison"),
        ("asc", "order"),
        ("left", "where"),
        ("before", "where"),
        ("async", "flush-type"),
        ("sum", "aggregate"),
        ("min", "where"),
        ("on", "enabled"),
    ];
    known.iter().find(|(way, _)| has(way)).map_or_else(
        || ways.iter().map(|way| way.name.as_str()).collect::<Vec<_>>().join("_or_"),
        |(_, name)| (*name).to_owned(),
    )
}

/// Say of each key to which specification it belongs: they stand in the same order.
fn number_keys(arguments: &mut [Argument], specs: usize, next: &mut usize) {
    for argument in arguments {
        if argument.kind == Type::Key {
            argument.key_spec = (specs > 0).then(|| (*next).min(specs - 1));
            *next += 1;
        }
        number_keys(&mut argument.parts, specs, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(arguments: &[Argument]) -> String {
        let one = |argument: &Argument| {
            let mut text = format!("{}:{}", argument.name, argument.kind.name());
            if let Some(token) = &argument.token {
                text = format!("{token}={text}");
            }
            if !argument.parts.is_empty() {
                text = format!("{text}({})", shown(&argument.parts));
            }
            for (set, sign) in [(argument.optional, "?"), (argument.multiple, "*"), (argument.multiple_token, "+")] {
                if set {
                    text.push_str(sign);
                }
            }
            text
        };
        arguments.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_choice_always_stands_in_brackets() {
        for row in super::super::table::all().flat_map(|row| std::iter::once(row).chain(row.subcommands)) {
            let mut depth = 0;
            for letter in row.syntax.chars() {
                depth += i32::from(matches!(letter, '[' | '<')) - i32::from(matches!(letter, ']' | '>'));
                assert!(letter != '|' || depth > 0, "{}: {}", row.name, row.syntax);
            }
            assert_eq!(depth, 0, "{}: {}", row.name, row.syntax);
        }
    }

    #[test]
    fn lines_become_trees() {
        for (line, tree) in [
            ("key [key ...]", "key:key*"),
            ("[channel ...]", "channel:string?*"),
            ("key value [key value ...]", "key_value:block(key:key value:string)*"),
            ("key [EX seconds | KEEPTTL]", "key:key expiration:oneof(EX=seconds:integer KEEPTTL=keepttl:pure-token)?"),
            ("[LIMIT offset count]", "LIMIT=limit:block(offset:integer count:integer)?"),
            ("[GET pattern [GET pattern ...]]", "GET=pattern:pattern?*+"),
            ("[WEIGHTS weight [weight ...]]", "WEIGHTS=weight:double?*"),
            ("[AGGREGATE <SUM | MIN>]", "AGGREGATE=aggregate:oneof(SUM=sum:pure-token MIN=min:pure-token)?"),
            (
                "[INCR] score member [score member ...]",
                "INCR=incr:pure-token? score_member:block(score:double member:string)*",
            ),
            ("<WITHSCORES>", "WITHSCORES=withscores:pure-token"),
            ("STREAMS key [key ...] id [id ...]", "STREAMS=streams:block(key:key* id:string*)"),
        ] {
            assert_eq!(shown(&parse(line, 1)), tree, "{line}");
        }
    }

    #[test]
    fn every_line_of_the_table_can_be_read() {
        for row in crate::command::table::all().flat_map(|row| std::iter::once(row).chain(row.subcommands)) {
            let arguments = parse(row.syntax, row.keys.len());
            assert_eq!(arguments.is_empty(), row.syntax.is_empty(), "{}: {}", row.name, row.syntax);
            let open = row.syntax.matches(['[', '<']).count();
            assert_eq!(open, row.syntax.matches([']', '>']).count(), "{}: {}", row.name, row.syntax);
        }
    }
}
