"""Products, stock and reservations, and the rules they keep: `available = on_hand - reserved >= 0`, always."""

from typing import Annotated

from msgspec import Meta, Struct

from meshlite.wire.messages import Text

Sku = Annotated[
    str,
    Meta(
        description="up to 64 letters, digits, dots, hyphens and underscores",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)",
        examples=["SKU-1"],
    ),
]
Quantity = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Amount = Annotated[int, Meta(ge=0, le=2**53 - 1)]
OrderId = Annotated[
    str,
    Meta(
        description="up to 64 letters, digits, dots, hyphens, tildes and underscores",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,63}$(?!\n)",
    ),
]


class Product(Struct, frozen=True):
    """A product; `unit_price` in minor units, `available` is what can still be reserved."""

    sku: str
    name: str
    unit_price: int
    on_hand: int
    reserved: int
    available: int


class ProductChange(Struct, frozen=True, forbid_unknown_fields=True):
    """A product as it is to be from now on."""

    name: Text
    unit_price: Amount
    on_hand: Amount


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """So many of one product."""

    sku: Sku
    quantity: Quantity


class ReservationRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be reserved, each sku once."""

    items: Annotated[list[Line], Meta(min_length=1, max_length=100, extra_json_schema={"uniqueItems": True})]


class ReservedLine(Struct, frozen=True):
    """What is reserved, at the price of that moment, with the product as it is now."""

    sku: str
    quantity: int
    unit_price: int
    product: Product


class Reservation(Struct, frozen=True):
    """What an order holds."""

    order_id: str
    items: list[ReservedLine]


class Refused(Exception):
    """The reservation cannot be: `kind` says why, `errors` which items it is about."""

    def __init__(self, kind: str, detail: str, errors: list[tuple[int, str]] | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.errors = errors or []


def shortages(wanted: list[Line], stock: dict[str, Product]) -> Refused | None:
    """What stands against reserving `wanted`; None if nothing does."""
    unknown = [(i, f"there is no product {line.sku}") for i, line in enumerate(wanted) if line.sku not in stock]
    if unknown:
        return Refused("unknown-sku", "; ".join(text for _, text in unknown), unknown)
    short = [
        (i, f"{line.quantity} of {line.sku} wanted, {stock[line.sku].available} available")
        for i, line in enumerate(wanted)
        if line.quantity > stock[line.sku].available
    ]
    return Refused("out-of-stock", "; ".join(text for _, text in short), short) if short else None
