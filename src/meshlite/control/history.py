"""The last ten minutes, second by second: what each service and edge did, how calls ended, how breakers moved.

It is told by the sampling of rates, so that requests pay nothing for it; what it keeps is bounded by its two rings.
"""

import time
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, NamedTuple

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from meshlite.control.base import MESH, routes, unknown
from meshlite.control.rates import Rate
from meshlite.control.text import reply
from meshlite.events import BreakerMoved
from meshlite.wire.messages import Text, query

SECONDS = 600
MOVES = 500
Outcomes = Mapping[str, Mapping[str, int]]


class Move(Struct, frozen=True):
    """A breaker's move, and its Unix time."""

    at: float
    caller: str
    callee: str
    key: str
    old: str
    new: str
    reason: str


class Series(Struct, frozen=True):
    """Of one service or edge: a value for each of `times`, null where there was no request.

    `outcomes` are an edge's calls by how they ended, for those outcomes that there were.
    """

    rate: list[float]
    error_rate: list[float]
    refused_rate: list[float]
    p50_ms: list[float | None]
    p99_ms: list[float | None]
    outcomes: dict[str, list[int]] | UnsetType = UNSET


class HistoryView(Struct, frozen=True):
    """The seconds that there were, as Unix times of their ends, and the breakers' moves; the oldest first."""

    times: list[float]
    series: dict[str, Series]
    moves: list[Move]


class HistoryQuery(Struct, frozen=True):
    """One service, or one edge as "caller→callee"; all of them where none is named."""

    name: Text | None = None
    seconds: Annotated[int, Meta(ge=1, le=SECONDS, description="how many, up to now")] = SECONDS


class _Second(NamedTuple):
    at: float
    rates: Mapping[str, Rate]
    outcomes: Outcomes


class History:
    """What was, in rings of a fixed length."""

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque(maxlen=SECONDS)
        self._total: Outcomes = {}
        self._moves: deque[Move] = deque(maxlen=MOVES)

    def hear(self, fact: Any) -> None:
        """A sink for breakers' moves."""
        assert isinstance(fact, BreakerMoved)
        self._moves.append(Move(_now(), fact.caller, fact.callee, fact.key, fact.old, fact.new, fact.reason))

    def tell(self, rates: Mapping[str, Rate], total: Outcomes) -> Outcomes:
        """Keep what the last second brought: its rates, and of the calls' outcomes so far those that are new."""
        found = {name: _more(self._total.get(name, {}), counts) for name, counts in total.items()}
        new = {name: counts for name, counts in found.items() if counts}
        self._total = total
        self._seconds.append(_Second(_now(), rates, new))
        return new

    def recent(self, name: str, total: Outcomes, seconds: int = 10) -> dict[str, int]:
        """How the calls of an edge ended in the last `seconds`, and since then: `total` is how they have so far."""
        found = _more(self._total.get(name, {}), total.get(name, {}))
        for second in islice(reversed(self._seconds), seconds):
            for outcome, count in second.outcomes.get(name, {}).items():
                found[outcome] = found.get(outcome, 0) + count
        return found

    def view(self, name: str | None, seconds: int) -> HistoryView:
        """The last `seconds` of `name`, or of all."""
        chosen = list(self._seconds)[-seconds:]
        begin = _now() - seconds - 1
        moves = [move for move in self._moves if move.at >= begin and name in (None, f"{move.caller}→{move.callee}")]
        names = {each: None for second in chosen for each in second.rates} if name is None else [name]
        return HistoryView([second.at for second in chosen], {each: _series(chosen, each) for each in names}, moves)


HISTORY = web.AppKey("history", History)


def _now() -> float:
    return round(time.time(), 3)


def _more(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {outcome: new for outcome, count in after.items() if (new := count - before.get(outcome, 0))}


def _series(seconds: list[_Second], name: str) -> Series:
    nothing = Rate()
    rates = [second.rates.get(name, nothing) for second in seconds]
    ended = [second.outcomes.get(name, {}) for second in seconds]
    kinds = {kind: None for each in ended for kind in each}
    return Series(
        rate=[rate.rate for rate in rates],
        error_rate=[rate.error_rate for rate in rates],
        refused_rate=[rate.refused_rate for rate in rates],
        p50_ms=[rate.p50_ms for rate in rates],
        p99_ms=[rate.p99_ms for rate in rates],
        outcomes={kind: [each.get(kind, 0) for each in ended] for kind in kinds} if "→" in name else UNSET,
    )


@routes.add(
    "GET",
    "/api/history",
    "The last ten minutes, second by second",
    {200: HistoryView},
    query=HistoryQuery,
    problems=("invalid-fields", "not-found"),
)
async def get_history(request: web.Request) -> web.Response:
    asked = query(request, HistoryQuery)
    mesh = request.app[MESH]
    known = [*mesh.services, *(edge.name for edge in mesh.edges.values()), "control"]
    if asked.name is not None and asked.name not in known:
        raise unknown("service or edge", asked.name, known)
    return reply(request.app[HISTORY].view(asked.name, asked.seconds))
