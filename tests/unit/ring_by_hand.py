"""The rules of ring and slots written a second time, slowly and without the core.

Two uses: the tests compare the core with it, and `python tests/unit/ring_by_hand.py` writes the golden
vectors in tests/vectors that Rust and Python both check. Only fresh placements without replicas are covered.
"""

import binascii
import bisect
import hashlib
import json
from pathlib import Path

SLOTS = 16_384
VECTORS = Path(__file__).parents[1] / "vectors"


def slot_of(key: bytes) -> int:
    """CRC16 of what stands between the first braces, or of the whole key."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


def position(label: str) -> int:
    """The first 8 hex digits of MD5 as a number."""
    return int(hashlib.md5(label.encode(), usedforsecurity=False).hexdigest()[:8], 16)


def place(members: list[dict[str, object]], virtual_nodes: int = 150) -> list[str]:
    """The main of every slot, by id."""
    weights = {str(m["id"]): int(str(m.get("weight", 100))) for m in members}
    points = sorted(
        (position(f"{name}:{number}"), name)
        for name, weight in weights.items()
        for number in range(max(1, (weight * virtual_nodes + 50) // 100) if weight else 0)
    )
    total = sum(weights.values())
    low = {name: SLOTS * weight // total for name, weight in weights.items()}
    high = {name: -(-SLOTS * weight // total) for name, weight in weights.items()}
    count = dict.fromkeys(weights, 0)
    mains = []
    for slot in range(SLOTS):
        missing = sum(max(0, low[name] - count[name]) for name in weights)
        bound = high if SLOTS - slot > missing else low
        at = bisect.bisect_left(points, (position(f"slot:{slot}"), ""))
        while count[points[at % len(points)][1]] >= bound[points[at % len(points)][1]]:
            at += 1
        name = points[at % len(points)][1]
        count[name] += 1
        mains.append(name)
    return mains


def canonical(value: object) -> bytes:
    """JSON without spaces, keys sorted, UTF-8 unescaped."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def ranges(slots: list[int]) -> str:
    """Ascending slots as `0-99,105`."""
    parts: list[list[int]] = []
    for slot in slots:
        if parts and parts[-1][1] == slot - 1:
            parts[-1][1] = slot
        else:
            parts.append([slot, slot])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def groups(mains: list[str]) -> list[dict[str, object]]:
    """Mains as the document writes them."""
    held: dict[str, list[int]] = {}
    for slot, name in enumerate(mains):
        held.setdefault(name, []).append(slot)
    return [{"main": name, "ranges": ranges(held[name]), "replicas": []} for name in sorted(held)]


def documents() -> list[dict[str, object]]:
    """Topologies as they may arrive, with everything that canonical bytes have to put in order."""
    return [
        {"epoch": 0, "nodes": []},
        {
            "epoch": 7,
            "cluster": {"name": 'Lager \u00fc\u4e2d "quoted"\n', "id": "c-1"},
            "flags": ["replication", "discovery", "replication"],
            "health": ["http://10.0.0.9:8080"],
            "nodes": [
                {"id": "n2", "host": "10.0.0.2", "port": 7001, "rack": "b", "state": "down", "weight": 50},
                {"id": "n1", "host": "::1", "port": 7002, "unix": "/run/fastcache/n1.sock", "state": "up"},
            ],
            "proxies": [{"id": "p1", "host": "10.0.0.1", "port": 6382, "state": "up"}],
            "moves": [{"id": "m1", "from": "n1", "to": "n2", "ranges": "5-9", "state": "copying"}],
            "replicas": 1,
            "slots": [
                {"ranges": "0-99,200", "main": "n1", "replicas": ["n2"]},
                {"ranges": "100-199", "main": "n2"},
                {"ranges": "201", "main": "n1", "replicas": ["n2"]},
            ],
        },
        {
            "epoch": 8,
            "flags": ["strict", "replication"],
            "nodes": [
                {"id": "n2", "host": "h2", "port": 7001, "run": "5e1f"},
                {"id": "n1", "host": "h1", "port": 7001, "run": "77aa"},
                {"id": "n3", "host": "h3", "port": 7001},
            ],
            "replicas": 2,
            "slots": [
                {"ranges": "10", "main": "n1", "replicas": ["n2"], "learners": ["n3"]},
                {"ranges": "0-9,11", "main": "n1", "replicas": ["n2"], "learners": ["n2"]},
                {"ranges": "12", "main": "n1", "replicas": ["n2"], "learners": []},
                {"ranges": "13", "main": "n2", "learners": ["n1", "n3"]},
            ],
        },
    ]


def in_order(document: dict[str, object]) -> dict[str, object]:
    """What the canonical form of `documents()` holds: defaults filled in, lists sorted, slots grouped."""

    def nodes(kind: str) -> list[dict[str, object]]:
        filled = [
            {"rack": "", "state": "unknown", "unix": "", "weight": 100} | one
            for one in document.get(kind, [])  # type: ignore[attr-defined]
        ]
        return sorted(filled, key=lambda one: str(one["id"]))

    held: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[int]] = {}
    for group in document.get("slots", []):  # type: ignore[attr-defined]
        copies = (tuple(group.get("replicas", [])), tuple(group.get("learners", [])))
        slots = held.setdefault((group["main"], *copies), [])
        for part in group["ranges"].split(","):
            first, _, last = part.partition("-")
            slots.extend(range(int(first), int(last or first) + 1))
    slots = [
        {"main": main, "replicas": list(replicas), "ranges": ranges(sorted(slots))}
        | ({"learners": list(learners)} if learners else {})
        for (main, replicas, learners), slots in sorted(held.items())
    ]
    filled = {"cluster": {"id": "", "name": ""}, "format": 1, "health": [], "moves": [], "replicas": 0}
    filled |= {"virtual_nodes": 150} | document
    flags = sorted(set(document.get("flags", [])))  # type: ignore[call-overload]
    return filled | {"flags": flags, "nodes": nodes("nodes"), "proxies": nodes("proxies"), "slots": slots}


def members(count: int, weights: list[int]) -> list[dict[str, object]]:
    """Some members, each on a host of its own."""
    return [
        {"id": f"node-{n:02}", "host": f"h{n}", "weight": weights[n % len(weights)]} for n in range(count)
    ]


def write() -> None:
    """Write the golden vectors anew. Changing them means that old and new releases disagree: think twice."""
    keys = ["", "a", "foo", "123456789", "{user7}.name", "{}.name", "a{b", "a}b{c}d", "\u00fc\u4e2d"]
    keys.append("x" * 1000)
    labels = ["", "node-00:0", "node-00:149", "slot:0", "slot:16383", "\u00fc:1"]
    cases = [(3, [100], 150), (50, [100], 150), (7, [100, 50, 0, 1, 400], 150), (5, [100, 200], 20)]
    placements = []
    for count, weights, virtual_nodes in cases:
        mains = place(members(count, weights), virtual_nodes)
        placements.append(
            {
                "members": members(count, weights),
                "virtual_nodes": virtual_nodes,
                "first_slots": mains[:32],
                "loads": {name: mains.count(name) for name in sorted(set(mains))},
                "slots_sha256": hashlib.sha256(canonical(groups(mains))).hexdigest(),
            }
        )
    ring = {
        "slots": [{"key": key, "slot": slot_of(key.encode())} for key in keys],
        "positions": [{"label": label, "position": position(label)} for label in labels],
        "placements": placements,
    }
    topology = []
    for document in documents():
        text = canonical(in_order(document))
        topology.append(
            {"document": document, "canonical": text.decode(), "sha256": hashlib.sha256(text).hexdigest()}
        )
    for name, value in (("ring", ring), ("topology", topology)):
        (VECTORS / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
