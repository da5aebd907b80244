"""The cluster's authority and the certificates of its hosts, as the toolkit keeps them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastcache.health.store.etcd import FAULTS, Credentials, EtcdStore
from tests.cluster.embedded import free_ports, until

from .conftest import PROGRAMS, PROJECT
from .test_inventories import load

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


def test_the_canary_asks_nodes_that_want_to_know_who_asks(certificates: Path, tmp_path: Path) -> None:
    canary = load("roles/fastcache/library/fastcache_canary.py")
    port = free_ports(1)
    files = {"ca": "ca.crt", "certificate": "here.crt", "key": "here.key"}
    tls = {name: str(certificates / file) for name, file in files.items()}
    (tmp_path / "node.toml").write_text(
        f'port = 0\ntls-port = {port}\ndir = "{tmp_path}"\ntls-cert-file = "{tls["certificate"]}"\n'
        f'tls-key-file = "{tls["key"]}"\ntls-ca-cert-file = "{tls["ca"]}"\n'
    )
    node = subprocess.Popen(
        [PROGRAMS / "fastcache", "node", "--config", tmp_path / "node.toml"], stdout=subprocess.DEVNULL
    )

    def answered() -> bool:
        try:
            canary.ask("127.0.0.1", port, 3, None, canary.trust(tls))
        except OSError:
            return False
        return True

    try:
        until(answered, "the canary lives")
        with pytest.raises((OSError, canary.RefusedError)):
            canary.ask("127.0.0.1", port, 1, None)
        strangers = tmp_path / "strangers"
        made(strangers, {"here": []})
        foreign = canary.trust({name: str(strangers / file) for name, file in files.items()})
        with pytest.raises(OSError, match="certificate"):
            canary.ask("127.0.0.1", port, 1, None, foreign)
    finally:
        node.terminate()
        node.wait(20)
