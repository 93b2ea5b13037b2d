"""The picture of cascade.py: a panel for each run, a mark for each answer, waits on a logarithmic scale. Plain SVG.

It brings its own background, so that it reads the same on a light page and on a dark one.
"""

from collections.abc import Callable, Sequence
from html import escape
from math import log10
from typing import NamedTuple

WIDTH, LEFT, RIGHT, TOP = 1000, 92, 28, 118
PLOT, BETWEEN = 150, 78
LINE = "#fda4af"
FAST, SLOW, PART = "#2dd4bf", "#fb7185", "#fbbf24"
INK, DIM, GRID, CARD, PANEL = "#f1f5f9", "#94a3b8", "#26334a", "#0f172a", "#162033"
LEAST, MOST = 0.001, 10.0
TICKS = ((0.001, "1 ms"), (0.01, "10 ms"), (0.1, "0.1 s"), (1.0, "1 s"), (10.0, "10 s"))
STATES = {"closed": "#2dd4bf", "open": "#fb7185", "half_open": "#fbbf24"}
SLOW_FROM = 0.1
Scale = Callable[[float], float]


class Panel(NamedTuple):
    """One run: its answers (asked, took, full), its breaker's states (from, to, name), when the fault came and went."""

    title: str
    says: str
    points: Sequence[tuple[float, float, bool]]
    states: Sequence[tuple[float, float, str]]
    fault_on: float
    fault_off: float


def draw(panels: Sequence[Panel], seconds: float) -> str:
    """The whole picture."""
    strip = 46  # the breaker's states, below the first panel
    height = TOP + len(panels) * (PLOT + BETWEEN) + strip + 12
    about = " ".join(f"{panel.title}: {panel.says}." for panel in panels)
    family = "ui-sans-serif, system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
    question = "Inventory becomes 5 s slow. How long do the clients of orders wait?"
    how = "64 clients ask orders, which asks inventory. Each mark is one answer; a slow one is as long as its wait."
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="{family}" role="img">',
        "<title>One slow service, with a circuit breaker and without</title>",
        f"<desc>{escape(about)}</desc>",
        f'<rect width="{WIDTH}" height="{height}" rx="16" fill="{CARD}"/>',
        _text(LEFT, 44, question, 22, INK, weight=650),
        _text(LEFT, 70, how, 14, DIM),
        *_legend(),
    ]
    top = TOP
    for panel in panels:
        parts += _panel(panel, top + 34, seconds)
        top += PLOT + BETWEEN + (strip if panel.states else 0)
    return "\n".join([*parts, "</svg>\n"])


def _legend() -> list[str]:
    parts, x = [], float(LEFT)
    for color, says, wide in (
        (FAST, "complete and fast", 160),
        (PART, "fast, without product details (degraded)", 306),
        (SLOW, "slow: over 0.1 s", 130),
    ):
        parts += [f'<circle cx="{x + 5:g}" cy="92" r="4.5" fill="{color}"/>', _text(x + 16, 97, says, 13, INK)]
        x += wide
    return parts


def _panel(panel: Panel, top: float, seconds: float) -> list[str]:
    def across(moment: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * min(max(moment / seconds, 0), 1), 1)

    def up(took: float) -> float:
        share = (log10(min(max(took, LEAST), MOST)) - log10(LEAST)) / (log10(MOST) - log10(LEAST))
        return round(top + PLOT * (1 - share), 1)

    bottom, on, off = top + PLOT, across(panel.fault_on), across(panel.fault_off)
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
    parts += _marks(panel, across, up)
    between = min((3.2, 0.03), key=lambda level: sum(level / 2.5 < took < level * 2.5 for _, took, _ in panel.points))
    for x, label in ((on, "inventory turns slow"), (off, "inventory is well again")):
        parts.append(f'<path d="M{x} {top}V{bottom}" stroke="{LINE}" stroke-width="1.5" stroke-dasharray="4 4"/>')
        parts.append(_text(x + 8, up(between) + 4, label, 13, LINE))
    for moment in range(0, int(seconds) + 1, 5):
        parts.append(_text(across(moment), bottom + 18 + (34 if panel.states else 0), f"{moment} s", 12, DIM, "middle"))
    return parts + (_strip(panel, bottom + 8, across) if panel.states else [])


def _marks(panel: Panel, across: Scale, up: Scale) -> list[str]:
    """A dot for each fast answer, a line for each slow one; one of a kind at a place is enough."""
    places: dict[str, set[tuple[float, float, float]]] = {FAST: set(), PART: set(), SLOW: set()}
    for asked, took, full in panel.points:
        slow = took > SLOW_FROM
        x, y = round(across(asked)), round(up(took) * 2) / 2
        places[SLOW if slow else FAST if full else PART].add((x, y, round(across(asked + took)) - x if slow else 0))
    return [
        f'<path d="{"".join(f"M{x} {y:g}h{long}" for x, y, long in sorted(found))}" stroke="{color}" '
        'stroke-width="3.6" stroke-linecap="round" stroke-opacity="0.8" fill="none"/>'
        for color, found in places.items()
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
