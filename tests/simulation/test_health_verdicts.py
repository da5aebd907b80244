"""The promises of the health service over many seeded histories: quick, never wrong, never frantic."""

import itertools
import os

import pytest

from fastcache.health.settings import PROFILES
from fastcache.model import Health
from tests.simulation.health_world import World

SEEDS = range(int(os.environ.get("FASTCACHE_SEEDS", "12")))
UP, DOWN = Health.HEALTHY, Health.UNHEALTHY
FAST, REFERENCE = PROFILES["fast"], PROFILES["reference"]
profiles = pytest.mark.parametrize("name", ["fast", "reference"])
seeds = pytest.mark.parametrize("seed", SEEDS)


def settled(world: World) -> World:
    world.run_until(3 * world.pace.interval + 3 * world.pace.timeout)
    assert all(world.status(name) is UP for name in world.state)
    return world


@profiles
@seeds
def test_a_killed_node_is_found_in_time_and_so_is_its_return(seed: int, name: str) -> None:
    pace = PROFILES[name]
    world = settled(World(seed, pace))
    killed = world.now + world.dice.random() * pace.interval
    world.at(killed, lambda: setattr(world.state["n2"], "alive", False))
    world.run_until(killed + 2 * pace.interval + 3 * pace.suspect_interval)
    found = world.changed_at("n2", DOWN, killed)
    assert found
    assert found - killed <= pace.interval + (pace.down_after - 1) * pace.suspect_interval + 0.05
    returned = world.now
    world.state["n2"].alive = True
    world.run_until(returned + 2 * pace.interval + 3 * pace.suspect_interval)
    back = world.changed_at("n2", UP, returned)
    assert back
    assert back - returned <= pace.interval + (pace.up_after - 1) * pace.suspect_interval + 0.05
    assert {who for _, who, what in world.trace if what is DOWN} == {"n2"}


@seeds
def test_the_fast_profile_finds_a_dead_node_in_a_second_and_a_hanging_one_in_a_little_more(seed: int) -> None:
    world = settled(World(seed, FAST))
    began = world.now
    world.state["n0"].alive = False
    world.state["n1"].hanging = True
    world.run_until(began + 3)
    dead, hanging = world.changed_at("n0", DOWN, began), world.changed_at("n1", DOWN, began)
    assert dead
    assert hanging
    assert dead - began <= 1.0
    assert hanging - began <= 1.3


@seeds
def test_with_traffic_the_reference_profile_need_not_wait_for_its_interval(seed: int) -> None:
    world = settled(World(seed, REFERENCE, proxies=3))
    began = world.now
    world.state["n0"].alive = False
    world.state["n1"].hanging = True
    world.run_until(began + 15)
    for name in ("n0", "n1"):
        found = world.changed_at(name, DOWN, began)
        assert found, f"{name} was not found within 15 s"


@profiles
@seeds
def test_a_node_that_lives_is_never_down_though_checks_get_lost(seed: int, name: str) -> None:
    pace = PROFILES[name]
    world = World(seed, pace, nodes=10, loss=0.005)
    world.run_until(300 * pace.interval)
    assert not any(what is DOWN for _, _, what in world.trace)


@profiles
@seeds
def test_when_we_are_cut_off_nobody_is_declared_down(seed: int, name: str) -> None:
    pace = PROFILES[name]
    world = settled(World(seed, pace, nodes=8))
    began = world.now
    cut = world.dice.sample(sorted(world.state), 5 + seed % 4)
    at_once = [world.state[node] for node in cut]
    for node in at_once:
        node.reachable_by_us = False
    world.run_until(began + 10 * pace.interval + 10 * pace.timeout)
    assert not any(what is DOWN for _, _, what in world.trace)
    for node in at_once:
        node.reachable_by_us = True
    world.run_until(world.now + 3 * pace.interval)
    assert all(world.status(node) is UP for node in world.state)


@seeds
def test_most_nodes_dying_at_once_are_still_found(seed: int) -> None:
    world = settled(World(seed, FAST, nodes=8))
    began = world.now
    dead = world.dice.sample(sorted(world.state), 6)
    for name in dead:
        world.state[name].alive = False
    world.run_until(began + 2)
    assert {name for name in world.state if world.status(name) is DOWN} == set(dead)


@seeds
def test_most_hosts_gone_silent_are_found_when_proxies_complain(seed: int) -> None:
    world = settled(World(seed, FAST, nodes=8, proxies=2))
    began = world.now
    gone = world.dice.sample(sorted(world.state), 6)
    for name in gone:
        world.state[name].hanging = True
    world.run_until(began + 3)
    assert {name for name in world.state if world.status(name) is DOWN} == set(gone)


@seeds
def test_proxies_that_are_cut_off_cannot_take_a_node_from_everybody(seed: int) -> None:
    world = settled(World(seed, FAST, proxies=5))
    for node in world.state.values():
        node.reachable_by_proxies = False
    world.run_until(world.now + 60)
    assert not any(what is DOWN for _, _, what in world.trace)


@seeds
def test_a_node_that_flaps_is_told_of_less_and_less_often(seed: int) -> None:
    world = settled(World(seed, FAST))
    node = world.state["n0"]

    def flip() -> None:
        node.alive = not node.alive
        world.at(world.now + world.dice.uniform(1.2, 1.6), flip)

    flip()
    started = world.now
    world.run_until(started + 60)
    assert world.changes("n0") <= 20, "some 40 flips, and each verdict would be an epoch"
    assert all(world.changes(name) == 1 for name in world.state if name != "n0")


@profiles
@seeds
def test_a_healthy_node_is_checked_once_per_interval(seed: int, name: str) -> None:
    pace = PROFILES[name]
    world = World(seed, pace, proxies=3)
    world.run_until(100 * pace.interval)
    for times in world.checks.values():
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert min(gaps) >= pace.interval - 1e-9


@seeds
def test_a_storm_of_reports_never_causes_a_storm_of_checks(seed: int) -> None:
    world = settled(World(seed, REFERENCE, proxies=5, requests_per_second=5.0))
    world.state["n0"].reachable_by_proxies = False
    before = len(world.checks["n0"])
    world.run_until(world.now + 60)
    assert len(world.checks["n0"]) - before <= 60 / REFERENCE.suspect_interval + 1


def test_one_seed_is_one_history() -> None:
    def history(seed: int) -> object:
        world = World(seed, FAST, proxies=2, loss=0.2)
        world.run_until(100)
        return world.trace

    assert history(7) == history(7)
    assert history(7) != history(8)
