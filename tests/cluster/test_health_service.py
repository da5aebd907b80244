"""The health service as a process: verdicts, topology, registration, memory."""

import http.client
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastcache import _core
from tests.cluster.health_processes import HealthProcess, StandIn, until

FIELDS = ["nodeId", "nodeType", "host", "port", "status", "lastCheck", "responseTimeMs", "errorMessage"]
Start = Callable[..., HealthProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts health services that end with the test; the same directory unless said otherwise."""
    running: list[HealthProcess] = []

    def one(name: str = "health", **settings: Any) -> HealthProcess:
        service = HealthProcess(tmp_path / name, **settings).start()
        running.append(service)
        return service

    yield one
    for service in running:
        if service.process and service.process.poll() is None:
            service.kill()


@pytest.fixture
def nodes() -> Iterator[list[StandIn]]:
    all_of_them = [StandIn() for _ in range(3)]
    yield all_of_them
    for node in all_of_them:
        node.close()


def listed(nodes: list[StandIn]) -> list[dict[str, object]]:
    return [{"id": f"n{i}", "host": "127.0.0.1", "port": node.port} for i, node in enumerate(nodes, 1)]


def all_up(service: HealthProcess, count: int) -> bool:
    """By the registry and, which comes a moment later, by the topology."""
    healthy = service.get("/health/summary")["healthyNodes"]
    states = [node["state"] for node in service.topology()["nodes"]]
    return bool(healthy == count and states == ["up"] * count)


def test_the_rest_interface_tells_the_agreed_fields(start: Start, nodes: list[StandIn]) -> None:
    service = start(nodes=listed(nodes), proxies=[{"id": "p1", "host": "127.0.0.1", "port": nodes[0].port}])
    until("all are healthy", lambda: len(service.get("/health/healthy")) == 4)
    everybody = service.get("/health/nodes")
    assert [list(one) for one in everybody] == [FIELDS] * 4
    assert [(one["nodeId"], one["nodeType"]) for one in everybody] == [
        ("n1", "NODE"),
        ("n2", "NODE"),
        ("n3", "NODE"),
        ("p1", "PROXY"),
    ]
    one = service.get("/health/nodes/n2")
    assert (one["status"], one["port"], one["errorMessage"]) == ("HEALTHY", nodes[1].port, None)
    assert 0 < one["responseTimeMs"] < 1000
    assert one["lastCheck"].endswith("Z")
    assert len(service.get("/health/nodes?type=proxy")) == 1
    assert service.get("/health/unhealthy") == []
    summary = service.get("/health/summary")
    assert (summary["totalNodes"], summary["healthyNodes"], summary["status"]) == (3, 3, "HEALTHY")
    assert service.ask("GET", "/health/nodes/nobody")[0] == 404


def test_a_dead_node_is_found_in_about_a_second_and_so_is_its_return(
    start: Start, nodes: list[StandIn]
) -> None:
    service = start(nodes=listed(nodes))
    until("all are up", lambda: all_up(service, 3))
    epoch = service.topology()["epoch"]
    before = service.topology()["slots"]
    nodes[1].close()
    began = time.monotonic()
    until("n2 is down", lambda: service.status("n2") == "UNHEALTHY")
    assert time.monotonic() - began < 2.5
    down = until("the topology says so", lambda: (t := service.topology())["epoch"] > epoch and t)
    assert {one["id"]: one["state"] for one in down["nodes"]} == {"n1": "up", "n2": "down", "n3": "up"}
    assert down["slots"] == before, "a verdict moves no slots"
    assert service.get("/health/nodes/n2")["errorMessage"] == "connection refused"
    assert service.ask("GET", "/probe/n2")[0] == 503
    assert service.ask("GET", "/probe/n1")[0] == 200
    nodes[1].open()
    until("n2 is back", lambda: service.status("n2") == "HEALTHY")


def test_a_silent_node_is_found_by_the_time_out(start: Start, nodes: list[StandIn]) -> None:
    service = start(nodes=listed(nodes))
    until("all are up", lambda: all_up(service, 3))
    nodes[2].silent = True
    until("n3 is down", lambda: service.status("n3") == "UNHEALTHY", 5)
    assert "no answer" in service.get("/health/nodes/n3")["errorMessage"]


def test_a_node_is_asked_once_per_interval_however_many_want_to_know(
    start: Start, nodes: list[StandIn]
) -> None:
    service = start(nodes=listed(nodes), **{"interval": 0.5, "timeout": 0.4, "suspect-interval": 0.5})
    until("all are up", lambda: all_up(service, 3))
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        service.get("/health/nodes")
        service.ask("GET", "/metrics")
    for node in nodes:
        # One may be late on a busy machine and puts off none that follow: three take a whole interval.
        asked = node.asked[1:]
        assert len(asked) >= 4
        assert min(last - first for first, last in zip(asked, asked[2:], strict=False)) > 0.4, asked
    assert figure(service, "fastcache_health_checks_too_soon_total") == 0


def test_who_leaves_and_comes_back_or_is_reported_again_and_again_is_not_asked_more_often(
    start: Start, nodes: list[StandIn]
) -> None:
    """Members that register anew, proxies that complain all the time: the profile says how often to ask."""
    interval, soonest = 1.0, 0.5
    service = start(
        nodes=listed(nodes[:1]), **{"interval": interval, "timeout": 0.4, "suspect-interval": soonest}
    )
    service.ask("POST", "/proxies", {"id": "p1", "host": "127.0.0.1", "port": nodes[1].port})
    newcomer = {"id": "n9", "host": "127.0.0.1", "port": nodes[2].port}
    service.ask("POST", "/nodes", newcomer)
    until("all are up", lambda: service.status("n1") == service.status("n9") == "HEALTHY")
    began, before = time.monotonic(), [len(node.asked) for node in nodes]
    while time.monotonic() < began + 4:
        report = {"proxy": "p1", "reports": [{"node": "n1", "kind": "refused"}]}
        service.ask("POST", "/reports", report)
        service.ask("DELETE", "/nodes/n9")
        service.ask("POST", "/nodes", newcomer)
    passed = time.monotonic() - began
    reported, proxy, wavering = (len(node.asked) - known for node, known in zip(nodes, before, strict=True))
    assert 2 <= reported <= passed / soonest + 1, "a report brings a check forward, but not again and again"
    assert proxy <= passed / interval + 1
    assert wavering <= passed / soonest + 1, "leaving and coming back is no way to be asked at once"
    assert figure(service, "fastcache_health_checks_too_soon_total") == 0
    hurried = figure(service, 'fastcache_health_checks_hurried_total{id="n1",kind="node"}')
    checks = figure(service, 'fastcache_health_checks_total{id="n1",kind="node"}')
    assert hurried > 0
    assert checks - hurried <= (time.monotonic() - began) / interval + 4, "none but those beyond the interval"


def figure(service: HealthProcess, name: str) -> float:
    """A line of the metrics."""
    with urllib.request.urlopen(f"{service.url}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def test_nodes_register_and_the_first_placement_waits_for_all_of_them(
    start: Start, nodes: list[StandIn]
) -> None:
    service = start()
    for one in listed(nodes):
        assert service.ask("POST", "/nodes", one)[0] == 201
    placed = until("slots are placed", lambda: (t := service.topology())["slots"] and t)
    assert sorted({group["main"] for group in placed["slots"]}) == ["n1", "n2", "n3"]
    again, answer, _ = service.ask("POST", "/nodes", listed(nodes)[0])
    assert (again, answer["id"]) == (200, "n1")
    assert service.ask("DELETE", "/nodes/n2")[0] == 200
    assert service.ask("DELETE", "/nodes/n2")[0] == 404
    left = until("n2 has left", lambda: len((t := service.topology())["nodes"]) == 2 and t)
    assert sorted({group["main"] for group in left["slots"]}) == ["n1", "n3"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "truncated"),
        ({"id": "x"}, "host"),
        ({"id": "a b", "host": "h", "port": 1}, "id"),
        ({"id": "x", "host": "h", "port": 70000}, "port"),
        ({"id": "x", "host": "h", "port": 0}, "neither a port"),
        ({"id": "x", "host": "h", "port": 1, "colour": "red"}, "colour"),
        ([], "object"),
        (b"x" * (2 << 20), "at most"),
    ],
)
def test_bad_registrations_are_refused_with_a_reason(start: Start, body: Any, reason: str) -> None:
    status, answer, _ = start().ask("POST", "/nodes", body)
    assert status in {400, 413}
    assert reason in answer["error"]


def test_changes_need_the_admin_key_where_one_is_set(start: Start) -> None:
    service = start(**{"admin-key": "right"})
    node = {"id": "n1", "host": "127.0.0.1", "port": 1}
    assert service.ask("POST", "/nodes", node)[0] == 401
    assert service.ask("POST", "/nodes", node, {"X-Admin-Key": "wrong"})[0] == 401
    assert service.ask("POST", "/nodes", node, {"X-Admin-Key": "right"})[0] == 201
    assert service.get("/health/nodes")[0]["nodeId"] == "n1"
    assert "right" not in service.log.read_text()


def test_membership_and_epochs_survive_kill_nine(start: Start, nodes: list[StandIn]) -> None:
    service = start()
    for one in listed(nodes):
        service.ask("POST", "/nodes", one)
    until("all are up", lambda: all_up(service, 3))
    before = until(
        "it is published", lambda: (t := service.topology())["slots"] and t["nodes"][2]["state"] == "up" and t
    )
    service.kill()
    service.start()
    after = until("it serves again", service.topology)
    assert after["epoch"] >= before["epoch"]
    assert (after["slots"], after["cluster"]) == (before["slots"], before["cluster"])
    assert [one["id"] for one in service.get("/nodes")] == ["n1", "n2", "n3"]
    nodes[0].close()
    until("it still judges", lambda: service.topology()["epoch"] > after["epoch"])


def test_a_long_poll_ends_with_the_next_epoch(start: Start, nodes: list[StandIn]) -> None:
    service = start(nodes=listed(nodes))
    until("all are up", lambda: all_up(service, 3))
    epoch = service.topology()["epoch"]
    status, _, headers = service.ask("GET", f"/topology?after={epoch}&timeout=0")
    assert (status, headers["x-fastcache-epoch"]) == (304, str(epoch))
    nodes[0].close()
    status, answer, headers = service.ask("GET", f"/topology?after={epoch}&timeout=8")
    assert status == 200
    assert answer["epoch"] > epoch
    same, _, _ = service.ask("GET", "/topology", headers={"If-None-Match": headers["etag"]})
    assert same == 304
    assert service.ask("GET", "/topology?after=soon")[0] == 400


def test_the_body_of_the_topology_is_canonical_and_its_tag_is_the_digest(start: Start) -> None:
    service = start(nodes=[{"id": "n1", "host": "127.0.0.1", "port": 1}])
    until("there is one", service.topology)
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=5)
    connection.request("GET", "/topology")
    reply = connection.getresponse()
    topology = _core.Topology(reply.read())
    assert reply.headers["ETag"] == f'"{topology.digest}"'


def test_a_stream_tells_every_new_topology_and_ends_with_the_service(
    start: Start, nodes: list[StandIn]
) -> None:
    service = start(nodes=listed(nodes))
    until("all are up", lambda: all_up(service, 3))
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", "/topology/stream")
    reply = connection.getresponse()
    epochs = [next_event(reply)]
    nodes[0].close()
    epochs.append(next_event(reply))
    while epochs[-1][1]["nodes"][0]["state"] != "down":
        epochs.append(next_event(reply))
    assert all(event_id == told["epoch"] for event_id, told in epochs)
    assert service.stop() == 0, "a reader does not keep the service from leaving"
    assert reply.read() is not None


def next_event(reply: http.client.HTTPResponse) -> tuple[int, dict[str, Any]]:
    fields: dict[str, str] = {}
    while True:
        line = reply.readline().decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            return int(fields["id"]), json.loads(fields["data"])


def test_reports_of_proxies_bring_the_verdict_forward(start: Start, nodes: list[StandIn]) -> None:
    # Proxies know no admin key.
    slow = {"profile": "reference", "interval": 30, "timeout": 1, "suspect-interval": 0.2, "admin-key": "k"}
    proxies = [{"id": f"p{n}", "host": "127.0.0.1", "port": nodes[0].port} for n in (1, 2)]
    service = start(nodes=listed(nodes), proxies=proxies, **slow)
    until("all are up", lambda: all_up(service, 3))
    nodes[1].close()
    for proxy in ("p1", "p2"):
        report = {"proxy": proxy, "reports": [{"node": "n2", "kind": "refused"}, {"node": "gone"}]}
        status, answer, _ = service.ask("POST", "/reports", report)
        assert (status, answer) == (202, {"accepted": 1, "unknown": ["gone"]})
    until("n2 is down", lambda: service.status("n2") == "UNHEALTHY", 5)
    assert service.ask("POST", "/reports", {"proxy": "stranger", "reports": []})[0] == 404


def test_a_lie_about_a_node_that_answers_changes_nothing(start: Start, nodes: list[StandIn]) -> None:
    proxies = [{"id": f"p{n}", "host": "127.0.0.1", "port": nodes[0].port} for n in (1, 2, 3, 4)]
    service = start(nodes=listed(nodes), proxies=proxies)
    until("all are up", lambda: all_up(service, 3))
    for _ in range(20):
        for proxy in ("p1", "p2", "p3", "p4"):
            service.ask("POST", "/reports", {"proxy": proxy, "reports": [{"node": "n1"}]})
        assert service.status("n1") == "HEALTHY"


def test_after_the_store_was_lost_the_epoch_outranks_what_members_know(
    start: Start, nodes: list[StandIn]
) -> None:
    service = start()
    proxy = {"id": "p1", "host": "127.0.0.1", "port": nodes[0].port, "epoch": 41}
    for one in listed(nodes):
        service.ask("POST", "/nodes", one)
    service.ask("POST", "/proxies", proxy)
    until("it outranks", lambda: service.topology()["epoch"] > 41)


def test_a_saved_topology_can_be_restored(start: Start, nodes: list[StandIn]) -> None:
    first = start("first")
    for one in listed(nodes):
        first.ask("POST", "/nodes", one)
    saved = until("slots are placed", lambda: (t := first.topology())["slots"] and t)
    first.ask("DELETE", "/nodes/n3")
    saved = until("n3 has left", lambda: len((t := first.topology())["nodes"]) == 2 and t)
    second = start("second")
    assert second.ask("PUT", "/topology", saved)[0] == 202
    restored = until("it is published", lambda: (t := second.topology())["epoch"] > saved["epoch"] and t)
    assert restored["slots"] == saved["slots"]
    assert restored["cluster"] == saved["cluster"]
    assert second.ask("PUT", "/topology", saved)[0] == 409
    assert second.ask("PUT", "/topology", {**saved, "cluster": {"name": "other"}, "epoch": 999})[0] == 409


def test_metrics_name_what_the_dashboards_ask_for(start: Start, nodes: list[StandIn]) -> None:
    service = start(nodes=listed(nodes))
    until("all are up", lambda: all_up(service, 3))
    page = service.ask("GET", "/metrics")[1].decode()
    for line in ("cluster_nodes_healthy 3.0", "cluster_nodes_total 3.0", "fastcache_health_leader 1.0"):
        assert line in page
    assert 'fastcache_member_up{id="n1",kind="node"} 1.0' in page


def test_load_balancers_see_who_leads(start: Start) -> None:
    service = start()
    assert service.ask("GET", "/primary")[0] == 200
    assert service.ask("GET", "/replica")[0] == 503
    assert service.get("/leader")["leader"] == service.url
    until("ready", lambda: service.ask("GET", "/readiness")[0] == 200)


def test_a_key_is_located(start: Start, nodes: list[StandIn]) -> None:
    service = start(nodes=listed(nodes))
    until("placed", lambda: service.topology()["slots"])
    told = service.get("/locate/a%2Fb")
    assert told["key"] == "a/b"
    assert told["slot"] == _core.slot_of("a/b")
    assert told["main"] in {"n1", "n2", "n3"}
