"""The page on the control plane: every command works, every operation has one, every answer is as shown."""

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import hdrs

from meshlite.control.feed import KINDS
from meshlite.control.rates import Rate
from tests.conftest import Answer, World
from tests.control.conftest import Logging

PAGE = (Path(__file__).parents[2] / "docs" / "control.md").read_text(encoding="utf-8")
EVENTS = PAGE[PAGE.index("\nretry: ") : PAGE.index("Server-sent events, ")]
BASE = "http://localhost:8090"


class Curl(NamedTuple):
    """What a curl line asks."""

    method: str
    path: str
    headers: dict[str, str]
    data: str | None

    @classmethod
    def read(cls, line: str) -> "Curl":
        """Raise where there is more in the line than is understood here."""
        words = iter(shlex.split(line)[1:])
        method, path, headers, data = "GET", "", {}, None
        for word in words:
            match word:
                case "-X":
                    method = next(words)
                case "-H":
                    name, _, value = next(words).partition(": ")
                    headers[name] = value
                case "-d":
                    data = next(words)
                case "-N":
                    pass
                case _:
                    assert word.startswith(BASE) and not path, line
                    path = word.removeprefix(BASE)
        return cls(method, path, headers, data)

    async def run(self, world: World) -> Answer:
        data = None if self.data is None else self.data.encode()
        if self.path == "/api/events":
            async with world.client.get(world.url("control") + self.path) as response:
                return Answer(response, await response.content.readany())
        return await world.ask(self.method, "control", self.path, data=data, headers=self.headers)


def steps() -> list[tuple[list[Curl], str]]:
    """Each block of commands with the answer that is shown right below it, "" where there is none."""
    found = re.findall(r"^```sh\n(.*?)^```\n(?:```\w*\n(.*?)^```\n)?", PAGE, re.MULTILINE | re.DOTALL)
    return [([Curl.read(line) for line in block.splitlines()], shown) for block, shown in found]


def keys(text: str) -> set[str]:
    """The keys in a piece of JSON, shortened or not."""
    return set(re.findall(r'"(\w+)":', text))


async def test_every_command_is_answered_as_shown(logging: Logging) -> None:
    """In the page's order, each with a 2xx; the last of a block with all the keys that the page shows."""
    world, _ = await logging()
    shown_trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await world.get("orders", "/orders", headers={"Traceparent": shown_trace})
    for commands, shown in steps():
        for command in commands:
            answer = await command.run(world)
            assert 200 <= answer.status < 300, (command, answer)
        if shown.startswith("{"):
            assert keys(shown) <= keys(answer.body.decode()), (command, answer)
            assert answer.json
        elif shown:
            assert answer.body.decode().startswith(shown[:8]) or shown.partition("{")[0] in answer.body.decode()
    assert "broken" not in world.mesh.config.faults


async def test_every_operation_has_a_command(world: World) -> None:
    """None is missing and none is made up."""
    paths: dict[str, Any] = (await world.get("control", "/openapi.json")).json["paths"]
    used = set()
    for commands, _ in steps():
        for command in commands:
            path = command.path.partition("?")[0]
            matching = [each for each in paths if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", each), path)]
            used |= {(command.method, each) for each in matching or [path]}
    there = {(method.upper(), path) for path, item in paths.items() for method in item}
    assert used == there | {(hdrs.METH_GET, "/openapi.json")}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_event_is_named(kind: Any) -> None:
    """With its keys: in the example, or in the text."""
    fields = set(kind.__struct_fields__)
    shown = re.search(rf"^event: {re.escape(kind.name)}\ndata: (.*)$", EVENTS, re.MULTILINE)
    if shown:
        assert keys(shown[1]) == fields | {"event", "at"}
    else:
        listed = ", ".join(f"`{field}`" for field in kind.__struct_fields__)
        assert f"`{kind.name}` ({listed})" in PAGE.replace("\n", " ")


def test_the_summary_is_as_shown() -> None:
    """The keys of a rate."""
    shown = re.search(r"^event: requests.summarized\ndata: (.*)$", PAGE, re.MULTILINE)
    assert shown is not None
    outcomes = {"outcomes", "orders→inventory", "ok", "error"}
    assert (
        set(re.findall(r'"([^"]+)":', shown[1]))
        == {"event", "at", "rates", "inventory", *Rate.__struct_fields__} | outcomes
    )
