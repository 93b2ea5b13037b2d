"""What nobody thought of: random bytes and requests changed at random, at every port; cursors and bodies likewise."""

import asyncio
import re
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from meshlite.wire.messages import Page, cursor_after, query, read_cursor, read_number
from meshlite.wire.problems import Problem
from tests.conftest import World, starter
from tests.wire.raw import connect, request, unharmed

SEEDS = [
    request("GET", "/users/1"),
    request("GET", "/users/1?include=orders"),
    request("GET", "/orders?limit=2&cursor=b3JkZXJzOjE&user_id=1"),
    request("GET", "/inventory?sku=SKU-1&sku=SKU-2"),
    request("POST", "/users", body=b'{"name": "A", "email": "a@example.com"}'),
    request("PATCH", "/users/1", body=b'{"name": "A"}'),
    request(
        "POST", "/orders", "Idempotency-Key: k", body=b'{"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]}'
    ),
    request("PUT", "/inventory/SKU-1", body=b'{"name": "A", "unit_price": 1, "on_hand": 2000}'),
    request("PUT", "/reservations/x", body=b'{"items": [{"sku": "SKU-1", "quantity": 1}]}'),
    request(
        "PUT", "/api/faults/new", body=b'{"kind": "delay", "service": "users", "seconds": 0.1, "headers": {"a": "b"}}'
    ),
    request("PATCH", "/api/faults/slow-inventory", body=b'{"seconds": 0.1, "jitter": null, "script": [true]}'),
    request("PUT", "/api/edges/orders/users/breaker", body=b'{"mode": "auto"}'),
    request("GET", "/api/logs?limit=5&level=info&service=users"),
    request("POST", "/users", "Transfer-Encoding: chunked", "Content-Type: application/json") + b"2\r\n{}\r\n0\r\n\r\n",
    request("GET", "/healthz", "X-Request-Id: a", "Traceparent: 00-" + "1" * 32 + "-" + "2" * 16 + "-01"),
    request("GET", "/healthz", "X-Envoy-Expected-Rq-Timeout-Ms: 50", "X-Envoy-Attempt-Count: 2"),
]
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"/", b"?", b"%", b"%00", b"%ff", b"..", b"\xff",
    b"\xed\xa0\x80", b"{", b"[", b"[" * 900, b'"', b"\\ud800", b"-1", b"9" * 25, b"1e999", b"0.5", b"NaN", b"null",
    b"true", b"HTTP/1.0", b"HTTP/2.0", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n", b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n", b"Host: x\r\n", b"0\r\n\r\n", b"zz\r\n",
    b"Content-Type: text/plain\r\n", b"GET ", b"POST ", b"CONNECT ", b"Cookie: a=\xff\r\n", b"Range: bytes=1-\r\n",
    b"*",
]  # fmt: skip


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A good request, or two, with pieces put in, taken out or put in the place of others."""
    data = b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 8))
        piece = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=4)))
        data = data[:at] + piece + data[at + gone :]
    return data


async def thrown(world: World, service: str, data: bytes) -> None:
    """Send it, wait a moment for what it brings, go: every answer is whole and its status is none of a failure."""
    wire = await connect(world, service)
    await wire.send(data)
    got = bytearray()
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(0.02):
            while piece := await wire._reader.read(65_536):
                got += piece
    await wire.close()
    assert re.match(rb"(HTTP/1\.[01] \d{3} |$)", got), got[:100]
    statuses = {int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", got)}
    assert not {status for status in statuses if status >= 500 and status != 504}, (data, bytes(got))


@pytest.mark.slow
@pytest.mark.parametrize("service", ["users", "orders", "inventory", "control"])
def test_no_bytes_bring_a_port_to_fail(service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random bytes, and good requests changed at random: no 500, no error in the log, nothing left in flight."""
    monkeypatch.chdir(tmp_path)
    stack = AsyncExitStack()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        world = runner.run(starter(stack)())

        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.one_of(st.binary(max_size=200), changed(), changed(), changed()))
        def throw(data: bytes) -> None:
            runner.run(thrown(world, service, data))
            assert [line for line in world.lines() if line["log_level"] == "error"] == [], data

        try:
            throw()
            runner.run(unharmed(world, service))
        finally:
            runner.run(stack.aclose())


def given_or_refused(read: Callable[[], Any]) -> Any:
    """What it gives, or the Problem that it raises."""
    try:
        return read()
    except Problem as problem:
        return problem


@given(
    st.sampled_from(["users", "orders", "a"]),
    st.text(max_size=80) | st.from_regex(r"[A-Za-z0-9_-]{0,80}", fullmatch=True),
)
def test_a_cursor_is_read_or_refused(listing: str, text: str) -> None:
    """Whatever it is: a number that a store can take, or 400."""
    for read in (lambda: read_number(listing, text, 0), lambda: read_cursor(listing, text)):
        found = given_or_refused(read)
        if isinstance(found, Problem):
            assert found.status == 400
        else:
            assert isinstance(found, str) or 0 <= found < 10**18
            assert cursor_after(listing, found) == text


@given(st.integers(0, 10**18 - 1))
def test_our_own_cursors_are_read(number: int) -> None:
    """Every number that a store gives, of its own list only."""
    assert read_number("users", cursor_after("users", number), 0) == number
    with pytest.raises(Problem):
        read_number("orders", cursor_after("users", number), 0)


@given(st.lists(st.tuples(st.sampled_from(["limit", "cursor", "x", "Limit"]), st.text(max_size=8)), max_size=3))
def test_a_query_is_a_page_or_refused(pairs: list[tuple[str, str]]) -> None:
    """Known names, each once, each what it should be; else 422 that names what is wrong."""
    asked = make_mocked_request("GET", str(URL("/users").with_query(pairs)) if pairs else "/users")
    found = given_or_refused(lambda: query(asked, Page))
    if isinstance(found, Problem):
        assert found.status == 422
        assert found.document.errors
    else:
        assert {name for name, _ in pairs} <= {"limit", "cursor"}
        assert 1 <= found.limit <= 200
