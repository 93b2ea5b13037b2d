"""`python -m meshlite demo`: both runs of a story, one after the other, told as they happen."""

import asyncio
import io
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import uvloop

from meshlite import terminal
from meshlite.config import Config
from meshlite.demo import telling
from meshlite.demo.scenario import Scenario, Seen
from meshlite.demo.story import ALONE, Second, Told, find, play, values
from meshlite.errors import StartError
from meshlite.telemetry import logs

Configure = Callable[[Sequence[str]], Config]
"""The config of KEY=VALUEs, with what the command line says on top."""


def run(name: str, configure: Configure, *, as_json: bool, svg: Path | None) -> int:
    """Play the scenario twice and say how it went: 0 if what it claims held, else 1. Raises StartError, ConfigError."""
    scenario = find(name)
    if svg is not None and not svg.absolute().parent.is_dir():
        raise StartError(f"cannot write {svg}: there is no such folder")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a mark that the terminal's encoding lacks is no reason to fail
    return _tell(scenario, configure, as_json=as_json, svg=svg)


def _tell(scenario: Scenario, configure: Configure, *, as_json: bool, svg: Path | None) -> int:
    paint = terminal.paint()
    say = _nothing if as_json else _say
    sides = (
        ("without", scenario.says_without, "", [*scenario.both, *scenario.without]),
        ("with", scenario.says_with, scenario.explains, [*scenario.both, *scenario.policy]),
    )
    seed = configure(ALONE).mesh.seed
    say(telling.opening(scenario, seed, scenario.phases, paint))
    runs = []
    for side, says, explains, settings in sides:
        say(telling.heading(side, says, explains, paint))
        narrator = telling.Narrator(scenario, paint)
        told: list[Told | Second] = []

        def tell(one: Told | Second, told: list[Told | Second] = told, narrator: telling.Narrator = narrator) -> None:
            told.append(one)
            say(narrator.lines(one))

        with ExitStack() as stack:
            if scenario.trouble.kill is not None:  # what is killed comes back with what it has on disk
                settings.append(f"mesh.data={stack.enter_context(tempfile.TemporaryDirectory())}")
            config = configure([*ALONE, *settings])
            seen = _play(scenario, config, tell)
        runs.append(telling.Run(side, told, seen, values(scenario, seen)))
    without, with_ = runs
    document = telling.document(scenario, seed, without, with_)
    say(telling.closing(scenario, without, with_, paint))
    if svg is not None:
        try:
            svg.write_text(telling.picture(scenario, runs), encoding="utf-8")
        except OSError as error:
            raise StartError(f"cannot write {svg}: {error.strerror}") from error
    if as_json:
        _say([json.dumps(document, indent=2, ensure_ascii=False)])
    return 0 if document["held"] else 1


def _play(scenario: Scenario, config: Config, tell: Callable[[Told | Second], None]) -> Seen:
    """One run, on a loop of its own; what goes wrong in the mesh itself is told on stderr."""
    log, _, writer, _, _ = logs.make(sys.stderr.buffer, "console", "error", colors=sys.stderr.isatty())
    handler = logs.StdlibHandler(log)
    logging.getLogger().addHandler(handler)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(play(scenario, scenario.phases, config, log, tell))
    finally:
        logging.getLogger().removeHandler(handler)
        writer.close()


def _say(lines: Iterable[str]) -> None:
    try:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough; the story, its picture and its exit code go on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nothing(_: Iterable[str]) -> None:
    pass
