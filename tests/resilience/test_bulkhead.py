"""The bulkhead: places, a fair queue, and everybody who leaves it."""

import asyncio

import pytest

from meshlite.errors import BulkheadFullError, CircuitOpenError
from meshlite.resilience.bulkhead import Bulkhead


async def waiters(bulkhead: Bulkhead, count: int) -> list["asyncio.Task[None]"]:
    tasks = [asyncio.create_task(bulkhead.acquire()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_beyond_its_places_and_its_queue_it_refuses() -> None:
    """Two places and one in the queue: the fourth is refused at once."""
    bulkhead = Bulkhead(2, 1, "b")
    await bulkhead.acquire()
    await bulkhead.acquire()
    (third,) = await waiters(bulkhead, 1)
    with pytest.raises(BulkheadFullError) as refused:
        await bulkhead.acquire()
    assert refused.value.reason == "bulkhead_full"
    assert refused.value.sent is False
    bulkhead.release()
    await third
    assert (bulkhead.in_use, bulkhead.waiting) == (2, 0)


async def test_whoever_waited_longest_is_next() -> None:
    """Places are given in the order in which they were asked for, and nobody passes the queue."""
    bulkhead = Bulkhead(1, 3)
    await bulkhead.acquire()
    tasks = await waiters(bulkhead, 3)
    for n, task in enumerate(tasks):
        assert not bulkhead.try_acquire()
        bulkhead.release()
        await asyncio.sleep(0)
        assert task.done()
        assert [other.done() for other in tasks] == [i <= n for i in range(3)]
    bulkhead.release()
    assert bulkhead.in_use == 0


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    """Whoever is cancelled takes no place with him, neither while waiting nor in the moment the place is his."""
    bulkhead = Bulkhead(1, 2)
    await bulkhead.acquire()
    first, second = await waiters(bulkhead, 2)
    first.cancel()
    await asyncio.sleep(0)
    assert bulkhead.waiting == 1
    bulkhead.release()  # the place is the second's
    second.cancel()  # who goes in the same moment
    await asyncio.gather(first, second, return_exceptions=True)
    assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
    assert bulkhead.try_acquire()


@pytest.mark.looptime
async def test_patience_has_an_end() -> None:
    """Whoever waits longer than its patience is refused, and leaves the queue."""
    bulkhead = Bulkhead(1, 5)
    await bulkhead.acquire()
    start = asyncio.get_running_loop().time()
    with pytest.raises(BulkheadFullError):
        await bulkhead.acquire(patience=7.0)
    assert asyncio.get_running_loop().time() - start == pytest.approx(7.0, abs=0.1)
    assert bulkhead.waiting == 0


async def test_waiters_can_be_sent_away() -> None:
    """`wake` ends every wait with the given error and takes no place."""
    bulkhead = Bulkhead(1, 3)
    await bulkhead.acquire()
    tasks = await waiters(bulkhead, 3)
    bulkhead.wake(lambda: CircuitOpenError("b", "open", 1.0))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, CircuitOpenError) for result in results)
    assert (bulkhead.in_use, bulkhead.waiting) == (1, 0)


async def test_made_larger_it_lets_in_at_once_whoever_fits() -> None:
    """Two more places are two waiters less, in order; who left the queue in the same moment takes none."""
    bulkhead = Bulkhead(1, 5)
    await bulkhead.acquire()
    tasks = await waiters(bulkhead, 4)
    tasks[0].cancel()
    bulkhead.resize(3, 0)
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [True, True, True, False]
    assert (bulkhead.in_use, bulkhead.waiting) == (3, 1)
    with pytest.raises(BulkheadFullError):
        await bulkhead.acquire()
    bulkhead.release()
    await tasks[3]
    for _ in range(3):
        bulkhead.release()
    assert bulkhead.in_use == 0


async def test_made_smaller_it_drains_down_and_sends_nobody_away() -> None:
    """Those at work finish, those who wait wait until it is down to its new size, and no place is lost."""
    bulkhead = Bulkhead(4, 2)
    for _ in range(4):
        await bulkhead.acquire()
    tasks = await waiters(bulkhead, 2)
    bulkhead.resize(2, 0)
    for in_use in (3, 2):
        bulkhead.release()
        assert (bulkhead.in_use, bulkhead.waiting) == (in_use, 2)
    for waiting in (1, 0):
        bulkhead.release()
        assert (bulkhead.in_use, bulkhead.waiting) == (2, waiting)
    await asyncio.gather(*tasks)
    bulkhead.release()
    bulkhead.release()
    assert bulkhead.in_use == 0


async def test_opened_it_lets_everyone_in() -> None:
    """All who wait and all who come; they are counted all the same."""
    bulkhead = Bulkhead(1, 5)
    await bulkhead.acquire()
    tasks = await waiters(bulkhead, 5)
    bulkhead.open()
    await asyncio.gather(*tasks)
    assert bulkhead.try_acquire()
    assert (bulkhead.in_use, bulkhead.waiting) == (7, 0)
