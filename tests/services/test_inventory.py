"""The inventory service, over HTTP."""

import asyncio
from typing import Any

import pytest

from tests.conftest import Answer, World


async def reserve(world: World, order_id: str, *lines: tuple[str, int]) -> Answer:
    items = [{"sku": sku, "quantity": quantity} for sku, quantity in lines]
    return await world.ask("PUT", "inventory", f"/reservations/{order_id}", {"items": items})


async def put(world: World, sku: str, on_hand: int, price: int = 100) -> Answer:
    return await world.ask(
        "PUT", "inventory", f"/inventory/{sku}", {"name": sku, "unit_price": price, "on_hand": on_hand}
    )


async def test_the_first_start_has_products_and_the_reservations_of_its_orders(world: World) -> None:
    """Five products at least, a thousand of the first; what is reserved is what the demonstration orders hold."""
    products = (await world.get("inventory", "/inventory")).json["items"]
    assert len(products) >= 5
    assert products[0]["on_hand"] >= 1000
    held: dict[str, int] = {}
    for order in (await world.get("orders", "/orders")).json["orders"]:
        again = await reserve(world, order["id"], *((item["sku"], item["quantity"]) for item in order["items"]))
        assert again.status == 200
        for item in order["items"]:
            held[item["sku"]] = held.get(item["sku"], 0) + item["quantity"]
    assert {p["sku"]: p["reserved"] for p in products} == {p["sku"]: held.get(p["sku"], 0) for p in products}
    assert all(p["available"] == p["on_hand"] - p["reserved"] for p in products)


async def test_a_product_is_created_and_replaced(world: World) -> None:
    """The first PUT is 201 with a place, the next 200."""
    created = await put(world, "NEW-1", 7, 250)
    assert (created.status, created.headers["Location"]) == (201, "/inventory/NEW-1")
    assert created.json == {
        "sku": "NEW-1",
        "name": "NEW-1",
        "unit_price": 250,
        "on_hand": 7,
        "reserved": 0,
        "available": 7,
    }
    assert (await put(world, "NEW-1", 9)).status == 200
    assert (await world.stock("NEW-1"))["on_hand"] == 9


async def test_stock_cannot_fall_below_what_is_reserved(world: World) -> None:
    """`on_hand` below what is reserved is 409 and changes nothing."""
    await put(world, "P", 10)
    await reserve(world, "o1", ("P", 6))
    refused = await put(world, "P", 5)
    assert (refused.status, refused.json["type"]) == (409, "urn:meshlite:problem:below-reserved")
    assert (await world.stock("P"))["on_hand"] == 10
    assert (await put(world, "P", 6)).json["available"] == 0


async def test_reserving_is_idempotent_and_releasing_is_final(world: World) -> None:
    """201, then 200 for the same items, 409 for others; DELETE is 204 however often; a PUT after it is 409."""
    await put(world, "P", 10)
    assert (await reserve(world, "o1", ("P", 3))).status == 201
    assert (await reserve(world, "o1", ("P", 3))).status == 200
    assert (await reserve(world, "o1", ("P", 4))).json["type"].endswith("reservation-differs")
    assert (await world.stock("P"))["reserved"] == 3
    for _ in range(2):
        assert (await world.ask("DELETE", "inventory", "/reservations/o1")).status == 204
        assert (await world.stock("P"))["reserved"] == 0
    late = await reserve(world, "o1", ("P", 3))
    assert (late.status, late.json["type"]) == (409, "urn:meshlite:problem:reservation-released")


async def test_an_undo_that_comes_first_wins(world: World) -> None:
    """A DELETE of a reservation that never was makes its later PUT 409: an undo is not overtaken by a late do."""
    assert (await world.ask("DELETE", "inventory", "/reservations/late")).status == 204
    assert (await reserve(world, "late", ("SKU-1", 1))).status == 409
    assert (await world.stock("SKU-1"))["reserved"] == 3


async def test_all_of_a_reservation_or_nothing(world: World) -> None:
    """One line that is short refuses the whole, with the line it is about; so does one that is unknown, with 422."""
    await put(world, "A", 5)
    short = await reserve(world, "o1", ("A", 1), ("SKU-5", 10**9))
    assert (short.status, short.json["type"]) == (409, "urn:meshlite:problem:out-of-stock")
    assert short.json["errors"] == [
        {"pointer": "/items/1/quantity", "detail": "1000000000 of SKU-5 wanted, 60 available"}
    ]
    unknown = await reserve(world, "o1", ("A", 1), ("NOPE", 1))
    assert (unknown.status, unknown.json["errors"][0]["pointer"]) == (422, "/items/1/sku")
    assert (await world.stock("A"))["reserved"] == 0


async def test_concurrent_reservations_share_what_there_is(world: World) -> None:
    """Of a hundred reservations of one piece each, for thirty pieces, thirty get one."""
    await put(world, "P", 30)
    answers = await asyncio.gather(*(reserve(world, f"o{n}", ("P", 1)) for n in range(100)))
    assert sorted(answer.status for answer in answers) == [201] * 30 + [409] * 70
    assert (await world.stock("P"))["available"] == 0


@pytest.mark.parametrize(
    ("query", "skus"),
    [
        ("sku=SKU-2", ["SKU-2"]),
        ("sku=SKU-4&sku=SKU-2&sku=NOPE", ["SKU-2", "SKU-4"]),
        ("sku=NOPE", []),
        ("limit=2", ["SKU-1", "SKU-2"]),
    ],
)
async def test_a_list_can_be_narrowed(world: World, query: str, skus: list[str]) -> None:
    """`sku` may be given several times; what does not exist is not in the answer."""
    page: dict[str, Any] = (await world.get("inventory", f"/inventory?{query}")).json
    assert [product["sku"] for product in page["items"]] == skus
    assert (page["next"] is None) == ("limit" not in query)
