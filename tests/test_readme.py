"""The README's commands are run, and its claims looked up."""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from meshlite.config import load
from tests.conftest import World
from tests.test_cli import meshlite, run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = shlex.quote(sys.executable)
PORTS = {"8080": "users", "8081": "orders", "8082": "inventory", "8090": "control"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


async def shell(script: str, folder: Path, urls: dict[str, str]) -> str:
    """What a block prints, its localhost ports being those of a running mesh."""
    for port, name in PORTS.items():
        script = script.replace(f"http://localhost:{port}", urls[name])
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        script,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, (script, err.decode())
    return out.decode()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
async def test_every_shell_command_does_what_the_text_says(tmp_path: Path) -> None:
    """From the first curl to the healed breaker, in the README's order, against a real process."""
    shutil.copy(ROOT / "config.toml", tmp_path)
    setup, reads, order, _, flip, slow, refused, heal, commands, check, tests = blocks("sh")
    assert setup.strip() == "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/python -m meshlite"
    ci = (ROOT / ".ci/run").read_text()
    assert tests.strip() in ci, "CI runs the README's test command"
    async with meshlite(tmp_path) as process:
        seen = await shell(reads, tmp_path, process.urls)
        assert '"name":"Ada Lovelace"' in seen
        assert '"orders":[{' in seen
        assert '"sku":"SKU-5"' in seen
        assert '"name":"Moka pot"' in seen.rpartition('"orders":')[2], "through all three"
        assert "HTTP/1.1 201 Created" in await shell(order, tmp_path, process.urls)
        assert "Idempotent-Replayed: true" in await shell(order, tmp_path, process.urls)
        await shell(flip, tmp_path, process.urls)
        seen = await shell(slow, tmp_path, process.urls)
        assert next(float(n) for n in re.findall(r"200 after ([\d.]+) s", seen)) < 1.0
        assert seen.splitlines()[-1].strip() == "meshlite-degraded: inventory; reason=circuit_open"
        seen = await shell(refused, tmp_path, process.urls)
        assert '"edge":"orders→inventory"' in seen
        assert '"reason":"3 consecutive failures, last: no answer after 0.' in seen
        assert '"degraded":[]' in await shell(heal, tmp_path, process.urls)
        place = f" --set control.port={process.urls['control'].rpartition(':')[2]}"
        commands = re.sub(r"^\.venv/bin/python (.*)$", rf"{PYTHON} \1{place}", commands, flags=re.MULTILINE)
        seen = await shell(commands, tmp_path, process.urls)
        for said in (r"slow-inventory +on ", r"users +stopped", r"orders→inventory +open", r"users +running"):
            assert re.search(said, seen), said
        assert re.search(r"faults off +slow-inventory\nbreakers reset +orders→inventory\nservices started", seen)
    python = check.replace(".venv/bin/python", PYTHON)
    assert "do not fit into" in await shell(python, tmp_path, dict.fromkeys(PORTS.values(), ""))


@pytest.mark.slow
async def test_the_demo_says_what_the_text_shows(tmp_path: Path) -> None:
    """The command is there, and what it prints has the lines of the README's table; here of a much shorter story."""
    assert ".venv/bin/python -m meshlite demo\n" in blocks("sh")
    short = "from dataclasses import replace\nfrom meshlite.demo.scenario import Phases\n"
    short += "from meshlite.demo.slow import SCENARIO\nSCENARIO = replace(SCENARIO, phases=Phases(0.2, 0.6, 0.3))\n"
    (tmp_path / "short.py").write_text(short)
    _, out, err = await run(tmp_path, "demo", "short.py")
    assert err == ""
    said = {line[:46].strip() for line in out.splitlines()}
    table = README.partition("## See it in thirty seconds")[2].partition("```\n  ")[2].partition("```")[0]
    assert {line[:46].strip() for line in table.splitlines()} <= said


@pytest.mark.parametrize("code", blocks("python"))
async def test_every_python_example_runs(world: World, code: str) -> None:
    """As written, in a process of its own."""
    code = code.replace("http://localhost:8080", world.url("users"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out


def test_every_config_example_is_valid(tmp_path: Path) -> None:
    """The TOML of the README is a config."""
    (code,) = blocks("toml")
    (tmp_path / "x.toml").write_text(code)
    config = load(tmp_path / "x.toml")
    assert config.faults["broken-users"].probability == 0.3
    assert tomllib.loads(code)["policy"]["timeout"] == load(ROOT / "config.toml").policy.timeout


def test_every_place_that_is_linked_exists() -> None:
    """No link of the documents leads nowhere."""
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_map_names_every_file_there_is() -> None:
    """The architecture map is the tree."""
    tree = README.partition("## How it is built")[2]
    for path in (ROOT / "src/meshlite").iterdir():
        if path.suffix == ".py" and path.name != "__init__.py":
            assert path.name in tree, path.name
        elif path.is_dir() and (path / "__init__.py").exists():
            assert f"{path.name}/" in tree, path.name
