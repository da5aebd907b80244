"""Which keys a command names, and whether it may be sent twice. Pure.

Only what routing needs: a command that is not understood here goes to a proxy, which knows all of them.
"""

from collections.abc import Sequence

Word = bytes | str | int | float | memoryview


def words(text: str) -> frozenset[str]:
    """A table of names."""
    return frozenset(text.split())


# Commands whose first argument is their only key.
FIRST = words("""
    APPEND BITCOUNT BITFIELD BITFIELD_RO BITPOS DECR DECRBY DUMP EXPIRE EXPIREAT EXPIRETIME GEOADD
    GEODIST GEOHASH GEOPOS GEORADIUS GEORADIUS_RO GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO GEOSEARCH
    GET GETBIT GETDEL GETEX GETRANGE GETSET HDEL HEXISTS HEXPIRE HEXPIREAT HEXPIRETIME HGET HGETALL
    HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HMSET HPERSIST HPEXPIRE HPEXPIREAT HPEXPIRETIME HPTTL
    HRANDFIELD HSCAN HSET HSETNX HSTRLEN HTTL HVALS INCR INCRBY INCRBYFLOAT LINDEX LINSERT LLEN LPOP
    LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM PERSIST PEXPIRE PEXPIREAT PEXPIRETIME PFADD PSETEX PTTL
    RESTORE RPOP RPUSH RPUSHX SADD SCARD SET SETBIT SETEX SETNX SETRANGE SISMEMBER SMEMBERS
    SMISMEMBER SPOP SRANDMEMBER SREM SSCAN STRLEN SUBSTR TTL TYPE XACK XADD XAUTOCLAIM XCLAIM XDEL
    XLEN XPENDING XRANGE XREVRANGE XTRIM ZADD ZCARD ZCOUNT ZINCRBY ZLEXCOUNT ZMSCORE ZPOPMAX ZPOPMIN
    ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK
    ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE
""")
ALL = words("""
    DEL EXISTS MGET PFCOUNT PFMERGE SDIFF SDIFFSTORE SINTER SINTERSTORE SUNION SUNIONSTORE TOUCH
    UNLINK WATCH
""")
PAIRS = frozenset({"MSET", "MSETNX"})
FIRST_TWO = words("COPY GEOSEARCHSTORE LMOVE RENAME RENAMENX RPOPLPUSH SMOVE ZRANGESTORE")
SECOND = frozenset({"MEMORY USAGE", "OBJECT", "XGROUP", "XINFO"})
# Where the number of keys stands; the keys follow it.
COUNTED = {
    **dict.fromkeys(("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"), 2),
    **dict.fromkeys(("ZUNION", "ZINTER", "ZDIFF", "SINTERCARD", "ZINTERCARD", "LMPOP", "ZMPOP"), 1),
}
STORED_AND_COUNTED = frozenset({"ZUNIONSTORE", "ZINTERSTORE", "ZDIFFSTORE"})

# They change nothing, so that sending them twice does no harm.
READS = words("""
    BITCOUNT BITFIELD_RO BITPOS DUMP EXISTS EXPIRETIME GEODIST GEOHASH GEOPOS GEORADIUS_RO GEOSEARCH
    GET GETBIT GETRANGE HEXISTS HGET HGETALL HKEYS HLEN HMGET HPTTL HRANDFIELD HSCAN HSTRLEN HTTL
    HVALS LINDEX LLEN LPOS LRANGE MGET OBJECT PEXPIRETIME PFCOUNT PING PTTL SCARD SDIFF SINTER
    SINTERCARD SISMEMBER SMEMBERS SMISMEMBER SRANDMEMBER SSCAN STRLEN SUNION TTL TYPE XINFO XLEN
    XPENDING XRANGE XREVRANGE ZCARD ZCOUNT ZDIFF ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER
    ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN
    ZSCORE ZUNION
""")
# Multi-key commands that can be split by node, and how the parts become one reply.
SUMMED = frozenset({"DEL", "EXISTS", "TOUCH", "UNLINK"})


def as_bytes(word: Word) -> bytes:
    """A word as it travels."""
    if isinstance(word, bytes):
        return word
    if isinstance(word, memoryview):
        return word.tobytes()
    return (word if isinstance(word, str) else repr(word)).encode()


def name_of(command: Sequence[Word]) -> str:
    """The command's name; redis-py writes some with their sub-command."""
    return as_bytes(command[0]).decode("ascii", "replace").upper()


def keys_of(command: Sequence[Word]) -> list[bytes] | None:  # noqa: PLR0911
    """The keys of a command; None when it has none or is not understood here."""
    name = name_of(command)
    rest = command[1:]
    if name in SECOND or name.partition(" ")[0] in {"OBJECT", "XGROUP", "XINFO"}:
        # "XINFO STREAM" may be one word or two.
        keys = rest[:1] if " " in name else rest[1:2]
        return [as_bytes(key) for key in keys] or None
    if name in FIRST:
        return [as_bytes(rest[0])] if rest else None
    if name in ALL:
        return [as_bytes(key) for key in rest] or None
    if name in PAIRS:
        return [as_bytes(key) for key in rest[::2]] or None
    if name in FIRST_TWO:
        return [as_bytes(key) for key in rest[:2]] if len(rest) >= 2 else None
    if name in COUNTED:
        return counted(command, COUNTED[name])
    if name in STORED_AND_COUNTED:
        sources = counted(command, 2)
        return [as_bytes(rest[0]), *sources] if sources else None
    return None


def counted(command: Sequence[Word], at: int) -> list[bytes] | None:
    """Keys that follow their number."""
    try:
        number = int(command[at])
    except (IndexError, ValueError, TypeError):
        return None
    keys = [as_bytes(key) for key in command[at + 1 : at + 1 + number]]
    return keys if number > 0 and len(keys) == number else None
