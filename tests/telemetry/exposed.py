"""What `/metrics` says, read as Prometheus reads it."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import World


class Exposed(NamedTuple):
    """One scrape: each sample's value by its name and labels, and each family's type."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    types: Mapping[str, str]
    text: str

    def all(self, name: str, **labels: str) -> list[float]:
        """The values of all series of that name with at least those labels."""
        wanted = set(labels.items())
        return [value for (found, those), value in self.samples.items() if found == name and wanted <= those]

    def sum(self, name: str, **labels: str) -> float:
        return sum(self.all(name, **labels))

    def one(self, name: str, **labels: str) -> float:
        (value,) = self.all(name, **labels)
        return value


def read(text: str) -> Exposed:
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return Exposed(samples, dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)), text)


async def scrape(world: World) -> Exposed:
    return read((await world.get("control", "/metrics")).body.decode())


async def trouble(world: World) -> None:
    """Some of everything: answers and mistakes, writes, a fault that strikes, retries, a breaker that opens."""
    assert (await world.order(("SKU-1", 1))).status == 201
    assert (await world.get("users", "/users/1?include=orders")).status == 200
    assert (await world.get("users", "/users/99")).status == 404
    assert (await world.get("users", "/nowhere")).status == 404
    fault = "faults.f.kind=error", "faults.f.status=500", "faults.f.service=inventory", "faults.f.enabled=true"
    world.set_faults(*fault)
    for _ in range(3):
        await world.get("orders", "/orders")
    assert world.breaker("orders", "inventory") == "open"
