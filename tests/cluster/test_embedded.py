"""`fastcache up`, `status` and `down` with real processes."""

import os
import signal
import socket
import time
from pathlib import Path

from fastcache.client import probe
from fastcache.embedded import process
from fastcache.model import Endpoint
from tests.cluster.embedded import Embedded, until


def test_a_cluster_comes_up_serves_tells_how_it_is_and_goes(embedded: Embedded) -> None:
    up = embedded.up("--nodes", "3")
    assert up.returncode == 0, up.stderr
    assert "3 nodes answer" in up.stdout
    assert f"redis-cli -p {embedded.port}" in up.stdout

    code, status = embedded.status()
    assert code == 0
    assert status["status"] == "ok"
    assert [node["status"] for node in status["nodes"]] == ["HEALTHY"] * 3
    for node in status["nodes"]:
        assert probe.answers(Endpoint(node["host"], node["port"]), timeout=5)

    identities = [process.identify(node["pid"]) for node in status["nodes"]]
    down = embedded.call("down")
    assert (down.returncode, down.stdout) == (0, "3 processes stopped.\n"), down.stderr
    assert not any(process.lives(identity) for identity in identities if identity)
    assert embedded.call("down").stdout.startswith("Nothing runs")


def test_a_second_up_finds_what_runs_and_refuses_another_size(embedded: Embedded) -> None:
    embedded.up("--nodes", "2")
    pids = [node["pid"] for node in embedded.status()[1]["nodes"]]

    again = embedded.up()
    assert again.returncode == 0
    assert "2 nodes already run" in again.stdout

    other = embedded.up("--nodes", "5")
    assert other.returncode == 1
    assert "2 nodes already run, and 5 are wanted" in other.stderr
    assert "fastcache down" in other.stderr
    assert [node["pid"] for node in embedded.status()[1]["nodes"]] == pids


def test_a_killed_node_makes_the_status_degraded_and_up_starts_it_again(embedded: Embedded) -> None:
    embedded.up("--nodes", "3")
    first, victim = embedded.pid(0), embedded.pid(1)
    os.kill(victim, signal.SIGKILL)
    until(lambda: embedded.status()[0] == 3, "degraded")
    node = embedded.status()[1]["nodes"][1]
    assert node["status"] == "UNHEALTHY"
    assert "has ended" in node["errorMessage"]

    again = embedded.up()
    assert again.returncode == 0, again.stderr
    assert f"Started again: node-{embedded.port + 1}" in again.stdout
    assert embedded.status()[0] == 0
    assert embedded.pid(0) == first
    assert embedded.pid(1) != victim


def test_a_frozen_node_is_unhealthy_and_down_ends_it_by_force(embedded: Embedded) -> None:
    embedded.up("--nodes", "2")
    frozen = embedded.pid(0)
    os.kill(frozen, signal.SIGSTOP)
    code, status = embedded.status()
    assert code == 3
    assert "no answer within" in status["nodes"][0]["errorMessage"]
    down = embedded.call("down", "--grace", "0.5")
    assert down.returncode == 0
    assert f"node-{embedded.port}" in down.stderr
    assert process.identify(frozen) is None


def test_a_taken_port_is_named_with_its_holder_and_nothing_is_left_running(embedded: Embedded) -> None:
    with socket.create_server(("127.0.0.1", embedded.port + 1)):
        up = embedded.up()
    assert up.returncode == 1
    assert f"port {embedded.port + 1} is taken by" in up.stderr
    assert f"(pid {os.getpid()})" in up.stderr
    assert "--node-port" in up.stderr
    assert embedded.call("status").returncode == 1


def test_a_node_that_cannot_start_shows_its_own_words_and_takes_the_others_with_it(
    embedded: Embedded,
) -> None:
    up = embedded.up("--set", "unixsocket=/nowhere/at/all.sock")
    assert up.returncode == 1
    assert "instead of serving" in up.stderr
    assert "/nowhere/at/all.sock" in up.stderr
    assert not any(probe.answers(Endpoint("127.0.0.1", embedded.port + i), timeout=1) for i in range(3))
    assert embedded.call("status").returncode == 1


def test_a_bad_setting_is_refused_before_anything_starts(embedded: Embedded) -> None:
    up = embedded.up("--set", "maxmemry=1mb")
    assert up.returncode == 78
    assert "did you mean 'maxmemory'?" in up.stderr
    assert embedded.up("--set", "maxmemory").returncode == 2


def test_settings_reach_the_nodes(embedded: Embedded) -> None:
    assert embedded.up("--nodes", "1", "--set", "maxmemory=100mb").returncode == 0
    assert embedded.status()[1]["nodes"][0]["maxMemory"] == 100 << 20


def test_a_password_shows_neither_in_the_process_list_nor_in_the_status(embedded: Embedded) -> None:
    assert embedded.up("--nodes", "1", "--set", "requirepass=s3cret").returncode == 0
    code, status = embedded.status()
    assert (code, status["nodes"][0]["status"]) == (0, "HEALTHY")
    pid = embedded.pid(0)
    for file in ("cmdline", "environ"):
        assert b"s3cret" not in Path(f"/proc/{pid}/{file}").read_bytes()


def test_nodes_outlive_the_terminal_that_started_them(embedded: Embedded) -> None:
    embedded.up("--nodes", "1")
    pid = embedded.pid(0)
    assert os.getsid(pid) == pid


def test_fifty_nodes_answer_within_five_seconds_of_their_start(embedded: Embedded) -> None:
    begun = time.monotonic()
    up = embedded.up("--nodes", "50")
    seconds = time.monotonic() - begun
    assert up.returncode == 0, up.stderr
    assert len(embedded.status()[1]["nodes"]) == 50
    # The promise is 5 s on two cores of our own; a test may run beside others.
    assert seconds < 20
