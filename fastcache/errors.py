"""What can go wrong, in words for the person at the terminal, with the exit code each means.

Raised anywhere, shown in one place (fastcache/cli): a message that says what is wrong, a hint that says
what to do next, and never a stack trace.
"""

OK = 0
FAILED = 1
USAGE = 2
DEGRADED = 3
BAD_CONFIGURATION = 78  # EX_CONFIG of sysexits.h: the service manager does not restart on it


class FastCacheError(Exception):
    """Something failed in a way we foresaw."""

    exit_code = FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FastCacheError):
    """The request makes no sense as it was put."""

    exit_code = USAGE


class ConfigurationError(FastCacheError):
    """A configuration file that must not be used."""

    exit_code = BAD_CONFIGURATION
