"""A playbook writes itself down in the record of a real health service."""

from pathlib import Path

import yaml

from fastcache.client.health import call
from tests.cluster.health_processes import HealthProcess

from .conftest import run

KEY = "a key for the tests"


def test_who_did_what_is_in_the_clusters_record(tmp_path: Path) -> None:
    service = HealthProcess(tmp_path, **{"admin-key": KEY}).start()
    inventory = tmp_path / "hosts.yml"
    here = {"h1": {"ansible_connection": "local", "ansible_host": "127.0.0.1", "ansible_become": False}}
    settings = {
        "fastcache_cluster": "test", "fastcache_admin_key": KEY,
        "fastcache_health_port": int(service.url.rpartition(":")[2]),
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }  # fmt: skip
    groups = {"nodes": {"hosts": here}, "health": {"hosts": {"h1": None}}}
    inventory.write_text(yaml.safe_dump({"all": {"vars": settings, "children": groups}}))
    try:
        words = ("-e", '{"did": "upgrade", "did_more": {"release": "2.0"}}', "playbooks/write_down.yml")
        run("ansible-playbook", "-i", inventory, *words)
        (entry,) = call(service.url, "GET", "/audit")
        assert (entry["task"], entry["event"]) == ("upgrade", "done")
        assert entry["fields"] == {"hosts": "1", "release": "2.0"}
        assert "@" in entry["owner"]
    finally:
        service.kill()
