"""One node as a service manager runs it: its signals, its messages, its exit codes."""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import redis

from fastcache import config
from fastcache.client import probe
from fastcache.model import Endpoint
from tests.cluster.embedded import PROGRAM, free_ports


class Service:
    """A node and the socket on which a service manager would hear it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.endpoint = Endpoint("127.0.0.1", free_ports(1))
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(directory / "notify"))
        self.manager.settimeout(30)
        self.process: subprocess.Popen[str] | None = None

    def start(self, **settings: str) -> subprocess.Popen[str]:
        file = self.directory / "node.toml"
        lines = [f"port = {self.endpoint.port}", 'bind = "127.0.0.1"', f'dir = "{self.directory}"']
        lines += [f'{name.replace("_", "-")} = "{value}"' for name, value in settings.items()]
        file.write_text("\n".join(lines))
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(self.directory / "notify"),
            "WATCHDOG_USEC": "600000",
        }
        self.process = subprocess.Popen(
            [PROGRAM, "node", "--config", file],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        return self.process

    def heard(self, wanted: str) -> str:
        """The next message that holds `wanted`."""
        while wanted not in (message := self.manager.recv(4096).decode()):
            pass
        return message


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.manager.close()
    if service.process:
        service.process.kill()
        service.process.wait()


def test_a_node_says_when_it_is_ready_feeds_the_watchdog_and_says_when_it_stops(service: Service) -> None:
    node = service.start()
    service.heard("READY=1")
    assert probe.answers(service.endpoint, timeout=5)
    service.heard("STATUS=serving: ")
    for _ in range(3):
        service.heard("WATCHDOG=1")
    node.send_signal(signal.SIGTERM)
    service.heard("STOPPING=1")
    assert node.wait(30) == 0


def test_a_node_keeps_the_process_id_it_was_started_with(service: Service) -> None:
    node = service.start(log_format="json")
    service.heard("READY=1")
    node.terminate()
    lines = [json.loads(line) for line in node.communicate(timeout=30)[0].splitlines()]
    serving = next(line for line in lines if line["event"] == "serving")
    assert serving["pid"] == node.pid
    assert lines[-1]["event"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_to_stop_stop_it_in_order(service: Service, number: signal.Signals) -> None:
    node = service.start()
    service.heard("READY=1")
    node.send_signal(number)
    assert node.wait(30) == 0


def test_the_signal_reserved_for_later_does_no_harm(service: Service) -> None:
    node = service.start()
    service.heard("READY=1")
    node.send_signal(signal.SIGHUP)
    service.heard("WATCHDOG=1")
    assert node.poll() is None


def test_a_node_whose_core_stands_still_is_not_reported_alive(service: Service) -> None:
    node = service.start()
    service.heard("READY=1")
    service.heard("WATCHDOG=1")
    # Freeze the thread of the core alone, as a dead loop would: only ptrace could do that to a
    # thread, so freeze the process and see that silence is what the manager hears.
    os.kill(node.pid, signal.SIGSTOP)
    service.manager.settimeout(0.1)
    with pytest.raises(TimeoutError):
        while True:
            service.manager.recv(4096)
    service.manager.settimeout(1.5)
    with pytest.raises(TimeoutError):
        service.manager.recv(4096)
    os.kill(node.pid, signal.SIGCONT)


def test_shutdown_by_command_ends_the_process_with_success(service: Service) -> None:
    node = service.start()
    service.heard("READY=1")
    with socket.create_connection((service.endpoint.host, service.endpoint.port), timeout=10) as client:
        client.sendall(b"SHUTDOWN NOSAVE\r\n")
        assert client.recv(100) == b""
    assert node.wait(30) == 0


def test_a_taken_port_is_exit_code_1_and_a_line_that_names_it(service: Service) -> None:
    with socket.create_server((service.endpoint.host, service.endpoint.port)):
        node = service.start()
        assert node.wait(30) == 1
    said = node.communicate()[0]
    assert "cannot start" in said
    assert str(service.endpoint.port) in said


def test_a_bad_file_is_exit_code_78(service: Service) -> None:
    node = service.start(maxmemory_policy="sometimes")
    assert node.wait(30) == 78
    assert "maxmemory-policy" in node.communicate()[0]


def test_check_config_judges_without_starting(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("port = 7001\n")
    good = subprocess.run(
        [PROGRAM, "node", "--config", file, "--check-config"], capture_output=True, text=True
    )
    assert (good.returncode, good.stdout) == (0, f"{file} is good: node-7001, 1 settings\n")
    file.write_text("prot = 7001\n")
    bad = subprocess.run(
        [PROGRAM, "node", "--config", file, "--check-config"], capture_output=True, text=True
    )
    assert bad.returncode == 78
    assert "did you mean 'port'?" in bad.stderr


def test_a_client_that_waits_at_the_stop_is_answered_first(service: Service) -> None:
    node = service.start()
    service.heard("READY=1")
    with socket.create_connection((service.endpoint.host, service.endpoint.port), timeout=10) as client:
        client.sendall(b"PING\r\n" * 100)
        node.terminate()
        received = b""
        while piece := client.recv(4096):
            received += piece
    assert received == b"+PONG\r\n" * 100
    assert node.wait(30) == 0


def test_config_rewrite_writes_the_file_the_node_was_started_with(service: Service) -> None:
    service.start(maxmemory="1mb")
    service.heard("READY=1")
    assert probe.ask(service.endpoint, "CONFIG SET maxmemory 2mb", timeout=10) == b"+OK\r\n"
    assert probe.ask(service.endpoint, "CONFIG REWRITE", timeout=10) == b"+OK\r\n"
    settings = dict(config.load_node(service.directory / "node.toml").settings)
    assert settings["maxmemory"] == str(2 << 20)
    assert settings["port"] == str(service.endpoint.port)


def test_users_stand_in_the_configuration_or_in_a_file(service: Service, tmp_path: Path) -> None:
    node = service.start(user="ann on >pw ~a* +get +set", requirepass="secret")
    service.heard("READY=1")

    def client(**login: str) -> redis.Redis:
        return redis.Redis(port=service.endpoint.port, decode_responses=True, **login)

    ann = client(username="ann", password="pw")
    assert ann.set("a1", "x")
    assert ann.get("a1") == "x"
    with pytest.raises(redis.exceptions.NoPermissionError):
        ann.get("b")
    operator = client(password="secret")
    operator.acl_setuser("bob", enabled=True, passwords=["+pb"], commands=["+ping"])
    assert operator.config_rewrite()
    node.send_signal(signal.SIGTERM)
    node.wait(30)
    text = (tmp_path / "node.toml").read_text()
    assert "bob on #" in text
    assert "pw" not in text.split("user = ")[1]

    file = tmp_path / "users.acl"
    file.write_text("user default on nopass ~* &* +@all\nuser cat on >pc +@read ~*\n")
    again = service.start(aclfile=str(file))
    service.heard("READY=1")
    assert client().acl_users() == ["cat", "default"]
    client().acl_setuser("dan", enabled=True, nopass=True)
    assert client().acl_save()
    assert "user dan on nopass" in file.read_text()
    file.write_text("user cat on >pc +nosuch\n")
    with pytest.raises(redis.exceptions.ResponseError, match=r"users\.acl:1: Unknown command"):
        client().acl_load()
    assert client(username="cat", password="pc").get("x") is None
    again.send_signal(signal.SIGTERM)
    again.wait(30)


def test_a_node_that_is_stopped_asks_again_for_a_copy_to_take_over_and_serves_meanwhile(
    service: Service,
) -> None:
    """A stand-in for the health service has no copy to offer twice, and then one."""
    asked: list[bool] = []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def do_POST(self) -> None:
            assert self.path == "/leaving"
            assert self.rfile.read(int(self.headers["Content-Length"])) == b'{"node": "one"}'
            asked.append(probe.answers(service.endpoint, timeout=5))
            self.send_response(200 if len(asked) > 2 else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as health:
        threading.Thread(target=health.serve_forever, daemon=True).start()
        node = service.start(node_id="one", health=f"http://127.0.0.1:{health.server_port}")
        service.heard("READY=1")
        node.send_signal(signal.SIGTERM)
        said, _ = node.communicate(timeout=60)
        health.shutdown()
    assert node.returncode == 0
    assert asked == [True, True, True], "it was asked thrice and served until then"
    assert "handed over" in said
