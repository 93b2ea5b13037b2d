"""The command line: `python -m meshlite`."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from meshlite import __version__
from meshlite.config import Config, load
from meshlite.errors import ConfigError, StartError
from meshlite.lint import lint

USER_ERROR = 2
_GC_YOUNG = 50_000
"""Allocations between two looks of the garbage collector; Python's own 700 cost a request some 6 %."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 2 what was asked is wrong or not to be had (one line says what)."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)  # type: ignore[no-any-return]
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
    except StartError as error:
        _complain(str(error))
    return USER_ERROR


def _complain(line: str) -> None:
    sys.stderr.write(f"meshlite: {line}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meshlite",
        description="Three real microservices, the network between them and its failures, in one process.",
        epilog="Without a command it serves.",
    )
    parser.add_argument("--version", action="version", version=f"meshlite {__version__}")
    parser.set_defaults(run=_serve, config=None, set=[], more=[], log_format=None, log_level="info")
    _add_options(parser, serving=True, overrides="set")
    commands = parser.add_subparsers(title="commands", metavar="")
    serve = commands.add_parser("serve", help="start the services and keep them running")
    serve.set_defaults(run=_serve)
    _add_options(serve, serving=True, overrides="more")
    check = commands.add_parser("check", help="say what is wrong with the config, all of it at once")
    check.set_defaults(run=_check)
    _add_options(check, serving=False, overrides="more")
    return parser


def _add_options(parser: argparse.ArgumentParser, *, serving: bool, overrides: str) -> None:
    # SUPPRESS, and two places for --set: what was given before the command holds, and what comes after it too
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="the config (default: config.toml here)")
    help_set = "override one key: --set services.users.port=9080"
    add("--set", dest=overrides, action="append", metavar="KEY=VALUE", default=argparse.SUPPRESS, help=help_set)
    if serving:
        formats, levels = ["console", "json"], ["debug", "info", "warning", "error"]
        help_format = "default: console in a terminal, else json"
        add("--log-format", choices=formats, default=argparse.SUPPRESS, help=help_format)
        add("--log-level", choices=levels, default=argparse.SUPPRESS, help="default: info")


def _check(options: argparse.Namespace) -> int:
    config = load(options.config, options.set + options.more)
    for warning in lint(config):
        sys.stdout.write(f"warning: {warning}\n")
    sys.stdout.write(f"{config.path or 'built-in defaults'}: ok\n")
    return 0


def _serve(options: argparse.Namespace) -> int:
    if sys.platform == "win32":
        raise StartError("the mesh runs on Linux and macOS; the circuit breaker runs anywhere")
    config = load(options.config, options.set + options.more)
    import uvloop  # noqa: PLC0415  `check` and `--version` need none

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(config, options))


async def _run(config: Config, options: argparse.Namespace) -> int:
    from meshlite.control.api import create_app  # noqa: PLC0415  `check` and `--version` need no aiohttp
    from meshlite.mesh import Mesh  # noqa: PLC0415
    from meshlite.telemetry import logs  # noqa: PLC0415

    terminal = sys.stderr.isatty()
    style = options.log_format or ("console" if terminal else "json")
    log, access, writer = logs.make(sys.stderr.buffer, style, options.log_level, colors=terminal)
    handler = logs.StdlibHandler(log)
    logging.getLogger().addHandler(handler)
    stopping = asyncio.Event()
    _on_signals(stopping, writer.close)

    def reload() -> Config:
        return load(config.path or options.config, options.set + options.more)

    try:
        for warning in lint(config):
            log.warning("config.questionable", problem=warning)
        async with Mesh(config, log, access=access, control=create_app, reload=reload) as mesh:
            if hasattr(signal, "SIGHUP"):
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, mesh.take_up, reload)
            gc.collect()
            gc.freeze()  # what stands now stays: look at it no more, and at what is new less often
            gc.set_threshold(_GC_YOUNG)
            sys.stdout.write(_banner(mesh.urls, mesh.control_url, config))
            sys.stdout.flush()
            await stopping.wait()
        return 0
    finally:
        logging.getLogger().removeHandler(handler)
        writer.close()


def _on_signals(stopping: asyncio.Event, flush: Callable[[], None]) -> None:
    """The first SIGTERM or SIGINT stops in good order, the second at once."""

    def stop(number: int) -> None:
        if stopping.is_set():
            flush()
            os._exit(128 + number)
        stopping.set()

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
  {urls["users"]}/docs (and the others'), {control}/api/edges, {control}/metrics

Ctrl-C stops it.
"""
