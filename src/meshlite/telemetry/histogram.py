"""Counters and histograms that cost a request an addition: plain dicts and lists, families of Prometheus' when asked.

Their labels' values must come from a small set: what was counted once is kept.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets, in seconds."""
PARTS = 8
FINE = tuple(
    low + (high - low) * part / PARTS for low, high in pairwise((0.0, *BOUNDS)) for part in range(1, PARTS + 1)
)
"""Each bucket in eight parts: what is counted, so that percentiles can be told more closely than Prometheus asks."""


class Child:
    """The counts of one set of label values, by the bounds that they are counted at."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = FINE) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram(Collector):
    """A histogram with labels: of numbers within `bounds`, or else of seconds, then counted in eighths of a bucket."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float] | None = None
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds, self._counted, self._parts = (BOUNDS, FINE, PARTS) if bounds is None else (bounds, bounds, 1)
        self._children: dict[tuple[str, ...], Child] = {}

    def labels(self, *values: str) -> Child:
        """The child of these label values; keep it."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Child(self._counted)
        return child

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in self._children.items():
            reached, buckets, counts = 0, [], tuple(child.counts)
            for place, bound in enumerate((*map(str, self._bounds), "+Inf")):
                reached += sum(counts[place * self._parts : (place + 1) * self._parts])
                buckets.append((bound, reached))
            family.add_metric(values, buckets, child.total)
        yield family


class Counts(Collector):
    """A counter with labels: add to `values`."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self.values: defaultdict[tuple[str, ...], int] = defaultdict(int)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, count in self.values.items():
            family.add_metric(values, count)
        yield family
