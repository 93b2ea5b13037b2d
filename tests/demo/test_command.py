"""`python -m meshlite demo` as a process, with a short story of one's own, made as a user makes one: by copying."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import run
from tests.test_imports import loaded

OWN = """
from meshlite.demo.scenario import Claim, Phases, Row, Scenario, Trouble, Users, waited

SCENARIO = Scenario(
    name="mine",
    title="Users becomes slow.",
    intro="A story of one's own.",
    without=("edges.orders.users.breaker=false",),
    says_without="nothing",
    says_with="a breaker",
    explains="It breaks.",
    users=Users(rate=20, mix={"order": 1}),
    trouble=Trouble(
        marks=("slow", "well"),
        begins="users is slow",
        ends="users is well",
        fault={"service": "users", "kind": "delay", "seconds": 5.0},
    ),
    phases=Phases(0.2, 0.6, 0.4),
    quick=Phases(0.2, 0.6, 0.4),
    rows=(Row("typical", "typical wait", waited(0.5), "s"),),
    claims=(Claim("Buyers wait.", lambda without, with_: without["typical"] > LIMIT),),
)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A story that takes three seconds, in a folder whose config.toml is of no use."""
    (tmp_path / "config.toml").write_text("[mesh]\nhost = 7")
    (tmp_path / "mine.py").write_text(OWN.replace("LIMIT", "0.01"))
    return tmp_path


@pytest.mark.slow
async def test_a_story_of_ones_own_is_told(own: Path) -> None:
    """Both runs, a table, the claim; no colour where nobody looks; the config of this folder is no part of it."""
    code, out, err = await run(own, "demo", "mine.py")
    assert (code, err) == (0, "")
    assert out.startswith("Users becomes slow.\n")
    assert out.index("WITHOUT: nothing") < out.index("▼ users is slow") < out.index("WITH: a breaker")
    assert "\n  yes Buyers wait." in out
    assert "\33" not in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.slow
async def test_its_help_says_which_config_it_reads(own: Path) -> None:
    """None but the one that is named, whereas other commands read that of the folder."""
    for command, says in (
        ("demo", "(default: none, not even config.toml here)"),
        ("check", "(default: config.toml here)"),
    ):
        code, out, _ = await run(own, command, "--help")
        assert code == 0
        assert says in " ".join(out.split())


@pytest.mark.slow
async def test_for_scripts_it_is_one_document_and_a_picture(own: Path) -> None:
    """With --json nothing else is on stdout; a claim that does not hold is exit code 1; --set has the last word."""
    (own / "mine.py").write_text(OWN.replace("LIMIT", "99"))
    code, out, err = await run(own, "demo", "mine.py", "--json", "--svg", "story.svg", "--set", "mesh.seed=7")
    assert (code, err) == (1, "")
    document = json.loads(out)
    assert (document["scenario"], document["seed"], document["held"]) == ("mine", 7, False)
    assert {entry["run"] for entry in document["timeline"]} == {"without", "with"}
    assert (own / "story.svg").read_text().startswith("<svg ")


@pytest.mark.slow
async def test_who_reads_no_further_stops_nothing(own: Path) -> None:
    """`demo | head -1`: the picture is drawn all the same, and nothing is on stderr."""
    command = (
        f"{shlex.quote(sys.executable)} -m meshlite demo mine.py --svg story.svg | head -1; echo ${{PIPESTATUS[0]}}"
    )
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", command), cwd=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (out, err) == (b"Users becomes slow.\n0\n", b"")
    assert (own / "story.svg").exists()


@pytest.mark.slow
async def test_what_cannot_be_is_said_before_anything_runs(own: Path) -> None:
    """A story that there is not, a folder that there is not, a key that there is not: one line and exit code 2."""
    for arguments, says in (
        (["slwo"], "no scenario 'slwo': there are slow, dead,"),
        (["mine.py", "--svg", "nowhere/story.svg"], "cannot write nowhere/story.svg: there is no such folder"),
        (["mine.py", "--set", "mesh.sede=7"], "meshlite: --set mesh.sede: unknown; did you mean "),
        (["nosuch.py"], "meshlite: nosuch.py: there is no such file\n"),
        (["--set", "foo=1"], "meshlite: --set foo: unknown section; known: mesh, "),
    ):
        code, out, err = await run(own, "demo", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("meshlite: ")
        assert says in err
        assert err.count("\n") == 1


@pytest.mark.slow
async def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    """In the midst of a story with data on disk: no traceback, no file, the usual exit code."""
    (tmp_path / "tmp").mkdir()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshlite", "demo", "dead", "--svg", "story.svg"),
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    while b"+1.0 s" not in await asyncio.wait_for(process.stdout.readline(), 10):
        pass
    assert list((tmp_path / "tmp").iterdir())
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, err) == (130, b"")
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]


def test_other_commands_pay_nothing_for_it() -> None:
    """The command line knows the stories' names, and loads none of them."""
    assert not loaded("import meshlite.cli; meshlite.cli._parser()") & {"aiohttp", "uvloop", "structlog"}
