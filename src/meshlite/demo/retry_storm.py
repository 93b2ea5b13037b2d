"""A failure that outlives its cause: retries keep a service down that has been well for long."""

from meshlite.demo.clerks import CAPACITY
from meshlite.demo.scenario import Claim, Phases, Row, Scenario, Seen, Trouble, Users, share, waited


def amplification(seen: Seen) -> float | None:
    """Attempts for each call that orders had for inventory, from the trouble on."""
    calls = seen.calls("orders", "inventory")
    return sum(call.attempts for call in calls) / len(calls) if calls else None


SCENARIO = Scenario(
    name="retry-storm",
    title="A short disturbance is over. Why is everything still down?",
    intro=(
        f"Inventory can do {CAPACITY:.0f} requests a second and gets 40. Then its answers are late for a while, "
        "and each call that gives up tries again: 40 become 160."
    ),
    both=(
        "services.inventory.app='meshlite.demo.clerks:create_app'",
        "policy.admission=false",
        "edges.orders.inventory.timeout=1.6",
        "edges.orders.inventory.attempt_timeout=0.25",
        "edges.orders.inventory.retry.attempts=4",
    ),
    without=("edges.orders.inventory.breaker=false", "edges.orders.inventory.retry.budget=false"),
    policy=("edges.orders.inventory.breaker.reset_timeout=1", "edges.orders.inventory.retry.budget=0.2"),
    says_without="four attempts for each call, as often as it takes",
    says_with="four attempts too, but within a retry budget and behind a circuit breaker",
    explains=(
        "A retry budget allows one retry for five requests, and a few more. A circuit breaker counts failures: after "
        "three in a row it says “not now” itself, and lets one call through now and then, to see."
    ),
    users=Users(rate=40, mix={"orders": 1}),
    trouble=Trouble(
        marks=("answers late", "no longer"),
        begins="inventory's answers are now late by a second",
        ends="the disturbance is over: inventory could do its work again",
        fault={"service": "inventory", "kind": "delay", "seconds": 1.0, "phase": "response"},
    ),
    phases=Phases(2, 3, 5),
    slow=0.3,
    quick=Phases(0.4, 2, 2.4),
    rows=(
        Row("amplified", "attempts for each call to inventory", amplification, "times"),
        Row("typical", "typical wait of a reader in the trouble", waited(0.5), "s"),
        Row("opened", "until the circuit breaker opened", lambda seen: seen.opened("orders", "inventory"), "s"),
        Row("whole", "long after: readers served in full", lambda seen: share(seen.at_last(), "ok"), "%"),
        Row("again", "trouble over, until all is whole again", lambda seen: seen.whole_again(), "s"),
    ),
    claims=(
        Claim(
            "Without the two, inventory stays down although nothing is wrong any more.",
            lambda without, _: without["whole"] < 0.1 and without["amplified"] > 2.5,
        ),
        Claim(
            "With them it is up again by itself, and has never had much more to bear than before.",
            lambda _, with_: with_["whole"] > 0.75 and with_["amplified"] < 1.5,
        ),
    ),
)
