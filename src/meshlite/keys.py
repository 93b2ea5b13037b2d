"""A config key by key, dotted: each value in force, where it came from, and which keys two configs differ in."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from meshlite.config import HOT, SECTIONS, SWITCHES, Config

Path = tuple[str, ...]
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dotted(path: Sequence[str]) -> str:
    """A key as TOML writes it: a step that has a dot or anything odd in it goes into quotes."""
    return ".".join(step if _BARE.fullmatch(step) else f'"{step}"' for step in path)


def diff(old: Config, new: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys that differ: those that a running mesh takes up at once, and those that wait for a restart."""
    before, after = dict(_values(old)), dict(_values(new))
    came, went = ([path for path in some if path not in others] for some, others in ((after, before), (before, after)))
    unsaid = {path for config, some in ((new, came), (old, went)) for path in _unsaid(config, some)}
    changed = sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path) and path not in unsaid
    )
    hot, late = ([dotted(path) for path in changed if (path[0] in HOT) is taken_up] for taken_up in (True, False))
    return tuple(hot), tuple(late)


def _unsaid(config: Config, paths: Sequence[Path]) -> Iterator[Path]:
    """Those of `paths` that have a value only because everything has one."""
    merged = config.layers.merged()["faults"] if paths else {}
    return (path for path in paths if _source(config, path, merged) == "default")


def flat(config: Config, prefix: str = "") -> dict[str, Any]:
    """Every key that begins so, with its value, dotted; what is switched off is False, as TOML would have it."""
    return {key: value for path, value in _values(config, prefix) if (key := dotted(path)).startswith(prefix)}


def _values(config: Config, prefix: str = "") -> Iterator[tuple[Path, Any]]:
    """All keys with their values, but for the sections in which none begins with `prefix`."""
    section = prefix.partition(".")[0]
    for name in SECTIONS:
        if name.startswith(section):
            yield from _within(getattr(config, name), (name,))


def _within(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Struct):
        value = asdict(value)
    if not isinstance(value, dict) or not value:
        yield path, False if value is None and path[-1] in SWITCHES else value
        return
    for key, item in value.items():
        yield from _within(item, (*path, key))


def sources(config: Config, prefix: str = "") -> dict[str, str]:
    """Where the value of each key that begins so came from: "default", "file", "flag" or "api"."""
    merged = config.layers.merged()["faults"]
    return {
        key: _source(config, path, merged)
        for path, _ in _values(config, prefix)
        if (key := dotted(path)).startswith(prefix)
    }


def _source(config: Config, path: Path, faults: dict[str, Any]) -> str:
    layers = config.layers
    match path:
        case ("faults", name, key, *_) if key not in faults[name]:  # taken back, or another kind's
            return "api" if key in (layers.api.get(name) or ()) else "default"
        case ("edges", _, _, *rest):  # whichever is said in the higher table: of this edge, or of all
            said = layers.source(*path), layers.source("policy", *rest)
            return next((name for name in ("flag", "file") if name in said), "default")
    return layers.source(*path) or "default"
