"""Logs: a line for each request and each move, cheap, whole, and never forged."""

import io
import json
import time
from typing import Any

import pytest

from meshlite.events import BATCH, BreakerMoved, Bus, RequestCompleted
from meshlite.telemetry import logs
from tests.conftest import World


class Pipe(io.BytesIO):
    """Keeps what was written after it is closed."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


REQUEST = RequestCompleted("users", "GET", "/users/{id}", 200, 12.3, "r1", "external")


def test_json_lines_are_one_object_a_line_with_time_and_level() -> None:
    """What a machine reads: a time in UTC, a level, an event, its keys."""
    pipe = Pipe()
    log, access, writer, *_ = logs.make(pipe, "json", "info")
    bus = Bus(lambda *broken: None)
    logs.listen(bus, log, access)
    bus.publish(REQUEST)
    log.warning("odd", text='a "quoted"\nline', number=1)
    writer.close()
    first, second = pipe.lines()
    assert first.pop("timestamp").startswith(time.strftime("%Y-%m-%dT", time.gmtime()))
    assert first == {
        "level": "info",
        "event": "request.completed",
        "service": "users",
        "method": "GET",
        "route": "/users/{id}",
        "status": 200,
        "ms": 12.3,
        "request_id": "r1",
        "caller": "external",
    }
    assert second["text"] == 'a "quoted"\nline'


def test_requests_push_out_no_other_line() -> None:
    """The last thousand lines, and behind them what was said before that is no request's, each once."""
    log, access, writer, _, recent = logs.make(Pipe(), "json", "info")
    log.warning("first")
    log.warning("second")
    for _ in range(5_000):
        access(REQUEST)
    log.warning("third")
    events = [line["event"] for line in recent.lines()]
    assert (events[0], events[1:1000], events[1000:]) == ("third", [REQUEST.name] * 999, ["second", "first"])
    writer.close()


def test_the_console_gives_no_value_a_line_of_its_own() -> None:
    """What a stranger sends cannot look like a line of ours."""
    pipe = Pipe()
    log, _, writer, *_ = logs.make(pipe, "console", "info")
    log.info("order.placed", path="x\n2026-01-01T00:00:00Z [info] order.confirmed \x1b[2J")
    writer.close()
    assert pipe.getvalue().count(b"\n") == 1
    assert b"\x1b" not in pipe.getvalue()


def test_below_the_level_nothing_is_written() -> None:
    """`--log-level warning` leaves access lines out, and not the breaker's moves."""
    pipe = Pipe()
    log, access, writer, *_ = logs.make(pipe, "json", "warning")
    bus = Bus(lambda *broken: None)
    logs.listen(bus, log, access)
    bus.publish(REQUEST)
    bus.publish(BreakerMoved("orders", "inventory", "edge", "closed", "open", "3 consecutive failures"))
    writer.close()
    (line,) = pipe.lines()
    assert (line["event"], line["edge"], line["reason"]) == (
        "breaker.moved",
        "orders→inventory",
        "3 consecutive failures",
    )


def test_an_exception_is_in_the_line() -> None:
    """The traceback of what we did wrong."""
    pipe = Pipe()
    log, _, writer, *_ = logs.make(pipe, "json", "info")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("request.crashed")
    writer.close()
    (line,) = pipe.lines()
    assert line["level"] == "error"
    assert "ZeroDivisionError" in line["exception"]


def test_a_reader_that_is_too_slow_costs_lines_not_memory() -> None:
    """Beyond four megabytes lines are dropped, and a line says how many."""
    import threading

    gate = threading.Event()

    class Stuck(Pipe):
        def write(self, data: Any) -> int:
            gate.wait(5)
            return super().write(data)

    pipe = Stuck()
    writer = logs.Writer(pipe)
    for _ in range(10_000):
        writer.write(b'"' + b"x" * 1000 + b'"')
    assert sum(map(len, writer._lines)) <= 5 * 1024 * 1024
    gate.set()
    writer.close()
    dropped = [json.loads(line) for line in pipe.getvalue().splitlines() if line.startswith(b"{")]
    assert dropped
    assert {line["event"] for line in dropped} == {"log.dropped"}
    assert sum(line["lines"] for line in dropped) > 1000


def test_what_libraries_log_is_ours_whatever_it_is() -> None:
    """Odd levels, text that is no UTF-8, exceptions: a line each, and never an error of its own."""
    import logging

    pipe = Pipe()
    log, _, writer, *_ = logs.make(pipe, "json", "info")
    library = logging.Logger("library")
    library.addHandler(logs.StdlibHandler(log))
    library.log(35, "odd")
    library.error("no text: %s", "\udcff")
    try:
        raise ValueError("\udcff")
    except ValueError:
        library.exception("crashed")
    writer.close()
    assert [(line["event"], line["level"]) for line in pipe.lines()] == [
        ("library.reported", "warning"),
        ("library.reported", "error"),
        ("library.reported", "error"),
    ]


def test_a_reader_that_is_gone_disturbs_nobody() -> None:
    """A closed pipe: no exception, no end."""
    pipe = io.BytesIO()
    log, _, writer, *_ = logs.make(pipe, "json", "info")
    pipe.close()
    log.info("x")
    writer.close()


async def test_one_line_a_request_and_none_for_probes(world: World) -> None:
    """Each request one line; what asks every second whether we live, none."""
    before = len(world.logged("request.completed"))
    await world.get("users", "/users/1")
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        await world.get("users", path)
    await world.get("control", "/metrics")
    (line,) = world.logged("request.completed")[before:]
    assert (line["route"], line["status"]) == ("/users/{id}", 200)


@pytest.mark.parametrize("forged", ["a b", "x" * 200, "<b>", "é"])
async def test_a_request_id_that_could_forge_is_replaced(world: World, forged: str) -> None:
    """What is not a plain id counts as none."""
    answer = await world.get("users", "/users/1", headers={"X-Request-Id": forged})
    assert answer.headers["X-Request-Id"] != forged
    assert world.logged("request.completed")[-1]["request_id"] == answer.headers["X-Request-Id"]


async def test_a_body_is_never_logged(world: World) -> None:
    """Nor is a query, nor a header's value."""
    await world.ask("POST", "users", "/users?token=s3cret", {"name": "S3cret", "email": "s3cret@example.com"})
    assert "s3cret" not in str(world._log.entries).lower()


async def test_a_sink_that_raises_is_dropped_and_the_request_lives(world: World) -> None:
    """Logged once; the other sinks and the requests go on."""

    def broken(_: object) -> None:
        raise RuntimeError("no")

    world.mesh.bus.subscribe(broken)
    for _ in range(3):
        assert (await world.get("users", "/users/1")).status == 200
    assert len(world.logged("sink.dropped")) == 1
    assert len(world.logged("request.completed")) == 3


async def test_a_collector_that_raises_is_dropped_and_the_request_lives(world: World) -> None:
    """As a sink is, although it hears of many requests together."""

    def broken(_: object) -> None:
        raise RuntimeError("no")

    world.mesh.bus.collect(broken, RequestCompleted)
    for _ in range(2 * BATCH):
        assert (await world.get("users", "/users/1")).status == 200
    world.mesh.metrics.tallies()
    assert len(world.logged("sink.dropped")) == 1
    assert len(world.logged("request.completed")) == 2 * BATCH
