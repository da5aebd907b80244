"""The files that a deployment writes are accepted by the programs that read them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import jinja2
import pytest

from .conftest import PROGRAMS, PROJECT, run

# What `systemd-analyze security` may find at most, in tenths: the lower, the less a broken service can do.
EXPOSURE = {
    "fastcache-node@.service": 12,
    "fastcache-proxy@.service": 12,
    "fastcache-health.service": 15,
    "haproxy.service": 20,
    "etcd.service": 15,
    "prometheus.service": 15,
    "prometheus-alertmanager.service": 15,
    "prometheus-node-exporter.service": 20,
    # It gives addresses to the host and speaks to other balancers below IP: it keeps that much of root.
    "keepalived.service": 35,
}

# What Debian's own units say that ours are laid over.
OF_DEBIAN = {
    "haproxy.service": "ExecStart=/usr/sbin/haproxy\n",
    "etcd.service": "User=etcd\nExecStart=/usr/bin/etcd\n",
    "prometheus.service": "User=prometheus\nExecStart=/usr/bin/prometheus\n",
    "prometheus-alertmanager.service": "User=prometheus\nExecStart=/usr/bin/prometheus-alertmanager\n",
    "prometheus-node-exporter.service": "User=prometheus\nExecStart=/usr/bin/prometheus-node-exporter\n",
    "keepalived.service": "ExecStart=/usr/sbin/keepalived\n",
}


def unit(rendered: Path, name: str, into: Path) -> Path:
    """A unit as systemd would read it: an instance of a template, or Debian's unit with our drop-in."""
    etc = next(rendered.glob(f"*/etc/systemd/system/{name}{'.d/*' if name in OF_DEBIAN else ''}"))
    target = into / name.replace("@.", "@7001.")
    own = OF_DEBIAN.get(name, "")
    target.write_text((own and f"[Service]\n{own}") + etc.read_text())
    return target


@pytest.mark.parametrize("name", EXPOSURE)
def test_a_service_is_locked_up_as_tightly_as_promised(rendered: Path, tmp_path: Path, name: str) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    file = unit(rendered, name, tmp_path)
    judged = run(
        "systemd-analyze",
        "security",
        "--offline=yes",
        f"--threshold={EXPOSURE[name]}",
        "--no-pager",
        file,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-400:] + judged.stderr
    assert not judged.stderr, "systemd does not understand all of it"


def test_haproxy_accepts_its_configuration(rendered: Path) -> None:
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin")
    if not program:
        pytest.skip("haproxy is not installed")
    files = list(rendered.glob("*/etc/haproxy/haproxy.cfg"))
    assert len(files) == 2
    for file in files:
        run(program, "-c", "-q", "-f", file)


def test_haproxy_template_renders_without_ansible(tmp_path: Path) -> None:
    """The embedded cluster renders the same template with plain Jinja."""
    loader = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PROJECT / "templates"),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = loader.get_template("haproxy.cfg.j2").render(
        fastcache_haproxy_socket=str(tmp_path / "admin.sock"),
        fastcache_haproxy_maxconn=1000,
        fastcache_haproxy_binds=["127.0.0.1:6380"],
        fastcache_haproxy_stats_binds=["127.0.0.1:8404"],
        fastcache_haproxy_interval="30s",
        fastcache_haproxy_check="",
        fastcache_haproxy_servers=[{"name": "proxy-6382", "address": f"unix@{tmp_path}/proxy.sock"}],
    )
    assert re.search(r"server proxy-6382 unix@\S+/proxy.sock", text)
    assert "inter 30s" in text


def test_nft_accepts_the_firewall(rendered: Path) -> None:
    file = next(rendered.glob("*/etc/fastcache/firewall.nft"))
    program = shutil.which("nft", path="/usr/sbin:/usr/bin")
    if not program:
        pytest.skip("nft is not installed")
    judged = subprocess.run([program, "--check", "--file", file], capture_output=True, text=True, check=False)
    if "Operation not permitted" in judged.stderr:
        pytest.skip("nft judges rules only for root")
    assert judged.returncode == 0, judged.stderr


@pytest.mark.parametrize("service", ["node", "proxy", "health"])
def test_a_daemon_accepts_its_settings(rendered: Path, service: str) -> None:
    fastcache = PROGRAMS / "fastcache"
    if not fastcache.exists() or run(fastcache, service, "--help", check=False).returncode:
        pytest.skip(f"this build has no `fastcache {service}`")
    files = list(rendered.glob(f"*/etc/fastcache/{service}*.toml"))
    assert files
    run(fastcache, service, "--check-config", "--config", files[0])


def test_peers_are_let_in_and_nobody_else(rendered: Path) -> None:
    rules = (rendered / "cache6/etc/fastcache/firewall.nft").read_text()
    assert "policy drop" in rules
    assert "192.0.2.11" in rules
    assert re.search(r"ip saddr @peers tcp dport { 7001, 7002, 9090, 9093, 9094, 9100 } accept", rules)
    assert "6380" not in rules, "cache6 runs no balancer"


def test_local_proxies_are_reached_by_their_sockets(rendered: Path) -> None:
    configuration = (rendered / "cache1/etc/haproxy/haproxy.cfg").read_text()
    assert "server proxy-cache1-6382 unix@/run/fastcache/proxy-6382.sock" in configuration
    assert "server proxy-cache4-6382 192.0.2.21:6382" in configuration


def test_one_switch_puts_all_of_a_host_under_tls(tmp_path: Path) -> None:
    run(
        "ansible-playbook", "-i", "inventories/production", "playbooks/render.yml",
        "--limit", "cache1:cache2",
        "-e", json.dumps({"fastcache_tls": True, "render_into": str(tmp_path)}),
    )  # fmt: skip
    etc = tmp_path / "cache2" / "etc"
    for service in ("node-7001", "proxy-6382", "health"):
        file = etc / f"fastcache/{service}.toml"
        assert "http://" not in file.read_text()
        assert "tls-cluster" in file.read_text()
        run(PROGRAMS / "fastcache", service.partition("-")[0], "--check-config", "--config", file)
    assert "port = 0" in (etc / "fastcache/node-7001.toml").read_text()
    etcd = (etc / "default/etcd").read_text()
    assert "http://" not in etcd
    assert "ETCD_PEER_CLIENT_CERT_AUTH=true" in etcd
    balancer = (tmp_path / "cache1/etc/haproxy/haproxy.cfg").read_text()
    assert "check-ssl verify required ca-file /etc/fastcache/tls/ca.crt" in balancer
    assert "unix@/run/fastcache" not in balancer, "Unix sockets speak no TLS, and clients do"
