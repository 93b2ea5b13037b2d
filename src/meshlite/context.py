"""What a service is given when it is mounted, and all that it knows of the world."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from meshlite.resilience.edge import Edge


@dataclass(frozen=True, slots=True)
class Context:
    """A service's `name`, its `settings` (its table in the config) and its `data` folder (None: keep nothing).

    A peer is a client for one other service, with the policies of that edge in it. `state` tells "starting", "running"
    or "draining"; `clock` is monotonic, in seconds; `grace()` is how many of them a stop has left, none where the
    service is killed. `committed` is to be told of each commit: how many writes, and how many seconds.
    """

    name: str
    settings: Any
    data: Path | None
    peers: Mapping[str, Edge]
    log: FilteringBoundLogger
    clock: Callable[[], float]
    state: Callable[[], str]
    grace: Callable[[], float]
    committed: Callable[[int, float], None]
    version: str

    @property
    def database(self) -> Path | str:
        """Where this service's database is."""
        return ":memory:" if self.data is None else self.data / f"{self.name}.db"
