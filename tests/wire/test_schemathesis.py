"""Schemathesis against the OpenAPI documents of a running mesh: made-up requests, good and bad, and their links."""

import asyncio
import importlib.util
import os
import re
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.test_crash import serve

HERE = Path(__file__).parent
APPS = ("users", "orders", "inventory", "control")
EXCLUDED = {"control": ("--exclude-path", "/api/events")}
"""A stream has no end: whoever reads it whole waits until his patience is over. It has its own tests."""
PATIENCE = 60.0


async def schemathesis(folder: Path, url: str, *more: str) -> tuple[int | None, str]:
    """Its exit code, and what it said. In a process of its own: its warnings are no errors of this one."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run"),
        *(f"{url}/openapi.json", "--no-color", *more),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "openapi_checks.py")},
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said.decode()


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="pip install -e '.[dev]'")
async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """Every check on every operation, the states behind the links too; afterwards the mesh serves as before.

    The control plane comes last: it strikes with faults, and stops, kills and starts the services. It outlives
    them, and a reset at the end starts them all again.
    """
    async with serve(tmp_path) as served:
        for app in APPS:
            code, said = await schemathesis(tmp_path, served.urls[app], *EXCLUDED.get(app, ()))
            assert code == 0, f"{app}:\n{said[said.find('= FAILURES') :]}"
            followed = re.search(r"API Links: +(\d+) covered", said)
            assert followed is not None and int(followed[1]) > 0, said
        async with aiohttp.ClientSession() as client:
            async with client.post(served.urls["control"] + "/api/reset") as response:
                assert response.status == 200, await response.text()
            async with client.get(served.urls["users"] + "/users?limit=1") as response:
                assert response.status == 200, await response.text()
    assert "request.crashed" not in (tmp_path / "log").read_text()
