"""Each story in its quick form: two meshes, one after the other, over real sockets in virtual time.

So a busy machine makes no answer late. In real time, as processes, stories are told in test_command.py.
"""

import asyncio
import sys

import pytest

from meshlite.config import load
from meshlite.demo import SCENARIOS
from meshlite.demo.scenario import Phases, Scenario, Seen, share
from meshlite.demo.story import ALONE, Second, Told, find, play, values
from meshlite.errors import StartError
from meshlite.telemetry import logs


async def played(
    scenario: Scenario, *settings: str, phases: Phases | None = None, seed: int = 0, pace: float = 1.0
) -> tuple[Seen, list]:
    """One run: what was seen, and what was told. Nothing is left of it, and the mesh had no error to report.

    `pace` is how fast its clock goes beside the loop's.
    """
    told: list[Told | Second] = []
    log, _, writer, _, recent = logs.make(sys.stderr.buffer, "json", "error")
    config = load(None, [*ALONE, f"mesh.seed={seed}", *scenario.both, *settings], sections=())
    time = asyncio.get_running_loop().time
    seen = await play(scenario, phases or scenario.quick, config, log, told.append, clock=lambda: pace * time())
    writer.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not recent.entries
    return seen, told


@pytest.mark.slow
@pytest.mark.looptime
@pytest.mark.parametrize("name", SCENARIOS)
async def test_what_a_story_claims_is_so(name: str, tmp_path) -> None:
    """With the policy beside without it; and of two runs without it, nobody could claim it."""
    scenario = find(name)
    runs = []
    for side in (scenario.without, scenario.policy):
        on_disk = [f"mesh.data={tmp_path / str(len(runs))}"] if scenario.trouble.kill else []
        runs.append(await played(scenario, *side, *on_disk))
    without, with_ = (values(scenario, seen) for seen, _ in runs)
    assert all(claim.held(without, with_) for claim in scenario.claims), (without, with_)
    assert not all(claim.held(without, without) for claim in scenario.claims), "the policy makes no difference"
    assert share(runs[1][0].at_last(), "ok") == 1.0
    for seen, told in runs:
        assert {answer.outcome for answer in seen.between(0, seen.phases.strikes)} == {"ok"}
        assert [one.what for one in told if isinstance(one, Told) and one.what in ("trouble", "over")] == [
            "trouble",
            "over",
        ]
        assert (seen.books is not None) == ("order" in scenario.users.mix)
        assert seen.books is None or seen.books.agree


@pytest.mark.slow
@pytest.mark.looptime
async def test_both_runs_have_the_same_users() -> None:
    """One seed: as many requests of each kind, at the same moments, whatever becomes of them; another seed: others."""
    scenario = find("overload")
    asked = []
    for settings, seed in ((scenario.without, 1), (scenario.policy, 1), (scenario.policy, 2)):
        seen, _ = await played(scenario, *settings, phases=Phases(0.3, 0.2, 0.3), seed=seed)
        assert not seen.waiting
        asked.append(sorted(answer.asked for answer in seen.answers))
    assert len(asked[0]) == len(asked[1])
    assert asked[0] == pytest.approx(asked[1], abs=0.02)
    assert asked[1][:5] != pytest.approx(asked[2][:5], abs=0.02)


def test_what_is_no_story_is_said(tmp_path) -> None:
    """An unknown name, a file that is not there, one that crashes, and one without a SCENARIO."""
    crashing, empty = tmp_path / "crashing.py", tmp_path / "empty.py"
    crashing.write_text("1 / 0")
    empty.write_text("")
    for name, says in (
        ("slwo", "there are slow, dead, lost-answer, retry-storm, overload, and files of your own"),
        (str(tmp_path / "mine.py"), "mine.py: there is no such file$"),
        (str(crashing), "ZeroDivisionError"),
        (str(empty), "expected a SCENARIO"),
    ):
        with pytest.raises(StartError, match=says):
            find(name)


@pytest.mark.looptime
@pytest.mark.parametrize("after", [0.8, 1.3])
async def test_every_second_is_told_the_last_one_too(after: float) -> None:
    """Also where whoever tells it wakes up after the run's end is due; one that the run cuts is told as it ends."""
    phases = Phases(0.2, 1, after)
    _, told = await played(find("slow"), phases=phases, pace=1.001)  # whoever sleeps longer is later
    seconds = [one.at for one in told if isinstance(one, Second)]
    assert seconds == pytest.approx(sorted({1.0, 2.0, phases.total}), abs=0.01)
