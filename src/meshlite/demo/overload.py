"""Twice as many come as can be served. Who lets everybody in serves nobody in time."""

from meshlite.demo.clerks import CAPACITY
from meshlite.demo.scenario import DONE, Claim, Phases, Row, Scenario, Seen, Trouble, Users, got, quantile, share


def served(seen: Seen) -> float:
    """Answers a second in the second half of the rush; in the first the queue forms."""
    start, end = seen.phases.strikes + seen.phases.trouble / 2, seen.phases.ends
    return sum(a.outcome in DONE for a in seen.between(start, end)) / (end - start)


def wait(seen: Seen) -> float | None:
    """The typical wait of those who were served."""
    return quantile([a for a in seen.in_trouble() if a.outcome in DONE], 0.5)


SCENARIO = Scenario(
    name="overload",
    title="Twice as many come as can be served.",
    intro=(
        f"Inventory can do {CAPACITY:.0f} requests a second. For a while {2 * CAPACITY:.0f} come, from people who "
        "leave after a second: their requests stay in the queue, and are worked on for nobody."
    ),
    both=("services.inventory.app='meshlite.demo.clerks:create_app'",),
    without=("policy.admission=false",),
    policy=("policy.admission={max_concurrent=4,max_waiting=16}",),
    says_without="everybody is let in",
    says_with="admission control: 4 at work, 16 waiting, nobody else",
    explains=(
        "Admission control is a queue with an end. Who would wait too long anyway learns it at once, and costs nothing."
    ),
    users=Users(rate=CAPACITY / 2, patience=1.0, mix={"stock": 1}),
    trouble=Trouble(
        marks=("the rush", "over"),
        begins="the rush: four times as many people",
        ends="the rush is over",
        rush=1.5 * CAPACITY,
    ),
    phases=Phases(2, 5, 4),
    slow=0.5,
    quick=Phases(0.5, 2, 1),
    rows=(
        Row("served", "served a second, in the rush's second half", served, ""),
        Row("typical", "typical wait of whom it served in all the rush", wait, "s"),
        Row("refused", "told at once: come back later", got(["refused"]), "%"),
        Row("lost", "left after a second, for nothing", got(["timed_out"]), "%"),
        Row("after", "long after the rush: served", lambda seen: share(seen.at_last(), *DONE), "%"),
    ),
    claims=(
        Claim(
            "With admission control inventory goes on to serve most of those whom it can, and soon.",
            lambda _, with_: with_["served"] > 0.6 * CAPACITY and with_["typical"] < 0.6,
        ),
        Claim(
            "Without it, it works as hard and serves less than half of them in time.",
            lambda without, with_: without["served"] < with_["served"] / 2,
        ),
    ),
)
