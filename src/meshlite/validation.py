"""Says everything that is wrong with a value at once, where msgspec stops at the first fault.

The typed conversion is msgspec's; only when it refuses is the value walked, so the good case pays nothing.
"""

import difflib
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

Path = tuple[str | int, ...]
_SHOWN = 40
MOST = 50
"""Faults that are told of one value: a body may have a hundred thousand."""
_LONGEST = 60
"""Characters of a key that is unknown."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, and what, with what is allowed instead."""

    path: Path
    detail: str

    @property
    def pointer(self) -> str:
        """The place as a JSON pointer (RFC 6901)."""
        return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in self.path)

    @property
    def dotted(self) -> str:
        """The place as a TOML key."""
        return ".".join(str(step) for step in self.path)


def one_line(text: str) -> str:
    """`text` with everything escaped that would begin a line, or do something to a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Invalid(Exception):
    """A value is not what it is to be; `faults` is all that is wrong with it."""

    def __init__(self, found: list[Fault]) -> None:
        super().__init__("; ".join(f"{fault.dotted}: {fault.detail}" for fault in found))
        self.faults = found


def shown(value: object) -> str:
    """A value as it is quoted in what is said of it: in short, and of a table or a list only that it is one."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "a list"
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python writes no integer of thousands of digits
        return "a huge number"


def faults(value: object, kind: Any, path: Path = (), *, strict: bool = True) -> list[Fault]:
    """All that keeps `value` from being a `kind`, up to some fifty; empty if nothing does. `strict` is msgspec's."""
    try:
        msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        found = list(islice(walk(value, kind, path, strict), MOST + 1)) or [Fault(path, _text(error, value, kind))]
        if len(found) > MOST:
            found[MOST:] = [Fault(path, f"and more: {MOST} are told at once")]
        return found
    return []


def walk(value: object, kind: Any, path: Path = (), strict: bool = True) -> Iterator[Fault]:
    """All that keeps `value` from being a `kind`, one after the other, however many; it may be mended meanwhile."""
    struct = _struct_for(value, kind)
    if struct is not None and isinstance(value, Mapping):
        yield from _walk_struct(value, struct, path, strict)
        return
    inside: Iterator[Fault] = iter(())
    if get_origin(kind) is list and isinstance(value, list):
        inside = (fault for i, item in enumerate(value) for fault in walk(item, get_args(kind)[0], (*path, i), strict))
    elif hasattr(kind, "__metadata__") and isinstance(value, list):
        inside = walk(value, get_args(kind)[0], path, strict)
    if (first := next(inside, None)) is not None:
        yield first
        yield from inside
        return
    try:
        msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        yield Fault(path, _text(error, value, kind))


def _walk_struct(value: Mapping[Any, Any], struct: type[msgspec.Struct], path: Path, strict: bool) -> Iterator[Fault]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    config = struct.__struct_config__
    known = [*fields, *([config.tag_field] if config.tag_field else [])]
    for key, item in value.items():
        if key in fields:
            yield from walk(item, fields[key].type, (*path, key), strict)
        elif config.forbid_unknown_fields and key not in known:
            name = str(key) if len(str(key)) <= _LONGEST else f"{key!s:.{_LONGEST}}…"
            yield Fault((*path, name), f"unknown; {_hint(name, known)}")
    for key, field in fields.items():
        if field.required and key not in value:
            yield Fault((*path, key), "missing")


def _hint(key: str, known: list[str]) -> str:
    """Which of the known keys was meant, where it is a slip of the fingers or a part of a name; else all of them."""
    meant = difflib.get_close_matches(key, known, 1, 0.75) or [name for name in known if f"_{key}_" in f"_{name}_"]
    return f"did you mean {' or '.join(meant)}?" if meant else f"known: {', '.join(known)}"


def _struct_for(value: object, kind: Any) -> type[msgspec.Struct] | None:
    """The struct that `value` was meant to be: the type itself, or the union's member that its tag names."""
    if get_origin(kind) not in {Union, types.UnionType}:
        return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None
    structs = [arm for arm in get_args(kind) if isinstance(arm, type) and issubclass(arm, msgspec.Struct)]
    for struct in structs:
        config = struct.__struct_config__
        if config.tag_field is None or (isinstance(value, Mapping) and value.get(config.tag_field) == config.tag):
            return struct
    return None


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [repr(choice) for choice in get_args(kind)]
    return [choice for arm in get_args(kind) for choice in _choices(arm)]


def _form(kind: Any) -> str | None:
    """What a pattern stands for, in words: the description of the type that has it."""
    for meta in getattr(kind, "__metadata__", ()):
        if meta.description:
            return str(meta.description)
    return next(filter(None, map(_form, get_args(kind))), None)


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "null",
    "false": "false",
}
_BOUNDS = {"<=": "of at most", ">=": "of at least", "<": "below", ">": "above"}
_LENGTHS = {"<=": "of length at most", ">=": "of length at least"}


def _plain(text: str) -> str:
    """What msgspec says of a type and its bounds, in words: "expected a number of at most 86400"."""

    def kinds(found: re.Match[str]) -> str:
        return " | ".join(_KINDS.get(kind, kind) for kind in found[1].split(" | "))

    def bound(found: re.Match[str]) -> str:
        words = _LENGTHS if found[1] else _BOUNDS
        return f" {words[found[2]]} {found[3].removesuffix('.0')}"

    return _BOUND.sub(bound, _TYPE.sub(kinds, text))


_TYPE = re.compile(r"`([a-z |]+)`")
_BOUND = re.compile(r"( of length)? (<=|>=|<|>) (-?[0-9.e+]+)")


def _text(error: msgspec.ValidationError, value: object, kind: Any) -> str:
    if str(error).startswith("Invalid enum value") and (choices := _choices(kind)):
        return f"expected {' or '.join(choices)}, got {value!r:.40}"
    if "matching regex" in str(error) and (form := _form(kind)):
        return f"expected {form}, got {value!r:.60}"
    text = _plain(str(error).split(" - at ", maxsplit=1)[0].replace("Expected", "expected"))
    text = text.replace("Object missing", "missing").replace("Object contains", "has an").replace("Invalid", "invalid")
    if isinstance(value, str | int | float) and len(given := shown(value)) <= _SHOWN:
        text = f"{text.partition(', got ')[0]}, got {given}"
    return text
