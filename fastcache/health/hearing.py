"""Ask the leader, as one of its followers, to say when there is a newer topology.

What the topology is stands in the store, and is read there: the leader's word only says that it is time to
look. Without it a follower would look four times within a lease, and everybody who asks that follower would
send requests to the old main of a slot for as long.
"""

import asyncio
import re
import ssl
from urllib.parse import urlsplit

#: For so long a question waits for news at the leader; then it is asked again.
WAIT_SECONDS = 20
#: Connecting, and an answer that is due.
ANSWER_SECONDS = 5
LONGEST_HEAD = 16384
EPOCH = re.compile(rb"\r\nx-fastcache-epoch: *(\d{1,15})\r\n", re.IGNORECASE)


async def newer_at(leader: str, epoch: int, tls: ssl.SSLContext | None) -> int:
    """The epoch that the leader has, as soon as it is past ours, or after a while.

    OSError (TimeoutError too) when it cannot be asked, ValueError when that is no answer.
    """
    url = urlsplit(leader)
    context = tls if url.scheme == "https" else None
    async with asyncio.timeout(WAIT_SECONDS + ANSWER_SECONDS):
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(
                url.hostname, url.port, ssl=context, limit=LONGEST_HEAD
            )
        try:
            asked = f"GET /topology?after={epoch}&timeout={WAIT_SECONDS} HTTP/1.1"
            writer.write(f"{asked}\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ValueError(f"{leader} gives no answer: {error}") from None
        finally:
            writer.transport.abort()
    found = EPOCH.search(head)
    if not found:
        raise ValueError(f"{leader} tells no epoch: {head[:60]!r}")
    return int(found[1])
