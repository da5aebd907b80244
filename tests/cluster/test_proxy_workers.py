"""A proxy of several workers is one proxy, and no client sees which worker it has."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster.embedded import Embedded, free_ports, until
from tests.cluster.test_proxy import (  # noqa: F401 - the same tests, of another cluster
    Client,
    client,
    pid,
    test_a_blocked_client_is_woken_by_another_and_holds_up_nobody,
    test_a_dead_node_costs_only_its_own_keys_and_comes_back,
    test_a_listener_hears_again_after_the_node_of_its_channel_was_restarted,
    test_a_pause_holds_requests_back_and_a_reply_nobody_wants_does_not_come,
    test_a_watched_key_that_changes_stops_the_transaction_and_one_that_stays_does_not,
    test_keys_are_spread_over_all_nodes_and_found_through_every_door,
    test_messages_reach_listeners_at_any_proxy_once_and_in_order,
    test_of_many_who_wait_each_gets_what_no_other_gets,
    test_redis_benchmark_through_haproxy_ends_without_an_error,
    test_users_of_a_proxy_may_no_more_than_they_may,
    test_what_nodes_tell_is_told_as_one,
    test_who_waits_can_be_unblocked_and_leaves_nothing_behind,
)

WORKERS = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Four nodes, the health service, two proxies of three workers, HAProxy."""
    whole = Embedded(tmp_path_factory.mktemp("c"), free_ports(50))
    up = whole.whole("--nodes", "4", "--workers", str(WORKERS))
    assert up.returncode == 0, up.stderr
    yield whole
    whole.call("down")


def connected(client: Client, count: int = WORKERS * 2) -> list["redis.Redis"]:  # noqa: F811
    """So many clients of one proxy, each of one connection, dealt out among its workers."""
    names = [f"c{number}" for number in range(count)]
    made = [client("proxy", client_name=name, single_connection_client=True) for name in names]
    for one in made:
        one.ping()
    return made


def test_a_proxy_has_as_many_threads_as_it_has_workers_and_clients_are_dealt_out(
    cluster: Embedded,
    client: Client,  # noqa: F811
) -> None:
    connected(client)
    tasks = Path(f"/proc/{pid(cluster, 'proxies')}/task").iterdir()
    names = [Path(task, "comm").read_text() for task in tasks]
    assert sum(name.startswith("fastcache-proxy") for name in names) == WORKERS


def test_everybody_is_listed_counted_and_closed_whatever_worker_they_have(client: Client) -> None:  # noqa: F811
    mine = connected(client)
    for one in mine:
        listed = [each["name"] for each in one.client_list() if each["name"].startswith("c")]
        assert listed == [f"c{number}" for number in range(len(mine))]
    numbers = [int(each["id"]) for each in mine[0].client_list()]
    assert numbers == sorted(set(numbers))
    port = f":{mine[0].connection_pool.connection_kwargs['port']}"
    here = [
        each for each in mine[0].client_list() if each["laddr"].endswith(port)
    ]  # Others list theirs, too.
    assert mine[1].info("clients")["connected_clients"] >= len(here) >= len(mine)
    wanted = [str(mine[index].client_id()) for index in (4, 2)]
    assert [each["name"] for each in mine[3].client_list(client_id=wanted)] == ["c4", "c2"]

    assert mine[0].client_kill_filter(_id=wanted[0]) == 1
    assert "c4" not in [each["name"] for each in mine[2].client_list()]
    assert mine[0].client_kill_filter(_id=wanted[0]) == 0
    address = next(each["addr"] for each in mine[1].client_list() if each["name"] == "c2")
    assert mine[0].client_kill(address)
    with pytest.raises(redis.ResponseError, match="No such client"):
        mine[0].client_kill(address)
    for one in mine[:2]:
        assert one.ping()


def test_a_pause_holds_for_all_and_ends_for_all(client: Client) -> None:  # noqa: F811
    mine = connected(client, WORKERS)
    mine[0].client_pause(60_000)
    served: list[bytes | None] = []
    waiting = [threading.Thread(target=lambda one=one: served.append(one.get("none"))) for one in mine[1:]]
    for thread in waiting:
        thread.start()
    time.sleep(0.2)
    assert served == []
    mine[0].client_unpause()
    for thread in waiting:
        thread.join(20)
    assert served == [None] * len(waiting)


def test_who_monitors_is_shown_what_clients_of_all_workers_do(client: Client) -> None:  # noqa: F811
    mine = connected(client, WORKERS)
    with client("proxy").monitor() as watching:
        for number, one in enumerate(mine):
            one.get(f"shown:{number}")
        shown: set[str] = set()
        end = time.monotonic() + 20
        while len(shown) < WORKERS and time.monotonic() < end:  # HAProxy's checks are shown as well.
            command = watching.next_command()["command"]
            shown |= {command} if "shown:" in command else set()
    assert shown == {f"GET shown:{number}" for number in range(WORKERS)}


def test_a_user_is_known_changed_and_gone_everywhere_at_once(client: Client) -> None:  # noqa: F811
    mine = connected(client)

    def enter() -> list[str]:
        seen = []
        for _ in range(WORKERS):
            try:
                client("proxy", username="joe", password="word", single_connection_client=True).ping()
                seen.append("in")
            except redis.RedisError as error:
                seen.append(type(error).__name__)
        return seen

    mine[1].execute_command("ACL SETUSER joe on >word ~* +@all")
    try:
        assert enter() == ["in"] * WORKERS
        assert all(b"joe" in one.acl_users() or "joe" in one.acl_users() for one in mine)
    finally:
        assert mine[2].acl_deluser("joe") == 1
    assert set(enter()) == {"AuthenticationError"}
    until(lambda: len(mine[0].acl_log()) > 0, "refusals are in the log of all")
    assert mine[2].acl_log_reset()
    assert all(one.acl_log() == [] for one in mine)


def test_the_limit_of_clients_and_other_settings_are_those_of_the_whole_proxy(client: Client) -> None:  # noqa: F811
    mine = connected(client)
    there = mine[0].info("clients")["connected_clients"]
    mine[1].config_set("maxclients", there + 2)
    try:
        for _ in range(2):
            client("proxy", single_connection_client=True).ping()
        with pytest.raises(redis.RedisError, match="max number of clients"):
            client("proxy", single_connection_client=True, retry=None).ping()
    finally:
        mine[2].config_set("maxclients", 10_000)


def test_what_concerns_all_clients_is_refused_in_a_transaction(client: Client) -> None:  # noqa: F811
    connection = client("proxy").connection_pool.get_connection()
    replies = []
    for words in (("MULTI",), ("CLIENT", "LIST"), ("EXEC",)):
        connection.send_command(*words)
        try:
            replies.append(str(connection.read_response()))
        except redis.RedisError as error:
            replies.append(str(error))
    connection.disconnect()
    assert "CLIENT LIST in a transaction" in replies[1]
    assert "discarded" in replies[2]


def test_a_proxy_told_by_a_client_to_shut_down_ends_whole(embedded: Embedded) -> None:
    assert embedded.whole("--nodes", "1", "--proxies", "1", "--workers", str(WORKERS)).returncode == 0
    process = Path(f"/proc/{pid(embedded, 'proxies')}")
    for _ in range(2):  # The second connection is another worker's than the one that lets clients in.
        other = redis.Redis(port=embedded.port_of("proxy"), single_connection_client=True)
    with pytest.raises(redis.ConnectionError):
        other.execute_command("SHUTDOWN")
    until(lambda: not process.exists() or "zombie" in (process / "status").read_text(), "the proxy has ended")
