"""The cluster's authority and the certificates of its hosts, as the toolkit keeps them."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import pytest

from fastcache.health.store.etcd import FAULTS, Credentials, EtcdStore
from tests.cluster.embedded import free_ports, until

from .conftest import PROGRAMS, PROJECT, load

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
MODULE = PROJECT / "roles" / "fastcache" / "library" / "fastcache_certificates.py"
HOSTS = {"h1": ["198.18.0.11", "198.18.0.10"], "h2": ["198.18.0.12"]}


def made(directory: Path, hosts: dict[str, list[str]] = HOSTS, **more: Any) -> list[str]:
    """Run the module; the names of what it made."""
    arguments = {"directory": str(directory), "cluster": "test", "hosts": hosts, **more}
    done = subprocess.run(
        [sys.executable, MODULE],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)
    assert not told.get("failed"), told
    assert told["changed"] == bool(told["made"])
    names: list[str] = told["made"]
    return names


def said(file: Path, *words: str) -> str:
    return subprocess.run(
        ["openssl", "x509", "-in", file, "-noout", *words], capture_output=True, text=True, check=True
    ).stdout


def test_a_second_run_makes_nothing_and_others_only_what_is_lacking(tmp_path: Path) -> None:
    assert made(tmp_path, _ansible_check_mode=True) == ["ca", "h1", "h2"]
    assert not list(tmp_path.iterdir()), "a plan makes nothing"
    assert made(tmp_path) == ["ca", "h1", "h2"]
    assert made(tmp_path) == []
    assert made(tmp_path, {**HOSTS, "h3": ["198.18.0.13"]}) == ["h3"]
    moved = {**HOSTS, "h2": ["198.18.0.22"]}
    assert made(tmp_path, moved) == ["h2"], "its address is another"
    assert made(tmp_path, moved, before=400) == ["h1", "h2"], "they end too soon"
    before = (tmp_path / "h1.crt").read_text()
    assert made(tmp_path, moved, renew=True) == ["h1", "h2"]
    assert (tmp_path / "h1.crt").read_text() != before


def test_a_certificate_names_the_addresses_and_keys_are_nobody_elses(tmp_path: Path) -> None:
    made(tmp_path)
    named = said(tmp_path / "h1.crt", "-ext", "subjectAltName")
    assert all(address in named for address in ("198.18.0.11", "198.18.0.10", "127.0.0.1", "DNS:h1"))
    subprocess.run(["openssl", "verify", "-CAfile", tmp_path / "ca.crt", tmp_path / "h1.crt"], check=True)
    assert {file.stat().st_mode & 0o077 for file in tmp_path.iterdir()} == {0}


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Those of one host at 127.0.0.1."""
    made(tmp_path / "tls", {"here": []})
    return tmp_path / "tls"


def test_a_health_service_finds_its_etcd_that_lets_in_only_members(
    certificates: Path, tmp_path: Path
) -> None:
    if not shutil.which("etcd"):
        pytest.skip("etcd is not installed")
    first = free_ports(2)
    client, peer = (f"https://127.0.0.1:{port}" for port in (first, first + 1))
    # The very settings that templates/etcd.env.j2 writes.
    settings = {
        f"ETCD_{side}{name}": str(value)
        for side in ("", "PEER_")
        for name, value in {
            "CERT_FILE": certificates / "here.crt",
            "KEY_FILE": certificates / "here.key",
            "TRUSTED_CA_FILE": certificates / "ca.crt",
            "CLIENT_CERT_AUTH": "true",
        }.items()
    }
    etcd = subprocess.Popen(
        ["etcd", "--name", "one", "--data-dir", tmp_path / "etcd", "--initial-cluster", f"one={peer}",
         "--listen-client-urls", client, "--advertise-client-urls", client,
         "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
        env={**os.environ, **settings}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    files = Credentials(*(str(certificates / name) for name in ("ca.crt", "here.crt", "here.key")))
    try:
        store = EtcdStore(client, "test", "https://here:8080", 5, files)
        until(lambda: leads(store), "etcd lets a member in")
        stranger = EtcdStore(client, "test", "https://there:8080", 5, files._replace(certificate="", key=""))
        with pytest.raises(FAULTS):
            stranger.campaign()
    finally:
        etcd.terminate()
        etcd.wait(20)


def leads(store: EtcdStore) -> bool:
    try:
        return store.campaign()
    except FAULTS:
        return False


FILES = {"ca": "ca.crt", "certificate": "here.crt", "key": "here.key"}
canary = load("roles/fastcache/library/fastcache_canary.py")


def under_tls(certificates: Path) -> dict[str, str]:
    """The files as roles name them."""
    return {name: str(certificates / file) for name, file in FILES.items()}


@contextmanager
def node(directory: Path, port: int, tls: dict[str, str], clients: str) -> Iterator[None]:
    """A node that speaks TLS alone, and what it asks of clients."""
    (directory / "node.toml").write_text(
        f'port = 0\ntls-port = {port}\ndir = "{directory}"\ntls-cert-file = "{tls["certificate"]}"\n'
        f'tls-key-file = "{tls["key"]}"\ntls-ca-cert-file = "{tls["ca"]}"\ntls-auth-clients = "{clients}"\n'
    )
    process = subprocess.Popen(
        [PROGRAMS / "fastcache", "node", "--config", directory / "node.toml"], stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def lives(port: int, tls: dict[str, str]) -> bool:
    """Whether the canary does."""
    try:
        canary.ask("127.0.0.1", port, 3, None, canary.trust(tls))
    except (OSError, canary.RefusedError):
        return False
    return True


def test_haproxy_finds_servers_that_speak_tls_and_passes_it_on(certificates: Path, tmp_path: Path) -> None:
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin")
    if not program:
        pytest.skip("haproxy is not installed")
    first, tls = free_ports(3), under_tls(certificates)
    loader = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PROJECT / "templates"), trim_blocks=True, keep_trailing_newline=True
    )
    (tmp_path / "haproxy.cfg").write_text(
        loader.get_template("haproxy.cfg.j2").render(
            fastcache_haproxy_socket=str(tmp_path / "admin.sock"),
            fastcache_haproxy_maxconn=100,
            fastcache_haproxy_binds=[f"127.0.0.1:{first + 1}"],
            fastcache_haproxy_stats_binds=[f"127.0.0.1:{first + 2}"],
            fastcache_haproxy_interval="1s",
            fastcache_haproxy_check=f" check-ssl verify required ca-file {tls['ca']}",
            fastcache_haproxy_servers=[{"name": "one", "address": f"127.0.0.1:{first}"}],
        )
    )
    balancer = subprocess.Popen([program, "-db", "-f", tmp_path / "haproxy.cfg"], stdout=subprocess.DEVNULL)
    try:
        with node(tmp_path, first, tls, "no"):
            until(lambda: lives(first + 1, tls), "the canary lives behind HAProxy")
            # Its checks have found the server well, or nobody would be let through for long.
            with urllib.request.urlopen(f"http://127.0.0.1:{first + 2}/serving", timeout=5) as reply:
                assert reply.status == 200
            time.sleep(2)
            assert lives(first + 1, tls)
    finally:
        balancer.terminate()
        balancer.wait(20)


def test_the_canary_asks_nodes_that_want_to_know_who_asks(certificates: Path, tmp_path: Path) -> None:
    port, tls = free_ports(1), under_tls(certificates)
    with node(tmp_path, port, tls, "yes"):
        until(lambda: lives(port, tls), "the canary lives")
        with pytest.raises((OSError, canary.RefusedError)):
            canary.ask("127.0.0.1", port, 1, None)
        strangers = tmp_path / "strangers"
        made(strangers, {"here": []})
        with pytest.raises(OSError, match="certificate"):
            canary.ask("127.0.0.1", port, 1, None, canary.trust(under_tls(strangers)))
