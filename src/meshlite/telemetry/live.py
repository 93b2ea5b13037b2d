"""What is looked up when Prometheus asks: services, edges, breakers as they are then. Requests pay nothing for it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from meshlite.resilience.edge import Edge
from meshlite.resilience.facts import State


class Load(NamedTuple):
    """What a service has to do at the moment, and how many requests it has shed since the start."""

    up: bool
    in_flight: int
    waiting: int
    shed: int


class Live(Collector):
    """The gauges of what it is told to watch; a breaker that is gone has none."""

    def __init__(self) -> None:
        self.services: dict[str, Callable[[], Load]] = {}
        self.edges: list[Edge] = []

    def collect(self) -> Iterator[Metric]:
        return iter([*self._of_services(), *self._of_breakers(), *self._of_edges()])

    def _of_services(self) -> list[Metric]:
        labels = ["service"]
        up = GaugeMetricFamily("meshlite_service_up", "1 while the service takes requests", labels=labels)
        in_flight = GaugeMetricFamily("meshlite_requests_in_flight", "Requests that are under way", labels=labels)
        waiting = GaugeMetricFamily("meshlite_requests_waiting", "Requests that wait for admission", labels=labels)
        shed = CounterMetricFamily(
            "meshlite_requests_shed", "Requests turned away because there were too many", labels=labels
        )
        for name, look in self.services.items():
            load = look()
            up.add_metric([name], load.up)
            in_flight.add_metric([name], load.in_flight)
            waiting.add_metric([name], load.waiting)
            shed.add_metric([name], load.shed)
        return [up, in_flight, waiting, shed]

    def _of_edges(self) -> list[Metric]:
        labels = ["caller", "callee"]
        in_flight = GaugeMetricFamily("meshlite_call_attempts_in_flight", "Attempts that are under way", labels=labels)
        waiting = GaugeMetricFamily(
            "meshlite_call_attempts_waiting", "Attempts that wait for a place in the bulkhead", labels=labels
        )
        amplification = GaugeMetricFamily(
            "meshlite_call_amplification_ratio", "1 and the retries per call, over the last ten seconds", labels=labels
        )
        for edge in self.edges:
            names = [edge.caller, edge.callee]
            in_flight.add_metric(names, edge.in_flight)
            waiting.add_metric(names, edge.waiting)
            amplification.add_metric(names, edge.amplification)
        return [in_flight, waiting, amplification]

    def _of_breakers(self) -> list[Metric]:
        labels = ["caller", "callee", "key"]
        state = GaugeMetricFamily(
            "meshlite_breaker_state",
            "1 for the state that a breaker is in, else 0",
            labels=[*labels, "state"],
        )
        seconds = CounterMetricFamily(
            "meshlite_breaker_open_seconds", "Seconds that the breaker was open or forced open", labels=labels
        )
        for edge in self.edges:
            for key, total in edge.open_seconds().items():
                seconds.add_metric([edge.caller, edge.callee, key], total)
            for key, breaker in edge.breakers():
                now = breaker.state
                for each in State:
                    state.add_metric([edge.caller, edge.callee, key, each], each is now)
        return [state, seconds]
