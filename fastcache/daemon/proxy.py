"""The process that a proxy is: it starts the core and keeps its topology fresh. Lean, as lean.py is.

    proxy.py NAME SETTINGS_FD

How it is kept fresh is in follow.py. Routing goes on by the last known topology however long the health
service is away.

SIGHUP renews it, see renewal.py. Exit codes are those of lean.py.
"""

import _thread
import gc
import posix
import sys
import time

sys.path.insert(0, __file__.rsplit("/", 3)[0])

from fastcache import _core
from fastcache.daemon import renewal
from fastcache.daemon.complain import complain
from fastcache.daemon.follow import Follower
from fastcache.daemon.lean import BAD_CONFIGURATION, FAILED, Log, Signals, serve, settings_from, tell

PREFIX = "proxy."


def main(name: str, settings_descriptor: str) -> int:
    started = time.monotonic()
    settings = settings_from(int(settings_descriptor))
    own = {key[len(PREFIX) :]: value for key, value in settings if key.startswith(PREFIX)}
    of_the_core = [(key, value) for key, value in settings if not key.startswith(PREFIX)]
    chosen = dict(of_the_core)
    log = Log(name, json=chosen.get("log-format", "console") == "json")
    try:
        proxy = _core.Proxy(of_the_core)
    except ValueError as error:
        log.write("error", "bad setting", error=error)
        return BAD_CONFIGURATION
    port = chosen.get("port", "")
    signals = Signals(renewable=True)
    here = own.get("here", "").split()
    own["authority"] = chosen.get("tls-ca-cert-file", "")
    follower = Follower(own, log, lambda topology: proxy.set_topology(topology, here), keeps=True)
    follower.first(own.get("topology", ""))
    if follower.topology:
        proxy.set_topology(follower.topology, here)
    left, renewals = renewal.left(), renewal.Renewals()
    try:
        proxy.start(left)
    except OSError as error:
        log.write("error", "cannot start", port=port, error=error)
        return FAILED
    if follower.services:
        _thread.start_new_thread(follower.follow, ())
        _thread.start_new_thread(complain, (proxy, follower, own.get("identity", "")))
    again = own.get("again", "").split("\n")
    del settings, of_the_core, chosen, own
    gc.collect()
    tell(f"READY=1\nSTATUS=serving, {renewals}")
    took = int((time.monotonic() - started) * 1000)
    event = "serving" if left is None else "serving on, renewed"
    log.write("info", event, port=port, pid=posix.getpid(), epoch=follower.epoch, start_ms=took)
    _core.rest()
    code = serve(
        proxy, signals, log, lambda: renewal.renew(proxy, again, log, renewals), lambda: f", {renewals}"
    )
    log.write("info", "stopped")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
