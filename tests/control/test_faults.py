"""`/api/faults`: what can be made, changed and removed, and how wrong ones are refused."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

from meshlite.config import MOST_FAULTS
from tests.conftest import Answer, OnLoop, StartMesh, World

USUAL = {"phase": "request", "enabled": False}
HANG = {"service": "users", "kind": "hang"}
JSON = {"Content-Type": "application/json"}


async def ask(world: World, method: str, name: str, body: Any = None) -> Answer:
    return await world.ask(method, "control", f"/api/faults/{name}", body)


STATE = {"name", "source", "matches", "hits", "active", "remaining", "warnings"}


def table(answer: Any) -> dict[str, Any]:
    """What is told of a fault, but for what its table does not say."""
    return {key: value for key, value in answer.json.items() if key not in STATE}


async def shown(world: World) -> dict[str, Any]:
    return {fault["name"]: fault for fault in (await world.get("control", "/api/faults")).json["faults"]}


async def test_put_makes_one_and_puts_another_in_its_place(world: World) -> None:
    """201, then 200; of the one before nothing is left, however often."""
    created = await ask(world, "PUT", "f", {**HANG, "probability": 0.5, "enabled": True, "duration": 60})
    assert created.status == 201
    assert created.json == {
        **created.json,
        "name": "f",
        "enabled": True,
        "source": "api",
        "matches": 0,
        "hits": 0,
        "active": 0,
        "service": "users",
        "kind": "hang",
        "phase": "request",
        "probability": 0.5,
        "duration": 60.0,
    }
    assert created.json["remaining"] == pytest.approx(60, abs=1)
    for status in (500, 503):
        replaced = await ask(world, "PUT", "f", {"service": "orders", "kind": "error", "status": status})
        assert replaced.status == 200
        assert table(replaced) == {**USUAL, "service": "orders", "kind": "error", "status": status}
        assert replaced.json["remaining"] is None
    assert (await shown(world))["f"] == (await ask(world, "GET", "f")).json == replaced.json


def test_a_duration_can_be_next_to_nothing(on_loop: OnLoop) -> None:
    """It is over before anybody sees it, and shown as any other until then."""

    async def test(start_mesh: StartMesh) -> None:
        world = await start_mesh()
        created = await ask(world, "PUT", "f", {**HANG, "enabled": True, "duration": 1e-300})
        assert (created.status, created.json["remaining"]) == (201, 0)
        while (await shown(world))["f"]["enabled"]:
            await asyncio.sleep(0)

    on_loop(test)


@pytest.mark.parametrize("where", ["route", "method", "headers"])
async def test_a_pattern_has_a_length(world: World, where: str) -> None:
    """Python's shell patterns take time that grows with the square of their length: a body's worth would be a hang."""
    for pattern, status in (("[" * 200, 201), ("[" * 201, 422), ("[" * 200_000, 422)):
        value = {"x": pattern} if where == "headers" else pattern
        answer = await ask(world, "PUT", f"f{len(pattern)}", {**HANG, "enabled": True, where: value})
        assert answer.status == status
        assert (await world.get("users", "/users/1")).status == 200
    assert answer.json["errors"][0]["pointer"] == f"/{where}"


async def test_there_are_only_so_many(start_mesh: StartMesh) -> None:
    """One more is 409 and says what to do; those that are there can be changed, and one removed makes room."""
    world = await start_mesh(*(f"faults.f{n}={{service='users', kind='hang'}}" for n in range(MOST_FAULTS - 2)))
    assert (await ask(world, "PUT", "last", HANG)).status == 201
    refused = await ask(world, "PUT", "more", HANG)
    assert (refused.status, refused.json["type"]) == (409, "urn:meshlite:problem:too-many-faults")
    assert "100 faults" in refused.json["detail"]
    assert "more" not in await shown(world)
    assert (await ask(world, "PUT", "f1", {**HANG, "enabled": True})).status == 200
    assert (await ask(world, "PATCH", "last", {"probability": 0.5})).status == 200
    assert (await ask(world, "DELETE", "f2")).status == 204
    assert (await ask(world, "PUT", "more", HANG)).status == 201
    assert (await ask(world, "PUT", "f2", HANG)).status == 409


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("f", {"seconds": 1e9}, "expected a number of at most 86400, got 1000000000"),
        ("f", {"times": 0}, "expected a whole number of at least 1, got 0"),
        ("f", {"seconds": "x"}, "expected a number, got 'x'"),
        (
            "x" * 80,
            {},
            "expected at most 63 letters, digits, hyphens and underscores, the first a letter or a digit, got 'x",
        ),
    ],
)
async def test_what_is_wrong_is_said_in_words(world: World, name: str, body: dict[str, Any], says: str) -> None:
    """Nobody needs to know Python's types to understand it."""
    refused = await ask(world, "PUT", name, {"service": "users", "kind": "delay", "seconds": 1, **body})
    assert refused.status == 422
    assert refused.json["errors"][0]["detail"].startswith(says)


async def test_put_replaces_what_the_file_says_too(start_mesh: StartMesh, tmp_path: Path) -> None:
    """No key of the file's comes back: not by a second PUT, not after a DELETE."""
    file = tmp_path / "config.toml"
    file.write_text("[faults.f]\nservice = 'users'\nkind = 'delay'\nseconds = 3\nphase = 'response'\nafter = 5\n")
    world = await start_mesh(config=file)
    new = {"service": "users", "kind": "delay", "seconds": 1.0}
    for _ in range(3):
        assert table(await ask(world, "PUT", "f", new)) == {**USUAL, **new}
    await ask(world, "DELETE", "f")
    created = await ask(world, "PUT", "f", new)
    assert (created.status, table(created)) == (201, {**USUAL, **new})


async def test_put_without_service_and_kind_changes_the_one_that_is_there(world: World) -> None:
    """As PATCH does; of one that is not there they are missing."""
    for body, enabled in (({"enabled": True}, True), (None, True), ({}, True), ({"enabled": False}, False)):
        answer = await ask(world, "PUT", "slow-inventory", body)
        assert (answer.status, answer.json["enabled"], answer.json["seconds"]) == (200, enabled, 5.0)
    for body in ({"enabled": True}, None):
        refused = await ask(world, "PUT", "none-such", body)
        assert refused.status == 422
        assert {error["pointer"] for error in refused.json["errors"]} == {"/service", "/kind"}
    assert "none-such" not in await shown(world)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_what_was_read_can_be_sent_back(world: World, method: str) -> None:
    """With a change or without: what its table does not say has no effect; but another name is no mere repetition."""
    await ask(world, "PUT", "f", {"service": "users", "kind": "error", "statuses": {"503": 2}, "enabled": True})
    read = (await ask(world, "GET", "f")).json
    same = await ask(world, method, "f", read)
    assert (same.status, same.json) == (200, read)
    changed = await ask(world, method, "f", {**read, "enabled": False, "hits": 9, "source": "file"})
    assert (changed.status, changed.json) == (200, {**read, "enabled": False})
    refused = await ask(world, method, "f", {**read, "name": "g"})
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/name")


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_what_was_read_and_sent_back_says_no_more_than_before(world: World, method: str) -> None:
    """What holds where nothing is said goes on doing so: it is not made the fault's own."""
    for name, table in (
        ("u", {"service": "users", "kind": "unready"}),
        ("d", {"service": "users", "kind": "delay", "seconds": 1}),
        ("e", {"service": "users", "kind": "error"}),
    ):
        read = (await ask(world, "PUT", name, table)).json
        same = await ask(world, method, name, read)
        assert (same.status, same.json) == (200, read)
    assert "phase" not in (await ask(world, "GET", "u")).json
    copied = await ask(world, "PUT", "copy", {key: value for key, value in read.items() if key != "name"})
    assert (copied.status, copied.json) == (201, {**read, "name": "copy"})
    late = await ask(world, "PATCH", "d", {"kind": "throttle", "bytes_per_second": 100})
    assert (late.status, late.json["phase"]) == (200, "response")
    assert (await ask(world, "PATCH", "e", {"statuses": {"500": 1}})).status == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({"activ": 3}, "/activ"), ({"service": "users"}, "/kind"), ({"kind": "hang"}, "/service")],
)
async def test_a_slip_is_no_fault_that_was_read(world: World, body: dict[str, Any], pointer: str) -> None:
    """A key that there is not, or a kind or a service alone, which is neither a change nor a whole fault."""
    await ask(world, "PUT", "f", {"service": "users", "kind": "error"})
    refused = await ask(world, "PUT", "f", body)
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, pointer)
    assert (await ask(world, "PUT", "f", {"service": None, "kind": None, "enabled": True})).json["enabled"] is True


async def test_a_fault_with_twenty_thousand_mistakes_is_told_of_fifty(world: World) -> None:
    """No answer is greater than what it is about."""
    statuses = {str(number): 1 for number in range(1_000, 21_000)}
    refused = await ask(world, "PUT", "f", {"service": "users", "kind": "error", "statuses": statuses})
    assert (refused.status, len(refused.json["errors"])) == (422, 50)


async def test_nothing_that_is_said_changes_nothing(world: World) -> None:
    """Not even where the fault is from."""
    before = (await ask(world, "GET", "slow-inventory")).json
    for method in ("PUT", "PATCH"):
        assert (await ask(world, method, "slow-inventory", {})).json == before
    assert before["source"] == "default"


@pytest.mark.parametrize("name", ["my_fault", "Fault1", "a-B_3"])
async def test_a_fault_may_be_called_as_its_maker_likes(world: World, name: str) -> None:
    """Letters, digits, hyphens and underscores."""
    made = await ask(world, "PUT", name, {"service": "users", "kind": "error", "enabled": True})
    assert (made.status, made.json["status"]) == (201, 503)
    answer = await world.get("users", "/users/1")
    assert (answer.status, answer.headers["meshlite-fault"]) == (503, name)


async def test_patch_changes_only_what_it_names(world: World) -> None:
    """The other keys stay; nothing at all is fine too; null takes a key back to its default."""
    await ask(world, "PUT", "f", {**HANG, "probability": 0.5, "route": "/users/*"})
    patched = await ask(world, "PATCH", "f", {"enabled": True, "route": "/users"})
    assert patched.status == 200
    assert table(patched) == {
        "phase": "request",
        "service": "users",
        "kind": "hang",
        "enabled": True,
        "probability": 0.5,
        "route": "/users",
    }
    for body in (None, {}):
        same = await ask(world, "PATCH", "f", body)
        assert (same.status, table(same)) == (200, table(patched))
    back = table(await ask(world, "PATCH", "f", {"probability": None, "route": None}))
    assert back == {"phase": "request", "service": "users", "kind": "hang", "enabled": True}
    values = {v["key"]: v for v in (await world.get("control", "/api/config")).json["config"]}
    assert values["faults.f.probability"] == {"key": "faults.f.probability", "value": 1.0, "source": "api"}


async def test_a_change_of_kind_takes_the_old_kinds_keys_away(world: World) -> None:
    """Whether the file or an edit had set them."""
    for name in ("slow-inventory", "f"):
        await ask(world, "PUT", "f", {"service": "inventory", "kind": "delay", "seconds": 2, "method": "GET"})
        changed = await ask(world, "PATCH", name, {"kind": "error", "status": 503})
        assert changed.status == 200, changed
        assert "seconds" not in changed.json
    assert changed.json["method"] == "GET"


async def test_what_is_needed_cannot_be_taken_back(world: World) -> None:
    """A delay without seconds is none: 422, and it stays as it was."""
    refused = await ask(world, "PATCH", "slow-inventory", {"seconds": None})
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/seconds")
    assert (await shown(world))["slow-inventory"]["seconds"] == 5.0


async def test_delete_removes_it_and_lets_go(world: World) -> None:
    """204 without a body, whoever it held goes on; then there is none: 404, as for a PATCH."""
    await ask(world, "PUT", "f", {**HANG, "enabled": True})
    held = asyncio.create_task(world.get("users", "/users/1"))
    while not (await shown(world))["f"]["active"]:
        await asyncio.sleep(0)
    assert (await shown(world))["f"]["matches"] == (await shown(world))["f"]["hits"] == 1
    gone = await ask(world, "DELETE", "f")
    assert (gone.status, gone.body) == (204, b"")
    assert (await held).status == 200
    for method, body in (("DELETE", None), ("PATCH", {"enabled": True}), ("GET", None)):
        missing = await ask(world, method, "f", body)
        assert (missing.status, missing.json["detail"]) == (404, "no fault f; there are slow-inventory")
    await ask(world, "DELETE", "slow-inventory")
    assert (await ask(world, "DELETE", "f")).json["detail"] == "no fault f; there are none"
    assert await shown(world) == {}


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/kind", "/service"]),
        (
            {"service": "users", "kind": "hung", "times": 0, "what": 1, "caller": "x"},
            ["/kind", "/times", "/what", "/caller"],
        ),
        ({"kind": "hang"}, ["/service"]),
        ({**HANG, "kind": "hung"}, ["/kind"]),
        ({**HANG, "service": "billing"}, ["/service"]),
        ({**HANG, "caller": "nobody"}, ["/caller"]),
        ({**HANG, "kind": "delay", "seconds": -1}, ["/seconds"]),
        ({**HANG, "kind": "delay", "seconds": 10**30}, ["/seconds"]),
        ({**HANG, "kind": "delay"}, ["/seconds"]),
        ({**HANG, "seconds": 1}, ["/seconds"]),
        ({**HANG, "secnods": 1, "probability": 2}, ["/secnods", "/probability"]),
        ({**HANG, "times": 10**30}, ["/times"]),
        ({**HANG, "headers": {"x": 1}}, ["/headers"]),
        ({**HANG, "headers": {"a b": "x"}}, ["/headers/a b"]),
        ({**HANG, "headers": {"a/b~c": "x"}}, ["/headers/a~1b~0c"]),
        ({**HANG, "script": ["ok", "nonsense"]}, ["/script"]),
        ([], [""]),
        ("hang", [""]),
    ],
)
async def test_a_wrong_field_is_422_with_its_place_in_the_body(world: World, body: Any, pointers: list[str]) -> None:
    """All of them at once, as JSON pointers; nothing is made."""
    answer = await ask(world, "PUT", "f", body)
    assert answer.status == 422, answer
    assert [error["pointer"] for error in answer.json["errors"]] == pointers, answer
    assert "f" not in await shown(world)


@pytest.mark.parametrize("name", ["_a", "-a", "a.b", "a" * 64, "a%20b", "%C3%A4", "%FF", "a%0A"])
async def test_a_wrong_name_is_422(world: World, name: str) -> None:
    """It is the path's fault, and no place in the body's."""
    answer = await ask(world, "PUT", name, HANG)
    assert answer.status == 422
    assert [error["pointer"] for error in answer.json["errors"]] == ["name"]
    assert (await ask(world, "DELETE", name)).status == 404


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"{", JSON, 400),
        (b"hang", JSON, 400),
        (b"\xff", JSON, 400),
        (b'{"service": "\\ud800"}', JSON, 400),
        (b'{"seconds": 1e999}', JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b'{"enabled": false}' + b" " * 2_000_000, JSON, 413),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_what_cannot_be_read(world: World, method: str, data: bytes, headers: Any, status: int) -> None:
    """Not JSON is 400; not said to be JSON 415; too much 413."""
    answer = await world.ask(method, "control", "/api/faults/slow-inventory", data=io.BytesIO(data), headers=headers)
    assert (answer.status, answer.json["status"]) == (status, status)


async def test_of_duplicate_keys_the_last_wins(world: World) -> None:
    """As JSON is usually read."""
    body = b'{"service": "users", "kind": "delay", "seconds": "x", "seconds": 2, "seconds": 3}'
    answer = await world.ask("PUT", "control", "/api/faults/f", data=body, headers=JSON)
    assert (answer.status, answer.json["seconds"]) == (201, 3.0)


async def test_a_fault_that_can_strike_nothing_says_so(world: World) -> None:
    """In the answer that makes it, in the list, in the log once; mended, no more."""
    made = await ask(world, "PUT", "f", {**HANG, "route": "/user/*"})
    said = "route: users has none like '/user/*'; it has /users, /users/{id}"
    assert made.json["warnings"] == (await shown(world))["f"]["warnings"] == [said]
    assert [line["problem"] for line in world.logged("config.questionable")] == [f"faults.f.{said}"]
    assert (await ask(world, "PATCH", "f", {"route": "/users/*"})).json["warnings"] == []
    assert len(world.logged("config.questionable")) == 1
