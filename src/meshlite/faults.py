"""Faults that a service is told to have: which requests they hit, and what then happens to them.

`fires` is pure: whether match number k of a fault fires depends on the mesh's seed, the fault's name and k alone, so
one seed gives one sequence of faults, on every run and every machine. `Faults` is what one service is armed with.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from aiohttp import web

from meshlite.config import DelayFault, ErrorFault, FaultRule
from meshlite.propagation import Inbound
from meshlite.wire.problems import Problem

HEADER = "meshlite-fault"


def fires(seed: int, name: str, match: int, probability: float) -> bool:
    """Whether match number `match` (from 0) of the fault `name` fires."""
    if probability >= 1:
        return True
    digest = hashlib.blake2b(f"{seed}:{name}:{match}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 < probability


@dataclass(slots=True)
class _Armed:
    name: str
    rule: FaultRule
    matches: int = 0
    sleepers: set["asyncio.Future[None]"] = field(default_factory=set)

    def concerns(self, caller: str, route: str, path: str) -> bool:
        rule = self.rule
        if rule.caller is not None and rule.caller != caller:
            return False
        return rule.route is None or fnmatchcase(route, rule.route) or fnmatchcase(path, rule.route)


class Faults:
    """What one service is armed with; `armed` is empty most of the time, and then a request pays one look at it."""

    def __init__(self, service: str, seed: int) -> None:
        self._service = service
        self._seed = seed
        self.armed: list[_Armed] = []

    def arm(self, rules: Mapping[str, FaultRule]) -> None:
        """Take up this service's enabled `rules`; what is unchanged goes on, what is gone wakes its sleepers."""
        wanted = {name: rule for name, rule in rules.items() if rule.enabled and rule.service == self._service}
        kept = {fault.name: fault for fault in self.armed if wanted.get(fault.name) == fault.rule}
        for fault in self.armed:
            if fault.name not in kept:
                for sleeper in fault.sleepers:
                    _wake(sleeper)
        self.armed = [kept.get(name) or _Armed(name, rule) for name, rule in wanted.items()]

    def hits(self, caller: str, route: str, path: str) -> list[_Armed]:
        """The faults that strike this request, in the order of their names in the config."""
        struck = []
        for fault in self.armed:
            if fault.concerns(caller, route, path):
                match, fault.matches = fault.matches, fault.matches + 1
                if fires(self._seed, fault.name, match, fault.rule.probability):
                    struck.append(fault)
        return struck


async def strike(
    hits: Sequence[_Armed],
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    request: web.Request,
    inbound: Inbound,
) -> web.StreamResponse:
    """Answer `request` by `handler`, with the faults before or after it that `hits` name; note those that acted."""
    for fault in hits:
        if fault.rule.phase == "request" and (answer := await _act(fault, inbound)) is not None:
            return answer
    refusal: Exception | None = None
    try:
        response = await handler(request)
    except Exception as error:  # a refusal is an answer too, and can be late or lost like any other
        refusal = error
    for fault in hits:
        if fault.rule.phase == "response" and (answer := await _act(fault, inbound)) is not None:
            return answer
    if refusal is not None:
        raise refusal
    return response


async def _act(fault: _Armed, inbound: Inbound) -> web.Response | None:
    inbound.fault = fault.name if inbound.fault is None else f"{inbound.fault},{fault.name}"
    match fault.rule:
        case DelayFault(seconds=seconds):
            await _sleep(fault, seconds)
            return None
        case ErrorFault(status=status):
            return Problem("injected-fault", f"the fault {fault.name} answers {status}", status=status).response()


async def _sleep(fault: _Armed, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    sleeper = loop.create_future()
    fault.sleepers.add(sleeper)
    timer = loop.call_later(seconds, _wake, sleeper)
    try:
        await sleeper
    finally:
        timer.cancel()
        fault.sleepers.discard(sleeper)


def _wake(sleeper: "asyncio.Future[None]") -> None:
    if not sleeper.done():
        sleeper.set_result(None)
