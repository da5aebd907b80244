"""The core's ring and topology beside the rules written by hand, and beside the golden vectors."""

import hashlib
import json
import random
from pathlib import Path

import pytest

from fastcache import _core
from tests.unit import ring_by_hand

VECTORS = Path(__file__).parents[1] / "vectors"
RING = json.loads((VECTORS / "ring.json").read_text())
TOPOLOGIES = json.loads((VECTORS / "topology.json").read_text())


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("case", RING["slots"], ids=lambda case: case["key"][:20])
def test_keys_have_the_slots_of_the_vectors(case: dict[str, object]) -> None:
    key = str(case["key"])
    assert _core.slot_of(key) == _core.slot_of(key.encode()) == case["slot"]


@pytest.mark.parametrize("case", RING["placements"], ids=lambda case: f"{len(case['members'])} members")
def test_placements_are_those_of_the_vectors(case: dict[str, object]) -> None:
    answer = json.loads(_core.place(encoded(case["members"]), virtual_nodes=case["virtual_nodes"]))
    loads = {name: held["main"] for name, held in answer["loads"].items() if held["main"]}
    assert loads == case["loads"]
    assert hashlib.sha256(ring_by_hand.canonical(answer["slots"])).hexdigest() == case["slots_sha256"]


@pytest.mark.parametrize("seed", range(6))
def test_random_members_are_placed_as_by_hand(seed: int) -> None:
    dice = random.Random(seed)
    members = [
        {"id": f"{dice.choice('abcxyz')}{n}", "weight": dice.choice([0, 1, 50, 100, 100, 333])}
        for n in range(dice.randint(3, 60))
    ]
    members[0]["weight"] = 100
    virtual_nodes = dice.choice([1, 20, 150])
    answer = json.loads(_core.place(encoded(members), virtual_nodes=virtual_nodes))
    assert answer["slots"] == ring_by_hand.groups(ring_by_hand.place(members, virtual_nodes))


@pytest.mark.parametrize("case", TOPOLOGIES, ids=lambda case: f"epoch {case['document']['epoch']}")
def test_topologies_have_the_bytes_and_digests_of_the_vectors(case: dict[str, object]) -> None:
    topology = _core.Topology(encoded(case["document"]))
    assert topology.canonical().decode() == case["canonical"]
    assert topology.digest == case["sha256"]
    assert _core.Topology(topology.canonical()).canonical() == topology.canonical()


def test_a_new_member_takes_its_share_and_nothing_else_moves() -> None:
    members = ring_by_hand.members(50, [100])
    before = _core.place(encoded(members))
    after = json.loads(_core.place(encoded([*members, {"id": "new", "host": "new"}]), before))
    new = after["loads"]["new"]
    assert after["moved"] == new["gained"] == new["main"] <= 1.02 * 16384 / 51
    assert all(held["gained"] == 0 for name, held in after["loads"].items() if name != "new")


def test_a_topology_survives_the_disk_and_says_when_it_was_damaged(tmp_path: Path) -> None:
    topology = _core.Topology(encoded(TOPOLOGIES[1]["document"]))
    topology.save(tmp_path / "topology.json")
    assert _core.Topology.load(tmp_path / "topology.json").digest == topology.digest
    file = tmp_path / "topology.json"
    file.write_bytes(file.read_bytes().replace(b'"epoch":7', b'"epoch":8'))
    with pytest.raises(ValueError, match="damaged"):
        _core.Topology.load(file)


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match='"x y" is no id'):
        _core.place(b'[{"id":"x y"}]')
    with pytest.raises(ValueError, match="no member with a weight"):
        _core.place(b"[]")
    with pytest.raises(ValueError, match="sorted by id, each once"):
        _core.place(b'[{"id":"a"},{"id":"a"}]')


def test_a_topology_finds_the_holders_of_a_key() -> None:
    topology = _core.Topology(encoded(TOPOLOGIES[1]["document"]))
    assert topology.node_ids == ["n1", "n2"]
    assert topology.holders(0) == ["n1", "n2"]
    assert topology.holders(100) == ["n2"]
    assert topology.holders(300) == []
    assert topology.node_of("foo") is None
    assert topology.slots_down() == 16384 - 102
