"""HAProxy's configuration, rendered from the very template that the deployment to hosts uses."""

import resource
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from fastcache.embedded.plan import ProcessSpec

TEMPLATE = Path(__file__).with_name("haproxy.cfg.j2")
MOST_CLIENTS = 10_000
# Descriptors that HAProxy needs besides two for each client.
SPARE_DESCRIPTORS = 200


def configuration(spec: ProcessSpec, specs: tuple[ProcessSpec, ...]) -> str:
    """The file for the HAProxy of a cluster: over Unix sockets to the proxies that have one."""
    own = dict(spec.settings)
    host = spec.endpoint.host
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    proxies = [one for one in specs if one.kind == "proxy"]
    # As Ansible renders: lines that hold only a block leave none behind.
    template = Environment(  # noqa: S701  (this is no HTML)
        trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    ).from_string(TEMPLATE.read_text())
    return template.render(
        fastcache_haproxy_socket="unix@admin.sock",
        fastcache_haproxy_maxconn=max(100, min(MOST_CLIENTS, (most_files - SPARE_DESCRIPTORS) // 2)),
        fastcache_haproxy_binds=[f"{host}:{own['port']}"],
        fastcache_haproxy_stats_binds=[f"{host}:{own['stats-port']}"],
        fastcache_haproxy_interval=own["interval"],
        fastcache_haproxy_check="",
        fastcache_haproxy_servers=[
            {"name": one.name, "address": f"unix@{one.unix}" if one.unix else str(one.endpoint)}
            for one in proxies
        ],
    )
