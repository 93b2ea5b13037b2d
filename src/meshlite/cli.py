"""The command line: `python -m meshlite`."""

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from meshlite import __version__
from meshlite.config import Config, is_stream, load
from meshlite.demo import SCENARIOS
from meshlite.errors import ConfigError, StartError
from meshlite.layers import assignment
from meshlite.lint import lint
from meshlite.validation import one_line

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from meshlite.telemetry.otel import Exporter

USER_ERROR = 2
_GC_YOUNG = 50_000
"""Allocations between two looks of the garbage collector; Python's own 700 cost a request some 6 %."""

_SETS = ("set_first", "set_between", "set_last")
"""Where --set is kept that came before the command, between its two words, after it."""
_EPILOG = """\
Without a command it serves. The other commands ask the mesh that runs with the
same config (and --set).

exit codes:
  0  done
  1  done in part; stderr says what was not. demo: what it claims did not hold
  2  what was asked is wrong, refused or not to be had; stderr says what
  3  no mesh answers there
"""
_HERE = "the config (default: config.toml here)"
_OF_BREAKER = ("auto", "forced_open", "disabled", "metrics_only", "reset")
_VALUES = """\
VALUE is TOML or JSON, or else a text as it stands: true, 2.5, users,
["ok", "error"], {"503": 3}. A route, a method, a body and a header are texts
whatever they look like. KEY= takes a key back.
"""
_OTEL = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
"""What the extra `otel` holds."""
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is one of those that `--help` lists."""
    _open_standard_files()
    options, rest = _parser().parse_known_args(arguments)
    if rest and options.many and all(word and word[0] != "-" for word in rest):
        getattr(options, options.many).extend(rest)  # argparse takes none any more once an option stood between
    elif rest:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for name in ("json", "watch"):
        if getattr(options, name) and name not in options.takes:
            options.parser.error(f"--{name} does not go with this command")
    with suppress(OSError):  # the folder may be gone
        if not sys.flags.safe_path and (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)  # so `meshlite` finds the services that `python -m meshlite` finds
    try:
        return options.run(options)  # type: ignore[no-any-return]
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
    except StartError as error:
        for problem in error.args:
            _complain(problem)
    except _UnwritableError as error:
        _complain(str(error))
    except KeyboardInterrupt:
        return 0 if options.watch else 128 + signal.SIGINT
    return USER_ERROR


class _UnwritableError(Exception):
    """Nothing can be written to the standard output."""


def _say(text: str) -> None:
    """Write `text` to the standard output, whole. Raises _UnwritableError."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python's own flush at the end goes
        raise _UnwritableError(f"cannot write to the standard output: {error.strerror}") from error


def _open_standard_files() -> None:
    """Open those of 0, 1 and 2 that are closed: the next file would get their numbers, and the loop trips over that."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("a name is missing")
    return text


def _complain(line: str) -> None:
    sys.stderr.write(f"meshlite: {one_line(line)}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meshlite",
        description="Three real microservices, the network between them and its failures, in\none process.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"meshlite {__version__}")
    parser.set_defaults(run=_serve, takes=(), config=None, log_format=None, log_level=None, json=False, watch=False)
    parser.set_defaults(**{place: [] for place in _SETS}, parser=parser, many=None)
    _add_options(parser, _SETS[0], "log", "json", "watch")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_command(commands, "serve", _serve, "start the services and keep them running", "log")
    _add_command(commands, "check", _check, "say what is wrong with the config, all of it at once", "json")
    words = "a story of failure in half a minute, without a policy and with it"
    config = "a config that both runs begin with (default: none, not even config.toml here)"
    demo = _add_command(commands, "demo", _demo, words, "json", config=config)
    demo.description = f"{demo.description} It needs no mesh that runs, and no config but what --config names."
    help_scenario = f"{', '.join(SCENARIOS)}, or a file of your own (default: {SCENARIOS[0]})"
    demo.add_argument("scenario", metavar="SCENARIO", nargs="?", default=SCENARIOS[0], help=help_scenario)
    demo.add_argument("--svg", type=Path, metavar="FILE", help="draw it too")
    _add_remote(commands)
    return parser


def _add_remote(commands: _Commands) -> None:
    """The commands against a running mesh."""
    ask, look = ("json",), ("json", "watch")
    _add_command(commands, "status", _remote("status"), "services, edges and active faults at a glance", *look)
    words = "every edge, or one: its policy, its traffic, its breakers"
    edges = _add_command(commands, "edges", _remote("edges"), words, *look)
    edges.add_argument("edge", metavar="EDGE", nargs="*", help="CALLER CALLEE, or 'CALLER->CALLEE'")
    edges.set_defaults(many="edge")
    words = "set the mode of an edge's breakers, or close them (reset)"
    breaker = _add_command(commands, "breaker", _remote("breaker"), words, *ask)
    breaker.add_argument("caller", metavar="CALLER", help="or both in one word: 'CALLER->CALLEE'")
    breaker.add_argument("callee", metavar="CALLEE", nargs="?")
    breaker.add_argument("action", choices=_OF_BREAKER)
    _add_faults(_add_group(commands, "fault", "the faults: list, set, enable, disable, clear, delete"), *ask)
    services = _add_group(commands, "service", "stop, kill, start or restart services")
    for action, words in (
        ("stop", "in good order"),
        ("kill", "at once"),
        ("start", "again"),
        ("restart", "stop, start"),
    ):
        named = _add_command(services, action, _remote("service"), words, *ask)
        named.set_defaults(action=action)
        _add_names(named, "+")
    _add_command(commands, "reset", _remote("reset"), "all faults off, breakers closed, services started", *ask)


def _add_faults(faults: _Commands, *ask: str) -> None:
    _add_names(_add_command(faults, "list", _remote("fault list"), "all of them, on or off, or those named", *ask), "*")
    put = _add_command(faults, "set", _remote("fault set"), "change a fault's keys, or make a new fault of them", *ask)
    put.epilog, put.formatter_class = _VALUES, argparse.RawDescriptionHelpFormatter
    put.usage = f"%(prog)s NAME KEY=VALUE [KEY=VALUE ...] [--json]\n{' ' * 26}[--config FILE] [--set KEY=VALUE]"
    put.add_argument("name", metavar="NAME", type=_name, help="the fault's")
    put.add_argument("pairs", metavar="KEY=VALUE", nargs="+", help="service=users kind=delay seconds=2 enabled=true")
    put.set_defaults(many="pairs")
    for action, words, number in (
        ("enable", "switch on the faults named", "+"),
        ("disable", "switch off the faults named", "+"),
        ("clear", "switch off those named, or all: none is lost", "*"),
        ("delete", "remove the faults named; one of the file's comes back when the file changes it", "+"),
    ):
        _add_names(_add_command(faults, action, _remote(f"fault {action}"), words, *ask), number)


def _add_names(parser: argparse.ArgumentParser, number: str) -> None:
    parser.add_argument("names", metavar="NAME", nargs=number, type=_name)
    parser.set_defaults(many="names")


def _add_group(commands: _Commands, name: str, words: str) -> _Commands:
    group = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
    _add_options(group, _SETS[1], "json")
    return group.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _add_command(
    commands: _Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    words: str,
    *takes: str,
    config: str = _HERE,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
    parser.set_defaults(run=run, takes=takes, parser=parser)
    _add_options(parser, _SETS[2], *takes, config=config)
    return parser


def _add_options(parser: argparse.ArgumentParser, overrides: str, *takes: str, config: str = _HERE) -> None:
    # SUPPRESS, and a place of its own for --set: what was given before the command holds, and what comes after it too
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help=config)
    help_set = "override the config: --set services.users.port=9080"
    add("--set", dest=overrides, action="append", metavar="KEY=VALUE", default=argparse.SUPPRESS, help=help_set)
    if "log" in takes:
        formats, levels = ["console", "json"], ["debug", "info", "warning", "error"]
        help_format = "default: console in a terminal, else json"
        add("--log-format", choices=formats, default=argparse.SUPPRESS, help=help_format)
        add("--log-level", choices=levels, default=argparse.SUPPRESS, help="log.level of the config; default: info")
    if "json" in takes:
        help_json = "print JSON, for scripts"
        add("--json", action="store_true", default=argparse.SUPPRESS, help=help_json)
    if "watch" in takes:
        help_watch = "again every second, until Ctrl-C (status, edges)"
        add("--watch", action="store_true", default=argparse.SUPPRESS, help=help_watch)


def _load(options: argparse.Namespace, sections: Sequence[str] | None = None) -> Config:
    overrides = [text for place in _SETS for text in getattr(options, place)]
    if options.log_level is not None:
        overrides.append(f"log.level={options.log_level}")
    return load(options.config, overrides, sections=sections)


def _asked(options: argparse.Namespace) -> list[str]:
    """The options that find the same mesh again; a token is a secret."""
    asked = [] if options.config is None else ["--config", str(options.config)]
    for text in (text for place in _SETS for text in getattr(options, place)):
        control = assignment(text, "").get("control")
        if isinstance(control, dict) and "token" in control:
            others = [f"control.{key}={json.dumps(value)}" for key, value in control.items() if key != "token"]
        else:
            others = [text]
        asked += [word for each in others for word in ("--set", each)]
    return asked


def _remote(name: str) -> Callable[[argparse.Namespace], int]:
    """A command that asks the mesh which runs with this config."""

    def run(options: argparse.Namespace) -> int:
        from meshlite import remote  # noqa: PLC0415  serving needs none of it

        try:
            config = _load(options)
        except ConfigError as error:  # a file that is wrong just now must not keep anybody from a mesh that runs
            config = _load(options, ("mesh", "control"))
            _complain(f"{error.problems[0]}; the mesh is asked all the same")
        return remote.run(name, config, options, _asked(options))

    return run


def _check(options: argparse.Namespace) -> int:
    try:
        config = _load(options)
        if problems := [*_unusable(config), *_unloadable(config)]:
            raise ConfigError(problems)
    except ConfigError as error:
        if not options.json:
            raise
        _say(_as_json({"ok": False, "problems": error.problems, "warnings": []}))
        return USER_ERROR
    warnings = lint(config)
    if options.json:
        _say(_as_json({"ok": True, "problems": [], "warnings": warnings}))
    else:
        said = "".join(f"warning: {warning}\n" for warning in warnings)
        _say(f"{said}{config.path or 'built-in defaults'}: ok\n")
    return 0


def _as_json(answer: object) -> str:
    return json.dumps(answer, indent=2) + "\n"


def _unusable(config: Config) -> Iterator[str]:
    """Why its data folder cannot be used, if one can tell without making it."""
    if config.data is not None:
        there = next(path for path in (config.data, *config.data.parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            yield f"mesh.data: {config.data} cannot be written to; choose another folder"


def _unloadable(config: Config) -> Iterator[str]:
    """Which services of one's own are not where they should be."""
    for name, settings in config.services.items():
        if settings.app != f"meshlite.services.{name}:create_app":
            from meshlite.service import factory  # noqa: PLC0415  it brings aiohttp

            try:
                factory(settings.app, f"services.{name}.app")
            except StartError as error:
                yield str(error)


def _demo(options: argparse.Namespace) -> int:
    _check_platform()
    from meshlite.demo.command import run  # noqa: PLC0415  only this command needs it

    def configure(settings: Sequence[str]) -> Config:
        asked = [text for place in _SETS for text in getattr(options, place)]
        return load(options.config, [*settings, *asked], sections=None if options.config else ())  # alone in the world

    return run(options.scenario, configure, as_json=options.json, svg=options.svg)


def _check_platform() -> None:
    if sys.platform == "win32":
        raise StartError("the mesh runs on Linux and macOS; the circuit breaker runs anywhere")


def _serve(options: argparse.Namespace) -> int:
    _check_platform()
    config = _load(options)
    import uvloop  # noqa: PLC0415  `check` and `--version` need none

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(config, options))


async def _run(config: Config, options: argparse.Namespace) -> int:
    from meshlite import files  # noqa: PLC0415  there is no such limit on Windows
    from meshlite.control.api import create_app  # noqa: PLC0415  `check` and `--version` need no aiohttp
    from meshlite.mesh import Mesh  # noqa: PLC0415
    from meshlite.telemetry import logs  # noqa: PLC0415

    terminal = sys.stderr.isatty()
    style = options.log_format or ("console" if terminal else "json")
    log, access, writer, set_level, recent = logs.make(sys.stderr.buffer, style, config.log.level, colors=terminal)
    handler = logs.StdlibHandler(log)
    logging.getLogger().addHandler(handler)
    exporter = _exporter(log)
    stopping = asyncio.Event()
    _on_signals(stopping, writer.close)

    piped = config.path is not None and is_stream(config.path)

    def reload() -> Config:
        options.config = config.path or options.config
        if not piped and is_stream(options.config or Path("config.toml")):
            raise ConfigError([f"{options.config or 'config.toml'}: is no file that can be read again"])
        return _load(options)

    try:
        for warning in (*lint(config), *files.make_room(config)):
            log.warning("config.questionable", problem=warning)
        async with Mesh(
            config,
            log,
            access=access,
            control=partial(create_app, lines=recent.lines),
            reload=reload,
            set_level=set_level,
            export=None if exporter is None else exporter.export,
        ) as mesh:
            if hasattr(signal, "SIGHUP"):
                take_up = partial(mesh.inforce.take_up, reload, asked=True)
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, take_up)
            gc.collect()
            gc.freeze()  # what stands now stays: look at it no more, and at what is new less often
            gc.set_threshold(_GC_YOUNG)
            try:
                _say(_banner(mesh.urls, mesh.control_url, config))
            except _UnwritableError as error:  # it serves all the same
                _complain(str(error))
            await stopping.wait()
        return 0
    finally:
        if exporter is not None:
            await exporter.close()
        logging.getLogger().removeHandler(handler)
        writer.close()


def _exporter(log: "FilteringBoundLogger") -> "Exporter | None":
    """What sends spans out, where OpenTelemetry's variables ask for it, its SDK is there, and the protocol is ours."""
    from meshlite.telemetry import traces  # noqa: PLC0415

    if not traces.asked_for(os.environ):
        return None
    problem = ""
    if (wanted := traces.protocol(os.environ)) != traces.PROTOCOL:
        problem = f"OTEL_EXPORTER_OTLP_PROTOCOL asks for {wanted}: only {traces.PROTOCOL} is spoken here"
    else:
        try:
            from meshlite.telemetry import otel  # noqa: PLC0415  an extra, and 0.1 s

            return otel.start(__version__, os.environ)
        except ImportError as error:
            problem = f"OTEL_* asks for it, and {error.name} is not installed: pip install {_OTEL}"
        except ValueError as error:  # of the SDK, for a variable
            problem = str(error)
    log.warning("traces.not_exported", problem=problem)
    return None


def _on_signals(stopping: asyncio.Event, flush: Callable[[], None]) -> None:
    """The first SIGTERM or SIGINT stops in good order, the second at once."""

    def stop(number: int) -> None:
        if stopping.is_set():
            flush()
            os._exit(128 + number)
        stopping.set()
        if sys.stderr.isatty():  # elsewhere the log says it
            sys.stderr.write("stopping; once more stops at once\n")
            sys.stderr.flush()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop, name.value)


def _banner(urls: dict[str, str], control: str | None, config: Config) -> str:
    where = "\n".join(f"  {name:<10}{url}" for name, url in {**urls, "control": control or ""}.items())
    seed = config.mesh.seed
    return f"""meshlite {__version__}

{where}

  config    {config.path.absolute() if config.path else "built-in defaults (no config.toml here)"}
  data      {config.data.absolute() if config.data else ":memory: (nothing is kept)"}
  seed      {seed}

try
  curl {urls["users"]}/users/1
  curl '{urls["orders"]}/orders?user_id=1'
  curl {urls["inventory"]}/inventory

look
  {control or ""}/ in a browser: what calls what, and how to break it
  {urls["users"]}/docs (and the others'), {control}/api/edges, {control}/metrics

Ctrl-C stops it.
"""
