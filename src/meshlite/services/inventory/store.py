"""Products and reservations in SQLite."""

import sqlite3
from dataclasses import dataclass

import msgspec

from meshlite.services.inventory.domain import (
    Line,
    Product,
    ProductChange,
    Refused,
    Reservation,
    ReservedLine,
    shortages,
)
from meshlite.storage import Database

MIGRATIONS = [
    """
    CREATE TABLE products (
        sku TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        unit_price INTEGER NOT NULL CHECK (unit_price >= 0),
        on_hand INTEGER NOT NULL,
        reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved BETWEEN 0 AND on_hand)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE reservations (
        order_id TEXT PRIMARY KEY,
        items TEXT NOT NULL,       -- [[sku, quantity, unit_price], ...]; [] where it was released before it came
        released INTEGER NOT NULL  -- 1 is for ever: an undo is never overtaken by a late do
    ) STRICT, WITHOUT ROWID;
    """,
]
DEMONSTRATION = """
    INSERT INTO products (sku, name, unit_price, on_hand, reserved) VALUES
        ('SKU-1', 'Espresso cup', 900, 5000, 3),
        ('SKU-2', 'Moka pot', 3450, 400, 1),
        ('SKU-3', 'Hand grinder', 7900, 120, 0),
        ('SKU-4', 'Kettle', 5200, 80, 1),
        ('SKU-5', 'Kitchen scale', 2800, 60, 0);
    INSERT INTO reservations (order_id, items, released) VALUES
        ('00000000-0000-4000-8000-000000000001', '[["SKU-1",2,900],["SKU-2",1,3450]]', 0),
        ('00000000-0000-4000-8000-000000000002', '[["SKU-1",1,900],["SKU-4",1,5200]]', 0);
"""
_COLUMNS = "sku, name, unit_price, on_hand, reserved, on_hand - reserved"
_Items = list[tuple[str, int, int]]
_items = msgspec.json.Decoder(_Items).decode


def _products(connection: sqlite3.Connection, skus: list[str]) -> dict[str, Product]:
    marks = ",".join("?" * len(skus))
    rows = connection.execute(f"SELECT {_COLUMNS} FROM products WHERE sku IN ({marks})", skus)
    return {row[0]: Product(*row) for row in rows}


def _reservation(connection: sqlite3.Connection, order_id: str, items: _Items) -> Reservation:
    products = _products(connection, [sku for sku, _, _ in items])
    return Reservation(order_id, [ReservedLine(sku, n, price, products[sku]) for sku, n, price in items])


@dataclass(frozen=True, slots=True)
class InventoryStore:
    """All that the inventory service remembers."""

    database: Database

    def get(self, sku: str) -> Product | None:
        rows = self.database.read(f"SELECT {_COLUMNS} FROM products WHERE sku = ?", (sku,))
        return Product(*rows[0]) if rows else None

    def page(self, after: str, limit: int) -> list[Product]:
        """Up to `limit` products with skus after `after`, in order."""
        sql = f"SELECT {_COLUMNS} FROM products WHERE sku > ? ORDER BY sku LIMIT ?"
        return [Product(*row) for row in self.database.read(sql, (after, limit))]

    def some(self, skus: list[str], after: str, limit: int) -> list[Product]:
        """As `page`, of those of `skus` that exist."""
        wanted = sorted(sku for sku in set(skus) if sku > after)
        marks = ",".join("?" * len(wanted))
        rows = self.database.read(f"SELECT {_COLUMNS} FROM products WHERE sku IN ({marks})", wanted)
        return [Product(*row) for row in sorted(rows)[:limit]]

    async def put(self, sku: str, change: ProductChange) -> tuple[Product, bool]:
        """The product as it now is, and whether it is new. Raises Refused where more than `on_hand` is reserved."""

        def upsert(connection: sqlite3.Connection) -> tuple[Product, bool]:
            row = connection.execute("SELECT reserved FROM products WHERE sku = ?", (sku,)).fetchone()
            reserved = row[0] if row else 0
            if change.on_hand < reserved:
                raise Refused("below-reserved", f"{reserved} of {sku} are reserved, on_hand cannot be {change.on_hand}")
            connection.execute(
                "INSERT INTO products (sku, name, unit_price, on_hand) VALUES (?, ?, ?, ?) ON CONFLICT (sku) DO UPDATE "
                "SET name = excluded.name, unit_price = excluded.unit_price, on_hand = excluded.on_hand",
                (sku, change.name, change.unit_price, change.on_hand),
            )
            left = change.on_hand - reserved
            return Product(sku, change.name, change.unit_price, change.on_hand, reserved, left), row is None

        return await self.database.write(upsert)

    async def reserve(self, order_id: str, lines: list[Line]) -> tuple[Reservation, bool]:
        """The reservation, and whether it is new. Raises Refused."""

        def reserve(connection: sqlite3.Connection) -> tuple[Reservation, bool]:
            row = connection.execute(
                "SELECT items, released FROM reservations WHERE order_id = ?", (order_id,)
            ).fetchone()
            if row is not None:
                return _again(connection, order_id, lines, row), False
            stock = _products(connection, [line.sku for line in lines])
            if (refused := shortages(lines, stock)) is not None:
                try:
                    raise refused
                finally:
                    del refused  # it would know this frame, and this frame it: a cycle
            for line in lines:
                connection.execute(
                    "UPDATE products SET reserved = reserved + ? WHERE sku = ?", (line.quantity, line.sku)
                )
            items = [(line.sku, line.quantity, stock[line.sku].unit_price) for line in lines]
            connection.execute(
                "INSERT INTO reservations (order_id, items, released) VALUES (?, ?, 0)",
                (order_id, msgspec.json.encode(items).decode()),
            )
            return _reservation(connection, order_id, items), True

        return await self.database.write(reserve)

    async def release(self, order_id: str) -> None:
        """Give back what the order holds, if anything, and let it never hold anything again."""

        def release(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT items, released FROM reservations WHERE order_id = ?", (order_id,)
            ).fetchone()
            if row is not None and not row[1]:
                for sku, quantity, _ in _items(row[0]):
                    connection.execute("UPDATE products SET reserved = reserved - ? WHERE sku = ?", (quantity, sku))
            connection.execute(
                "INSERT INTO reservations (order_id, items, released) VALUES (?, '[]', 1) "
                "ON CONFLICT (order_id) DO UPDATE SET released = 1",
                (order_id,),
            )

        await self.database.write(release)


def _again(connection: sqlite3.Connection, order_id: str, lines: list[Line], row: tuple[str, int]) -> Reservation:
    """The answer to a repeat. Raises Refused where it is not one, or comes too late."""
    if row[1]:
        raise Refused("reservation-released", f"the reservation of order {order_id} has been released for good")
    items = _items(row[0])
    if sorted((line.sku, line.quantity) for line in lines) != sorted((sku, n) for sku, n, _ in items):
        raise Refused("reservation-differs", f"order {order_id} has reserved other items")
    return _reservation(connection, order_id, items)
