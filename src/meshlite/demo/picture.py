"""Runs side by side as a picture: a panel for each, a mark for each answer, waits on a logarithmic scale. Plain SVG.

It brings its own background, so that it reads the same on a light page and on a dark one.
"""

from collections.abc import Callable, Sequence
from html import escape
from math import log10
from textwrap import wrap
from typing import NamedTuple

WIDTH, LEFT, RIGHT, TOP = 1000, 92, 28, 118
PLOT, BETWEEN = 150, 78
LINE = "#fda4af"
WHOLE, PART, LATER, SLOW = "#2dd4bf", "#fbbf24", "#7dd3fc", "#fb7185"
INK, DIM, GRID, CARD, PANEL = "#f1f5f9", "#94a3b8", "#26334a", "#0f172a", "#162033"
STRIP = 46  # the breaker's states, below a panel
LEAST, MOST = 0.001, 10.0
TICKS = ((0.001, "1 ms"), (0.01, "10 ms"), (0.1, "0.1 s"), (1.0, "1 s"), (10.0, "10 s"))
STATES = {"closed": "#2dd4bf", "open": "#fb7185", "half_open": "#fbbf24"}
Scale = Callable[[float], float]


class Panel(NamedTuple):
    """One run: its answers (asked, took, what), its breaker's states (from, to, name), when trouble came and went.

    What came is "whole", "part", "later" (a refusal at once) or "vain".
    """

    title: str
    says: str
    points: Sequence[tuple[float, float, str]]
    states: Sequence[tuple[float, float, str]]
    strikes: float
    ends: float


def draw(
    title: str,
    how: str,
    panels: Sequence[Panel],
    seconds: float,
    *,
    slow: float,
    part: str = "fast, in part",
    marks: tuple[str, str] = ("trouble", "over"),
) -> str:
    """The whole picture: what is longer than `slow` is a line; `marks` are said where the trouble comes and goes."""
    says = wrap(how, 128)
    more = 20 * (len(says) - 1)
    height = more + TOP + len(panels) * (PLOT + BETWEEN) + STRIP * sum(bool(panel.states) for panel in panels) + 12
    about = " ".join(f"{panel.title}: {panel.says}." for panel in panels)
    family = "ui-sans-serif, system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="{family}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(about)}</desc>",
        f'<rect width="{WIDTH}" height="{height}" rx="16" fill="{CARD}"/>',
        _text(LEFT, 44, title, 22, INK, weight=650),
        *(_text(LEFT, 70 + 20 * line, words, 14, DIM) for line, words in enumerate(says)),
        *_legend(panels, slow, part, more),
    ]
    top = TOP + more
    for panel in panels:
        parts += _panel(panel, top + 34, seconds, slow, marks)
        top += PLOT + BETWEEN + (STRIP if panel.states else 0)
    return "\n".join([*parts, "</svg>\n"])


def _legend(panels: Sequence[Panel], slow: float, part: str, more: int) -> list[str]:
    parts, x = [], float(LEFT)
    there = {what for panel in panels for _, _, what in panel.points}
    vain = ", or in vain" if "vain" in there else ""
    for what, color, says in (
        ("whole", WHOLE, "complete and fast"),
        ("part", PART, part),
        ("later", LATER, "told at once: later"),
        ("", SLOW, f"slow: over {slow:g} s{vain}"),
    ):
        if not what or what in there:
            parts.append(f'<circle cx="{x + 5:g}" cy="{92 + more}" r="4.5" fill="{color}"/>')
            parts.append(_text(x + 16, 97 + more, says, 13, INK))
            x += 42 + 6.6 * len(says)
    return parts


def _panel(panel: Panel, top: float, seconds: float, slow: float, marks: tuple[str, str]) -> list[str]:
    def across(moment: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * min(max(moment / seconds, 0), 1), 1)

    def up(took: float) -> float:
        share = (log10(min(max(took, LEAST), MOST)) - log10(LEAST)) / (log10(MOST) - log10(LEAST))
        return round(top + PLOT * (1 - share), 1)

    bottom, on, off = top + PLOT, across(panel.strikes), across(panel.ends)
    parts = [
        _text(LEFT, top - 13, panel.title, 16, INK, weight=650),
        _text(WIDTH - RIGHT, top - 13, panel.says, 14, DIM, anchor="end"),
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - RIGHT}" height="{PLOT}" rx="6" fill="{PANEL}"/>',
        f'<rect x="{on}" y="{top}" width="{off - on:g}" height="{PLOT}" fill="#fb7185" fill-opacity="0.11"/>',
    ]
    for value, label in TICKS:
        y = up(value)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 10, y + 4, label, 12, DIM, anchor="end"))
    parts += _marks(panel, across, up, slow)
    for moment, label in zip((panel.strikes, panel.ends), marks, strict=True):
        x, pixel = across(moment), seconds / (WIDTH - LEFT - RIGHT)
        y = up(_free(panel, moment + 16 * pixel, moment + (16 + 7 * len(label)) * pixel))
        parts.append(f'<path d="M{x} {top}V{bottom}" stroke="{LINE}" stroke-width="1.5" stroke-dasharray="4 4"/>')
        parts.append(_text(x + 16, y + 4, label, 13, LINE))
    for moment in range(0, int(seconds) + 1, 5 if seconds > 15 else 1):
        parts.append(_text(across(moment), bottom + 18 + (34 if panel.states else 0), f"{moment} s", 12, DIM, "middle"))
    return parts + (_strip(panel, bottom + 8, across) if panel.states else [])


def _free(panel: Panel, start: float, end: float) -> float:
    """A wait at whose height there are the fewest marks between two moments: room for a word."""

    def marks(level: float) -> int:
        return sum(
            asked < end and asked + took > start and level / 2.2 < took < level * 2.2 for asked, took, _ in panel.points
        )

    return min((3.2, 0.8, 0.2, 0.05, 0.015), key=marks)


def _marks(panel: Panel, across: Scale, up: Scale, slow: float) -> list[str]:
    """A dot for each fast answer, a line for each slow one; one of a kind at a place is enough."""
    colors = {"whole": WHOLE, "part": PART, "later": LATER}
    places: dict[str, set[tuple[float, float, float]]] = {color: set() for color in (*colors.values(), SLOW)}
    for asked, took, what in panel.points:
        x, y = round(across(asked)), round(up(took) * 2) / 2
        long = round(across(asked + took)) - x if took > slow else 0
        places[SLOW if took > slow else colors.get(what, SLOW)].add((x, y, long))
    return [
        f'<path d="{"".join(f"M{x} {y:g}h{long}" for x, y, long in sorted(found))}" stroke="{color}" '
        'stroke-width="3.6" stroke-linecap="round" stroke-opacity="0.8" fill="none"/>'
        for color, found in places.items()
        if found
    ]


def _strip(panel: Panel, top: float, across: Scale) -> list[str]:
    """The breaker's states as a bar, and what happened when."""
    spans = [(0.0, panel.states[0][0], "closed"), *panel.states]
    parts = [_text(LEFT - 10, top + 17, "breaker", 12, INK, anchor="end")]
    for start, end, state in spans:
        x, wide = across(start), max(across(end) - across(start), 3)
        parts.append(f'<rect x="{x}" y="{top}" width="{wide:g}" height="26" rx="3" fill="{STATES[state]}"/>')
        if wide > 60:
            parts.append(_text(x + wide / 2, top + 18, state, 13, CARD, "middle", 650))
    return parts


def _text(x: float, y: float, what: str, size: int, color: str, anchor: str = "start", weight: int = 400) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(what)}</text>"
    )
