"""What users asks of orders."""

from dataclasses import dataclass

import msgspec

from meshlite.resilience.edge import Edge


class _Orders(msgspec.Struct):
    orders: list[msgspec.Raw]
    degraded: list[str]


@dataclass(frozen=True, slots=True)
class OrdersOf:
    """A user's orders, as orders tells them: `degraded` and `note` say what they lack, and why."""

    orders: list[msgspec.Raw]
    degraded: list[str]
    note: str | None


_decode = msgspec.json.Decoder(_Orders).decode


async def orders_of(orders: Edge, user_id: int, limit: int = 50) -> OrdersOf:
    """The latest orders of a user. Raises CallError."""
    response = await orders.get(f"/orders?user_id={user_id}&limit={limit}", route="/orders")
    answer = await orders.read(response, _decode, 200)
    return OrdersOf(answer.orders, answer.degraded, response.headers.get("meshlite-degraded"))
