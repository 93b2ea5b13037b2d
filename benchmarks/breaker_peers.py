"""The same small experiments with each Python circuit breaker; prints a markdown table of what happened.

    pip install aiobreaker circuitbreaker purgatory hyx interlock-cb pybreaker
    python benchmarks/breaker_peers.py

In real time, since some peers read the wall clock: the open time is OPEN seconds, one failure opens.
"""

import asyncio
import contextlib
import datetime
import logging
from importlib.metadata import version

OPEN = 0.2


class Peer:
    """One breaker under one face: `call(fn)` and `state()`; `guard` is its decorator, where that is its way in."""

    def __init__(self, name, call, state, listen=None, guard=None):
        self.name, self.call, self.state, self.listen, self.guard = name, call, state, listen, guard


def aiobreaker(failures, seconds):
    import aiobreaker

    breaker = aiobreaker.CircuitBreaker(fail_max=failures, timeout_duration=datetime.timedelta(seconds=seconds))

    class Listener(aiobreaker.CircuitBreakerListener):
        def state_change(self, breaker, old, new):
            raise RuntimeError("listener")

    return Peer(
        "aiobreaker", breaker.call_async, lambda: breaker.current_state.name, lambda: breaker.add_listener(Listener())
    )


def circuitbreaker(failures, seconds):
    import circuitbreaker

    breaker = circuitbreaker.CircuitBreaker(failure_threshold=failures, recovery_timeout=seconds)
    # Its call_async lets everybody in, open or not; only the decorator refuses.
    return Peer("circuitbreaker", through(breaker), lambda: breaker.state, guard=breaker)


def through(guard):
    """`call(fn)` for a breaker that has only a decorator."""

    async def call(fn):
        async def work():
            return await fn()

        return await guard(work)()

    return call


def purgatory(failures, seconds):
    import purgatory

    factory = purgatory.AsyncCircuitBreakerFactory(default_threshold=failures, default_ttl=seconds)
    held = []

    async def call(fn):
        breaker = await factory.get_breaker("x")
        held[:] = [breaker]
        async with breaker:
            return await fn()

    def listener(name, kind, event):
        if kind == "state_changed":
            raise RuntimeError("listener")

    return Peer(
        "purgatory", call, lambda: held[0].context.state, lambda: factory.add_listener(listener), guard=factory("x")
    )


def hyx(failures, seconds):
    from hyx.circuitbreaker import consecutive_breaker

    breaker = consecutive_breaker(failure_threshold=failures, recovery_time_secs=seconds, recovery_threshold=1)
    return Peer("hyx", through(breaker), lambda: type(breaker.state).__name__, guard=breaker)


def interlock(failures, seconds, **config):
    import interlock

    config = {"window_size": failures, "minimum_number_of_calls": failures, "failure_rate_threshold": 1.0} | config
    settings = interlock.Config(wait_duration_in_open=seconds, permitted_calls_in_half_open=1, **config)

    class Listener:
        def on_state_change(self, **_):
            raise RuntimeError("listener")

        def on_call(self, **_): ...
        def on_rejected(self, **_): ...
        def on_reset(self, **_): ...

    breaker = interlock.CircuitBreaker(name="x", config=settings, listener=Listener())
    return Peer("interlock-cb", breaker.call, lambda: breaker.state.name, lambda: None)


def pybreaker(failures, seconds):
    import pybreaker

    breaker = pybreaker.CircuitBreaker(fail_max=failures, reset_timeout=seconds)

    async def call(fn):
        with breaker.calling():
            return await fn()

    class Listener(pybreaker.CircuitBreakerListener):
        def state_change(self, cb, old_state, new_state):
            raise RuntimeError("listener")

    return Peer("pybreaker", call, lambda: breaker.current_state, lambda: breaker.add_listeners(Listener()))


def meshlite(failures, seconds, **settings):
    from meshlite import CircuitBreaker

    breaker = CircuitBreaker("x", max_failures=failures, reset_timeout=seconds, **settings)

    def listener(event):
        raise RuntimeError("listener")

    return Peer("meshlite", breaker.call, lambda: str(breaker.state), lambda: breaker.subscribe(listener))


PEERS = [aiobreaker, circuitbreaker, purgatory, hyx, interlock, pybreaker, meshlite]
PACKAGES = {interlock: "interlock-cb"}


async def good():
    """A call that works."""


async def bad():
    """A call that fails."""
    raise ValueError("bad")


async def later(seconds, fn=good):
    """A call that takes its time."""
    await asyncio.sleep(seconds)
    return await fn()


async def attempt(peer, fn):
    """Call through the breaker; whether the call was let in."""
    entered = []

    async def noted():
        entered.append(True)
        return await fn()

    with contextlib.suppress(Exception):
        await peer.call(noted)
    return bool(entered)


async def cancelled_probe(make):
    """A probe is cancelled by its caller: it should stay half-open, and let the next one in."""
    peer = make(1, OPEN)
    await attempt(peer, bad)
    await asyncio.sleep(OPEN * 1.2)
    task = asyncio.create_task(attempt(peer, lambda: later(5)))
    await asyncio.sleep(OPEN / 10)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    state = named(peer.state())
    return f"{state}, next call {'let in' if await attempt(peer, good) else 'refused'}"


async def twenty_at_half_open(make):
    """Twenty callers when the open time is over: one should get in."""
    peer = make(1, OPEN)
    await attempt(peer, bad)
    await asyncio.sleep(OPEN * 1.2)
    return f"{sum(await asyncio.gather(*(attempt(peer, lambda: later(0.02)) for _ in range(20))))} of 20 let in"


async def late_success(make):
    """A call admitted before the trip succeeds after it: it should change nothing."""
    peer = make(1, OPEN)
    late = asyncio.create_task(attempt(peer, lambda: later(OPEN / 4)))
    await asyncio.sleep(0)
    await attempt(peer, bad)
    await late
    return named(peer.state())


async def late_failure(make):
    """A call admitted before the trip fails after it: the open time should not grow."""
    peer = make(1, OPEN)
    late = asyncio.create_task(attempt(peer, lambda: later(OPEN * 0.6, bad)))
    await asyncio.sleep(0)
    await attempt(peer, bad)
    await late
    await asyncio.sleep(OPEN * 0.6)
    return "open time kept" if await attempt(peer, good) else "open time extended"


async def hung_probe(make):
    """A probe never ends: after ten open times somebody else should be let in, and only one (or its lease is over)."""
    peer = make(1, OPEN, probe_timeout=OPEN) if make is meshlite else make(1, OPEN)
    await attempt(peer, bad)
    await asyncio.sleep(OPEN * 1.2)
    task = asyncio.create_task(attempt(peer, lambda: later(60)))
    await asyncio.sleep(OPEN / 10)
    herd = sum(await asyncio.gather(*(attempt(peer, good) for _ in range(3))))
    await asyncio.sleep(OPEN * 10)
    after = await attempt(peer, good)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return "no cap: others let in meanwhile" if herd else ("recovers" if after else "wedged")


async def listener_raises(make):
    """A listener raises at the trip: the caller should get the error of the call."""
    peer = make(1, OPEN)
    if peer.listen is None:
        return "no listeners"
    peer.listen()
    try:
        await peer.call(bad)
    except ValueError:
        return "isolated"
    except Exception as error:
        return f"caller gets {'the error of the listener' if 'listener' in str(error) else type(error).__name__}"
    return "swallowed"


def named(state):
    """The state in one vocabulary."""
    text = str(state).lower().replace("-", "_").rpartition(".")[2]
    for word, name in (("half", "half-open"), ("recover", "half-open"), ("fail", "open"), ("open", "open")):
        if word in text:
            return name
    return "closed" if "closed" in text or "work" in text else text


EXPERIMENTS = [cancelled_probe, twenty_at_half_open, late_success, late_failure, hung_probe, listener_raises]


async def main():
    """Run every experiment with every peer, all at the same time."""
    logging.disable()
    results = await asyncio.gather(*(experiment(make) for make in PEERS for experiment in EXPERIMENTS))
    print("| | " + " | ".join(experiment.__name__.replace("_", " ") for experiment in EXPERIMENTS) + " |")
    print("|---" * (len(EXPERIMENTS) + 1) + "|")
    for row, make in enumerate(PEERS):
        name = PACKAGES.get(make, make.__name__)
        cells = results[row * len(EXPERIMENTS) : (row + 1) * len(EXPERIMENTS)]
        label = name if make is meshlite else f"{name} {version(name)}"
        print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    asyncio.run(main())
