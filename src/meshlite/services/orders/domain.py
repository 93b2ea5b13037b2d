"""What an order is, and the path its status takes.

pending ──▶ confirmed ──▶ cancelling ──▶ cancelled
   │  └───────────────────────▲              ▲
   ├──▶ rejected              (unknown outcome: undo)
   └─────────────────────────────────────────┘ (never sent)
"""

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Status = Literal["pending", "confirmed", "cancelling", "cancelled", "rejected"]
Sku = Annotated[
    str,
    Meta(
        description="up to 64 letters, digits, dots, hyphens and underscores",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)",
        examples=["SKU-1"],
    ),
]
Quantity = Annotated[int, Meta(ge=1, le=2**31 - 1)]
UserId = Annotated[int, Meta(ge=1, lt=10**18, examples=[1])]


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """So many of one product."""

    sku: Sku
    quantity: Quantity


class NewOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """What makes an order, each sku once."""

    user_id: UserId
    items: Annotated[list[Line], Meta(min_length=1, max_length=100, extra_json_schema={"uniqueItems": True})]

    def fingerprint(self) -> str:
        """The same for two bodies that mean the same."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Product(Struct, frozen=True):
    """A product, as the inventory service tells it."""

    sku: str
    name: str
    unit_price: int
    on_hand: int
    reserved: int
    available: int


class Item(Struct, frozen=True):
    """A line of an order. `unit_price` (minor units) is that of the reservation, null without one."""

    sku: str
    quantity: int
    unit_price: int | None
    product: Product | None = None


class Order(Struct, frozen=True):
    """An order as everybody sees it. `degraded` is there only if something is missing."""

    id: str
    user_id: int
    items: list[Item]
    status: Status
    created_at: str
    degraded: list[str] | UnsetType = UNSET

    def with_products(self, products: dict[str, Product]) -> "Order":
        """The same order, with what is known of its products."""
        items = [Item(item.sku, item.quantity, item.unit_price, products.get(item.sku)) for item in self.items]
        return Order(self.id, self.user_id, items, self.status, self.created_at)


class Answer(Struct, frozen=True):
    """A final answer to `POST /orders`, as it is kept for repeats."""

    status: int
    body: bytes
    location: str | None = None
