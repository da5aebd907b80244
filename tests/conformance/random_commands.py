"""Random commands of every data family, made so that two servers must answer them alike.

A Chooser makes every decision, so one generator serves both drivers: a seeded stream of a hundred
thousand commands (test_random.py) and Hypothesis, which shrinks what it draws (test_machine.py).
Keys are few, so commands meet each other's data; life times are long or over, so clocks do not matter;
what Redis leaves open (the order of a set, a random member) is compared by its property.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

T = TypeVar("T")
Word = str | bytes


class Chooser(Protocol):
    """Whoever decides: a seeded random generator, or Hypothesis."""

    def pick(self, options: Sequence[T]) -> T: ...

    def integer(self, low: int, high: int) -> int: ...


class SeededChooser:
    """Decisions by a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random.random() * len(options))]

    def integer(self, low: int, high: int) -> int:
        return low + int(self.random.random() * (high - low + 1))


@dataclass(frozen=True)
class Command:
    """A command and the marks that say how its replies are compared (see script.py)."""

    words: tuple[Word, ...]
    marks: dict[str, str] = field(default_factory=dict)


KEYS = {
    "string": ["s1", "s2", "s3", "n1", "n2", "f1"],
    "list": ["l1", "l2", "l3"],
    "hash": ["h1", "h2", "h3"],
    "set": ["t1", "t2", "t3", "i1", "i2"],
    "zset": ["z1", "z2", "z3"],
    "stream": ["x1", "x2", "x3"],
    # Ranges by lex are only defined where all scores are equal.
    "even": ["y1", "y2"],
    "bits": ["b1", "b2", "b3"],
    "hll": ["p1", "p2", "p3"],
    "geo": ["g1", "g2"],
}
ANY_KEY = [key for kind, keys in KEYS.items() if kind != "even" for key in keys] + ["none", "", "a\x00b"]
SMALL = [str(number) for number in range(-3, 12)]
MEMBERS: list[Word] = [
    *SMALL, *(f"m{number}" for number in range(20)), "", "10000000000", "-9223372036854775808", "01",
    "x" * 64, "y" * 65, b"\xff\x00",
]  # fmt: skip
VALUES: list[Word] = [
    *MEMBERS, "hello", "1.5", "abc", "9223372036854775807", "v" * 44, "v" * 45, "w" * 300, " 1", "-0", "1e3",
]  # fmt: skip
SCORES = [
    *SMALL, "0.5", "1.5", "-1.25", "3.0", "1e3", "inf", "-inf", "+inf", "0.1", "0.2", "1e-7", "1e17",
    "123456789.123", "5e-324", "1.7976931348623157e308", "3.3333333333333335", "9007199254740993",
]  # fmt: skip
BOUNDS = ["-inf", "+inf", "0", "(0", "1", "(1", "2", "(2.5", "5", "(10", "-1", "0.5", "(inf"]
LEX = ["-", "+", "[m1", "(m1", "[m5", "(m7", "[", "(", "[z", "[1", "m", ""]
INDEXES = ["0", "1", "-1", "2", "-2", "5", "-5", "100", "-100"]
DELTAS = ["1", "-1", "5", "100", "-100", "9223372036854775807", "-9223372036854775808", "0"]
FLOATS = ["0.1", "1", "-1.5", "1e3", "3.3", "-0.1", "1e-5", "100", "0", "1e17", "0.30000000000000004"]
# Names of entries: a star where the clock would speak leaves it out of the game.
NEW_IDS = ["1-*", "2-*", "3-*", "9-*", "9-*", "1-1", "2-2", "3", "8-5", "10-*"]
IDS = ["0", "1-0", "1-1", "1-2", "1-3", "2-0", "2-1", "3", "3-1", "8-5", "9-0", "9-1", "9-2", "9-7", "10-1"]
ENDS = [*IDS, "-", "+", "(1-1", "(2", "(9-1", "5", "99"]
LIFETIMES = ["100", "1000", "100000", "-1", "0", "500"]
STRANGE: list[Word] = [
    "", "abc", "-1", "0", "nan", "inf", "1e400", " 1", "9223372036854775807", "-9223372036854775808",
    "9223372036854775808", b"\x00", "1.5", "+1", "COUNT", "LIMIT", "WITHSCORES", "#", "*",
]  # fmt: skip
LONGITUDES = ["0", "0.1", "-0.1", "13.361389", "13.5", "-180", "180", "179.9", "-179.9", "90", "1e-7"]
LATITUDES = ["0", "0.1", "-0.1", "38.115556", "37.9", "-85.05112878", "85.05112878", "66.5", "-81", "1e-7"]
PATTERNS = ["*", "m*", "?", "[0-9]*", "*1*", "nothing", "m[1-3]", "[^m]*"]

Maker = Callable[["Source"], Command]


class Source:
    """Makes one command after the other with the decisions of a chooser."""

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser

    def one(self, kind: str) -> str:
        """A key that mostly holds values of this kind."""
        if kind != "even" and self.chooser.integer(1, 25) == 1:
            return self.chooser.pick(ANY_KEY)
        return self.chooser.pick(KEYS[kind])

    def several(self, make: Callable[[], Word], low: int = 1, high: int = 4) -> list[Word]:
        return [make() for _ in range(self.chooser.integer(low, high))]

    def keys(self, kind: str, low: int = 1, high: int = 3) -> list[Word]:
        return self.several(lambda: self.one(kind), low, high)

    def member(self) -> Word:
        return self.chooser.pick(MEMBERS)

    def value(self) -> Word:
        return self.chooser.pick(VALUES)

    def maybe(self, *options: Sequence[Word]) -> list[Word]:
        """One of the options, or nothing."""
        return list(self.chooser.pick([(), *options]))

    def command(self, family: str | None = None) -> Command:
        """The next command; now and then with an argument spoilt."""
        makers = FAMILIES[family] if family else EVERYTHING
        made = self.chooser.pick(makers)(self)
        unfit = made.words[0] in UNSPOILT or not KEYS_OF_EVEN.isdisjoint(made.words)
        if self.chooser.integer(1, 30) == 1 and not unfit:
            return self.spoilt(made)
        return made

    def spoilt(self, made: Command) -> Command:
        words = list(made.words)
        at = self.chooser.integer(1, max(1, len(words) - 1))
        how = self.chooser.integer(0, 3)
        if how == 0:
            words = words[: max(1, len(words) - 1)]
        elif how == 1:
            words.append(self.chooser.pick(STRANGE))
        elif at < len(words):
            words[at] = self.chooser.pick(STRANGE)
        return Command(tuple(words), made.marks)


def _plain(template: str, *marks: str) -> Maker:
    """A maker from a line such as "SET string value [NX|XX]": every word of it names what to draw."""
    parts = _parse(template)
    kept = dict.fromkeys(marks, "")
    for mark in marks:
        name, _, value = mark.partition("=")
        if value:
            del kept[mark]
            kept[name] = value

    def make(source: Source) -> Command:
        words: list[Word] = []
        for draw in parts:
            words.extend(draw(source))
        return Command(tuple(words), kept)

    return make


Draw = Callable[[Source], list[Word]]


def _one_key(kind: str) -> Draw:
    return lambda source: [source.one(kind)]


def _some_keys(kind: str) -> Draw:
    return lambda source: source.keys(kind)


def _counted(source: Source, kind: str) -> list[Word]:
    keys = source.keys(kind)
    return [str(len(keys)), *keys]


def _read_from(source: Source, ids: Sequence[str]) -> list[Word]:
    keys = source.keys("stream", 1, 2)
    return [*keys, *(source.chooser.pick(ids) for _ in keys)]


def _numbered(source: Source) -> list[Word]:
    start = source.chooser.integer(0, 200)
    return [str(number) for number in range(start, start + source.chooser.integer(1, 30))]


def _flood(source: Source, width: int) -> list[Word]:
    # Enough to pass the thresholds of the small encodings.
    start = source.chooser.integer(0, 500)
    count = source.chooser.integer(100, 200)
    if width == 1:
        return [f"x{number}" for number in range(start, start + count)]
    return [word for number in range(start, start + count) for word in (str(number % 37), f"x{number}")]


DRAWS: dict[str, Draw] = {
    **{kind: _one_key(kind) for kind in KEYS},
    **{f"{kind}s": _some_keys(kind) for kind in KEYS},
    "any": lambda source: [source.chooser.pick(ANY_KEY)],
    "anys": lambda source: source.several(lambda: source.chooser.pick(ANY_KEY)),
    "member": lambda source: [source.member()],
    "members": lambda source: source.several(source.member, 1, 5),
    "many": lambda source: source.several(source.member, 1, 40),
    "value": lambda source: [source.value()],
    "values": lambda source: source.several(source.value, 1, 5),
    "score": lambda source: [source.chooser.pick(SCORES)],
    "bound": lambda source: [source.chooser.pick(BOUNDS)],
    "lex": lambda source: [source.chooser.pick(LEX)],
    "index": lambda source: [source.chooser.pick(INDEXES)],
    "small": lambda source: [source.chooser.pick(SMALL)],
    "delta": lambda source: [source.chooser.pick(DELTAS)],
    "float": lambda source: [source.chooser.pick(FLOATS)],
    "life": lambda source: [source.chooser.pick(LIFETIMES)],
    "mslife": lambda source: [source.chooser.pick(["100000", "5000000", "0", "-1"])],
    "pattern": lambda source: [source.chooser.pick(PATTERNS)],
    "bit": lambda source: [source.chooser.pick(["0", "1"])],
    "bitat": lambda source: [source.chooser.pick(["0", "1", "7", "8", "9", "31", "64", "200", "4000"])],
    "place": lambda source: [source.chooser.pick(LONGITUDES), source.chooser.pick(LATITUDES)],
    "places": lambda source: [
        w
        for _ in range(source.chooser.integer(1, 5))
        for w in (source.chooser.pick(LONGITUDES), source.chooser.pick(LATITUDES), source.member())
    ],
    # Not the smallest number of all: Redis saturates it to the largest of a field.
    "amount": lambda source: [source.chooser.pick(DELTAS[:6])],
    "unit": lambda source: [source.chooser.pick(["m", "km", "ft", "mi"])],
    "far": lambda source: [source.chooser.pick(["0", "1", "50", "300.5", "2000", "1000000", "20000000"])],
    "field": lambda source: [
        source.chooser.pick(["u1", "i1", "u4", "i5", "u8", "i8", "u16", "i33", "u63", "i64"]),
        source.chooser.pick(["0", "1", "5", "#0", "#1", "#3", "31", "64", "200"]),
    ],
    "offset": lambda source: [str(source.chooser.integer(0, 60))],
    "database": lambda source: [source.chooser.pick(["0", "0", "1"])],
    "fields": lambda source: [
        w for _ in range(source.chooser.integer(1, 4)) for w in (source.member(), source.value())
    ],
    "manyfields": lambda source: [
        w for _ in range(source.chooser.integer(1, 40)) for w in (source.member(), source.value())
    ],
    "scored": lambda source: [
        w for _ in range(source.chooser.integer(1, 5)) for w in (source.chooser.pick(SCORES), source.member())
    ],
    "zeros": lambda source: [w for _ in range(source.chooser.integer(1, 9)) for w in ("0", source.member())],
    "numbered": _numbered,
    "pairs": lambda source: [
        w for _ in range(source.chooser.integer(1, 3)) for w in (source.one("string"), source.value())
    ],
    "flood": lambda source: _flood(source, 1),
    "floodpairs": lambda source: _flood(source, 2),
    "newid": lambda source: [source.chooser.pick(NEW_IDS)],
    "id": lambda source: [source.chooser.pick(IDS)],
    "ids": lambda source: source.several(lambda: source.chooser.pick(IDS), 1, 6),
    "end": lambda source: [source.chooser.pick(ENDS)],
    "group": lambda source: [source.chooser.pick(["g1", "g1", "g2", "g3"])],
    "consumer": lambda source: [source.chooser.pick(["c1", "c2", "c3"])],
    "xkeys": lambda source: _read_from(source, IDS),
    "xkeysnew": lambda source: _read_from(source, [">"] * 5 + IDS),
    "zkeys": lambda source: _counted(source, "zset"),
    "tkeys": lambda source: _counted(source, "set"),
    "lkeys": lambda source: _counted(source, "list"),
}


def _parse(template: str) -> list[Draw]:
    parts: list[Draw] = []
    words = template.split()
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word.startswith("["):
            group = [word]
            while not group[-1].endswith("]"):
                group.append(words[at])
                at += 1
            options = [_parse(option) for option in " ".join(group)[1:-1].split("|")]
            parts.append(_optional(options))
        elif word in DRAWS:
            parts.append(DRAWS[word])
        else:
            parts.append(lambda _, word=word: [word])  # type: ignore[misc]
    return parts


def _optional(options: list[list[Draw]]) -> Draw:
    def draw(source: Source) -> list[Word]:
        chosen = source.chooser.integer(0, len(options))
        if chosen == 0:
            return []
        return [word for part in options[chosen - 1] for word in part(source)]

    return draw


TEMPLATES: dict[str, str] = {
    "strings": """
        SET string value [NX|XX|GET|KEEPTTL|EX 100|PX 100000|NX GET|XX GET|EX life|PX mslife|XX KEEPTTL]
        SET string value
        GET string
        GETSET string value
        GETDEL string
        GETEX string [EX 100|PERSIST|PX 100000|EX life]
        SETNX string value
        SETEX string life value
        PSETEX string 100000 value
        MSET pairs
        MSETNX pairs
        MGET strings
        APPEND string value
        STRLEN string
        GETRANGE string index index
        SUBSTR string index index
        SETRANGE string offset value
        INCR string
        DECR string
        INCRBY string delta
        DECRBY string delta
        INCRBYFLOAT string float
        LCS string string [LEN|IDX|IDX WITHMATCHLEN|IDX MINMATCHLEN 2]
    """,
    "generic": """
        DEL anys
        UNLINK anys
        EXISTS anys
        TOUCH anys
        TYPE any
        OBJECT ENCODING any @kind
        OBJECT REFCOUNT any @kind
        RENAME any any
        RENAMENX any any
        COPY any any [REPLACE|DB database|DB database REPLACE]
        MOVE any database
        DBSIZE
        KEYS pattern @sorted
        SORT list [ALPHA|DESC|ALPHA DESC|LIMIT index index ALPHA]
        SORT list BY nosort [GET #] @leaves
        SORT set ALPHA [DESC|LIMIT 0 3|STORE list]
        SORT list ALPHA STORE list
        SORT list BY s* ALPHA GET # GET s* @leaves
        SORT zset ALPHA [DESC|LIMIT 1 2]
        SORT zset BY nosort [DESC|LIMIT 1 2|DESC LIMIT 0 3] @shape
        SORT_RO list ALPHA
        RANDOMKEY @quiet
        SCAN 0 COUNT 100000 [MATCH pattern|TYPE hash|TYPE zset|TYPE string|TYPE stream] @leaves
        SELECT 0
    """,
    "expiry": """
        EXPIRE any life [NX|XX]
        PEXPIRE any 100000 [NX|XX]
        EXPIREAT any 4000000000 [NX|XX|GT|LT]
        EXPIREAT any 4000000100 [NX|XX|GT|LT]
        PEXPIREAT any 4000000000000 [NX|XX|GT|LT]
        EXPIREAT any 1
        TTL any @near=3
        PTTL any @near=3000
        EXPIRETIME any @near=3
        PEXPIRETIME any @near=3000
        PERSIST any
    """,
    "hashes": """
        HSET hash fields
        HSET hash manyfields
        HSET hash floodpairs
        HMSET hash fields
        HSETNX hash member value
        HGET hash member
        HMGET hash members
        HDEL hash members
        HDEL hash many
        HLEN hash
        HSTRLEN hash member
        HEXISTS hash member
        HGETALL hash @pairs
        HKEYS hash @sorted
        HVALS hash @sorted
        HINCRBY hash member delta
        HINCRBYFLOAT hash member float
        HRANDFIELD hash [100000|100000 WITHVALUES] @shape
        HRANDFIELD hash [3|-5] @shape
        HSCAN hash 0 COUNT 100000 [MATCH pattern] @leaves
        DEL hash
    """,
    "lists": """
        LPUSH list values
        RPUSH list values
        RPUSH list numbered
        LPUSHX list values
        RPUSHX list values
        RPUSH list flood
        LPOP list [0|1|2|10|100]
        RPOP list [0|1|2|10|100]
        LLEN list
        LRANGE list index index
        LINDEX list index
        LSET list index value
        LINSERT list BEFORE value value
        LINSERT list AFTER value value
        LREM list index value
        LTRIM list index index
        LPOS list value [RANK index|COUNT 0|COUNT 2 RANK index|MAXLEN 3]
        RPOPLPUSH list list
        LMOVE list list LEFT RIGHT
        LMOVE list list RIGHT LEFT
        LMOVE list list LEFT LEFT
        LMPOP lkeys LEFT [COUNT 3|COUNT 0]
        LMPOP lkeys RIGHT [COUNT 100]
        BLPOP lists 0.001
        BRPOP lists 0.001
        BLMOVE list list LEFT RIGHT 0.001
        BRPOPLPUSH list list 0.001
        BLMPOP 0.001 lkeys LEFT COUNT 2
        DEL list
    """,
    "sets": """
        SADD set members
        SADD set many
        SADD set numbered
        SADD set flood
        SREM set members
        SREM set many
        SREM set numbered
        SCARD set
        SISMEMBER set member
        SMISMEMBER set members
        SMEMBERS set @sorted
        SMOVE set set member
        SPOP set 100000 @sorted
        SRANDMEMBER set [100000|3|-5|0] @shape
        SINTER sets @sorted
        SUNION sets @sorted
        SDIFF sets @sorted
        SINTERSTORE set sets
        SUNIONSTORE set sets
        SDIFFSTORE set sets
        SINTERCARD tkeys [LIMIT 2|LIMIT 0]
        SSCAN set 0 COUNT 100000 [MATCH pattern] @leaves
        DEL set
    """,
    "zsets": """
        ZADD zset scored
        ZADD zset [NX|XX|GT|LT|CH|NX CH|XX CH|GT CH|LT CH|XX GT CH] scored
        ZADD zset [NX|XX|GT|LT] INCR score member
        ZADD zset floodpairs
        ZREM zset members
        ZREM zset many
        ZCARD zset
        ZSCORE zset member
        ZMSCORE zset members
        ZINCRBY zset score member
        ZRANK zset member
        ZREVRANK zset member
        ZCOUNT zset bound bound
        ZLEXCOUNT even lex lex
        ZRANGE zset index index [WITHSCORES|REV|REV WITHSCORES]
        ZRANGE zset bound bound BYSCORE [WITHSCORES|REV|LIMIT 1 3|REV LIMIT 0 2 WITHSCORES]
        ZRANGE even lex lex BYLEX [REV|LIMIT 1 3|REV LIMIT 0 2]
        ZREVRANGE zset index index [WITHSCORES]
        ZRANGEBYSCORE zset bound bound [WITHSCORES|LIMIT 1 2|WITHSCORES LIMIT 0 -1]
        ZREVRANGEBYSCORE zset bound bound [WITHSCORES|LIMIT 1 2]
        ZRANGEBYLEX even lex lex [LIMIT 1 2]
        ZREVRANGEBYLEX even lex lex [LIMIT 1 2]
        ZRANGESTORE zset zset index index [REV]
        ZRANGESTORE zset zset bound bound BYSCORE [REV|LIMIT 0 5]
        ZREMRANGEBYRANK zset index index
        ZREMRANGEBYSCORE zset bound bound
        ZREMRANGEBYLEX even lex lex
        ZPOPMIN zset [1|3|0|100]
        ZPOPMAX zset [1|3|0|100]
        ZMPOP zkeys MIN [COUNT 3]
        ZMPOP zkeys MAX [COUNT 100]
        BZPOPMIN zsets 0.001
        BZPOPMAX zsets 0.001
        BZMPOP 0.001 zkeys MIN COUNT 2
        ZUNIONSTORE zset zkeys [AGGREGATE MIN|AGGREGATE MAX|AGGREGATE SUM]
        ZUNIONSTORE zset 2 zset set [WEIGHTS 2 3|WEIGHTS 0.5 -1 AGGREGATE MAX]
        ZINTERSTORE zset zkeys [AGGREGATE MIN]
        ZINTERSTORE zset 2 zset set [WEIGHTS 2 3]
        ZDIFFSTORE zset zkeys
        ZUNION zkeys [WITHSCORES]
        ZINTER zkeys [WITHSCORES]
        ZDIFF zkeys [WITHSCORES]
        ZINTERCARD zkeys [LIMIT 2]
        ZRANDMEMBER zset [100000|3|-5|100000 WITHSCORES] @shape
        ZSCAN zset 0 COUNT 100000 [MATCH pattern] @leaves
        DEL zset
        ZADD even [NX|CH] zeros
        ZADD even zeros
        ZREM even members
        ZRANGESTORE even even lex lex BYLEX [LIMIT 1 5]
    """,
    "bits": """
        SETBIT bits bitat bit
        SETBIT bits bitat 1
        SETBIT bits bitat 1
        GETBIT bits bitat
        SETRANGE bits offset value
        SET bits value
        BITCOUNT bits [index index|index index BIT|index index BYTE]
        BITPOS bits bit [index|index index|index index BIT|index index BYTE]
        BITOP AND bits bits bits
        BITOP OR bits bits bits bits
        BITOP XOR bits bits bits bits
        BITOP NOT bits bits
        BITFIELD bits GET field SET field amount INCRBY field amount
        BITFIELD bits OVERFLOW SAT INCRBY field amount SET field amount OVERFLOW FAIL SET field amount
        BITFIELD bits INCRBY field amount
        BITFIELD_RO bits GET field GET field
        GET bits
    """,
    "hyperloglogs": """
        PFADD hll members
        PFADD hll many
        PFADD hll numbered
        PFADD hll flood
        PFCOUNT hll
        PFCOUNT hll hll
        PFMERGE hll hll hll
        PFDEBUG ENCODING hll
        PFDEBUG DECODE hll
        GET hll
        DEL hll
    """,
    "geo": """
        GEOADD geo [NX|XX|CH|NX CH|XX CH] places
        GEOADD geo places
        GEOPOS geo members
        GEOHASH geo members
        GEODIST geo member member [unit]
        GEOSEARCH geo FROMLONLAT place BYRADIUS far unit ASC [WITHDIST|WITHHASH|WITHCOORD] @shape
        GEOSEARCH geo FROMLONLAT place BYRADIUS far unit [WITHDIST WITHHASH WITHCOORD|WITHDIST]
        GEOSEARCH geo FROMLONLAT place BYBOX far far unit [WITHDIST WITHHASH WITHCOORD|WITHDIST]
        GEOSEARCH geo FROMMEMBER member BYRADIUS far unit [COUNT 3 ANY|WITHDIST]
        GEOSEARCHSTORE geo geo FROMLONLAT place BYBOX far far unit [STOREDIST]
        GEORADIUS geo place far unit [WITHCOORD|STORE zset|STOREDIST zset]
        GEORADIUSBYMEMBER geo member far unit [WITHHASH|STORE geo]
        GEORADIUS_RO geo place far unit
        ZREM geo members
    """,
    "streams": """
        XADD stream newid fields
        XADD stream newid f value
        XADD stream newid f value g value
        XADD stream newid f value
        XADD stream NOMKSTREAM newid fields
        XADD stream [MAXLEN 5|MAXLEN = 20|MAXLEN ~ 10|MINID 2|MINID ~ 9|MAXLEN ~ 1 LIMIT 5] newid f value
        XLEN stream
        XRANGE stream end end [COUNT 3|COUNT index]
        XRANGE stream - +
        XREVRANGE stream end end [COUNT 3|COUNT index]
        XREVRANGE stream + -
        XDEL stream ids
        XTRIM stream MAXLEN offset
        XTRIM stream MINID id
        XTRIM stream MAXLEN ~ offset [LIMIT 3|LIMIT 0|LIMIT 1000]
        XTRIM stream MINID ~ id
        XSETID stream id [ENTRIESADDED offset|MAXDELETEDID id|ENTRIESADDED offset MAXDELETEDID id]
        XREAD [COUNT 2] STREAMS xkeys
        XGROUP CREATE stream group id [MKSTREAM|ENTRIESREAD small|ENTRIESREAD offset]
        XGROUP CREATE stream group $ [MKSTREAM]
        XGROUP CREATE stream group 0
        XGROUP SETID stream group id [ENTRIESREAD offset]
        XGROUP DESTROY stream g3
        XGROUP CREATECONSUMER stream group consumer
        XGROUP DELCONSUMER stream group consumer
        XREADGROUP GROUP group consumer [COUNT 1|COUNT 3|NOACK|COUNT 1 NOACK] STREAMS xkeysnew
        XREADGROUP GROUP group consumer STREAMS stream >
        XREADGROUP GROUP group consumer COUNT 2 STREAMS stream >
        XACK stream group ids
        XPENDING stream group
        XPENDING stream group end end 10 [consumer] @near=3000
        XPENDING stream group IDLE 1000000 - + 10 [consumer]
        XCLAIM stream group consumer 0 ids [JUSTID|FORCE|RETRYCOUNT 3|IDLE 5000|FORCE JUSTID|LASTID id]
        XCLAIM stream group consumer 1000000 ids
        XAUTOCLAIM stream group consumer 0 end [COUNT 1|COUNT 2|JUSTID]
        XAUTOCLAIM stream group consumer 1000000 -
        XINFO STREAM stream
        XINFO STREAM stream FULL [COUNT 2|COUNT 0] @near=3000
        XINFO GROUPS stream
        XINFO CONSUMERS stream group @near=3000
        DEL stream
    """,
    "transactions": """
        MULTI
        EXEC
        DISCARD
        WATCH anys
        UNWATCH
        PING [member]
        ECHO value
        EXEC
    """,
    "databases": """
        SELECT database
        SWAPDB 0 1
        FLUSHDB
        SELECT 0
        SELECT 0
        SELECT 0
    """,
}
KEYS_OF_EVEN = set(KEYS["even"])
BLOCKING = {"BLPOP", "BRPOP", "BLMOVE", "BRPOPLPUSH", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP"}


# Spoilt, these wait for ever (a time-out), draw lots, or meet what differs on purpose (an option more).
UNSPOILT = BLOCKING | {"SCAN", "HSCAN", "SSCAN", "ZSCAN", "ZRANK", "ZREVRANK", "SPOP", "XADD"}


def _makers(text: str) -> list[Maker]:
    makers = []
    for line in text.strip().splitlines():
        words = line.split()
        marks = [word[1:] for word in words if word.startswith("@")]
        makers.append(_plain(" ".join(word for word in words if not word.startswith("@")), *marks))
    return makers


FAMILIES: dict[str, list[Maker]] = {name: _makers(text) for name, text in TEMPLATES.items()}
DATA = ["strings", "hashes", "lists", "sets", "zsets", "bits", "hyperloglogs", "geo", "streams"]
EVERYTHING: list[Maker] = [
    *(maker for name in DATA for maker in FAMILIES[name] * 4),
    *FAMILIES["generic"] * 3,
    *FAMILIES["expiry"] * 3,
    *FAMILIES["transactions"],
]
