"""The blocking client: redis-py's commands, each sent to the node that owns its key."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from redis.commands import CoreCommands
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from fastcache.client.discovery import Member, Source, Watcher, connect
from fastcache.client.keys import PAIRS, READS, SUMMED, Word, keys_of, name_of
from fastcache.client.routing import Flags, NoRouteError, Router, Server, View, surely_not_run
from fastcache.errors import UsageError
from fastcache.model import Endpoint, Health

# How often a command is sent elsewhere before its error is passed on.
MOST_ATTEMPTS = 6
RETRY_PAUSE_SECONDS = 0.05
LOST = (redis.ConnectionError, redis.TimeoutError)


def flags_from(options: dict[str, Any]) -> Flags:
    """Take our own flags out of the options for redis-py."""
    return Flags(**{name: options.pop(name) for name in Flags.__dataclass_fields__ if name in options})


class FastCache(CoreCommands):
    """A client of the whole fleet. Thread-safe; close it, or use it in a `with` block.

    `urls` are those of any proxies, nodes or health services; `nodes` is a static list instead or besides
    (id, host, port, optionally unix, rack, weight). Flags: direct, read_replicas, health_checks. What else is
    given goes to redis-py's clients, such as `decode_responses` or `socket_timeout`.
    """

    def __init__(
        self,
        *urls: str,
        nodes: Sequence[Member] = (),
        password: str | None = None,
        username: str | None = None,
        cache_file: str | Path | None = None,
        **options: Any,
    ) -> None:
        self.router = Router(flags_from(options))
        self.options = {"socket_timeout": 5.0, **options}
        self.source = Source(urls, nodes, password, username)
        self.clients: dict[tuple[str, Endpoint], redis.Redis] = {}
        self.lock = threading.Lock()
        self.watcher = Watcher(self.source, self.router, Path(cache_file) if cache_file else None)

    # --- life ---------------------------------------------------------------------------------------

    def __enter__(self) -> "FastCache":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and stop listening for topologies."""
        self.watcher.stop()
        with self.lock:
            for client in self.clients.values():
                client.close()
            self.clients.clear()

    @property
    def view(self) -> View:
        """The topology in force."""
        return self.watcher.view

    def health(self) -> dict[str, Health]:
        """Every known server, as the topology and our own commands have seen it."""
        servers = (*self.view.nodes.values(), *self.view.proxies)
        return {one.id: self.router.own.health(one) for one in servers}

    def get_encoder(self) -> Any:
        """What redis-py's commands ask for."""
        return encoder(self.options)

    def client_of(self, one: Server) -> "redis.Redis":
        """The redis-py client of a server, with its own pool of connections."""
        key = (one.id, one.endpoint)
        client = self.clients.get(key)
        if client is None:
            with self.lock:
                client = self.clients.setdefault(key, connect(one, self.source, **no_retry(), **self.options))
        return client

    # --- commands -----------------------------------------------------------------------------------

    def execute_command(self, *words: Any, **options: Any) -> Any:
        """Send a command where it belongs; elsewhere when that is safe."""
        try:
            return self.attempt(words, options)
        except NoRouteError:
            parts = self.router.by_node(self.view, words)
            if parts and len(parts) > 1 and not self.view.proxies:
                return self.split(words, parts)
            raise

    def attempt(self, words: Sequence[Word], options: dict[str, Any]) -> Any:
        """Try servers until one has answered."""
        tried: set[str] = set()
        moved: Server | None = None
        last: Exception | None = None
        for _ in range(MOST_ATTEMPTS):
            try:
                one = moved or self.router.choose(self.view, words, tried)
            except NoRouteError:
                if last is not None:
                    raise last from None
                raise
            moved = None
            try:
                result = self.client_of(one).execute_command(*words, **options)
            except AskError as error:  # MOVED is one, too
                last, moved = error, redirected(error)
                if isinstance(error, MovedError):
                    self.watcher.refresh()
                    continue
                return self.ask(moved, words, options)
            except (TryAgainError, ClusterDownError) as error:
                last = error
                self.watcher.refresh()
                time.sleep(RETRY_PAUSE_SECONDS)
            except LOST as error:
                last = error
                self.router.own.failed(one.id)
                self.watcher.refresh()
                tried.add(one.id)
                if not (surely_not_run(error) or name_of(words) in READS):
                    raise  # It may have run: only the caller knows whether twice is harmful.
            else:
                self.router.own.answered(one.id)
                return result
        raise last or NoRouteError("no server can be reached")

    def ask(self, one: Server, words: Sequence[Word], options: dict[str, Any]) -> Any:
        """A slot on its way: the next owner answers when it is asked explicitly."""
        with self.client_of(one).pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")
            pipe.execute_command(*words, **options)
            return pipe.execute()[-1]

    def split(self, words: Sequence[Word], parts: dict[str, list[int]]) -> Any:
        """Without a proxy: MGET, MSET, DEL and their like part by part, merged in order."""
        name, keys = name_of(words), keys_of(words)
        if not keys:
            raise NoRouteError("a command without keys cannot be split")
        if name == "MGET":
            found: list[Any] = [None] * len(keys)
            for places in parts.values():
                values = self.attempt(["MGET", *(words[1 + place] for place in places)], {})
                for place, value in zip(places, values, strict=True):
                    found[place] = value
            return found
        if name in SUMMED:
            return sum(self.attempt([name, *(words[1 + p] for p in places)], {}) for places in parts.values())
        if name in PAIRS and name != "MSETNX":
            for places in parts.values():
                pairs = [word for p in places for word in words[1 + 2 * p : 3 + 2 * p]]
                self.attempt([name, *pairs], {})
            return True
        raise NoRouteError("CROSSSLOT the keys live on several nodes, and no proxy is known")

    # --- what needs one server ----------------------------------------------------------------------

    def server_for(self, key: str | bytes | None = None) -> "redis.Redis":
        """A plain redis-py client: of the node that owns `key`, or of a proxy (pub/sub, MONITOR, locks)."""
        return self.client_of(self.router.choose(self.view, ["PING"] if key is None else ["GET", key]))

    def pubsub(self, **options: Any) -> Any:
        """Publish and subscribe through a proxy: messages are fleet-wide."""
        return self.server_for().pubsub(**options)

    def lock_on(self, name: str, **options: Any) -> Any:
        """redis-py's lock, on the node that owns its name."""
        return self.server_for(name).lock(name, **options)

    def pipeline(self, transaction: bool = False) -> "Pipeline":
        """Commands gathered and sent together, node by node. A transaction needs keys of one node."""
        return Pipeline(self, transaction)


def encoder(options: dict[str, Any]) -> Any:
    """redis-py's encoder for these options; its commands ask for one."""
    chosen = {
        name: options[name] for name in ("encoding", "encoding_errors", "decode_responses") if name in options
    }
    return redis.Redis(**chosen).get_encoder()


def no_retry() -> dict[str, Any]:
    """redis-py must not repeat a command: whether that is safe is decided here."""
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    return {"retry": Retry(NoBackoff(), 0)}


def redirected(error: AskError) -> Server:
    """The server that MOVED or ASK names."""
    endpoint = Endpoint(error.host, error.port)
    return Server(f"redirect {endpoint}", endpoint)


class Pipeline(CoreCommands):
    """Gathers commands; `execute` sends them grouped by node and returns their replies in order."""

    _event_dispatcher: Any = None  # redis-py's commands declare it; a pipeline has no events of its own

    def __init__(self, client: FastCache, transaction: bool) -> None:
        self.client = client
        self.transaction = transaction
        self.commands: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.commands.clear()

    def __len__(self) -> int:
        return len(self.commands)

    def get_encoder(self) -> Any:
        return self.client.get_encoder()

    def execute_command(self, *words: Any, **options: Any) -> "Pipeline":
        """Remember a command."""
        self.commands.append((words, options))
        return self

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send everything; errors stand in the place of their replies unless they are to be raised."""
        commands, self.commands = self.commands, []
        if not commands:
            return []
        replies: list[Any] = [None] * len(commands)
        for one, places in grouped(self.client.router, self.client.view, commands, self.transaction):
            answers = self.send(one, [commands[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                words, options = commands[place]
                # A command that was sent to the wrong node did not run: it alone goes again.
                if isinstance(answer, AskError) and not self.transaction:
                    answer = self.again(words, options)  # noqa: PLW2901
                replies[place] = answer
        if raise_on_error and (error := next((r for r in replies if isinstance(r, Exception)), None)):
            raise error
        return replies

    def send(self, one: Server, commands: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[Any]:
        """One group to one server."""
        pipe = self.client.client_of(one).pipeline(transaction=self.transaction)
        for words, options in commands:
            pipe.execute_command(*words, **options)
        try:
            answers: list[Any] = pipe.execute(raise_on_error=False)
        except LOST as error:
            self.client.router.own.failed(one.id)
            self.client.watcher.refresh()
            if surely_not_run(error) and not self.transaction:
                return [self.again(words, options) for words, options in commands]
            return [error] * len(commands)
        self.client.router.own.answered(one.id)
        return answers

    def again(self, words: Sequence[Word], options: dict[str, Any]) -> Any:
        """One command by itself; its error is its reply."""
        try:
            return self.client.execute_command(*words, **options)
        except redis.RedisError as error:
            return error


def grouped(
    router: Router,
    view: View,
    commands: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
    transaction: bool,
) -> list[tuple[Server, list[int]]]:
    """Commands by the server each goes to, in order within a server."""
    groups: dict[tuple[str, Endpoint], tuple[Server, list[int]]] = {}
    proxy: Server | None = None
    for place, (words, _) in enumerate(commands):
        one = router.choose(view, words)
        if one.kind == "proxy":
            one = proxy = proxy or one  # All through the same one: their order is kept.
        groups.setdefault((one.id, one.endpoint), (one, []))[1].append(place)
    if transaction and len(groups) > 1:
        if not view.proxies:
            raise UsageError(
                "a transaction whose keys live on several nodes",
                "give keys that belong together a common {tag}, or use transaction=False",
            )
        return [(proxy or router.choose(view, ["PING"]), list(range(len(commands))))]
    return list(groups.values())
