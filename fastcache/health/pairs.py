"""Place slots on pairs: nodes that hold the same slots, one as their main and the others as its copies. Pure.

A pair is named in the configuration, or made of nodes in the order of their ids, of the hosts that have most
of them left: so as many pairs as can be are on different hosts. It is kept from then on. The ring spreads
slots over pairs as it does over nodes; a pair stands on it under the smallest of its ids.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from fastcache import _core
from fastcache.health.groups import slots_in, text_of

Document = dict[str, Any]
Pair = tuple[str, ...]


def placed(
    document: Document, slots: Sequence[Document], named: Sequence[Pair], *, keep_mains: bool = True
) -> list[Document]:
    """Who should hold each slot: mains stay in their pair, copies are the other nodes of it.

    `keep_mains`: slots stay with their pair, however uneven; otherwise every pair gets its share.
    """
    nodes = {node["id"]: node for node in document["nodes"]}
    pairs = named or found(document["nodes"], slots, document["replicas"] + 1)
    pairs = [tuple(name for name in pair if name in nodes) for pair in pairs]
    pairs = [pair for pair in pairs if pair]
    of = {name: pair for pair in pairs for name in pair}
    members = [
        {"id": min(pair), "host": min(pair), "weight": max(nodes[name]["weight"] for name in pair)}
        for pair in sorted(pairs, key=min)
    ]
    if not any(member["weight"] for member in members):
        return []
    before = [
        {"main": min(of[one["main"]]), "ranges": one["ranges"], "replicas": []}
        for one in slots
        if one["main"] in of
    ]
    answer = _core.place(
        msgspec.json.encode(members),
        msgspec.json.encode({"slots": before}),
        virtual_nodes=document["virtual_nodes"],
        keep_mains=keep_mains,
    )
    heads = {min(pair): pair for pair in pairs}
    groups = msgspec.json.decode(answer)["slots"]
    return [part for group in groups for part in split(group, heads[group["main"]], slots, nodes)]


def split(
    group: Document, pair: Pair, slots: Sequence[Document], nodes: dict[str, Document]
) -> Iterable[Document]:
    """The slots of a pair by their mains: one that has none yet takes the pair's first node."""
    usual = next((name for name in pair if nodes[name]["weight"]), pair[0])
    mine = set(slots_in(group["ranges"]))
    for one in slots:
        held = mine.intersection(slots_in(one["ranges"]))
        if held and one["main"] in pair:
            mine -= held
            yield described(one["main"], pair, held, nodes)
    if mine:
        yield described(usual, pair, mine, nodes)


def described(main: str, pair: Pair, slots: Iterable[int], nodes: dict[str, Document]) -> Document:
    """Slots of one main; the others of its pair are its copies, unless they are away or drained."""
    copies = [name for name in pair if name != main and nodes[name]["weight"]]
    return {"main": main, "ranges": text_of(slots), "replicas": copies}


def found(nodes: Sequence[Document], slots: Sequence[Document], size: int) -> list[Pair]:
    """Pairs that exist in the topology, and new ones of the nodes that are left over."""
    pairs: list[Pair] = []
    taken: set[str] = set()
    for one in slots:
        pair = tuple(dict.fromkeys((one["main"], *one["replicas"], *one.get("learners", ()))))
        if len(pair) > 1 and not taken.intersection(pair):
            pairs.append(pair)
            taken.update(pair)
    known = {node["id"] for node in nodes}
    rest = [node for node in sorted(nodes, key=lambda node: str(node["id"])) if node["id"] not in taken]
    pairs = [tuple(name for name in pair if name in known) for pair in pairs]
    # Nodes that came fill pairs that have lost one first.
    pairs = [filled(pair, rest, nodes, size) for pair in pairs if pair]
    while rest:
        first = fullest(rest)
        rest.remove(first)
        pairs.append(filled((first["id"],), rest, nodes, size))
    if len(pairs) > 1 and len(pairs[-1]) < size and not taken.intersection(pairs[-1]):
        pairs.pop()  # Too few are left for a whole pair: they wait for others.
    return pairs


def filled(pair: Pair, rest: list[Document], nodes: Sequence[Document], size: int) -> Pair:
    """The pair with more nodes out of `rest`, on hosts of their own where there is a choice."""
    hosts = {node["host"] for node in nodes if node["id"] in pair}
    while len(pair) < size and rest:
        other = fullest([node for node in rest if node["host"] not in hosts] or rest)
        rest.remove(other)
        hosts.add(other["host"])
        pair = (*pair, other["id"])
    return pair


def fullest(rest: Sequence[Document]) -> Document:
    """The next node of the host with the most of them, or that host's might be left to one another."""
    left = Counter(node["host"] for node in rest)
    return max(rest, key=lambda node: left[node["host"]])
