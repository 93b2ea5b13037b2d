"""The command line, as a person uses it: real processes."""

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshlite import __version__
from meshlite.cli import main
from tests.conftest import FREE_PORTS

pytestmark = pytest.mark.slow


class Process:
    """A running `python -m meshlite`."""

    def __init__(self, process: asyncio.subprocess.Process, banner: str) -> None:
        self.process = process
        self.banner = banner
        self.urls = dict(re.findall(r"^  (users|orders|inventory|control) +(http://\S+)$", banner, re.MULTILINE))

    async def end(self, *signals: signal.Signals) -> tuple[int, list[dict[str, object]]]:
        """Send the signals; the exit code, and what was logged."""
        for number in signals:
            self.process.send_signal(number)
            await asyncio.sleep(0.1)
        _, log = await asyncio.wait_for(self.process.communicate(), 10)
        assert b"once more" not in log
        return self.process.returncode or 0, [json.loads(line) for line in log.splitlines()]


@asynccontextmanager
async def meshlite(folder: Path, *arguments: str) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "meshlite", *arguments]
    for override in FREE_PORTS:
        command += ["--set", override]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TERM": "dumb"},
    )
    assert process.stdout is not None
    try:
        banner = b""
        while b"Ctrl-C" not in banner:
            line = await asyncio.wait_for(process.stdout.readline(), 10)
            assert line, (await process.communicate())[1].decode()
            banner += line
        yield Process(process, banner.decode())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "meshlite",
        *arguments,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode or 0, out.decode(), err.decode()


async def test_it_says_where_everything_is(tmp_path: Path) -> None:
    """The four addresses, three commands to try, the config and the data folder in force; the commands work."""
    async with meshlite(tmp_path) as process, aiohttp.ClientSession() as client:
        assert set(process.urls) == {"users", "orders", "inventory", "control"}
        assert "built-in defaults" in process.banner
        assert str(tmp_path / "data") in process.banner
        curls = re.findall(r"^  curl '?(http://[^'\s]+)'?$", process.banner, re.MULTILINE)
        assert len(curls) == 3
        for url in curls:
            async with client.get(url) as response:
                assert response.status == 200
    assert sorted(path.name for path in (tmp_path / "data").glob("*.db")) == ["inventory.db", "orders.db", "users.db"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    """What is in flight finishes, the exit code is 0, and the log tells the way there."""
    slow = ["--set", "faults.f={kind='delay', seconds=0.5, service='users', enabled=true}"]
    async with meshlite(tmp_path, *slow, "--log-format", "json") as process, aiohttp.ClientSession() as client:
        request = asyncio.create_task(client.get(process.urls["users"] + "/users/1"))
        await asyncio.sleep(0.2)
        ended = asyncio.create_task(process.end(number))
        async with await request as response:
            assert (response.status, response.headers["Connection"]) == (200, "close")
        code, log = await ended
        assert code == 0
        moves = [(line["service"], line["state"]) for line in log if line["event"] == "service.moved"]
        for name in ("users", "orders", "inventory"):
            assert [state for service, state in moves if service == name] == ["running", "draining", "stopped"]


async def test_sighup_says_that_nothing_has_changed(tmp_path: Path) -> None:
    """In one line, where the file is as it was."""
    (tmp_path / "config.toml").write_text("[mesh]\nseed = 1\n")
    async with meshlite(tmp_path, "--log-format", "json") as process:
        _, log = await process.end(signal.SIGHUP, signal.SIGTERM)
    assert [line["event"] for line in log if str(line["event"]).startswith("config.")] == ["config.unchanged"]


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Nobody has to wait for a grace."""
    hang = [
        "--set",
        "faults.f={kind='delay', seconds=60, service='users', enabled=true}",
        "--set",
        "mesh.shutdown_grace=60",
    ]
    async with meshlite(tmp_path, *hang) as process, aiohttp.ClientSession() as client:
        request = asyncio.create_task(client.get(process.urls["users"] + "/users/1"))
        await asyncio.sleep(0.2)
        loop = asyncio.get_running_loop()
        start = loop.time()
        code, _ = await process.end(signal.SIGTERM, signal.SIGTERM)
        assert loop.time() - start < 2
        assert code == 128 + signal.SIGTERM
        with pytest.raises(aiohttp.ClientError):
            await request


@pytest.mark.parametrize("keys", [["services.orders.port"], ["services.users.port", "control.port"]])
async def test_a_taken_port_is_one_line(tmp_path: Path, keys: list[str]) -> None:
    """Exit 2, a line for each port, which names the `--set` that helps; no data folder made."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in keys]
        ports = [server.getsockname()[1] for server in servers]
        chosen = [*FREE_PORTS, *(f"{key}={port}" for key, port in zip(keys, ports, strict=True))]
        code, out, err = await run(tmp_path, *(text for key in chosen for text in ("--set", key)))
    assert (code, out) == (2, "")
    assert err == "".join(
        f"meshlite: cannot listen on 127.0.0.1:{port}: Address already in use; "
        f"start the mesh with another: --set {key}=PORT\n"
        for key, port in zip(keys, ports, strict=True)
    )
    assert list(tmp_path.iterdir()) == []


def test_every_help_fits_into_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what argparse leaves as it is."""
    monkeypatch.setenv("COLUMNS", "80")
    for command in ("", "serve", "check", "demo", "status", "edges", "breaker", "fault", "fault set", "service stop"):
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


async def test_a_data_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    """Exit 2, with the folder and the key."""
    (tmp_path / "file").write_text("")
    overrides = [text for key in FREE_PORTS for text in ("--set", key)]
    code, out, err = await run(tmp_path, *overrides, "--set", "mesh.data=file/data")
    assert (code, out) == (2, "")
    assert err.startswith(f"meshlite: cannot write to the data folder {tmp_path / 'file/data'}: Not a directory")
    assert err.count("\n") == 1


async def test_a_newer_database_is_one_line(tmp_path: Path) -> None:
    """Exit 2 before anything listens for long."""
    import sqlite3

    (tmp_path / "data").mkdir()
    connection = sqlite3.connect(tmp_path / "data/orders.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    overrides = [text for key in FREE_PORTS for text in ("--set", key)]
    code, _, err = await run(tmp_path, *overrides)
    assert code == 2
    assert re.fullmatch(r"meshlite: the database .*orders\.db has schema version 99, newer than .*\n", err), err


async def test_a_wrong_config_is_all_said_at_once(tmp_path: Path) -> None:
    """`check` and a start say the same, every fault with its place, exit 2; a good file is `ok`."""
    (tmp_path / "config.toml").write_text("[policy]\ntimeout = 0\n[services.users]\nport = 'x'\n")
    for arguments in (["check"], []):
        code, out, err = await run(tmp_path, *arguments)
        assert (code, out) == (2, "")
        assert err.splitlines() == [
            "meshlite: config.toml: policy.timeout: expected a number above 0, got 0",
            "meshlite: config.toml: services.users.port: expected a whole number, got 'x'",
        ]
    (tmp_path / "config.toml").write_text("[edges.orders.users]\nattempt_timeout = 0.5\n")
    code, out, err = await run(tmp_path, "check")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "warning: edges.orders.users.timeout: 2 attempts of 0.5 s do not fit into 0.6 s: the last ones are cut short",
        "config.toml: ok",
    ]


async def test_a_script_reads_what_is_wrong_with_the_config_as_json(tmp_path: Path) -> None:
    """One document on the standard output either way; the exit code is that of the words."""
    (tmp_path / "config.toml").write_text("[edges.orders.users]\nattempt_timeout = 0.5\n")
    code, out, err = await run(tmp_path, "check", "--json")
    found = json.loads(out)
    assert (code, err, found["ok"], found["problems"]) == (0, "", True, [])
    (warning,) = found["warnings"]
    assert warning.startswith("edges.orders.users.timeout: 2 attempts of 0.5 s do not fit")
    for wrong in ("policy.timeout=0", "mesh.data=config.toml/data"):
        code, out, err = await run(tmp_path, "--json", "check", "--set", wrong)
        assert (code, err) == (2, "")
        found = json.loads(out)
        assert (found["ok"], found["warnings"]) == (False, [])
        (problem,) = found["problems"]
        assert wrong.partition("=")[0] in problem


async def test_an_order_survives_a_kill(tmp_path: Path) -> None:
    """201, SIGKILL, start again: the order is there, confirmed."""
    body = {"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]}
    async with aiohttp.ClientSession() as client:
        async with meshlite(tmp_path) as process:
            async with client.post(process.urls["orders"] + "/orders", json=body) as response:
                assert response.status == 201
                place = response.headers["Location"]
            process.process.kill()
        async with meshlite(tmp_path) as process, client.get(process.urls["orders"] + place) as response:
            assert (await response.json())["status"] == "confirmed"


def test_options_go_before_or_after_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--set X check` and `check --set X` mean the same."""
    monkeypatch.chdir(tmp_path)
    for arguments in (["--set", "policy.timeout=0", "check"], ["check", "--set", "policy.timeout=0"]):
        assert main(arguments) == 2
        assert "policy.timeout" in capsys.readouterr().err
    (tmp_path / "x.toml").write_text("[mesh]\nseed = 'x'")
    for arguments in (["--config", "x.toml", "check"], ["check", "--config", "x.toml"]):
        assert main(arguments) == 2
        assert "x.toml: mesh.seed" in capsys.readouterr().err


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version`."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"meshlite {__version__}\n"


async def test_the_first_ctrl_c_says_what_a_second_one_does(tmp_path: Path) -> None:
    """On a terminal, at once, while what is in flight still finishes; in a pipe the log says it instead."""
    overrides = [text for key in FREE_PORTS for text in ("--set", key)]
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshlite", "--log-format", "json", *overrides),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=slave,
    )
    os.close(slave)
    assert process.stdout is not None
    while b"Ctrl-C" not in await asyncio.wait_for(process.stdout.readline(), 10):
        pass
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 10) == 0
    await process.communicate()
    assert b"stopping; once more stops at once\r\n" in os.read(master, 65_536)
    os.close(master)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
async def test_it_serves_and_stops_where_standard_files_are_closed(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """As some supervisors start it: the next file opened must not take their numbers."""
    ports = [text for override in FREE_PORTS for text in ("--set", override)]
    shut = " ".join(f"{number}>&-" for number in closed)
    command = f'"$0" -m meshlite "$@" {shut} & echo $!; wait $!; echo "ended $?"'
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command, sys.executable, *ports, cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    number = int(await process.stdout.readline())
    while not (tmp_path / "data" / "users.db").exists():
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    os.kill(number, signal.SIGTERM)
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert out.endswith(b"ended 0\n"), out


async def test_what_cannot_be_printed_is_one_line(tmp_path: Path) -> None:
    """A full disk behind the standard output: no traceback."""
    for arguments in (("check",), ("fault", "list")):
        command = f'"$0" -m meshlite {" ".join(arguments)} >/dev/full'
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", command, sys.executable, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
        )
        _, complaint = await process.communicate()
        assert process.returncode in (2, 3)
        assert complaint.count(b"\n") == 1 and complaint.startswith(b"meshlite: "), complaint


async def test_check_tells_of_what_no_start_could_use(tmp_path: Path) -> None:
    """A service of one's own that is not where it should be, and a data folder that cannot be written to."""
    (tmp_path / "there").write_text("")
    settings = ("services.users.app=nope:create", "services.orders.app=os:nope", "mesh.data=there/data")
    code, _, complaints = await run(tmp_path, "check", *(text for one in settings for text in ("--set", one)))
    assert code == 2
    lines = complaints.splitlines()
    assert [line.split(": ")[1].split(" = ")[0] for line in lines] == [
        "mesh.data",
        "cannot load services.users.app",
        "cannot load services.orders.app",
    ]
    (tmp_path / "mine.py").write_text("def create(context): ...")
    assert (await run(tmp_path, "check", "--set", "services.users.app=mine:create"))[0] == 0
    script = "import sys; sys.path.remove(''); from meshlite.cli import main; sys.exit(main())"  # as `meshlite` is run
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, "check", "--set", "services.users.app=mine:create"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0


async def test_a_config_that_comes_through_a_pipe_holds_to_the_end(tmp_path: Path) -> None:
    """It can be read once: what is read again is what came."""
    file = tmp_path / "c.toml"
    os.mkfifo(file)
    writer = asyncio.create_task(asyncio.to_thread(file.write_text, "[policy]\ntimeout = 1.5\n"))
    async with meshlite(tmp_path, "--config", "c.toml") as process, aiohttp.ClientSession() as client:
        await writer
        process.process.send_signal(signal.SIGHUP)
        async with client.get(process.urls["control"] + "/api/config?prefix=policy.timeout") as response:
            found = await response.json()
        assert (found["config"][0]["value"], found["problems"]) == (1.5, [])
        assert (tmp_path / "data").is_dir()
        _, log = await process.end(signal.SIGTERM)
    assert "config.unchanged" in [line["event"] for line in log]


def test_check_needs_no_folder_to_be_in(tmp_path: Path) -> None:
    """One that is gone is no traceback."""
    (gone := tmp_path / "gone").mkdir()
    (file := tmp_path / "c.toml").write_text("")
    code = f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); from meshlite.cli import main; "
    code += f"raise SystemExit(main(['check', '--config', {str(file)!r}]))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


async def test_nobody_waits_for_the_writer_of_a_pipe_that_was_a_file(tmp_path: Path) -> None:
    """It is said, what was in force stays, and the loop goes on."""
    file = tmp_path / "c.toml"
    file.write_text("[policy]\ntimeout = 1.5\n")
    async with meshlite(tmp_path, "--config", "c.toml") as process, aiohttp.ClientSession() as client:
        file.unlink()
        os.mkfifo(file)
        process.process.send_signal(signal.SIGHUP)
        found: dict[str, Any] = {}
        while not found.get("problems"):
            async with client.get(process.urls["control"] + "/api/config?prefix=policy.timeout") as response:
                found = await response.json()
        assert found["problems"] == ["c.toml: is no file that can be read again"]
        assert found["config"][0]["value"] == 1.5


async def test_a_name_that_is_missing_is_said(tmp_path: Path) -> None:
    """Not looked for."""
    for arguments in (("fault", "enable", ""), ("fault", "set", "", "kind=hang"), ("service", "stop", "")):
        code, _, complaint = await run(tmp_path, *arguments)
        assert (code, complaint.splitlines()[-1].endswith("a name is missing")) == (2, True)
