//! Keyspace events: what can be told, and how the classes are written.

/// `K`: messages on `__keyspace@<db>__:<key>`.
pub const KEYSPACE: u32 = 1;
/// `E`: messages on `__keyevent@<db>__:<event>`.
pub const KEYEVENT: u32 = 1 << 1;
/// `g`: commands for keys of any type.
pub const GENERIC: u32 = 1 << 2;
/// `$`: strings.
pub const STRING: u32 = 1 << 3;
/// `l`: lists.
pub const LIST: u32 = 1 << 4;
/// `s`: sets.
pub const SET: u32 = 1 << 5;
/// `h`: hashes.
pub const HASH: u32 = 1 << 6;
/// `z`: sorted sets.
pub const SORTED_SET: u32 = 1 << 7;
/// `x`: a key's time had come.
pub const EXPIRED: u32 = 1 << 8;
/// `e`: a key went to make room.
pub const EVICTED: u32 = 1 << 9;
/// `t`: streams.
pub const STREAM: u32 = 1 << 10;
/// `m`: a key was looked for in vain.
pub const MISS: u32 = 1 << 11;
/// `d`: modules; never told here.
pub const MODULE: u32 = 1 << 13;
/// `n`: a key was created.
pub const NEW: u32 = 1 << 14;

const ALL: u32 = GENERIC | STRING | LIST | SET | HASH | SORTED_SET | EXPIRED | EVICTED | STREAM | MODULE;

const LETTERS: [(char, u32); 12] = [
    ('g', GENERIC),
    ('$', STRING),
    ('l', LIST),
    ('s', SET),
    ('h', HASH),
    ('z', SORTED_SET),
    ('x', EXPIRED),
    ('e', EVICTED),
    ('t', STREAM),
    ('d', MODULE),
    ('K', KEYSPACE),
    ('E', KEYEVENT),
];

/// Letters to classes.
pub fn parse_classes(text: &str) -> Option<u32> {
    text.chars().try_fold(0, |flags, letter| {
        let class = match letter {
            'A' => ALL,
            'm' => MISS,
            'n' => NEW,
            _ => LETTERS.iter().find(|&&(each, _)| each == letter)?.1,
        };
        Some(flags | class)
    })
}

/// Classes to letters, in the order Redis writes them.
pub fn format_classes(flags: u32) -> String {
    let mut text = String::new();
    if flags & ALL == ALL {
        text.push('A'); // Redis then leaves `n` out, though it is in force.
    } else {
        text.extend(LETTERS.iter().take(10).filter(|&&(_, class)| flags & class != 0).map(|&(letter, _)| letter));
        if flags & NEW != 0 {
            text.push('n');
        }
    }
    text.extend(
        [('K', KEYSPACE), ('E', KEYEVENT), ('m', MISS)]
            .iter()
            .filter(|&&(_, class)| flags & class != 0)
            .map(|&(letter, _)| letter),
    );
    text
}
