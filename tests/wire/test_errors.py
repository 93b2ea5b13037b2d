"""Every error has one shape: problem+json, its status the response's, a type of the list, a word on what is wrong."""

import asyncio
import io
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshlite.wire.problems import TYPES
from tests.conftest import StartMesh, World

ORDER = b'{"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]}'
JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}


def is_problem(answer: Any, status: int, kind: str) -> None:
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json
    assert document["type"] == f"urn:meshlite:problem:{kind}"
    assert document["status"] == status
    assert document["title"] == TYPES[kind][1]
    assert document["detail"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "data", "status", "kind"),
    [
        ("GET", "/nowhere", {}, None, 404, "not-found"),
        ("GET", "/orders/none", {}, None, 404, "not-found"),
        ("GET", "/orders/caf%C3%A9", {}, None, 404, "not-found"),
        ("PUT", "/orders", {}, None, 405, "method-not-allowed"),
        ("POST", "/orders", {"Origin": "http://a.example"}, ORDER, 415, "unsupported-media-type"),
        ("POST", "/orders", {**TEXT, "Sec-Fetch-Site": "cross-site"}, ORDER, 415, "unsupported-media-type"),
        ("POST", "/orders", {"Content-Type": "application/xml"}, ORDER, 415, "unsupported-media-type"),
        ("POST", "/orders", TEXT, b"{", 400, "malformed-request"),
        ("POST", "/orders", {**JSON, "Content-Encoding": "gzip"}, b"junk", 415, "unsupported-media-type"),
        ("POST", "/orders", JSON, b"{", 400, "malformed-request"),
        ("POST", "/orders", JSON, b"", 400, "malformed-request"),
        ("POST", "/orders", JSON, b"\xff\xfe", 400, "malformed-request"),
        ("POST", "/orders", JSON, b'{"user_id": 1, "items": "' + b"\xed\xa0\x80" + b'"}', 400, "malformed-request"),
        ("POST", "/orders", JSON, b"[" * 100_000, 400, "malformed-request"),
        ("POST", "/orders", JSON, b"[]", 422, "invalid-fields"),
        ("POST", "/orders", JSON, ORDER.replace(b"1,", b"9" * 400 + b","), 422, "invalid-fields"),
        ("POST", "/orders", JSON, ORDER.replace(b"1,", b"-1,", 1), 422, "invalid-fields"),
        ("POST", "/orders", JSON, b" " * (1024 * 1024 + 1), 413, "body-too-large"),
        ("POST", "/orders", {**JSON, "Expect": "miracles"}, ORDER, 417, "expectation-failed"),
        ("GET", "/docs", {"Expect": "miracles"}, None, 417, "expectation-failed"),
        ("GET", "/nowhere", {"Expect": "miracles"}, None, 417, "expectation-failed"),
        ("GET", "/orders?limit=0", {}, None, 422, "invalid-fields"),
        ("GET", "/orders?limit=201", {}, None, 422, "invalid-fields"),
        ("GET", "/orders?limit=many", {}, None, 422, "invalid-fields"),
        ("GET", "/orders?user_id=x", {}, None, 422, "invalid-fields"),
        ("GET", "/orders?cursor=made-up", {}, None, 400, "malformed-request"),
        ("GET", "/orders?cursor=dXNlcnM6MQ", {}, None, 400, "malformed-request"),  # users:1, of another list
        ("GET", "/orders?cursor=b3JkZXJzOmFiYw", {}, None, 400, "malformed-request"),  # orders:abc
        ("GET", "/orders?cursor=b3JkZXJzOjk5OTk5OTk5OTk5OTk5OTk5OTk5OTk", {}, None, 400, "malformed-request"),
        ("GET", "/docs/..%2f..%2fetc%2fpasswd", {}, None, 404, "not-found"),
    ],
)
async def test_what_is_wrong_is_answered_in_the_one_shape(
    world: World, method: str, path: str, headers: dict[str, str], data: bytes | None, status: int, kind: str
) -> None:
    """Whatever is wrong with a request: status, type, and no traceback in the log."""
    async with world.client.request(
        method,
        aiohttp.client.URL(world.url("orders") + path, encoded=True),
        headers=headers,
        data=data and io.BytesIO(data),
        skip_auto_headers=["Content-Type"],
    ) as response:
        answer = type(
            "A",
            (),
            {"status": response.status, "headers": response.headers, "json": await response.json(content_type=None)},
        )
    is_problem(answer, status, kind)
    assert world.logged("request.crashed") == []
    assert (await world.get("orders", "/orders")).status == 200


async def test_a_query_error_names_its_parameter(world: World) -> None:
    """Which parameter, what it was, what is allowed."""
    answer = await world.get("users", "/users/1?include=everything")
    assert answer.json["errors"] == [{"pointer": "include", "detail": "expected 'orders', got 'everything'"}]


async def test_all_fields_that_are_wrong_are_named_at_once(world: World) -> None:
    """One answer, every fault."""
    answer = await world.ask("PUT", "inventory", "/inventory/X", {"name": "", "unit_price": -1, "extra": 1})
    assert {error["pointer"] for error in answer.json["errors"]} == {"/name", "/unit_price", "/extra", "/on_hand"}


async def test_a_method_that_is_not_allowed_says_which_are(world: World) -> None:
    """405 with `Allow`."""
    answer = await world.ask("DELETE", "orders", "/orders")
    assert set(answer.headers["Allow"].split(",")) == {"GET", "HEAD", "POST"}


async def raw(world: World, data: bytes) -> bytes:
    host, port = world.url("users").removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    "data",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_answered_in_the_same_shape(world: World, data: bytes) -> None:
    """A request that cannot be parsed: 400, problem+json, the connection closed, no traceback."""
    head, _, body = (await raw(world, data)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), head
    assert b"Content-Type: application/problem+json" in head
    assert b'"type":"urn:meshlite:problem:malformed-request"' in body


@pytest.mark.parametrize(
    "header", [b"Content-Type: application/\xff", b"Content-Type: application/json\r\nContent-Encoding: \xff"]
)
async def test_a_header_that_is_no_text_is_answered(world: World, header: bytes) -> None:
    """What is quoted in an answer may be no UTF-8: it is answered all the same, and the connection does not hang."""
    answer = await raw(
        world, b"POST /users HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + header + b"\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert answer.startswith(b"HTTP/1.1 415 "), answer


async def test_a_body_that_never_comes_frees_its_place(start_mesh: StartMesh) -> None:
    """One byte of a hundred, then silence: 408, and whoever waited for the place gets it."""
    world = await start_mesh("policy.admission.max_concurrent=1", "limits.body_seconds=0.2")
    head = b"POST /users HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    stalled = asyncio.create_task(raw(world, head))
    await asyncio.sleep(0.05)
    assert (await world.get("users", "/users/1")).status == 200
    assert (await stalled).startswith(b"HTTP/1.1 408 ")


async def test_a_crash_is_a_500_that_says_nothing_of_the_inside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traceback is in the log; the client gets a problem without internals."""
    monkeypatch.setattr("meshlite.services.users.store.UserStore.get", lambda *_: 1 / 0)
    answer = await world.get("users", "/users/1")
    is_problem(answer, 500, "internal")
    assert b"division" not in answer.body
    (line,) = world.logged("request.crashed")
    assert isinstance(line["exc_info"], ZeroDivisionError)


async def test_a_disk_that_fails_is_a_503(
    start_mesh: StartMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database cannot be written: 503 with when to come back; reads go on."""
    world = await start_mesh(data=tmp_path / "d")
    monkeypatch.setattr("meshlite.storage._commit", _disk_full)
    answer = await world.ask("POST", "users", "/users", {"name": "N", "email": "n@example.com"})
    is_problem(answer, 503, "storage-unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert (await world.get("users", "/users/1")).status == 200


def _disk_full(_: Any, results: list[Any]) -> list[Any]:
    from meshlite.errors import StorageError
    from meshlite.storage import _Failed

    return [_Failed(StorageError("database or disk is full")) for _ in results]


async def test_too_much_at_once_is_shed_and_says_so(start_mesh: StartMesh) -> None:
    """Beyond the places and the queue: 503 at once, marked as shed; probes are let through."""
    world = await start_mesh(
        "policy.admission.max_concurrent=2",
        "policy.admission.max_waiting=1",
        "faults.f.kind=delay",
        "faults.f.seconds=0.1",
        "faults.f.service=users",
        "faults.f.enabled=true",
    )
    many = asyncio.gather(*(world.get("users", "/users/1") for _ in range(10)))
    await asyncio.sleep(0.05)
    assert (await world.get("users", "/readyz")).status == 200
    answers = await many
    assert sorted(answer.status for answer in answers) == [200] * 3 + [503] * 7
    shed = next(answer for answer in answers if answer.status == 503)
    is_problem(shed, 503, "overloaded")
    assert (shed.headers["X-Envoy-Overloaded"], shed.headers["Retry-After"]) == ("true", "1")


async def test_a_request_whose_time_passed_in_the_queue_is_not_begun(start_mesh: StartMesh) -> None:
    """504, and the handler never saw it."""
    world = await start_mesh(
        "policy.admission.max_concurrent=1",
        "faults.f.kind=delay",
        "faults.f.seconds=0.2",
        "faults.f.service=users",
        "faults.f.enabled=true",
    )
    first = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.05)
    late = await world.get("users", "/users/1", headers={"X-Envoy-Expected-Rq-Timeout-Ms": "50"})
    is_problem(late, 504, "deadline-exceeded")
    assert (await first).status == 200


def test_every_problem_type_is_documented() -> None:
    """docs/problems.md lists the types with their statuses and titles, and no others."""
    text = (Path(__file__).parents[2] / "docs/problems.md").read_text()
    rows = re.findall(r"^\| `urn:meshlite:problem:([a-z-]+)` \| (\d+) \| ([^|]+?) \|", text, re.MULTILINE)
    assert {kind: (int(status), title) for kind, status, title in rows} == TYPES
