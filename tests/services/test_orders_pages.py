"""A page of orders costs what is on it, however many orders there are."""

import sqlite3

from meshlite.services.orders.store import MIGRATIONS, OrderStore

ROW = "INSERT INTO orders (id, user_id, items, status, created_at) VALUES (?, ?, '[]', 'confirmed', '')"


class Counting:
    """A database whose reads are counted in steps of SQLite's machine."""

    def __init__(self, orders: int) -> None:
        self._connection = sqlite3.connect(":memory:")
        for script in MIGRATIONS:
            self._connection.executescript(script)
        self._connection.executemany(ROW, ((str(number), 1 + number % 2) for number in range(orders)))
        self.steps = 0
        self._connection.set_progress_handler(self._step, 1)

    def _step(self) -> int:
        self.steps += 1
        return 0

    def read(self, sql: str, parameters: tuple[int, ...] = ()) -> list[tuple[object, ...]]:
        return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        self._connection.close()


def steps(orders: int) -> list[int]:
    """Those of the first and of the last page, of one user's orders and of all."""
    database = Counting(orders)
    store = OrderStore(database)  # type: ignore[arg-type]
    found = []
    for user_id in (1, None):
        for before in (10**15, 100):
            database.steps = 0
            assert len(store.page(user_id, before, 41)) == 41
            found.append(database.steps)
    database.close()
    return found


def test_a_page_costs_the_same_whatever_there_is_beside_it() -> None:
    """The first page and the last, of a user or of all: as many steps among 5,000 orders as among 200."""
    assert steps(5_000) == steps(200)
