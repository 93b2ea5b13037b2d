"""Rates of the last ten seconds, from the metrics that are counted anyway: a request pays nothing for them."""

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from meshlite.telemetry.histogram import FINE
from meshlite.telemetry.metrics import Tally

SECONDS = 10
Tallies = dict[str, Tally]


class Rate(Struct, frozen=True):
    """Over some seconds: how many a second, the shares (0 to 1) that failed and were refused, two percentiles."""

    rate: float = 0.0
    error_rate: float = 0.0
    refused_rate: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None


class _Sample(NamedTuple):
    at: float
    tallies: Tallies


class Rates:
    """Samples what `tallies` returns once a second, for as long as `run` does."""

    def __init__(self, tallies: Callable[[], Tallies], clock: Callable[[], float]) -> None:
        self._tallies = tallies
        self._clock = clock
        self._samples: deque[_Sample] = deque([_Sample(clock(), tallies())], maxlen=SECONDS + 1)

    async def run(self, each: Callable[[dict[str, Rate]], None], log: FilteringBoundLogger) -> None:
        """Take a sample every second, and tell `each` what the last second brought, by name. Never returns."""
        while True:
            await asyncio.sleep(1.0)
            try:
                before = self._samples[-1]
                self._samples.append(_Sample(self._clock(), self._tallies()))
                each({name: rate for name, rate in self._since(before, self._samples[-1]).items() if rate.rate})
            except Exception as error:  # the next second may be a better one
                log.error("rates.crashed", exc_info=error)

    def now(self) -> dict[str, Rate]:
        """The rates of all that there is, by name."""
        return self._since(self._samples[0], _Sample(self._clock(), self._tallies()))

    @staticmethod
    def _since(before: _Sample, after: _Sample) -> dict[str, Rate]:
        passed = max(after.at - before.at, 1.0)
        return {name: _rate(before.tallies.get(name), tally, passed) for name, tally in after.tallies.items()}


def _rate(before: Tally | None, after: Tally, passed: float) -> Rate:
    done = after if before is None else after.minus(before)
    if not done.total:
        return Rate()
    return Rate(
        round(done.total / passed, 3),
        round(done.failed / done.total, 4),
        round(done.refused / done.total, 4),
        _percentile(done.counts, 0.5),
        _percentile(done.counts, 0.99),
    )


def _percentile(counts: Sequence[int], share: float) -> float | None:
    """Milliseconds that `share` of the calls did not exceed, by linear interpolation within an eighth of a bucket."""
    total = sum(counts)
    if not total:
        return None
    reached, sums = 0, []
    for count in counts:
        reached += count
        sums.append(reached)
    wanted = share * total
    place = bisect_left(sums, wanted)
    if place >= len(FINE):
        return FINE[-1] * 1000
    low = FINE[place - 1] if place else 0.0
    below = sums[place - 1] if place else 0
    return round((low + (FINE[place] - low) * (wanted - below) / counts[place]) * 1000, 2)
