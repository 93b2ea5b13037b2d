"""What a call through a circuit breaker costs, beside the Python peers, in one run; prints markdown tables.

    pip install aiobreaker circuitbreaker purgatory hyx interlock-cb pybreaker
    python benchmarks/breaker.py [ROUNDS]

Nanoseconds over a bare await of the same function, which is measured right before it each time; the median over many
short rounds in which all take turns, so that a noisy machine is noisy for all.
"""

import asyncio
import contextlib
import logging
import statistics
import sys
import time

import aiohttp
import breaker_peers as peers
from aiohttp import web

from meshlite import CircuitBreaker, CircuitBreakerMiddleware

CALLS = 2_000
WINDOWS = {
    "consecutive": {},
    "count window": {"window": "count", "window_size": 100, "failure_rate": 1.0},
    "time window": {"window": "time", "window_size": 10, "failure_rate": 1.0},
}


async def good():
    """A call that works."""


async def bad():
    """A call that fails."""
    raise ValueError


async def spent(call, args, fails):
    """Nanoseconds for one `await call(*args)`."""
    number = CALLS // 4 if fails else CALLS
    began = time.perf_counter_ns()
    if fails:
        for _ in range(number):
            try:
                await call(*args)
            except Exception:
                continue
    else:
        for _ in range(number):
            await call(*args)
    return (time.perf_counter_ns() - began) / number


def calling(breaker, fn):
    return breaker.call, (fn,)


def within(breaker, fn):
    async def call():
        async with breaker:
            return await fn()

    return call, ()


def decorated(breaker, fn):
    return breaker(fn), ()


def peering(peer, fn):
    """A peer's way in: its decorator, or else its call."""
    return (peer.call, (fn,)) if peer.guard is None else (peer.guard(fn), ())


def tripped(make):
    """A peer's breaker that is open for an hour."""
    peer = make(1, 3600)
    call, args = peering(peer, bad)
    with contextlib.suppress(Exception):
        asyncio.new_event_loop().run_until_complete(call(*args))
    return peer


def contenders(never=10**9):
    """Label → (call, its arguments, whether it raises)."""
    from interlock import WindowType

    rows = {}
    for label, window in WINDOWS.items():
        quiet = {"max_failures": None} if window else {"max_failures": never}
        # closed, and judged at every failure: one success is in the window, and the rate never quite 1
        big = window | {"failure_rate": 1.0, "window_size": 10**6} if window else {}
        for way, make in (("call", calling), ("decorator", decorated), ("async with", within)):
            breaker = CircuitBreaker(**quiet, **window)
            rows[f"meshlite {way}, {label}", "success"] = (*make(breaker, good), False)
            failing = CircuitBreaker(**quiet, **big)
            failing.acquire().success()
            rows[f"meshlite {way}, {label}", "failure"] = (*make(failing, bad), True)
            refusing = CircuitBreaker(max_failures=1, reset_timeout=3600)
            refusing.acquire().failure()
            rows[f"meshlite {way}, {label}", "refused"] = (*make(refusing, good), True)
    for make in peers.PEERS[:-1]:
        kinds = [("", {})]
        if make is peers.interlock:
            many = {"window_size": 100, "minimum_number_of_calls": 100}
            kinds = [(", count window", many), (", time window", many | {"window_type": WindowType.TIME_BASED})]
        for kind, config in kinds:
            name = peers.PACKAGES.get(make, make.__name__) + kind
            rows[name, "success"] = (*peering(make(100 if config else never, 3600, **config), good), False)
            if not kind:
                rows[name, "failure"] = (*peering(make(never, 3600), bad), True)
            rows[name, "refused"] = (*peering(tripped(make), good), True)
    return rows


async def calls(rounds, rows):
    """The table of calls, and the ratios that matter."""
    costs, plain = {key: [] for key in rows}, []
    for _ in range(rounds):
        for key, (call, args, fails) in rows.items():
            fails_bare = key[1] == "failure"
            before = await spent(bad if fails_bare else good, (), fails_bare)
            costs[key].append(await spent(call, args, fails) - before)
            if not fails:
                plain.append(before)
    cost = {key: statistics.median(values) for key, values in costs.items()}
    print(f"Over a bare await ({statistics.median(plain):.0f} ns), median of {rounds} rounds, in ns:\n")
    print("| | success | failure | refused while open |\n|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in rows):
        cells = [
            f"{cost[name, kind]:,.0f}" if (name, kind) in cost else "-" for kind in ("success", "failure", "refused")
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    others = {name: value for (name, kind), value in cost.items() if kind == "success" and "meshlite" not in name}
    fastest = min(others, key=others.get)
    print(f"\nSuccess through `call`, beside the fastest peer ({fastest}):")
    for label in WINDOWS:
        print(f"- {label}: {cost[f'meshlite call, {label}', 'success'] / others[fastest]:.2f}")


async def middleware(rounds, requests=600, at_once=20):
    """Requests a second through a session, with the middleware over without."""
    app = web.Application()

    async def hello(request):
        return web.json_response({"hello": "world"})

    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"

    async def rate(session):
        async def worker():
            for _ in range(requests // at_once):
                async with session.get(url) as response:
                    await response.read()

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        return requests / (time.perf_counter() - began)

    ratios, rates = [], []
    async with (
        aiohttp.ClientSession() as without,
        aiohttp.ClientSession(middlewares=(CircuitBreakerMiddleware(),)) as through,
    ):
        await rate(without), await rate(through)
        for number in range(rounds):
            order = (without, through) if number % 2 else (through, without)
            measured = {session: await rate(session) for session in order}
            ratios.append(measured[through] / measured[without])
            rates.append(measured[through])
    await runner.cleanup()
    print(f"\nMiddleware: {statistics.median(rates):,.0f} requests/s, client and server in one process;")
    print(f"{statistics.median(ratios):.3f} of those without it (median of {rounds} rounds).")


def main():
    """Both tables."""
    logging.disable()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 41
    asyncio.run(calls(rounds, contenders()))
    asyncio.run(middleware(rounds))


if __name__ == "__main__":
    main()
