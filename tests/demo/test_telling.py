"""What is told of a run: words, bars, the table, the document, the picture."""

import json
import shlex
from collections import Counter
from xml.etree import ElementTree

import pytest

from meshlite.demo import SCENARIOS, telling
from meshlite.demo.scenario import Claim, Seen
from meshlite.demo.story import Second, Told, find, values
from meshlite.events import BreakerMoved
from meshlite.load import Answer
from meshlite.terminal import Paint

OPEN = "orders→inventory: 3 consecutive failures, last: no answer after 0.25 s"
STILL = "orders→inventory: a probe failed: no answer after 0.25 s"


def run(name: str, wait: float, outcome: str = "ok", of: str = "slow") -> telling.Run:
    """A made-up run of the story `of`: an answer each tenth of a second, `wait` in the trouble."""
    scenario = find(of)
    seen = Seen(phases=scenario.phases)
    for tenth in range(int(10 * scenario.phases.total)):
        bad = scenario.phases.strikes <= tenth / 10 < scenario.phases.ends
        kind = ("orders", "user", "order")[tenth % 3]
        seen.answers.append(Answer(kind, outcome if bad else "ok", tenth / 10, wait if bad else 0.002))
    seen.facts.append((2.3, BreakerMoved("orders", "inventory", "edge", "closed", "open", "<reasons> & such")))
    told: list[Told | Second] = [Second(1.0, Counter(ok=30), 0, 0.002), Told(2.3, "open", OPEN)]
    return telling.Run(name, told, seen, values(scenario, seen))


def test_a_bar_shows_what_part_of_the_people_got_what() -> None:
    """Its marks are as the shares are and fill it; the numbers are behind it; it fits."""
    line = telling.bar(Second(7.02, Counter(ok=6, degraded=3, refused=1, failed=1, timed_out=1), 12, 0.3), Paint())
    assert line == "  +7.0 s ██████▓▓▓░xx············      6       3      1       2      12   0.30 s"
    assert len(line) <= 80
    nothing = telling.bar(Second(12.0, Counter(), 0, None), Paint())
    assert nothing.split() == ["+12.0", "s", "-", "-", "-", "-", "-", "-"]
    crowd = telling.bar(Second(12.0, Counter(ok=1, refused=999), 9999, 12.5), Paint())
    assert len(crowd) <= 80
    assert crowd.count("█") + crowd.count("░") + crowd.count("·") == telling.BAR


def test_what_repeats_itself_gets_shorter() -> None:
    """The first opening is explained, later ones take a line; a second half-open says nothing new."""
    narrator = telling.Narrator(find("slow"), Paint())
    said = [
        narrator.lines(Told(at, what, words))
        for at, what, words in (
            (2.0, "trouble", "inventory is slow"),
            (2.3, "open", OPEN),
            (3.3, "half_open", "orders→inventory: the open time of 1 s is over"),
            (3.5, "open", STILL),
            (4.5, "half_open", "orders→inventory: the open time of 1 s is over"),
            (4.6, "closed", "orders→inventory: 2 probes succeeded"),
            (5.0, "open", "users→orders: 5 consecutive failures"),
        )
    ]
    assert said[0] == ["  +2.0 s ▼ inventory is slow"]
    assert said[1][0] == "  +2.3 s ● orders→inventory: the breaker opens: 3 consecutive failures, last: no"
    assert said[1][1].endswith("Nobody waits for inventory any more.")
    assert "one call at a time may try" in said[2][0]
    assert said[3] == ["  +3.5 s ● still open: a probe failed: no answer after 0.25 s"]
    assert said[4] == []
    assert said[5] == ["  +4.6 s ○ the breaker closes: 2 probes succeeded. Inventory is asked again."]
    assert said[6][0].startswith("  +5.0 s ● users→orders: the breaker opens")


def test_the_table_says_both_and_whether_it_held() -> None:
    """Waits in their unit, claims with yes or NO, the settings of each run."""
    scenario = find("slow")
    text = "\n".join(telling.closing(scenario, run("without", 3.5), run("with", 0.003, "degraded"), Paint()))
    assert "typical wait of a reader in the trouble               3.5 s           3 ms" in text
    assert "until the circuit breaker opened                     0.30 s         0.30 s" in text
    for price in ("readers who got a whole answer", "buyers whose order was placed"):
        assert f"{price:<44}          100 %            0 %" in text
    assert "readers who got an answer in part                       0 %          100 %" in text
    assert text.count("\n  yes ") == 3
    assert "reset_timeout=1" in text
    text = "\n".join(telling.closing(scenario, run("without", 0.003), run("with", 0.9), Paint()))
    assert text.count("\n  NO  ") == 3
    assert "busy" not in text


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_settings_of_a_run_can_be_pasted(name: str) -> None:
    """Behind `--set`, into a shell: each is one word there, on one line."""
    scenario = find(name)
    lines = telling.closing(scenario, run("without", 3.5, of=name), run("with", 0.003, of=name), Paint())
    for settings in (scenario.without, scenario.policy, scenario.both):
        for setting in settings:
            assert any(setting in shlex.split(line) for line in lines if line.count("'") % 2 == 0), setting


def test_a_busy_machine_is_blamed_where_a_claim_failed() -> None:
    """And only there: a story that held needs no excuse."""
    scenario = find("slow")
    for waits, blamed in ((3.5, False), (0.003, True)):
        runs = run("without", waits), run("with", 0.003, "degraded")
        runs[0].seen.lag = 0.31
        text = "\n".join(telling.closing(scenario, *runs, Paint()))
        assert ("The machine was busy: the loop was up to 0.31 s late. Play it again." in text) is blamed


@pytest.mark.parametrize("name", SCENARIOS)
def test_everything_fits_into_80_columns(name: str) -> None:
    """What every story says before, between and after its runs, whatever was seen."""
    scenario = find(name)
    seen = Seen(phases=scenario.phases)
    empty = telling.Run("with", [], seen, values(scenario, seen))
    lines = [
        *telling.opening(scenario, 0, scenario.phases, Paint()),
        *telling.heading("without", scenario.says_without, "", Paint()),
        *telling.heading("with", scenario.says_with, scenario.explains, Paint()),
        *telling.closing(scenario, empty, empty, Paint()),
    ]
    for what in ("trouble", "over"):
        lines += telling.Narrator(scenario, Paint()).lines(Told(0.0, what, scenario.trouble.begins))
    assert max(map(len, lines)) <= 80


def test_of_what_was_never_seen_no_claim_holds() -> None:
    """A breaker that never opened did not open early."""
    claim = Claim("It opens early.", lambda _, with_: with_["opened"] < 1)
    assert claim.held({}, {"opened": 0.5})
    assert not claim.held({}, {"opened": None})


def test_the_document_has_all_of_it() -> None:
    """The scenario, the seed, the claim and whether it held, both runs' rows, and the timeline of both."""
    document = telling.document(find("slow"), 7, run("without", 3.5), run("with", 0.003, "degraded"))
    assert json.loads(json.dumps(document)) == document
    assert list(document) == ["scenario", "seed", "claim", "held", "claims", "without", "with", "timeline"]
    assert (document["scenario"], document["seed"], document["held"]) == ("slow", 7, True)
    assert document["without"]["typical"] == 3.5
    assert document["timeline"][0] == {
        "run": "without",
        "at": 1.0,
        "what": "second",
        "ok": 30,
        "degraded": 0,
        "refused": 0,
        "lost": 0,
        "waiting": 0,
        "typical": 0.002,
    }
    assert document["timeline"][3] == {"run": "with", "at": 2.3, "what": "open", "words": OPEN}
    assert not telling.document(find("slow"), 7, run("without", 0.003), run("with", 0.003))["held"]


def test_the_picture_shows_both_runs() -> None:
    """Well-formed, with a panel for each, a mark for what came, a line for what was late, and the breaker's states."""
    svg = telling.picture(find("slow"), [run("without", 3.5), run("with", 0.003, "degraded")])
    tree = ElementTree.fromstring(svg)
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "Without: no timeouts, no retries, no circuit breaker" in texts
    assert "typical wait of a reader in the trouble: 3 ms" in texts
    assert texts.count("inventory turns slow") == 2
    assert "open" in texts
    assert {"fast, in part", "slow: over 0.1 s"} <= set(texts)
    assert "told at once: later" not in texts, "of what did not come, the legend is silent"
