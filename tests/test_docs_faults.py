"""The page on faults: its tables are complete, its config loads, its commands are done."""

import asyncio
import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from msgspec.structs import fields

from meshlite.cli import main
from meshlite.config import load
from meshlite.rules import KINDS, OWN, FaultRule
from tests.conftest import StartMesh

PAGE = (Path(__file__).parents[1] / "docs" / "faults.md").read_text(encoding="utf-8")
PORTS = {"8080": "users", "8090": "control"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every command of the page, in its order."""
    return [shlex.split(line) for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("code", blocks("toml"))
def test_every_config_example_is_valid(tmp_path: Path, code: str) -> None:
    """Each by itself."""
    file = tmp_path / "x.toml"
    file.write_text(code)
    names = re.findall(r"^\[faults\.([\w-]+)\]", code, re.MULTILINE)
    assert names
    assert set(names) <= set(load(file).faults)


def test_the_table_of_kinds_is_complete() -> None:
    """Every kind with its own keys, and no other; every other key is somewhere on the page."""
    rows = dict(re.findall(r"^\| `(\w+)` \| ?(.*?)\|", PAGE, re.MULTILINE))
    assert {kind: set(re.findall(r"`(\w+)`", rows[kind])) for kind in KINDS} == {
        kind: set(OWN.get(kind, ())) for kind in KINDS
    }
    for field in fields(FaultRule):
        assert re.search(rf"\b{field.name}\b", PAGE), field.name


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_prints_what_the_page_shows(code: str) -> None:
    """The same sequence here as where the page was written."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "docs/faults.md", "exec"), {})
    (shown,) = blocks("text")
    assert out.getvalue() == shown


async def test_every_command_does_what_it_says(start_mesh: StartMesh, capsys: pytest.CaptureFixture[str]) -> None:
    """From the page's first to its last, against a running mesh; those that start one are checked instead."""
    world = await start_mesh("mesh.allow_header_faults=true")
    port = world.url("control").rpartition(":")[2]
    done = []
    for command in commands():
        if command[0] == "curl":
            method, headers, data, url = "GET", {}, None, ""
            words = iter(command[1:])
            for word in words:
                match word:
                    case "-X":
                        method = next(words)
                    case "-H":
                        name, _, value = next(words).partition(": ")
                        headers[name] = value
                    case "-d":
                        data = json.loads(next(words))
                    case _:
                        url = word
            _, number, path = re.fullmatch(r"(http://localhost):(\d+)(/.*)", url).groups()  # type: ignore[union-attr]
            answer = await world.ask(method, PORTS[number], path, data, headers=headers)
            fault = answer.headers.get("meshlite-fault")
            assert answer.status == 503 if fault and "abort" in fault else answer.status < 300, (command, answer)
            assert (fault is None) == (number == "8090")
        else:
            assert command[:3] == ["python", "-m", "meshlite"], command
            serves = command[3].startswith("-")
            arguments = ["check", *command[3:]] if serves else [*command[3:], "--set", f"control.port={port}"]
            assert await asyncio.to_thread(main, arguments) == 0, (command, capsys.readouterr().err)
        done.append(command[0])
    assert (done.count("curl"), done.count("python")) == (7, 10)
    switched = [(line["fault"], line["enabled"]) for line in world.logged("fault.switched")]
    assert switched == [
        ("slow-inventory", True),
        ("flaky", True),
        ("slow-inventory", False),
        ("flaky", False),
        ("lost", True),
        ("lost", False),
    ]
