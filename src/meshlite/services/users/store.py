"""Users in SQLite."""

import sqlite3
from dataclasses import dataclass

from msgspec import UNSET

from meshlite.services.users.domain import EmailTaken, NewUser, User, UserChange
from meshlite.storage import Database
from meshlite.wire.times import now

MIGRATIONS = [
    """
    CREATE TABLE users (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        email TEXT NOT NULL UNIQUE COLLATE NOCASE,
        created_at TEXT NOT NULL
    ) STRICT;
    """,
]
DEMONSTRATION = """
    INSERT INTO users (name, email, created_at) VALUES
        ('Ada Lovelace', 'ada@example.com', '2026-01-05T09:00:00Z'),
        ('Grace Hopper', 'grace@example.com', '2026-01-06T10:30:00Z'),
        ('Edsger Dijkstra', 'edsger@example.com', '2026-01-07T12:15:00Z');
"""
_COLUMNS = "id, name, email, created_at"


@dataclass(frozen=True, slots=True)
class UserStore:
    """All that the users service remembers."""

    database: Database

    def get(self, user_id: int) -> User | None:
        rows = self.database.read(f"SELECT {_COLUMNS} FROM users WHERE id = ?", (user_id,))
        return User(*rows[0]) if rows else None

    def page(self, after: int, limit: int) -> list[User]:
        """Up to `limit` users with ids above `after`, in order."""
        sql = f"SELECT {_COLUMNS} FROM users WHERE id > ? ORDER BY id LIMIT ?"
        return [User(*row) for row in self.database.read(sql, (after, limit))]

    async def create(self, new: NewUser) -> User:
        """Raises EmailTaken."""

        def insert(connection: sqlite3.Connection) -> User:
            created_at = now()
            cursor = connection.execute(
                "INSERT INTO users (name, email, created_at) VALUES (?, ?, ?)", (new.name, new.email, created_at)
            )
            return User(cursor.lastrowid or 0, new.name, new.email, created_at)

        try:
            return await self.database.write(insert)
        except sqlite3.IntegrityError as error:
            raise EmailTaken(new.email) from error

    async def change(self, user_id: int, change: UserChange) -> User | None:
        """The changed user, None where there is none. Raises EmailTaken."""

        def update(connection: sqlite3.Connection) -> User | None:
            row = connection.execute(f"SELECT {_COLUMNS} FROM users WHERE id = ?", (user_id,)).fetchone()
            if row is None:
                return None
            old = User(*row)
            name = old.name if change.name is UNSET else change.name
            email = old.email if change.email is UNSET else change.email
            connection.execute("UPDATE users SET name = ?, email = ? WHERE id = ?", (name, email, user_id))
            return User(user_id, name, email, old.created_at)

        try:
            return await self.database.write(update)
        except sqlite3.IntegrityError as error:
            raise EmailTaken(str(change.email)) from error

    async def delete(self, user_id: int) -> bool:
        """Whether there was one to delete. Its id is never given again."""

        def delete(connection: sqlite3.Connection) -> bool:
            return connection.execute("DELETE FROM users WHERE id = ?", (user_id,)).rowcount == 1

        return await self.database.write(delete)
