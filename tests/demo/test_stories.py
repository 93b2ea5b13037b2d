"""Each story in its quick form: two real meshes in real time, one after the other."""

import asyncio
import sys

import pytest
import uvloop

from meshlite.config import load
from meshlite.demo import SCENARIOS
from meshlite.demo.scenario import Phases, Scenario, Seen
from meshlite.demo.story import ALONE, Second, Told, find, play, values
from meshlite.errors import StartError
from meshlite.telemetry import logs


def played(scenario: Scenario, *settings: str, phases: Phases | None = None, seed: int = 0) -> tuple[Seen, list]:
    """One run: what was seen, and what was told. Nothing is left of it, and the mesh had no error to report."""
    told: list[Told | Second] = []
    log, _, writer, _, recent = logs.make(sys.stderr.buffer, "json", "error")

    async def whole() -> Seen:
        config = load(None, [*ALONE, f"mesh.seed={seed}", *scenario.both, *settings], sections=())
        seen = await play(scenario, phases or scenario.quick, config, log, told.append)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return seen

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(whole())
    writer.close()
    assert not recent.entries
    return seen, told


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_what_a_story_claims_is_so(name: str, tmp_path) -> None:
    """With the policy beside without it; and of two runs without it, nobody could claim it."""
    scenario = find(name)
    runs = []
    for side in (scenario.without, scenario.policy):
        on_disk = [f"mesh.data={tmp_path / str(len(runs))}"] if scenario.trouble.kill else []
        runs.append(played(scenario, *side, *on_disk))
    without, with_ = (values(scenario, seen) for seen, _ in runs)
    assert all(claim.held(without, with_) for claim in scenario.claims), (without, with_)
    assert not all(claim.held(without, without) for claim in scenario.claims), "the policy makes no difference"
    for seen, told in runs:
        assert {answer.outcome for answer in seen.between(0, seen.phases.strikes)} == {"ok"}
        assert [one.what for one in told if isinstance(one, Told) and one.what in ("trouble", "over")] == [
            "trouble",
            "over",
        ]
        assert (seen.books is not None) == ("order" in scenario.users.mix)
        assert seen.books is None or seen.books.agree


@pytest.mark.slow
def test_both_runs_have_the_same_users() -> None:
    """One seed: as many requests of each kind, at the same moments, whatever becomes of them; another seed: others."""
    scenario = find("overload")
    asked = []
    for settings, seed in ((scenario.without, 1), (scenario.policy, 1), (scenario.policy, 2)):
        seen, _ = played(scenario, *settings, phases=Phases(0.3, 0.2, 0.3), seed=seed)
        assert not seen.waiting
        asked.append(sorted(round(answer.asked, 1) for answer in seen.answers))
    assert len(asked[0]) == len(asked[1])
    assert asked[0] == pytest.approx(asked[1], abs=0.3)
    assert asked[1] != asked[2]


def test_what_is_no_story_is_said(tmp_path) -> None:
    """An unknown name, a file that is not there, one that crashes, and one without a SCENARIO."""
    crashing, empty = tmp_path / "crashing.py", tmp_path / "empty.py"
    crashing.write_text("1 / 0")
    empty.write_text("")
    for name, says in (
        ("slwo", "there are slow, dead, lost-answer, retry-storm, overload, and files of your own"),
        (str(tmp_path / "mine.py"), "FileNotFoundError"),
        (str(crashing), "ZeroDivisionError"),
        (str(empty), "expected a SCENARIO"),
    ):
        with pytest.raises(StartError, match=says):
            find(name)
