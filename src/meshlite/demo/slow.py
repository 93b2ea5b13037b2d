"""A slow service is worse than a dead one: whoever asks it waits, and so does whoever asks him."""

from meshlite.demo.scenario import Claim, Phases, Row, Scenario, Trouble, Users, got, waited

READS = ("orders", "user")
NAIVE = tuple(
    f"policy.{rule}=false" for rule in ("timeout", "attempt_timeout", "retry", "bulkhead", "breaker", "admission")
)

SCENARIO = Scenario(
    name="slow",
    title="Inventory becomes five seconds slow. Who waits?",
    intro="Users asks orders, and orders asks inventory for each product. Only one of the three becomes slow.",
    without=NAIVE,
    policy=("edges.orders.inventory.breaker.reset_timeout=1",),
    says_without="no timeouts, no retries, no circuit breaker",
    says_with="a timeout of 0.25 s and a circuit breaker",
    explains=(
        "A circuit breaker counts failures. After three in a row it says “not now” itself, at once and without asking; "
        "now and then it lets one call through, and when two of these succeed, everything goes on as before."
    ),
    users=Users(rate=30, patience=8.0, mix={"orders": 4, "user": 3, "order": 2}),
    trouble=Trouble(
        marks=("inventory turns slow", "well again"),
        begins="inventory now takes 5 s longer for every answer",
        ends="inventory is as fast as before",
        fault={"service": "inventory", "kind": "delay", "seconds": 5.0},
    ),
    phases=Phases(2, 5, 4),
    quick=Phases(0.4, 3, 2.4),
    rows=(
        Row("typical", "typical wait of a reader in the trouble", waited(0.5, *READS), "s"),
        Row("most", "three in four waited less than", waited(0.75, *READS), "s"),
        Row("whole", "readers who got a whole answer", got(["ok"], *READS), "%"),
        Row("part", "readers who got an answer in part", got(["degraded"], *READS), "%"),
        Row("placed", "buyers whose order was placed", got(["ok"], "order"), "%"),
        Row("opened", "until the circuit breaker opened", lambda seen: seen.opened("orders", "inventory"), "s"),
        Row("again", "trouble over, until all is whole again", lambda seen: seen.whole_again(*READS), "s"),
    ),
    claims=(
        Claim(
            "With the breaker three in four readers are served within half a second, if not with everything.",
            lambda _, with_: with_["most"] < 0.5 and with_["whole"] + with_["part"] > 0.95,
        ),
        Claim(
            "Without it the typical reader waits more than ten times as long.",
            lambda without, with_: without["typical"] > 10 * with_["typical"],
        ),
        Claim(
            "The price: meanwhile answers are in part, and most buyers are told to come back later.",
            lambda without, with_: with_["whole"] < without["whole"] and with_["placed"] < 0.5 < without["placed"],
        ),
    ),
)
