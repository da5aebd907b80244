"""How a proxy tells the health services of nodes it cannot get through to, and learns at once what follows.

Checks come every few seconds; a refused connection is known in a millisecond. A report only brings the next
check forward: the judgement is the health service's.
"""

import time

from fastcache import _core
from fastcache.daemon.exchange import exchange
from fastcache.daemon.follow import ANSWER_SECONDS, FIRST_SECONDS, OK, Follower
from fastcache.daemon.lean import quoted

# The health services hear of trouble at once, but not more often than this.
PAUSE_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 60.0
FAULTS = "node_faults_total."


def complain(proxy: _core.Proxy, follower: Follower, identity: str) -> None:
    """For ever: report what failed, and ask for a newer topology when nodes say that ours is old."""
    seen = 0
    counted: dict[str, float] = {}
    while True:
        trouble = proxy.trouble_after(seen, LONGEST_WAIT_SECONDS)
        if trouble == seen:
            continue
        seen = trouble
        figures = proxy.stats()
        faults = {name[len(FAULTS) :]: value for name, value in figures.items() if name.startswith(FAULTS)}
        # Counters begin anew with a node that moved.
        failing = [node for node, value in faults.items() if value > counted.get(node, 0)]
        counted = faults
        for place in follower.services:
            try:
                if failing:
                    report = complaint(identity, failing)
                    exchange(place, "POST", "/reports", ANSWER_SECONDS, body=report)
                if figures.get("stale"):
                    status, body = exchange(place, "GET", "/topology", FIRST_SECONDS)
                    if status == OK:
                        follower.obey(_core.Topology(body), place)
            except (OSError, ValueError):
                continue
            break
        time.sleep(PAUSE_SECONDS)


def complaint(identity: str, nodes: list[str]) -> str:
    """The body of a report."""
    reports = ", ".join(f'{{"node": {quoted(node)}, "kind": "unreachable"}}' for node in nodes)
    return f'{{"proxy": {quoted(identity)}, "reports": [{reports}]}}'
