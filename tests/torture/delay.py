"""A slow way to a port of this host: `python -m tests.torture.delay PORT MILLISECONDS`.

It prints the port on which it listens, and passes every byte on so much later, in both directions.
Connections that are led here end when it does.
"""

import asyncio
import sys
from contextlib import suppress

CHUNK = 64 * 1024


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Every chunk after its time, in order; the next is read meanwhile."""
    loop = asyncio.get_running_loop()
    due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1000)

    async def read() -> None:
        while data := await reader.read(CHUNK):
            await due.put((loop.time() + seconds, data))
        await due.put((loop.time() + seconds, b""))

    reading = asyncio.create_task(read())
    with suppress(OSError):
        while True:
            at, data = await due.get()
            await asyncio.sleep(max(0.0, at - loop.time()))
            if not data:
                break
            writer.write(data)
            await writer.drain()
    reading.cancel()
    writer.close()


async def serve(port: int, seconds: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pass_on(reader, back, seconds), pass_on(there, writer, seconds))

    server = await asyncio.start_server(connected, "0.0.0.0", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]) / 1000))
