"""What the control plane tells: the config, the log, the probes, its own document."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from tests.conftest import StartMesh, World
from tests.control.conftest import Logging

OPERATIONS = {
    "GET /": "text/html",
    "GET /api/overview": "application/json",
    "GET /api/history": "application/json",
    "GET /api/load": "application/json",
    "PUT /api/load": "application/json",
    "DELETE /api/load": "application/json",
    "GET /api/services": "application/json",
    "POST /api/services/{name}/{action}": "application/json",
    "GET /api/edges": "application/json",
    "GET /api/edges/{caller}/{callee}": "application/json",
    "PUT /api/edges/{caller}/{callee}/breaker": "application/json",
    "POST /api/edges/{caller}/{callee}/breaker/reset": "application/json",
    "GET /api/faults": "application/json",
    "GET /api/faults/{name}": "application/json",
    "PUT /api/faults/{name}": "application/json",
    "PATCH /api/faults/{name}": "application/json",
    "DELETE /api/faults/{name}": None,
    "POST /api/reset": "application/json",
    "GET /api/config": "application/json",
    "GET /api/events": "text/event-stream",
    "GET /api/logs": "application/json",
    "GET /api/traces": "application/json",
    "GET /api/traces/{trace_id}": "application/json",
    "GET /metrics": "text/plain",
    "GET /healthz": "application/json",
    "GET /readyz": "application/json",
}


async def config_of(world: World) -> dict[str, tuple[Any, str]]:
    values = (await world.get("control", "/api/config")).json["config"]
    return {value["key"]: (value["value"], value["source"]) for value in values}


async def test_only_the_keys_that_begin_so(world: World) -> None:
    """A prefix leaves out the others, and changes nothing of those that are left; one that nothing has leaves none."""
    whole = (await world.get("control", "/api/config")).json["config"]
    for prefix in ("edges.orders.inventory.", "edges.o", "faults.", "control.token", "e", "policy.timeout", "none."):
        asked = (await world.get("control", f"/api/config?prefix={prefix}")).json["config"]
        assert asked == [value for value in whole if value["key"].startswith(prefix)]
        assert bool(asked) is (prefix != "none.")
    assert (await world.get("control", "/api/config?prefix=")).status == 422


@pytest.mark.looptime
async def test_every_value_says_where_it_came_from(start_mesh: StartMesh, tmp_path: Path) -> None:
    """The default, the file, a flag, or an edit; of an edge, whichever is said last, of it or of all edges."""
    file = tmp_path / "config.toml"
    file.write_text("[policy]\ntimeout = 3.0\n[faults.f]\nservice = 'users'\nkind = 'hang'\nenabled = false\n")
    world = await start_mesh("mesh.seed=7", "policy.attempt_timeout=0.8", config=file)
    await world.ask("PATCH", "control", "/api/faults/f", {"enabled": True})
    found = await config_of(world)
    for key, value in {
        "mesh.host": ("127.0.0.1", "default"),
        "mesh.seed": (7, "flag"),
        "control.port": (0, "flag"),
        "control.allowed_hosts": ([], "default"),
        "control.token": (None, "default"),
        "log.level": ("info", "default"),
        "services.users.app": ("meshlite.services.users:create_app", "default"),
        "policy.timeout": (3.0, "file"),
        "policy.retry.attempts": (2, "default"),
        "policy.admission.max_concurrent": (200, "default"),
        "edges.users.orders.timeout": (3.0, "file"),
        "edges.users.orders.attempt_timeout": (0.8, "flag"),
        "edges.orders.inventory.timeout": (3.0, "file"),
        "edges.orders.inventory.attempt_timeout": (0.8, "flag"),
        "edges.orders.inventory.breaker.max_failures": (3, "default"),
        "faults.f.kind": ("hang", "file"),
        "faults.f.enabled": (True, "api"),
        "faults.f.probability": (1.0, "default"),
        "faults.slow-inventory.seconds": (5.0, "default"),
    }.items():
        assert found[key] == value, key
    sections = {key.split(".")[0] for key in found}
    assert sections == {"mesh", "limits", "log", "services", "control", "policy", "edges", "faults"}
    whole = (await world.get("control", "/api/config")).json
    assert (whole["file"], whole["needs_restart"]) == (str(file), [])
    await asyncio.sleep(1)
    file.write_text("[policy]\nretry = false\n[mesh]\nseed = 1\nshutdown_grace = 9.0\n[faults.f]\nservice = 'users'\n")
    file.write_text(file.read_text() + "kind = 'hang'\nenabled = true\n")
    await asyncio.sleep(1)
    found = await config_of(world)
    assert found["policy.retry"] == (False, "file")
    assert found["faults.f.enabled"] == (True, "file"), "the file has changed that very key"
    assert found["mesh.shutdown_grace"] == (5.0, "default"), "what waits is not in force"
    assert (await world.get("control", "/api/config")).json["needs_restart"] == ["mesh.shutdown_grace"]


async def test_the_token_is_shown_to_nobody(start_mesh: StartMesh) -> None:
    """Only that there is one, and where it came from."""
    world = await start_mesh("control.token=s3cret-token")
    for path in ("/api/config", "/api/services", "/openapi.json", "/api/logs", "/metrics"):
        answer = await world.get("control", path, headers={"Authorization": "Bearer s3cret-token"})
        assert answer.status == 200
        assert b"s3cret" not in answer.body
        if path == "/api/config":
            (token,) = [value for value in answer.json["config"] if value["key"] == "control.token"]
            assert token == {"key": "control.token", "value": "hidden", "source": "flag"}


async def test_a_value_that_is_no_text_is_shown_escaped(start_mesh: StartMesh) -> None:
    """A flag may be any bytes; the config and the faults can be looked at all the same."""
    world = await start_mesh("faults.f={kind='hang', service='users'}", "faults.f.route=/\udcff")
    assert (await config_of(world))["faults.f.route"] == ("/\\udcff", "flag")
    assert (await world.get("control", "/api/faults")).json["faults"][1]["route"] == "/\\udcff"


async def test_the_log_is_told_newest_first(logging: Logging) -> None:
    """Each line as what it says: requests, facts, and whatever else is logged."""
    world, log = await logging()
    await world.get("users", "/users/1")
    await world.get("orders", "/nowhere")
    log.logger.warning("till.emptied", service="orders", coins=3)
    lines = (await world.get("control", "/api/logs")).json["logs"]
    assert [line["event"] for line in lines[:3]] == ["till.emptied", "request.completed", "request.completed"]
    assert lines[0].items() >= {"level": "warning", "service": "orders", "coins": 3}.items()
    assert lines[1].items() >= {"service": "orders", "status": 404, "route": "unmatched", "level": "info"}.items()
    assert lines[2].items() >= {"service": "users", "status": 200, "route": "/users/{id}"}.items()
    assert {"timestamp", "ms", "request_id"} <= lines[2].keys()
    assert lines == sorted(lines, key=lambda line: line["timestamp"], reverse=True)
    assert {line["state"] for line in lines if line["event"] == "service.moved"} == {"running"}


async def test_the_log_can_be_filtered(logging: Logging) -> None:
    """By service, event and the least level, and by how many; filters go together."""
    world, log = await logging()
    for number in range(5):
        log.logger.debug("a", service="users", n=number)
        log.logger.warning("a", service="orders", n=number)
        log.logger.error("b", n=number)

    async def asked(query: str) -> list[tuple[str, int]]:
        lines = (await world.get("control", f"/api/logs?{query}")).json["logs"]
        return [(line["event"], line["n"]) for line in lines if "n" in line]

    assert await asked("event=a&service=users") == [("a", n) for n in (4, 3, 2, 1, 0)]
    assert await asked("event=a&service=orders&limit=2") == [("a", 4), ("a", 3)]
    assert await asked("level=error&limit=2") == [("b", 4), ("b", 3)]
    assert await asked("level=warning&limit=3") == [("b", 4), ("a", 4), ("b", 3)]
    assert await asked("event=c") == await asked("service=billing") == []
    assert len(await asked("limit=1000&level=debug")) == 15
    assert len((await world.get("control", "/api/logs?limit=1")).json["logs"]) == 1


@pytest.mark.parametrize(
    ("query", "name"),
    [
        *(("limit=0", "limit"), ("limit=1001", "limit"), ("limit=-1", "limit"), ("limit=x", "limit")),
        *(("limit=", "limit"), ("level=loud", "level"), ("service=", "service"), ("event=a%0Ab", "event")),
    ],
)
async def test_a_wrong_question_to_the_log_is_422(world: World, query: str, name: str) -> None:
    """With the name of what is wrong."""
    answer = await world.get("control", f"/api/logs?{query}")
    assert (answer.status, [error["pointer"] for error in answer.json["errors"]]) == (422, [name])


async def test_nothing_in_the_log_breaks_it(logging: Logging) -> None:
    """Half a character, control characters, an object, an exception, a number too large: shown as well as can be."""
    world, log = await logging()
    log.logger.info("odd", half="\udcff", bell="\x07\x1b[31m\n", path=Path("/x"), large=10**30, parts={1: ("\ud800",)})
    try:
        raise ValueError("\udcfe")
    except ValueError:
        log.logger.exception("odd")
    failed, odd = (await world.get("control", "/api/logs?event=odd")).json["logs"]
    assert odd["half"] == "\\udcff"
    assert odd["bell"] == "\x07\x1b[31m\n"
    assert "/x" in odd["path"]
    assert odd["parts"] == {"1": ["\\ud800"]}
    assert failed["level"] == "error" and "ValueError: \\udcfe" in failed["exception"]


async def test_the_log_has_an_end(logging: Logging) -> None:
    """The last thousand lines are kept."""
    world, log = await logging()
    for number in range(1_500):
        log.logger.info("n", n=number)
    lines = (await world.get("control", "/api/logs?limit=1000")).json["logs"]
    assert [line["n"] for line in lines] == list(range(1_499, 499, -1))


async def test_probes_speak_of_the_mesh(world: World) -> None:
    """Alive and ready, for GET and HEAD, without a token; the Host is looked at all the same."""
    for path, body in (("/healthz", {"status": "ok"}), ("/readyz", {"status": "running"})):
        assert (await world.get("control", path)).json == body
        assert (await world.ask("HEAD", "control", path)).status == 200
        assert (await world.get("control", path, headers={"Host": "evil.example"})).status == 421


async def test_the_document_has_every_operation(world: World) -> None:
    """With what it answers, and in which form; it validates, and what it lists is what there is."""
    document = (await world.get("control", "/openapi.json")).json
    validate(document)
    found = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            ok = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
            found[f"{method.upper()} {path}"] = next(iter(ok.get("content", {})), None)
            assert operation["responses"].keys() >= {"401", "421"}
            changes = method in ("post", "put", "patch", "delete")
            assert changes == ("403" in operation["responses"]), path
    assert found == OPERATIONS
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    there = {"name": "slow-inventory", "trace_id": trace_id, "caller": "orders", "callee": "inventory"}
    await world.get("users", "/users/1", headers={"Traceparent": f"00-{trace_id}-b7ad6b7169203331-01"})
    for operation, media in OPERATIONS.items():
        method, path = operation.split()
        if method == "GET":
            answer = await world.ask("HEAD", "control", path.format(**there))
            assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (200, media)
    parameters = document["paths"]["/api/logs"]["get"]["parameters"]
    (limit,) = [each["schema"] for each in parameters if each["name"] == "limit"]
    assert (limit["minimum"], limit["maximum"]) == (1, 1000)
