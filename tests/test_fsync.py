"""No answer leaves before the fsync of its commit: the system calls of a real process, in the order they were made.

A SIGKILL cannot show this, for the page cache outlives the process.
"""

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from tests.test_crash import serve
from tests.tracing import need_strace

pytestmark = pytest.mark.slow

CALLS = "pwrite64,fdatasync,fsync,write,writev,sendto,sendmsg"
PATIENT = [
    f"edges.orders.{name}.{setting}"
    for name in ("users", "inventory")
    for setting in ("timeout=20.0", "attempt_timeout=20.0", "breaker=false")
]
CLIENTS = 8
ROUNDS = 6


class Call(NamedTuple):
    """A system call: when it began and ended, counted in lines of the trace."""

    name: str
    text: str
    began: int
    ended: int


def calls(trace: str) -> list[Call]:
    """What was called, those calls put together that another thread's came between."""
    found: list[Call] = []
    begun: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(trace.splitlines()):
        thread, _, text = line.partition(" ")
        text = text.lstrip()
        if text.endswith("<unfinished ...>"):
            begun[thread] = (text, number)
        elif text.startswith("<... "):
            first, began = begun.pop(thread)
            found.append(Call(first.partition("(")[0], first + text, began, number))
        elif "(" in text:
            found.append(Call(text.partition("(")[0], text, number, number))
    return found


def too_early(found: list[Call], database: str, written: str, answered: str) -> str | None:
    """Why the answer that has `answered` in it left too early; None where its commit, with `written`, was synced."""
    log = f"{database}.db-wal>"
    of_log = [call for call in found if log in call.text]
    write = next((call for call in of_log if call.name == "pwrite64" and written in call.text), None)
    if write is None:
        return f"{written} was never written to {log}"
    sync = next((call for call in of_log if call.name in ("fdatasync", "fsync") and call.began > write.ended), None)
    if sync is None or not sync.text.endswith("= 0"):
        return f"{written} was never synced: {sync}"
    answer = next((call for call in found if "HTTP/1.1 201" in call.text and answered in call.text), None)
    if answer is None:
        return f"no answer with {answered} was seen"
    return None if sync.ended < answer.began else f"{answer} left before {sync}"


def test_an_early_answer_would_be_found() -> None:
    """The judge itself: an answer before its fsync, during it, after one that failed, and in good order."""
    write = r'1 pwrite64(9</d/orders.db-wal>, "..{\"id\":\"X\"..", 4096, 56) = 4096'
    sync, begun, done = (
        f"1 fdatasync(9</d/orders.db-wal>{end}" for end in (") = 0", " <unfinished ...>", ") = -1 EIO (I/O error)")
    )
    resumed = "1 <... fdatasync resumed>) = 0"
    answer = r'2 sendto(12<socket:[1]>, "HTTP/1.1 201 Created\r\nLocation: /orders/X\r\n", 200, 0, NULL, 0) = 200'
    table = {
        "good": ([write, sync, answer], True),
        "good, in two lines": ([write, begun, resumed, answer], True),
        "before": ([write, answer, sync], False),
        "during": ([write, begun, answer, resumed], False),
        "failed": ([write, done, answer], False),
        "before its write": ([sync, answer, write], False),
        "never": ([write, answer], False),
    }
    for name, (lines, good) in table.items():
        reason = too_early(calls("\n".join(lines)), "orders", r"{\"id\":\"X\"", "/orders/X")
        assert (reason is None) is good, (name, reason)


async def test_no_201_leaves_before_its_commit_is_on_disk(tmp_path: Path) -> None:
    """Orders and users, eight at a time: the commit is written, the fsync of its log returns, then it is answered."""
    need_strace()
    trace = tmp_path / "trace"
    tracer = ("strace", "-f", "-y", "-s", "40000", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(trace))
    orders: list[str] = []
    emails: list[str] = []
    async with serve(tmp_path, *PATIENT, before=tracer) as served, aiohttp.ClientSession() as client:

        async def person(number: int) -> None:
            for turn in range(ROUNDS):
                email = f"fsync-{number}-{turn}@example.com"
                body = {"name": "N", "email": email}
                async with client.post(served.urls["users"] + "/users", json=body) as response:
                    assert response.status == 201, await response.text()
                emails.append(email)
                body = {"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]}
                headers = {"Idempotency-Key": f"{number}-{turn}"}
                async with client.post(served.urls["orders"] + "/orders", json=body, headers=headers) as response:
                    assert response.status == 201, await response.text()
                    orders.append((await response.json())["id"])

        await asyncio.gather(*(person(number) for number in range(CLIENTS)))
        assert await _stopped(served.process) == 0
    found = calls(trace.read_text(errors="replace"))
    for order_id in orders:  # with a key, the confirming commit has the answer in it
        assert too_early(found, "orders", rf"{{\"id\":\"{order_id}\"", f"/orders/{order_id}") is None
        assert too_early(found, "inventory", order_id, f"/orders/{order_id}") is None
    for email in emails:
        assert too_early(found, "users", email, email) is None
    syncs = [call for call in found if call.name in ("fdatasync", "fsync") and ".db-wal>" in call.text]
    print(f"{len(orders)} orders, {len(emails)} users, {len(syncs)} fsyncs")


async def _stopped(tracer: asyncio.subprocess.Process) -> int:
    """End what is traced; the tracer ends with its exit code."""
    children = Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text()
    for child in re.findall(r"\d+", children):
        os.kill(int(child), signal.SIGTERM)
    return await asyncio.wait_for(tracer.wait(), 20)
