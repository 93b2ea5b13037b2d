"""The config in force: takes up the file when it changes and the edits that are made, and ends what has a duration."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from meshlite.config import Config, build, check, is_stream
from meshlite.errors import ConfigError
from meshlite.events import Bus, ConfigApplied, ConfigDeferred, ConfigRejected, ConfigShadowed, FaultSwitched
from meshlite.keys import diff, dotted
from meshlite.layers import Layers
from meshlite.lint import lint
from meshlite.validation import Invalid
from meshlite.wire.times import now

_LOOK_EVERY = 0.25


class InForce:
    """Keeps `config` up to date: what can be taken up at once is, and everything else is as it was at the start.

    `apply` is called with each new config. Faults are the only thing that is edited; everything else comes by the file.
    """

    def __init__(self, config: Config, apply: Callable[[Config], None], bus: Bus, log: FilteringBoundLogger) -> None:
        self.config = config
        self.begun = config
        """What it was at the start: so everything still is that waits for a restart."""
        self.waiting: tuple[str, ...] = ()
        """The keys whose new values wait for a restart."""
        self.problems: tuple[str, ...] = ()
        """What is wrong with the file just now, so that what was in force before stays."""
        self.problems_since: str | None = None
        self._apply = apply
        self._bus = bus
        self._log = log
        self._ends: dict[str, tuple[float, asyncio.Handle]] = {}  # uvloop's handles do not all know when
        self._ended = False
        self._file = config.path or config.folder / "config.toml"

    def begin(self) -> None:
        """Put the first config into force; needs a running loop."""
        self._apply(self.config)
        self._time_faults(replace(self.config, faults={}))

    def end(self) -> None:
        """Let no timer go off any more, and begin none."""
        self._ended = True
        for _, timer in self._ends.values():
            timer.cancel()

    def remaining(self, fault: str) -> float | None:
        """Seconds until the fault switches itself off; None where it does not."""
        end = self._ends.get(fault)
        return None if end is None else max(end[0] - asyncio.get_running_loop().time(), 0.0)

    async def watch(self, reload: Callable[[], Config]) -> None:
        """Take up the file whenever it changes; a look costs some microseconds. The first one reads it in any case.

        What came through a pipe came once: there is nothing to look at.
        """
        if self.config.path is not None and is_stream(self.config.path):
            return
        taken: object = None
        last: object = None
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            stamp = _stamp(self._file)
            if stamp == last and stamp != taken:  # unchanged since the last look: whoever wrote it has finished
                taken = stamp
                self.take_up(reload)
            last = stamp

    def take_up(self, reload: Callable[[], Config], *, asked: bool = False) -> None:
        """Take up what `reload` gives; where it raises ConfigError, nothing changes and one line says why.

        Where nothing changes otherwise, one line says so if the file was wrong before, or if somebody `asked` for it.
        """
        try:
            self._take_up(reload(), asked)
        except ConfigError as error:
            self.problems, self.problems_since = error.problems, self.problems_since or now()
            self._bus.publish(ConfigRejected(str(self._file), error.problems))
        except Exception as error:  # whatever is in the file, the mesh goes on
            self._log.error("config.crashed", exc_info=error)

    def _take_up(self, new: Config, asked: bool) -> None:
        mended, self.problems, self.problems_since = bool(self.problems), (), None
        before = self.config.layers
        layers = new.layers.over(before)
        if layers.api and (wrong := check(layers)):  # edits that the new file leaves without their ground
            lost = {fault.path[1] for fault in wrong if fault.path[0] == "faults"}
            layers = replace(layers, api={name: edit for name, edit in layers.api.items() if name not in lost})
        said = self._take(build(layers, new.path, new.folder), "file")
        if shadowed := layers.shadowed(before):
            self._bus.publish(ConfigShadowed({dotted(path): by for path, by in shadowed.items()}))
        elif not said and (mended or asked):
            self._log.info("config.mended" if mended else "config.unchanged", path=str(self._file))

    def edit(self, name: str, keys: dict[str, Any] | None, by: str = "api") -> None:
        """Set `keys` of the fault `name`, those that are None removed; or remove the fault (None). Raises Invalid."""
        self._change(self.config.layers.edited(name, keys), by)

    def put(self, name: str, table: dict[str, Any]) -> None:
        """Make `table` the whole of the fault `name`. Raises Invalid."""
        self._change(self.config.layers.put(name, table), "api")

    def _change(self, layers: Layers, by: str) -> None:
        if wrong := check(layers):
            raise Invalid(wrong)
        self._take(build(layers, self.config.path, self.config.folder), by)

    def _take(self, new: Config, by: str) -> bool:
        """Put what is hot of `new` into force, and let it be known; whether there was anything to say."""
        changed, deferred = diff(self.config, new)
        old = self.config
        self.config = replace(
            old, log=new.log, policy=new.policy, edges=new.edges, faults=new.faults, layers=new.layers, path=new.path
        )
        self._apply(self.config)
        self._time_faults(old)
        for name in sorted(old.faults.keys() | new.faults.keys()):
            was, now = (name in rules and rules[name].enabled for rules in (old.faults, new.faults))
            if was != now:
                self._bus.publish(FaultSwitched(name, now, by))
        if changed:
            self._bus.publish(ConfigApplied(changed, by))
            known = lint(old)
            for problem in (problem for problem in lint(self.config) if problem not in known):
                self._log.warning("config.questionable", problem=problem)
        if news := bool(deferred) and deferred != self.waiting:
            self._bus.publish(ConfigDeferred(deferred))
        self.waiting = deferred
        return bool(changed) or news

    def _time_faults(self, old: Config) -> None:
        """Start a timer for each fault that has a duration and is new; stop that of each that changed or went."""
        if self._ended:
            return
        loop, rules = asyncio.get_running_loop(), self.config.faults
        for name in [name for name in self._ends if rules.get(name) != old.faults.get(name)]:
            self._ends.pop(name)[1].cancel()
        for name, rule in rules.items():
            if rule.enabled and rule.duration is not None and rule != old.faults.get(name):
                self._ends[name] = loop.time() + rule.duration, loop.call_later(rule.duration, self._over, name)

    def _over(self, name: str) -> None:
        del self._ends[name]
        self.edit(name, {"enabled": False}, by="duration")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
