"""Policies that work against each other, and faults that strike nothing."""

from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlite.config import SERVICES, load
from meshlite.lint import ROUTES, astray, lint
from meshlite.rules import FaultRule


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
    found = lint(load(None, ["edges.users.orders.timeout=0.5", "edges.users.orders.retry=false"]))
    assert any("than the 0.5 s that an attempt on edges.users.orders waits for it" in one for one in found)
    (found,) = lint(load(None, ["edges.orders.inventory.timeout=1.5", "edges.users.orders.breaker=false"]))
    assert found.endswith("waits for it: that attempt fails first"), "there is no outer breaker"


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


ANYTHING = "/inventory, /inventory/{sku}, /reservations/{order_id}"
ASTRAY = {
    "a route that is none": ("route='/inventroy'", f"route: inventory has none like '/inventroy'; it has {ANYTHING}"),
    "a method in the route": (
        "route='GET /inventory'",
        f"route: inventory has none like 'GET /inventory'; it has {ANYTHING}",
    ),
    "a probe": ("route='/healthz'", f"route: inventory has none like '/healthz'; it has {ANYTHING}"),
    "a folder": ("route='/inventory/'", f"route: inventory has none like '/inventory/'; it has {ANYTHING}"),
    "another's route": ("route='/users/*'", f"route: inventory has none like '/users/*'; it has {ANYTHING}"),
    "a method that none has": (
        "method='PATCH'",
        f"method: {ANYTHING} at inventory knows no 'PATCH'; it knows DELETE, GET, HEAD, PUT",
    ),
    "a method that the route lacks": (
        "route='/inventory/*', method='delete'",
        "method: /inventory/{sku} at inventory knows no 'delete'; it knows GET, HEAD, PUT",
    ),
    "one who never asks": ("caller='users'", "caller: users never asks inventory; who does: orders, external"),
    "itself": ("caller='inventory'", "caller: inventory never asks inventory; who does: orders, external"),
}


@pytest.mark.parametrize(("keys", "said"), ASTRAY.values(), ids=ASTRAY)
def test_lint_finds_faults_that_strike_nothing(keys: str, said: str) -> None:
    """On or off: a wrong route, a method that is not there, a caller that never asks; with what there is."""
    assert lint(load(None, [f"faults.f={{service='inventory', kind='reset', {keys}}}"])) == [f"faults.f.{said}"]


@pytest.mark.parametrize(
    "keys",
    [
        "service='users', route='/users/{id}'", "service='users', route='/users/17', method='get'",
        "service='users', route='/users/[1-3]*'", "service='users', route='*'", "service='users', method='P*'",
        "service='orders', route='/orders/*/cancel'", "service='orders', route='/*cancel', method='POST'",
        "service='inventory', route='/inventory/SKU-?'", "service='inventory', route='/res*', caller='orders'",
        "service='users', caller='external'", "service='orders', caller='users', method='HEAD'",
        "service='inventory', route='/inventory/ä[[]'",
    ],
)  # fmt: skip
def test_a_fault_that_can_strike_is_not_warned_of(keys: str) -> None:
    """By the template, by a path, by a pattern on either."""
    assert lint(load(None, [f"faults.f={{kind='reset', {keys}}}"])) == []


def test_of_a_service_of_ones_own_no_route_is_known() -> None:
    """Who asks whom is known all the same."""
    flags = ["services.users.app=a:b", "faults.f={kind='reset', service='users', route='/mine', method='BREW'}"]
    assert lint(load(None, flags)) == []
    assert len(lint(load(None, [*flags, "faults.f.caller=inventory"]))) == 1


paths = st.one_of(
    st.from_regex(r"/users(/[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"/orders(/[0-9]{1,3}(/cancel)?)?", fullmatch=True),
    st.from_regex(r"/inventory(/[A-Za-z0-9._-]{1,5})?|/reservations/[a-z0-9-]{1,5}", fullmatch=True),
)


@given(paths, st.data())
def test_what_matches_a_path_is_never_warned_of(path: str, data: st.DataObject) -> None:
    """Whatever pattern is made of a path that there is."""
    wild = [st.sampled_from([char, char, "?", "*", f"[{char}x]", "[!\n]", f"{char}*"]) for char in path]
    pattern = "".join(data.draw(part) for part in wild)
    service = {"u": "users", "o": "orders"}.get(path[1], "inventory")
    rule = FaultRule(service=service, kind="reset", route=pattern)
    if rule.concerns("external", "GET", path, path, {}):
        assert astray(CONFIG, rule) == []


CONFIG = load(None)


@pytest.mark.parametrize("name", SERVICES)
def test_the_routes_that_are_known_are_those_that_there_are(name: str) -> None:
    """With their methods, as the services mount them."""
    there: dict[str, set[str]] = {}
    for route in import_module(f"meshlite.services.{name}.api").routes._routes:
        methods = there.setdefault(route.template, set())
        methods |= {"GET", "HEAD"} if route.method == "GET" else {route.method}
    assert {route: set(methods) for route, methods in ROUTES[name].items()} == there
