"""What a story is made of: who asks, what goes wrong, what the two runs differ in, what is claimed; and what was seen.

A scenario is a file with a `SCENARIO` in it; `slow.py` is the one to copy. Nothing here runs anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from meshlite.events import BreakerMoved, CallCompleted, Fact
from meshlite.load import MIX, Answer

PROMPT = 0.5
"""Seconds within which an answer is as it should be."""
DONE = ("ok", "degraded")


UNHURRIED = (
    *(f"edges.orders.{callee}.timeout=4" for callee in ("inventory", "users")),
    *(f"edges.orders.{callee}.attempt_timeout=1.5" for callee in ("inventory", "users")),
    "edges.users.orders.timeout=6",
    "edges.users.orders.attempt_timeout=5",
)
"""Timeouts for a story that is not about them, so that a busy machine does not make it one."""


class Phases(NamedTuple):
    """How long, in seconds, all is well, the trouble lasts, and what comes after it is looked at."""

    healthy: float
    trouble: float
    after: float

    @property
    def strikes(self) -> float:
        return self.healthy

    @property
    def ends(self) -> float:
        return self.healthy + self.trouble

    @property
    def total(self) -> float:
        return self.healthy + self.trouble + self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong, and what is said as it comes and goes: one or more of the three."""

    begins: str
    ends: str
    marks: tuple[str, str]
    """The two in a few words, for the picture."""
    fault: Mapping[str, Any] | None = None
    """A fault's table, as in the config."""
    kill: str | None = None
    """A service that is killed, and started again."""
    rush: float = 0.0
    """So many more requests a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Who asks: `rate` requests a second, in the proportions of `mix`; each gives up after `patience` seconds."""

    rate: float
    patience: float = 5.0
    mix: Mapping[str, int] = field(default_factory=lambda: MIX)


class Books(NamedTuple):
    """Orders and stock at the end, when nothing is under way any more."""

    confirmed: int
    """Pieces that confirmed orders hold."""
    reserved: int
    """Pieces that inventory has put aside."""
    unsettled: int
    """Orders that are neither confirmed nor cancelled nor rejected."""

    @property
    def agree(self) -> bool:
        return self.confirmed == self.reserved and not self.unsettled


@dataclass(slots=True, kw_only=True)
class Seen:
    """What one run gave. All times are seconds from its start."""

    phases: Phases
    answers: list[Answer] = field(default_factory=list)
    facts: list[tuple[float, Fact]] = field(default_factory=list)
    waiting: int = 0
    """Requests that had no answer yet when it ended."""
    books: Books | None = None
    lag: float = 0.0
    """How late the event loop was at the most: what else the machine had to do."""

    def between(self, start: float, end: float, *kinds: str) -> list[Answer]:
        """The answers to what was asked for then; of all kinds where none is named."""
        return [a for a in self.answers if start <= a.asked < end and (not kinds or a.kind in kinds)]

    def in_trouble(self, *kinds: str) -> list[Answer]:
        """The answers to what was asked for while the trouble lasted."""
        return self.between(self.phases.strikes, self.phases.ends, *kinds)

    def at_last(self, *kinds: str) -> list[Answer]:
        """The answers to what was asked for in the second half of the time after the trouble."""
        return self.between(self.phases.ends + self.phases.after / 2, self.phases.total, *kinds)

    def calls(self, caller: str, callee: str) -> list[CallCompleted]:
        """The calls over an edge that ended while the trouble lasted or later."""
        return [
            fact
            for at, fact in self.facts
            if isinstance(fact, CallCompleted)
            and at >= self.phases.strikes
            and (fact.caller, fact.callee) == (caller, callee)
        ]

    def moves(self, caller: str, callee: str) -> list[tuple[float, str]]:
        """When the edge's breaker moved, and to which state."""
        return [
            (at, fact.new)
            for at, fact in self.facts
            if isinstance(fact, BreakerMoved) and (fact.caller, fact.callee) == (caller, callee)
        ]

    def opened(self, caller: str, callee: str) -> float | None:
        """From the trouble's begin until the edge's breaker opened."""
        times = (at for at, state in self.moves(caller, callee) if state == "open" and at >= self.phases.strikes)
        found = next(times, None)
        return None if found is None else found - self.phases.strikes

    def whole_again(self, *kinds: str) -> float | None:
        """From the trouble's end until the last answer that was not whole, or was late; None where it never ended."""
        bad = [a for a in self.answers if (not kinds or a.kind in kinds) and (a.outcome != "ok" or a.seconds > PROMPT)]
        last = max((a.asked for a in bad), default=0.0) - self.phases.ends
        return None if self.waiting or last > 0.9 * self.phases.after else max(last, 0.0)


def quantile(answers: Sequence[Answer], share: float) -> float | None:
    """Seconds within which `share` of the answers came."""
    waits = sorted(answer.seconds for answer in answers)
    return waits[min(int(share * len(waits)), len(waits) - 1)] if waits else None


def share(answers: Sequence[Answer], *outcomes: str) -> float:
    """Of the answers, the part with one of these outcomes."""
    return sum(answer.outcome in outcomes for answer in answers) / len(answers) if answers else 0.0


Value = float | bool | None
Values = Mapping[str, Value]


def waited(part: float, *kinds: str) -> Callable[[Seen], Value]:
    """For a row: seconds within which that part of the answers came, of those asked for in the trouble."""
    return lambda seen: quantile(seen.in_trouble(*kinds), part)


def got(outcomes: Sequence[str], *kinds: str) -> Callable[[Seen], Value]:
    """For a row: the part with one of these outcomes, of those asked for in the trouble."""
    return lambda seen: share(seen.in_trouble(*kinds), *outcomes)


class Row(NamedTuple):
    """A line of the closing table: its key, its words, what it says of a run, and how that is written."""

    key: str
    words: str
    value: Callable[[Seen], Value]
    unit: str
    """"s", "%", "times", or "" for a number, yes or no."""


class Claim(NamedTuple):
    """A sentence, and whether it holds of the two runs' rows: without, with."""

    words: str
    holds: Callable[[Any, Any], bool]

    def held(self, without: Values, with_: Values) -> bool:
        """Whether it holds; where a value it speaks of was never seen (None), it does not."""
        try:
            return bool(self.holds(without, with_))
        except TypeError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A story. Both runs have `both`, one has `without` besides, the other `policy`: KEY=VALUE as for --set."""

    name: str
    title: str
    intro: str
    both: Sequence[str] = ()
    without: Sequence[str] = ()
    policy: Sequence[str] = ()
    says_without: str
    says_with: str
    explains: str
    """What the policy does, for somebody who never heard of it."""
    users: Users
    trouble: Trouble
    phases: Phases
    quick: Phases
    """The same, shorter, for tests."""
    watched: tuple[str, str] = ("orders", "inventory")
    """The edge whose breaker the picture shows."""
    slow: float = 0.1
    """Seconds from which the picture shows an answer as slow."""
    rows: Sequence[Row]
    claims: Sequence[Claim]
