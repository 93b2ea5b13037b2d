"""The tables a config is made of, laid over each other: defaults, the file, flags, and edits made while it runs.

An edit concerns a fault. It holds until the file says something else about the same key.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from meshlite.rules import without_kind

Json = dict[str, Any]


class Layers(Struct, frozen=True, kw_only=True):
    """Four tables. In `api`, faults by name: the keys that were set, with None for one that was removed.

    A whole fault that was removed is None.
    """

    default: Json
    file: Json
    flag: Json
    api: dict[str, Json | None] = {}

    def merged(self) -> Json:
        """All of them as one table."""
        merged: Json = merge(merge(self.default, self.file), self.flag)
        faults = merged["faults"]
        if isinstance(faults, Mapping):
            merged["faults"] = {**faults, **{name: _edited(faults.get(name), edit) for name, edit in self.api.items()}}
            merged["faults"] = {name: table for name, table in merged["faults"].items() if table is not None}
        return merged

    def edge(self, caller: str, callee: str) -> Json:
        """The policy's table of one edge.

        In each table what `edges` says of it comes before what `policy` says of all; and whatever a higher table says
        comes before a lower one, be it of all edges: an exception that the defaults make is none from the file's rule.
        """
        found: Json = {}
        for table in (self.default, self.file, self.flag):
            common = {key: value for key, value in table.get("policy", {}).items() if key != "admission"}
            found = merge(merge(found, common), table.get("edges", {}).get(caller, {}).get(callee, {}))
        return found

    def source(self, *path: str) -> str | None:
        """The highest table that says something about the key at `path`, or about what is within it."""
        for name in ("api", "flag", "file", "default"):
            table: Any = {"faults": self.api} if name == "api" else getattr(self, name)
            for step in path:
                if name == "api" and isinstance(table, Mapping) and table.get(step, table) is None:
                    return name  # what was taken back is as the edit left it
                table = table.get(step) if isinstance(table, Mapping) else None
            if table is not None:
                return name
        return None

    def given(self) -> set[str]:
        """The names of all faults that the tables have, whatever edits say."""
        return {name for table in (self.default, self.file, self.flag) for name in _faults(table)}

    def edited(self, name: str, keys: Json | None) -> "Layers":
        """The same, with `keys` of the fault `name` set, those that are None removed; or all of it (None)."""
        below = any(name in _faults(table) for table in (self.default, self.file, self.flag))
        if keys is None and not below:  # it was only ever an edit: nothing needs to be remembered of it
            return replace(self, api={other: edit for other, edit in self.api.items() if other != name})
        before = self.api.get(name)
        if keys and before and "kind" in keys and keys["kind"] != self.merged()["faults"][name].get("kind"):
            before = {**dict.fromkeys(before), **without_kind(before)}
        return replace(self, api={**self.api, name: keys if keys is None or before is None else {**before, **keys}})

    def put(self, name: str, table: Json) -> "Layers":
        """The same, with `table` as the whole of the fault `name`."""
        below = replace(self, api={}).merged()["faults"].get(name, {})
        return replace(self, api={**self.api, name: {**dict.fromkeys(below), **table}})

    def over(self, older: "Layers") -> "Layers":
        """These tables with the edits of `older`, but for keys of which the file now says something else."""
        was, now = (_faults(layers.file) for layers in (older, self))
        kept: dict[str, Json | None] = {}
        for name, edit in older.api.items():
            before, after = was.get(name) or {}, now.get(name) or {}
            if edit is None:
                if before == after:
                    kept[name] = None
            elif left := {key: value for key, value in edit.items() if before.get(key) == after.get(key)}:
                kept[name] = left
        return replace(self, api=kept)

    def shadowed(self, older: "Layers") -> dict[tuple[str, ...], str]:
        """The keys of which the file says something else than in `older`, while "flag" or "api" has the last word."""
        found, before, merged = {}, dict(_leaves(older.file)), self.merged()
        for path, value in _leaves(self.file):
            if before.get(path, before) == value:
                continue
            held, steps = (self.edge(*path[1:3]), path[3:]) if path[0] == "edges" else (merged, path)
            if _at(held, steps) != value:
                edited = path[0] == "faults" and path[1] in self.api
                found[path] = "api" if edited and self.source(*path) != "flag" else "flag"
        return found


def _at(table: Any, path: Sequence[str]) -> Any:
    for step in path:
        table = table.get(step) if isinstance(table, Mapping) else None
    return table


def _leaves(table: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(table, Mapping):
        yield path, table
        return
    for key, value in table.items():
        yield from _leaves(value, (*path, key))


def merge(base: Any, over: Any) -> Any:
    """`over` laid over `base`, table by table. Of a fault that changes its kind, what belonged to the old one goes."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        kind = base.get("kind")
        if isinstance(kind, str) and over.get("kind", kind) != kind:  # else it is a fault of that name
            base = without_kind(base)
        return {**base, **{key: merge(base.get(key), value) for key, value in over.items()}}
    return over


def assignment(text: str, example: str, *within: str, empty: Any = "") -> Json:
    """`a.b=VALUE` as the table it stands for, one that lies `within` another; a step with dots goes into quotes.

    VALUE is TOML, or else JSON, or else a text as it stands; `empty` where there is none. What a fault takes as any
    text is one whatever it looks like, unless it is in quotes. Raises ValueError, with the `example` of what would do.
    """
    key, equals, value = text.partition("=")
    steps = [step.strip().strip('"') for step in _DOT.split(key)]
    if not equals or not all(steps):
        text = "control.token" if text.startswith("control.token") else text  # a secret is not quoted
        raise ValueError(f"{text!r}: expected KEY=VALUE, such as {example}")
    table = _value(value, (*within, *steps)) if value else empty
    for step in reversed(steps):
        table = {step: table}
    return table  # type: ignore[no-any-return]


_DOT = re.compile(r'\.(?=(?:[^"]*"[^"]*")*[^"]*$)')
"""A dot that is not in quotes."""
_SUCH_AS = """write a list as ["ok", "error"], a table as {503 = 3} or {"503": 3}"""


def _value(text: str, path: Sequence[str]) -> Any:
    found = _read(text)
    if tuple(path) in _WORDS:
        return found if isinstance(found, str) else text
    of_fault = path[2:] if path[0] == "faults" else ()
    if of_fault[:1] in _TEXT or (of_fault[:1] in _TEXTS and of_fault[1:]):
        return found if isinstance(found, str) else text
    if found is None and of_fault and text[0] in "[{\"'":
        raise ValueError(f"{'.'.join(of_fault)}: neither TOML nor JSON: {_SUCH_AS}")
    return text if found is None else found


_WORDS = (("mesh", "host"), ("mesh", "data"), ("control", "token"))
"""Keys that take a text, whatever it looks like."""
_TEXT, _TEXTS = (("route",), ("method",), ("body",)), (("headers",), ("response_headers",))


def _read(text: str) -> Any:
    """What it is in TOML, or else in JSON; None where it is neither."""
    for parse in (_toml, msgspec.json.decode):
        try:
            return parse(text)
        except (ValueError, RecursionError):
            continue
    return None


def _toml(text: str) -> Any:
    if "\n" in text:  # it might be several keys
        raise ValueError(text)
    return tomllib.loads(f"value = {text}")["value"]


def _edited(table: Json | None, edit: Json | None) -> Json | None:
    if edit is None:
        return None
    if table and edit.get("kind", table.get("kind")) != table.get("kind"):
        table = without_kind(table)
    return {key: value for key, value in {**(table or {}), **edit}.items() if value is not None}


def _faults(table: Json) -> Json:
    faults = table.get("faults")
    return faults if isinstance(faults, dict) else {}
