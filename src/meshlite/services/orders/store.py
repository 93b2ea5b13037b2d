"""Orders and idempotency keys in SQLite."""

import sqlite3
from dataclasses import dataclass

import msgspec

from meshlite.services.orders.domain import Answer, Item, NewOrder, Order, Status
from meshlite.storage import Database

MIGRATIONS = [
    """
    CREATE TABLE orders (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order they came in
        id TEXT NOT NULL UNIQUE,
        user_id INTEGER NOT NULL,
        items TEXT NOT NULL,                    -- [[sku, quantity, unit_price or null], ...]
        status TEXT NOT NULL,
        created_at TEXT NOT NULL
    ) STRICT;
    CREATE INDEX orders_of_user ON orders (user_id, seq);
    CREATE INDEX orders_unfinished ON orders (seq) WHERE status IN ('pending', 'cancelling');
    CREATE TABLE idempotency (
        key TEXT PRIMARY KEY,
        fingerprint TEXT NOT NULL,
        order_id TEXT,
        status INTEGER,                         -- null: no final answer yet
        body BLOB,
        location TEXT,
        created_at REAL NOT NULL                -- Unix time
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX idempotency_age ON idempotency (created_at);
    """,
]
DEMONSTRATION = """
    INSERT INTO orders (user_id, status, created_at, id, items) VALUES
        (1, 'confirmed', '2026-01-08T08:00:00Z', '00000000-0000-4000-8000-000000000001',
         '[["SKU-1",2,900],["SKU-2",1,3450]]'),
        (2, 'confirmed', '2026-01-09T16:45:00Z', '00000000-0000-4000-8000-000000000002',
         '[["SKU-1",1,900],["SKU-4",1,5200]]');
"""
KEPT = 24 * 3600.0
"""Seconds that an idempotency key is remembered."""
_COLUMNS = "seq, id, user_id, items, status, created_at"
_items = msgspec.json.Decoder(list[tuple[str, int, int | None]]).decode


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key, and what its request meant."""

    value: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is known of a key: the answer is None while there is no final one."""

    fingerprint: str
    answer: Answer | None


def _order(row: tuple[int, str, int, str, Status, str]) -> Order:
    _, order_id, user_id, items, status, created_at = row
    return Order(order_id, user_id, [Item(*item) for item in _items(items)], status, created_at)


_FEW = 200
"""Keys that are dropped in one transaction."""


@dataclass(frozen=True, slots=True)
class OrderStore:
    """All that the orders service remembers."""

    database: Database

    def get(self, order_id: str) -> Order | None:
        rows = self.database.read(f"SELECT {_COLUMNS} FROM orders WHERE id = ?", (order_id,))
        return _order(rows[0]) if rows else None

    def page(self, user_id: int | None, before: int, limit: int) -> list[tuple[int, Order]]:
        """Up to `limit` orders that came before `before`, newest first, each with its place in the sequence."""
        where, parameters = ("", ()) if user_id is None else ("user_id = ? AND", (user_id,))
        sql = f"SELECT {_COLUMNS} FROM orders WHERE {where} seq < ? ORDER BY seq DESC LIMIT ?"
        return [(row[0], _order(row)) for row in self.database.read(sql, (*parameters, before, limit))]

    def unfinished(self, limit: int = 1000) -> list[tuple[str, Status]]:
        """Orders whose path has not come to its end, oldest first."""
        sql = "SELECT id, status FROM orders WHERE status IN ('pending', 'cancelling') ORDER BY seq LIMIT ?"
        return [(row[0], row[1]) for row in self.database.read(sql, (limit,))]

    def remembered(self, key: str, now: float) -> Remembered | None:
        """What is known of `key` at Unix time `now`."""
        sql = "SELECT fingerprint, status, body, location, created_at FROM idempotency WHERE key = ?"
        rows = self.database.read(sql, (key,))
        if not rows or rows[0][-1] <= now - KEPT:
            return None
        fingerprint, status, body, location, _ = rows[0]
        return Remembered(fingerprint, None if status is None else Answer(status, body, location))

    async def open(self, order_id: str, new: NewOrder, created_at: str, key: Key | None, now: float) -> None:
        """Note, before anything else happens, that this order has begun."""
        items = msgspec.json.encode([(line.sku, line.quantity, None) for line in new.items]).decode()

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO orders (id, user_id, items, status, created_at) VALUES (?, ?, ?, 'pending', ?)",
                (order_id, new.user_id, items, created_at),
            )
            if key is not None:
                _remember(connection, key, now, order_id, None)

        await self.database.write(insert)

    async def finish(
        self,
        order_id: str,
        status: Status,
        answer: Answer | None,
        key: Key | None,
        now: float,
        items: list[Item] | None = None,
    ) -> None:
        """End a pending order as `status`, with the answer that repeats will get, in one transaction."""

        def update(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE orders SET status = ? WHERE id = ? AND status = 'pending'", (status, order_id))
            if items is not None:
                priced = msgspec.json.encode([(item.sku, item.quantity, item.unit_price) for item in items]).decode()
                connection.execute("UPDATE orders SET items = ? WHERE id = ?", (priced, order_id))
            if key is not None and answer is not None:
                _remember(connection, key, now, order_id, answer)

        await self.database.write(update)

    async def remember(self, key: Key, answer: Answer, now: float) -> None:
        """Keep a final answer to a request that made no order."""
        await self.database.write(lambda connection: _remember(connection, key, now, None, answer))

    async def move(self, order_id: str, old: Status, new: Status) -> bool:
        """Change a status; False where it is not `old` any more."""

        def update(connection: sqlite3.Connection) -> bool:
            sql = "UPDATE orders SET status = ? WHERE id = ? AND status = ?"
            return connection.execute(sql, (new, order_id, old)).rowcount == 1

        return await self.database.write(update)

    async def forget(self, now: float) -> None:
        """Drop idempotency keys that have been kept long enough, a few at a time: others want to write too."""
        sql = "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE created_at <= ? LIMIT ?)"
        dropped = _FEW
        while dropped == _FEW:
            dropped = await self.database.write(lambda connection: connection.execute(sql, (now - KEPT, _FEW)).rowcount)


def _remember(
    connection: sqlite3.Connection, key: Key, now: float, order_id: str | None, answer: Answer | None
) -> None:
    status, body, location = (None, None, None) if answer is None else (answer.status, answer.body, answer.location)
    connection.execute(
        "INSERT OR REPLACE INTO idempotency (key, fingerprint, order_id, status, body, location, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (key.value, key.fingerprint, order_id, status, body, location, now),
    )
