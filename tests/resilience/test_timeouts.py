"""Limits on what tasks wait for, many behind one timer: each rings when `asyncio.timeout` would."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import looptime
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from meshlite.resilience import timeouts as timeouts_module
from meshlite.resilience.timeouts import Timeout, Timeouts


@pytest.fixture
def timeouts() -> Timeouts:
    return Timeouts()


@pytest.mark.parametrize(("limit", "work", "late"), [(1.0, 0.5, False), (1.0, 1.5, True), (None, 1e6, False)])
@pytest.mark.looptime
async def test_what_takes_too_long_is_a_timeout(
    timeouts: Timeouts, limit: float | None, work: float, late: bool
) -> None:
    """After so many seconds, and with nothing of the cancellation left on the task."""
    loop = asyncio.get_running_loop()
    began, ended = loop.time(), work
    try:
        with Timeout(timeouts, limit):
            await asyncio.sleep(work)
        assert not late
    except TimeoutError:
        assert late and limit is not None
        ended = limit
    assert loop.time() - began == pytest.approx(ended, abs=0.002)
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


@pytest.mark.parametrize("when", [0.5, 1.0])
@pytest.mark.looptime
async def test_a_cancellation_by_somebody_else_stays_one(timeouts: Timeouts, when: float) -> None:
    """Before the limit, and in the very moment of it."""

    async def work() -> None:
        with Timeout(timeouts, 1.0):
            await asyncio.sleep(5.0)

    task = asyncio.create_task(work())
    asyncio.get_running_loop().call_later(when, task.cancel)
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.looptime
async def test_an_error_of_the_work_is_not_covered_by_a_limit_that_rang(timeouts: Timeouts) -> None:
    """What the work made of its cancellation comes out, and the task can wait again."""

    async def work() -> None:
        with Timeout(timeouts, 1.0):
            try:
                await asyncio.sleep(5.0)
            except asyncio.CancelledError:
                raise ValueError("mine") from None

    with pytest.raises(ValueError, match="mine"):
        await work()
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0
    await asyncio.sleep(1.0)


@pytest.mark.looptime
async def test_a_cancellation_that_takes_its_time_is_not_repeated(timeouts: Timeouts) -> None:
    """What is being put away may wait, while others' limits ring."""

    async def work(limit: float, cleanup: float) -> None:
        with Timeout(timeouts, limit):
            try:
                await asyncio.sleep(5.0)
            finally:
                await asyncio.sleep(cleanup)

    slow, other = (asyncio.create_task(work(limit, cleanup)) for limit, cleanup in ((1.0, 1.0), (1.5, 0.0)))
    for task in (slow, other):
        with pytest.raises(TimeoutError):
            await task


Timers = list[asyncio.TimerHandle]


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Timers]:
    """Called in a loop: the timers that are set in it from then on."""

    def watch() -> Timers:
        loop, found = asyncio.get_running_loop(), []
        call_at = loop.call_at

        def counted(when: float, *more: Any, **options: Any) -> asyncio.TimerHandle:
            found.append(call_at(when, *more, **options))
            return found[-1]

        monkeypatch.setattr(timeouts_module.asyncio, "get_running_loop", lambda: Seen(loop, counted))
        return found

    return watch


class Seen(NamedTuple):
    """A loop, as the limits see it."""

    loop: asyncio.AbstractEventLoop
    call_at: Callable[..., asyncio.TimerHandle]

    def time(self) -> float:
        return self.loop.time()


@pytest.mark.looptime
async def test_a_thousand_calls_that_end_in_time_set_one_timer(
    timeouts: Timeouts, timers: Callable[[], Timers]
) -> None:
    """Not one each."""
    found = timers()
    for _ in range(1000):
        with Timeout(timeouts, 0.25):
            pass
    assert len(found) == 1


@pytest.mark.looptime
async def test_an_earlier_limit_takes_the_timer_over(timeouts: Timeouts, timers: Callable[[], Timers]) -> None:
    """There is one at a time."""
    found = timers()
    with Timeout(timeouts, 10.0), Timeout(timeouts, 1.0), Timeout(timeouts, 5.0):
        assert [timer.cancelled() for timer in found] == [True, False]


def test_on_uvloop_too_a_timer_rings_once(timers: Callable[[], Timers]) -> None:
    """Its clock counts in milliseconds, and may ring one of them early: that is no reason to set it again."""

    async def late() -> None:
        found, timeouts = timers(), Timeouts()
        for number in range(1, 21):
            with pytest.raises(TimeoutError), Timeout(timeouts, 0.001 + number / 9_000):
                await asyncio.sleep(5.0)
            assert len(found) == number

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(late())


@pytest.mark.looptime
async def test_nothing_rings_once_nobody_waits(timeouts: Timeouts) -> None:
    """The timer that is left rings for nothing, and is not set again."""
    loop = asyncio.get_running_loop()
    with Timeout(timeouts, 1.0):
        pass
    assert timeouts.rings == pytest.approx(loop.time() + 1.0)
    await asyncio.sleep(1.5)
    assert timeouts.rings == float("inf")


@pytest.mark.looptime
async def test_what_a_cancelled_task_puts_away_can_have_a_limit(timeouts: Timeouts) -> None:
    """Its own cancellation is from before; what rings is a timeout."""
    found = []

    async def work() -> None:
        try:
            await asyncio.sleep(5.0)
        finally:
            with pytest.raises(TimeoutError), Timeout(timeouts, 1.0):
                await asyncio.sleep(5.0)
            found.append(True)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and found


class Standing:
    """A loop whose clock, and whose one timer, are in the test's hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[float] = []
        self._ring: Callable[[], None]

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, ring: Callable[[], None]) -> MagicMock:
        self.due.append(when)
        self._ring = ring
        return MagicMock()

    def ring(self, now: float) -> None:
        self.now = now
        self._ring()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Standing:
    standing = Standing()
    monkeypatch.setattr(timeouts_module.asyncio, "get_running_loop", lambda: standing)
    return standing


async def test_a_loop_that_stood_still_is_not_held_against_who_is_waited_for(loop: Standing) -> None:
    """What the timer was late by is what everybody has from then on, where that is more than was left."""
    timeouts = Timeouts()
    with Timeout(timeouts, 1.0), Timeout(timeouts, 1.2), Timeout(timeouts, 5.0), Timeout(timeouts, None):
        loop.ring(1.5)
        assert sorted(timeout.due for timeout in timeouts.entered) == pytest.approx([2.0, 2.0, 5.0, inf], abs=0.01)
        assert loop.due == pytest.approx([1.0, 2.0], abs=0.01)


async def test_however_long_it_stood_still_nobody_gets_more_than_his_limit_again(loop: Standing) -> None:
    """A pause of a minute does not become two."""
    timeouts = Timeouts()
    with Timeout(timeouts, 1.0), Timeout(timeouts, 100.0):
        loop.ring(61.0)
        assert sorted(timeout.due for timeout in timeouts.entered) == pytest.approx([62.0, 121.0], abs=0.01)


async def test_a_pause_that_takes_nothing_from_a_limit_is_not_what_it_is_spared_for(loop: Standing) -> None:
    """The next one may."""
    timeouts = Timeouts()
    patient = Timeout(timeouts, 100.0)
    with patient:
        with Timeout(timeouts, 1.0):
            loop.ring(1.5)
        loop.ring(2.0)
        assert patient.due == 100.0
        loop.ring(110.0)
        assert patient.due == pytest.approx(120.0, abs=0.01)


@pytest.mark.parametrize("rings", [(1.02,), (1.5, 2.02), (1.5, 2.5)], ids=["in time", "then in time", "late again"])
async def test_a_limit_is_spared_once(loop: Standing, rings: tuple[float, ...]) -> None:
    """What does not come after all is a timeout, also where the loop stands still again."""
    timeouts = Timeouts()
    task = asyncio.current_task()
    assert task is not None

    async def wait() -> None:
        with Timeout(timeouts, 1.0):
            for now in rings:
                assert task.cancelling() == 0
                loop.ring(now + 0.01)
            await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        await wait()


Work = tuple[int, int | None, int]
"""When it begins, its limit, how long it takes, all in tenths of a second."""


@given(st.lists(st.tuples(st.integers(0, 20), st.none() | st.integers(1, 20), st.integers(0, 30)), max_size=12))
def test_many_at_once_end_as_each_would_alone(works: list[Work]) -> None:
    """Whatever begins when, with whatever limit: the same outcome at the same time as with `asyncio.timeout`."""

    async def outcome(work: Work, timeouts: Timeouts | None) -> tuple[str, float]:
        begin, limit, length = work
        loop = asyncio.get_running_loop()
        await asyncio.sleep(begin / 10)
        began, seconds, how = loop.time(), None if limit is None else limit / 10, "done"
        try:
            if timeouts is None:
                async with asyncio.timeout(seconds):
                    await asyncio.sleep(length / 10 + 0.05)
            else:
                with Timeout(timeouts, seconds):
                    await asyncio.sleep(length / 10 + 0.05)
        except TimeoutError:
            how = "late"
        return how, round(loop.time() - began, 2)

    async def all_of_them(timeouts: Timeouts | None) -> list[tuple[str, float]]:
        found = await asyncio.gather(*(outcome(work, timeouts) for work in works))
        if timeouts is not None:
            assert not timeouts.entered
        return found

    def run(timeouts: Timeouts | None) -> list[tuple[str, float]]:
        with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
            return runner.run(all_of_them(timeouts))

    assert run(Timeouts()) == run(None)
