"""The users service, over HTTP."""

from tests.conftest import World


async def test_a_user_is_created_read_changed_and_deleted(world: World) -> None:
    """What is written is what is read, at the place that `Location` names; a deleted user is gone."""
    created = await world.ask("POST", "users", "/users", {"name": "Barbara", "email": "b@example.com"})
    assert created.status == 201
    place = created.headers["Location"]
    assert place == f"/users/{created.json['id']}"
    assert (await world.get("users", place)).json == created.json

    changed = await world.ask("PATCH", "users", place, {"name": "Barbara Liskov"})
    assert changed.status == 200
    assert changed.json == {**created.json, "name": "Barbara Liskov"}

    assert (await world.ask("DELETE", "users", place)).status == 204
    assert (await world.get("users", place)).status == 404


async def test_an_email_belongs_to_one_user_whatever_its_case(world: World) -> None:
    """A taken email is 409, on creation and on change."""
    taken = await world.ask("POST", "users", "/users", {"name": "Imposter", "email": "ADA@example.com"})
    assert (taken.status, taken.json["type"]) == (409, "urn:meshlite:problem:email-taken")
    moved = await world.ask("PATCH", "users", "/users/2", {"email": "ada@example.com"})
    assert (moved.status, moved.json["type"]) == (409, "urn:meshlite:problem:email-taken")


async def test_a_user_with_orders_stays(world: World) -> None:
    """Deleting a user who has orders is 409, and the user is still there."""
    refused = await world.ask("DELETE", "users", "/users/1")
    assert (refused.status, refused.json["type"]) == (409, "urn:meshlite:problem:user-has-orders")
    assert (await world.get("users", "/users/1")).status == 200
    assert (await world.ask("DELETE", "users", "/users/3")).status == 204


async def test_a_list_comes_in_pages_that_join_without_gap_or_overlap(world: World) -> None:
    """Following `next` from page to page gives every user once, in order."""
    for n in range(7):
        await world.ask("POST", "users", "/users", {"name": f"U{n}", "email": f"u{n}@example.com"})
    seen, path = [], "/users?limit=3"
    while path:
        page = (await world.get("users", path)).json
        assert len(page["users"]) <= 3
        seen += [user["id"] for user in page["users"]]
        path = page["next"] and f"/users?limit=3&cursor={page['next']}"
    assert seen == list(range(1, 11))


async def test_orders_are_included_where_they_are_asked_for(world: World) -> None:
    """`include=orders` adds what the orders service tells; without it the answer does not speak of orders."""
    plain = (await world.get("users", "/users/1")).json
    assert set(plain) == {"id", "name", "email", "created_at"}
    full = (await world.get("users", "/users/1?include=orders")).json
    assert full["degraded"] == []
    assert full["orders"] == (await world.get("orders", "/orders?user_id=1")).json["orders"]
    assert full["orders"][0]["items"][0]["product"]["name"] == "Espresso cup"


async def test_without_orders_the_answer_is_degraded_and_says_so(world: World) -> None:
    """Orders failing costs the answer its orders, not its 200; nobody may keep it."""
    world.set_faults("faults.x.kind=error", "faults.x.status=500", "faults.x.service=orders", "faults.x.enabled=true")
    answer = await world.get("users", "/users/1?include=orders")
    assert answer.status == 200
    assert answer.json["orders"] is None
    assert answer.json["degraded"] == ["orders"]
    assert answer.headers["meshlite-degraded"] == "orders; reason=error"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_user_is_not_deleted_while_nobody_can_say_whether_it_has_orders(world: World) -> None:
    """Deleting needs the orders service: without it 503, and the user stays."""
    world.set_faults("faults.x.kind=error", "faults.x.status=500", "faults.x.service=orders", "faults.x.enabled=true")
    refused = await world.ask("DELETE", "users", "/users/3")
    assert (refused.status, refused.json["edge"]) == (503, "users→orders")
    assert refused.headers["Retry-After"] == "1"
    assert (await world.get("users", "/users/3")).status == 200
