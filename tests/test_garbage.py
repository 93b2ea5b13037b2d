"""What is refused leaves no garbage that only the collector would find: memory follows the load, not the collector."""

import gc
from collections import Counter
from collections.abc import Iterator

import pytest
from aiohttp import web

from tests.conftest import World

REFUSED = {
    "no such route": ("GET", "inventory", "/nowhere", None, 404),
    "no such method": ("PUT", "users", "/users", None, 405),
    "no such user": ("GET", "users", "/users/99", None, 404),
    "an email that is taken": ("POST", "users", "/users", {"name": "A", "email": "ada@example.com"}, 409),
    "no such product": (
        "POST",
        "orders",
        "/orders",
        {"user_id": 1, "items": [{"sku": "none", "quantity": 1}]},
        422,
    ),
    "out of stock": ("PUT", "inventory", "/reservations/x", {"items": [{"sku": "SKU-1", "quantity": 10**9}]}, 409),
}


@pytest.fixture
def collecting() -> Iterator[None]:
    """The collector runs when it is told to, and keeps what it finds."""
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.usefixtures("collecting")
async def test_a_refusal_leaves_no_frames(world: World, name: str) -> None:
    """No error sits in a cycle with the frames that it came through, and all that was in them."""
    method, service, path, body, status = REFUSED[name]
    await world.ask(method, service, path, body)  # whatever is made once
    gc.collect()
    for _ in range(20):
        assert (await world.ask(method, service, path, body)).status == status
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    frames = Counter(thing.f_code.co_qualname for thing in gc.garbage if type(thing).__name__ == "frame")
    assert {place: number for place, number in frames.items() if number >= 20} == {}


async def test_a_restarted_service_leaves_nothing_of_the_one_before(world: World) -> None:
    """Its application, and all that this knows, is free: however often a service restarts, there is one of it."""

    def applications() -> int:
        gc.collect()
        return sum(isinstance(thing, web.Application) for thing in gc.get_objects())

    before = applications()
    for _ in range(3):
        assert (await world.ask("GET", "users", "/users/1")).status == 200
        await world.mesh.restart_service("users")
    assert applications() == before
