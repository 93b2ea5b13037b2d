"""The orders service, over HTTP: placing, repeating, cancelling, doing without."""

import asyncio
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from meshlite.events import CallCompleted
from meshlite.services.orders import checkout
from meshlite.services.orders.domain import Answer
from meshlite.services.orders.store import MIGRATIONS, Key, OrderStore
from meshlite.storage import Database
from tests.conftest import StartMesh, World
from tests.test_mesh import PATIENT

DOWN = ("faults.down.kind=error", "faults.down.status=500", "faults.down.enabled=true")
LOST = (*DOWN, "faults.down.service=inventory", "faults.down.phase=response", "faults.down.route=/reservations/*")

QUICK = "edges.orders.inventory.breaker.reset_timeout=0.1"


async def calm(world: World, order_id: str) -> str:
    """The order's status, once it has one that lasts."""
    for _ in range(200):
        status = (await world.get("orders", f"/orders/{order_id}")).json["status"]
        if status not in ("pending", "cancelling"):
            return status
        await asyncio.sleep(0.02)
    raise AssertionError(f"order {order_id} is still {status}")


async def test_an_order_is_placed_and_its_stock_is_reserved(world: World) -> None:
    """201 with its place, confirmed, at today's prices; the pieces are no longer available."""
    before = await world.stock("SKU-2")
    placed = await world.order(("SKU-1", 2), ("SKU-2", 5))
    assert placed.status == 201
    assert placed.json["status"] == "confirmed"
    assert placed.json["items"][1]["unit_price"] == 3450
    assert placed.json["items"][1]["product"]["sku"] == "SKU-2"
    shown = (await world.get("orders", placed.headers["Location"])).json
    assert shown == placed.json
    assert (await world.stock("SKU-2"))["available"] == before["available"] - 5


async def test_orders_are_listed_newest_first_in_pages(world: World) -> None:
    """Following `next` gives a user's orders once each, newest first, and nobody else's."""
    placed = [(await world.order(("SKU-1", 1))).json["id"] for _ in range(5)]
    seen, path = [], "/orders?user_id=1&limit=2"
    while path:
        page = (await world.get("orders", path)).json
        assert page["degraded"] == []
        seen += [order["id"] for order in page["orders"]]
        path = page["next"] and f"/orders?user_id=1&limit=2&cursor={page['next']}"
    assert seen == [*reversed(placed), "00000000-0000-4000-8000-000000000001"]


@pytest.mark.parametrize(
    ("body", "status", "kind", "pointer"),
    [
        ({"user_id": 99, "items": [{"sku": "SKU-1", "quantity": 1}]}, 422, "unknown-user", "/user_id"),
        ({"user_id": 1, "items": [{"sku": "NOPE", "quantity": 1}]}, 422, "unknown-sku", "/items/0/sku"),
        ({"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 10**9}]}, 409, "out-of-stock", "/items/0/quantity"),
        ({"user_id": 1, "items": []}, 422, "invalid-fields", "/items"),
        ({"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 0}]}, 422, "invalid-fields", "/items/0/quantity"),
        ({"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 2**31}]}, 422, "invalid-fields", "/items/0/quantity"),
        ({"user_id": "1", "items": [{"sku": "SKU-1", "quantity": 1}]}, 422, "invalid-fields", "/user_id"),
        ({"user_id": 1}, 422, "invalid-fields", "/items"),
        (
            {"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}, {"sku": "SKU-1", "quantity": 2}]},
            422,
            "invalid-fields",
            "/items/1/sku",
        ),
        ({"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}], "x": 1}, 422, "invalid-fields", "/x"),
    ],
)
async def test_what_cannot_be_ordered_is_refused_with_its_place(
    world: World, body: dict[str, Any], status: int, kind: str, pointer: str
) -> None:
    """Each refusal says which field, and leaves the stock as it was."""
    answer = await world.ask("POST", "orders", "/orders", body)
    assert (answer.status, answer.json["type"]) == (status, f"urn:meshlite:problem:{kind}")
    assert answer.json["errors"][0]["pointer"] == pointer
    assert (await world.stock("SKU-1"))["reserved"] == 3


async def test_two_hundred_orders_for_the_last_fifty_pieces_sell_fifty(start_mesh: StartMesh) -> None:
    """Stock is never sold twice: fifty are confirmed, the others refused, and every piece has its order."""
    patient = [
        f"edges.orders.{name}.{key}=60.0" for name in ("users", "inventory") for key in ("timeout", "attempt_timeout")
    ]
    world = await start_mesh("policy.bulkhead.max_waiting=500", *patient)
    await world.ask("PUT", "inventory", "/inventory/LAST", {"name": "Last", "unit_price": 1, "on_hand": 50})
    answers = await asyncio.gather(*(world.order(("LAST", 1)) for _ in range(200)))
    assert sorted(answer.status for answer in answers) == [201] * 50 + [409] * 150
    stock = await world.stock("LAST")
    assert (stock["reserved"], stock["available"]) == (50, 0)


async def test_with_the_default_bulkhead_fifty_are_sold_all_the_same(start_mesh: StartMesh, tmp_path: Path) -> None:
    """On disk, however slow the machine: what the bulkhead turns away is 503, and fifty of the rest get a piece."""
    world = await start_mesh(*PATIENT, data=tmp_path / "d")
    await world.ask("PUT", "inventory", "/inventory/LAST", {"name": "Last", "unit_price": 1, "on_hand": 50})
    answers = await asyncio.gather(*(world.order(("LAST", 1)) for _ in range(200)))
    statuses = [answer.status for answer in answers]
    assert statuses.count(201) == 50
    assert set(statuses) <= {201, 409, 503}
    assert (await world.stock("LAST"))["reserved"] == 50


async def test_a_repeat_with_the_same_key_gets_the_same_answer_and_changes_nothing(world: World) -> None:
    """A final answer (201, 409, 422) is repeated verbatim and marked; bare and quoted keys are the same key."""
    for lines, user in (([("SKU-1", 1)], 1), ([("SKU-1", 10**9)], 1), ([("NOPE", 1)], 1), ([("SKU-1", 1)], 99)):
        key = f"key-{lines}-{user}".replace(" ", "").replace("'", "")
        first = await world.order(*lines, user_id=user, key=key)
        again = await world.order(*lines, user_id=user, key=f'"{key}"')
        assert (again.status, again.body) == (first.status, first.body)
        assert again.headers.get("Location") == first.headers.get("Location")
        assert again.headers["Content-Type"] == first.headers["Content-Type"]
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
    assert (await world.stock("SKU-1"))["reserved"] == 4


@pytest.mark.parametrize("wrong", [b'{"user_id": 1, "items": []}', b'{"user_id": 1, "items": [{"sku": "A"}], "x": 1}'])
async def test_a_body_that_makes_no_order_is_a_final_answer_too(world: World, wrong: bytes) -> None:
    """Its 422 is repeated under its key, and the key is taken; without a key it is judged anew."""
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    first, again = [await world.ask("POST", "orders", "/orders", data=wrong, headers=headers) for _ in range(2)]
    assert (first.status, first.json["type"]) == (422, "urn:meshlite:problem:invalid-fields")
    assert (again.status, again.body, again.headers["Idempotent-Replayed"]) == (422, first.body, "true")
    assert "Idempotent-Replayed" not in first.headers
    mended = await world.order(("SKU-1", 1), key="k")
    assert (mended.status, mended.json["type"]) == (422, "urn:meshlite:problem:idempotency-key-reused")
    unreadable = await world.ask(
        "POST", "orders", "/orders", data=b"{", headers={**headers, "Idempotency-Key": "other"}
    )
    assert unreadable.status == 400
    assert (await world.order(("SKU-1", 1), key="other")).status == 201, "what cannot be read takes no key"


async def test_what_is_said_of_a_body_is_said_in_the_words_of_json(world: World) -> None:
    """An object is none of TOML's tables."""
    for body, said in (([], "expected an object, got a list"), ({"user_id": {}, "items": []}, "got an object")):
        answer = await world.ask("POST", "orders", "/orders", body)
        assert (answer.status, said in answer.json["detail"], "table" in answer.json["detail"]) == (422, True, False)


async def test_many_whole_numbers_may_be_written_with_a_point(world: World) -> None:
    """However many; what is wrong besides is told all the same."""
    items = [{"sku": f"NO-{number}", "quantity": 1.0} for number in range(100)]
    unknown = await world.ask("POST", "orders", "/orders", {"user_id": 1.0, "items": items})
    assert (unknown.status, unknown.json["type"]) == (422, "urn:meshlite:problem:unknown-sku")
    items[7]["quantity"] = 1.5
    wrong = await world.ask("POST", "orders", "/orders", {"user_id": 1.0, "items": items})
    assert [error["pointer"] for error in wrong.json["errors"]] == ["/items/7/quantity"]


async def test_an_empty_body_is_said_to_be_that(world: World) -> None:
    """Not to be "truncated"."""
    answer = await world.ask("POST", "orders", "/orders", data=b"", headers={"Content-Type": "application/json"})
    assert (answer.status, answer.json["detail"]) == (400, "the body is not JSON: it is empty, or breaks off")


async def test_a_body_with_a_hundred_thousand_mistakes_is_told_of_fifty(world: World) -> None:
    """Its answer is no greater than it is of use, and nor is what is kept of it; a key of its own is cut."""
    items = [b'{"x": 1}'] * 100_000
    wrong = b'{"user_id": 1, "' + b"y" * 100_000 + b'": 1, "items": [' + b",".join(items) + b"]}"
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    answer = await world.ask("POST", "orders", "/orders", data=wrong, headers=headers)
    assert answer.status == 422
    errors = answer.json["errors"]
    assert (len(errors), errors[0]["pointer"]) == (51, "/" + "y" * 60 + "…")
    assert errors[-1]["detail"] == "and more: 50 are told at once"
    assert len(answer.body) < 20_000
    other = await world.ask("POST", "orders", "/orders", data=b'{"user_id": 1}', headers=headers)
    assert other.json["type"] == "urn:meshlite:problem:idempotency-key-reused", "another wrong body is another request"


async def test_what_curl_sends_without_a_type_is_read_as_json(world: World) -> None:
    """`curl -d` declares a form; so does nobody who means one."""
    order = b'{"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]}'
    for kind in ("application/x-www-form-urlencoded", "text/plain; charset=utf-8", "application/octet-stream"):
        answer = await world.ask("POST", "orders", "/orders", data=order, headers={"Content-Type": kind})
        assert answer.status == 201


async def test_a_key_belongs_to_one_body(world: World) -> None:
    """The same key with another body is 422, and nothing is done; the same meaning written otherwise is no other."""
    await world.order(("SKU-1", 1), key="k")
    other = await world.order(("SKU-1", 2), key="k")
    assert (other.status, other.json["type"]) == (422, "urn:meshlite:problem:idempotency-key-reused")
    shuffled = b'{"items": [{"quantity": 1, "sku": "SKU-1"}],\n "user_id": 1}'
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    assert (await world.ask("POST", "orders", "/orders", data=shuffled, headers=headers)).status == 201
    assert (await world.stock("SKU-1"))["reserved"] == 4


async def test_concurrent_repeats_make_one_order(world: World) -> None:
    """While the first is at work, its repeats are 409 of their own type; afterwards they get its answer."""
    answers = await asyncio.gather(*(world.order(("SKU-1", 1), key="once") for _ in range(20)))
    statuses = sorted(answer.status for answer in answers)
    assert statuses.count(409) == 19
    assert {a.json["type"] for a in answers if a.status == 409} == {"urn:meshlite:problem:idempotency-in-progress"}
    assert (await world.order(("SKU-1", 1), key="once")).headers["Idempotent-Replayed"] == "true"
    assert (await world.stock("SKU-1"))["reserved"] == 4


async def test_a_key_is_kept_for_a_day(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeat within it gets its answer, one afterwards makes an order."""
    now = time.time()
    first = (await world.order(("SKU-1", 1), key="k")).json["id"]
    for hours, same in ((23.9, True), (24.1, False)):
        monkeypatch.setattr(time, "time", lambda later=now + hours * 3600: later)
        assert ((await world.order(("SKU-1", 1), key="k")).json["id"] == first) is same


async def test_keys_that_are_old_enough_are_dropped() -> None:
    """However many, a few at a time; the others are kept."""
    store = OrderStore(Database(":memory:", MIGRATIONS))
    for age in range(600):
        await store.remember(Key(f"{age}", "f"), Answer(422, b"{}"), 1e6 - age * 600)
    await store.forget(1e6)
    kept = {int(key) for (key,) in store.database.read("SELECT key FROM idempotency")}
    assert kept == set(range(24 * 6))
    await store.database.close()


@pytest.mark.looptime
async def test_who_leaves_while_he_waits_for_his_turn_leaves_nothing(start_mesh: StartMesh) -> None:
    """His key is free again, and his turn goes to somebody else."""
    late = "faults.late={service='users',kind='delay',seconds=0.5,enabled=true}"
    world = await start_mesh(*PATIENT, "policy.admission=false", "policy.bulkhead=false", late)
    first = [asyncio.create_task(world.order(("SKU-1", 1))) for _ in range(checkout.AT_ONCE)]
    await asyncio.sleep(0.1)
    waiting = asyncio.create_task(world.order(("SKU-1", 1), key="k"))
    await asyncio.sleep(0.1)
    assert (await world.order(("SKU-1", 1), key="k")).json["type"] == "urn:meshlite:problem:idempotency-in-progress"
    waiting.cancel()
    await asyncio.sleep(0.1)
    again = asyncio.create_task(world.order(("SKU-1", 1), key="k"))
    assert [answer.status for answer in await asyncio.gather(*first, again)] == [201] * (checkout.AT_ONCE + 1)


@pytest.mark.looptime
async def test_what_cannot_be_undone_is_tried_again_ever_more_seldom(start_mesh: StartMesh) -> None:
    """After half a second, one, two, and so on to thirty; and done as soon as inventory is there again."""
    world = await start_mesh("policy.breaker=false", "policy.retry=false")
    loop = asyncio.get_running_loop()
    order = (await world.order(("SKU-1", 1))).json["id"]
    world.set_faults(*DOWN, "faults.down.service=inventory", "faults.down.method=DELETE")
    tries: list[float] = []
    world.mesh.bus.subscribe(
        lambda fact: tries.append(loop.time()) if fact.callee == "inventory" else None, CallCompleted
    )
    assert (await world.ask("POST", "orders", f"/orders/{order}/cancel")).json["status"] == "cancelling"
    await asyncio.sleep(100)
    gaps = [round(after - before, 1) for before, after in pairwise(tries[0:1] + tries[2:])]
    assert gaps == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    world.set_faults()
    await asyncio.sleep(31)
    assert (await world.get("orders", f"/orders/{order}")).json["status"] == "cancelled"


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "caf\xe9", '"abc', 'a"b', "a b"])
async def test_a_key_that_cannot_be_read_is_refused(world: World, key: str) -> None:
    """Empty, too long, not ASCII: 400, and no order."""
    answer = await world.order(("SKU-1", 1), key=key)
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, "Idempotency-Key")


async def test_orders_and_answers_outlive_a_restart(start_mesh: StartMesh, tmp_path: Path) -> None:
    """After a restart on the same folder the order is there, and its key still gives its answer."""
    data = tmp_path / "data"
    world = await start_mesh(data=data)
    placed = await world.order(("SKU-1", 4), key="k")
    await world.mesh.stop()
    world = await start_mesh(data=data)
    assert (await world.get("orders", placed.headers["Location"])).json == placed.json
    again = await world.order(("SKU-1", 4), key="k")
    assert (again.status, again.body, again.headers["Idempotent-Replayed"]) == (201, placed.body, "true")
    assert (await world.stock("SKU-1"))["reserved"] == 7


async def test_a_503_is_not_final(start_mesh: StartMesh) -> None:
    """A repeat after a 503 tries again, and the key ends with one confirmed order and one reservation."""
    world = await start_mesh(QUICK)
    world.set_faults(*LOST)
    failed = await world.order(("SKU-5", 2), key="k")
    assert (failed.status, failed.json["edge"]) == (503, "orders→inventory")
    assert int(failed.headers["Retry-After"]) >= 1
    world.set_faults()
    while (placed := await world.order(("SKU-5", 2), key="k")).status == 503:
        await asyncio.sleep(0.02)
    assert placed.status == 201
    statuses = [
        await calm(world, order["id"]) for order in (await world.get("orders", "/orders?limit=2")).json["orders"]
    ]
    assert statuses == ["confirmed", "cancelled"]
    assert (await world.stock("SKU-5"))["reserved"] == 2


async def test_a_reservation_whose_answer_was_lost_is_released(start_mesh: StartMesh) -> None:
    """Inventory did it and the answer was lost: the client gets 503, the order ends cancelled, its stock free."""
    world = await start_mesh(QUICK)
    world.set_faults(*LOST)
    assert (await world.order(("SKU-5", 2))).status == 503
    assert "PUT" in {line["method"] for line in world.logged("request.completed") if line.get("fault") == "down"}
    world.set_faults()
    order = (await world.get("orders", "/orders?limit=1")).json["orders"][0]
    assert await calm(world, order["id"]) == "cancelled"
    assert (await world.stock("SKU-5"))["reserved"] == 0
    late = await world.ask(
        "PUT", "inventory", f"/reservations/{order['id']}", {"items": [{"sku": "SKU-5", "quantity": 2}]}
    )
    assert late.json["type"] == "urn:meshlite:problem:reservation-released"


async def test_what_was_never_sent_needs_no_undo(world: World) -> None:
    """With the breaker open nothing begins: 503 at once, no order, and when to come back."""
    world.mesh.edges["orders", "inventory"].breakers() or await world.order(("SKU-1", 1))
    for _, breaker in world.mesh.edges["orders", "inventory"].breakers():
        breaker.set_mode("forced_open")
    before = (await world.get("orders", "/orders")).json["orders"]
    refused = await world.order(("SKU-1", 1))
    assert (refused.status, refused.json["edge"]) == (503, "orders→inventory")
    assert "Retry-After" not in refused.headers  # forced open: nobody knows for how long
    assert len((await world.get("orders", "/orders")).json["orders"]) == len(before)


async def test_an_order_needs_the_users_service(world: World) -> None:
    """Users is a hard dependency of an order: without it 503 with the edge, and nothing is reserved."""
    world.set_faults(*DOWN, "faults.down.service=users")
    refused = await world.order(("SKU-1", 1))
    assert (refused.status, refused.json["edge"]) == (503, "orders→users")
    assert (await world.stock("SKU-1"))["reserved"] == 3


async def test_without_inventory_orders_are_shown_without_products(world: World) -> None:
    """Inventory is a soft dependency of a look: 200, products null, what is missing and why in body and header."""
    world.set_faults(*DOWN, "faults.down.service=inventory")
    listed = await world.get("orders", "/orders?user_id=1")
    assert listed.status == 200
    assert listed.json["degraded"] == ["inventory"]
    assert listed.json["orders"][0]["items"][0]["product"] is None
    assert listed.json["orders"][0]["items"][0]["unit_price"] == 900
    assert listed.headers["meshlite-degraded"] == "inventory; reason=error"
    assert listed.headers["Cache-Control"] == "no-store"
    for _ in range(2):
        listed = await world.get("orders", "/orders?user_id=1")
    assert listed.headers["meshlite-degraded"] == "inventory; reason=circuit_open"
    through = await world.get("users", "/users/1?include=orders")
    assert through.json["degraded"] == ["inventory"]
    assert through.headers["meshlite-degraded"] == "inventory; reason=circuit_open"


async def test_cancelling_gives_the_stock_back_once(world: World) -> None:
    """200 cancelled, and again 200; the stock is freed once."""
    placed = (await world.order(("SKU-5", 7))).json
    for _ in range(2):
        cancelled = await world.ask("POST", "orders", f"/orders/{placed['id']}/cancel")
        assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
        assert (await world.stock("SKU-5"))["reserved"] == 0


async def test_cancelling_without_inventory_is_accepted_and_completes_by_itself(start_mesh: StartMesh) -> None:
    """202 while inventory is down, and what is missing is said; when it is back the order ends cancelled by itself."""
    world = await start_mesh(QUICK)
    placed = (await world.order(("SKU-5", 7))).json
    world.set_faults(*DOWN, "faults.down.service=inventory")
    accepted = await world.ask("POST", "orders", f"/orders/{placed['id']}/cancel")
    assert (accepted.status, accepted.json["status"]) == (202, "cancelling")
    assert (accepted.json["items"][0]["product"], accepted.json["degraded"]) == (None, ["inventory"])
    assert accepted.headers["meshlite-degraded"].startswith("inventory; reason=")
    assert accepted.headers["Cache-Control"] == "no-store"
    world.set_faults()
    assert await calm(world, placed["id"]) == "cancelled"
    assert (await world.stock("SKU-5"))["reserved"] == 0


@pytest.mark.slow
async def test_a_client_that_leaves_while_cancelling_leaves_nothing_half_done(
    start_mesh: StartMesh, tmp_path: Path
) -> None:
    """On disk, gone at any moment: every order ends cancelled or is still confirmed, and the stock agrees."""
    world = await start_mesh(data=tmp_path / "d")
    placed = [(await world.order(("SKU-5", 1))).json["id"] for _ in range(20)]
    for n, order_id in enumerate(placed):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.0004 * n):
                await world.ask("POST", "orders", f"/orders/{order_id}/cancel")
    await asyncio.sleep(0.2)
    statuses = [await calm(world, order_id) for order_id in placed]
    assert set(statuses) <= {"confirmed", "cancelled"}
    assert (await world.stock("SKU-5"))["reserved"] == statuses.count("confirmed")


async def test_one_order_that_cannot_be_undone_does_not_hold_up_the_others(start_mesh: StartMesh) -> None:
    """A release that always fails is tried again and again; the next order's is not kept waiting for it."""
    world = await start_mesh("edges.orders.inventory.breaker=false")
    one, two = [(await world.order(("SKU-5", 1))).json["id"] for _ in range(2)]
    world.set_faults(*DOWN, "faults.down.service=inventory")
    for order_id in (one, two):
        assert (await world.ask("POST", "orders", f"/orders/{order_id}/cancel")).status == 202
    world.set_faults(*DOWN, "faults.down.service=inventory", f"faults.down.route=/reservations/{one}")
    assert await calm(world, two) == "cancelled"
    assert (await world.get("orders", f"/orders/{one}")).json["status"] == "cancelling"


@pytest.mark.parametrize(
    ("fault", "lasts", "ends"),
    [
        (("service=inventory", "seconds=0.2"), 0.0, "confirmed"),
        (("service=inventory", "seconds=0.2", "phase=response"), 0.0, "confirmed"),
        (("service=inventory", "seconds=5.0"), 1.0, "cancelled"),
        (("service=inventory", "seconds=5.0", "phase=response"), 1.0, "cancelled"),
        (("service=users", "seconds=5.0"), 0.0, None),
    ],
)
@pytest.mark.looptime
async def test_a_deadline_that_passes_is_told_in_time_and_the_order_comes_to_its_end(
    start_mesh: StartMesh, fault: tuple[str, ...], lasts: float, ends: str | None
) -> None:
    """Who has 50 ms is answered within 50 ms; what was begun is then confirmed or cancelled, its stock right."""
    settings = [f"faults.s.{text}" for text in ("kind=delay", "enabled=true", *fault)]
    world = await start_mesh(*settings)
    loop = asyncio.get_running_loop()
    start, before = loop.time(), len((await world.get("orders", "/orders")).json["orders"])
    body = {"user_id": 1, "items": [{"sku": "SKU-5", "quantity": 3}]}
    start = loop.time()
    late = await world.ask("POST", "orders", "/orders", body, headers={"X-Envoy-Expected-Rq-Timeout-Ms": "50"})
    assert loop.time() - start == pytest.approx(0.04, abs=0.012)
    assert late.status == (503 if ends is None else 504), late
    await asyncio.sleep(lasts)
    world.set_faults()
    await asyncio.sleep(40.0)
    orders = (await world.get("orders", "/orders")).json["orders"]
    assert [order["status"] for order in orders[: len(orders) - before]] == ([] if ends is None else [ends])
    assert (await world.stock("SKU-5"))["reserved"] == (3 if ends == "confirmed" else 0)


async def test_clients_that_give_up_do_not_multiply_the_work(world: World) -> None:
    """However many clients have gone, no more orders are placed at once than there are turns."""
    world.set_faults(
        "faults.s.kind=delay", "faults.s.seconds=0.15", "faults.s.service=inventory", "faults.s.enabled=true"
    )
    at_once: list[int] = []

    async def impatient() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await world.order(("SKU-1", 1))
        at_once.append(world.mesh.edges["orders", "inventory"].in_flight)

    await asyncio.gather(*(impatient() for _ in range(80)))
    assert max(at_once) <= checkout.AT_ONCE


async def test_a_rejected_order_cannot_be_cancelled(world: World) -> None:
    """An order that never held anything is 409; one that never was, 404."""
    await world.order(("SKU-5", 61))
    rejected = (await world.get("orders", "/orders?limit=1")).json["orders"][0]
    assert rejected["status"] == "rejected"
    refused = await world.ask("POST", "orders", f"/orders/{rejected['id']}/cancel")
    assert (refused.status, refused.json["type"]) == (409, "urn:meshlite:problem:not-cancellable")
    assert (await world.ask("POST", "orders", "/orders/none/cancel")).status == 404


async def test_a_client_that_goes_away_before_anything_happened_leaves_nothing(world: World) -> None:
    """Gone while the user is being checked: no order, no reservation."""
    world.set_faults("faults.s.kind=delay", "faults.s.seconds=0.2", "faults.s.service=users", "faults.s.enabled=true")
    before = len((await world.get("orders", "/orders")).json["orders"])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await world.order(("SKU-5", 1))
    await asyncio.sleep(0.2)
    assert len((await world.get("orders", "/orders")).json["orders"]) == before


async def test_a_client_that_goes_away_later_does_not_stop_the_order(world: World) -> None:
    """Gone while inventory reserves: the order goes to its end all the same, and a repeat gets its answer."""
    world.set_faults(
        "faults.s.kind=delay", "faults.s.seconds=0.2", "faults.s.service=inventory", "faults.s.enabled=true"
    )
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await world.order(("SKU-5", 1), key="k")
    for _ in range(100):
        again = await world.order(("SKU-5", 1), key="k")
        if again.status == 201:
            break
        await asyncio.sleep(0.02)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (await world.stock("SKU-5"))["reserved"] == 1


async def test_after_a_refusal_a_first_attempt_that_is_late_reserves_nothing(start_mesh: StartMesh) -> None:
    """Where an attempt came before the refusal, its reservation is undone for good before the order is rejected."""
    world = await start_mesh()
    world.set_faults(
        *("faults.once.kind=error", "faults.once.status=500", "faults.once.service=inventory", "faults.once.times=1"),
        *("faults.once.route=/reservations/*", "faults.once.enabled=true"),
    )
    assert (await world.order(("SKU-5", 61))).status == 409
    rejected = (await world.get("orders", "/orders?limit=1")).json["orders"][0]
    assert rejected["status"] == "rejected"
    late = await world.ask(
        "PUT", "inventory", f"/reservations/{rejected['id']}", {"items": [{"sku": "SKU-5", "quantity": 1}]}
    )
    assert (late.status, late.json["type"]) == (409, "urn:meshlite:problem:reservation-released")
    assert (await world.stock("SKU-5"))["reserved"] == 0
    assert (await world.order(("SKU-5", 61))).status == 409  # without one before it, nobody is asked to undo
    requests = [line["method"] for line in world.logged("request.completed") if line["service"] == "inventory"]
    assert requests.count("DELETE") == 1


async def test_a_refusal_that_cannot_be_made_safe_is_none(start_mesh: StartMesh) -> None:
    """The undo before the refusal fails: 503, the order is cancelled in the end, and a repeat asks again."""
    world = await start_mesh("edges.orders.inventory.breaker=false")
    world.set_faults(
        *("faults.put.kind=error", "faults.put.status=500", "faults.put.service=inventory", "faults.put.times=1"),
        *("faults.put.method=PUT", "faults.put.enabled=true"),
        *("faults.delete.kind=error", "faults.delete.status=500", "faults.delete.service=inventory"),
        *("faults.delete.method=DELETE", "faults.delete.enabled=true"),
    )
    assert (await world.order(("SKU-5", 61), key="k")).status == 503
    world.set_faults()
    order = (await world.get("orders", "/orders?limit=1")).json["orders"][0]
    assert await calm(world, order["id"]) == "cancelled"
    again = await world.order(("SKU-5", 61), key="k")
    assert (again.status, "Idempotent-Replayed" in again.headers) == (409, False)


@pytest.mark.parametrize("body", ["", "nonsense", '{"id": 1}'])
async def test_an_answer_that_is_not_about_the_user_is_no_yes(world: World, body: str) -> None:
    """A 200 of users that is garbage, or speaks of somebody else: 503, and no order of a user who may not be."""
    users = world.mesh.edges["orders", "users"]
    real = users.get

    async def garbled(path: str, **more: Any) -> Any:
        response = await real("/users/1", **more)
        response._body = body.encode()
        return response

    users.get = garbled  # type: ignore[method-assign]
    refused = await world.order(("SKU-5", 1), user_id=99)
    assert (refused.status, refused.json["edge"]) == (503, "orders→users")
    assert (await world.stock("SKU-5"))["reserved"] == 0
