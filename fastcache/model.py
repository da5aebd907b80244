"""The words of the system as values: endpoints and health. Frozen, without behaviour that reaches outside."""

from dataclasses import dataclass
from enum import StrEnum

# Keys are spread over so many slots, in every Redis Cluster and here.
SLOTS = 16384


class Health(StrEnum):
    """What is known of a process."""

    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a process can be reached."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
