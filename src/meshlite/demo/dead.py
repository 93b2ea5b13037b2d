"""A service dies, and comes back: eager retries knock at a door that nobody opens, a breaker stops asking."""

from meshlite.demo.scenario import (
    DONE,
    UNHURRIED,
    Claim,
    Phases,
    Row,
    Scenario,
    Seen,
    Trouble,
    Users,
    got,
    share,
    waited,
)

READS = ("orders", "user")


def knocks(seen: Seen) -> int:
    """Attempts to reach inventory, from its death on, that came to nothing."""
    return sum(call.attempts for call in seen.calls("orders", "inventory") if call.outcome != "ok")


SCENARIO = Scenario(
    name="dead",
    title="Inventory dies, and comes back.",
    intro="A dead service refuses at once. Retries make even that slow: each call tries four times before it gives up.",
    both=("policy.retry={attempts=4,base_delay=0.2,max_delay=0.4,budget=false}", *UNHURRIED),
    without=("policy.breaker=false",),
    policy=("edges.orders.inventory.breaker.reset_timeout=1",),
    says_without="four attempts for each call, no circuit breaker",
    says_with="four attempts for each call, and a circuit breaker",
    explains=(
        "A circuit breaker counts failures. After three in a row it says “not now” itself, at once and without asking; "
        "now and then it lets one call through, and when two of these succeed, everything goes on as before."
    ),
    users=Users(rate=30, mix={"orders": 4, "user": 3, "order": 2}),
    trouble=Trouble(
        marks=("killed", "started again"),
        begins="inventory is killed: its connections break, its port is closed",
        ends="inventory is started again",
        kill="inventory",
    ),
    phases=Phases(2, 5, 4),
    quick=Phases(0.5, 2, 2.4),
    rows=(
        Row("knocks", "attempts to reach the dead service", knocks, ""),
        Row("typical", "typical wait of a reader meanwhile", waited(0.5, *READS), "s"),
        Row("served", "readers served, in full or in part", got(DONE, *READS), "%"),
        Row("buyer", "until a buyer is told: come back later", waited(0.5, "order"), "s"),
        Row("opened", "until the circuit breaker opened", lambda seen: seen.opened("orders", "inventory"), "s"),
        Row("again", "started again, until all is whole again", lambda seen: seen.whole_again(*READS), "s"),
        Row("whole", "long after: readers served in full", lambda seen: share(seen.at_last(*READS), "ok"), "%"),
        Row("books", "stock and orders agree at the end", lambda seen: seen.books is not None and seen.books.agree, ""),
    ),
    claims=(
        Claim(
            "The breaker spares the dead service nine in ten of the attempts.",
            lambda without, with_: with_["knocks"] < without["knocks"] / 10,
        ),
        Claim(
            "Readers do without it at once; with retries alone they wait five times as long or more.",
            lambda without, with_: without["typical"] > 5 * with_["typical"],
        ),
        Claim(
            "Once it is back, all is whole again by itself, and stock and orders agree.",
            lambda without, with_: with_["whole"] > 0.9 and without["books"] and with_["books"],
        ),
    ),
)
