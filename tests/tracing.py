"""strace in front of a real process: what it asks of the kernel, and a kernel that says no."""

import asyncio
import functools
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest


@functools.cache
def why_not() -> str:
    """Why processes cannot be traced here; empty where they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    inject = ["strace", "-f", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC"]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as sleeper:
        tracer = subprocess.Popen([*inject, "-p", str(sleeper.pid)], stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        sleeper.communicate(b"\n")
        tracer.communicate()
    return "" if "attached" in line else f"strace is not permitted: {line.strip()}"


def need_strace() -> None:
    if why_not():
        pytest.skip(why_not())


@asynccontextmanager
async def refused_by_the_kernel(pid: int, call: str, error: str) -> AsyncIterator[None]:
    """From here on every such call of the process fails so; afterwards none does any more."""
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-o", "/dev/null", "-p", str(pid)),
        *("-e", f"trace={call}", "-e", f"inject={call}:error={error}"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert tracer.stderr is not None
    line = await asyncio.wait_for(tracer.stderr.readline(), 10)
    assert b"attached" in line, line
    try:
        yield
    finally:
        if tracer.returncode is None:
            tracer.send_signal(signal.SIGINT)
        await asyncio.wait_for(tracer.communicate(), 10)
