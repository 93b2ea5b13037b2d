"""Faults that a service is told to have: which requests they strike, in which order, and how they end.

What a request is to suffer is decided in `rules`; how that looks on the wire is in `harm`. `Faults` is what one service
is armed with.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from aiohttp import web

from meshlite.propagation import FAULT, Inbound
from meshlite.rules import Effect, FaultRule, decide

HEADER = FAULT
DELAY_HEADER = "x-envoy-fault-delay-request"
ABORT_HEADER = "x-envoy-fault-abort-request"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Fault:
    """One armed fault: its rule, how often it matched and struck, and the requests that it holds."""

    def __init__(self, name: str, rule: FaultRule) -> None:
        self.name = name
        self.rule = rule
        self.matches = 0
        self.hits = 0
        self.active = 0
        """Requests that suffer from it at the moment."""
        self._held: set[asyncio.Future[None]] = set()
        self._gone = False

    def struck(self, seed: int, request_id: str) -> Effect | None:
        """What its next match brings. Beyond `max_active` a match is counted, and goes by unharmed."""
        number, self.matches = self.matches, self.matches + 1
        effect = decide(self.rule, seed, self.name, number, request_id)
        if effect is None or (self.rule.max_active is not None and self.active >= self.rule.max_active):
            return None
        return effect

    @property
    def gone(self) -> bool:
        """Whether it was switched off, removed or changed: it does no more harm, not even to whom it had picked."""
        return self._gone

    async def hold(self, seconds: float | None) -> None:
        """Hold a request for so many seconds (None: for ever), but no longer than until the fault is cleared."""
        if self._gone:
            return
        loop = asyncio.get_running_loop()
        held = loop.create_future()
        self._held.add(held)
        timer = None if seconds is None else loop.call_later(seconds, _wake, held)
        try:
            await held
        finally:
            if timer is not None:
                timer.cancel()
            self._held.discard(held)

    def clear(self) -> None:
        """It is gone: whoever is held goes on."""
        self._gone = True
        for held in self._held:
            _wake(held)


def _wake(held: "asyncio.Future[None]") -> None:
    if not held.done():
        held.set_result(None)


class Hit(NamedTuple):
    """A fault that strikes a request, and what it brings."""

    fault: Fault
    effect: Effect


class Faults:
    """What one service is armed with; `watching` is False most of the time, and then a request pays one look at it."""

    def __init__(self, service: str, seed: int, *, headers: bool = False) -> None:
        """`headers`: whether a request may bring its own faults, by Envoy's headers."""
        self._service = service
        self._seed = seed
        self._of_headers: dict[str, Fault] = {}
        if headers:
            delay, abort = FaultRule(service=service, kind="delay"), FaultRule(service=service, kind="error")
            self._of_headers = {DELAY_HEADER: Fault(DELAY_HEADER, delay), ABORT_HEADER: Fault(ABORT_HEADER, abort)}
        self.armed: list[Fault] = []
        self.unready: str | None = None
        """The name of the fault that makes the service's readiness fail."""
        self.watching = headers
        self._past: dict[str, Fault] = {}

    def arm(self, rules: Mapping[str, FaultRule]) -> None:
        """Take up this service's enabled `rules`; what is unchanged goes on, what is gone lets go of its requests."""
        wanted = {name: rule for name, rule in rules.items() if rule.enabled and rule.service == self._service}
        kept = {fault.name: fault for fault in self.armed if wanted.get(fault.name) == fault.rule}
        for fault in self.armed:
            if fault.name not in kept:
                fault.clear()
                self._past[fault.name] = fault
        self._past = {name: fault for name, fault in self._past.items() if name in rules and name not in wanted}
        self.unready = next((name for name, rule in wanted.items() if rule.kind == "unready"), None)
        self.armed = [kept.get(name) or Fault(name, rule) for name, rule in wanted.items() if rule.kind != "unready"]
        self.watching = bool(self.armed or self._of_headers)

    def counted(self, name: str) -> Fault | None:
        """The fault of that name, as it is or as it was when it was last on; None where it never was."""
        return next((fault for fault in self.armed if fault.name == name), self._past.get(name))

    def hits(self, request: web.Request, inbound: Inbound, route: str) -> list[Hit]:
        """The faults that strike this request, in the order of their names in the config."""
        struck = []
        for fault in self.armed:
            if fault.rule.concerns(inbound.span.caller, request.method, route, request.path, request.headers):
                effect = fault.struck(self._seed, inbound.span.request_id)
                if effect is not None:
                    struck.append(Hit(fault, effect))
        for name, fault in self._of_headers.items():
            value = request.headers.get(name)
            if value is not None and (effect := _asked_for(name, value)) is not None:
                struck.append(Hit(fault, effect))
        return struck


def _asked_for(header: str, value: str) -> Effect | None:
    """What one of Envoy's headers asks for: milliseconds, or an error's status. What is malformed counts as absent."""
    if not (value.isascii() and value.isdigit() and len(value) < 9):
        return None
    if header == DELAY_HEADER:
        return Effect("delay", int(value) / 1000, 0)
    return Effect("error", 0.0, int(value)) if 400 <= int(value) <= 599 else None


Harm = Callable[[Hit, web.Request, web.StreamResponse | None], Awaitable[web.StreamResponse | None]]


async def strike(
    hits: Sequence[Hit], handler: Handler, request: web.Request, inbound: Inbound, harm: Harm
) -> web.StreamResponse:
    """Answer `request` by `handler`, with the faults before or after it that `hits` name; note those that acted.

    `harm` makes a fault act: it returns the answer that takes the handler's place, or None where it only took time.
    """
    for hit in hits:
        hit.fault.active += 1
    try:
        for hit in hits:
            if not (hit.fault.gone or hit.fault.rule.late(hit.effect.kind)):
                _note(hit.fault, inbound)
                if (answer := await harm(hit, request, None)) is not None:
                    return answer
        response = await handler(request)
        for hit in hits:
            if response.prepared:  # it is on the wire already
                break
            if hit.fault.rule.late(hit.effect.kind) and not hit.fault.gone:
                _note(hit.fault, inbound)
                response = await harm(hit, request, response) or response
        return response
    finally:
        for hit in hits:
            hit.fault.active -= 1


def _note(fault: Fault, inbound: Inbound) -> None:
    fault.hits += 1
    inbound.struck_by(fault.name)
