"""The asynchronous client: the same routing as the blocking one, on asyncio."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands import AsyncCoreCommands
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from fastcache.client.blocking import (
    LOST,
    MOST_ATTEMPTS,
    RETRY_PAUSE_SECONDS,
    encoder,
    flags_from,
    grouped,
    redirected,
)
from fastcache.client.discovery import Member, Source, Watcher, connection_options, introduced_asynchronously
from fastcache.client.keys import PAIRS, READS, SUMMED, Word, keys_of, name_of
from fastcache.client.routing import NoRouteError, Router, Server, View, surely_not_run
from fastcache.errors import UsageError
from fastcache.model import Endpoint, Health


class AsyncFastCache(AsyncCoreCommands):
    """A client of the whole fleet for asyncio: `async with AsyncFastCache(url) as cache`. See FastCache."""

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
        self.cache_file = Path(cache_file) if cache_file else None
        self.clients: dict[tuple[str, Endpoint], redis.asyncio.Redis] = {}
        self.watcher: Watcher | None = None
        self.connecting = asyncio.Lock()

    # --- life ---------------------------------------------------------------------------------------

    async def connect(self) -> "AsyncFastCache":
        """Learn the topology; the first command does it otherwise."""
        async with self.connecting:
            if self.watcher is None:
                self.watcher = await asyncio.to_thread(Watcher, self.source, self.router, self.cache_file)
        return self

    async def __aenter__(self) -> "AsyncFastCache":
        return await self.connect()

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections and stop listening for topologies."""
        if self.watcher:
            self.watcher.stop()
        clients, self.clients = list(self.clients.values()), {}
        for client in clients:
            await client.aclose()

    def listening(self) -> Watcher:
        """Who keeps the topology new."""
        if self.watcher is None:
            raise UsageError("not connected yet", "begin with 'async with' or 'await client.connect()'")
        return self.watcher

    @property
    def view(self) -> View:
        """The topology in force."""
        return self.listening().view

    def health(self) -> dict[str, Health]:
        """Every known server, as the topology and our own commands have seen it."""
        servers = (*self.view.nodes.values(), *self.view.proxies)
        return {one.id: self.router.own.health(one) for one in servers}

    def get_encoder(self) -> Any:
        """What redis-py's commands ask for."""
        return encoder(self.options)

    def client_of(self, one: Server) -> redis.asyncio.Redis:
        """The redis-py client of a server, with its own pool of connections."""
        key = (one.id, one.endpoint)
        if key not in self.clients:
            options = connection_options(one, self.source, introduced_asynchronously)
            options |= {"retry": Retry(NoBackoff(), 0)} | self.options
            self.clients[key] = redis.asyncio.Redis(**options)
        return self.clients[key]

    # --- commands -----------------------------------------------------------------------------------

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        """Send a command where it belongs; elsewhere when that is safe."""
        if self.watcher is None:
            await self.connect()
        try:
            return await self.attempt(words, options)
        except NoRouteError:
            parts = self.router.by_node(self.view, words)
            if parts and len(parts) > 1 and not self.view.proxies:
                return await self.split(words, parts)
            raise

    async def attempt(self, words: Sequence[Word], options: dict[str, Any]) -> Any:
        """Try servers until one has answered."""
        watcher = self.listening()
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
                result = await self.client_of(one).execute_command(*words, **options)
            except AskError as error:  # MOVED is one, too
                last, moved = error, redirected(error)
                if isinstance(error, MovedError):
                    watcher.refresh()
                    continue
                return await self.ask(moved, words, options)
            except (TryAgainError, ClusterDownError) as error:
                last = error
                watcher.refresh()
                await asyncio.sleep(RETRY_PAUSE_SECONDS)
            except LOST as error:
                last = error
                self.router.own.failed(one.id)
                watcher.refresh()
                tried.add(one.id)
                if not (surely_not_run(error) or name_of(words) in READS):
                    raise  # It may have run: only the caller knows whether twice is harmful.
            else:
                self.router.own.answered(one.id)
                return result
        raise last or NoRouteError("no server can be reached")

    async def ask(self, one: Server, words: Sequence[Word], options: dict[str, Any]) -> Any:
        """A slot on its way: the next owner answers when it is asked explicitly."""
        async with self.client_of(one).pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")
            pipe.execute_command(*words, **options)
            return (await pipe.execute())[-1]

    async def split(self, words: Sequence[Word], parts: dict[str, list[int]]) -> Any:
        """Without a proxy: MGET, MSET, DEL and their like, all parts at once, merged in order."""
        name, keys = name_of(words), keys_of(words)
        if not keys:
            raise NoRouteError("a command without keys cannot be split")
        groups = list(parts.values())
        if name == "MGET" or name in SUMMED:
            commands = [[name, *(words[1 + place] for place in places)] for places in groups]
            replies = await asyncio.gather(*(self.attempt(command, {}) for command in commands))
            if name in SUMMED:
                return sum(replies)
            found: list[Any] = [None] * len(keys)
            for places, values in zip(groups, replies, strict=True):
                for place, value in zip(places, values, strict=True):
                    found[place] = value
            return found
        if name in PAIRS and name != "MSETNX":
            pairs = [[word for p in places for word in words[1 + 2 * p : 3 + 2 * p]] for places in groups]
            await asyncio.gather(*(self.attempt([name, *some], {}) for some in pairs))
            return True
        raise NoRouteError("CROSSSLOT the keys live on several nodes, and no proxy is known")

    # --- what needs one server ----------------------------------------------------------------------

    def server_for(self, key: str | bytes | None = None) -> redis.asyncio.Redis:
        """A plain redis-py client: of the node that owns `key`, or of a proxy (pub/sub, MONITOR, locks)."""
        return self.client_of(self.router.choose(self.view, ["PING"] if key is None else ["GET", key]))

    def pubsub(self, **options: Any) -> Any:
        """Publish and subscribe through a proxy: messages are fleet-wide."""
        return self.server_for().pubsub(**options)

    def pipeline(self, transaction: bool = False) -> "AsyncPipeline":
        """Commands gathered and sent together, all nodes at once. A transaction needs keys of one node."""
        return AsyncPipeline(self, transaction)


class AsyncPipeline(AsyncCoreCommands):
    """Gathers commands; `await execute()` sends them to all nodes at once and returns replies in order."""

    _event_dispatcher: Any = None  # redis-py's commands declare it; a pipeline has no events of its own

    def __init__(self, client: AsyncFastCache, transaction: bool) -> None:
        self.client = client
        self.transaction = transaction
        self.commands: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    async def __aenter__(self) -> "AsyncPipeline":
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.commands.clear()

    def __len__(self) -> int:
        return len(self.commands)

    def get_encoder(self) -> Any:
        return self.client.get_encoder()

    def execute_command(self, *words: Any, **options: Any) -> "AsyncPipeline":
        """Remember a command."""
        self.commands.append((words, options))
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send everything; errors stand in the place of their replies unless they are to be raised."""
        await self.client.connect()
        commands, self.commands = self.commands, []
        if not commands:
            return []
        replies: list[Any] = [None] * len(commands)

        async def one_group(one: Server, places: list[int]) -> None:
            answers = await self.send(one, [commands[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                words, options = commands[place]
                # A command that was sent to the wrong node did not run: it alone goes again.
                if isinstance(answer, AskError) and not self.transaction:
                    answer = await self.again(words, options)  # noqa: PLW2901
                replies[place] = answer

        groups = grouped(self.client.router, self.client.view, commands, self.transaction)
        await asyncio.gather(*(one_group(one, places) for one, places in groups))
        if raise_on_error and (error := next((r for r in replies if isinstance(r, Exception)), None)):
            raise error
        return replies

    async def send(
        self, one: Server, commands: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]
    ) -> list[Any]:
        """One group to one server."""
        pipe = self.client.client_of(one).pipeline(transaction=self.transaction)
        for words, options in commands:
            pipe.execute_command(*words, **options)
        try:
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        except LOST as error:
            self.client.router.own.failed(one.id)
            self.client.listening().refresh()
            if surely_not_run(error) and not self.transaction:
                return [await self.again(words, options) for words, options in commands]
            return [error] * len(commands)
        self.client.router.own.answered(one.id)
        return answers

    async def again(self, words: Sequence[Word], options: dict[str, Any]) -> Any:
        """One command by itself; its error is its reply."""
        try:
            return await self.client.execute_command(*words, **options)
        except redis.RedisError as error:
            return error
