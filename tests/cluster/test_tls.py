"""TLS as clients see it: redis-cli and redis-py at a node and a proxy, both sides' certificates, new ones."""

import contextlib
import errno
import json
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from fastcache.health.settings import toml
from fastcache.runbook.fleet import Fleet, Host, Member
from fastcache.runbook.hands import UnreachableError
from fastcache.runbook.rolling import pairs
from fastcache.runbook.snapshots import url_of
from fastcache.runbook.ssh import Conversation, OverSsh
from tests.cluster.embedded import PROGRAM, free_ports, until
from tests.cluster.nodes import Nodes

# What somebody hears of a connection that the other side has closed.
CLOSED = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN}

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


class Authority:
    """Signs certificates."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.directory, self.name = directory, name
        directory.mkdir(exist_ok=True)
        self.certificate = directory / f"{name}.crt"
        self.openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", directory / f"{name}.key", "-out", self.certificate,
        )  # fmt: skip

    def openssl(self, *words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, cwd=self.directory)

    def sign(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key."""
        crt, key, request = (self.directory / f"{name}.{end}" for end in ("crt", "key", "csr"))
        extensions = self.directory / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")
        self.openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request
        )
        self.openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey",
            self.directory / f"{self.name}.key", "-CAcreateserial", "-days", "2", "-extfile", extensions,
            "-out", crt,
        )  # fmt: skip
        return crt, key


class Server:
    """A node or a proxy with a port for TLS."""

    def __init__(self, kind: str, directory: Path, lines: list[str], **settings: object) -> None:
        self.port = free_ports(2)
        self.secure_port = self.port + 1
        file = directory / f"{kind}.toml"
        named = {"port": self.port, "tls-port": self.secure_port, **settings}
        lines += [f"{name} = {value!r}" for name, value in named.items() if isinstance(value, int)]
        lines += [f'{name} = "{value}"' for name, value in named.items() if not isinstance(value, int)]
        file.write_text("\n".join(lines) + "\n")
        self.process = subprocess.Popen(
            [PROGRAM, kind, "--config", file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.plain = redis.Redis(port=self.port)
        until(self.answers, f"the {kind} answers")

    def answers(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[0]
        try:
            return bool(self.plain.ping())
        except redis.RedisError:
            return False

    def client(self, authority: Authority, **options: Any) -> "redis.Redis":
        return redis.Redis(
            port=self.secure_port,
            host="127.0.0.1",
            ssl=True,
            ssl_ca_certs=str(authority.certificate),
            socket_timeout=30,
            **options,
        )

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=20)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def node(tmp_path: Path, authority: Authority) -> Iterator[Server]:
    crt, key = authority.sign("server")
    files = {"tls-cert-file": crt, "tls-key-file": key, "tls-auth-clients": "no"}
    server = Server("node", tmp_path, [f'dir = "{tmp_path}"'], **files)
    yield server
    server.stop()


def works(client: "redis.Redis") -> None:
    """Small and large values, pipelines, messages and waiting."""
    assert client.set("key", "value")
    assert client.get("key") == b"value"
    large = bytes(range(256)) * 8_000
    assert client.set("large", large)
    assert client.get("large") == large
    pipeline = client.pipeline(transaction=False)
    for number in range(20_000):
        pipeline.set(f"key:{number}", "v" * (number % 100)).get(f"key:{number}")
    replies = pipeline.execute()
    assert replies[1::2] == [b"v" * (number % 100) for number in range(20_000)]
    many = client.pipeline(transaction=False)
    for _ in range(8):
        many.get("large")
    assert many.execute() == [large] * 8
    listener = client.pubsub()
    listener.subscribe("channel")
    assert listener.get_message(timeout=10)
    client.publish("channel", large)
    message = listener.get_message(timeout=10)
    assert message is not None
    assert message["data"] == large
    listener.close()
    assert client.blpop(["nothing"], timeout=0.1) is None  # type: ignore[arg-type]


def test_stock_clients_speak_tls_to_a_node(node: Server, authority: Authority) -> None:
    works(node.client(authority))
    works(node.client(authority, protocol=3, ssl_min_version=ssl.TLSVersion.TLSv1_3))
    assert spoken(node, authority, ssl.TLSVersion.TLSv1_2) == ("TLSv1.2", b"+PONG\r\n")
    assert spoken(node, authority, ssl.TLSVersion.TLSv1_3) == ("TLSv1.3", b"+PONG\r\n")
    told = subprocess.run(
        ["redis-cli", "-p", str(node.secure_port), "--tls", "--cacert", authority.certificate, "GET", "key"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert told.stdout == "value\n", told.stderr
    with pytest.raises(redis.ConnectionError):
        redis.Redis(port=node.secure_port, ssl=True, ssl_ca_certs=None).ping()


def test_bytes_that_are_no_tls_close_the_connection_and_nothing_else(
    node: Server, authority: Authority
) -> None:
    client = node.client(authority)
    client.ping()
    for garbage in (
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01" + b"\xff" * 2000,
        b"\x00" * 50_000,
        b"\x17\x03\x03\x40\x00",
    ):
        with socket.create_connection(("127.0.0.1", node.secure_port), timeout=20) as connection:
            # Closed in order, or with a reset because of what was not read, at any moment: closed.
            try:
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except OSError as failure:
                if failure.errno not in CLOSED:
                    raise
    assert client.ping()
    assert node.client(authority).ping()


def test_clients_show_certificates_where_they_must(
    node: Server, authority: Authority, tmp_path: Path
) -> None:
    crt, key = authority.sign("client")
    stranger_crt, stranger_key = Authority(tmp_path / "stranger", "stranger").sign("client")
    ours = {"ssl_certfile": str(crt), "ssl_keyfile": str(key)}
    theirs = {"ssl_certfile": str(stranger_crt), "ssl_keyfile": str(stranger_key)}
    with pytest.raises(redis.ResponseError, match="tls-ca-cert-file must be set"):
        node.plain.config_set("tls-auth-clients", "yes")
    node.plain.config_set("tls-auth-clients", "yes", "tls-ca-cert-file", str(authority.certificate))
    assert node.client(authority, **ours).ping()
    for options in ({}, theirs):
        with pytest.raises(redis.ConnectionError):
            node.client(authority, **options).ping()
    node.plain.config_set("tls-auth-clients", "optional")
    assert node.client(authority, **ours).ping()
    assert node.client(authority).ping()
    with pytest.raises(redis.ConnectionError):
        node.client(authority, **theirs).ping()


def test_a_new_certificate_is_used_at_once_and_a_bad_one_never(
    node: Server, authority: Authority, tmp_path: Path
) -> None:
    before = node.client(authority)
    before.ping()
    shown = certificate_of(node)
    other = Authority(tmp_path / "other", "other")
    crt, key = other.sign("server")
    for bad, why in (
        (tmp_path / "none.crt", "No such file"),
        (key, "no certificate"),
        (crt, "consistent"),
    ):
        with pytest.raises(redis.ResponseError, match=why):
            node.plain.config_set("tls-cert-file", str(bad))
    assert certificate_of(node) == shown
    node.plain.config_set("tls-cert-file", str(crt), "tls-key-file", str(key))
    assert certificate_of(node) != shown
    assert node.client(other).ping()
    assert before.ping()  # Who is connected stays so.
    # The same paths with other contents, as renewal leaves them.
    second = other.sign("server")
    assert second == (crt, key)
    shown = certificate_of(node)
    node.plain.config_set("tls-cert-file", str(crt))
    assert certificate_of(node) != shown
    node.plain.config_set("tls-protocols", "TLSv1.3")
    with pytest.raises(ssl.SSLError):
        spoken(node, other, ssl.TLSVersion.TLSv1_2)


def spoken(server: Server, authority: Authority, version: ssl.TLSVersion) -> tuple[str | None, bytes]:
    """What a PING in just this version of TLS is answered."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", server.secure_port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(b"PING\r\n")
        return secure.version(), secure.recv(100)


def certificate_of(server: Server) -> str:
    return ssl.get_server_certificate(("127.0.0.1", server.secure_port), timeout=20)


def test_a_proxy_speaks_tls_too(node: Server, authority: Authority, tmp_path: Path) -> None:
    crt, key = authority.sign("proxy")
    files = {"tls-cert-file": crt, "tls-key-file": key, "tls-auth-clients": "no"}
    nodes = f'nodes = ["one=127.0.0.1:{node.port}"]'
    # A debug build on a busy machine may take long over many megabytes.
    files["node-timeout"] = "60000"
    proxy = Server("proxy", tmp_path, [nodes], **files)
    try:
        works(proxy.client(authority))
    finally:
        proxy.stop()


def test_a_proxy_speaks_tls_to_nodes_that_know_whom_they_let_in(authority: Authority, tmp_path: Path) -> None:
    crt, key = authority.sign("member")
    member = {"tls-cert-file": crt, "tls-key-file": key, "tls-ca-cert-file": authority.certificate}
    member["tls-cluster"] = "yes"
    # A node asks for certificates, as it does unless told otherwise: only members come in.
    node = Server("node", tmp_path, [], **member)
    nodes = f'nodes = ["one=127.0.0.1:{node.secure_port}"]'
    proxy = Server("proxy", tmp_path, [nodes], **{"node-timeout": "60000", **member})
    try:
        works(proxy.plain)
        # A renewed one begins its connections anew.
        proxy.process.send_signal(signal.SIGHUP)
        works(proxy.plain)
        peers = {row["addr"].rpartition(":")[0] for row in node.plain.client_list()}
        assert peers == {"127.0.0.1"}, "by TCP, not by a Unix socket"
    finally:
        proxy.stop()
        node.stop()


def test_a_proxy_trusts_only_nodes_that_its_authority_has_signed(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "other", "other")
    crt, key = stranger.sign("stranger")
    node = Server(
        "node", tmp_path, [], **{"tls-cert-file": crt, "tls-key-file": key, "tls-auth-clients": "no"}
    )
    crt, key = authority.sign("member")
    member = {"tls-cert-file": crt, "tls-key-file": key, "tls-ca-cert-file": authority.certificate}
    nodes = f'nodes = ["one=127.0.0.1:{node.secure_port}"]'
    proxy = Server("proxy", tmp_path, [nodes], **{"tls-cluster": "yes", "failover-wait": "0", **member})
    try:
        with pytest.raises(redis.RedisError, match=r"CLUSTERDOWN|does not answer|UNKNOWN|TRYAGAIN"):
            proxy.plain.set("key", "value")
        assert node.plain.dbsize() == 0
    finally:
        proxy.stop()
        node.stop()


def test_nodes_copy_to_one_another_under_tls(authority: Authority, tmp_path: Path) -> None:
    crt, key = authority.sign("member")
    nodes = Nodes(
        tmp_path, 2, tls_cluster="yes", tls_cert_file=str(crt), tls_key_file=str(key),
        tls_ca_cert_file=str(authority.certificate),
    )  # fmt: skip
    try:
        main, copy = nodes.client("a"), nodes.client("b")
        pipeline = main.pipeline(transaction=False)
        for number in range(2_000):
            pipeline.set(f"key:{number}", "v" * (number % 300))
        pipeline.set("large", bytes(range(256)) * 8_000)
        pipeline.execute()
        nodes.obey(nodes.topology({"main": "a", "replicas": [], "learners": ["b"]}))
        until(lambda: nodes.in_sync("a"), "the learner has everything")
        nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}))
        assert main.set("late", "value")
        until(lambda: nodes.in_sync("a"), "the replica has everything")
        copy.execute_command("READONLY")
        assert copy.get("late") == b"value"
        assert copy.get("large") == bytes(range(256)) * 8_000
        # New certificates are for new connections; the stream goes on, and a new one begins.
        main.config_set("tls-cert-file", str(crt))
        copy.config_set("tls-cert-file", str(crt))
        for row in main.client_list():
            if row["name"] == "replica-b":
                main.client_kill_filter(_id=row["id"])
        assert main.set("later", "value")
        until(lambda: nodes.in_sync("a"), "the replica has everything again")
        assert copy.get("later") == b"value"
    finally:
        nodes.end()


def test_a_whole_cluster_under_tls_and_its_health_service_takes_new_certificates(
    authority: Authority, tmp_path: Path
) -> None:
    crt, key = authority.sign("member")
    files = {
        "tls-cert-file": str(crt),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(authority.certificate),
    }
    at = free_ports(3)
    url = f"https://127.0.0.1:{at}"
    common = {**files, "port": 0, "health": [url]}
    settings: dict[str, dict[str, object]] = {
        "node": {**common, "tls-port": at + 1, "node-id": "one", "tls-cluster": "yes", "dir": str(tmp_path)},
        "proxy": {**common, "tls-port": at + 2, "tls-cluster": "yes", "tls-auth-clients": "no"},
        "health": {
            **files, "port": at, "dir": str(tmp_path / "health"), "profile": "fast", "tls-cluster": True,
            "timeout": 5,
        },
    }  # fmt: skip
    members = "".join(
        f'[[{kind}]]\nid = "{name}"\nhost = "127.0.0.1"\nport = {port}\n'
        for kind, name, port in (("nodes", "one", at + 1), ("proxies", "door", at + 2))
    )
    running = []
    try:
        for kind, wanted in settings.items():
            file = tmp_path / f"{kind}.toml"
            text = "".join(f"{name} = {toml(value)}\n" for name, value in wanted.items())
            file.write_text(text + (members if kind == "health" else ""))
            with (tmp_path / f"{kind}.log").open("wb") as log:
                running.append(
                    subprocess.Popen([PROGRAM, kind, "--config", file], stdout=log, stderr=subprocess.STDOUT)
                )

        def healthy(trusted: Authority) -> bool:
            context = ssl.create_default_context(cafile=str(trusted.certificate))
            try:
                with urllib.request.urlopen(f"{url}/health/summary", timeout=5, context=context) as reply:
                    told = json.load(reply)
            except OSError:
                return False
            return (told["healthyNodes"], told["healthyProxies"]) == (1, 1)

        until(lambda: healthy(authority), "the health service sees both, by https")
        client = redis.Redis(
            port=at + 2,
            host="127.0.0.1",
            ssl=True,
            ssl_ca_certs=str(authority.certificate),
            socket_timeout=30,
        )
        until(lambda: answered(client), "the proxy has its topology, by https")
        assert client.get("key") == b"value"
        the_runbook_speaks_it(files, authority, at)
        other = Authority(tmp_path / "other", "other")
        for old, new in zip((crt, key), other.sign("member"), strict=True):
            old.write_bytes(new.read_bytes())
        until(lambda: healthy(other), "the new certificate is in use")
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(20)


def the_runbook_speaks_it(files: dict[str, str], authority: Authority, at: int) -> None:
    """To the health service, to a node that asks for a certificate, to a proxy; and not to strangers."""
    names = {"ca": "tls-ca-cert-file", "certificate": "tls-cert-file", "key": "tls-key-file"}
    node, door = (
        Member("node", "one", "here", "127.0.0.1", at + 1),
        Member("proxy", "door", "here", "127.0.0.1", at + 2),
    )
    fleet = Fleet(
        "test", "fastcache", {"here": Host("here", "127.0.0.1", connection="local")}, (node,), (door,),
        (Member("health", "health", "here", "127.0.0.1", at),),
        tls={name: files[setting] for name, setting in names.items()},
    )  # fmt: skip
    hands = OverSsh(Path(), fleet)
    assert hands.http("GET", "/topology")["nodes"][0]["id"] == "one"
    with contextlib.closing(hands.wire(door, 20)) as wire:
        talk = Conversation("door", wire)
        large = bytes(range(256)) * 4_000
        assert talk.say("SET", "large", large) == b"OK"
        assert talk.say("GET", "large") == large
    with contextlib.closing(hands.wire(node, 20)) as wire:
        told = pairs(Conversation("one", wire).say("FASTCACHE", "SNAPSHOT"))
    command = f"{PROGRAM} restore {told['file']} --replace --to {url_of(fleet, door)}"
    done = subprocess.run(
        shlex.split(command), capture_output=True, text=True, timeout=60, cwd=at_home(files)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stranger = Authority(authority.directory / "stranger", "stranger")
    fleet.tls["ca"] = str(stranger.certificate)
    hands.forget_secrets()
    with pytest.raises(UnreachableError, match="certificate verify failed"):
        hands.wire(door, 20)


def at_home(files: dict[str, str]) -> Path:
    """Where the node keeps its snapshots: beside its certificates' directory."""
    return Path(files["tls-cert-file"]).parents[1]


def answered(client: "redis.Redis") -> bool:
    try:
        return bool(client.set("key", "value"))
    except redis.RedisError:
        return False


def test_a_node_without_a_good_certificate_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        f'port = 0\ntls-port = {free_ports(1)}\ntls-cert-file = "/nothing"\ntls-key-file = "/nothing"\n'
    )
    done = subprocess.run([PROGRAM, "node", "--config", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "tls-ca-cert-file must be set" in done.stdout + done.stderr
