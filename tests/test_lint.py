"""Policies that work against each other."""

from pathlib import Path

import pytest

from meshlite.config import load
from meshlite.lint import lint


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_defaults_get_along() -> None:
    """Nothing to warn of."""
    assert lint(load(None)) == []


def test_lint_finds_timeouts_that_are_the_wrong_way_round() -> None:
    """An inner edge longer than the outer attempt that waits for it, and attempts that do not fit, with the numbers."""
    found = lint(load(None, ["edges.orders.inventory.timeout=1.5", "edges.orders.users.attempt_timeout=0.5"]))
    assert found == [
        "edges.orders.inventory.timeout: 1.5 s is longer than the 0.9 s that an attempt on edges.users.orders waits "
        "for it: the outer breaker would see the failure first",
        "edges.orders.users.timeout: 2 attempts of 0.5 s do not fit into 0.6 s: the last ones are cut short",
    ]


@pytest.mark.parametrize(
    ("attempts", "warnings"),
    [
        (("users.orders=2", "orders.inventory=2"), []),
        (("users.orders=4", "orders.inventory=1"), []),
        (
            ("users.orders=3", "orders.inventory=2"),
            [
                "edges.orders.inventory.retry.attempts: 2, for each of the 3 attempts on edges.users.orders: one "
                "request can become 6 at inventory, more than 4: retry on one of the two"
            ],
        ),
        (
            ("users.orders=2", "orders.inventory=3", "orders.users=9"),  # users → orders → users is no way of a request
            [
                "edges.orders.inventory.retry.attempts: 3, for each of the 2 attempts on edges.users.orders: one "
                "request can become 6 at inventory, more than 4: retry on one of the two"
            ],
        ),
    ],
)
def test_lint_finds_retries_that_multiply(attempts: tuple[str, ...], warnings: list[str]) -> None:
    """More than four attempts at the end of a chain for one request at its beginning, with the numbers."""
    settings = [f"edges.{edge}.retry.attempts={n}" for edge, n in (text.split("=") for text in attempts)]
    assert [line for line in lint(load(None, settings)) if "retry" in line] == warnings


def test_an_edge_that_does_not_retry_multiplies_nothing() -> None:
    """With retries off on one edge, the other may have its own."""
    settings = ["edges.users.orders.retry=false", "edges.orders.inventory.retry.attempts=4"]
    assert not [line for line in lint(load(None, settings)) if "can become" in line]
