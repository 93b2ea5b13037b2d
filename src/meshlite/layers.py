"""The tables a config is made of, laid over each other: defaults, the file, flags, and edits made while it runs.

An edit concerns a fault. It holds until the file says something else about the same key.
"""

from collections.abc import Mapping
from typing import Any

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

    def source(self, key: str) -> str | None:
        """The highest table that says something about the dotted `key`, or about what is within it."""
        for name in ("api", "flag", "file", "default"):
            table: Any = {"faults": self.api} if name == "api" else getattr(self, name)
            for step in key.split("."):
                if name == "api" and isinstance(table, Mapping) and table.get(step, table) is None:
                    return name  # what was taken back is as the edit left it
                table = table.get(step) if isinstance(table, Mapping) else None
            if table is not None:
                return name
        return None

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


def merge(base: Any, over: Any) -> Any:
    """`over` laid over `base`, table by table. Of a fault that changes its kind, what belonged to the old one goes."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        kind = base.get("kind")
        if isinstance(kind, str) and over.get("kind", kind) != kind:  # else it is a fault of that name
            base = without_kind(base)
        return {**base, **{key: merge(base.get(key), value) for key, value in over.items()}}
    return over


def _edited(table: Json | None, edit: Json | None) -> Json | None:
    if edit is None:
        return None
    if table and edit.get("kind", table.get("kind")) != table.get("kind"):
        table = without_kind(table)
    return {key: value for key, value in {**(table or {}), **edit}.items() if value is not None}


def _faults(table: Json) -> Json:
    faults = table.get("faults")
    return faults if isinstance(faults, dict) else {}
