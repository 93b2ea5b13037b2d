"""What a story looks like: its words and bars while it is played, its closing table, the same as JSON and as a picture.

A terminal has 80 columns; there is colour on one only.
"""

import shlex
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from meshlite.demo import SCENARIOS
from meshlite.demo.picture import Panel, draw
from meshlite.demo.scenario import Phases, Row, Scenario, Seen, Value, Values
from meshlite.demo.story import Second, Told
from meshlite.terminal import Paint, wrapped

BAR = 24
_PARTS = (
    ("ok", "█", "closed"),
    ("degraded", "▓", "half_open"),
    ("refused", "░", "faint"),
    ("lost", "x", "open"),
    ("waiting", "·", "open"),
)
"""What a bar is made of: the key, the mark, and the colour's name."""
_LEGEND = "█ whole  ▓ in part  ░ told to come back later  x in vain  · still waiting"
_HEADS = ("whole", "in part", "later", "in vain", "waiting")
_WIDTHS = (7, 8, 7, 8, 8)
_BUSY = 0.05
"""Seconds: a loop that was this late may have made a story another one."""
_MARKS = {"trouble": "▼", "over": "▲", "open": "●", "half_open": "◐", "closed": "○"}
_STYLES = {"trouble": "open", "over": "closed"}


class Run(NamedTuple):
    """One of the two runs: "without" or "with", what was told while it was played, what was seen, and its rows."""

    name: str
    told: list[Told | Second]
    seen: Seen
    values: Values


def verdict(scenario: Scenario, without: Run, with_: Run) -> list[tuple[str, bool]]:
    """Each claim, and whether it held."""
    return [(claim.words, claim.held(without.values, with_.values)) for claim in scenario.claims]


def opening(scenario: Scenario, seed: int, phases: Phases, paint: Paint) -> list[str]:
    """Before the first run."""
    how = f"Two runs of {phases.total:g} s, each on a fresh mesh, with the same users (seed {seed})."
    return [paint(scenario.title, "title"), *wrapped(scenario.intro, "  "), *wrapped(how, "  ")]


def heading(name: str, says: str, explains: str, paint: Paint) -> list[str]:
    """Before each run: what it is, and what its columns mean."""
    heads = "".join(head.rjust(width) for head, width in zip(_HEADS, _WIDTHS, strict=True))
    return [
        "",
        paint(name.upper(), "title") + f": {says}",
        *wrapped(explains, "  "),
        f"  {_LEGEND}",
        paint(" " * (9 + BAR) + heads + "typical".rjust(9), "faint"),
    ]


def _amount(second: Second) -> dict[str, int]:
    outcomes = second.outcomes
    return {
        "ok": outcomes["ok"],
        "degraded": outcomes["degraded"],
        "refused": outcomes["refused"],
        "lost": outcomes["failed"] + outcomes["timed_out"],
        "waiting": second.waiting,
    }


def bar(second: Second, paint: Paint) -> str:
    """A second: the shares of what users got in it as a bar, then in numbers."""
    amounts = _amount(second)
    total = sum(amounts.values()) or 1
    drawn, reached, filled = "", 0, 0
    for key, mark, style in _PARTS:
        reached += amounts[key]
        long = round(reached / total * BAR) - filled
        filled += long
        drawn += paint(mark * long, style) if long else ""
    numbers = "".join((str(n) if n else "-").rjust(width) for n, width in zip(amounts.values(), _WIDTHS, strict=True))
    typical = "-" if second.typical is None else in_seconds(second.typical)
    return f" {second.at:+5.1f} s {drawn}{' ' * (BAR - filled)}{numbers}{typical.rjust(9)}"


class Narrator:
    """Puts what happens in one run into words; what repeats itself gets shorter."""

    def __init__(self, scenario: Scenario, paint: Paint) -> None:
        self._watched = "→".join(scenario.watched)
        self._paint = paint
        self._opened: set[str] = set()
        self._tried: set[str] = set()

    def lines(self, told: Told | Second) -> list[str]:
        """The lines for it, none if it is not worth any."""
        if isinstance(told, Second):
            return [bar(told, self._paint)]
        words = told.words if told.what in _STYLES else self._breaker(told)
        if words is None:
            return []
        first, *rest = wrapped(words, " " * 11, " " * 11)
        mark = self._paint(_MARKS[told.what], _STYLES.get(told.what, told.what))
        return [f" {told.at:+5.1f} s {mark} {first.lstrip()}", *rest]

    def _breaker(self, told: Told) -> str | None:
        edge, _, reason = told.words.partition(": ")
        callee = edge.partition("→")[2]
        which = "" if edge == self._watched and edge in self._opened else f"{edge}: "
        match told.what:
            case "open" if edge not in self._opened:
                self._opened.add(edge)
                return f"{which}the breaker opens: {reason}. Nobody waits for {callee} any more."
            case "open":
                return f"{which}still open: {reason}"
            case "half_open" if edge not in self._tried:
                self._tried.add(edge)
                return f"{which}half open: one call at a time may try whether {callee} is well again"
            case "closed":
                return f"{which}the breaker closes: {reason}. {callee.capitalize()} is asked again."
        return None


def closing(scenario: Scenario, without: Run, with_: Run, paint: Paint) -> list[str]:
    """The table of both runs, the claims, and what the two differed in."""
    lines = ["", paint(f"{'':46}{'without':>15}{'with':>15}", "title")]
    for row in scenario.rows:
        shown = [write(row, run.values[row.key]) for run in (without, with_)]
        lines.append(f"  {row.words:<44}{shown[0]:>15}{shown[1]:>15}")
    lines.append("")
    for words, held in verdict(scenario, without, with_):
        mark = paint("yes", "closed") if held else paint("NO ", "open")
        first, *rest = wrapped(words, " " * 6)
        lines += [f"  {mark} {first.lstrip()}", *rest]
    lag = max(run.seen.lag for run in (without, with_))
    if lag >= _BUSY and not all(held for _, held in verdict(scenario, without, with_)):
        lines.append(f"      The machine was busy: the loop was up to {in_seconds(lag)} late. Play it again.")
    lines += ["", paint("  what each run had for --set", "faint")]
    for name, settings in (("without", scenario.without), ("with", scenario.policy), ("both", scenario.both)):
        if settings:
            lines += [paint(line, "faint") for line in wrapped(shlex.join(settings), f"  {name}: ", "    ")]
    others = " | ".join(name for name in SCENARIOS if name != scenario.name)
    return [*lines, "", f"more: python -m meshlite demo {others}"]


def write(row: Row, value: Value) -> str:
    """A value of the table, in its unit."""
    if value is None:
        return "never" if row.unit == "s" else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _UNITS[row.unit](value)


def in_seconds(value: float) -> str:
    """Seconds, or milliseconds where they are few."""
    if value < 0.0005:
        return "at once"
    return f"{value * 1000:.0f} ms" if value < 0.0995 else f"{value:.1f} s" if value >= 0.95 else f"{value:.2f} s"


_UNITS: dict[str, Callable[[float], str]] = {
    "s": in_seconds,
    "%": lambda value: f"{100 * value:.0f} %",
    "times": "{:.1f}".format,
    "": "{:,.0f}".format,
}


def document(scenario: Scenario, seed: int, without: Run, with_: Run) -> dict[str, Any]:
    """All of it for scripts."""
    claims = verdict(scenario, without, with_)
    return {
        "scenario": scenario.name,
        "seed": seed,
        "claim": " ".join(words for words, _ in claims),
        "held": all(held for _, held in claims),
        "claims": [{"claim": words, "held": held} for words, held in claims],
        without.name: without.values,
        with_.name: with_.values,
        "timeline": [{"run": run.name, **_entry(told)} for run in (without, with_) for told in run.told],
    }


def _entry(told: Told | Second) -> dict[str, Any]:
    if isinstance(told, Told):
        return {"at": round(told.at, 3), "what": told.what, "words": told.words}
    return {"at": round(told.at, 3), "what": "second", **_amount(told), "typical": told.typical}


def picture(scenario: Scenario, runs: Sequence[Run]) -> str:
    """Both runs, a mark for each answer, as SVG."""
    titles = (f"Without: {scenario.says_without}", f"With: {scenario.says_with}")
    panels = [_panel(scenario, run, title) for run, title in zip(runs, titles, strict=True)]
    return draw(
        scenario.title,
        scenario.intro,
        panels,
        runs[0].seen.phases.total,
        slow=scenario.slow,
        marks=scenario.trouble.marks,
    )


def _panel(scenario: Scenario, run: Run, title: str) -> Panel:
    seen, row = run.seen, scenario.rows[0]
    points = [
        (a.asked, a.seconds, {"ok": "whole", "degraded": "part", "refused": "later"}.get(a.outcome, "vain"))
        for a in seen.answers
    ]
    moves = [*seen.moves(*scenario.watched), (seen.phases.total, "")]
    states = [(start, end, state) for (start, state), (end, _) in pairwise(moves)]
    says = f"{row.words}: {write(row, run.values[row.key])}"
    return Panel(title, says, points, states, seen.phases.strikes, seen.phases.ends)
