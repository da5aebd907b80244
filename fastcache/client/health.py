"""Questions to a health service over HTTP, and what it answers, as values."""

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from fastcache.errors import FastCacheError, UsageError

SECONDS = 10.0
MOST_REDIRECTS = 3


def call(
    url: str, method: str, path: str, body: object = None, *, key: str = "", seconds: float = SECONDS
) -> Any:
    """The JSON that the service at `url` answers; a refusal is an error in its own words."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url}: the URL of a health service begins with http://")
    target = url.rstrip("/") + path
    for _ in range(MOST_REDIRECTS):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(target, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310
        if key:
            request.add_header("X-Admin-Key", key)
        try:
            with urllib.request.build_opener(Stay).open(request, timeout=seconds) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            # A follower names the leader; the library would turn the request into a GET.
            if error.code in {307, 308} and (elsewhere := error.headers.get("Location")):
                target = urllib.parse.urljoin(target, elsewhere)
                continue
            raise FastCacheError(f"{target}: {reason(error)}", hint(error.code)) from None
        except OSError as error:
            told = getattr(error, "reason", error)
            raise FastCacheError(f"{url} does not answer: {told}", "is the health service running?") from None
        except ValueError:
            raise FastCacheError(f"{target} does not answer as a health service does") from None
    raise FastCacheError(f"{url}: no health service leads at the moment", "try again in a few seconds")


class Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are followed here, with method and body."""

    def redirect_request(self, *_arguments: object, **_more: object) -> None:
        return None


def reason(error: urllib.error.HTTPError) -> str:
    """What the service says is wrong."""
    try:
        told = json.loads(error.read())
        return str(told["error"])
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}"


def hint(status: int) -> str:
    """What to do about it."""
    return {
        401: "give the file with the admin key: --key-file FILE",
        404: "is this service an older release?",
    }.get(status, "")
