"""The path of an order: a durable state before every effect outside, and a way on from each of them.

    check the user · write `pending` · reserve at inventory · write `confirmed` with the answer
    refused: write `rejected` with the answer · outcome unknown: write `cancelling`, and the reconciler undoes it

Up to `pending` the client may go away and nothing has happened. From there on the work is a task of its own and goes to
its end, client or no client. What a crash leaves `pending` got no answer; it is cancelled at the next start.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from structlog.typing import FilteringBoundLogger

from meshlite import propagation
from meshlite.errors import CallError, CircuitOpenError, StorageError
from meshlite.resilience.edge import Edge
from meshlite.services.orders.domain import Answer, NewOrder, Order, Status
from meshlite.services.orders.peers import Refused, release, reserve, user_exists
from meshlite.services.orders.store import Key, OrderStore
from meshlite.wire.problems import FieldError, Problem, unavailable
from meshlite.wire.times import now as timestamp

T = TypeVar("T")
AT_ONCE = 32
"""Orders that are being placed at the same time. Further ones wait their turn before they begin: all of them share one
loop, so that more at once would not be done sooner, and each call would take longer than its timeout allows."""
_RETRY = 0.5
_GRACE_LOOK = 0.05
_SHORTEST = 0.01
_LONGEST = 30.0
_HOUR = 3600.0
_REFUSALS = {"unknown-sku", "out-of-stock"}


class Checkout:
    """Places and cancels orders, and brings to an end whatever was left half-way."""

    def __init__(self, store: OrderStore, users: Edge, inventory: Edge, log: FilteringBoundLogger) -> None:
        self._store = store
        self._users = users
        self._inventory = inventory
        self._log = log
        self._keys_at_work: dict[str, str] = {}
        self._orders_at_work: set[str] = set()
        self._tries: dict[str, int] = {}
        self._due: dict[str, float] = {}  # when an order that could not be undone is to be tried again
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._left_over = asyncio.Event()
        self._left_over.set()

    async def place(self, new: NewOrder, key_value: str | None) -> tuple[Answer, bool]:
        """The final answer, and whether it is a repeat of an earlier one. Raises Problem where there is none."""
        key = None if key_value is None else Key(key_value, new.fingerprint())
        if key is not None and (answer := self._picked_up(key)) is not None:
            return answer, True
        try:
            await self._turns.acquire()
        except BaseException:
            self._put_down(key)
            raise
        try:
            begun = await self._begin(new, key)
        except BaseException:
            self._end_turn(key)
            raise
        if isinstance(begun, Answer):
            self._end_turn(key)
            return begun, False
        return await self._see_through(lambda: self._carry_out(begun, new, key)), False

    async def refuse(self, problem: Problem, key_value: str, fingerprint: str) -> tuple[Answer, bool]:
        """`problem` as the final answer to a body that makes no order, kept under its key; whether it is a repeat."""
        key = Key(key_value, fingerprint)
        if (answer := self._picked_up(key)) is not None:
            return answer, True
        try:
            answer = _answer(problem)
            await self._store.remember(key, answer, time.time())
        finally:
            self._put_down(key)
        return answer, False

    def _end_turn(self, key: Key | None) -> None:
        self._turns.release()
        self._put_down(key)

    def _picked_up(self, key: Key) -> Answer | None:
        """The answer that was given under this key before; where there is none, the key is at work until put down."""
        at_work = self._keys_at_work.get(key.value)
        known = None if at_work else self._store.remembered(key.value, time.time())
        fingerprint = at_work or (known and known.fingerprint)
        if fingerprint is not None and fingerprint != key.fingerprint:
            raise Problem("idempotency-key-reused", "this Idempotency-Key came with another body before")
        if at_work:
            detail = "the first request with this Idempotency-Key has no answer yet: repeat it later"
            raise Problem("idempotency-in-progress", detail, retry_after=1.0)
        answer = known.answer if known else None
        if answer is None:
            self._keys_at_work[key.value] = key.fingerprint
        return answer

    def _put_down(self, key: Key | None) -> None:
        if key is not None:
            del self._keys_at_work[key.value]

    async def _begin(self, new: NewOrder, key: Key | None) -> str | Answer:
        """What comes before the first durable effect: the new order's id, or the final answer that there is none."""
        try:
            self._inventory.check("PUT", "/reservations/{order_id}")
            known = await user_exists(self._users, new.user_id)
        except CallError as error:
            raise unavailable(error) from error
        if known:
            return str(uuid.uuid4())
        detail = f"there is no user {new.user_id}"
        answer = _answer(Problem("unknown-user", detail, errors=[FieldError("/user_id", detail)]))
        if key is not None:
            await self._store.remember(key, answer, time.time())
        return answer

    async def _see_through(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `work` in a task of its own, which goes on if the client goes away, whatever its deadline was."""
        task = asyncio.create_task(_without_deadline(work))
        self._tasks.add(task)
        task.add_done_callback(self._seen_through)
        return await asyncio.shield(task)

    def _seen_through(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, Problem | StorageError):
            self._log.error("order.crashed", exc_info=error)

    async def _carry_out(self, order_id: str, new: NewOrder, key: Key | None) -> Answer:
        self._orders_at_work.add(order_id)
        try:
            created_at = timestamp()
            await self._store.open(order_id, new, created_at, key, time.time())
            try:
                items = await reserve(self._inventory, order_id, new.items)
            except Refused as refused:
                return await self._reject(order_id, refused, key)
            except CallError as error:
                await self._finish(order_id, "cancelling" if error.sent else "cancelled", None, key)
                raise unavailable(error) from error
            order = Order(order_id, new.user_id, items, "confirmed", created_at)
            answer = Answer(201, msgspec.json.encode(order), f"/orders/{order_id}")
            await self._store.finish(order_id, "confirmed", answer, key, time.time(), items)
            return answer
        except BaseException:
            self._left_over.set()
            raise
        finally:
            self._orders_at_work.discard(order_id)
            self._end_turn(key)

    async def _reject(self, order_id: str, refused: Refused, key: Key | None) -> Answer:
        if refused.kind not in _REFUSALS:  # not the order's fault: inventory and we do not understand each other
            await self._finish(order_id, "cancelling", None, key)
            raise Problem(
                "dependency-unavailable", f"inventory refused: {refused}", edge=self._inventory.name, retry_after=1.0
            )
        if refused.repeated:  # the attempt before may have been delayed: after a final no it must not reserve any more
            try:
                await release(self._inventory, order_id)
            except CallError as error:
                await self._finish(order_id, "cancelling", None, key)
                raise unavailable(error) from error
        answer = _answer(Problem(refused.kind, str(refused), errors=refused.errors))
        await self._finish(order_id, "rejected", answer, key)
        return answer

    async def _finish(self, order_id: str, status: Status, answer: Answer | None, key: Key | None) -> None:
        await self._store.finish(order_id, status, answer, key, time.time())

    async def cancel(self, order: Order) -> Status:
        """Cancel a confirmed order: "cancelled", or "cancelling" where inventory cannot be reached just now."""
        return await self._see_through(lambda: self._cancel(order))

    async def _cancel(self, order: Order) -> Status:
        self._orders_at_work.add(order.id)
        try:
            if not await self._store.move(order.id, "confirmed", "cancelling"):
                now = self._store.get(order.id)
                return now.status if now else order.status
            if (wait := await self._undo(order.id)) is None:
                return "cancelled"
            self._due[order.id] = asyncio.get_running_loop().time() + wait
        except BaseException:
            self._left_over.set()
            raise
        finally:
            self._orders_at_work.discard(order.id)
        self._left_over.set()
        return "cancelling"

    async def _undo(self, order_id: str) -> float | None:
        """Bring a cancelling order to its end; None, or the seconds after which to try again."""
        try:
            await release(self._inventory, order_id)
            await self._store.move(order_id, "cancelling", "cancelled")
        except CircuitOpenError as error:
            return error.retry_after or _RETRY
        except (CallError, StorageError) as error:
            tries = self._tries[order_id] = self._tries.get(order_id, 0) + 1
            self._log.warning("order.not_cancelled", order_id=order_id, tries=tries, error=str(error))
            return min(_RETRY * 2.0 ** (tries - 1), _LONGEST)
        self._tries.pop(order_id, None)
        return None

    async def reconcile(self) -> None:
        """Bring to an end what no request is at work on: at start, and whenever something was left. Never returns."""
        forgotten = -_HOUR
        while True:
            self._left_over.clear()
            wait = _HOUR
            try:
                if time.monotonic() - forgotten >= _HOUR:
                    forgotten = time.monotonic()
                    await self._store.forget(time.time())
                wait = await self._reconcile_once()
            except Exception as error:  # it must not end, whatever comes
                self._log.error("orders.not_reconciled", exc_info=None if isinstance(error, StorageError) else error)
                wait = _RETRY
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._left_over.wait()

    async def _reconcile_once(self) -> float:
        """One round over all that is left and due again; the seconds until the next is."""
        loop, due = asyncio.get_running_loop(), self._due
        at_work = self._orders_at_work
        left = {order_id: status for order_id, status in self._store.unfinished() if order_id not in at_work}
        for order_id in due.keys() - left.keys():
            del due[order_id]
        for order_id, status in left.items():
            if due.get(order_id, 0.0) > loop.time():
                continue
            if status == "pending":
                await self._store.move(order_id, "pending", "cancelling")
            if (wait := await self._undo(order_id)) is None:
                self._log.info("order.reconciled", order_id=order_id, found=status, status="cancelled")
                due.pop(order_id, None)
            else:
                due[order_id] = loop.time() + wait
        return max(min(due.values(), default=loop.time() + _HOUR) - loop.time(), _SHORTEST)

    async def finish(self, grace: Callable[[], float]) -> None:
        """Let what is at work end while `grace` has seconds left."""
        while self._tasks and (left := grace()) > 0:  # a kill takes them away meanwhile
            await asyncio.wait(self._tasks, timeout=min(left, _GRACE_LOOK))

    async def close(self) -> None:
        """Cut what is at work; it is reconciled at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _without_deadline(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """From the first durable effect on, the caller's deadline stops nothing any more."""
    inbound = propagation.current.get()
    if inbound is not None:
        inbound.traced()  # one trace for both
        propagation.current.set(msgspec.structs.replace(inbound, deadline=None))
    return await work()


def _answer(problem: Problem) -> Answer:
    return Answer(problem.status, msgspec.json.encode(problem.document))
