"""What orders asks of users and of inventory."""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from meshlite.errors import CalleeFailed
from meshlite.propagation import ATTEMPT
from meshlite.resilience.edge import Edge
from meshlite.services.orders.domain import Item, Line, Product
from meshlite.wire.problems import FieldError

_PAGE = 100
"""Products that are asked for in one request."""


class _User(Struct):
    id: int


class _Products(Struct):
    items: list[Product]


class _Reservation(Struct):
    items: list[Item]


class _Refusal(Struct):
    type: str
    detail: str
    errors: list[FieldError] = []


class Refused(Exception):
    """Inventory will not reserve this; `kind` is its problem's type.

    `repeated` says that there was an attempt before this one, of which nobody knows whether it may still arrive.
    """

    def __init__(self, kind: str, detail: str, errors: list[FieldError], *, repeated: bool) -> None:
        super().__init__(detail)
        self.kind = kind
        self.errors = errors
        self.repeated = repeated


_user = msgspec.json.Decoder(_User).decode
_products = msgspec.json.Decoder(_Products).decode
_reservation = msgspec.json.Decoder(_Reservation).decode
_refusal = msgspec.json.Decoder(_Refusal).decode


async def user_exists(users: Edge, user_id: int) -> bool:
    """Whether users knows this user, and says so in an answer that is about this one. Raises CallError."""
    response = await users.get(f"/users/{user_id}", route="/users/{id}")
    if response.status == 404:
        return False
    user = await users.read(response, _user, 200)
    if user.id != user_id:
        raise CalleeFailed(f"{users.name}: asked for user {user_id}, got {user.id}", status=200, edge=users.name)
    return True


async def products_of(inventory: Edge, skus: Iterable[str]) -> dict[str, Product]:
    """What is known of these products, by sku. Raises CallError."""
    wanted, found = sorted(set(skus)), {}
    for start in range(0, len(wanted), _PAGE):
        query = "&sku=".join(wanted[start : start + _PAGE])  # a sku needs no quoting
        response = await inventory.get(f"/inventory?limit={_PAGE}&sku={query}", route="/inventory")
        page = await inventory.read(response, _products, 200)
        found.update({product.sku: product for product in page.items})
    return found


async def reserve(inventory: Edge, order_id: str, lines: list[Line]) -> list[Item]:
    """Reserve `lines` for the order; the items with their prices and products. Raises Refused and CallError."""
    response = await inventory.put(f"/reservations/{order_id}", route="/reservations/{order_id}", json={"items": lines})
    if response.status < 400:
        return (await inventory.read(response, _reservation, 200, 201)).items
    refusal = await inventory.read(response, _refusal, 409, 422)
    repeated = response.request_info.headers.get(ATTEMPT) != "1"
    raise Refused(refusal.type.rpartition(":")[2], refusal.detail, refusal.errors, repeated=repeated)


async def release(inventory: Edge, order_id: str) -> None:
    """Release whatever the order holds, for good. Raises CallError."""
    response = await inventory.delete(f"/reservations/{order_id}", route="/reservations/{order_id}")
    await inventory.read(response, bytes, 204)
