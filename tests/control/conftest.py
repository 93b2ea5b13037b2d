"""A mesh whose log is the real one, so that its last lines can be asked for."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import LogCapture

from meshlite.config import load
from meshlite.control.api import create_app
from meshlite.mesh import Mesh
from meshlite.telemetry import logs
from tests.conftest import FREE_PORTS, World

Logging = Callable[..., Awaitable[tuple[World, logs.Log]]]


@pytest.fixture
async def logging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Logging]:
    """Start a mesh that logs as the command does, and hand out its log as well."""
    monkeypatch.chdir(tmp_path)
    async with AsyncExitStack() as stack:

        async def start(*overrides: str) -> tuple[World, logs.Log]:
            log = logs.make(io.BytesIO(), "json", "debug")
            stack.callback(log.writer.close)
            config = load(None, [*FREE_PORTS, "mesh.data=:memory:", *overrides])
            control = partial(create_app, lines=log.recent.lines)
            mesh = Mesh(config, log.logger, access=log.access, control=control, clock=asyncio.get_running_loop().time)
            await stack.enter_async_context(mesh)
            client = await stack.enter_async_context(aiohttp.ClientSession())
            return World(mesh, client, LogCapture(), lambda _: config), log

        yield start
