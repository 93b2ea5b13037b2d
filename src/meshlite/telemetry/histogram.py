"""Histograms that cost a request one bisection: counted in plain lists, made into Prometheus' families when asked."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets, in seconds."""
PARTS = 8
FINE = tuple(
    low + (high - low) * part / PARTS for low, high in pairwise((0.0, *BOUNDS)) for part in range(1, PARTS + 1)
)
"""Each bucket in eight parts: what is counted, so that percentiles can be told more closely than Prometheus asks."""


class Child:
    """The counts of one set of label values."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(FINE) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(FINE, seconds)] += 1
        self.total += seconds


class Durations(Collector):
    """A histogram of seconds, with labels."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._children: dict[tuple[str, ...], Child] = {}

    def labels(self, *values: str) -> Child:
        """The child of these label values; keep it."""
        return self._children.setdefault(values, Child())

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in self._children.items():
            reached, buckets = 0, []
            for place, bound in enumerate((*map(str, BOUNDS), "+Inf")):
                reached += sum(child.counts[place * PARTS : (place + 1) * PARTS])
                buckets.append((bound, reached))
            family.add_metric(values, buckets, child.total)
        yield family
