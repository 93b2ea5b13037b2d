"""What a fault's table says, whether it makes sense, and what then happens to which request.

`decide` is pure: what match number k of a fault does depends on the mesh's seed, the fault's name and k alone (or, with
`draw = "request-id"`, on the request's id in place of k). So one seed gives one sequence, on every run and machine.
"""

import hashlib
import math
from bisect import bisect
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import accumulate
from statistics import NormalDist
from typing import Annotated, Any, Literal, NamedTuple, get_args

from msgspec import Meta, Struct
from msgspec.structs import fields

Kind = Literal["delay", "error", "reset", "hang", "truncate", "throttle", "corrupt", "unready", "block"]
Step = Literal["ok", "delay", "error", "reset", "hang", "truncate", "throttle", "corrupt", "block"]
Positive = Annotated[float, Meta(gt=0, le=86_400)]
Whole = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Service = Annotated[str, Meta(extra_json_schema={"enum": ["users", "orders", "inventory"]})]
Caller = Annotated[str, Meta(extra_json_schema={"enum": ["users", "orders", "inventory", "external"]})]
Status = Annotated[int, Meta(ge=400, le=599)]
Statuses = Annotated[
    dict[str, Annotated[float, Meta(gt=0, le=1_000_000_000)]],
    Meta(extra_json_schema={"minProperties": 1, "propertyNames": {"pattern": "^[45][0-9][0-9]$"}}),
]
Pattern = Annotated[str, Meta(max_length=200)]
"""A shell pattern. What Python makes of it can take time that grows with the square of its length."""
Patterns = Annotated[
    dict[str, Pattern], Meta(extra_json_schema={"propertyNames": {"pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"}})
]
Headers = Annotated[
    dict[str, str], Meta(extra_json_schema={"propertyNames": {"pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"}})
]

KINDS: tuple[str, ...] = get_args(Kind)
OWN: Mapping[str, frozenset[str]] = {
    "delay": frozenset({"seconds", "jitter", "distribution"}),
    "error": frozenset({"status", "statuses", "body", "response_headers"}),
    "throttle": frozenset({"bytes_per_second"}),
    "block": frozenset({"seconds"}),
}
"""The keys that belong to certain kinds; all others belong to every kind."""
STATUS = 503
"""What an error answers where nothing is said."""
LONGEST_BLOCK = 60.0
_OF_UNREADY = frozenset({"service", "kind", "enabled", "duration"})
_LONGEST = 86_400.0


class FaultRule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """`[faults.NAME]`. Patterns are shell patterns; durations are in seconds."""

    service: Service
    kind: Kind
    enabled: bool = False
    phase: Literal["request", "response"] | None = None
    # which requests: all of these together
    caller: Caller | None = None
    route: Pattern | None = None
    method: Pattern | None = None
    headers: Patterns = {}
    probability: Annotated[float, Meta(ge=0, le=1)] = 1.0
    # which of those, in the order they arrive
    after: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    every: Whole = 1
    times: Whole | None = None
    script: Annotated[list[Step], Meta(min_length=1, max_length=10_000)] | None = None
    repeat: bool = False
    draw: Literal["arrival", "request-id"] = "arrival"
    # how far it may go
    max_active: Whole | None = None
    duration: Positive | None = None
    # what it does
    seconds: Positive | None = None
    jitter: Positive | None = None
    distribution: Literal["uniform", "normal", "lognormal", "pareto"] = "uniform"
    status: Status | None = None
    statuses: Statuses | None = None
    body: str | None = None
    response_headers: Headers = {}
    bytes_per_second: Whole | None = None

    @property
    def kinds(self) -> frozenset[str]:
        """Every kind of harm that it can do."""
        return frozenset({self.kind, *(self.script or ())}) - {"ok"}

    def late(self, kind: str) -> bool:
        """Whether harm of this kind comes after the handler has done its work; where nothing is said, a throttle's."""
        return (self.phase or ("response" if kind == "throttle" else "request")) == "response"

    def concerns(self, caller: str, method: str, route: str, path: str, headers: Mapping[str, str]) -> bool:
        """Whether a request is among those that it picks, before any draw."""
        if self.caller is not None and self.caller != caller:
            return False
        if self.route is not None and not (fnmatchcase(route, self.route) or fnmatchcase(path, self.route)):
            return False
        if self.method is not None and not fnmatchcase(method, self.method.upper()):
            return False
        return all(name in headers and fnmatchcase(headers[name], wanted) for name, wanted in self.headers.items())


class Effect(NamedTuple):
    """What befalls one request: a kind, and what was drawn for it (0 where the kind has no such thing)."""

    kind: str
    seconds: float
    status: int


def decide(rule: FaultRule, seed: int, name: str, number: int, request_id: str = "") -> Effect | None:
    """What match number `number` (from 0) of the fault `name` brings; None where it goes by unharmed."""
    kind: str = rule.kind
    if rule.draw == "arrival":
        nth, turn = divmod(number - rule.after, rule.every)
        if number < rule.after or turn != rule.every - 1 or (rule.times is not None and nth >= rule.times):
            return None
        if rule.script is not None:
            place = nth % len(rule.script) if rule.repeat else nth
            kind = rule.script[place] if place < len(rule.script) else "ok"
    chance, roll = _rolls(f"{seed}:{name}:{number if rule.draw == 'arrival' else request_id}")
    if kind == "ok" or chance >= rule.probability:
        return None
    match kind:
        case "delay":
            return Effect(kind, _delay(rule, roll), 0)
        case "block":
            return Effect(kind, rule.seconds or 0.0, 0)
        case "error":
            return Effect(kind, 0.0, _status(rule, roll))
    return Effect(kind, 0.0, 0)


def _rolls(key: str) -> tuple[float, float]:
    """Two numbers from 0 up to 1, for one `key` always the same."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8]) / 2**64, int.from_bytes(digest[8:]) / 2**64


def _status(rule: FaultRule, roll: float) -> int:
    if rule.statuses is None:
        return rule.status or STATUS
    weights = list(accumulate(rule.statuses.values()))
    return int(list(rule.statuses)[bisect(weights, roll * weights[-1], hi=len(weights) - 1)])


def _delay(rule: FaultRule, roll: float) -> float:
    """Seconds: from `seconds - jitter` to `seconds + jitter` evenly, or as the distribution's name says.

    normal: mean `seconds`, deviation `jitter`; lognormal: the same mean and deviation, always above 0, a long tail;
    pareto: never below `seconds`, on average `jitter` more, a heavy tail. Below 0 counts as 0, above a day as a day; to
    the microsecond.
    """
    seconds, jitter = rule.seconds or 0.0, rule.jitter
    if jitter is None:
        return seconds
    roll = min(max(roll, 1e-12), 1 - 1e-12)
    normal = NormalDist().inv_cdf(roll)
    match rule.distribution:
        case "uniform":
            drawn = seconds + jitter * (2 * roll - 1)
        case "normal":
            drawn = seconds + jitter * normal
        case "lognormal":
            variance = math.log1p(min(jitter / seconds, 1e9) ** 2)
            drawn = seconds * math.exp(math.sqrt(variance) * normal - variance / 2)
        case "pareto":
            drawn = seconds * (1 - roll) ** (-1 / (1 + seconds / jitter))
    return round(min(max(drawn, 0.0), _LONGEST), 6)


def contradictions(rule: FaultRule) -> Iterator[tuple[str, str]]:
    """What in a rule makes no sense together: the key, and what is wrong with it."""
    given = {field.name for field in fields(rule) if getattr(rule, field.name) != field.default}
    given -= {"headers", "response_headers"} - {key for key in ("headers", "response_headers") if getattr(rule, key)}
    for key in sorted(given):
        owners = [kind for kind, keys in OWN.items() if key in keys]
        if owners and not rule.kinds.intersection(owners):
            yield key, f"belongs to {' and '.join(owners)}; this fault is of kind {', '.join(sorted(rule.kinds))}"
        elif rule.kind == "unready" and key not in _OF_UNREADY:
            yield key, "has no meaning for unready: it picks no requests, the service's readiness fails"
    yield from _missing(rule)
    yield from _sequence(rule)
    if rule.jitter is None and rule.distribution != "uniform":
        yield "jitter", f"missing: {rule.distribution} is a distribution around seconds"
    if "block" in rule.kinds and (rule.seconds or 0.0) > LONGEST_BLOCK:
        yield "seconds", f"expected at most {LONGEST_BLOCK:g} for block: nothing can end it, got {rule.seconds!r}"


def _missing(rule: FaultRule) -> Iterator[tuple[str, str]]:
    for kind in ("delay", "block"):
        if kind in rule.kinds and rule.seconds is None:
            yield "seconds", f"missing: a {kind} needs it"
            break
    if "throttle" in rule.kinds and rule.bytes_per_second is None:
        yield "bytes_per_second", "missing: a throttle needs it"
    if rule.status is not None and rule.statuses is not None:
        yield "statuses", "takes the place of status: give one of them"
    if rule.statuses is not None:
        if not rule.statuses:
            yield "statuses", "expected at least one status with its weight, such as {503 = 3, 500 = 1}"
        for status in rule.statuses:
            if not (len(status) == 3 and status.isascii() and status.isdigit() and 400 <= int(status) <= 599):
                yield f"statuses.{status}", "expected a status from 400 to 599"


def _sequence(rule: FaultRule) -> Iterator[tuple[str, str]]:
    if rule.repeat and rule.script is None:
        yield "repeat", "needs a script"
    if rule.script is not None and rule.kind not in rule.script:
        yield "script", f"never comes to the fault's own kind, {rule.kind}: have it there, or change the kind"
    if rule.draw == "request-id":
        for key, usual in (("after", 0), ("every", 1), ("times", None), ("script", None)):
            if getattr(rule, key) != usual:
                yield key, "goes by arrival, and draw = 'request-id' does not: give one of them"
    for key in ("headers", "response_headers"):
        for name, value in getattr(rule, key).items():
            if not _TOKEN.issuperset(name) or not name or not all(char.isprintable() for char in value):
                yield f"{key}.{name}", "expected a header's name and a printable value"
    for name in rule.response_headers:
        if name.lower() in _NOT_A_FAULTS:
            yield f"response_headers.{name}", "is not a fault's to say: every answer has its own"


_NOT_A_FAULTS = frozenset({"connection", "content-length", "transfer-encoding", "meshlite-fault", "x-request-id"})
_TOKEN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~")


def without_kind(table: Mapping[str, Any]) -> dict[str, Any]:
    """A fault's table without its kind and what belongs to certain kinds only: what is left when the kind changes."""
    owned = frozenset().union(*OWN.values())
    return {key: value for key, value in table.items() if key != "kind" and key not in owned}
