"""Words and columns for people who look at a terminal; nothing here knows of meshes."""

import json
import math
import os
import shlex
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

WIDTH = 80
"""Columns where nothing else is known."""
_NARROWEST, _WIDEST = 40, 120


def started_by() -> str:
    """The Python that runs this, as it can be typed here into a shell."""
    python = Path(sys.executable)
    found = shutil.which(python.name)
    if found is not None and Path(found) == python:
        return python.name
    near = os.path.relpath(python)
    return shlex.quote(min(str(python), near if os.sep in near else f"./{near}", key=len))


def as_text(value: object) -> str:
    """A value in one printable line; "-" where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool | dict | list):
        value = json.dumps(value, ensure_ascii=False)
    return clean(f"{value:g}" if isinstance(value, float) else str(value))


def clean(text: str) -> str:
    """Without what moves a cursor or rings a bell."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def as_number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def as_rate(value: object) -> str:
    """Events a second."""
    number = as_number(value)
    if number is None:
        return "-"
    return f"{number:,.1f}" if 0 < number < 99.95 else f"{number:,.0f}"


def as_ms(value: object) -> str:
    """Milliseconds, without their unit."""
    number = as_number(value)
    if number is None:
        return "-"
    return f"{number:.1f}" if number < 9.95 else f"{number:,.0f}"


def as_count(value: object) -> str:
    """A number of things."""
    number = as_number(value)
    return "-" if number is None else f"{number:,.0f}"


def as_percent(share: object) -> str:
    """A share as a percentage; 0 and 100 are said of nothing else."""
    number = as_number(share)
    if number is None:
        return "-"
    if number in (0, 1):
        return f"{number:.0%}".rstrip("%")
    return f"{min(max(100 * number, 0.1), 99.9):.1f}" if 0 < number < 1 else f"{100 * number:,.0f}"


def as_seconds(value: object) -> str:
    """A time that runs, as exactly as one wants to know it."""
    number = as_number(value)
    if number is None:
        return "-"
    if number < 9.95:
        return f"{max(number, 0):.1f} s"
    if number < 99.5:
        return f"{number:.0f} s"
    minutes = round(number / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = round(number / 3600)
    return f"{hours} h" if hours < 100 else f"{number / 86400:,.0f} d"


def as_limit(value: object) -> str:
    """A setting in seconds, None where it is switched off."""
    number = as_number(value)
    return "no limit" if number is None else f"{number:g} s"


_RED, _GREEN, _YELLOW = "\33[31m", "\33[32m", "\33[33m"
_STYLES = {
    **dict.fromkeys(("running", "closed"), _GREEN),
    **dict.fromkeys(("half_open", "not ready", "draining", "starting", "disabled", "metrics_only", "on"), _YELLOW),
    **dict.fromkeys(("open", "forced_open", "stopped", "failed"), _RED),
    "title": "\33[1m",
    "faint": "\33[2m",
}


PROGRAM = f"{started_by()} -m {__package__}"
"""This program, as it can be typed here."""


class Paint(NamedTuple):
    """What is drawn with: how many columns there are, whether there is colour, how the program is called again."""

    width: int = WIDTH
    colour: bool = False
    program: str = PROGRAM

    def __call__(self, text: str, style: str) -> str:
        """`text` in the colour of a state, or as a title or faint, if there is colour."""
        return f"{_STYLES[style]}{text}\33[0m" if self.colour and style in _STYLES else text


def is_terminal() -> bool:
    """Whether what is printed goes to a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def paint(program: str = PROGRAM) -> Paint:
    """As what is printed to has it now: a terminal its width, and colour unless NO_COLOR is set."""
    if not is_terminal():
        return Paint(program=program)
    columns = os.get_terminal_size(sys.stdout.fileno()).columns or WIDTH
    return Paint(min(max(columns, _NARROWEST), _WIDEST), not os.environ.get("NO_COLOR"), program)


def _columns(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    return sum(
        0 if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me")
        else 2 if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )  # fmt: skip


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns; "…" ends what was cut."""
    if _columns(text) <= width:
        return text
    kept = text[:width]
    while kept and _columns(kept) >= width:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def wrapped(text: str, first: str, rest: str | None = None, *, width: int = WIDTH) -> list[str]:
    """`text` in as many lines as it needs; a word goes whole where it can."""
    rest = first if rest is None else rest
    lines = textwrap.wrap(clean(text), width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
    return [part for line in lines for part in _split(line, width)]


def advised(words: str, command: str, indent: str, *, width: int = WIDTH) -> list[str]:
    """`words`, and a command to copy: it is never broken, and has a line of its own where both are too long for one."""
    line = clean(f"{indent}{words} {command}")
    return [line] if _columns(line) <= width else [*wrapped(words, indent, width=width), clean(f"{indent}  {command}")]


def _split(line: str, width: int) -> list[str]:
    """What wide characters make too long, in pieces."""
    parts = [""]
    for c in line:
        if _columns(parts[-1] + c) > width:
            parts.append("")
        parts[-1] += c
    return parts


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[object]],
    paint: Paint,
    *,
    notes: Sequence[Sequence[str]] = (),
    indent: str = "",
    spare: Sequence[str] = (),
) -> list[str]:
    """Aligned columns that fit; ">" before a head aligns right; notes go below rows.

    Where there is too little room, the columns in `spare` are left out, the first one first; then the widest give way.
    """
    cells = [[head.lstrip(">") for head in heads], *([as_text(value) for value in row] for row in rows)]
    widths = [max(_columns(row[i]) for row in cells) for i in range(len(heads))]

    def too_wide() -> bool:
        return len(indent) + sum(widths) + 2 * (len(widths) - 1) > paint.width

    for name in spare:
        if too_wide():
            at = cells[0].index(name)
            heads = [*heads[:at], *heads[at + 1 :]]
            for row in (widths, *cells):
                del row[at]  # type: ignore[attr-defined]
    while too_wide():
        widths[widths.index(max(widths))] -= 1
    lines = []
    for number, row in enumerate(cells):
        parts = []
        for head, text, width in zip(heads, row, widths, strict=True):
            shown = cut(text, width)
            gap = " " * (width - _columns(shown))
            styled = paint(shown, "faint" if number == 0 else text if head in ("state", "breaker") else "")
            parts.append(gap + styled if head.startswith(">") else styled + gap)
        lines.append(indent + "  ".join(parts).rstrip())
        if number and notes:
            for note in notes[number - 1]:
                lines += wrapped(note, f"{indent}  ", width=paint.width)
    return lines


class Screen:
    """A place on the terminal that is drawn again and again, in one write: no flicker, nothing left switched off."""

    def __init__(self) -> None:
        self._size: os.terminal_size | None = None
        self._drawn = 0

    def show(self, lines: list[str]) -> None:
        """Draw `lines` over what was drawn last, as many as there is room for."""
        size = os.get_terminal_size(sys.stdout.fileno())
        room = max(size.lines - 1, 1)
        if size.lines and len(lines) > room:
            lines = [*lines[: room - 1], f"… {len(lines) - room + 1} more lines"]
        resized = self._size not in (None, size)
        begin = "\33[2J\33[H" if resized else f"\33[{self._drawn}A" if self._drawn else ""
        if size.columns:  # a command that is hinted at is longer than it likes: what is styled has been made to fit
            lines = [line if "\33" in line else cut(line, size.columns) for line in lines]
        body = "".join(f"\33[K{line}\n" for line in lines)  # behind a line that is full, it would erase its end
        sys.stdout.write(f"\33[?25l\33[?7l{begin}\r{body}\33[J\33[?7h\33[?25h")
        sys.stdout.flush()
        self._size, self._drawn = size, len(lines)

    def leave(self) -> None:
        """Go below what was drawn last, in whatever state an interrupted `show` has left the terminal."""
        sys.stdout.write("\33[?7h\33[?25h\n")
        sys.stdout.flush()
