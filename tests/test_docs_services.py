"""The page on services of one's own: its example is mounted, asked, broken and drained."""

import re
from pathlib import Path

import pytest

from meshlite.config import EDGES, load
from tests.conftest import StartMesh

PAGE = (Path(__file__).parents[1] / "docs" / "services.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


async def test_the_example_is_a_service(start_mesh: StartMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers, knows whom it has not, does without a peer that is away, is asked by orders; faults strike it."""
    (tmp_path / "guests.py").write_text(block("python"))
    (tmp_path / "config.toml").write_text(block("toml"))
    monkeypatch.syspath_prepend(tmp_path)
    app = load(tmp_path / "config.toml").services["users"].app
    fault = [f"faults.f.{key}" for key in ("service='users'", "kind='error'", "status=503", "enabled=false")]
    world = await start_mesh(f"services.users.app='{app}'", *fault)
    answer = await world.get("users", "/users/1")
    assert answer.json["name"] == "Guest 1"
    assert answer.json["orders"] >= 1
    for id_ in ("101", "0", "-1", "x", "1.5", "9" * 18, "9" * 400):
        answer = await world.get("users", f"/users/{id_}")
        assert (answer.status, answer.json["type"]) == (404, "urn:meshlite:problem:not-found")
        assert "see /docs" not in answer.json["detail"], "it has none"
    assert (await world.order(("SKU-1", 1))).status == 201
    assert (await world.order(("SKU-1", 1), user_id=101)).json["type"] == "urn:meshlite:problem:unknown-user"
    assert (await world.get("users", "/readyz")).status == 200
    await world.ask("PATCH", "control", "/api/faults/f", {"enabled": True})
    assert (await world.get("users", "/users/1")).headers["meshlite-fault"] == "f"
    await world.ask("PATCH", "control", "/api/faults/f", {"enabled": False})
    world.mesh.edges["users", "orders"].set_mode("forced_open")
    assert (await world.get("users", "/users/1")).json["orders"] is None
    assert [line["reason"] for line in world.logged("guest.alone")] == ["circuit_open"]


def test_who_asks_what_is_complete() -> None:
    """Every edge is in the table, from its callee's side."""
    rows = dict(re.findall(r"^\| (\w+) \| .* \| ([^|]*) \|$", PAGE, re.MULTILINE))
    assert {(caller, callee) for caller, callee in EDGES if rows[callee].startswith(caller)} == set(EDGES)
