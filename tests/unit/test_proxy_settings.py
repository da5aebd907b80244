"""A proxy's configuration: judged, printed, and made ready for the lean process."""

import json
from pathlib import Path

import pytest

from fastcache import _core
from fastcache.errors import ConfigurationError
from fastcache.proxy import run, settings


def judged(**table: object) -> settings.ProxyConfiguration:
    return settings.judged({name.replace("_", "-"): value for name, value in table.items()}, "p.toml", {})


def test_static_nodes_become_the_same_topology_whatever_their_order() -> None:
    nodes = ["n1=127.0.0.1:7001", "n2=127.0.0.1:7002", "10.0.0.3:7003"]
    topologies = [
        _core.Topology(dict(judged(nodes=order).for_the_process())["proxy.topology"].encode())
        for order in (nodes, nodes[::-1])
    ]
    assert topologies[0].digest == topologies[1].digest
    assert topologies[0].node_ids == ["10.0.0.3:7003", "n1", "n2"]
    assert (topologies[0].epoch, topologies[0].slots_down()) == (0, 0)


def test_the_process_gets_host_and_port_of_the_health_services() -> None:
    told = dict(judged(health=["http://a:8080", "http://10.0.0.1"], port=6382).for_the_process())
    assert told["proxy.health"] == "a:8080 10.0.0.1:80"
    assert told["port"] == "6382"
    assert told["proxy.registration"] == ""


def test_a_proxy_that_is_told_its_address_registers_itself() -> None:
    proxy = judged(health="http://a:8080", port=6382, advertise="10.0.0.9")
    body = json.loads(dict(proxy.for_the_process())["proxy.registration"])
    assert body == {"id": "proxy-6382", "host": "10.0.0.9", "port": 6382, "unix": ""}


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"helth": "http://a:1"}, "no setting 'helth'"),
        ({"maxmemory": "1mb", "health": "http://a:1"}, "no setting 'maxmemory'"),
        ({"health": "ftp://a:1"}, "must be http://HOST:PORT"),
        ({"nodes": ["n1"]}, "must be NAME=HOST:PORT"),
        ({"nodes": ["n1=a:1", "n1=b:1"]}, "n1"),
        ({"port": 99999, "health": "http://a:1"}, "port"),
        ({}, "would know no nodes"),
    ],
)
def test_what_is_wrong_is_said(table: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        settings.judged(table, "p.toml", {})


def test_the_printed_configuration_is_one_that_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('port = 6382\nrequirepass = "s3cret"\nhealth = ["http://a:8080"]\n')
    printed = run.printed(file)
    assert "s3cret" not in printed
    file.write_text(printed)
    assert settings.load(file).own["health"] == ("http://a:8080",)
    assert "is good: proxy-6382" in run.check(file)
    assert "topology-file" in run.printed(None)


def test_its_secrets_come_from_the_service_managers_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirepass").write_text("sesame\n")
    (tmp_path / "admin-key").write_text("open\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    file = tmp_path / "proxy.toml"
    file.write_text('health = ["http://127.0.0.1:8080"]\n')
    told = dict(settings.load(file).for_the_process())
    assert (told["requirepass"], told["proxy.admin-key"]) == ("sesame", "open")
